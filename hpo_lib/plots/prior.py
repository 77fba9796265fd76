"""Draw what a search space holds: histograms of draws from its priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes

from hpo_lib.plots.parameter_axes import parameter_axis, parameter_norm, positions
from hpo_lib.plots.style import BLUE, AxesArray, FloatArray, panels
from hpo_lib.space.parameters import ChoiceParameter, IntParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Value

_MOST_BARS = 25


class Prior(NamedTuple):
    """Draws from the priors of a search space.

    Attributes:
        parameters: the searched parameters.
        draws: values by the name of a parameter; inactive ones are left out.
        n: number of configurations that were drawn.
    """

    parameters: tuple[Parameter, ...]
    draws: dict[str, list[Value]]
    n: int


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

    # Inactive parameters are not in a configuration.
    draws: dict[str, list[Value]] = {parameter.name: [] for parameter in space.searched}
    for _ in range(n):
        configuration = space.sample(rng, prior_seed=seed)
        for name in draws.keys() & configuration.keys():
            draws[name].append(configuration[name])

    return Prior(space.searched, draws, n)


def plot_prior(
    source: SearchSpace | Prior,
    n: int = 2000,
    seed: int = 0,
) -> AxesArray:
    """Draw a histogram of draws from the prior of each parameter.

    Args:
        source: a search space, or what `prior_data` returns.
        n: number of draws.
        seed: fixes the draws.

    Returns:
        The axes, one per parameter.
    """
    data = source if isinstance(source, Prior) else prior_data(source, n, seed)
    axes = panels(
        len(data.parameters),
        4,
        2.4,
        2.0,
    )
    for ax, parameter in zip(axes, data.parameters, strict=True):
        draws = data.draws[parameter.name]
        parameter_axis(ax, "x", parameter)
        _draw_histogram(ax, parameter, draws)
        ax.grid(visible=False, axis="x")
        ax.set_ylabel("draws (%)")

        # A conditional parameter is active in some draws only.
        if len(draws) < data.n:
            ax.set_title(f"active in {len(draws) / data.n:.0%}", fontsize=9)

    axes[0].figure.suptitle(f"Priors, n = {data.n:,} draws", fontsize=11)
    return axes


def _draw_histogram(
    ax: Axes,
    parameter: Parameter,
    draws: Sequence[Value],
) -> None:
    """Draw the share of the draws in each bin."""
    at = positions(parameter, draws)
    edges = _bin_edges(parameter)
    ax.hist(
        at,
        bins=cast(Any, edges),
        weights=np.full(len(at), 100 / max(len(at), 1)),
        rwidth=0.8 if len(edges) <= 13 else 1.0,
        color=BLUE,
    )


def _bin_edges(parameter: Parameter) -> FloatArray:
    """Return the edges of the bins; single values lie between them."""
    if isinstance(parameter, ChoiceParameter):
        return np.arange(len(parameter.options) + 1, dtype=np.float64) - 0.5

    # Bins of equal width on the scale of the axis.
    low, high = parameter.low, parameter.high
    bins = np.arange(_MOST_BARS + 1) / _MOST_BARS
    if parameter.log and isinstance(parameter, IntParameter):
        # Whole numbers from `low` to one beyond `high`.
        starts = low * ((high + 1) / low) ** bins
        return np.unique(starts.round()) - 0.5
    if parameter.log or parameter.count is None:
        return parameter_norm(parameter).inverse(bins)

    # The same number of values in each bin, or the bars of a uniform prior would differ.
    step = parameter.step or 1
    per_bin = -(-parameter.count // _MOST_BARS)
    n_bins = -(-parameter.count // per_bin)
    starts = step * per_bin * np.arange(n_bins + 1, dtype=np.float64)
    return starts + (low - step / 2)
