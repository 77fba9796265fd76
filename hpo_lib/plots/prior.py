"""Draw what a search space holds: histograms of draws from its priors."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from hpo_lib.plots.parameter_axes import parameter_axis, positions
from hpo_lib.plots.style import BLUE, AxesArray, FloatArray, panels
from hpo_lib.space.parameters import ChoiceParameter, IntParameter, Parameter
from hpo_lib.space.search_space import SearchSpace

_MOST_BARS = 25


class Prior(NamedTuple):
    """Draws from the priors of a search space.

    Attributes:
        parameters: the searched parameters.
        draws: positions by the name of a parameter, shape (n,); NaN where it is inactive.
    """

    parameters: tuple[Parameter, ...]
    draws: dict[str, FloatArray]


def prior_data(
    space: SearchSpace,
    n: int = 2000,
    seed: int = 0,
) -> Prior:
    """Draw configurations from the priors of a search space.

    Args:
        space: the search space.
        n: number of configurations.
        seed: fixes the draws, and the priors that have a random part.
    """
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng, prior_seed=seed) for _ in range(n)]
    draws: dict[str, FloatArray] = {}
    for parameter in space.searched:
        draws[parameter.name] = positions(parameter, [c.get(parameter.name) for c in drawn])
    return Prior(space.searched, draws)


def plot_prior(source: SearchSpace | Prior) -> AxesArray:
    """Draw a histogram of draws from the prior of each parameter.

    Args:
        source: a search space, or what `prior_data` returns.

    Returns:
        The axes, one per parameter.
    """
    data = source if isinstance(source, Prior) else prior_data(source)
    axes = panels(
        len(data.parameters),
        4,
        2.4,
        2.0,
    )
    for ax, parameter in zip(axes, data.parameters, strict=True):
        parameter_axis(ax, "x", parameter)
        draws = data.draws[parameter.name]
        active = draws[np.isfinite(draws)]
        edges = _bin_edges(parameter)
        ax.hist(
            active,
            bins=cast(Any, edges),
            weights=np.full(len(active), 100 / max(len(active), 1)),
            rwidth=0.8 if len(edges) <= 13 else 1.0,
            color=BLUE,
        )
        ax.grid(visible=False, axis="x")
        ax.set_ylabel("draws (%)")

        # A conditional parameter is active in some draws only.
        if len(active) < len(draws):
            ax.set_title(f"active in {len(active) / len(draws):.0%}", fontsize=9)

    n = len(next(iter(data.draws.values())))
    axes[0].figure.suptitle(f"Priors, n = {n:,} draws", fontsize=11)
    return axes


def _bin_edges(parameter: Parameter) -> FloatArray:
    """Return the edges of the bins; single values lie between them."""
    if isinstance(parameter, ChoiceParameter):
        return np.arange(parameter.count + 1.0) - 0.5

    # Bins of equal width on the scale of the axis.
    low, high = parameter.low, parameter.high
    n_edges = _MOST_BARS + 1
    if parameter.log and isinstance(parameter, IntParameter):
        return np.unique(np.geomspace(low, high + 1, n_edges).round()) - 0.5
    if parameter.log:
        return np.geomspace(low, high, n_edges)
    if parameter.count is None:
        return np.linspace(low, high, n_edges)

    # The same number of values in each bin, or the bars of a uniform prior would differ.
    step = parameter.step or 1
    width = step * -(-parameter.count // _MOST_BARS)
    return np.arange(low - step / 2, high + width, width)
