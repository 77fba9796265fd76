"""Draw a slice through the surrogate of a study: one or two hyperparameters vary.

The surrogate is a plain Gaussian process fitted to the completed trials for display. The sampler's
own model also has an output transform and columns of fidelity and task.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hpo_lib.plots.parameter_axes import draw_mean, draw_surface, parameter_axis, positions
from hpo_lib.plots.style import (
    DOT,
    GREEN,
    ORANGE,
    STAR,
    VALUE,
    AxesArray,
    FloatArray,
    failure_ticks,
    panels,
    value_bar,
)
from hpo_lib.plots.trials import Points, trial_points
from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.samplers.encoding import Encoder
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, Value
from hpo_lib.trials import recorded_trials, study_space

Acquisition = Literal["log EI", "EI"]

_MIN_NEARNESS = 0.05
_LOG_DEPTH = 12.0
"""Range of colours for the logarithm of the expected improvement, below its maximum."""


@dataclass(frozen=True)
class FittedStudy:
    """A study with its surrogate, at its trials of one moment.

    Attributes:
        space: search space of the study.
        surrogate: model that was fitted to the completed trials.
        points: the finished trials.
        rows: their inputs of the model, shape (n, d); NaN for a trial outside the space.
        incumbent: value of every parameter; the default's where it is inactive.
    """

    space: SearchSpace
    surrogate: Surrogate
    points: Points
    rows: FloatArray
    incumbent: Configuration

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that can be varied: those with more than one value."""
        return tuple(axis.name for axis in self.surrogate.encoder.axes)


class Slice(NamedTuple):
    """Predictions along one axis, shape (n_x,), or along two, shape (n_y, n_x).

    Attributes:
        varied: the parameter of each axis, x first.
        grids: positions along each axis.
        mean: predictions; NaN where a varied parameter is inactive.
        std: their standard deviations.
        log_improvement: natural logarithm of the expected improvement.
        at: value of every parameter that can be varied, at which the others stand.
        points: the finished trials.
        nearness: for each of them 1 on the slice, falling to 0 with the distance from it.
        best: lowest prediction at a completed trial.
    """

    varied: tuple[Parameter, ...]
    grids: tuple[FloatArray, ...]
    mean: FloatArray
    std: FloatArray
    log_improvement: FloatArray
    at: Configuration
    points: Points
    nearness: FloatArray
    best: float

    @property
    def near(self) -> NDArray[np.bool_]:
        """Whether each trial is near enough to be shown."""
        return self.nearness > _MIN_NEARNESS


def fitted_study(study: optuna.Study, n_trials: int | None = None) -> FittedStudy:
    """Fit the surrogate to the completed trials of a study.

    Args:
        study: a study that `run_study` recorded.
        n_trials: how many of the first finished trials are seen; None: all.

    Raises:
        ValueError: fewer than three of these trials are completed.
    """
    space = study_space(study)
    trials = [trial for trial in recorded_trials(study) if trial.is_finished][:n_trials]
    surrogate = fit_surrogate(trials, space)
    points = trial_points(trials, space)

    # Trials outside the space, for instance of another program, have no row.
    encoder = surrogate.encoder
    outside = (np.nan,) * len(encoder.axes)
    rows = np.array([encoder.encode(trial.params) or outside for trial in trials])
    # Inactive parameters of the incumbent stand at their default.
    best = {} if points.incumbent is None else trials[points.incumbent].params
    incumbent = {p.name: best.get(p.name, p.default) for p in space.searched}
    return FittedStudy(
        space,
        surrogate,
        points,
        encoder.scale(rows),
        incumbent,
    )


def slice_data(
    source: optuna.Study | FittedStudy,
    names: Sequence[str] = (),
    at: Mapping[str, Value] | None = None,
    resolution: int | None = None,
) -> Slice:
    """Predict along one or two hyperparameters while the others stand still.

    Args:
        source: a study with at least three completed trials, or what `fitted_study` returns.
        names: x, or x and y; default: the first hyperparameter.
        at: values of any hyperparameters; the others have the incumbent's.
        resolution: points per axis; default: 121 along one, 25 along two.

    Raises:
        ValueError: a name is unknown or a value outside its range.
    """
    fitted = source if isinstance(source, FittedStudy) else fitted_study(source)
    names = tuple(names) or fitted.names[:1]
    at = at or {}
    _check_names(fitted, names, at)

    # The parameters that vary, and the values at which the others stand.
    at = {**fitted.incumbent, **at}
    varied = tuple(fitted.space[name] for name in names)
    resolution = resolution or (121 if len(names) == 1 else 25)
    grids = [parameter.grid_values(resolution) for parameter in varied]

    # Predictions at the points of the grid; inactive parameters have their default.
    encoder = fitted.surrogate.encoder
    model = fitted.surrogate.model
    rows, shape = _grid_rows(encoder, at, names, grids)
    mean, std = model.predict(encoder.scale(encoder.impute(rows)), return_std=True)
    if any(parameter.when for parameter in varied):
        inactive = _is_inactive(fitted.space, at, names, grids)
        mean[inactive] = np.nan
        std[inactive] = np.nan

    # Less than the best mean of a trial is an improvement.
    best = float(model.predict(model.X_).min())
    log_improvement = log_expected_improvement(mean, std, best, model.noise_)

    return Slice(
        varied=varied,
        grids=tuple(positions(p, grid) for p, grid in zip(varied, grids, strict=True)),
        mean=mean.reshape(shape),
        std=std.reshape(shape),
        log_improvement=log_improvement.reshape(shape),
        at=at,
        points=fitted.points,
        nearness=_nearness(fitted, at, names),
        best=best,
    )


