"""What the figures share: colours, axes, scales, untrusted text made fit, and saving."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from hpo_lib.checks import check_member
from hpo_lib.files import atomic_write_bytes
from hpo_lib.space.search_space import ChoiceParameter, IntParameter, Parameter

AxesArray = NDArray[Any]
"""An array of `Axes`."""

VALUE = "validation error (fraction)"
SECONDS = "training + deciding time (s)"
MAX_BYTES = 200_000
"""What a saved figure should stay under."""

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
DOT: dict[str, Any] = {"s": 16, "color": "white", "edgecolor": "black", "linewidth": 0.5}
WHITE: dict[str, Any] = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
"""A box behind text that may stand on lines."""


def label(text: object, width: int = 24) -> str:
    """Make untrusted text fit a figure: one line, no mathematics, shortened in the middle."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) > width:
        tail = (width - 1) // 2
        line = f"{line[: width - 1 - tail]}…{line[-tail:]}"
    # matplotlib leaves a label that begins with an underscore out of the legend
    return (" " + line if line.startswith("_") else line).replace("$", r"\$")


def one_axes(ax: Axes | None, width: float = 7.0, height: float = 4.0) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    return panels(1, 1, width, height)[0] if ax is None else ax


def panels(
    n: int, columns: int, width: float, height: float, *, sharey: bool = False
) -> AxesArray:
    """Make a figure with `n` axes of the given size in inches, row by row."""
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
    for ax in grid.flat[: n if width < 3 else 0]:
        ax.tick_params(labelsize=8)
    return grid.ravel()[:n]


def line_style(i: int, line: str | None = None, **others: Any) -> dict[str, Any]:
    """Colour, marker and line of the i-th curve: each alone tells the first ones apart."""
    style = {"color": COLOURS[i % 10], "marker": MARKERS[i % 10], "markersize": 5}
    return {**style, "linestyle": LINES[i % 5] if line is None else line, **others}


def bar_style(i: int) -> dict[str, Any]:
    """Colour and hatch of the i-th set of bars."""
    hatch = ("", "//", "..", "xx", "--")[i % 5]
    return {"color": COLOURS[i % 10], "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}


def _finite(arrays: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    joined = np.concatenate([np.zeros(0), *(array.ravel() for array in arrays)])
    return joined[np.isfinite(joined)]


def _wants_log(values: NDArray[np.float64]) -> bool:
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > 8)


def colour_norm(values: Iterable[NDArray[np.float64]]) -> Normalize:
    """A colour scale over the finite values: logarithmic when they span much."""
    finite = _finite(values)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low == high:
        high = low + max(abs(low), 1.0) * 1e-3
    return LogNorm(low, high) if _wants_log(finite) else Normalize(low, high)


def value_axis(ax: Axes, values: Iterable[NDArray[np.float64]], text: str = VALUE) -> None:
    """Label the y axis, logarithmic when the values span much."""
    ax.set_ylabel(text)
    ax.margins(y=0.1)
    finite = _finite(values)
    if _wants_log(finite):
        ax.set_yscale("log")
        log_ticks(ax.yaxis, float(finite.max() / finite.min()))


def value_bar(norm: Normalize, ax: Any, text: str = VALUE, cmap: str = "viridis") -> Axes:
    """Put a colour bar of values beside one or several axes; return its own."""
    first = ax if isinstance(ax, Axes) else ax[0]
    bar = first.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, label=text, pad=0.01, aspect=30)
    if isinstance(norm, LogNorm):
        low, high = bar.ax.get_ylim()
        log_ticks(bar.ax.yaxis, high / low)
    return bar.ax


def log_ticks(axis: Axis, ratio: float) -> None:
    """Plain numbers on a logarithmic axis whose ends have this ratio."""
    axis.set_minor_locator(NullLocator())
    if ratio < 5000:
        subs = (1.0, 2.0, 5.0) if ratio < 30 else (1.0, 3.0) if ratio < 150 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def spending_axis(ax: Axes, by: str) -> None:
    """Label the x axis: seconds, or trials."""
    check_member("by", by, ("trial", "seconds"))
    ax.set_xlabel(SECONDS if by == "seconds" else "trials finished (count)")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=by != "seconds"))


def is_discrete(parameter: Parameter) -> bool:
    """Whether a parameter has so few values that each gets a tick."""
    few = parameter.count is not None and parameter.count <= 6
    return isinstance(parameter, ChoiceParameter) or (few and not parameter.log)


