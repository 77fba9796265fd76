"""Draw comparisons: curves, probabilities and ranks, each with its n and what it rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hpo_lib.checks import check_member
from hpo_lib.comparison.hypothesis_tests import Ranks, format_p, superiority
from hpo_lib.comparison.statistics import Spending, any_time, final_values
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective, SurrogateQuality
from hpo_lib.formatting import count, format_number
from hpo_lib.plots.style import (
    COLOURS,
    MOST_JOINED,
    RED,
    AxesArray,
    draw_groups,
    figure_of,
    finite,
    inches_wide,
    label,
    legend_above,
    line_style,
    one_axes,
    panels,
    spending_axis,
    value_axis,
)
from hpo_lib.trials import VALIDATION_ERROR

INTERVALS = {
    "quartiles": ("median", "q25", "q75", "median and quartiles over seeds"),
    "median": ("median", "median_low", "median_high", "median with 95 % interval"),
    "iqm": ("iqm", "iqm_low", "iqm_high", "interquartile mean with 95 % interval"),
}
"""Columns of `any_time` that `plot_comparison` can show, and their description."""


def plot_comparison(
    frame: pd.DataFrame,
    by: Spending = "trial",
    show: str = "quartiles",
    best_known: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the incumbent of each strategy over its seeds at each budget.

    A seed that has no incumbent yet counts as worse than all: where half of them have none, there
    is no line.

    Args:
        frame: what `compare` or `replay` returns.
        by: what a budget is: trials, or seconds of training and suggesting.
        show: "quartiles" tell how the seeds differ; "median" and "iqm" (interquartile mean) have
            bootstrap intervals, which are too narrow below 10 seeds.
        best_known: value to measure the regret from; 0 draws the values as they are.
        ax: axes to draw into; default: a new figure.

    Raises:
        ValueError: `by` or `show` is none of these.
    """
    check_member("show", show, INTERVALS)
    centre, low, high, description = INTERVALS[show]
    n_resamples = 0 if show == "quartiles" else 1000
    data = any_time(
        frame,
        by,
        best_known=best_known,
        n_resamples=n_resamples,
    )
    ax = one_axes(ax)
    for i, (strategy, rows) in enumerate(data.groupby("strategy", sort=False)):
        name = f"{short_name(strategy)} (n = {count(int(rows['n_seeds'].iloc[0]), 'seed')})"
        style = line_style(i, label=name, markevery=max(1, len(rows) // 8))

        # Infinite values, of seeds without an incumbent, cannot be drawn.
        ax.step(
            rows[by],
            finite(rows[centre]),
            where="post",
            **style,
        )
        ax.fill_between(
            rows[by],
            finite(rows[low]),
            finite(rows[high]),
            step="post",
            color=style["color"],
            alpha=0.15,
        )

    text = f"incumbent's {frame.attrs.get('value_name', 'value')}"
    if best_known:
        text = f"regret: distance from {format_number(best_known)}"
    value_axis(ax, [data[low], data[high]], f"{text},\n{description}")
    spending_axis(ax, by)
    legend_above(ax)
    annotate_quality(ax, frame.attrs.get("surrogate_quality"))
    return ax


def short_name(strategy: object, width: int = 24) -> str:
    """Return the name of a strategy for a figure; the class where it is an import path.

    Args:
        strategy: name, or import path of a sampler's class.
        width: largest number of characters; longer names are shortened in the middle.
    """
    # `package.module.Class` or `package.module:Class`
    parts = str(strategy).replace(":", ".").split(".")
    is_path = all(part.isidentifier() for part in parts)
    return label(parts[-1] if is_path else strategy, width)


def plot_final_values(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the final incumbent of each seed, per strategy.

    Seeds without any have no point, and count in the median as worse than all.

    Args:
        frame: what `compare` or `replay` returns.
        ax: axes to draw into; default: a new figure.
    """
    data = final_values(frame)
    ax = one_axes(ax, max(7.0, 1.35 * len(data.columns)))

    # As many characters as fit below each group.
    room = int(12.5 * inches_wide(ax) / len(data.columns)) - 2
    width = min(max(room, 6), 16)

    # Infinite: a seed without an incumbent; NaN: a seed that the strategy did not run.
    names: list[str] = []
    for strategy in data:
        finals = data[strategy].dropna()
        n_reached = int(np.isfinite(finals).sum())
        n = count(len(finals), "seed")
        if n_reached < len(finals):
            n = f"{n_reached} of {n}"
        names.append(f"{short_name(strategy, width)}\nn = {n}")

    # The median is infinite where half of the seeds have no incumbent.
    values = data.to_numpy(dtype=float)
    draw_groups(ax, values, data.median().tolist(), names)
    ax.set_xlabel("strategy")
    name = frame.attrs.get("value_name", "value")
    value_axis(ax, [values], f"final incumbent's {name}")
    lines = "; grey lines: the same seed" if len(values) <= MOST_JOINED else ""
    ax.set_title(f"black bars: medians{lines}", fontsize=10)
    annotate_quality(ax, frame.attrs.get("surrogate_quality"))
    return ax


def annotate_quality(
    axes: Axes | AxesArray,
    quality: SurrogateQuality | None,
    scope: str = "",
) -> None:
    """Write below a figure how well the surrogate that it rests on predicts.

    Args:
        axes: axes of the figure.
        quality: that of the surrogate; red where it is too low, nothing for None.
        scope: what rests on it; empty for the whole figure.
    """
    if quality is not None:
        colour = "0.4" if quality.warning is None else RED
        style: dict[str, Any] = {"color": colour, "fontsize": 8}
        figure_of(axes).supxlabel(scope + quality.caption, **style)


def plot_surrogate_quality(surrogate: SurrogateObjective, ax: Axes | None = None) -> Axes:
    """Draw predicted against recorded errors of configurations that were held out.

    Args:
        surrogate: a model of recorded trainings.
        ax: axes to draw into; default: a new figure.
    """
    recorded, predicted = surrogate.held_out
    ax = one_axes(ax, 5.0, 4.4)
    ends = [recorded.min(), recorded.max()]
    ax.plot(ends, ends, ":", color="0.4", label="perfect")
    ax.scatter(recorded, predicted, s=12, alpha=0.6, label="a configuration held out")
    ax.set(xlabel=f"recorded {VALIDATION_ERROR}", ylabel=f"predicted {VALIDATION_ERROR}")
    ax.legend()
    annotate_quality(ax, surrogate.quality)
    return ax


def plot_superiority(
    frame: pd.DataFrame, against: str = "random", by: Spending = "trial"
) -> AxesArray:
    """Draw the probability that each strategy is ahead of one, with 95 % intervals.

    Args:
        frame: what `compare` or `replay` returns.
        against: the strategy that the others are measured against.
        by: what a budget is: trials, or seconds of training and suggesting.

    Returns:
        The axes, one per other strategy.

    Raises:
        ValueError: there is no such strategy, or no seed that it shares with another.
    """
    data = superiority(frame, by, against=against)
    strategies = list(frame["strategy"].unique())
    pairs = list(data.groupby("a", sort=False))
    axes = panels(
        len(pairs),
        3,
        2.9,
        2.3,
        sharey=True,
    )
    for ax, (strategy, rows) in zip(axes, pairs, strict=True):
        # The colour that the strategy has in the other figures.
        colour = COLOURS[strategies.index(strategy) % 10]
        # At 0.5 neither is ahead.
        ax.axhline(0.5, color="0.4", linestyle=":")
        ax.plot(rows[by], rows["probability"], color=colour)
        ax.fill_between(
            rows[by],
            rows["low"],
            rows["high"],
            color=colour,
            alpha=0.2,
        )
        ax.set_ylim(-0.03, 1.03)
        n = count(int(rows["n_seeds"].iloc[0]), "seed")
        ax.set_title(f"{short_name(strategy)}, n = {n}", fontsize=10)
        spending_axis(ax, by)

    for ax in axes[::3]:
        ax.set_ylabel(f"P(ahead of {short_name(against, 12)})")
    annotate_quality(axes, frame.attrs.get("surrogate_quality"))
    return axes


def plot_ranks(ranks: Ranks, ax: Axes | None = None) -> Axes:
    """Draw the critical difference diagram: a bar joins what the objectives cannot separate.

    Args:
        ranks: what `rank_strategies` returns.
        ax: axes to draw into; default: a new figure.
    """
    names = {name: short_name(name, 16) for name in ranks.values}
    # Classes of the same name, from different modules, need their modules.
    if len(set(names.values())) < len(names):
        names = {name: label(name, 200) for name in names}

    ax = one_axes(ax, 7.0, 1.6 + 0.3 * len(names))
    for depth, bar in enumerate(ranks.inseparable, 1):
        ax.plot(bar, (-depth, -depth), color="black", linewidth=2)

    # Below the bars the better half has its names on the left, the other on the right.
    mean = ranks.mean
    colours = dict(zip(names, COLOURS * len(names), strict=False))
    for place, name in enumerate(mean.index):
        rank = mean[name]
        n_after = len(mean) - 1 - place
        depth = len(ranks.inseparable) + 1 + min(place, n_after)
        is_better = place <= n_after
        edge = mean.iloc[0] if is_better else mean.iloc[-1]
        text = f"{names[name]} ({rank:.2f}) " if is_better else f" ({rank:.2f}) {names[name]}"
        side = "right" if is_better else "left"
        ax.plot([edge, rank, rank], [-depth, -depth, 0], color=colours[name], linewidth=1.2)
        ax.plot(rank, 0, "o", color=colours[name], clip_on=False)
        ax.text(edge, -depth, text, color=colours[name], ha=side, va="center")

    # The ranks are an axis at the top, and nothing else is.
    ax.yaxis.set_visible(False)
    ax.spines[["left", "right", "bottom"]].set_visible(False)
    ax.spines["top"].set_position("zero")
    ax.xaxis.set_ticks_position("top")
    ax.grid(visible=False)
    ax.set_title(
        f"mean rank over n = {len(ranks.values)} objectives, {ranks.n_seeds} or more seeds each "
        f"(1 is best)\nFriedman's test, {format_p(ranks.friedman)}; bars join what is not "
        f"separable (Nemenyi: {ranks.critical_difference:.2f} apart)",
        fontsize=10,
    )
    annotate_quality(
        ax,
        ranks.quality,
        f"{ranks.n_surrogates} of {len(ranks.values)} objectives: ",
    )
    return ax


def plot_scaling(frame: pd.DataFrame) -> AxesArray:
    """Draw speed-up, utilisation and the driver's share against the number of workers.

    Args:
        frame: one row per number of `workers`, with the columns `speed_up` (seconds of training
            per second), `utilisation` and `driver_share` (fractions of the time), as
            `results/reference/scaling.csv` has them.

    Returns:
        Two axes: the speed-up, and the shares.
    """
    frame = frame.set_index("workers")
    axes = panels(2, 2, 5.0, 3.6)
    speed_up, shares = axes

    speed_up.plot(
        frame.index,
        frame.index,
        ":",
        color="0.4",
        label="ideal",
    )
    frame["speed_up"].plot(ax=speed_up, label="simulated", **line_style(0))
    speed_up.set_yscale("log", base=2)
    speed_up.yaxis.set_major_formatter("{x:g}")
    speed_up.set_ylabel("speed-up (training seconds per second)")

    frame["utilisation"].plot(ax=shares, label="workers", **line_style(0))
    frame["driver_share"].plot(ax=shares, label="driver", **line_style(1))
    shares.set(ylabel="share of the time that is busy", ylim=(-0.05, 1.05))

    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(frame.index, frame.index)
        legend_above(ax)

    return axes