def _row(encoder: Encoder, at: Configuration) -> FloatArray:
    """Return a configuration as a row of the model's inputs before scaling, shape (1, d)."""
    return np.array([[axis.to_number(at[axis.name]) for axis in encoder.axes]], dtype=float)


def _grid_rows(
    encoder: Encoder,
    at: Configuration,
    names: Sequence[str],
    grids: Sequence[Sequence[Value]],
) -> tuple[FloatArray, tuple[int, ...]]:
    """Return a row per point of the grid, x varying fastest, and the shape of the grid."""
    # Positions along each axis, as numbers of the encoder.
    axes = {axis.name: axis for axis in encoder.axes}
    positions: list[list[float]] = []
    for name, grid in zip(names, grids, strict=True):
        positions.append([axes[name].to_number(value) for value in grid])

    # Arrays [y, x]; everything else stands at the shown configuration.
    mesh = np.meshgrid(*positions)
    rows = np.repeat(_row(encoder, at), mesh[0].size, axis=0)
    columns = list(axes)
    for name, coordinates in zip(names, mesh, strict=True):
        rows[:, columns.index(name)] = coordinates.ravel()
    return rows, mesh[0].shape


def _check_names(
    fitted: FittedStudy,
    names: Sequence[str],
    at: Mapping[str, Value],
) -> None:
    different = set(names)
    if len(names) > 2 or len(different) < len(names) or not different <= set(fitted.names):
        message = f"names must be one or two different ones out of {fitted.names}, got {names}"
        raise ValueError(message)

    unknown = set(at) - {parameter.name for parameter in fitted.space.searched}
    if unknown:
        message = f"at must name searched parameters, got {sorted(unknown)}"
        raise ValueError(message)


def _is_inactive(
    space: SearchSpace,
    at: Configuration,
    names: Sequence[str],
    grids: Sequence[Sequence[Value]],
) -> NDArray[np.bool_]:
    """Return whether a varied parameter is inactive at each point, x varying fastest."""
    inactive: list[bool] = []
    for values in itertools.product(*reversed(grids)):
        point = dict(zip(reversed(names), values, strict=True))
        inactive.append(not set(names) <= set(space.complete({**at, **point})))
    return np.array(inactive)


def _nearness(
    fitted: FittedStudy,
    at: Configuration,
    names: Sequence[str],
) -> FloatArray:
    """Return how similar each trial is to the nearest point of the slice, shape (n,).

    It is exp(-d² / 2) for the distance d in the length scales of the surrogate. The parameters
    that vary along the slice are ignored.
    """
    encoder = fitted.surrogate.encoder
    scaled = fitted.surrogate.model.scaled
    row = encoder.scale(encoder.impute(_row(encoder, at)))
    rows = fitted.rows

    # Two options of a choice are as far apart as any other two.
    differs = np.where(np.isnan(rows), np.nan, rows != row)
    origin = scaled(np.where(encoder.choice, 0, row))
    distance = scaled(np.where(encoder.choice, differs, rows)) - origin

    # NaN, of trials outside the space, stays NaN and counts as far away.
    distance[:, np.isin(fitted.names, names)] *= 0
    squared = (distance**2).sum(axis=1)
    return np.nan_to_num(np.exp(-0.5 * squared))


