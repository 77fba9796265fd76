"""Draw the test of final models: their errors per seed, and which classes they confuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from hpo_lib.formatting import count
from hpo_lib.plots.style import draw_groups, label, name_ticks, one_axes, value_axis


def plot_test_errors(final: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the test error of each training, per configuration; a line joins the same seed.

    Args:
        final: what `test_final` returns.
        ax: axes to draw into; default: a new figure.
    """
    table: Any = final.pivot(index="seed", columns="configuration", values="test_error")
    ax = one_axes(ax, 5.5, 3.8)
    values = table.to_numpy()
    names = [f"{label(name, 20)}\nn = {count(n, 'seed')}" for name, n in table.count().items()]
    draw_groups(ax, values, table.mean().tolist(), names)
    ax.set_xlabel("configuration")
    value_axis(ax, [values], "test error (fraction)")
    n_test = int(final["n_test"].iloc[0])
    ax.set_title(f"{n_test:,} test images; black bars: means", fontsize=10)
    return ax


def plot_confusion_matrix(
    labels: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str],
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each class was taken for each other one.

    Args:
        labels: true class of each image, as an index, shape (n,).
        predicted: predicted class of each image, shape (n,).
        classes: names of the classes.
        ax: axes to draw into; default: a new figure.
    """
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix  # slow to import

    matrix = confusion_matrix(labels, predicted, labels=range(len(classes)))
    ax = one_axes(ax, 6.5, 5.5)
    display = ConfusionMatrixDisplay(matrix)
    display.plot(ax=ax, cmap="Blues", include_values=len(classes) <= 20)
    name_ticks(ax, "x", classes)
    name_ticks(ax, "y", classes)
    ax.grid(visible=False)

    accuracy = np.trace(matrix) / matrix.sum()
    ax.set_title(f"accuracy {accuracy:.1%}, n = {matrix.sum():,} predictions", fontsize=10)
    return ax
