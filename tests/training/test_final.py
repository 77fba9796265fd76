"""Final trainings: kept, resumed, compared alike, tested once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpo_lib import SearchSpace, findings, run_study
from hpo_lib.exceptions import DataError
from hpo_lib.objective import Segment
from hpo_lib.training import final
from hpo_lib.training.loaders import ImageData, load_data, load_test_data
from hpo_lib.training.objective import TrainingObjective
from hpo_lib.training.trainer import evaluate, train
from tests.training.images import SMALL, SMALL_DATA

CONFIG = replace(SMALL, epochs=2)
COLUMNS = [
    *("configuration", "seed", "epochs", "validation_error"),
    *("test_error", "seconds", "n_test"),
]


OBJECTIVE = TrainingObjective(CONFIG, SMALL_DATA)


def fit(folder: Path, label: str = "default", seeds: Any = (3, 4), **changes: Any) -> pd.DataFrame:
    return final.train_final(OBJECTIVE, changes, label, seeds, folder, progress=False)


@pytest.mark.slow
def test_each_seed_is_a_training_of_its_own_and_is_kept(tmp_path: Path) -> None:
    frame = fit(tmp_path)
    assert frame["seed"].tolist() == [3, 4]
    alone = train(replace(CONFIG, seed=4), load_data(SMALL_DATA))
    assert frame["curves"][1].validation_error == alone.validation_error
    assert frame["validation_error"][1] == alone.validation_error[-1]
    kept = final.final_trainings(tmp_path)
    pd.testing.assert_frame_equal(kept, frame)


@pytest.mark.slow
def test_trainings_side_by_side_are_those_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = (3, 4, 5)
    frame = final.train_final(OBJECTIVE, {}, "default", seeds, tmp_path, workers=2)
    assert f"[{3 * CONFIG.epochs}/{3 * CONFIG.epochs}]" in capsys.readouterr().err
    alone = fit(tmp_path / "alone", seeds=seeds)
    pd.testing.assert_series_equal(frame["validation_error"], alone["validation_error"], rtol=0.05)
    assert frame["seed"].tolist() == [3, 4, 5]
    assert final.test_final(tmp_path, OBJECTIVE)["test_error"].notna().all()


@pytest.mark.slow
def test_a_finished_seed_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(tmp_path, seeds=[3])
    trained: list[int] = []

    def count(config: Any, *arguments: Any, **options: Any) -> Any:
        trained.append(config.seed)
        return train(config, *arguments, **options)

    monkeypatch.setattr(final, "train", count)
    again = fit(tmp_path, seeds=[4, 3])
    assert trained == [4]
    assert again["seconds"][1] == first["seconds"][0]
    (tmp_path / "default" / "seed_4.pt").unlink()
    fit(tmp_path, seeds=[4, 3])
    assert trained == [4, 4], "its network was deleted"


@pytest.mark.slow
def test_a_better_configuration_replaces_the_one_before_it(tmp_path: Path) -> None:
    fit(tmp_path, seeds=[3, 4])
    arguments = (OBJECTIVE, {"lr": 0.2}, "default", [3], tmp_path)
    replaced = final.train_final(*arguments, overwrite=True, progress=False)
    kept = final.final_trainings(tmp_path)
    assert kept["seed"].tolist() == [3]
    assert kept["curves"].tolist() == replaced["curves"].tolist()

    # Called again, nothing is trained.
    again = final.train_final(*arguments, overwrite=True, progress=False)
    assert again["seconds"].tolist() == replaced["seconds"].tolist()


def test_another_configuration_under_the_same_label_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, seeds=[3])
    with pytest.raises(ValueError, match=r"lr is .* there and 0.2 here; delete it"):
        fit(tmp_path, seeds=[3, 4], lr=0.2)
    other = replace(OBJECTIVE, data=replace(SMALL_DATA, seed=9))
    with pytest.raises(ValueError, match="images is"):
        final.train_final(other, {}, "default", [3], tmp_path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "all different"),
        ({"label": "../up"}, "label must be letters"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_networks_are_tested_on_the_test_images(tmp_path: Path) -> None:
    fit(tmp_path)
    fit(tmp_path, "tuned", lr=0.2)
    frame = final.test_final(tmp_path, OBJECTIVE)
    assert list(frame) == COLUMNS
    assert frame["configuration"].tolist() == ["default"] * 2 + ["tuned"] * 2

    test = load_test_data(SMALL_DATA)
    file = tmp_path / "tuned" / "seed_4.pt"
    config = replace(CONFIG, lr=0.2, seed=4)
    alone = evaluate(config, file, test)
    assert frame["test_error"][3] == alone.error
    assert set(frame["n_test"]) == {len(test)}

    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "final.csv"), frame)
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions["tuned seed 4"].tolist() == alone.predicted.tolist()
    assert predictions["label"].tolist() == test.labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [3, 5]}, r"seed must be the same .* default has \[3, 4\], tuned has \[3, 5\]"),
        ({"epochs": 1}, "epochs must be the same"),
    ],
)
def test_what_does_not_compare_is_not_tested(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fit(tmp_path)
    fit(tmp_path, "tuned", **changes)
    with pytest.raises(ValueError, match=message):
        final.test_final(tmp_path, OBJECTIVE)
    assert not (tmp_path / "final.csv").exists()


@pytest.mark.slow
def test_other_images_than_those_of_the_trainings_are_not_tested(tmp_path: Path) -> None:
    fit(tmp_path, seeds=[3])
    with pytest.raises(DataError, match="must have the images of the trainings"):
        final.test_final(tmp_path, replace(OBJECTIVE, data=replace(SMALL_DATA, seed=9)))


@pytest.mark.slow
def test_a_training_that_diverges_has_no_errors(tmp_path: Path) -> None:
    fit(tmp_path, seeds=[3])
    frame = fit(tmp_path, "tuned", seeds=[3], lr=1e30)
    assert frame["validation_error"].isna().all()
    json.loads((tmp_path / "tuned" / "trainings.jsonl").read_text(), parse_constant=pytest.fail)
    tested = final.test_final(tmp_path, OBJECTIVE)
    assert tested["test_error"].isna().tolist() == [False, True]


def test_a_folder_without_trainings_says_what_writes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no final training"):
        final.test_final(tmp_path, OBJECTIVE)


# Networks of the user's own


def build(configuration: Any, in_channels: int, n_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, configuration["width"], 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(n_classes),
    )


class Viewing(nn.Module):
    """Flattens with `view`, which channels-last memory does not allow."""

    def __init__(self, configuration: Any, in_channels: int, n_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, configuration["width"], 3)
        self.classifier = nn.LazyLinear(n_classes)

    def forward(self, images: Any) -> Any:
        features = self.convolution(images).relu()
        return self.classifier(features.view(len(features), -1))


def squared(configuration: Any) -> Any:
    def loss(logits: Any, labels: Any) -> Any:
        return ((logits - F.one_hot(labels, logits.shape[1])) ** 2).mean()

    return loss


def mine(network: Any = build, **options: Any) -> TrainingObjective:
    return replace(OBJECTIVE, network=network, **options)


@pytest.mark.slow
@pytest.mark.parametrize("network", [build, Viewing])
def test_a_network_of_ones_own_is_tuned_against_default(tmp_path: Path, network: Any) -> None:
    objective = mine(network, loss=squared)
    space = SearchSpace.from_yaml(
        "lr: {type: float, low: 0.001, high: 0.5, log: true, default: 0.002}\n"
        "width: {type: int, low: 1, high: 4, default: 2}"
    )
    study = run_study(objective, space, "random", 4, name="own", storage="own.db", workers=0)
    trainings = {"default": space.default_configuration(), "tuned": study.best_params}
    for label, configuration in trainings.items():
        trained = final.train_final(
            objective, {**configuration, "epochs": 3}, label, [3, 4], tmp_path / "final"
        )
        assert set(trained["epochs"]) == {3}

    # The tuned configuration is trained as in the search, but longer.
    alone = replace(objective, config=replace(CONFIG, epochs=3))(
        study.best_params, Segment(seed=4, start=0, stop=3, budget=3)
    )
    assert trained["curves"][1].validation_error == alone.validation_error

    tested = final.test_final(tmp_path / "final", objective)
    assert tested["configuration"].tolist() == ["default", "default", "tuned", "tuned"]
    assert tested["test_error"].between(0, 0.95).all()
    (worth,) = [one for one in findings(study, final=tested) if one.topic == "Was it worth it?"]
    assert "2 seeds" in worth.sentence

    # On the validation images the network of a file has the error that it had in training.
    file = tmp_path / "final" / "tuned" / "seed_4.pt"
    predicted = evaluate(
        CONFIG,
        file,
        load_data(SMALL_DATA).validation,
        network=network(study.best_params, 1, 10),
    )
    assert predicted.error == pytest.approx(trained["validation_error"][1])


@pytest.mark.slow
def test_another_network_or_value_under_the_same_label_is_refused(tmp_path: Path) -> None:
    def train_one(objective: TrainingObjective, **configuration: Any) -> pd.DataFrame:
        return final.train_final(objective, configuration, "default", [3], tmp_path)

    train_one(mine(), width=2, depth=1)
    for objective, configuration, message in (
        (mine(), {"width": 3, "depth": 1}, "width is 2 there and 3 here"),
        (mine(), {"width": 2}, "depth is 1 there and None here"),
        (mine(Viewing), {"width": 2, "depth": 1}, "function network is"),
        (mine(loss=squared), {"width": 2, "depth": 1}, "function loss is None there"),
        (OBJECTIVE, {}, "function network is"),
    ):
        with pytest.raises(ValueError, match=message):
            train_one(objective, **configuration)
    for objective in (mine(Viewing), OBJECTIVE):
        with pytest.raises(ValueError, match="must have the functions of the trainings"):
            final.test_final(tmp_path, objective)


@pytest.mark.slow
def test_images_of_ones_own_are_tested_on_those_that_are_given(tmp_path: Path) -> None:
    images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    data = ImageData.from_dataset((images[:40], labels[:40]), validation_fraction=0.3)
    objective = mine(data=data)
    final.train_final(objective, {"width": 2}, "default", [3], tmp_path, progress=False)
    with pytest.raises(DataError, match="test must be given for images of your own"):
        final.test_final(tmp_path, objective)
    with pytest.raises(DataError, match="for those alone, got tuple for DataConfig"):
        final._test_part(OBJECTIVE, (images[40:], labels[40:]))
    tested = final.test_final(tmp_path, objective, (images[40:], labels[40:]))
    assert tested["n_test"].tolist() == [20]
