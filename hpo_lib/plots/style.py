"""Share colours, labels, scales and legends among the figures, and save them.

Names and messages of a study may come from anybody: `label` makes them fit a figure.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from hpo_lib.checks import check_member
from hpo_lib.files import atomic_write_bytes
from hpo_lib.formatting import format_number

AxesArray = NDArray[Any]
"""An array of `Axes`."""

FloatArray = NDArray[np.float64]
Side = Literal["x", "y"]

SECONDS = "training + suggesting time (s)"

MAX_BYTES = 200_000
"""Size that a saved figure should stay below."""

MOST_JOINED = 10
"""Largest number of rows that `draw_groups` joins by lines."""

COLOURS = cast("list[tuple[float, float, float]]", sns.color_palette("colorblind"))
BLUE, ORANGE, GREEN, RED = COLOURS[:4]
MARKERS = "os^DvPX<>*"
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

STAR: dict[str, Any] = {
    "marker": "*",
    "s": 150,
    "color": ORANGE,
    "edgecolor": "black",
    "linewidth": 0.8,
    "zorder": 5,
    "clip_on": False,
}
"""Mark of the incumbent."""

DOT: dict[str, Any] = {
    "s": 16,
    "color": "white",
    "edgecolor": "black",
    "linewidth": 0.5,
    "clip_on": False,
}
"""Mark of a trial on a coloured surface."""

WHITE: dict[str, Any] = {
    "facecolor": "white",
    "alpha": 0.75,
    "linewidth": 0,
    "pad": 0.8,
}
"""Box behind text that may stand on lines."""


def label(text: object, width: int = 24) -> str:
    """Make untrusted text fit a figure: one line, no mathematics, shortened in the middle.

    Args:
        text: anything; its `str` is shown.
        width: largest number of characters.
    """
    # Control characters, as line breaks are, become blanks.
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(printable.split())

    if len(line) > width:
        # Both ends tell names apart: prefixes and counters.
        tail = (width - 1) // 2
        head = width - 1 - tail
        line = f"{line[:head]}…{line[-tail:]}"

    # matplotlib leaves a label that begins with an underscore out of the legend.
    if line.startswith("_"):
        line = f" {line}"
    # A pair of dollars would begin and end mathematics.
    return line.replace("$", r"\$")


def finite(values: Any) -> FloatArray:
    """Return numbers as an array, with NaN for all that are missing or not finite."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


# Figures and axes


def panels(
    n: int, columns: int, width: float, height: float, *, sharey: bool = False
) -> AxesArray:
    """Make a figure with several axes of the same size, row by row.

    Args:
        n: number of axes.
        columns: largest number of axes in a row.
        width: width of each in inches.
        height: height of each in inches.
        sharey: whether they have one y axis.

    Returns:
        The axes, shape (n,).
    """
    columns = min(columns, n)
    rows = -(-n // columns)
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(width * columns, height * rows),
            layout="constrained",
            sharey=sharey,
            squeeze=False,
        )

    for unused in grid.flat[n:]:
        figure.delaxes(unused)
    axes = grid.flat[:n]
    # Ticks of small axes would run into each other.
    if width < 3:
        for ax in axes:
            ax.tick_params(labelsize=8)
    return axes


def one_axes(
    ax: Axes | None,
    width: float = 7.0,
    height: float = 4.0,
) -> Axes:
    """Return `ax`, or the axes of a new figure.

    Args:
        ax: axes to draw in; None for a new figure.
        width: width of a new figure in inches.
        height: its height in inches.
    """
    return panels(1, 1, width, height)[0] if ax is None else ax


def figure_of(drawn: Any) -> Figure:
    """Return the figure of axes, of an array of axes, or itself."""
    return np.ravel(drawn)[0].figure


