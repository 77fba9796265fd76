"""Draw the trials of a study: slices, parallel coordinates and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hpo_lib.plots.parameter_axes import parameter_axis, positions, unit_heights, unit_ticks
from hpo_lib.plots.style import (
    BLUE,
    ORANGE,
    RED,
    STAR,
    WHITE,
    AxesArray,
    FloatArray,
    failure_ticks,
    finite,
    label,
    legend_above,
    one_axes,
    panels,
    value_axis,
    value_bar,
    value_norm,
)
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.trials import (
    VALIDATION_ERROR,
    RecordedTrial,
    incumbent,
    recorded_trials,
    study_space,
    value_name,
)

Mask = NDArray[np.bool_]

TrialCurves = dict[str, dict[int, FloatArray]]
"""Validation error per epoch, by trial number, of the trials of each kind."""

_CURVE_STYLES: dict[str, dict[str, Any]] = {
    "completed": {"color": "0.72", "linewidth": 1},
    "pruned": {"color": "0.6", "linestyle": ":", "marker": "x", "markeredgecolor": "0.25"},
    "failed": {"color": RED, "linestyle": ":"},
    "running": {
        "color": ORANGE,
        "linewidth": 1.8,
        "linestyle": "--",
        "marker": ".",
    },
    "incumbent": {"color": BLUE, "linewidth": 2.6},
}
"""Style of each kind of trial, the last on top."""

_MOST_CURVES = 100
"""Largest number of trials with a curve; the incumbent has one in any case."""

_INACTIVE_HEIGHT = -0.12
"""Where lines pass the axis of a parameter that is inactive, below its range."""


class Points(NamedTuple):
    """Finished trials as points of a search space.

    Attributes:
        parameters: the searched parameters.
        positions: for each parameter an array over trials, shape (n,): a number, or the index of
            an option; NaN where the parameter is inactive.
        values: final values, shape (n,); NaN where a trial failed or was pruned.
        numbers: numbers of the trials, shape (n,).
        incumbent: index of the incumbent in these arrays, None where there is none.
        value_name: what the values are called.
    """

    parameters: tuple[Parameter, ...]
    positions: dict[str, FloatArray]
    values: FloatArray
    numbers: NDArray[np.int64]
    incumbent: int | None
    value_name: str = "value"

    @property
    def failed(self) -> Mask:
        """Whether each trial has no final value: it failed or was pruned."""
        return np.isnan(self.values)

    def describe(self, mark: str) -> str:
        """Return how many trials there are, and how many without a value, shown by a mark."""
        n_failed = int(self.failed.sum())
        text = f"n = {len(self.values)} trials"
        return f"{text}, {n_failed} without a final value ({mark})" if n_failed else text


def points_data(study: optuna.Study) -> Points:
    """Return the finished trials of a study as points of its search space."""
    return trial_points(recorded_trials(study), study_space(study))


def trial_points(trials: Sequence[RecordedTrial], space: SearchSpace) -> Points:
    """Return the finished ones of some trials as points of a search space.

    Args:
        trials: trials of one study.
        space: the search space; of a trial outside it, what lies inside is shown.
    """
    finished = [trial for trial in trials if trial.is_inside and trial.is_finished]
    configurations = [trial.configuration for trial in finished]
    best = incumbent(finished)  # never a warm-start trial
    return Points(
        parameters=space.searched,
        positions={
            parameter.name: positions(parameter, [c.get(parameter.name) for c in configurations])
            for parameter in space.searched
        },
        values=finite([trial.value for trial in finished]),
        numbers=np.array([trial.number for trial in finished], dtype=np.int64),
        incumbent=None if best is None else finished.index(best),
        value_name=value_name(finished),
    )


def spread_positions(
    data: Points,
    parameter: Parameter,
    width: float = 0.4,
) -> FloatArray:
    """Return positions of trials on an axis; those of one option stand beside each other.

    Args:
        data: the trials.
        parameter: what the axis shows.
        width: of the room for one option, in distances between two.
    """
    at = data.positions[parameter.name]
    if isinstance(parameter, ChoiceParameter):
        # Multiples of the golden ratio never meet.
        return at + width * (data.numbers * 0.618 % 1 - 0.5)
    return at


def plot_slices(source: optuna.Study | Points) -> AxesArray:
    """Draw value against each parameter, coloured by trial, failures as ticks at the top.

    Args:
        source: a study, or what `points_data` returns.

    Returns:
        The axes, one per parameter.
    """
    data = source if isinstance(source, Points) else points_data(source)
    axes = panels(
        len(data.parameters),
        4,
        2.4,
        2.4,
        sharey=True,
    )
    dots: Any = None
    for ax, parameter in zip(axes, data.parameters, strict=True):
        parameter_axis(ax, "x", parameter)
        x = spread_positions(data, parameter)
        n_active = int(np.isfinite(x).sum())
        if n_active < len(x):
            ax.set_title(f"active in {n_active} of {len(x)}", fontsize=9)

        dots = ax.scatter(
            x,
            data.values,
            s=22,
            c=data.numbers,
            cmap="cividis_r",
            vmin=0,
            vmax=data.numbers.max(initial=1),
            edgecolor="0.3",
            linewidth=0.4,
        )
        failure_ticks(ax, x[data.failed])
        if data.incumbent is not None:
            ax.scatter(x[data.incumbent], data.values[data.incumbent], **STAR)

    # One y axis per row, and one colour bar for all.
    for ax in axes[::4]:
        value_axis(ax, [data.values], data.value_name)
    bar = value_bar(dots, list(axes), "trial (number)")
    bar.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].figure.suptitle(f"{data.describe('red ticks')}, star: incumbent", fontsize=11)
    return axes


def plot_parallel_coordinates(source: optuna.Study | Points, ax: Axes | None = None) -> Axes:
    """Draw a line per trial across one axis per parameter, the best on top.

    Args:
        source: a study, or what `points_data` returns.
        ax: axes to draw into; default: a new figure.
    """
    data = source if isinstance(source, Points) else points_data(source)
    n_parameters = len(data.parameters)
    ax = one_axes(ax, max(7.0, 1.15 * n_parameters))

    # The axes of the parameters take the place of the y axis.
    has_inactive = _draw_trials(ax, data)
    for i, parameter in enumerate(data.parameters):
        _draw_coordinate(ax, i, parameter)
    bottom = -0.04
    if has_inactive:
        bottom = -0.17
        ax.text(
            -0.08,
            _INACTIVE_HEIGHT,
            "inactive",
            ha="right",
            va="center",
            fontsize=8,
        )

    ax.set(xlim=(-0.6, n_parameters - 0.8), ylim=(bottom, 1.04), yticks=[])
    ax.set_xticks(range(n_parameters), [label(p.name, 14) for p in data.parameters])
    ax.set(xlabel="hyperparameter", ylabel="value of each hyperparameter")
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)

    ax.set_title(f"{data.describe('dotted')}, incumbent in black", fontsize=10)
    return ax


def _draw_trials(ax: Axes, data: Points) -> bool:
    """Draw a line per trial with its colour bar; return whether a parameter is inactive."""
    # Heights of the lines at each axis, shape (trials, parameters).
    y = np.column_stack([unit_heights(p, data.positions[p.name]) for p in data.parameters])
    inactive = np.isnan(y)
    y[inactive] = _INACTIVE_HEIGHT
    x = np.broadcast_to(np.arange(y.shape[1]), y.shape)
    lines = np.stack([x, y], axis=-1)

    def draw(chosen: Any, **style: Any) -> LineCollection:
        collection = LineCollection(list(lines[chosen]), **style)
        ax.add_collection(collection)
        return collection

    # Failed trials below, then the others, of which the best are drawn last.
    draw(data.failed, colors="0.7", linestyles=":")
    best_last = np.argsort(-data.values)
    best_last = best_last[~data.failed[best_last]]
    values = data.values[best_last]
    coloured = draw(best_last, array=values, norm=value_norm([data.values]))
    value_bar(coloured, ax, data.value_name)

    # A white halo sets the incumbent off from the lines that it crosses.
    if data.incumbent is not None:
        halo = [withStroke(linewidth=5, foreground="white")]
        style = {"zorder": 4, "path_effects": halo}
        draw([data.incumbent], colors="black", linewidths=2.2, **style)

    return bool(inactive.any())


def _draw_coordinate(ax: Axes, x: int, parameter: Parameter) -> None:
    """Draw the axis of one parameter with its ticks."""
    style: dict[str, Any] = {"color": "0.3", "linewidth": 1, "zorder": 3}
    ax.vlines(x, 0, 1, **style)
    for y, text in unit_ticks(parameter):
        ax.hlines(y, x - 0.03, x, **style)
        ax.text(
            x - 0.05,
            y,
            text,
            ha="right",
            va="center",
            fontsize=8,
            zorder=6,
            bbox=WHITE,
        )


def trial_curves_data(study: optuna.Study) -> TrialCurves:
    """Return the learning curves of the newest trials, as far as each has come.

    Returns:
        Validation errors per epoch by trial number, for each kind of trial.
    """
    inside = [trial for trial in recorded_trials(study) if trial.is_inside]
    trials = [trial for trial in inside if trial.record.validation_error]
    best = incumbent(trials)

    # The incumbent may be older than the newest trials.
    newest = trials[-_MOST_CURVES:]
    if best is not None and best not in newest:
        newest = [best, *newest]

    curves: TrialCurves = {kind: {} for kind in _CURVE_STYLES}
    for trial in newest:
        kind = "failed" if trial.is_failed else str(trial.outcome)
        kind = "incumbent" if trial is best else kind
        curves[kind][trial.number] = finite(trial.record.validation_error)

    return curves


def plot_trial_curves(source: optuna.Study | TrialCurves, ax: Axes | None = None) -> Axes:
    """Draw the learning curves of running and finished trials, the incumbent's on top.

    Args:
        source: a study, or what `trial_curves_data` returns.
        ax: axes to draw into; default: a new figure.
    """
    data = trial_curves_data(source) if isinstance(source, optuna.Study) else source
    ax = one_axes(ax)
    drawn: list[FloatArray] = []
    for kind, curves in data.items():
        noun = "other completed" if kind == "completed" else kind
        name = f"{noun}: n = {len(curves)}"
        for number, errors in curves.items():
            if kind == "incumbent":
                name = f"{kind}: trial {number}"
            style: dict[str, Any] = {"label": name, **_CURVE_STYLES[kind]}
            # A cross where a trial was stopped. A line needs two points to be seen.
            if kind == "pruned":
                style |= {"markevery": [len(errors) - 1]}
            elif len(errors) == 1:
                style |= {"marker": "o", "markersize": 4}
            ax.plot(np.arange(1, len(errors) + 1), errors, **style)
            drawn.append(errors)
            # One entry of the legend stands for all trials of a kind.
            name = ""

    # A dotted line at each rung where a trial was stopped.
    for rung in {len(errors) for errors in data["pruned"].values()}:
        ax.axvline(rung, color="0.4", linestyle=":", linewidth=1)

    # Some room at both ends, and ticks at whole epochs.
    longest = max(map(len, drawn), default=1)
    ax.set(xlabel="epoch", xlim=(1 - 0.05 * longest, 1.05 * longest))
    ax.xaxis.set_major_locator(MaxNLocator(min(longest, 6), integer=True))
    name = VALIDATION_ERROR
    if isinstance(source, optuna.Study):
        name = value_name(recorded_trials(source))
    value_axis(ax, cast("list[Any]", drawn), name)
    legend_above(ax)
    return ax
