from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo_lib.exceptions import CheckpointError
from hpo_lib.progress import Progress
from hpo_lib.training.config import ADDED, DataConfig, TrainingConfig
from hpo_lib.training.loaders import ImageData, Part, load_data
from hpo_lib.training.trainer import evaluate, train
from tests.training.images import SMALL, curves


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "dropout": 0.3, "loss": "focal", "schedule": "cosine"},
        {"flip": True, "momentum": 0.0, "loss": "label_smoothing", "schedule": "constant"},
        {"optimizer": "muon", "norm_bias_lr_factor": 8.0, "stem": "whitening"},
        {"flip": True, "alternate_flip": True, "cutout": 3, "evaluation": "mirror"},
        {"ema_decay": 0.9, "low_resolution": 0.5, "evaluation": "mirror_and_shift"},
        {"pre_activation": True, "residual_init": "dirac", "pooling": "max", "schedule": "linear"},
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
    assert ("average" in states[0]) == ("ema_decay" in changes)
    for kind in states[0].keys() & {"model", "average"}:
        for name in states[0][kind]:
            assert torch.equal(states[0][kind][name], states[1][kind][name])
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".pt"]


def test_a_checkpoint_of_an_earlier_version_has_other_fields(
    data: ImageData, tmp_path: Path
) -> None:
    path = tmp_path / "old.pt"
    whole = train(SMALL, data)
    first = train(SMALL, data, stop=1, save_to=path)
    content = torch.load(path, weights_only=True)
    for name in ADDED:
        del content["config"][name]
    content["best"] = {"epoch": 1, "error": 0.5, "model": content["model"]}
    torch.save(content, path)
    assert curves(whole) == curves(first, train(SMALL, data, checkpoint=path))
    assert evaluate(SMALL, path, data.validation).loss == first.validation_loss[-1]
    with pytest.raises(CheckpointError, match="cutout is 0 there and 3 here"):
        train(replace(SMALL, cutout=3), data, checkpoint=path)


def test_mirror_images_are_evaluated_like_their_originals(data: ImageData, tmp_path: Path) -> None:
    config = replace(SMALL, evaluation="mirror", epochs=1)
    path = tmp_path / "network.pt"
    train(config, data, save_to=path)
    part = data.validation
    mirrored = Part(part.images.flip(3), part.labels)
    assert evaluate(config, path, part).loss == pytest.approx(
        evaluate(config, path, mirrored).loss, rel=1e-4
    )
    plain = replace(config, evaluation="plain")
    assert evaluate(plain, path, part).loss != evaluate(plain, path, mirrored).loss


def test_averaged_weights_are_validated_kept_and_evaluated(
    data: ImageData, tmp_path: Path
) -> None:
    config = replace(SMALL, ema_decay=0.98, lr=0.5, schedule="constant")
    path = tmp_path / "network.pt"
    result = train(config, data, save_to=path)
    last = evaluate(config, path, data.validation)
    assert last.loss == pytest.approx(result.validation_loss[-1])

    # steps of this length are noise, which the average has less of
    raw = train(replace(config, ema_decay=0.0), data)
    assert raw.train_loss[0] == result.train_loss[0]
    assert result.validation_loss[-1] < raw.validation_loss[-1]


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


def test_evaluation_agrees_with_the_curves(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    result = train(SMALL, data, save_to=path)
    last = evaluate(SMALL, path, data.validation)
    assert last.error == result.validation_error[-1]
    assert last.loss == pytest.approx(result.validation_loss[-1])
    assert last.error == np.mean(last.labels != last.predicted)
    np.testing.assert_array_equal(last.labels, data.validation.labels.numpy())
    # the seed and the budget do not matter to the weights' use, the network does
    same = evaluate(replace(SMALL, seed=9, epochs=50), path, data.validation)
    assert same.error == last.error
    with pytest.raises(CheckpointError, match="n_filters is 2 there and 4 here"):
        evaluate(replace(SMALL, n_filters=4), path, data.validation)


def test_evaluation_refuses_images_of_other_channels(data: ImageData, trained: Path) -> None:
    colour = Part(data.validation.images.expand(-1, 3, -1, -1), data.validation.labels)
    with pytest.raises(CheckpointError, match="does not fit the images or classes"):
        evaluate(SMALL, trained, colour)


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


def test_a_training_shows_its_epochs(data: ImageData, capsys: pytest.CaptureFixture[str]) -> None:
    train(SMALL, data, stop=2, progress=True)
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("[2/2] training loss ")
    assert "validation error" in shown.err


def test_epochs_are_steps_of_a_larger_piece_of_work(
    data: ImageData, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(4) as progress:
        train(SMALL, data, stop=2, progress=progress)
        train(SMALL, data, stop=2, progress=progress)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[4/4] training loss ")
