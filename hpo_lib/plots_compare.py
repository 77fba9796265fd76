"""Figures of comparisons: curves, odds and ranks, each with its n and the trust it rests on."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpo_lib.compare import final_values
from hpo_lib.inference import Ranks, Spending, any_time, superiority
from hpo_lib.plots_data import FloatArray, finite, running_best
from hpo_lib.plots_style import (
    COLOURS,
    RED,
    VALUE,
    WHITE,
    AxesArray,
    label,
    legend_above,
    line_style,
    one_axes,
    panels,
    spending_axis,
    value_axis,
)
from hpo_lib.replay import Trust


class Band(NamedTuple):
    """Quartiles of a strategy's incumbents over `n` of `seeds` seeds, where all n have one."""

    strategy: str
    x: FloatArray
    low: FloatArray
    median: FloatArray
    high: FloatArray
    n: int
    seeds: int


def comparison_data(frame: pd.DataFrame, x: Literal["trial", "seconds"] = "trial") -> list[Band]:
    """Median and quartiles of the incumbent over the seeds of each strategy.

    Args:
        frame: what `compare` returns.
        x: what is spent: trials, or seconds of training and deciding.
    """
    frame = frame.sort_values("trial", kind="stable")
    clock = frame["trial"] if x == "trial" else frame["seconds"] + frame["deciding_seconds"]
    clocks, values = finite(clock), finite(frame["value"])
    strategies, seeds = np.asarray(frame["strategy"]), np.asarray(frame["seed"])
    bands: list[Band] = []
    for strategy in dict.fromkeys(frame.sort_index()["strategy"]):
        cells = [(strategies == strategy) & (seeds == seed) for seed in np.unique(seeds)]
        runs = [(clocks[c], running_best(values[c])) for c in cells if c.any()]
        bands.append(_band(str(strategy), runs))
    return bands


def _band(strategy: str, runs: list[tuple[FloatArray, FloatArray]]) -> Band:
    """Quartiles over runs, each given as the x of its trials and its incumbents.

    Each incumbent stands until the run's next trial ends; seeds without any are left out.
    """
    usable = [(clock, best) for clock, best in runs if np.isfinite(best).any()]
    if not usable:
        nothing = np.zeros(0)
        return Band(strategy, nothing, nothing, nothing, nothing, 0, len(runs))
    first = max(clock[np.isfinite(best)][0] for clock, best in usable)
    last = min(clock[-1] for clock, _ in usable)
    x = np.unique(np.concatenate([clock for clock, _ in usable]))
    x = x[(x >= first) & (x <= last)]
    curves = [best[np.searchsorted(clock, x, side="right") - 1] for clock, best in usable]
    low, median, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
    return Band(strategy, x, low, median, high, len(usable), len(runs))


