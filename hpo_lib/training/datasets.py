"""Data sets by name: scikit-learn's digits, CIFAR-10, folders of image files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hpo_lib.training.cifar10 import open_cifar10
from hpo_lib.training.config import DataConfig
from hpo_lib.training.image_folder import open_image_folder
from hpo_lib.training.image_pool import ImagePool, ImageSource


def open_source(config: DataConfig) -> ImageSource:
    """Find the classes and images of a data set; images are read later."""
    if config.source == "digits":
        return open_digits()
    if config.source == "cifar10":
        return open_cifar10(config.root)
    folder = Path(config.source.removeprefix("folder:"))
    return open_image_folder(folder.resolve(), config.image_size)


def content_digest(config: DataConfig) -> str | None:
    """Return the SHA-256 of all files of a folder of images but those of a separate test part.

    It follows classes, names and bytes and not the path; None stands for the data sets by name,
    which never change.

    Raises:
        DataError: the folder is not laid out as `open_image_folder` says.
    """
    if not config.source.startswith("folder:"):
        return None
    pools = open_source(config).pools
    digests = [
        f"{part} {pool.content_digest()}\n"
        for part, pool in pools.items()
        if part != "test" and pool.content_digest is not None
    ]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def open_digits() -> ImageSource:
    """Open scikit-learn's 1,797 grey images of digits, 8×8 pixels."""
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    bunch: Any = load_digits()
    # 17 grey levels to 256
    grey = np.rint(bunch.images * (255 / 16))
    images = grey.astype(np.uint8)[..., None]
    classes = tuple(str(name) for name in bunch.target_names)
    labels = bunch.target.astype(np.int64)
    return ImageSource(classes, {"train": ImagePool(labels, lambda: images)})
