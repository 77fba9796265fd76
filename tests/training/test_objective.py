from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo_lib.exceptions import DataError, StudyChangedError
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import delete_study
from hpo_lib.study.run import run_study
from hpo_lib.training.config import DataConfig
from hpo_lib.training.objective import TrainingObjective, load_cached
from hpo_lib.trials import StudyRecord
from tests.toys import record_of
from tests.training.images import SMALL, SMALL_DATA, a_folder, curves


def test_segments_of_an_objective_give_the_whole(tmp_path: Path) -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA)
    assert isinstance(objective, Objective)
    assert objective.budget == 3
    objective = pickle.loads(pickle.dumps(objective))
    configuration = {"lr": 0.1, "optimizer": "adamw"}
    folder = str(tmp_path / "trial")
    whole = objective(configuration, Segment(seed=5, start=0, stop=3, budget=3))
    first = objective(configuration, Segment(seed=5, start=0, stop=1, budget=3, folder=folder))
    assert first.checkpoint == str(tmp_path / "trial" / "epoch_1.pt")
    rest = objective(configuration, Segment(5, 1, 3, 3, first.checkpoint, folder))
    assert curves(whole) == curves(first, rest)
    assert (whole.checkpoint, rest.checkpoint) == (None, None)
    assert curves(whole) != curves(objective(configuration, Segment(6, 0, 3, 3)))


def test_a_log_is_kept_if_asked_for(tmp_path: Path) -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA, tensorboard=True)
    objective({}, Segment(0, 0, 3, 3, folder=str(tmp_path)))
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_settings_are_json_and_follow_what_matters() -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA)
    assert json.loads(json.dumps(objective.settings)) == objective.settings
    same = TrainingObjective(replace(SMALL, seed=4), replace(SMALL_DATA, root="elsewhere"), True)
    assert same.settings == objective.settings
    assert TrainingObjective(replace(SMALL, epochs=4), SMALL_DATA).settings != objective.settings


def grey_folder(path: Path) -> Path:
    for label, name in enumerate("ab"):
        (path / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), 100 * label + i).save(path / name / f"{i:02}.bmp")
    return path


def folder_study(path: Path, n_trials: int, **options: Any) -> Any:
    space = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.1, default: 0.05}")
    config = replace(SMALL, epochs=1, batch_size=8)
    objective = TrainingObjective(config, DataConfig(f"folder:{path}"))
    options = {"name": "images", "storage": "s.db", "workers": 0, **options}
    return run_study(objective, space, "random", n_trials, **options)


def test_a_study_of_a_folder_goes_on_with_the_same_images_only(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "images")
    folder_study(folder, 1)
    moved = folder.rename(tmp_path / "moved")
    assert len(folder_study(moved, 2).trials) == 2
    shutil.copytree(moved, tmp_path / "touched")  # other times, same images
    assert len(folder_study(tmp_path / "touched", 3).trials) == 3
    # same names, same sizes, another pixel
    Image.new("L", (8, 8), 255).save(moved / "a" / "03.bmp")
    with pytest.raises(StudyChangedError, match="sha256"):
        folder_study(moved, 4)
    with pytest.raises(StudyChangedError, match="the objective must be that of study 'images'"):
        folder_study(moved, 4, name="other", warm_start_from="images")


def test_images_moved_to_another_class_are_another_objective(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "images")
    folder_study(folder, 1)
    for i in range(6):
        (folder / "a" / f"{i:02}.bmp").rename(folder / "b" / f"new{i}.bmp")
    with pytest.raises(StudyChangedError, match="sha256"):
        folder_study(folder, 2)


def test_changed_images_are_loaded_again_in_the_same_process(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "images")
    objective = TrainingObjective(replace(SMALL, epochs=1), DataConfig(f"folder:{folder}"))
    before = objective.settings
    loaded = load_cached(objective.data, torch.device("cpu"))
    for path in folder.glob("*/*.bmp"):
        Image.new("L", (8, 8), 255).save(path)
    assert objective.settings != before
    assert load_cached(objective.data, torch.device("cpu")).sha256 != loaded.sha256


@pytest.mark.parametrize("typed", ["images", "absolute"])
def test_a_study_that_was_recorded_with_a_path_goes_on_there(tmp_path: Path, typed: str) -> None:
    folder = grey_folder(tmp_path / "images")
    study = folder_study(folder, 1)
    settings = StudyRecord.of(study).settings
    data = settings["objective"]["data"]
    assert data["source"] == "folder"
    del data["sha256"]
    data["source"] = f"folder:{folder if typed == 'absolute' else typed}"
    StudyRecord.of(study).write(study, settings=settings)
    assert len(folder_study(folder, 2).trials) == 2
    other = folder_study(folder, 1, name="other", warm_start_from="images")
    assert len(other.trials) == 3
    with pytest.raises(StudyChangedError, match="source"):
        folder_study(grey_folder(tmp_path / "elsewhere"), 3)