def plot_comparison(
    source: pd.DataFrame | list[Band],
    x: Literal["trial", "seconds"] = "trial",
    ax: Axes | None = None,
) -> Axes:
    """Draw the median incumbent of each strategy with the band between its quartiles."""
    data = source if isinstance(source, list) else comparison_data(source, x)
    ax = one_axes(ax)
    for i, band in enumerate(data):
        n = f"{band.n}" if band.n == band.seeds else f"{band.n} of {band.seeds}"
        style = line_style(i, label=f"{label(band.strategy)} (n = {n} seeds)")
        ax.step(band.x, band.median, where="post", markevery=max(1, len(band.x) // 8), **style)
        ax.fill_between(band.x, band.low, band.high, step="post", color=style["color"], alpha=0.15)
    ends = [end for band in data for end in (band.low, band.high)]
    value_axis(ax, ends, f"incumbent's {VALUE},\nmedian and quartiles over seeds")
    spending_axis(ax, x)
    legend_above(ax)
    if isinstance(source, pd.DataFrame):
        note_trust(ax, source.attrs.get("trust"))
    return ax


def plot_final_values(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each seed's final incumbent per strategy; `compare.final_values` computes them."""
    data = final_values(frame)
    values = data.to_numpy(dtype=float)
    ax = one_axes(ax, max(7.0, 1.35 * len(data.columns)))
    ax.plot(values.T, color="0.8", linewidth=0.8, zorder=1)
    names: list[str] = []
    for i, finals in enumerate(values.T):
        ax.plot(np.full(len(finals), i), finals, **line_style(i, "", alpha=0.7))
        reached = finals[np.isfinite(finals)]
        names.append(f"{label(data.columns[i], 16)}\nn = {len(reached)} seeds")
        if len(reached):
            median = float(np.median(reached))
            ax.hlines(median, i - 0.15, i + 0.15, color="black", linewidth=2.5, zorder=1.5)
            ax.text(i + 0.18, median, f"{median:.4f}", va="center", fontsize=9, bbox=WHITE)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.4, len(names) - 0.4), xlabel="strategy")
    value_axis(ax, [values], f"final incumbent's {VALUE}")
    ax.set_title("black bars: medians; grey lines: the same seed", fontsize=10)
    note_trust(ax, frame.attrs.get("trust"))
    return ax


def note_trust(axes: Axes | AxesArray, trust: Trust | None) -> None:
    """Write below a figure how well the surrogate that it rests on predicts; red for a warning."""
    first = axes if isinstance(axes, Axes) else axes.flat[0]
    if trust is not None:
        style = {"color": "0.4" if trust.warning is None else RED, "fontsize": 8}
        cast(Figure, first.figure).supxlabel(trust.caption, **cast(Any, style))


def plot_intervals(
    frame: pd.DataFrame,
    by: Spending = "trial",
    centre: Literal["median", "iqm"] = "median",
    best_known: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the median or interquartile mean with its 95 % bootstrap interval at each budget.

    Of the incumbent's value, or of its regret where the `best_known` value is given.
    """
    data = any_time(frame, by, best_known=best_known)
    ax = one_axes(ax)
    for i, (strategy, own) in enumerate(data.groupby("strategy", sort=False)):
        n = f"(n = {own['n_seeds'].iloc[0]} seeds)"
        style = line_style(i, label=f"{label(strategy)} {n}", markevery=max(1, len(own) // 8))
        ax.step(own[by], own[centre], where="post", **style)
        ends = (own[f"{centre}_low"], own[f"{centre}_high"])
        ax.fill_between(own[by], *ends, step="post", color=style["color"], alpha=0.15)
    what = f"regret over {best_known:.4f} (fraction)" if best_known else f"incumbent's {VALUE}"
    named = "median" if centre == "median" else "interquartile mean"
    shown = [data[f"{centre}{end}"].to_numpy(dtype=float) for end in ("_low", "_high")]
    value_axis(ax, shown, f"{what},\n{named} with 95 % interval")
    spending_axis(ax, by)
    legend_above(ax)
    note_trust(ax, frame.attrs.get("trust"))
    return ax


def plot_superiority(
    frame: pd.DataFrame, against: str = "random", by: Spending = "trial"
) -> AxesArray:
    """Draw how probably each strategy is ahead of one at each budget, with 95 % intervals."""
    data = superiority(frame, by, against=against)
    strategies = list(dict.fromkeys(frame["strategy"]))
    pairs = list(data.groupby("a", sort=False))
    axes = panels(len(pairs), 3, 2.9, 2.3, sharey=True)
    for ax, (strategy, own) in zip(axes, pairs, strict=True):
        colour = COLOURS[strategies.index(strategy) % 10]
        ax.axhline(0.5, color="0.4", linestyle=":")
        ax.plot(own[by], own["probability"], color=colour)
        ax.fill_between(own[by], own["low"], own["high"], color=colour, alpha=0.2)
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(f"{label(strategy)}, n = {own['n_seeds'].iloc[0]} seeds", fontsize=10)
        spending_axis(ax, by)
    for ax in axes[::3]:
        ax.set_ylabel(f"P(ahead of {label(against, 12)})")
    note_trust(axes, frame.attrs.get("trust"))
    return axes


def plot_ranks(ranks: Ranks, ax: Axes | None = None) -> Axes:
    """Draw the critical difference diagram: a bar joins what the objectives cannot separate."""
    import scikit_posthocs  # takes seconds to import

    draw: Any = scikit_posthocs.critical_difference_diagram
    names = {name: label(name, 16) for name in ranks.values}
    ax = one_axes(ax, 7.0, 1.6 + 0.3 * len(names))
    draw(
        ranks.mean.rename(names),
        ranks.p.rename(index=names, columns=names),
        ax=ax,
        label_fmt_left="{label} ({rank:.2f}) ",
        label_fmt_right=" ({rank:.2f}) {label}",
        color_palette=dict(zip(names.values(), COLOURS * len(names), strict=False)),
        elbow_props={"linewidth": 1.2},
    )
    ax.grid(visible=False)
    ax.set_title(
        f"mean rank over n = {len(ranks.values)} objectives, {ranks.n_seeds} seeds each "
        f"(1 is best)\nFriedman's p = {ranks.friedman:.2g}; bars join what is not separable "
        f"(Nemenyi: {ranks.critical_difference:.2f} apart)",
        fontsize=10,
    )
    note_trust(ax, ranks.trust)
    return ax
