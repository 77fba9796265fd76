"""Draw what a search space holds: histograms of draws from its priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from hpo_lib.plots.parameter_axes import parameter_axis, positions
from hpo_lib.plots.style import BLUE, AxesArray, FloatArray, panels
from hpo_lib.space.search_space import (
    ChoiceParameter,
    IntParameter,
    Parameter,
    SearchSpace,
    Value,
)

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


def prior_data(space: SearchSpace, n: int = 2000, seed: int = 0) -> Prior:
    """Draw configurations from the priors of a search space.

    Args:
        space: the search space.
        n: number of configurations.
        seed: fixes the draws, and the priors that have a random part.
    """
    rng = np.random.default_rng(seed)
    draws: dict[str, list[Value]] = {parameter.name: [] for parameter in space.searched}
    for _ in range(n):
        configuration = space.sample(rng, prior_seed=seed)
        for name in draws.keys() & configuration.keys():
            draws[name].append(configuration[name])
    return Prior(space.searched, draws, n)


def plot_prior(source: SearchSpace | Prior, n: int = 2000, seed: int = 0) -> AxesArray:
    """Draw a histogram of draws from the prior of each parameter.

    Args:
        source: a search space, or what `prior_data` returns.
        n: number of draws.
        seed: fixes the draws.

    Returns:
        The axes, one per parameter.
    """
    data = source if isinstance(source, Prior) else prior_data(source, n, seed)
    axes = panels(len(data.parameters), 4, 2.4, 2.0)
    for ax, parameter in zip(axes, data.parameters, strict=True):
        draws = data.draws[parameter.name]
        parameter_axis(ax, "x", parameter)
        _draw_histogram(ax, parameter, draws)
        ax.grid(visible=False, axis="x")
        ax.set_ylabel("draws (%)")
        if len(draws) < data.n:
            ax.set_title(f"active in {len(draws) / data.n:.0%}", fontsize=9)
    axes[0].figure.suptitle(f"Priors, n = {data.n:,} draws", fontsize=11)
    return axes


def _draw_histogram(ax: Axes, parameter: Parameter, draws: Sequence[Value]) -> None:
    """Draw a bar per value where these are few, else a histogram over the range."""
    at = positions(parameter, draws)
    percent = 100 / max(len(at), 1)
    x, counts = np.unique(at, return_counts=True)
    if isinstance(parameter, ChoiceParameter):
        ax.bar(x, counts * percent, 0.8, color=BLUE)
    elif len(x) <= 12:
        gap = np.diff(x).min() if len(x) > 1 else 1.0
        width: Any = 0.1 * x if parameter.log else 0.8 * gap
        ax.bar(x, counts * percent, width, color=BLUE)
    else:
        edges: Any = _bin_edges(parameter)
        ax.hist(at, edges, weights=np.full(len(at), percent), color=BLUE)


def _bin_edges(parameter: Any) -> FloatArray:
    """Return the edges of a histogram; whole numbers lie between them."""
    space = np.geomspace if parameter.log else np.linspace
    edges = space(parameter.low, parameter.high, _MOST_BARS)
    if not isinstance(parameter, IntParameter):
        return edges

    # The same number of values under each bar, or the bars would not be equally high.
    step = parameter.step or 1
    last = parameter.high + step
    if parameter.log:
        starts = np.unique(np.round(edges[:-1]))
    else:
        n_values = len(parameter.grid_values(10**6))
        width = step * -(-n_values // _MOST_BARS)
        starts = np.arange(parameter.low, parameter.high + step, width)
        last = starts[-1] + width
    return np.append(starts, last) - step / 2
