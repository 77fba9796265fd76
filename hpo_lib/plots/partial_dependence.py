"""Draw the partial dependence of a surrogate on one hyperparameter and on pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import optuna
from matplotlib.cm import ScalarMappable

from hpo_lib.plots.parameter_axes import draw_mean, draw_surface, parameter_axis, positions
from hpo_lib.plots.style import (
    DOT,
    STAR,
    VALUE,
    AxesArray,
    FloatArray,
    panels,
    value_bar,
    value_norm,
)
from hpo_lib.plots.trials import Points, points_data
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.parameters import Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import study_space


class PairMatrix(NamedTuple):
    """Partial dependence of a surrogate.

    Attributes:
        parameters: the parameters that are shown.
        grids: positions along each parameter, shape (n,).
        curves: mean and standard deviation along each searched parameter, shape (2, n); NaN where
            it is inactive.
        surfaces: mean by the names of the parameters of x and y, shape (n_y, n_x).
        points: the trials of the study.
    """

    parameters: tuple[Parameter, ...]
    grids: dict[str, FloatArray]
    curves: dict[str, FloatArray]
    surfaces: dict[tuple[str, str], FloatArray]
    points: Points


def pair_matrix_data(
    study: optuna.Study,
    names: Sequence[str] = (),
    k: int = 4,
    *,
    surrogate: Surrogate | None = None,
    resolution: int = 12,
    n_samples: int = 24,
    seed: int = 0,
) -> PairMatrix:
    """Average a surrogate over draws of all parameters but one or two (partial dependence).

    Friedman (2001), "Greedy function approximation: a gradient boosting machine".

    Args:
        study: study whose trials are shown as points.
        names: parameters to show; default: the `k` along which the mean varies most.
        k: number of parameters to show when none are named.
        surrogate: model of the study; default: one that is fitted to it now.
        resolution: points along each axis.
        n_samples: draws to average over.
        seed: fixes the draws.

    Raises:
        ValueError: a name is unknown or twice there, or too few trials are completed.
    """
    space = study_space(study)
    _check_names(names, space)
    surrogate = surrogate or fit_surrogate(study, space)
    rng = np.random.default_rng(seed)

    # Every parameter gets a value, also where the draw makes it inactive.
    draws = [{p.name: p.from_unit(rng.random()) for p in space.searched} for _ in range(n_samples)]

    def average(*varied: Parameter) -> FloatArray:
        return _partial_dependence(space, surrogate, draws, varied, resolution)

    shown = [space[name] for name in names] or list(space.searched)
    curves = {parameter.name: average(parameter) for parameter in shown}
    if not names:
        # The parameters along which the mean varies most come first.
        spread = {name: np.nan_to_num(np.ptp(mean)) for name, (mean, _) in curves.items()}
        shown = sorted(shown, key=lambda parameter: -spread[parameter.name])[:k]

    # Arrays have y as their first axis, as matplotlib takes them.
    surfaces: dict[tuple[str, str], FloatArray] = {}
    for x, y in combinations(shown, 2):
        surfaces[x.name, y.name] = average(y, x)[0]
    return PairMatrix(
        parameters=tuple(shown),
        grids={p.name: positions(p, p.grid_values(resolution)) for p in shown},
        curves=curves,
        surfaces=surfaces,
        points=points_data(study, space),
    )


def _check_names(names: Sequence[str], space: SearchSpace) -> None:
    searched = [parameter.name for parameter in space.searched]
    if not set(names) <= set(searched) or len(set(names)) < len(names):
        message = f"names must be different searched parameters out of {searched}, got {names}"
        raise ValueError(message)


def _partial_dependence(
    space: SearchSpace,
    surrogate: Surrogate,
    draws: Sequence[Configuration],
    varied: Sequence[Parameter],
    resolution: int,
) -> FloatArray:
    """Return mean and standard deviation over draws, an axis for each varied parameter.

    Draws in which a varied parameter is inactive are left out.
    """
    names = [parameter.name for parameter in varied]
    grids = [parameter.grid_values(resolution) for parameter in varied]
    configurations: list[Configuration] = []
    for values in product(*grids):
        point = dict(zip(names, values, strict=True))
        configurations += [space.complete({**draw, **point}) for draw in draws]

    # Predict where the varied parameters are active, NaN elsewhere.
    active = np.array([set(names) <= set(c) for c in configurations])
    predicted = np.full((2, len(active)), np.nan)
    if active.any():
        inputs = [configurations[i] for i in np.flatnonzero(active)]
        predicted[:, active] = surrogate.predict(inputs)

    # The mean over the draws that are left, which may be none.
    shape = (2, *map(len, grids), len(draws))
    masked = np.ma.masked_invalid(predicted.reshape(shape))
    return masked.mean(axis=-1).filled(np.nan)


def plot_pair_matrix(
    source: optuna.Study | PairMatrix,
    names: Sequence[str] = (),
    k: int = 4,
    surrogate: Surrogate | None = None,
) -> AxesArray:
    """Draw partial dependence on one parameter (diagonal) and on two (below the diagonal).

    Bands are ± one standard deviation of the surrogate, averaged as the mean is.

    Args:
        source: a study, or what `pair_matrix_data` returns.
        names: parameters to show; default: the `k` along which the mean varies most.
        k: number of parameters to show when none are named.
        surrogate: model of the study; default: one that is fitted to it now.

    Returns:
        The axes, shape (k, k); None above the diagonal.

    Raises:
        ValueError: a name is unknown or twice there, or too few trials are completed.
    """
    data = source
    if isinstance(data, optuna.Study):
        data = pair_matrix_data(data, names, k, surrogate=surrogate)
    size = len(data.parameters)
    axes = panels(
        size**2,
        size,
        2.4,
        2.2,
    ).reshape(size, size)

    # One scale of colours for all surfaces.
    norm = value_norm(data.surfaces.values())
    for (row, column), ax in np.ndenumerate(axes):
        x = data.parameters[column]
        if row < column:
            ax.remove()
            axes[row, column] = None
        elif row == column:
            _draw_curve(ax, data, x)
        else:
            _draw_surface(
                ax,
                data,
                x,
                data.parameters[row],
                norm,
            )

    # Labels at the left and at the bottom alone.
    shown = axes[np.tril_indices(size)].tolist()
    for ax in shown:
        ax.label_outer()
    value_bar(ScalarMappable(norm, "viridis"), shown, f"predicted {VALUE}")

    title = f"Partial dependence; {data.points.describe('crosses')}, star: incumbent"
    if any(np.isnan(surface).any() for surface in data.surfaces.values()):
        title += ", grey: inactive"
    axes[0, 0].figure.suptitle(title, fontsize=11)
    return axes


def _draw_curve(ax: Any, data: PairMatrix, parameter: Parameter) -> None:
    """Draw the dependence on one parameter, on the same scale for all of them."""
    parameter_axis(ax, "x", parameter, margin=0)
    mean, std = data.curves[parameter.name]
    draw_mean(
        ax,
        parameter,
        data.grids[parameter.name],
        mean,
        std,
    )
    ax.set_ylabel(f"predicted\n{VALUE}")

    # The lowest and the highest end of any band.
    curves = [data.curves[shown.name] for shown in data.parameters]
    low = min(np.nanmin(mean - std) for mean, std in curves)
    high = max(np.nanmax(mean + std) for mean, std in curves)
    margin = 0.08 * (high - low)
    ax.set_ylim(low - margin, high + margin)


def _draw_surface(
    ax: Any,
    data: PairMatrix,
    x: Parameter,
    y: Parameter,
    norm: Any,
) -> None:
    """Draw the dependence on two parameters under the trials: failed ones are crosses."""
    grids = [data.grids[x.name], data.grids[y.name]]
    surface = data.surfaces[x.name, y.name]
    draw_surface(
        ax,
        [x, y],
        grids,
        surface,
        norm,
    )

    points = data.points
    at = np.stack([points.positions[x.name], points.positions[y.name]])
    ax.scatter(*at[:, ~points.failed], marker="o", **DOT)
    ax.scatter(*at[:, points.failed], marker="X", **DOT)
    if points.incumbent is not None:
        ax.scatter(*at[:, points.incumbent], **STAR)
