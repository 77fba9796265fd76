"""Draw labelled images, so that as many classes as possible are seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hpo_lib.plots.style import AxesArray, label, panels


class ShownImages(NamedTuple):
    """Images and the names above them.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        names: names of their classes.
    """

    pixels: NDArray[np.uint8]
    names: list[str]


def images_data(
    images: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    n: int = 24,
) -> ShownImages:
    """Choose the first image of each class, then the second ones, and so on.

    Args:
        images: uint8 (n, channels, height, width), an array or a tensor of the CPU.
        labels: class indices (n,).
        classes: names, in the order of the labels.
        n: largest number of images.
    """
    numbers = pd.Series(np.asarray(labels))
    turn = numbers.groupby(numbers).cumcount()
    order = np.lexsort((numbers, turn))[:n]
    pixels = np.asarray(images)[order].transpose(0, 2, 3, 1)
    return ShownImages(pixels, [str(classes[number]) for number in numbers[order]])


def plot_images(
    images: ArrayLike | ShownImages,
    labels: ArrayLike = (),
    classes: Sequence[str] = (),
) -> AxesArray:
    """Draw images of as many classes as possible, each under the name of its class.

    Args:
        images: uint8 (n, channels, height, width), or what `images_data` returns.
        labels: class indices (n,).
        classes: names, in the order of the labels.

    Returns:
        The axes, one per image.
    """
    is_chosen = isinstance(images, ShownImages)
    data = images if is_chosen else images_data(images, labels, classes)
    axes = panels(len(data.names), 8, 0.875, 1.15)
    for ax, pixels, name in zip(axes, data.pixels, data.names, strict=True):
        ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        ax.set_title(label(name, 12), fontsize=8)
        ax.set_axis_off()
    return axes