def test_a_searched_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed must not be searched: .* got 7"):
        TrainingObjective(SMALL, SMALL_DATA)({"seed": 7}, Segment(5, 0, 3, 3))


def test_an_objective_refuses_what_it_cannot_do() -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA)
    with pytest.raises(ValueError, match="no training number: colour"):
        objective({"colour": "red"}, Segment(0, 0, 3, 3))
    with pytest.raises(ValueError, match=r"budget must be the training's epochs \(3\), got 5"):
        objective({}, Segment(0, 0, 3, 5))
    with pytest.raises(ValueError, match="needs a folder for its checkpoint or log, got None"):
        objective({}, Segment(0, 0, 2, 3))


@pytest.mark.slow
def test_a_trials_logs_stay_where_the_driver_put_them_and_its_checkpoints_go() -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA, tensorboard=True)
    space = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.1, default: 0.05}")
    options = {"name": "logged", "storage": "s.db", "workers": 1, "rungs": (1,)}
    study = run_study(objective, space, "random", 2, **options)
    (place,) = Path("s.db.checkpoints").iterdir()
    assert place.name == f"logged-{StudyRecord.of(study).identity[:12]}"
    for trial in study.trials:
        folder = place / f"{trial.number:05d}"
        assert [child.name for child in folder.iterdir()] == ["tensorboard"]
        log = EventAccumulator(str(folder / "tensorboard")).Reload()
        points = log.Scalars("validation_accuracy")
        assert [point.step for point in points] == [1, 2, 3]
        errors = [1 - point.value for point in points]
        assert errors == pytest.approx(record_of(trial).validation_error, abs=1e-6)
    delete_study("logged", "s.db")
    assert not place.exists()


def test_a_saved_objective_is_the_same_in_the_record_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_folder(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    data = DataConfig("folder:images", root="cifar", n_train=20)
    objective = TrainingObjective(replace(SMALL, lr=0.2, shortcut=None), data)
    objective.save("objective.json")
    monkeypatch.chdir("/")
    loaded = TrainingObjective.load(tmp_path / "objective.json")
    assert loaded.config == objective.config
    assert loaded.data.source == f"folder:{tmp_path / 'images'}"
    assert loaded.data.root == str(tmp_path / "cifar")
    monkeypatch.chdir(tmp_path)
    assert loaded.settings == objective.settings


@pytest.mark.parametrize(
    ("name", "load", "notebook"),
    [("data.json", DataConfig.load, "01"), ("objective.json", TrainingObjective.load, "03")],
)
def test_a_missing_file_names_the_notebook_that_writes_it(
    tmp_path: Path, name: str, load: Any, notebook: str
) -> None:
    with pytest.raises(DataError, match=f"{name} is missing: run notebook {notebook} into this"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged, it must be JSON"),
        ("[]", "must hold a JSON object"),
        ('{"colour": 1}', "wrong settings: .* argument 'colour'"),
    ],
)
@pytest.mark.parametrize("load", [DataConfig.load, TrainingObjective.load])
def test_damaged_settings_are_refused(tmp_path: Path, text: str, message: str, load: Any) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        load(file)


def test_wrong_values_in_saved_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"source": "digits", "n_train": -1}')
    with pytest.raises(DataError, match=r"data.json has wrong settings: n_train"):
        DataConfig.load(file)


def test_impossible_parts_are_refused_before_a_study_is_made(tmp_path: Path) -> None:
    data = DataConfig("digits", n_validation=2_000)
    objective = TrainingObjective(SMALL, data)
    space = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.1}")
    with pytest.raises(DataError, match="n_validation must be at most"):
        run_study(objective, space, "random", 3, name="x", storage=tmp_path / "s.db", workers=0)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_network_are_counted_without_training_it() -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA)
    data = objective.load_images(SMALL)
    for configuration in ({}, {"n_filters": SMALL.n_filters * 2}, {"stem": "whitening"}):
        config = objective.configured(configuration)
        network = objective.components(config, configuration).network(data)
        expected = sum(weights.numel() for weights in network.parameters())
        assert objective.n_weights(configuration) == expected
