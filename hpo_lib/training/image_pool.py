"""Labelled images as a data set offers them, before they are split, and scikit-learn's digits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ImagePool:
    """Images to be divided, read when they are needed.

    Attributes:
        labels: class indices (n,).
        read: returns the images, uint8 (n, height, width, channels).
        names: tells the images apart where they are files.
        content_digest: returns the SHA-256 of the files; None where the images never change.
    """

    labels: Integers
    read: Callable[[], Images]
    names: tuple[str, ...] = ()
    content_digest: Callable[[], str] | None = None


@dataclass(frozen=True)
class ImageSource:
    """Classes and images of a data set.

    Attributes:
        classes: names, in the order of the labels.
        pools: images of "train" and, where the data set has them apart, of "validation" and
            "test"; a part without a pool is split off "train".
    """

    classes: tuple[str, ...]
    pools: dict[str, ImagePool]

    def pool_of(self, part: str) -> ImagePool:
        """Return the pool that holds the images of "train", "validation" or "test"."""
        return self.pools.get(part, self.pools["train"])


def cache_folder() -> Path:
    """Return the folder in the user's cache for decoded and downloaded images.

    Raises:
        FileNotFoundError: the user has no home folder.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        message = "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set"
        raise FileNotFoundError(message) from error
    return Path(base) / "hpo_lib"


def encode_name(name: str) -> bytes:
    """Return the bytes of a file's name, or of lines of names, which need not be UTF-8."""
    return name.encode(errors="surrogateescape")


def printable(name: object) -> str:
    """Return a file's name or path as text that can be shown and stored anywhere."""
    return encode_name(str(name)).decode(errors="replace")


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
