"""Image data: a seeded, stratified split that is written down, and batches made as tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from hpo_lib.files import atomic_write_text
from hpo_lib.sources import DataError, Images, Integers, Source, open_source

__all__ = [
    "Augmentation",
    "DataConfig",
    "DataError",
    "ImageData",
    "Part",
    "batches",
    "load_data",
    "load_test_data",
    "read_split",
    "split_record",
    "verify_split",
    "write_split",
]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are divided.

    `source` is "digits", "cifar10" or "folder:<path>". `root` is where CIFAR-10 lies or is put
    (default: $HPO_DATA, else the cache folder). `image_size` None means 8 for digits, 32 for
    CIFAR-10 and the shorter side of the first image for a folder. `test_fraction` counts where a
    source has no test part of its own; `validation_fraction` is one of the training images.
    `n_train`, `n_validation` and `n_test` cut each part to a smaller stratified one.
    """

    source: str = "digits"
    root: str | None = None
    image_size: int | None = None
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        kind, _, path = self.source.partition(":")
        if self.source not in ("digits", "cifar10") and (kind != "folder" or not path.strip()):
            message = f"source must be 'digits', 'cifar10' or 'folder:<path>', got {self.source!r}"
            raise DataError(message)
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                message = f"{name} must be between 0 and 1, got {getattr(self, name)!r}"
                raise DataError(message)
        for name in ("image_size", "n_train", "n_validation", "n_test"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                message = f"{name} must be None or an integer of at least 1, got {value!r}"
                raise DataError(message)
        if type(self.seed) is not int or self.seed < 0:
            message = f"seed must be an integer of at least 0, got {self.seed!r}"
            raise DataError(message)


@dataclass(frozen=True)
class Part:
    """Images, uint8 (n, c, h, w) in channels-last memory, and labels, int64 (n,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            shape = tuple(self.images.shape)
            message = f"images must be uint8 (n, c, h, w), got {self.images.dtype} {shape}"
            raise DataError(message)
        if self.labels.shape != self.images.shape[:1]:
            message = f"labels must be as many as images, {len(self.images)}, got {len(self)}"
            raise DataError(message)
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
    mean: float = 0.5
    std: float = 0.5

    def to(self, device: torch.device | str) -> ImageData:
        """Return the data on a device."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device))


@dataclass(frozen=True)
class Augmentation:
    """Random crops of images padded on all sides, and horizontal flips of every second one."""

    crop_padding: int = 4
    flip: bool = True
    padding: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            message = f"crop_padding must be at least 0, got {self.crop_padding!r}"
            raise DataError(message)
        if self.padding not in ("zero", "reflect"):
            message = f"padding must be 'zero' or 'reflect', got {self.padding!r}"
            raise DataError(message)


def load_data(config: DataConfig) -> ImageData:
    """Read the training and validation part; a search cannot reach the test part through it."""
    source = _open(config)
    # all parts, so that a test part of no use is refused before the search
    indices = {part: _split(config, source, part) for part in PARTS}
    images, labels = source.pool().read(), source.pool().labels
    train = _part(images, labels, indices["train"], config.image_size)
    validation = _part(images, labels, indices["validation"], config.image_size)
    return ImageData(config, source.classes, train, validation)


def load_test_data(config: DataConfig) -> Part:
    """Read the test part, which is touched once, after the search."""
    source = _open(config)
    pool = source.pool_of("test")
    indices = _split(config, source, "test")
    return _part(pool.read(), pool.labels, indices, config.image_size)


def _open(config: DataConfig) -> Source:
    return open_source(config.source, config.root, config.image_size)


def _part(images: Images, labels: Integers, indices: Integers, size: int | None) -> Part:
    chosen = torch.from_numpy(images[indices]).permute(0, 3, 1, 2)
    if size is not None and chosen.shape[2:] != (size, size):
        chosen = functional.interpolate(chosen, (size, size), mode="bilinear", antialias=True)
    return Part(chosen, torch.from_numpy(labels[indices]))


# The split -------------------------------------------------------------------------------------


def split_record(config: DataConfig) -> dict[str, Any]:
    """Describe the split as JSON: settings, counts per part and class, and every index.

    Indices count the images of a source in its own order (folders: by class, then by name);
    `data_sha256` identifies that order, for folders by the names and sizes of the files.
    """
    source = _open(config)
    indices = {part: _split(config, source, part) for part in PARTS}
    counts: dict[str, dict[str, int]] = {}
    for part, chosen in indices.items():
        labels = source.pool_of(part).labels[chosen]
        counts[part] = dict(zip(source.classes, np.bincount(labels).tolist(), strict=True))
    return {
        "config": asdict(config),
        "classes": list(source.classes),
        "own_test_part": source.test_pool is not None,
        "data_sha256": _fingerprint(source),
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


def read_split(path: str | Path) -> dict[str, Any]:
    """Read a record that `write_split` wrote."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path}: a record of a split must be JSON: {error}"
        raise DataError(message) from error
    needed = {"config", "classes", "data_sha256", "counts", "indices"}
    if not isinstance(record, dict) or not needed <= record.keys():
        message = f"{path}: a record of a split must hold {', '.join(sorted(needed))}"
        raise DataError(message)
    return record


def verify_split(config: DataConfig, record: dict[str, Any]) -> None:
    """Refuse data and settings that do not give the recorded split; paths may differ."""
    now = split_record(config)
    for key in ("classes", "data_sha256", "counts", "indices"):
        if now[key] == record[key]:
            continue
        changed = [
            f"{name}={value!r} (recorded: {record['config'].get(name)!r})"
            for name, value in now["config"].items()
            if name not in ("root", "source") and value != record["config"].get(name)
        ]
        what = f"settings changed: {', '.join(changed)}" if changed else "the images changed"
        message = f"the split must be as recorded, but its {key} differ; {what}"
        raise DataError(message)


def _fingerprint(source: Source) -> str:
    digest = hashlib.sha256("\n".join(source.classes).encode())
    for pool in (source.pool(), source.pool_of("test")):
        digest.update(pool.labels.tobytes() + "\n".join(pool.names).encode())
    return digest.hexdigest()


def _split(config: DataConfig, source: Source, part: str) -> Integers:
    """Indices of a part in its pool, ascending; each part is independent of the others' sizes."""
    labels = source.pool_of(part).labels
    chosen = np.random.default_rng(config.seed).permutation(len(labels))
    if source.test_pool is None:
        test, chosen = _draw(labels, chosen, round(len(labels) * config.test_fraction))
        chosen = test if part == "test" else chosen
    if part != "test":
        n_validation = round(len(chosen) * config.validation_fraction)
        validation, train = _draw(labels, chosen, n_validation)
        chosen = validation if part == "validation" else train
    size = getattr(config, f"n_{part}")
    if size is not None:
        if size > len(chosen):
            message = f"n_{part} must be at most {len(chosen)}, all of the {part} part, got {size}"
            raise DataError(message)
        chosen, _ = _draw(labels, chosen, size)
    counts = np.bincount(labels[chosen], minlength=len(source.classes))
    if not counts.all():
        label = int(counts.argmin())
        message = (
            f"every class needs an image in every part, but the split leaves class "
            f"{source.classes[label]!r} ({np.sum(labels == label)} images) without one among the "
            f"{len(chosen)} {part} images: add images, or change the fractions or n_{part}"
        )
        raise DataError(message)
    return np.sort(chosen)


def _draw(labels: Integers, order: Integers, total: int) -> tuple[Integers, Integers]:
    """Take `total` images from the front of `order`, as many of each class as is its share."""
    ordered = labels[order]
    counts = np.bincount(ordered)
    exact = counts * (total / max(1, len(order)))
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
    by_class = np.argsort(ordered, kind="stable")
    rank = np.empty_like(by_class)  # of an image among those of its class
    rank[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = rank < quota[ordered]
    return order[taken], order[~taken]


# Batches ---------------------------------------------------------------------------------------


def batches(
    part: Part,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
    shuffle: bool = False,
    drop_last: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    mean: float = 0.5,
    std: float = 0.5,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images, labels) of one epoch on the part's device, normalised.

    `generator` is one of the CPU, so that every device sees the same order, crops and flips.
    """
    if batch_size < 1:
        message = f"batch_size must be at least 1, got {batch_size!r}"
        raise DataError(message)
    size = min(part.images.shape[2:])
    if augment is not None and augment.padding == "reflect" and augment.crop_padding >= size:
        message = (
            f"crop_padding must be below the image size, {size}, where padding is 'reflect', "
            f"got {augment.crop_padding}"
        )
        raise DataError(message)
    pixels = part.images.permute(0, 2, 3, 1)  # as it lies in memory: n, h, w, c
    order = torch.randperm(len(part), generator=generator) if shuffle else torch.arange(len(part))
    stop = len(part) - len(part) % batch_size if drop_last else len(part)
    for first in range(0, stop, batch_size):
        chosen = order[first : min(first + batch_size, stop)].to(pixels.device)
        images = pixels.index_select(0, chosen)
        if augment is not None:
            images = _augment(images, augment, generator)
        x = images.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std).to(dtype)
        x = x.permute(0, 3, 1, 2)
        yield x if channels_last else x.contiguous(), part.labels.index_select(0, chosen)


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
    if augment.padding == "zero":
        images = functional.pad(images, (0, 0, *(margin,) * 4))
    else:
        rows, columns = _mirror(rows - margin, height), _mirror(columns - margin, width)
    rows += torch.arange(n, device=device)[:, None] * images.shape[1]
    where = rows[:, :, None] * images.shape[2] + columns[:, None, :]
    taken = images.view(-1, channels).index_select(0, where.flatten())
    return taken.view(n, height, width, channels)


def _mirror(position: torch.Tensor, size: int) -> torch.Tensor:
    """Reflect positions outside 0..size-1 at the first and the last pixel."""
    return size - 1 - (size - 1 - position.abs()).abs()
