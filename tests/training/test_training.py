from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from hpo_lib.exceptions import CheckpointError, StudyChangedError
from hpo_lib.objective import Objective, Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import delete_study, run_study
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.hardware import choose_device
from hpo_lib.training.loaders import ImageData, Part, load_data
from hpo_lib.training.objective import TrainingObjective, load_cached
from hpo_lib.training.optimization import focal_loss, learning_rate, make_loss, make_optimizer
from hpo_lib.training.trainer import evaluate, make_network, train
from tests.toys import record_of

SMALL_DATA = DataConfig(n_train=150, n_validation=50)
SMALL = TrainingConfig(n_filters=2, epochs=3, batch_size=32, flip=False, device="cpu")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(SMALL_DATA)


def curves(*results: SegmentResult) -> tuple[tuple[float, ...], ...]:
    names = ("train_loss", "validation_loss", "validation_error")
    return tuple(sum((getattr(result, name) for result in results), ()) for name in names)


# ---------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"lr": 0.0}, "lr: .*greater than 0, got 0.0"),
        ({"lr": math.nan}, "lr: .*got nan"),
        ({"lr": True}, "lr: .*number, got True"),
        ({"lr": "0.1"}, "lr: .*number, got '0.1'"),
        ({"n_filters": 16.0}, r"n_filters: .*integer, got 16.0"),
        ({"optimizer": "adam"}, "optimizer: .*'sgd' or 'adamw', got 'adam'"),
        ({"activation": "swish"}, "activation: .*'relu', .*'silu', got 'swish'"),
        ({"dropout": 1.0}, "dropout: .*less than 1, got 1.0"),
        ({"n_filters": 0}, "n_filters: .*got 0"),
        ({"momentum": 1.0}, "momentum: .*less than 1, got 1.0"),
        ({"epochs": 0}, "epochs: .*got 0"),
        ({"lr": -1.0, "epochs": 0}, "lr: .*; epochs: "),
        ({"depth": 9}, r"depth must be .* 6n\+2 .*got 9"),
        ({"filter_size": 4}, "filter_size must be odd .*got 4"),
        ({"learning_rate": 0.1}, "no training number: learning_rate .*known: depth, n_filters"),
    ],
)
def test_wrong_numbers_are_refused(configuration: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig().with_configuration(configuration)


def test_a_configuration_replaces_what_it_names() -> None:
    config = SMALL.with_configuration({"lr": 0.2, "shortcut": "projection"})
    assert config == replace(SMALL, lr=0.2, shortcut="projection")


@given(
    schedule=st.sampled_from(["cosine", "one_cycle", "constant"]),
    epochs=st.integers(1, 12),
    warmup=st.integers(0, 15),
    steps=st.integers(1, 20),
)
def test_the_rate_rises_to_its_peak_and_never_rises_again(
    schedule: Any, epochs: int, warmup: int, steps: int
) -> None:
    config = TrainingConfig(lr=0.5, schedule=schedule, epochs=epochs, warmup_epochs=warmup)
    rates = [learning_rate(config, step, steps) for step in range(epochs * steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.5)
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    warm = min(warmup, epochs) * steps
    assert rates[:warm] == pytest.approx(
        [0.5 * (i + 1) / max(warm, peak + 1) for i in range(warm)]
    )


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("one_cycle", [1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ("cosine", [0.5, 1, *(0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8))]),
    ],
)
def test_schedules_over_ten_steps(schedule: Any, rates: list[float]) -> None:
    config = TrainingConfig(lr=1.0, schedule=schedule, epochs=5, warmup_epochs=1)
    assert [learning_rate(config, step, 2) for step in range(10)] == pytest.approx(rates)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_norms_biases_and_prelu(optimizer: Any) -> None:
    config = replace(SMALL, optimizer=optimizer, activation="prelu", weight_decay=0.3)
    model = make_network(config, 1, 10)
    groups = make_optimizer(config, model, torch.device("cpu")).param_groups
    decayed = {id(value) for g in groups for value in g["params"] if g["weight_decay"] == 0.3}
    names = {name for name, value in model.named_parameters() if id(value) in decayed}
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    assert names == {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, kinds)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_losses() -> None:
    logits, labels = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), torch.tensor([0, 1])
    plain = F.cross_entropy(logits, labels, reduction="none")
    probability = torch.exp(-plain)
    assert make_loss(SMALL)(logits, labels) == pytest.approx(float(plain.mean()))
    smooth = make_loss(replace(SMALL, loss="label_smoothing", label_smoothing=0.3))
    everywhere = 0.7 * plain + 0.3 * -logits.log_softmax(1).mean(1)
    assert float(smooth(logits, labels)) == pytest.approx(float(everywhere.mean()))
    focal = make_loss(replace(SMALL, loss="focal", focal_gamma=2.0))
    assert float(focal(logits, labels)) == pytest.approx(
        float(((1 - probability) ** 2 * plain).mean())
    )
    assert float(focal_loss(logits, labels, 0.0)) == pytest.approx(float(plain.mean()))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_of_a_certain_prediction_has_a_slope(gamma: float) -> None:
    logits = torch.tensor([[120.0, 0.0], [0.0, 120.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma)
    assert loss.item() == pytest.approx(60)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() < 1e-3 or gamma == 0


def test_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda", "mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'cuda' is not available here"):
        choose_device("cuda")


# ---------------------------------------------------------------------------------- train


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "dropout": 0.3, "loss": "focal", "schedule": "cosine"},
        {"flip": True, "momentum": 0.0, "loss": "label_smoothing", "schedule": "constant"},
    ],
)
def test_continuing_gives_the_numbers_of_never_stopping(
    data: ImageData, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = SMALL.with_configuration(changes)
    whole = train(config, data, save_to=tmp_path / "whole.pt")
    first = train(config, data, stop=1, save_to=tmp_path / "parts.pt")
    rest = train(config, data, start=1, checkpoint=first.checkpoint, save_to=tmp_path / "parts.pt")
    assert curves(whole) == curves(first, rest)
    assert len(whole.seconds) == 3
    assert whole.status == "completed"
    states = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "parts")]
    for name in states[0]["model"]:
        assert torch.equal(states[0]["model"][name], states[1]["model"][name])
    assert states[0]["best"]["epoch"] == states[1]["best"]["epoch"]
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".pt"]


