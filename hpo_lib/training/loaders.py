"""Image data: a seeded, stratified split that is written down, and batches made as tensors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_text
from hpo_lib.training.datasets import Images, Integers, Source, open_source


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are divided.

    `source` is "digits", "cifar10" or "folder:<path>". `root` is where CIFAR-10 lies or is put
    (default: $HPO_DATA, else the cache folder). `image_size` None means 8 for digits, 32 for
    CIFAR-10 and the shorter side of the first image for a folder. `test_fraction` counts where a
    source has no test part of its own; `validation_fraction` is one of the other images, and None
    means 0.1 where the source has a test part and 0.25 where not, so that a small source keeps
    enough images to tell configurations apart (digits: 1,078 / 360 / 359).
    `n_train`, `n_validation` and `n_test` cut each part to a smaller stratified one.
    """

    source: str = "digits"
    root: str | None = None
    image_size: int | None = None
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    validation_fraction: float | None = None
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"digits|cifar10|folder:.+", self.source):
            message = f"source must be 'digits', 'cifar10' or 'folder:<path>', got {self.source!r}"
            raise DataError(message)
        for name in ("image_size", "n_train", "n_validation", "n_test", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not ((value is None and least) or (type(value) is int and value >= least)):
                message = f"{name} must be an integer of at least {least}, got {value!r}"
                raise DataError(message)
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                message = f"{name} must be between 0 and 1, got {value!r}"
                raise DataError(message)


@dataclass(frozen=True)
class Part:
    """Images, uint8 (n, c, h, w) in channels-last memory, and labels, int64 (n,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        images = self.images.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Part:
        """Return the part on a device."""
        return Part(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """What a search may see: training and validation images, never the test part."""

    config: DataConfig
    classes: tuple[str, ...]
    train: Part
    validation: Part

    @cached_property
    def sha256(self) -> str:
        """Digest of every pixel and label as split, wherever the images lie and on any device."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for part in (self.train, self.validation):
            pixels = part.images.cpu().permute(0, 2, 3, 1).contiguous()  # as they lie in memory
            digest.update(repr(tuple(pixels.shape)).encode())
            digest.update(pixels.numpy().data)
            digest.update(part.labels.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> ImageData:
        """Return the data on a device."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device))


@dataclass(frozen=True)
class Augmentation:
    """Random crops of images padded on all sides, and horizontal flips of every second one."""

    crop_padding: int = 4
    flip: bool = True


def load_data(config: DataConfig) -> ImageData:
    """Read the training and validation part; a search cannot reach the test part through it."""
    source, split = _split(config)  # all parts: one of no use is refused before the search
    images, labels = source.pool.read(), source.pool.labels
    train = _part(images, labels, split["train"], config.image_size)
    validation = _part(images, labels, split["validation"], config.image_size)
    return ImageData(config, source.classes, train, validation)


def load_test_data(config: DataConfig) -> Part:
    """Read the test part, which is touched once, after the search."""
    source, split = _split(config)
    pool = source.pool_of("test")
    return _part(pool.read(), pool.labels, split["test"], config.image_size)


def _part(images: Images, labels: Integers, indices: Integers, size: int | None) -> Part:
    chosen = torch.from_numpy(images[indices]).permute(0, 3, 1, 2)
    if size is not None and chosen.shape[2:] != (size, size):
        chosen = functional.interpolate(chosen, (size, size), mode="bilinear", antialias=True)
    return Part(chosen, torch.from_numpy(labels[indices]))


def split_record(config: DataConfig) -> dict[str, Any]:
    """Describe the split as JSON: settings, counts per part and class, and every index.

    Indices count the images of a source in its own order (folders: by class, then by name);
    `data_sha256` identifies that order, for folders by the names and sizes of the files.
    """
    source, indices = _split(config)
    counts: dict[str, dict[str, int]] = {}
    digest = hashlib.sha256("\n".join(source.classes).encode())
    for part, chosen in indices.items():
        pool = source.pool_of(part)
        digest.update(pool.labels.tobytes() + "\n".join(pool.names).encode())
        found = np.bincount(pool.labels[chosen]).tolist()
        counts[part] = dict(zip(source.classes, found, strict=True))
    return {
        "config": asdict(config),
        "classes": list(source.classes),
        "data_sha256": digest.hexdigest(),
        "sizes": {part: len(chosen) for part, chosen in indices.items()},
        "counts": counts,
        "indices": {part: chosen.tolist() for part, chosen in indices.items()},
    }


def write_split(config: DataConfig, path: str | Path) -> Path:
    """Write the record of the split as JSON; `DataConfig(**record["config"])` repeats it."""
    record = split_record(config)
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return Path(path)


def verify_split(config: DataConfig, record: dict[str, Any]) -> None:
    """Refuse data and settings that do not give the recorded split; paths may differ."""
    now, then = split_record(config), record["config"]
    changed = [
        f"{name}={value!r} (recorded: {then.get(name)!r})"
        for name, value in now["config"].items()
        if name not in ("root", "source") and value != then.get(name)
    ]
    for key in ("classes", "data_sha256", "counts", "indices"):
        if now[key] != record[key]:
            what = f"settings changed: {', '.join(changed)}" if changed else "the images changed"
            message = f"the split must be as recorded, but its {key} differ; {what}"
            raise DataError(message)


def _split(config: DataConfig) -> tuple[Source, dict[str, Integers]]:
    """Find the source and each part's indices in its pool, ascending."""
    source = open_source(config.source, config.root, config.image_size)
    labels = source.pool.labels
    test, rest = (
        np.random.default_rng(config.seed).permutation(len(source.pool_of(part).labels))
        for part in ("test", "train")
    )
    if source.test_pool is None:
        test, rest = _draw(labels, rest, round(len(labels) * config.test_fraction))
    fraction = config.validation_fraction or (0.25 if source.test_pool is None else 0.1)
    validation, train = _draw(labels, rest, round(len(rest) * fraction))
    parts = {"train": train, "validation": validation, "test": test}
    return source, {part: _subset(config, source, part, parts[part]) for part in parts}


def _subset(config: DataConfig, source: Source, part: str, chosen: Integers) -> Integers:
    labels, size = source.pool_of(part).labels, getattr(config, f"n_{part}")
    if size is not None:
        if size > len(chosen):
            message = f"n_{part} must be at most {len(chosen)}, all of the {part} part, got {size}"
            raise DataError(message)
        chosen, _ = _draw(labels, chosen, size)
    counts = np.bincount(labels[chosen], minlength=len(source.classes))
    if not counts.all():
        label = int(counts.argmin())
        message = (
            f"every part needs an image of every class, but the {len(chosen)} {part} images hold "
            f"none of the {np.sum(labels == label)} of class {source.classes[label]!r}: add "
            f"images, or change the fractions or n_{part}"
        )
        raise DataError(message)
    return np.sort(chosen)


def _draw(labels: Integers, order: Integers, total: int) -> tuple[Integers, Integers]:
    """Take `total` images from the front of `order`, as many of each class as is its share."""
    ordered = labels[order]
    exact = np.bincount(ordered) * total / len(order)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
    taken = np.zeros(len(order), dtype=bool)
    for label, n in enumerate(quota):
        taken[np.flatnonzero(ordered == label)[:n]] = True
    return order[taken], order[~taken]


def batches(
    part: Part,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
    shuffle: bool = False,
    drop_last: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images, labels) of one epoch on the part's device: float32, channels-last, -1 to 1.

    `generator` is one of the CPU, so that every device sees the same order, crops and flips.
    """
    pixels = part.images.permute(0, 2, 3, 1)  # as it lies in memory: n, h, w, c
    order = torch.randperm(len(part), generator=generator) if shuffle else torch.arange(len(part))
    if drop_last:
        order = order[: len(part) - len(part) % batch_size]
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size].to(pixels.device)
        images = pixels.index_select(0, chosen)
        if augment is not None:
            images = _augment(images, augment, generator)
        x = images.to(torch.float32).mul_(1 / 127.5).sub_(1)
        yield x.permute(0, 3, 1, 2), part.labels.index_select(0, chosen)


def _augment(
    images: torch.Tensor, augment: Augmentation, generator: torch.Generator | None
) -> torch.Tensor:
    """Crop and flip (n, h, w, c) in one gather of pixels."""
    n, height, width, channels = images.shape
    device, margin = images.device, augment.crop_padding
    corners = torch.randint(2 * margin + 1, (2, n, 1), generator=generator).to(device)
    flipped = torch.rand(n, 1, generator=generator) < (0.5 if augment.flip else 0)
    rows = corners[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    columns = corners[1] + torch.where(flipped.to(device), width - 1 - columns, columns)
    images = functional.pad(images, (0, 0, *(margin,) * 4))
    rows += torch.arange(n, device=device)[:, None] * images.shape[1]
    where = rows[:, :, None] * images.shape[2] + columns[:, None, :]
    taken = images.view(-1, channels).index_select(0, where.flatten())
    return taken.view(n, height, width, channels)
