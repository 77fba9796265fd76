"""Draw a slice through the surrogate of a study: one or two hyperparameters vary.

The surrogate is a plain Gaussian process fitted to the completed trials for display. The sampler's
own model also has an output transform and columns of fidelity and task.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from numpy.typing import NDArray

from hpo_lib.plots.parameter_axes import draw_mean, draw_surface, parameter_axis, positions
from hpo_lib.plots.style import (
    DOT,
    GREEN,
    ORANGE,
    STAR,
    AxesArray,
    FloatArray,
    failure_ticks,
    legend_above,
    panels,
    value_bar,
)
from hpo_lib.plots.trials import Points, trial_points
from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, Value
from hpo_lib.trials import incumbent, recorded_trials, study_space

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
        points: the finished trials inside the space.
        rows: their inputs of the model, shape (n, d).
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
        encoder = self.surrogate.encoder
        return tuple(axis.name for axis in encoder.axes if axis.name not in encoder.held)


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
        is_best: whether the others stand at the incumbent's values.
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
    is_best: bool = False

    @property
    def near(self) -> NDArray[np.bool_]:
        """Whether each trial is near enough to be shown."""
        return self.nearness > _MIN_NEARNESS

    @property
    def here(self) -> list[float]:
        """Position of the shown configuration on each axis."""
        return [positions(axis, [self.at[axis.name]])[0] for axis in self.varied]


def fitted_study(
    study: optuna.Study,
    n_trials: int | None = None,
    space: SearchSpace | None = None,
) -> FittedStudy:
    """Fit the surrogate to the completed trials of a study.

    Args:
        study: a study that `run_study` recorded.
        n_trials: how many of the first finished trials are seen; None: all.
        space: the space that is looked at, with all trials inside it; None: the study's own. Where
            the study holds a hyperparameter, it varies in `study_space(study).release(name)`.

    Raises:
        ValueError: fewer than three of these trials are completed.
    """
    recorded = [trial for trial in recorded_trials(study) if trial.is_finished][:n_trials]
    if space is None:
        space = study_space(study)
        trials = recorded
    else:
        inside = [trial for trial in recorded if space.contains(trial.configuration)]
        trials = [trial.as_evidence() for trial in inside]
    surrogate = fit_surrogate(trials, space)

    encoder = surrogate.encoder
    # A trial of another program may lie outside the space.
    inside = filter(attrgetter("is_inside"), trials)
    shown = [trial for trial in inside if encoder.encode(trial.configuration) is not None]
    rows = encoder.points([trial.configuration for trial in shown])

    # A trial with another value than the one that is held may be better, but is no incumbent.
    numbers = [trial.number for trial in shown]
    best = incumbent(trial for trial in recorded if trial.number in numbers)
    index = None if best is None else numbers.index(best.number)
    points = trial_points(shown, space)._replace(incumbent=index)

    # Inactive parameters of the incumbent stand at their default.
    active = {} if best is None else best.configuration
    configuration = {p.name: active.get(p.name, p.default) for p in space.searched}
    return FittedStudy(
        space,
        surrogate,
        points,
        encoder.scale(rows),
        configuration,
    )


def slice_data(
    source: optuna.Study | FittedStudy,
    names: Sequence[str] = (),
    at: Mapping[str, Value] | None = None,
) -> Slice:
    """Predict along one or two hyperparameters while the others stand still.

    Args:
        source: a study with at least three completed trials, or what `fitted_study` returns.
        names: x, or x and y; default: the first hyperparameter.
        at: values of any hyperparameters; the others have the incumbent's.

    Raises:
        ValueError: a name is unknown or a value outside its range.
    """
    fitted = source if isinstance(source, FittedStudy) else fitted_study(source)
    names = tuple(names) or fitted.names[:1]
    if len(names) > 2:
        message = f"names must be one or two, got {names}"
        raise ValueError(message)
    check_varied(names, fitted.names)

    # The parameters that vary, and the values at which the others stand.
    at = {**fitted.incumbent, **(at or {})}
    fitted.space.check(at)
    varied = tuple(fitted.space[name] for name in names)
    resolution = 121 if len(names) == 1 else 25
    predictions = predict_grid(
        fitted.surrogate,
        fitted.space,
        varied[::-1],
        [at],
        resolution,
    )
    mean, std = predictions[..., 0]

    # Less than the best mean of a trial is an improvement.
    model = fitted.surrogate.model
    best = float(model.predict(model.X_).min())
    return Slice(
        varied=varied,
        grids=tuple(positions(axis, axis.grid_values(resolution)) for axis in varied),
        mean=mean,
        std=std,
        log_improvement=log_expected_improvement(mean, std, best, model.noise_),
        at=at,
        points=fitted.points,
        nearness=_nearness(fitted, at, names),
        best=best,
        is_best=at == fitted.incumbent,
    )


def check_varied(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names of parameters to vary that are unknown or there twice.

    Args:
        names: the names.
        known: names of the parameters that can be varied.

    Raises:
        ValueError: a name is unknown or twice there.
    """
    if not set(names) <= set(known) or len(set(names)) < len(names):
        message = f"names must be different ones out of {list(known)}, got {list(names)}"
        raise ValueError(message)


