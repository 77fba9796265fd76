from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo_lib.exceptions import CheckpointError
from hpo_lib.training.loaders import ImageData
from hpo_lib.training.trainer import evaluate, train
from tests.training.images import SMALL


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


def test_a_checkpoint_holds_the_weights_once(trained: Path) -> None:
    content = torch.load(trained, weights_only=True)
    assert set(content) == {"epoch", "config", "model", "optimizer", "study", "data"}


def test_a_checkpoint_of_other_classes_is_refused(data: ImageData, trained: Path) -> None:
    fewer = replace(data, classes=data.classes[:3])
    with pytest.raises(CheckpointError, match="does not fit the images or classes"):
        train(SMALL, fewer, checkpoint=trained)
