"""Draw how the values of trials are distributed: by rank, by share, and against their cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray
from scipy import stats

from hpo_lib.comparison.studies import Studies, compare_studies
from hpo_lib.formatting import count
from hpo_lib.plots.comparison import short_name
from hpo_lib.plots.parameter_axes import parameter_axis
from hpo_lib.plots.style import (
    BLUE,
    STAR,
    AxesArray,
    FloatArray,
    finite,
    legend_above,
    line_style,
    log_ticks,
    one_axes,
    panels,
    value_axis,
    value_bar,
    value_norm,
)
from hpo_lib.plots.trials import Points, points_data, spread_positions
from hpo_lib.space.values import Configuration
from hpo_lib.trials import recorded_trials, sort_by_value, value_name

Cost = Callable[[Configuration], float]
"""Returns the cost of a configuration, such as the number of a network's weights."""

_MOST_RANKED = 4


class Distribution(NamedTuple):
    """Values of all trials of each study.

    Attributes:
        values: sorted values by the study's label, infinity for trials without one.
        value_name: what the values are called.
    """

    values: dict[str, FloatArray]
    value_name: str


class Pareto(NamedTuple):
    """Completed trials by what they cost, the cheapest first, each array of shape (n,).

    Attributes:
        numbers: numbers of the trials.
        costs: their costs.
        values: their final values.
        is_best: whether no trial that costs as much or less is as good.
        cost_name: what the costs are called.
        value_name: what the values are called.
    """

    numbers: NDArray[np.int64]
    costs: FloatArray
    values: FloatArray
    is_best: NDArray[np.bool_]
    cost_name: str
    value_name: str


def edf_data(source: pd.DataFrame | Studies) -> Distribution:
    """Return the values of all trials of each study, failed and pruned ones included.

    Args:
        source: a study, what else `compare_studies` takes, or the frame of a comparison.
    """
    frame = source if isinstance(source, pd.DataFrame) else compare_studies(source)

    values: dict[str, FloatArray] = {}
    for strategy, rows in frame.groupby("strategy", sort=False):
        own = finite(rows["value"])
        values[str(strategy)] = np.sort(np.where(np.isnan(own), np.inf, own))
    return Distribution(values, frame.attrs.get("value_name", "value"))


