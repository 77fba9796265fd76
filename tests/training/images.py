"""Images, configurations and curves for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hpo_lib.objective import SegmentResult
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.loaders import (
    Part,
)


def a_part(n: int = 6, channels: int = 3) -> Part:
    images = np.random.default_rng(0).integers(1, 256, (n, channels, 5, 5), dtype=np.uint8)
    return Part(torch.from_numpy(images), torch.arange(n))


def save(path: Path, colour: object = (10, 20, 30), mode: str = "RGB", side: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), colour).save(path)  # pyright: ignore[reportArgumentType]
    return path


def a_folder(path: Path, per_class: int = 20, classes: str = "ab") -> Path:
    for label, name in enumerate(classes):
        for i in range(per_class):
            save(path / name / f"{i:03}.png", (label, i, 0))
    return path


def two_parts(path: Path) -> Path:
    a_folder(path / "test", per_class=3)
    return a_folder(path / "train").parent


SMALL_DATA = DataConfig(n_train=150, n_validation=50)


SMALL = TrainingConfig(n_filters=2, epochs=3, batch_size=32, flip=False, device="cpu")


def curves(*results: SegmentResult) -> tuple[tuple[float, ...], ...]:
    names = ("train_loss", "validation_loss", "validation_error")
    return tuple(sum((getattr(result, name) for result in results), ()) for name in names)