def test_the_seed_decides_everything(data: ImageData) -> None:
    config = replace(SMALL, epochs=1, dropout=0.2)
    first = train(config, data)
    torch.rand(3)
    assert curves(train(config, data)) == curves(first)
    assert curves(train(replace(config, seed=1), data)) != curves(first)


def test_the_callers_random_numbers_are_untouched(data: ImageData) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(replace(SMALL, epochs=1, dropout=0.2), data)
    assert torch.equal(torch.rand(2), expected)


def test_a_part_smaller_than_a_batch_is_one_batch(data: ImageData) -> None:
    result = train(replace(SMALL, epochs=1, batch_size=1000), data)
    assert len(result.train_loss) == 1


def test_bfloat16_can_be_asked_for(data: ImageData) -> None:
    exact = train(replace(SMALL, epochs=1, precision="float32"), data)
    rounded = train(replace(SMALL, epochs=1, precision="bfloat16"), data)
    assert rounded.train_loss != exact.train_loss
    assert rounded.train_loss == pytest.approx(exact.train_loss, rel=0.05)


@pytest.mark.slow
def test_digits_are_learnt() -> None:
    config = TrainingConfig(n_filters=8, epochs=6, flip=False)
    assert train(config, load_data(DataConfig())).validation_error[-1] < 0.1


def test_divergence_ends_the_training(data: ImageData, tmp_path: Path) -> None:
    config = replace(SMALL, lr=1e30, schedule="constant", warmup_epochs=0)
    result = train(config, data, save_to=tmp_path / "state.pt", log_folder=tmp_path / "log")
    assert result.status == "diverged"
    assert result.checkpoint is None
    assert len(result.train_loss) < 3
    assert all(map(math.isfinite, result.train_loss + result.validation_loss))