def save_figure(drawn: Axes | Figure | AxesArray, path: str | Path) -> Path:
    """Write a figure as PNG, at the highest resolution that `MAX_BYTES` allow.

    Args:
        drawn: the figure, or any of its axes.
        path: file to write, which ends in `.png`; its folder is made.

    Returns:
        The path.

    Raises:
        ValueError: the path ends in something else.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        message = f"path must end in .png, got {path}"
        raise ValueError(message)

    figure = figure_of(drawn)
    # A lower resolution until the picture is small enough.
    image = io.BytesIO()
    for dpi in (150, 110, 75, 50, 35):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=dpi)
        if image.tell() <= MAX_BYTES:
            break

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, image.getvalue())
    return path


def show_figure(
    path: str | Path,
    plot: Callable[..., Any],
    *arguments: Any,
    **options: Any,
) -> None:
    """Draw, save and show a figure; where the function raises ValueError, print why.

    Args:
        path: file to write, which ends in `.png`.
        plot: a function that draws and returns axes, such as `plot_importance`.
        *arguments: those of the function.
        **options: those of the function.
    """
    open_before = set(plt.get_fignums())
    try:
        drawn = plot(*arguments, **options)
    except ValueError as error:
        print(f"{Path(path).stem} is not drawn: {error}")
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
    else:
        save_figure(drawn, path)
        plt.show()


# Curves, legends and marks


def line_style(i: int, line: str | None = None, **others: Any) -> dict[str, Any]:
    """Return the style of the i-th curve; colour, marker and line each tell it apart.

    Args:
        i: position among the curves of a figure.
        line: line style, instead of that of the i-th curve.
        **others: further keywords of `Axes.plot`.
    """
    return {
        "color": COLOURS[i % 10],
        "marker": MARKERS[i % 10],
        "markersize": 5,
        "linestyle": LINES[i % 5] if line is None else line,
        **others,
    }


def draw_groups(
    ax: Axes,
    values: FloatArray,
    centres: Sequence[float],
    names: Sequence[str],
) -> None:
    """Draw each column as dots above each other, with a bar at its centre; a line joins each row.

    Args:
        ax: axes to draw into.
        values: shape (n, groups); NaN where there is none.
        centres: mean or median of each group; where it is not finite there is no bar.
        names: of the groups.
    """
    # Lines of many rows would hide each other.
    if len(values) <= MOST_JOINED:
        ax.plot(values.T, color="0.8", linewidth=0.8, zorder=1)
    for i, centre in enumerate(centres):
        ax.plot(np.full(len(values), i), values[:, i], **line_style(i, "", alpha=0.7))
        if np.isfinite(centre):
            ax.hlines(centre, i - 0.15, i + 0.15, color="black", linewidth=2.5)
            ax.text(i + 0.18, centre, format_number(centre), va="center", fontsize=9, bbox=WHITE)

    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.4, len(names) - 0.4)


def legend_above(ax: Axes) -> None:
    """Put the legend over the axes, where it covers nothing."""
    handles, names = ax.get_legend_handles_labels()
    # As many columns as fit: a character is about 1/16 inch wide at this size.
    longest = max(map(len, names), default=0) + 7
    columns = max(1, int(16 * inches_wide(ax)) // longest)
    style: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 9}
    ax.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        **style,
    )


def failure_ticks(ax: Axes, x: FloatArray) -> None:
    """Mark trials without a final value by red ticks at the top edge.

    Args:
        ax: the axes.
        x: where they stand, shape (n,); NaN for trials that have no place.
    """
    x = x[np.isfinite(x)]
    if not len(x):  # A line without points, not clipped, would upset the layout.
        return
    ax.plot(
        x,
        np.ones(len(x)),
        "|",
        color=RED,
        markersize=10,
        markeredgewidth=2,
        label=f"without a final value (n = {len(x)})",
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )


# Scales


def value_norm(values: Iterable[ArrayLike]) -> Normalize:
    """Return a scale over the finite values: logarithmic where they span much.

    Args:
        values: arrays of any shapes; NaN and infinite ones are passed over.
    """
    joined = np.concatenate([np.zeros(0), *map(np.ravel, values)])
    joined = joined[np.isfinite(joined)]
    if not len(joined):
        return Normalize(0, 1)

    low = float(joined.min())
    high = float(joined.max())
    if low > 0 and high / low > 8:
        return LogNorm(low, high)
    return Normalize(low, high)


def value_axis(
    ax: Axes,
    values: Iterable[ArrayLike],
    text: str = "value",
) -> None:
    """Label the y axis; make it logarithmic where the values span much.

    Args:
        ax: the axes.
        values: arrays of the values that are shown.
        text: label of the axis.
    """
    ax.set_ylabel(text)
    ax.margins(y=0.1)
    norm = value_norm(values)
    if isinstance(norm, LogNorm):
        ax.set_yscale("log")
        log_ticks(ax.yaxis, cast(float, norm.vmax) / cast(float, norm.vmin))


def value_bar(
    mappable: Any,
    ax: Any,
    text: str = "value",
) -> Axes:
    """Put a colour bar beside one or several axes, and return its own.

    Args:
        mappable: artist with the colours.
        ax: the axes, or a list of them.
        text: label of the bar.
    """
    figure = (ax if isinstance(ax, Axes) else ax[0]).figure
    bar = figure.colorbar(
        mappable,
        ax=ax,
        label=text,
        pad=0.01,
        aspect=30,
    )
    if isinstance(mappable.norm, LogNorm):
        low, high = bar.ax.get_ylim()
        log_ticks(bar.ax.yaxis, high / low)
    return bar.ax


def log_ticks(axis: Axis, ratio: float) -> None:
    """Write plain numbers on a logarithmic axis.

    Args:
        axis: the axis, which is logarithmic already.
        ratio: its upper end divided by its lower.
    """
    axis.set_minor_locator(NullLocator())
    # Over many decades matplotlib's own ticks, written as powers, are better.
    if ratio >= 5000:
        return

    # Multiples of the powers of ten that get a tick: more of them on a short axis.
    factors = (1.0,)
    if ratio < 30:
        factors = (1.0, 2.0, 5.0)
    elif ratio < 150:
        factors = (1.0, 3.0)

    axis.set_major_locator(LogLocator(subs=factors))
    axis.set_major_formatter("{x:g}")


def spending_axis(ax: Axes, by: str) -> None:
    """Label the x axis by what was spent.

    Args:
        ax: axes to label.
        by: "trial" or "seconds".
    """
    check_member("by", by, ("trial", "seconds"))
    ax.set_xlabel(SECONDS if by == "seconds" else "trials finished (count)")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=by == "trial"))


def name_ticks(
    ax: Axes,
    side: Side,
    names: Sequence[object],
    width: int = 14,
) -> None:
    """Name the positions 0, 1, … of an axis, or as many of them as can be read.

    Args:
        ax: the axes.
        side: "x" or "y".
        names: untrusted text for each position.
        width: largest number of characters of a name.
    """
    # Every name where there are up to 30, else every second, third and so on.
    step = max(1, -(-len(names) // 30))
    texts = [label(name, width) for name in names[::step]]
    axis = ax.xaxis if side == "x" else ax.yaxis
    axis.set_ticks(range(0, len(names), step), texts)

    # Names that would run into each other are turned: a character is about 1/13 inch wide.
    longest = max(map(len, texts), default=0) + 2
    if side == "x" and 13 * inches_wide(ax) < longest * len(texts):
        plt.setp(
            axis.get_ticklabels(),
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )


def inches_wide(ax: Axes) -> float:
    """Return how wide the axes are."""
    return ax.get_window_extent().width / figure_of(ax).dpi