def parameter_axis(
    ax: Axes, side: Literal["x", "y"], parameter: Parameter, margin: float = 0.05
) -> None:
    """Give an axis the scale, range, ticks and name of a parameter."""
    axis, set_scale, set_limits = (
        (ax.xaxis, ax.set_xscale, ax.set_xlim)
        if side == "x"
        else (ax.yaxis, ax.set_yscale, ax.set_ylim)
    )
    axis.set_label_text(label(parameter.name))
    if isinstance(parameter, ChoiceParameter):
        set_limits(-0.5, len(parameter.options) - 0.5)
        name_ticks(ax, side, parameter.options, 10)
        return
    low, high = parameter.low, parameter.high
    if parameter.log:
        set_scale("log")
        set_limits(low * (low / high) ** margin, high * (high / low) ** margin)
        log_ticks(axis, high / low)
    elif is_discrete(parameter):
        half = (parameter.step or 0) / 2
        set_limits(low - half, high + half)
        axis.set_major_locator(FixedLocator(parameter.grid_values(6)))
    else:
        set_limits(low - margin * (high - low), high + margin * (high - low))
        axis.set_major_locator(MaxNLocator(4, integer=isinstance(parameter, IntParameter)))


def name_ticks(
    ax: Axes, side: Literal["x", "y"], names: Sequence[object], width: int = 14
) -> None:
    """Name the positions 0, 1, … of an axis; not more of them than can be read."""
    step = max(1, -(-len(names) // 30))
    axis = ax.xaxis if side == "x" else ax.yaxis
    texts = [label(name, width) for name in names[::step]]
    axis.set_ticks(range(0, len(names), step), texts)
    points = 72 * ax.get_position().width * cast(Figure, ax.figure).get_figwidth()
    if side == "x" and points < 5.5 * len(texts) * (2 + max(map(len, texts), default=0)):
        for tick in axis.get_ticklabels():
            tick.set(rotation=40, ha="right", rotation_mode="anchor")


def unit_heights(parameter: Parameter, positions: Any) -> NDArray[np.float64]:
    """Positions as heights from 0 to 1 along the range of a parameter."""
    values = np.asarray(positions, dtype=float)
    if isinstance(parameter, ChoiceParameter):
        ends = np.array([0.0, len(parameter.options) - 1.0])
    else:
        ends = np.array([parameter.low, parameter.high], dtype=float)
        if parameter.log:
            values, ends = np.log(values), np.log(ends)
    span = ends[1] - ends[0]
    return (values - ends[0]) / span if span else values * 0 + 0.5


def unit_ticks(parameter: Parameter) -> list[tuple[float, str]]:
    """Heights and texts of the ticks along the range of a parameter."""
    if isinstance(parameter, ChoiceParameter):
        ticks, texts = range(len(parameter.options)), [label(o, 12) for o in parameter.options]
    else:
        low, high = parameter.low, parameter.high
        integer = isinstance(parameter, IntParameter)
        locator = LogLocator() if parameter.log else MaxNLocator(5, integer=integer)
        ticks = [float(v) for v in locator.tick_values(low, high) if low <= v <= high]
        ticks = ticks if len(ticks) > 1 else [low, high]
        texts = [f"{value:g}" for value in ticks]
    return list(zip(unit_heights(parameter, ticks).tolist(), texts, strict=True))


def legend_above(ax: Axes) -> None:
    """Put the legend over the axes, where it covers nothing."""
    handles, names = ax.get_legend_handles_labels()
    inches = ax.get_position().width * cast(Figure, ax.figure).get_figwidth()
    columns = max(1, int(16.3 * inches) // (max(map(len, names), default=0) + 7))
    style: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 9}
    ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), **style)


def failure_ticks(ax: Axes, x: NDArray[np.float64]) -> None:
    """Mark failed trials at the top edge."""
    x = x[np.isfinite(x)]
    if len(x):  # a line without points, not clipped, would upset the layout
        style: dict[str, Any] = {"color": RED, "markersize": 10, "markeredgewidth": 2}
        style |= {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(x, np.ones(len(x)), "|", label=f"failed/pruned (n = {len(x)})", **style)


def save_figure(drawn: Axes | Figure | AxesArray, path: str | Path) -> Path:
    """Write a figure as PNG, as sharp as `MAX_BYTES` allow; return the path."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        message = f"path must end in .png, got {path}"
        raise ValueError(message)
    first = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure = cast(Figure, first if isinstance(first, Figure) else first.figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    for dpi in (150, 110, 75, 50, 35):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=dpi)
        if image.tell() <= MAX_BYTES:
            break
    atomic_write_bytes(path, image.getvalue())
    return path