def test_divergence_does_not_wait_for_the_end_of_a_long_epoch(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
        steps.append(step)
        return 1e30 if step > 30 else 0.01

    monkeypatch.setattr("hpo_lib.training.trainer.learning_rate", rate)
    assert train(replace(SMALL, batch_size=2), data).status == "diverged"
    assert len(steps) == 64 < len(data.train) // 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1}, r"start must be the epoch of the checkpoint \(0\), got 1"),
        ({"stop": 4}, "0 <= start < stop <= budget, got start=0, stop=4, budget=3"),
        ({"stop": 0}, "got start=0, stop=0, budget=3"),
    ],
)
def test_impossible_epochs_are_refused(
    data: ImageData, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(SMALL, data, **arguments)


# ---------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "new folder" / "epoch_2.pt"
    train(SMALL, data, stop=2, save_to=path)
    return path


def test_training_goes_on_where_the_checkpoint_ends(data: ImageData, trained: Path) -> None:
    assert len(train(SMALL, data, checkpoint=trained).train_loss) == 1
    with pytest.raises(CheckpointError, match=r"epoch of the checkpoint \(2\), got 1"):
        train(SMALL, data, start=1, checkpoint=trained)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no archive", None])
def test_a_damaged_checkpoint_is_refused(
    data: ImageData, trained: Path, tmp_path: Path, content: bytes | None
) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(trained.read_bytes()[:2000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"damaged\.pt is damaged or no checkpoint"):
        train(SMALL, data, checkpoint=damaged)


def test_other_files_are_refused(data: ImageData, trained: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
        train(SMALL, data, checkpoint=tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"another configuration: lr is 0\.05 there and 0\.07"
    ):
        train(replace(SMALL, lr=0.07), data, checkpoint=trained)
    with pytest.raises(FileNotFoundError, match="absent"):
        train(SMALL, data, checkpoint=tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [("config", None), ("model", None), ("optimizer", {}), ("optimizer", 1), ("epoch", 10**9)],
)
def test_a_checkpoint_with_wrong_parts_is_refused(
    data: ImageData, trained: Path, tmp_path: Path, key: str, value: Any
) -> None:
    content = torch.load(trained, weights_only=True)
    torch.save({**content, key: value}, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match=r"wrong\.pt|epoch of the checkpoint"):
        train(SMALL, data, checkpoint=tmp_path / "wrong.pt", start=2)


@pytest.mark.parametrize("error", [KeyError("a"), AssertionError(), IndexError(), TypeError()])
def test_whatever_breaks_while_a_checkpoint_is_read_is_its_fault(
    data: ImageData, trained: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(CheckpointError, match=r"epoch_2\.pt is damaged or no checkpoint"):
        train(SMALL, data, checkpoint=trained)
    with pytest.raises(CheckpointError, match=r"epoch_2\.pt is damaged or no checkpoint"):
        evaluate(SMALL, trained, data.validation)


def test_best_weights_that_are_not_there_are_the_checkpoints_fault(
    data: ImageData, trained: Path, tmp_path: Path
) -> None:
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "best": {}}, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match=r"wrong\.pt is damaged or no checkpoint"):
        evaluate(SMALL, tmp_path / "wrong.pt", data.validation)


def test_a_checkpoint_of_other_classes_is_refused(data: ImageData, trained: Path) -> None:
    fewer = replace(data, classes=data.classes[:3])
    with pytest.raises(CheckpointError, match="does not fit the images or classes"):
        train(SMALL, fewer, checkpoint=trained)


def test_evaluation_agrees_with_the_curves(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    result = train(SMALL, data, save_to=path)
    last = evaluate(SMALL, path, data.validation, weights="last")
    assert last.error == result.validation_error[-1]
    assert last.loss == pytest.approx(result.validation_loss[-1])
    assert last.error == np.mean(last.labels != last.predicted)
    np.testing.assert_array_equal(last.labels, data.validation.labels.numpy())
    # the seed and the budget do not matter to the weights' use, the network does
    best = evaluate(replace(SMALL, seed=9, epochs=50), path, data.validation)
    assert best.error == min(result.validation_error)
    with pytest.raises(CheckpointError, match="n_filters is 2 there and 4 here"):
        evaluate(replace(SMALL, n_filters=4), path, data.validation)
    with pytest.raises(ValueError, match="weights must be one of best, last, got 'first'"):
        evaluate(SMALL, path, data.validation, weights="first")


def test_evaluation_refuses_images_of_other_channels(data: ImageData, trained: Path) -> None:
    colour = Part(data.validation.images.expand(-1, 3, -1, -1), data.validation.labels)
    with pytest.raises(CheckpointError, match="does not fit the images or classes"):
        evaluate(SMALL, trained, colour)


# ---------------------------------------------------------------------------------- what is shown


def test_tensorboard_has_four_scalars_and_one_point_per_epoch(
    data: ImageData, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    state = tmp_path / "state.pt"
    train(SMALL, data, stop=1, save_to=state, log_folder=log)
    train(SMALL, data, checkpoint=state, log_folder=log)  # interrupted after logging
    result = train(SMALL, data, checkpoint=state, log_folder=log)
    events = EventAccumulator(str(log))
    events.Reload()
    names = ["training_accuracy", "training_loss", "validation_accuracy", "validation_loss"]
    scalars = events.Tags()["scalars"]
    assert isinstance(scalars, list)
    assert sorted(scalars) == names
    for name in names:
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]
    last = events.Scalars("validation_accuracy")[-1].value
    assert last == pytest.approx(1 - result.validation_error[-1])


@pytest.mark.slow
def test_the_command_that_shows_the_logs_starts() -> None:
    command = [sys.executable, "-m", "tensorboard.main", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_a_log_gets_one_line_per_epoch(
    data: ImageData, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SMALL, data, stop=2, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "validation error" in lines[0]


def test_a_terminal_gets_a_bar(
    data: ImageData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(SMALL, data, stop=2, progress=True)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert not shown.out


# ---------------------------------------------------------------------------------- objective


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


def test_a_checkpoint_and_a_log_are_kept_if_asked_for(tmp_path: Path) -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA, keep_checkpoint=True, tensorboard=True)
    result = objective({}, Segment(0, 0, 3, 3, folder=str(tmp_path)))
    assert result.checkpoint is not None
    assert result.checkpoint == str(tmp_path / "epoch_3.pt")
    assert Path(result.checkpoint).exists()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_settings_are_json_and_follow_what_matters() -> None:
    objective = TrainingObjective(SMALL, SMALL_DATA)
    assert json.loads(json.dumps(objective.settings)) == objective.settings
    same = TrainingObjective(replace(SMALL, seed=4), replace(SMALL_DATA, root="elsewhere"), True)
    assert same.settings == objective.settings
    assert TrainingObjective(replace(SMALL, epochs=4), SMALL_DATA).settings != objective.settings


def a_folder(path: Path) -> Path:
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
    folder = a_folder(tmp_path / "images")
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
    folder = a_folder(tmp_path / "images")
    folder_study(folder, 1)
    for i in range(6):
        (folder / "a" / f"{i:02}.bmp").rename(folder / "b" / f"new{i}.bmp")
    with pytest.raises(StudyChangedError, match="sha256"):
        folder_study(folder, 2)


def test_changed_images_are_loaded_again_in_the_same_process(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "images")
    objective = TrainingObjective(replace(SMALL, epochs=1), DataConfig(f"folder:{folder}"))
    before = objective.settings
    loaded = load_cached(objective.data, torch.device("cpu"))
    for path in folder.glob("*/*.bmp"):
        Image.new("L", (8, 8), 255).save(path)
    assert objective.settings != before
    assert load_cached(objective.data, torch.device("cpu")).sha256 != loaded.sha256


def test_a_study_that_was_recorded_with_a_path_goes_on_there(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "images")
    study = folder_study(folder, 1)
    settings = study.user_attrs["settings"]
    data = settings["objective"]["data"]
    assert data["source"] == "folder"
    del data["sha256"]
    data["source"] = f"folder:{folder}"
    study.set_user_attr("settings", settings)
    assert len(folder_study(folder, 2).trials) == 2
    other = folder_study(folder, 1, name="other", warm_start_from="images")
    assert len(other.trials) == 3
    with pytest.raises(StudyChangedError, match="source"):
        folder_study(a_folder(tmp_path / "elsewhere"), 3)


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
    assert place.name == f"logged-{study.user_attrs['identity'][:12]}"
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
