"""A slice through the surrogate of a study at one configuration: computed, and drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from hpo_lib.plots.data import FloatArray, Points, position, trial_points
from hpo_lib.plots.style import (
    BLUE,
    DOT,
    GREEN,
    ORANGE,
    STAR,
    VALUE,
    AxesArray,
    failure_ticks,
    is_discrete,
    panels,
    parameter_axis,
    value_bar,
)
from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.search_space import ChoiceParameter, Parameter, SearchSpace, Value
from hpo_lib.trials import recorded_trials, study_space

Acquisition = Literal["log EI", "EI"]

_NEAR = 0.05
_DEPTH = 12.0
"""How far below its maximum the logarithm of the expected improvement is still told apart."""


@dataclass(frozen=True)
class FittedStudy:
    """A study with its surrogate, at its trials of one moment.

    `rows` are the finished trials' coordinates, of shape (trials, d), NaN outside the space.
    """

    space: SearchSpace
    surrogate: Surrogate
    points: Points
    rows: FloatArray
    incumbent: dict[str, Value]

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that can be varied: those with more than one value."""
        return tuple(axis.name for axis in self.surrogate.encoder.axes)


class Slice(NamedTuple):
    """Predictions along one axis, or along two as arrays [y, x]; NaN where one is inactive.

    `at` has a value for every parameter that can be varied. `nearness` of the trials of `points`
    is 1 on the slice and falls to 0 with the distance in the surrogate's length scales.
    """

    varied: tuple[Parameter, ...]
    grids: tuple[FloatArray, ...]
    mean: FloatArray
    std: FloatArray
    log_improvement: FloatArray
    at: dict[str, Value]
    points: Points
    nearness: FloatArray
    best: float

    @property
    def near(self) -> Any:
        """Which trials are near enough to be shown."""
        return self.nearness > _NEAR


def fitted_study(study: optuna.Study) -> FittedStudy:
    """Fit the surrogate to the completed trials; ValueError when they are fewer than four."""
    space = study_space(study)
    trials = [trial for trial in recorded_trials(study) if trial.is_finished]
    surrogate = fit_surrogate(trials, space)
    encoder = surrogate.encoder
    known = [encoder.encode(trial.params) for trial in trials]
    outside = (np.nan,) * len(encoder.axes)
    rows = encoder.scale(np.array([outside if point is None else point for point in known]))
    points = trial_points(trials, space)
    best = {} if points.incumbent is None else trials[points.incumbent].params
    incumbent = {p.name: best.get(p.name, p.default) for p in space.searched}
    return FittedStudy(space, surrogate, points, rows, incumbent)


def slice_data(
    source: optuna.Study | FittedStudy,
    names: Sequence[str] = (),
    at: Mapping[str, Value] | None = None,
    resolution: int | None = None,
) -> Slice:
    """Predict along one or two hyperparameters, the others standing at `at`.

    Args:
        source: a study with at least four completed trials.
        names: x, or x and y; default: the first hyperparameter.
        at: values of any hyperparameters; the others have the incumbent's.
        resolution: points per axis; default 121 along one, 25 along two.

    Raises:
        ValueError: a name is unknown or a value outside its range.
    """
    fitted = source if isinstance(source, FittedStudy) else fitted_study(source)
    names = tuple(names) or fitted.names[:1]
    if len(names) > 2 or len(set(names)) < len(names) or not set(names) <= set(fitted.names):
        message = f"names must be one or two different ones out of {fitted.names}, got {names}"
        raise ValueError(message)
    unknown = set(at or {}) - {p.name for p in fitted.space.searched}
    if unknown:
        message = f"at must name searched parameters, got {sorted(unknown)}"
        raise ValueError(message)
    shown = {**fitted.incumbent, **(at or {})}
    varied = tuple(fitted.space[name] for name in names)
    values = [p.grid_values(resolution or (121 if len(names) == 1 else 25)) for p in varied]
    combinations = list(itertools.product(*reversed(values)))  # rows of y, columns of x
    encoder, model = fitted.surrogate.encoder, fitted.surrogate.model
    at_row = np.array([axis.to_number(shown[axis.name]) for axis in encoder.axes])
    rows = np.tile(at_row, (len(combinations), 1))
    columns = [fitted.names.index(name) for name in reversed(names)]
    for column, grid in zip(columns, zip(*combinations, strict=True), strict=True):
        rows[:, column] = [encoder.axes[column].to_number(value) for value in grid]
    mean, std = model.predict(encoder.scale(encoder.impute(rows)), return_std=True)
    if any(parameter.when for parameter in varied):
        tried = (dict(zip(reversed(names), c, strict=True)) for c in combinations)
        completed = (fitted.space.complete({**shown, **one}) for one in tried)
        inactive = [not set(names) <= set(configuration) for configuration in completed]
        mean, std = np.where(inactive, np.nan, mean), np.where(inactive, np.nan, std)
    best = float(model.predict(model.X_).min())
    log_improvement = log_expected_improvement(mean, std, best, model.noise_)
    shape = [len(grid) for grid in reversed(values)]
    positions = tuple(
        np.array([position(p, value) for value in grid])
        for p, grid in zip(varied, values, strict=True)
    )
    scaled = encoder.scale(encoder.impute(at_row[None].copy()))
    near = _nearness(fitted, scaled[0], columns)
    mean, std, improvement = (one.reshape(shape) for one in (mean, std, log_improvement))
    return Slice(varied, positions, mean, std, improvement, shown, fitted.points, near, best)


