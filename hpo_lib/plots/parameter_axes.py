"""Place the values of hyperparameters on axes, and draw a surrogate's predictions over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator

from hpo_lib.plots.style import BLUE, FloatArray, Side, label, log_ticks, name_ticks
from hpo_lib.space.parameters import ChoiceParameter, FloatParameter, IntParameter, Parameter
from hpo_lib.space.values import Value


def positions(parameter: Parameter, values: Iterable[Value | None]) -> FloatArray:
    """Return where values stand on the axis of a parameter.

    Args:
        parameter: whose axis.
        values: its values; None where it is inactive.

    Returns:
        Shape (n,): a number itself, the index of an option; NaN for what is missing.
    """
    if not isinstance(parameter, ChoiceParameter):
        return np.array([np.nan if value is None else float(value) for value in values])
    # A value that is no option, for instance of another space, has no place.
    options = list(parameter.options)
    found = [options.index(value) if value in options else np.nan for value in values]
    return np.array(found, dtype=float)


def parameter_norm(parameter: Parameter) -> Normalize:
    """Return the scale from 0 to 1 along the range of a parameter."""
    if isinstance(parameter, ChoiceParameter):
        return Normalize(0, len(parameter.options) - 1)
    scale = LogNorm if parameter.log else Normalize
    return scale(parameter.low, parameter.high)


def unit_heights(parameter: Parameter, at: FloatArray) -> FloatArray:
    """Return positions as heights from 0 to 1 along the range of a parameter.

    Args:
        parameter: whose range.
        at: positions, shape (n,); NaN stays NaN.
    """
    # LogNorm masks what is not positive.
    return np.ma.filled(parameter_norm(parameter)(at), np.nan)


def unit_ticks(parameter: Parameter) -> list[tuple[float, str]]:
    """Return height and text of each tick along the range of a parameter."""
    if isinstance(parameter, ChoiceParameter):
        ticks = np.arange(len(parameter.options), dtype=float)
        texts = [label(option, 12) for option in parameter.options]
    else:
        low, high = parameter.low, parameter.high
        locator = LogLocator() if parameter.log else _linear_locator(parameter, 5)
        ticks = np.asarray(locator.tick_values(low, high), dtype=float)
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        # A range within one decade may have no power of ten.
        if len(ticks) < 2:
            ticks = np.array([low, high], dtype=float)
        texts = [f"{tick:g}" for tick in ticks]

    return list(zip(unit_heights(parameter, ticks).tolist(), texts, strict=True))


def is_discrete(parameter: Parameter) -> bool:
    """Return whether a parameter has so few values that each gets a tick."""
    if isinstance(parameter, ChoiceParameter):
        return True
    return parameter.count is not None and parameter.count <= 6 and not parameter.log


def _linear_locator(parameter: FloatParameter | IntParameter, n: int) -> Locator:
    """Return what places a tick at each value where these are few, else about n of them."""
    if is_discrete(parameter):
        return FixedLocator(parameter.grid_values(6))
    return MaxNLocator(n, integer=isinstance(parameter, IntParameter))


def parameter_axis(
    ax: Axes,
    side: Side,
    parameter: Parameter,
    margin: float = 0.05,
) -> None:
    """Give an axis the scale, range, ticks and name of a parameter.

    Args:
        ax: the axes.
        side: "x" or "y".
        parameter: what the axis shows, by its `positions`.
        margin: share of the range that is left free at both ends.
    """
    axis = ax.xaxis if side == "x" else ax.yaxis
    axis.set_label_text(label(parameter.name))
    if isinstance(parameter, ChoiceParameter):
        limits = (-0.5, len(parameter.options) - 0.5)
        name_ticks(ax, side, parameter.options, 10)
        ax.set(**{f"{side}lim": limits})
        return

    # A margin of the same share of the range on linear and logarithmic scales.
    low, high = parameter.low, parameter.high
    limits = tuple(parameter_norm(parameter).inverse(np.array([-margin, 1 + margin])))
    if parameter.log:
        ax.set(**{f"{side}scale": "log"})
        log_ticks(axis, high / low)
    else:
        axis.set_major_locator(_linear_locator(parameter, 4))
    if is_discrete(parameter):
        # Few values: a tick at each, in the middle of its share of the axis.
        half = (parameter.step or 0) / 2
        limits = (low - half, high + half)

    ax.set(**{f"{side}lim": limits})


def draw_mean(
    ax: Axes,
    parameter: Parameter,
    x: FloatArray,
    mean: FloatArray,
    std: FloatArray,
    bands: int = 1,
) -> None:
    """Draw predictions along one parameter with their uncertainty.

    Args:
        ax: the axes, whose x axis is the parameter's.
        parameter: the parameter that varies.
        x: positions along it, shape (n,).
        mean: predictions, shape (n,).
        std: their standard deviations, shape (n,).
        bands: number of standard deviations that are shown; choices have one.
    """
    if isinstance(parameter, ChoiceParameter):
        ax.errorbar(
            x,
            mean,
            std,
            fmt="o",
            color=BLUE,
            capsize=4,
            label="mean ± std",
        )
        return

    ax.plot(
        x,
        mean,
        color=BLUE,
        label="mean",
    )
    for times in range(1, bands + 1):
        ax.fill_between(
            x,
            mean - times * std,
            mean + times * std,
            color=BLUE,
            alpha=0.25 / times,
            linewidth=0,
            label=f"± {times} std",
        )


def draw_surface(
    ax: Axes,
    varied: Sequence[Parameter],
    grids: Sequence[FloatArray],
    surface: FloatArray,
    norm: Normalize | None = None,
) -> Any:
    """Draw predictions over two parameters; grey where one of them is inactive.

    Args:
        ax: the axes.
        varied: the parameters of the x and the y axis.
        grids: positions along each, shapes (n_x,) and (n_y,).
        surface: predictions, shape (n_y, n_x); NaN where there is none.
        norm: scale of the colours; default: that of the surface.

    Returns:
        The artist, for a colour bar.
    """
    x, y = varied
    parameter_axis(ax, "x", x, margin=0)
    parameter_axis(ax, "y", y, margin=0)
    ax.set_facecolor("0.85")
    ax.grid(visible=False)

    # Colours run into each other only where all values between are possible.
    smooth = not is_discrete(x) and not is_discrete(y) and not np.isnan(surface).any()
    return ax.pcolormesh(
        *grids,
        np.ma.masked_invalid(surface),
        shading="gouraud" if smooth else "nearest",
        cmap="viridis",
        norm=norm,
    )
