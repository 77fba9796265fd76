"""Networks, losses, optimizers and images of a user's own in the training engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from hpo_lib import SearchSpace, estimate_cost, open_study, retrain_top_k, run_study
from hpo_lib.exceptions import CheckpointError, DataError, StudyChangedError
from hpo_lib.objective import Segment
from hpo_lib.training.config import ADDED, DataConfig
from hpo_lib.training.loaders import ImageData, load_data
from hpo_lib.training.objective import TrainingObjective
from tests.test_documentation import guide_examples
from tests.training.images import SMALL, SMALL_DATA, a_folder, curves

ROOT = Path(__file__).parents[2]

SPACE = SearchSpace.from_yaml("""
lr: {type: float, low: 0.001, high: 0.5, log: true, default: 0.1}
width: {type: int, low: 2, high: 6, default: 4}
depth: {type: int, low: 1, high: 3, default: 1}
""")

# "depth" 1 and "activation" gelu are not those of the ResNet.
CONFIGURATION = {"lr": 0.1, "width": 4, "depth": 1, "activation": "gelu"}


def build(configuration, in_channels, n_classes):
    width = configuration["width"]
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, n_classes),
    )


class Viewing(nn.Module):
    """Flattens with `view`, which channels-last memory does not allow, and has a lazy layer."""

    def __init__(self, configuration, in_channels, n_classes):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, configuration["width"], 3)
        self.classifier = nn.LazyLinear(n_classes)

    def forward(self, images):
        features = F.relu(self.convolution(images))
        return self.classifier(features.view(len(features), -1))


def own(network: Any = build, **options: Any) -> TrainingObjective:
    return TrainingObjective(SMALL, SMALL_DATA, network=network, **options)


def test_weights_of_an_own_network_are_counted_those_of_lazy_layers_too():
    network = build(CONFIGURATION, 1, 10)
    expected = sum(weights.numel() for weights in network.parameters())
    assert own().n_weights(CONFIGURATION) == expected
    images = own().load_images(SMALL).train.images
    side = images.shape[-1] - 2
    n_features = 4 * side * side
    assert own(Viewing).n_weights(CONFIGURATION) == 4 * 9 + 4 + 10 * (n_features + 1)


def whole(objective: TrainingObjective, configuration: Any = CONFIGURATION) -> Any:
    return objective(configuration, Segment(seed=5, start=0, stop=3, budget=3))


@pytest.mark.parametrize("network", [build, Viewing])
def test_an_own_network_goes_on_exactly_where_its_checkpoint_ends(tmp_path, network):
    objective = own(network)
    folder = str(tmp_path / "trial")
    first = objective(CONFIGURATION, Segment(5, 0, 1, 3, folder=folder))
    sent = cloudpickle.loads(cloudpickle.dumps(objective))
    rest = sent(CONFIGURATION, Segment(5, 1, 3, 3, first.checkpoint, folder))
    assert curves(whole(objective)) == curves(first, rest)
    assert curves(whole(objective)) != curves(objective(CONFIGURATION, Segment(6, 0, 3, 3)))

    # A hyperparameter of the user's own is part of the checkpoint's identity.
    other = {**CONFIGURATION, "activation": "relu"}
    with pytest.raises(CheckpointError, match="activation is 'gelu' there and 'relu' here"):
        objective(other, Segment(5, 1, 3, 3, first.checkpoint, folder))


def test_the_network_gets_the_whole_configuration_and_the_training_its_part():
    seen = []

    def spy(configuration, in_channels, n_classes):
        seen.append((configuration, in_channels, n_classes))
        return build(configuration, in_channels, n_classes)

    slow = whole(own(spy), {**CONFIGURATION, "lr": 1e-9})
    assert seen == [({**CONFIGURATION, "lr": 1e-9}, 1, 10)]
    assert curves(slow) != curves(whole(own(spy)))


def test_bfloat16_and_tensorboard_come_with_an_own_network(tmp_path):
    in_float32 = replace(SMALL, precision="float32")
    exact = TrainingObjective(in_float32, SMALL_DATA, True, build)
    rounded = TrainingObjective(replace(SMALL, precision="bfloat16"), SMALL_DATA, network=build)
    result = exact(CONFIGURATION, Segment(5, 0, 3, 3, folder=str(tmp_path)))
    assert whole(rounded).train_loss == pytest.approx(result.train_loss, rel=0.05)
    assert whole(rounded).train_loss != result.train_loss
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in log.Scalars("validation_accuracy")] == [1, 2, 3]


# What the objective is


def widened(factor, configuration, in_channels, n_classes):
    return build({"width": factor * configuration["width"]}, in_channels, n_classes)


def test_the_settings_follow_the_content_of_the_functions_and_no_unused_field():
    settings = own().settings
    assert TrainingObjective(replace(SMALL, depth=20, n_filters=5), SMALL_DATA, network=build)
    unused = replace(SMALL, depth=20, n_filters=5, activation="elu")
    assert TrainingObjective(unused, SMALL_DATA, network=build).settings == settings
    used = replace(SMALL, batch_size=16)
    assert TrainingObjective(used, SMALL_DATA, network=build).settings != settings
    assert own(partial(widened, 1)).settings != own(partial(widened, 2)).settings
    assert own(Viewing).settings != settings
    assert own(optimizer=sgd).settings["training"].keys() == (
        settings["training"].keys() - {"optimizer", "momentum", "weight_decay"}
    )


def test_without_functions_the_settings_are_those_recorded_so_far():
    recorded = asdict(SMALL)
    training = {name: value for name, value in recorded.items() if name not in ADDED}
    del training["seed"]
    data = asdict(SMALL_DATA)
    del data["root"]
    expected = {"training": training, "data": data}
    assert list(TrainingObjective(SMALL, SMALL_DATA).settings.items()) == list(expected.items())


def test_functions_and_images_cannot_be_saved_as_json(tmp_path):
    images = TrainingObjective(SMALL, load_data(SMALL_DATA))
    for objective in (own(), images, TrainingObjective(SMALL, SMALL_DATA, loss=smoothed)):
        with pytest.raises(TypeError, match="of your own cannot be saved as JSON"):
            objective.save(tmp_path / "objective.json")
    (tmp_path / "objective.json").write_text('{"network": "build"}')
    with pytest.raises(DataError, match="wrong settings: network must be a function"):
        TrainingObjective.load(tmp_path / "objective.json")


# Losses and optimizers


def smoothed(configuration):
    return partial(F.cross_entropy, label_smoothing=configuration["smoothing"])


def sgd(configuration, parameters):
    first, *others = parameters
    groups = [{"params": [first], "lr": configuration["first_lr"]}, {"params": others}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.5)


def test_a_loss_of_ones_own_is_that_of_the_engine_if_it_is_the_same():
    config = replace(SMALL, loss="label_smoothing", label_smoothing=0.2)
    expected = TrainingObjective(config, SMALL_DATA)({"lr": 0.1}, Segment(5, 0, 3, 3))
    objective = TrainingObjective(SMALL, SMALL_DATA, loss=smoothed)
    assert curves(whole(objective, {"lr": 0.1, "smoothing": 0.2})) == curves(expected)
    assert curves(whole(objective, {"lr": 0.1, "smoothing": 0.3})) != curves(expected)


def test_the_schedule_scales_the_learning_rates_of_an_own_optimizer(tmp_path):
    objective = own(optimizer=sgd)
    configuration = {"width": 4, "first_lr": 0.01}
    folder = str(tmp_path)
    first = objective(configuration, Segment(5, 0, 2, 3, folder=folder))
    groups = torch.load(str(first.checkpoint), weights_only=True)["optimizer"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(groups[1]["lr"] / 10)
    assert groups[0]["lr"] != pytest.approx(0.01)
    rest = objective(configuration, Segment(5, 2, 3, 3, first.checkpoint, folder))
    assert curves(whole(objective, configuration)) == curves(first, rest)


# Mistakes


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda c, i, n: "network", "network must return a torch.nn.Module, got 'network'"),
        (lambda c, i, n: nn.Conv2d(i, n, 3), r"\(2, 10\) for 2 images, got .*\[2, 10, 6, 6\]"),
        (lambda c, i, n: build(c, i, 7), r"\(2, 10\) for 2 images, got .*\[2, 7\]"),
        (lambda c, i, n: nn.LSTM(8, 8), "LSTM: Expected input"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        whole(own(network))


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="network must be a function of a configuration"):
        own("resnet")
    with pytest.raises(TypeError, match="data must be a DataConfig, or ImageData"):
        TrainingObjective(SMALL, torch.zeros(3), network=build)  # pyright: ignore
    with pytest.raises(ValueError, match="no training number: width"):
        TrainingObjective(SMALL, SMALL_DATA)({"width": 3}, Segment(0, 0, 3, 3))


# Studies


def study_of(path: Path, objective: TrainingObjective, **options: Any) -> Any:
    options = {"name": "own", "storage": path / "own.db", "pruning": "asha", **options}
    n_trials = options.pop("n_trials", 6)
    return run_study(objective, SPACE, "random", n_trials, **options)


def outcomes(study: Any) -> list[Any]:
    return [(t.state.name, t.params, t.intermediate_values) for t in study.trials]


@pytest.mark.slow
def test_a_study_with_workers_prunes_retrains_and_refuses_another_network(tmp_path):
    study = study_of(tmp_path, own(), workers=2, n_trials=8)
    assert {t.state.name for t in study.trials} == {"COMPLETE", "PRUNED"}
    storage = tmp_path / "own.db"
    frame = retrain_top_k(own(), "own", 1, 2, storage=storage, workers=0)
    assert frame["n"].tolist() == [2, 2]  # the best one, and the default
    assert estimate_cost(own(), SPACE, 8, n_samples=2).seconds > 0
    with pytest.raises(StudyChangedError, match=r"objective\.network"):
        study_of(tmp_path, own(partial(widened, 2)), workers=0, n_trials=9)


PROGRAM = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from tests.training.test_own_network import own, study_of

    def kill(study, trial):
        if len([t for t in study.trials if t.state.is_finished()]) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    study_of(Path(sys.argv[1]), own(), workers=1, callback=kill)
""")