def _nearness(fitted: FittedStudy, at: FloatArray, free: Sequence[int]) -> FloatArray:
    """How alike the surrogate takes each trial to be to the nearest point of the slice."""
    rows, choice = fitted.rows, fitted.surrogate.encoder.choice
    unlike = np.where(np.isnan(rows), np.nan, rows != at)
    scaled = fitted.surrogate.model.scaled
    apart = scaled(np.where(choice, unlike, rows)) - scaled(np.where(choice, 0, at)[None])
    apart[:, list(free)] *= 0
    return np.nan_to_num(np.exp(-0.5 * (apart**2).sum(axis=1)))


def plot_slice(
    source: optuna.Study | FittedStudy | Slice,
    names: Sequence[str] = (),
    at: Mapping[str, Value] | None = None,
    acquisition: Acquisition = "log EI",
) -> AxesArray:
    """Draw mean, uncertainty and expected improvement of the surrogate, and the trials near.

    Along one hyperparameter: the mean with one and two standard deviations, and the improvement;
    along two, a surface each. Dots fade with the distance of a trial from the slice.
    """
    data = source if isinstance(source, Slice) else slice_data(source, names, at)
    highest = _ends(data.log_improvement)[1]
    log_values = np.maximum(data.log_improvement, highest - _DEPTH)
    improvement = log_values if acquisition == "log EI" else np.exp(log_values)
    text = "expected improvement"
    text = f"log {text} (natural)" if acquisition == "log EI" else f"{text} (fraction)"
    draw = _draw_line if len(data.varied) == 1 else _draw_surfaces
    axes = draw(data, improvement, text)
    figure = axes[0].figure
    shown = f"dots: {int(data.near.sum())} of {len(data.points.values)} trials near the slice"
    grey = "; grey: inactive" if np.isnan(data.mean).any() else ""
    mark = "line" if len(data.varied) == 1 else "cross"
    figure.suptitle(f"{shown}; {mark}: the shown configuration{grey}", fontsize=10)
    return axes


def _draw_line(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    axes = panels(2, 2, 4.3, 3.3)
    (parameter,), (x,) = data.varied, data.grids
    here = position(parameter, data.at[parameter.name])
    for ax in axes:
        parameter_axis(ax, "x", parameter, margin=0.02)
        ax.axvline(here, color="black", linewidth=1, linestyle="--", zorder=1.5)
    left, right = axes
    if isinstance(parameter, ChoiceParameter):
        left.errorbar(x, data.mean, data.std, fmt="o", color=BLUE, capsize=4, label="mean ± std")
        right.bar(
            x, improvement - np.nanmin(improvement), 0.5, np.nanmin(improvement), color=GREEN
        )
    else:
        left.plot(x, data.mean, color=BLUE, label="mean")
        for times, alpha in ((1, 0.25), (2, 0.12)):
            ends = data.mean - times * data.std, data.mean + times * data.std
            left.fill_between(x, *ends, color=BLUE, alpha=alpha, lw=0, label=f"± {times} std")
        right.plot(x, improvement, color=GREEN)
    at, near = data.points.positions[parameter.name], data.near
    colours = _faded(data)
    left.scatter(at[near], data.points.values[near], s=26, c=colours[near], lw=0, zorder=4)
    failure_ticks(left, at[near & data.points.failed])
    left.axhline(data.best, color="0.4", linewidth=1, linestyle=":", label="best mean")
    left.set_ylabel(VALUE)
    left.legend(fontsize=8)
    right.set_ylabel(text)
    return axes


def _ends(values: FloatArray) -> tuple[float, float]:
    """The least and the largest finite value; 0 and 0 when there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _faded(data: Slice) -> FloatArray:
    """A colour per trial, opaque on the slice."""
    colours = np.tile([*ORANGE, 1.0], (len(data.nearness), 1))
    colours[:, 3] = np.clip(data.nearness, 0.15, 1)
    return colours


def _draw_surfaces(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    axes = panels(3, 3, 2.95, 3.3)
    x, y = data.varied
    surfaces = (
        (data.mean, f"mean {VALUE}"),
        (data.std, "standard deviation"),
        (improvement, text),
    )
    for i, (ax, (surface, name)) in enumerate(zip(axes, surfaces, strict=True)):
        parameter_axis(ax, "x", x, margin=0)
        parameter_axis(ax, "y", y, margin=0)
        ax.set_facecolor("0.85")
        ax.grid(visible=False)
        if i:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        _draw_surface(ax, data, surface, name)
    return axes


def _draw_surface(ax: Axes, data: Slice, surface: FloatArray, name: str) -> None:
    x, y = data.varied
    low, high = _ends(surface)
    norm = Normalize(low, high if high > low else low + 1e-3)
    grid: tuple[Any, ...] = (*data.grids, np.ma.masked_invalid(surface))
    if is_discrete(x) or is_discrete(y) or np.isnan(surface).any():
        ax.pcolormesh(*grid, shading="nearest", cmap="viridis", norm=norm)
    else:
        ax.pcolormesh(*grid, shading="gouraud", cmap="viridis", norm=norm)
    value_bar(norm, ax, name)
    near, points = data.near, data.points
    colours = np.ones((len(near), 4))
    colours[:, 3] = _faded(data)[:, 3]
    at = [points.positions[p.name] for p in (x, y)]
    dot: dict[str, Any] = {**DOT, "color": colours[near]}
    star: dict[str, Any] = {**STAR, "s": 110}
    ax.scatter(at[0][near], at[1][near], **dot)
    if points.incumbent is not None and near[points.incumbent]:
        ax.scatter(at[0][points.incumbent], at[1][points.incumbent], **star)
    here = [position(p, data.at[p.name]) for p in (x, y)]
    ax.scatter(*here, marker="+", s=130, color="white", linewidth=4, clip_on=False, zorder=6)
    ax.scatter(*here, marker="+", s=110, color="black", linewidth=1.6, clip_on=False, zorder=6)