def plot_slice(
    source: optuna.Study | FittedStudy | Slice,
    names: Sequence[str] = (),
    at: Mapping[str, Value] | None = None,
    acquisition: Acquisition = "log EI",
) -> AxesArray:
    """Draw mean, uncertainty and expected improvement of the surrogate, and the trials near.

    Along one hyperparameter: the mean with one and two standard deviations, and the improvement;
    along two, a surface of each. Dots fade with the distance of a trial from the slice.

    Args:
        source: a study, or what `fitted_study` or `slice_data` returns.
        names: x, or x and y; default: the first hyperparameter.
        at: values of any hyperparameters; the others have the incumbent's.
        acquisition: whether the improvement is drawn as its logarithm or as it is.

    Returns:
        The axes: two along one hyperparameter, three along two.

    Raises:
        ValueError: a name is unknown or a value outside its range.
    """
    data = source if isinstance(source, Slice) else slice_data(source, names, at)

    # Far below its maximum the logarithm would take all colours.
    highest = np.nanmax(data.log_improvement, initial=-np.inf)
    improvement = np.maximum(data.log_improvement, highest - _LOG_DEPTH)
    text = "log expected improvement"
    if acquisition == "EI":
        improvement = np.exp(improvement)
        text = "expected improvement (fraction)"

    if len(data.varied) == 1:
        mark = "line"
        axes = _draw_line(data, improvement, text)
    else:
        mark = "cross"
        axes = _draw_surfaces(data, improvement, text)

    title = f"dots: {data.near.sum()} of {len(data.near)} trials near the slice"
    title += f"; {mark}: the shown configuration"
    if np.isnan(data.mean).any():
        title += "; grey: inactive"
    axes[0].figure.suptitle(title, fontsize=10)
    return axes


def _draw_line(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    """Draw the slice along one parameter, and the improvement beside it."""
    axes = panels(2, 2, 4.3, 3.3)
    parameter = data.varied[0]
    for ax in axes:
        # A dashed line at the shown configuration.
        parameter_axis(ax, "x", parameter, margin=0.02)
        here = positions(parameter, [data.at[parameter.name]])[0]
        ax.axvline(
            here,
            color="black",
            linewidth=1,
            linestyle="--",
            zorder=1.5,
        )

    left, right = axes
    _draw_mean_and_trials(left, data)
    if isinstance(parameter, ChoiceParameter):
        # Bars stand on the lowest value, since logarithms are negative.
        lowest = np.fmin.reduce(improvement)
        heights = improvement - lowest
        right.bar(
            data.grids[0],
            heights,
            0.5,
            lowest,
            color=GREEN,
        )
    else:
        right.plot(data.grids[0], improvement, color=GREEN)
        # Where the parameter is inactive there is no improvement; it may be so everywhere.
        for peak in np.flatnonzero(improvement == np.nanmax(improvement, initial=-np.inf))[:1]:
            right.plot(
                data.grids[0][peak],
                improvement[peak],
                "v",
                color=ORANGE,
                label="largest: try this next",
            )
            right.legend(fontsize=8)

    right.set_ylabel(text)
    return axes


def _draw_mean_and_trials(ax: Axes, data: Slice) -> None:
    """Draw the mean with its uncertainty, and the trials near the slice."""
    parameter = data.varied[0]
    draw_mean(
        ax,
        parameter,
        data.grids[0],
        data.mean,
        data.std,
        bands=2,
    )

    at = data.points.positions[parameter.name]
    near = data.near
    ax.scatter(
        at[near],
        data.points.values[near],
        s=26,
        c=_faded(data, ORANGE),
        linewidth=0,
        zorder=4,
    )
    failure_ticks(ax, at[near & data.points.failed])
    ax.axhline(
        data.best,
        color="0.4",
        linewidth=1,
        linestyle=":",
        label="best mean",
    )
    ax.set_ylabel(VALUE)
    ax.legend(fontsize=8)


def _faded(data: Slice, colour: Any) -> FloatArray:
    """Return a colour for each trial near the slice, opaque on it, shape (n, 4)."""
    nearness = data.nearness[data.near]
    return np.column_stack([np.tile(colour, (len(nearness), 1)), np.clip(nearness, 0.15, 1)])


def _draw_surfaces(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    """Draw mean, standard deviation and improvement over two parameters."""
    axes = panels(3, 3, 2.95, 3.3)
    texts = (f"mean {VALUE}", "standard deviation", text)
    surfaces = zip(axes, (data.mean, data.std, improvement), texts, strict=True)
    for ax, surface, name in surfaces:
        colours = draw_surface(ax, data.varied, data.grids, surface)
        value_bar(colours, ax, name)
        _draw_trials(ax, data)
        ax.label_outer()

    return axes


def _draw_trials(ax: Axes, data: Slice) -> None:
    """Draw the trials near, the incumbent and the shown configuration over a surface."""
    points = data.points
    at_x, at_y = (points.positions[parameter.name] for parameter in data.varied)

    # White dots, the more transparent the farther from the slice.
    near = data.near
    dot: dict[str, Any] = DOT | {"color": _faded(data, (1.0, 1.0, 1.0))}
    ax.scatter(at_x[near], at_y[near], **dot)
    if points.incumbent is not None and near[points.incumbent]:
        ax.scatter(at_x[points.incumbent], at_y[points.incumbent], **STAR)

    # A black cross with a white edge is seen on every colour.
    here = [positions(parameter, [data.at[parameter.name]])[0] for parameter in data.varied]
    for colour, width in (("white", 4), ("black", 1.6)):
        ax.scatter(
            *here,
            marker="+",
            s=120,
            color=colour,
            lw=width,
            clip_on=False,
            zorder=6,
        )
