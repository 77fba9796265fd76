"""The trials of a study at a glance: how they progress, and coordinates that can be brushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hpo_lib.plots.data import Points, points_data
from hpo_lib.plots.style import (
    BLUE,
    ORANGE,
    RED,
    WHITE,
    colour_norm,
    label,
    legend_above,
    one_axes,
    unit_heights,
    unit_ticks,
    value_axis,
    value_bar,
)
from hpo_lib.space.search_space import Parameter, SearchSpace
from hpo_lib.trials import incumbent, recorded_trials

Mask = NDArray[np.bool_]
Range = tuple[float, float]


TrialCurves = dict[str, dict[int, NDArray[np.float64]]]
"""Validation error per epoch, by trial number, of the trials of each kind."""


_KINDS: dict[str, dict[str, Any]] = {
    "completed": {"color": "0.72", "linewidth": 1},
    "pruned": {"color": "0.6", "linestyle": ":"},
    "failed": {"color": RED, "linestyle": ":"},
    "running": {"color": ORANGE, "linewidth": 1.8, "linestyle": "--", "marker": "."},
    "incumbent": {"color": BLUE, "linewidth": 2.6},
}


def trial_curves_data(study: optuna.Study, most: int = 100) -> TrialCurves:
    """The curves of the newest trials, as far as each has come, and of the incumbent."""
    trials = [t for t in recorded_trials(study) if t.record.validation_error]
    best = incumbent(trials)
    kinds: TrialCurves = {kind: {} for kind in _KINDS}
    newest = trials[-most:]
    for trial in newest if best is None or best in newest else [best, *newest]:
        outcome = str(trial.outcome) if trial.outcome in _KINDS else "failed"
        kind = "incumbent" if trial is best else outcome
        errors = np.asarray(trial.record.validation_error, dtype=float)
        kinds[kind][trial.number] = np.where(np.isfinite(errors), errors, np.nan)
    return kinds


def plot_trial_curves(source: optuna.Study | TrialCurves, ax: Axes | None = None) -> Axes:
    """Draw the learning curves of running and finished trials, the incumbent's on top."""
    data = trial_curves_data(source) if isinstance(source, optuna.Study) else source
    ax = one_axes(ax)
    for kind, curves in data.items():
        for i, (number, errors) in enumerate(curves.items()):
            name = f"trial {number}" if kind == "incumbent" else f"n = {len(curves)}"
            style: dict[str, Any] = {"label": "" if i else f"{kind}: {name}", **_KINDS[kind]}
            style |= {"marker": "o", "markersize": 4} if len(errors) == 1 else {}
            ax.plot(np.arange(1, len(errors) + 1), errors, **style)
    ax.set_xlabel("epoch")
    longest = max((len(e) for curves in data.values() for e in curves.values()), default=1)
    ax.set_xlim(1 - 0.05 * longest, 1.05 * longest)
    ax.xaxis.set_major_locator(MaxNLocator(min(longest, 6), integer=True))
    value_axis(ax, [errors for curves in data.values() for errors in curves.values()])
    legend_above(ax)
    return ax


def brush(points: Points, ranges: Mapping[str, Range], values: Range | None = None) -> Mask:
    """Which trials lie within all the ranges of positions, and within that of values.

    One in which a ranged parameter is inactive lies outside; so does a failure, given `values`.
    """
    mask = np.ones(len(points.values), dtype=bool)
    axes = [(points.positions[name], ends) for name, ends in ranges.items()]
    for at, (low, high) in [*axes, *([(points.values, values)] if values else [])]:
        mask &= (at >= low) & (at <= high)
    return mask


def plot_parallel_coordinates(
    source: optuna.Study | Points,
    space: SearchSpace | None = None,
    ax: Axes | None = None,
    shown: Mask | None = None,
) -> Axes:
    """Draw a line per trial across one axis per parameter, the best on top.

    Trials that are not `shown` (a mask; default: all are) stay as faint lines.
    """
    data = source if isinstance(source, Points) else points_data(source, space)
    bright = np.ones(len(data.values), dtype=bool) if shown is None else shown
    n = len(data.parameters)
    ax = one_axes(ax, max(7.0, 1.15 * n))
    heights = np.column_stack([unit_heights(p, data.positions[p.name]) for p in data.parameters])
    inactive = np.isnan(heights)
    x, y = np.broadcast_arrays(np.arange(n), np.where(inactive, -0.12, heights))
    lines = np.stack([x, y], axis=-1)
    order = np.argsort(-data.values)[: np.isfinite(data.values).sum()]
    order = order[bright[order]]
    failed = list(lines[data.failed & bright])
    ax.add_collection(LineCollection(failed, colors="0.7", linestyles=":"))
    norm = colour_norm([data.values])
    ax.add_collection(LineCollection(list(lines[order]), array=data.values[order], norm=norm))
    ax.add_collection(LineCollection(list(lines[~bright]), colors="0.9", zorder=0.5))
    if data.incumbent is not None and bright[data.incumbent]:
        halo = [withStroke(linewidth=5, foreground="white")]
        ax.plot(x[0], y[data.incumbent], color="black", lw=2.2, zorder=4, path_effects=halo)
    for i, parameter in enumerate(data.parameters):
        _draw_coordinate(ax, i, parameter)
    if inactive.any():
        ax.text(-0.08, -0.12, "inactive", ha="right", va="center", fontsize=8)
    ax.set_xticks(range(n), [label(p.name, 14) for p in data.parameters])
    ax.set(xlim=(-0.6, n - 0.8), ylim=(-0.17 if inactive.any() else -0.04, 1.04), yticks=[])
    ax.set(xlabel="hyperparameter", ylabel="value of each hyperparameter")
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
    within = "" if bright.all() else f"{int(bright.sum())} of "
    ax.set_title(f"{within}{trial_counts(data, 'dotted')}, incumbent in black", fontsize=10)
    value_bar(norm, ax)
    return ax


def trial_counts(data: Points, mark: str) -> str:
    """How many trials a figure shows, and how many of them without a value."""
    n = int(data.failed.sum())
    return f"n = {len(data.values)} trials" + (f", {n} failed/pruned ({mark})" if n else "")


def _draw_coordinate(ax: Axes, x: int, parameter: Parameter) -> None:
    ax.vlines(x, 0, 1, color="0.3", linewidth=1, zorder=3)
    for y, text in unit_ticks(parameter):
        ax.plot([x - 0.03, x], [y, y], color="0.3", linewidth=1, zorder=3)
        ax.text(x - 0.05, y, text, ha="right", va="center", fontsize=8, zorder=6, bbox=WHITE)
