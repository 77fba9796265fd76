"""Data sets by name; their seeded, stratified split, and the record that repeats it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_text
from hpo_lib.training.cifar import open_cifar
from hpo_lib.training.config import DOWNLOADED, DataConfig
from hpo_lib.training.image_folder import open_image_folder
from hpo_lib.training.image_pool import ImageSource, Integers, encode_name, open_digits


def open_source(config: DataConfig) -> ImageSource:
    """Find the classes and images of a data set; images are read later."""
    if config.source == "digits":
        return open_digits()
    if config.source in DOWNLOADED:
        return open_cifar(config.source, config.root)
    folder = Path(config.source.removeprefix("folder:"))
    return open_image_folder(folder.resolve(), config.image_size)


def content_digest(source: ImageSource) -> str | None:
    """Return the SHA-256 of all files of a folder of images but those of a separate test part.

    It follows classes, names and bytes and not the path; None stands for the data sets by name,
    which never change.
    """
    digests = [
        f"{part} {pool.content_digest()}\n"
        for part, pool in source.pools.items()
        if part != "test" and pool.content_digest is not None
    ]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else None


def split_source(config: DataConfig) -> tuple[ImageSource, dict[str, Integers]]:
    """Open the source and draw the ascending indices of each part in its pool.

    All parts are drawn at once, so that a useless test part is refused before the search.

    Raises:
        DataError: a part is too small, or has no image of a class.
    """
    source = open_source(config)
    labels = source.pool_of("train").labels
    # every order starts from the seed: cutting one part leaves the others as they are
    parts = {
        part: np.random.default_rng(config.seed).permutation(len(source.pool_of(part).labels))
        for part in ("train", "validation", "test")
    }

    def split_off(part: str, fraction: float) -> None:
        n_drawn = round(len(parts["train"]) * fraction)
        parts[part], parts["train"] = draw_stratified(labels, parts["train"], n_drawn)

    has_test_pool = "test" in source.pools
    if not has_test_pool:
        split_off("test", config.test_fraction)
    if "validation" not in source.pools:
        split_off("validation", config.validation_fraction or (0.1 if has_test_pool else 0.25))

    for part, indices in parts.items():
        parts[part] = _subset(config, source, part, indices)
    return source, parts


def split_record(config: DataConfig) -> dict[str, Any]:
    """Describe the split as JSON: settings, counts per part and class, and every index.

    Indices count the images of a source in its own order (folders: by class, then by name);
    `data_sha256` identifies that order, for folders by the names and sizes of the files.
    """
    source, indices = split_source(config)
    counts: dict[str, dict[str, int]] = {}
    digest = hashlib.sha256(encode_name("\n".join(source.classes)))
    for part, chosen in indices.items():
        pool = source.pool_of(part)
        digest.update(pool.labels.tobytes())
        digest.update(encode_name("\n".join(pool.names)))
        part_counts = np.bincount(pool.labels[chosen]).tolist()
        counts[part] = dict(zip(source.classes, part_counts, strict=True))

    return {
        "config": asdict(config),
        "classes": list(source.classes),
        "data_sha256": digest.hexdigest(),
        "sizes": {part: len(chosen) for part, chosen in indices.items()},
        "counts": counts,
        "indices": {part: chosen.tolist() for part, chosen in indices.items()},
    }


def write_split(config: DataConfig, path: str | Path) -> Path:
    """Write the record of the split as JSON; `DataConfig(**record["config"])` repeats it.

    Args:
        config: choice of the images and of their split.
        path: file to write.

    Returns:
        `path`.
    """
    record = split_record(config)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return Path(path)


def check_classes(classes: Sequence[str], labels: Integers, parts: Mapping[str, Integers]) -> None:
    """Refuse parts that lack a class.

    Args:
        classes: names, in the order of the labels.
        labels: class indices of all images.
        parts: indices of the images of each part.

    Raises:
        DataError: a part has no image of a class.
    """
    for part, indices in parts.items():
        counts = np.bincount(labels[indices], minlength=len(classes))
        if counts.all():
            continue
        label = int(counts.argmin())
        message = (
            f"every part needs an image of every class, but the {len(indices)} {part} images hold "
            f"none of the {np.sum(labels == label)} of class {classes[label]!r}: add "
            f"images, or change the fractions or n_{part}"
        )
        raise DataError(message)


def _subset(
    config: DataConfig,
    source: ImageSource,
    part: str,
    indices: Integers,
) -> Integers:
    """Cut a part to its configured size, check its classes and sort it."""
    labels = source.pool_of(part).labels
    size: int | None = getattr(config, f"n_{part}")
    if size is not None:
        if size > len(indices):
            n_images = len(indices)
            message = f"n_{part} must be at most {n_images}, all of the {part} part, got {size}"
            raise DataError(message)
        indices, _ = draw_stratified(labels, indices, size)

    check_classes(source.classes, labels, {part: indices})
    return np.sort(indices)


def draw_stratified(
    labels: Integers,
    order: Integers,
    n_drawn: int,
) -> tuple[Integers, Integers]:
    """Take images from the front of `order`, as many of each class as is its share.

    Returns:
        Indices that were drawn and the others, both in the order of `order`.
    """
    ordered_labels = labels[order]
    exact = np.bincount(ordered_labels) * n_drawn / len(order)

    # largest remainder method: round down, then add one where most was cut off
    quota = np.floor(exact).astype(np.int64)
    n_missing = n_drawn - quota.sum()
    by_remainder = np.argsort(quota - exact, kind="stable")
    quota[by_remainder[:n_missing]] += 1

    is_drawn = np.zeros(len(order), dtype=bool)
    for label, n_of_class in enumerate(quota):
        positions = np.flatnonzero(ordered_labels == label)
        is_drawn[positions[:n_of_class]] = True
    return order[is_drawn], order[~is_drawn]