def predict_grid(
    surrogate: Surrogate,
    space: SearchSpace,
    varied: Sequence[Parameter],
    others: Sequence[Configuration],
    resolution: int,
) -> FloatArray:
    """Predict at the grid points of some parameters, for each setting of the others.

    Args:
        surrogate: model of a study.
        space: search space of the study.
        varied: the parameters that vary.
        others: values of all parameters, m times, of which those of the varied ones are replaced.
        resolution: grid points along each parameter.

    Returns:
        Mean and standard deviation, shape (2, n_1, ..., m) with an axis per varied parameter; NaN
        where one of these is inactive.
    """
    names = [parameter.name for parameter in varied]
    grids = [parameter.grid_values(resolution) for parameter in varied]
    configurations: list[Configuration] = []
    for values in itertools.product(*grids):
        point = dict(zip(names, values, strict=True))
        configurations += [space.complete({**other, **point}) for other in others]

    active = np.array([set(names) <= set(c) for c in configurations])
    predicted = np.full((2, len(active)), np.nan)
    if active.any():
        inputs = list(itertools.compress(configurations, active))
        predicted[:, active] = surrogate.predict(inputs)
    return predicted.reshape(2, *map(len, grids), len(others))


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
    row = encoder.scale(encoder.points([at]))
    rows = fitted.rows

    # Two options of a choice are as far apart as any other two.
    origin = scaled(np.where(encoder.choice, 0, row))
    distance = scaled(np.where(encoder.choice, rows != row, rows)) - origin
    distance[:, np.isin([axis.name for axis in encoder.axes], names)] = 0
    return np.exp(-0.5 * (distance**2).sum(axis=1))


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
        text = "expected improvement"

    is_line = len(data.varied) == 1
    draw = _draw_line if is_line else _draw_surfaces
    axes = draw(data, improvement, text)

    notes: list[str] = []
    if not data.near.all():
        notes.append(f"dots: {data.near.sum()} of {len(data.near)} trials near the slice")
    if not is_line:
        notes.append(f"cross: {_shown(data)}")
    if np.isnan(data.mean).any():
        notes.append("grey: inactive")
    axes[0].figure.suptitle("; ".join(notes), fontsize=10)
    return axes


def _shown(data: Slice) -> str:
    """Return what the values are at which the other parameters stand."""
    return "best trial" if data.is_best else "shown values"


def _draw_line(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    """Draw the slice along one parameter, and the improvement beside it."""
    axes = panels(2, 2, 4.3, 3.3)
    (parameter,) = data.varied
    (x,) = data.grids
    for ax in axes:
        # A dashed line at the shown configuration.
        parameter_axis(ax, "x", parameter, margin=0.02)
        ax.axvline(
            *data.here,
            color="black",
            linewidth=1,
            linestyle="--",
            label=_shown(data),
        )

    left, right = axes
    draw_mean(
        left,
        parameter,
        x,
        data.mean,
        data.std,
        bands=2,
    )
    at = data.points.positions[parameter.name]
    near = data.near
    left.scatter(
        at[near],
        data.points.values[near],
        s=26,
        c=_faded(data, ORANGE),
        linewidth=0,
        zorder=4,
        label="trial",
    )
    failure_ticks(left, at[near & data.points.failed])
    left.axhline(
        data.best,
        color="0.4",
        linewidth=1,
        linestyle=":",
        label="lowest mean",
    )
    left.set_ylabel(data.points.value_name)
    legend_above(left)

    mark = "o" if isinstance(parameter, ChoiceParameter) else "-"
    right.plot(x, improvement, mark, color=GREEN)
    # Where the parameter is inactive there is no improvement; it may be so everywhere.
    for peak in np.flatnonzero(improvement == np.nanmax(improvement, initial=-np.inf))[:1]:
        right.plot(x[peak], improvement[peak], "v", color=ORANGE, label="largest: try this next")
        legend_above(right)
    right.set_ylabel(text)
    return axes


def _faded(data: Slice, colour: Any) -> FloatArray:
    """Return a colour for each trial near the slice, opaque on it, shape (n, 4)."""
    opacity = np.clip(data.nearness[data.near], 0.15, 1)
    return to_rgba_array([colour] * len(opacity), opacity)


def _draw_surfaces(data: Slice, improvement: FloatArray, text: str) -> AxesArray:
    """Draw mean, standard deviation and improvement over two parameters."""
    axes = panels(3, 3, 2.95, 3.3)
    texts = (f"mean {data.points.value_name}", "standard deviation", text)
    surfaces = zip(axes, (data.mean, data.std, improvement), texts, strict=True)
    for ax, surface, name in surfaces:
        colours = draw_surface(ax, data.varied, data.grids, surface)
        value_bar(colours, ax, name)
        _draw_trials(ax, data)
        ax.label_outer()

    return axes


def _draw_trials(ax: Axes, data: Slice) -> None:
    """Draw the trials near, the incumbent and the shown configuration over a surface."""
    at = np.array([data.points.positions[parameter.name] for parameter in data.varied])

    # White dots, the more transparent the farther from the slice.
    dot: dict[str, Any] = DOT | {"color": _faded(data, "white")}
    ax.scatter(*at[:, data.near], **dot)
    incumbent = data.points.incumbent
    if incumbent is not None and data.near[incumbent]:
        ax.scatter(*at[:, incumbent], **STAR)

    # A black cross with a white edge is seen on every colour.
    ax.scatter(
        *data.here,
        marker="P",
        s=90,
        color="black",
        edgecolor="white",
        clip_on=False,
        zorder=6,
    )