def plot_edf(
    source: pd.DataFrame | Studies | Distribution,
    ax: Axes | None = None,
) -> Axes:
    """Draw the empirical distribution of values: the share of trials at or below each value.

    Failed and pruned trials count, so that a curve ends below 1 where there are any.

    Args:
        source: a study, what `compare_studies` takes, the frame of a comparison, or what
            `edf_data` returns.
        ax: axes to draw into; default: a new figure.
    """
    data = source if isinstance(source, Distribution) else edf_data(source)
    ax = one_axes(ax)
    for i, (name, values) in enumerate(data.values.items()):
        x = values[np.isfinite(values)]
        shares = np.arange(1, len(x) + 1) / len(values)
        ax.step(
            x,
            shares,
            where="post",
            label=f"{short_name(name)} (n = {count(len(values), 'trial')})",
            **line_style(i, markevery=max(1, len(x) // 8)),
        )

    ax.set(ylim=(0, 1.03), xlabel=data.value_name, ylabel="share of trials at or below")
    legend_above(ax)
    return ax


def plot_rank(
    source: optuna.Study | Points,
    names: Sequence[str] | None = None,
) -> AxesArray:
    """Draw pairs of hyperparameters, a dot per trial coloured by the rank of its value.

    Ranks show structure where values span too much for a scale of colours.

    Args:
        source: a study, or what `points_data` returns.
        names: the hyperparameters; default: the first four that are searched.

    Returns:
        The axes, one per pair.

    Raises:
        ValueError: there are fewer than two hyperparameters, or one is unknown.
    """
    data = source if isinstance(source, Points) else points_data(source)
    known = {parameter.name: parameter for parameter in data.parameters}
    chosen = list(known)[:_MOST_RANKED] if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or len(chosen) < 2:
        message = f"names must be two or more of {list(known)}, got {chosen}"
        raise ValueError(message)

    # 1 is the best; trials without a value have no rank.
    ranks = stats.rankdata(data.values, nan_policy="omit")
    worst_first = np.argsort(-ranks)
    worst_first = worst_first[np.isfinite(ranks[worst_first])]
    pairs = list(combinations(chosen, 2))
    axes = panels(
        len(pairs),
        3,
        3.0,
        2.6,
    )
    dots: Any = None
    for ax, pair in zip(axes, pairs, strict=True):
        at = [spread_positions(data, known[name], 0.5) for name in pair]
        parameter_axis(ax, "x", known[pair[0]])
        parameter_axis(ax, "y", known[pair[1]])
        dots = ax.scatter(
            at[0][worst_first],
            at[1][worst_first],
            s=22,
            c=ranks[worst_first],
            cmap="viridis",
            vmin=1,
            vmax=max(len(worst_first), 2),
            edgecolor="0.3",
            linewidth=0.4,
        )
        if data.incumbent is not None:
            ax.scatter(at[0][data.incumbent], at[1][data.incumbent], **STAR)

    value_bar(dots, list(axes), f"rank of the {data.value_name} (1 is best)")
    title = f"{count(len(worst_first), 'trial')} with a value, star: incumbent"
    axes[0].figure.suptitle(title, fontsize=11)
    return axes


def pareto_data(study: optuna.Study, cost: Cost | None = None) -> Pareto:
    """Return the completed trials of a study by value and cost.

    Args:
        study: the study; warm-start trials are left out.
        cost: returns the cost of a configuration; default: seconds of the trial.

    Raises:
        ValueError: no trial is completed.
    """
    trials = sort_by_value(recorded_trials(study))
    if not trials:
        message = f"study {study.study_name!r} must have a completed trial"
        raise ValueError(message)

    name = "seconds of the trial"
    if cost is None:
        costs = np.array([trial.spent_seconds for trial in trials])
    else:
        costs = np.array([float(cost(trial.configuration)) for trial in trials])
        name = re.sub("^n_", "number of ", getattr(cost, "__name__", "cost")).replace("_", " ")

    # The cheapest first, and of those the best.
    values = finite([trial.value for trial in trials])
    order = np.lexsort((values, costs))
    before = np.r_[np.inf, np.fmin.accumulate(values[order])[:-1]]
    return Pareto(
        numbers=np.array([trials[i].number for i in order]),
        costs=costs[order],
        values=values[order],
        is_best=values[order] < before,
        cost_name=name,
        value_name=value_name(trials),
    )


def plot_pareto(
    source: optuna.Study | Pareto,
    cost: Cost | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw value against cost, and the trials that no other beats in both.

    Args:
        source: a study, or what `pareto_data` returns.
        cost: returns the cost of a configuration; default: seconds of the trial.
        ax: axes to draw into; default: a new figure.

    Raises:
        ValueError: no trial of the study is completed.
    """
    data = source if isinstance(source, Pareto) else pareto_data(source, cost)
    ax = one_axes(ax)
    best = data.is_best
    ax.scatter(
        data.costs[~best],
        data.values[~best],
        s=22,
        color="0.7",
        label="other trials",
    )
    ax.step(
        data.costs[best],
        data.values[best],
        "o-",
        where="post",
        color=BLUE,
        label=f"Pareto front ({count(int(best.sum()), 'trial')} of {len(best)})",
    )
    for i in np.flatnonzero(best):
        ax.annotate(
            str(data.numbers[i]),
            (data.costs[i], data.values[i]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )

    norm = value_norm([data.costs])
    if isinstance(norm, LogNorm):
        ax.set_xscale("log")
        log_ticks(ax.xaxis, data.costs.max() / data.costs.min())
    ax.set_xlabel(data.cost_name)
    value_axis(ax, [data.values], data.value_name)
    legend_above(ax)
    return ax