@pytest.mark.slow
def test_a_killed_study_goes_on_as_the_undisturbed_one(tmp_path):
    (tmp_path / "calm").mkdir()
    calm = study_of(tmp_path / "calm", own(), workers=0)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert len(open_study("own", tmp_path / "own.db").trials) < 6
    assert outcomes(study_of(tmp_path, own(), workers=0)) == outcomes(calm)


# Images


def coloured(n: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    labels = np.arange(n) % 2
    noise = np.random.default_rng(0).integers(0, 100, (n, 8, 8, 3))
    return (noise + 100 * labels[:, None, None, None]).astype(np.uint8), labels


class Pictures:
    """A map-style dataset as torchvision's are."""

    classes = ("dark", "light")

    def __init__(self, as_image: Any) -> None:
        self.images, self.labels = coloured()
        self.as_image = as_image

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.as_image(self.images[index]), int(self.labels[index])


def as_tensor(image: Any) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1)


@pytest.mark.parametrize(
    "dataset",
    [
        Pictures(Image.fromarray),
        Pictures(np.asarray),
        Pictures(as_tensor),
        Pictures(lambda image: as_tensor(image) / 255),  # torchvision's ToTensor
        TensorDataset(*map(torch.tensor, coloured())),
        coloured(),
        [torch.tensor(coloured()[0]).permute(0, 3, 1, 2), coloured()[1].tolist()],
    ],
)
def test_the_same_images_in_any_form_are_the_same_data(dataset):
    data = ImageData.from_dataset(dataset, classes=("dark", "light"))
    assert data.train.images.shape == (36, 3, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert data.validation.labels.bincount().tolist() == [2, 2]
    assert data.sha256 == ImageData.from_dataset(Pictures(Image.fromarray)).sha256
    other = ImageData.from_dataset(dataset, classes=("dark", "light"), seed=1)
    assert other.sha256 != data.sha256


def test_an_objective_of_own_images_is_what_they_hold():
    images, labels = coloured()
    data = ImageData.from_dataset((images, labels))
    settings = TrainingObjective(SMALL, data).settings
    assert settings["data"] == {"sha256": data.sha256}
    images[0, 0, 0, 0] += 1
    assert ImageData.from_dataset((images, labels)).sha256 != data.sha256
    assert TrainingObjective(SMALL, data).settings == settings

    objective = TrainingObjective(replace(SMALL, batch_size=8), data, network=build)
    assert whole(objective).validation_error[-1] <= 0.5
    assert TrainingObjective(replace(SMALL, batch_size=8), data)({}, Segment(0, 0, 3, 3))


def test_validation_images_of_ones_own_and_grey_ones():
    images, labels = coloured()
    grey = images[..., 0]
    data = ImageData.from_dataset((grey[:30], labels[:30]), (grey[30:], labels[30:]))
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.train.images.shape[1] == 1
    with pytest.raises(DataError, match="the 1 validation images hold none of"):
        ImageData.from_dataset((grey, labels), (grey[:1], labels[:1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, n: (i * -1.0, n), r"uint8 or floats from 0 to 1 \(leave out Normalize\)"),
        (lambda i, n: (i.astype(int), n), "images must be uint8 or floats"),
        (lambda i, n: (i, n[1:]), "one for each image"),
        (lambda i, n: (i, n - 1), "class indices from 0"),
        (lambda i, n: (i, n / 2), "class indices from 0"),
        (lambda i, n: (i, n * 2), "holds? none"),
        (lambda i, n: (i[0, 0], n[:8]), r"got shape \(8, 3\)"),
        (lambda i, n: (i[:0], n[:0]), "class indices from 0, one for each image"),
        (lambda i, n: (i,), r"a pair \(images, labels\)"),
        (lambda i, n: 3, r"a pair \(images, labels\)"),
        (lambda i, n: TensorDataset(torch.tensor(i)), r"a pair \(images, labels\)"),
    ],
)
def test_images_that_are_not_as_they_must_be_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        ImageData.from_dataset(change(*coloured()))


def test_a_folder_serves_an_own_network(tmp_path):
    data = DataConfig(f"folder:{a_folder(tmp_path / 'images')}")
    objective = TrainingObjective(replace(SMALL, batch_size=8), data, network=build)
    assert len(whole(objective).validation_error) == 3
    assert objective.settings["data"]["source"] == "folder"


# The guide


def test_the_loop_of_the_guide_runs(tmp_path):
    (code,) = guide_examples("A training loop of your own")
    names: dict[str, Any] = {"__name__": "guide"}
    exec(code, names)
    storage = tmp_path / "loop.db"
    options = {"name": "loop", "storage": storage, "budget": 27, "pruning": "asha", "workers": 0}
    study = run_study(names["train"], names["space"], "random", 4, **options)
    assert study.best_value < 0.1


@pytest.mark.slow
def test_the_networks_of_the_guide_are_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_folder(tmp_path / "photos")
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    network, images, transfer = guide_examples("A network of your own")
    names: dict[str, Any] = {"__name__": "guide"}
    for code in (network, images):
        exec(code, names)
        objective = names["objective"]
        result = objective({"lr": 0.01, "width": 4}, Segment(0, 0, 1, 9, folder=str(tmp_path)))
        assert len(result.validation_error) == 1

    exec(transfer, names)
    segment = Segment(0, 0, 1, 3, folder=str(tmp_path))
    states = []
    for trained in ("head", "last"):
        result = names["objective"]({"trained": trained}, segment)
        states.append(torch.load(str(result.checkpoint), weights_only=True)["model"])
    given = torch.load("resnet18.pth", weights_only=True)
    kept = [
        torch.equal(state["layer4.0.conv1.weight"], given["layer4.0.conv1.weight"])
        for state in states
    ]
    assert kept == [True, False]
    assert torch.equal(states[1]["conv1.weight"], given["conv1.weight"])
