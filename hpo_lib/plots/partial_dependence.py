"""Draw the partial dependence of a surrogate on one hyperparameter and on pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from hpo_lib.plots.parameter_axes import draw_mean, draw_surface, parameter_axis, positions
from hpo_lib.plots.style import (
    DOT,
    STAR,
    AxesArray,
    FloatArray,
    panels,
    value_bar,
    value_norm,
)
from hpo_lib.plots.surrogate_slice import check_varied, predict_grid
from hpo_lib.plots.trials import Points, points_data
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.parameters import Parameter
from hpo_lib.space.values import Configuration
from hpo_lib.trials import study_space

_N_DRAWS = 24
_RESOLUTION = 12


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
) -> PairMatrix:
    """Average a surrogate over draws of all parameters but one or two (partial dependence).

    Friedman (2001), "Greedy function approximation: a gradient boosting machine". Draws in which
    a varied parameter is inactive are left out.

    Args:
        study: study whose trials are shown as points.
        names: parameters to show; default: the `k` along which the mean varies most.
        k: number of parameters to show when none are named.
        surrogate: model of the study; default: one that is fitted to it now.

    Raises:
        ValueError: a name is unknown or twice there, or too few trials are completed.
    """
    space = study_space(study)
    check_varied(names, [parameter.name for parameter in space.searched])
    surrogate = surrogate or fit_surrogate(study, space)

    # Every parameter gets a value, also where the draw makes it inactive.
    rng = np.random.default_rng(0)
    draws: list[Configuration] = []
    for _ in range(_N_DRAWS):
        draws.append({p.name: p.from_unit(rng.random()) for p in space.searched})

    def average(*varied: Parameter) -> FloatArray:
        predicted = predict_grid(surrogate, space, varied, draws, _RESOLUTION)
        return np.ma.masked_invalid(predicted).mean(axis=-1).filled(np.nan)

    shown = [space[name] for name in names] or list(space.searched)
    curves = {parameter.name: average(parameter) for parameter in shown}
    if not names:
        # The parameters along which the mean varies most come first.
        spread = {name: np.nan_to_num(np.ptp(mean)) for name, (mean, _) in curves.items()}
        shown = sorted(shown, key=lambda parameter: -spread[parameter.name])[:k]

    # Arrays have y as their first axis, as matplotlib takes them.
    surfaces = {(x.name, y.name): average(y, x)[0] for x, y in combinations(shown, 2)}
    return PairMatrix(
        parameters=tuple(shown),
        grids={p.name: positions(p, p.grid_values(_RESOLUTION)) for p in shown},
        curves=curves,
        surfaces=surfaces,
        points=points_data(study),
    )


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
        elif row > column:
            _draw_surface(ax, data, [x, data.parameters[row]], norm)
        else:
            parameter_axis(ax, "x", x, margin=0)
            draw_mean(ax, x, data.grids[x.name], *data.curves[x.name])
            ax.set_ylabel(f"predicted\n{data.points.value_name}")
            if row:
                ax.sharey(axes[0, 0])

    # Labels at the left and at the bottom alone.
    shown = axes[np.tril_indices(size)].tolist()
    for ax in shown:
        ax.label_outer()
    value_bar(ScalarMappable(norm, "viridis"), shown, f"predicted {data.points.value_name}")

    title = f"Partial dependence; {data.points.describe('crosses')}, star: incumbent"
    if any(np.isnan(surface).any() for surface in data.surfaces.values()):
        title += ", grey: inactive"
    axes[0, 0].figure.suptitle(title, fontsize=11)
    return axes


def _draw_surface(
    ax: Axes,
    data: PairMatrix,
    varied: Sequence[Parameter],
    norm: Normalize,
) -> None:
    """Draw the dependence on two parameters under the trials: failed ones are crosses."""
    x, y = [parameter.name for parameter in varied]
    grids = [data.grids[x], data.grids[y]]
    draw_surface(
        ax,
        varied,
        grids,
        data.surfaces[x, y],
        norm,
    )

    points = data.points
    at = np.stack([points.positions[x], points.positions[y]])
    ax.scatter(*at[:, ~points.failed], marker="o", **DOT)
    ax.scatter(*at[:, points.failed], marker="X", **DOT)
    if points.incumbent is not None:
        ax.scatter(*at[:, points.incumbent], **STAR)
