"""Labelled images as a data set offers them, before they are split and become tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """

    labels: Integers
    read: Callable[[], Images]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSource:
    """Classes and images of a data set.

    Attributes:
        classes: names, in the order of the labels.
        pool: all images, or those outside the test part.
        test_pool: images of the test part; None where it has to be split off `pool`.
    """

    classes: tuple[str, ...]
    pool: ImagePool
    test_pool: ImagePool | None = None

    def pool_of(self, part: str) -> ImagePool:
        """Return the pool that holds the images of "train", "validation" or "test"."""
        if part == "test" and self.test_pool is not None:
            return self.test_pool
        return self.pool


def cache_folder() -> Path:
    """Return the folder in the user's cache for decoded and downloaded images."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpo_lib"
