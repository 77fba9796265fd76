"""Draw labelled images, so that as many classes as possible are seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hpo_lib.plots.style import AxesArray, label, panels


def plot_images(
    images: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    n: int = 24,
) -> AxesArray:
    """Draw the first image of each class, then the second ones, and so on, under their names.

    Args:
        images: uint8 (n, channels, height, width), an array or a tensor of the CPU.
        labels: class indices (n,).
        classes: names, in the order of the labels.
        n: largest number of images.

    Returns:
        The axes, one per image.
    """
    numbers = pd.Series(np.asarray(labels))
    turn = numbers.groupby(numbers).cumcount()
    order = np.lexsort((numbers, turn))[:n]

    pixels = np.asarray(images)[order].transpose(0, 2, 3, 1)

    axes = panels(len(order), 8, 0.875, 1.15)
    for ax, image, number in zip(axes, pixels, numbers[order], strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(label(classes[number], 12), fontsize=8)
        ax.set_axis_off()
    return axes
