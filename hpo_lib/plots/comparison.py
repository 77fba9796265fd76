"""Figures of comparisons: curves, odds and ranks, each with its n and its surrogate's quality."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpo_lib.checks import check_member
from hpo_lib.comparison.hypothesis_tests import Ranks, superiority
from hpo_lib.comparison.statistics import Spending, any_time, final_values
from hpo_lib.comparison.surrogate_benchmark import SurrogateQuality
from hpo_lib.plots.data import finite
from hpo_lib.plots.style import (
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

SHOWN = {
    "quartiles": ("median", "q25", "q75", "median and quartiles over seeds"),
    "median": ("median", "median_low", "median_high", "median with 95 % interval"),
    "iqm": ("iqm", "iqm_low", "iqm_high", "interquartile mean with 95 % interval"),
}
"""What `plot_comparison` can show: columns of `any_time`, and what they are."""


def plot_comparison(
    frame: pd.DataFrame,
    by: Spending = "trial",
    show: str = "quartiles",
    best_known: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw each strategy's incumbent over its seeds at each budget; `any_time` computes it.

    Its value or, where the `best_known` value is given, its regret. `show` is one of `SHOWN`:
    quartiles tell how the seeds differ, bootstrap intervals how sure their median is, or their
    interquartile mean; below 10 seeds they are too narrow. A seed that has no incumbent yet counts
    as worse than all: where half of them have none, there is no line.
    """
    check_member("show", show, SHOWN)
    centre, low, high, said = SHOWN[show]
    data = any_time(frame, by, best_known=best_known)
    ax = one_axes(ax)
    for i, (strategy, own) in enumerate(data.groupby("strategy", sort=False)):
        n = f"(n = {own['n_seeds'].iloc[0]} seeds)"
        style = line_style(i, label=f"{short(strategy)} {n}", markevery=max(1, len(own) // 8))
        x, line, below, above = (finite(own[name]) for name in (by, centre, low, high))
        ax.step(x, line, where="post", **style)
        ax.fill_between(x, below, above, step="post", color=style["color"], alpha=0.15)
    what = f"regret over {best_known:.4f} (fraction)" if best_known else f"incumbent's {VALUE}"
    value_axis(ax, [data[name].to_numpy(dtype=float) for name in (low, high)], f"{what},\n{said}")
    spending_axis(ax, by)
    legend_above(ax)
    annotate_quality(ax, frame.attrs.get("surrogate_quality"))
    return ax


def short(strategy: object, width: int = 24) -> str:
    """A strategy's name as figures write it: of an import path, the class."""
    parts = str(strategy).replace(":", ".").split(".")
    return label(parts[-1] if all(map(str.isidentifier, parts)) else strategy, width)


def plot_final_values(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each seed's final incumbent per strategy; `compare.final_values` computes them.

    Seeds without any have no point, and count in the median as worse than all.
    """
    data = final_values(frame)
    values = data.to_numpy(dtype=float)
    ax = one_axes(ax, max(7.0, 1.35 * len(data.columns)))
    ax.plot(values.T, color="0.8", linewidth=0.8, zorder=1)
    names: list[str] = []
    for i, finals in enumerate(values.T):
        ax.plot(np.full(len(finals), i), finals, **line_style(i, "", alpha=0.7))
        ran, reached = finals[~np.isnan(finals)], int(np.isfinite(finals).sum())
        n = f"{reached} of {len(ran)}" if reached < len(ran) else f"{reached}"
        names.append(f"{short(data.columns[i], 16)}\nn = {n} seeds")
        median = float(np.median(ran))
        if np.isfinite(median):
            ax.hlines(median, i - 0.15, i + 0.15, color="black", linewidth=2.5, zorder=1.5)
            ax.text(i + 0.18, median, f"{median:.4f}", va="center", fontsize=9, bbox=WHITE)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.4, len(names) - 0.4), xlabel="strategy")
    value_axis(ax, [values], f"final incumbent's {VALUE}")
    ax.set_title("black bars: medians; grey lines: the same seed", fontsize=10)
    annotate_quality(ax, frame.attrs.get("surrogate_quality"))
    return ax


def annotate_quality(axes: Axes | AxesArray, quality: SurrogateQuality | None) -> None:
    """Write below a figure how well the surrogate that it rests on predicts; red for a warning."""
    first = axes if isinstance(axes, Axes) else axes.flat[0]
    if quality is not None:
        style = {"color": "0.4" if quality.warning is None else RED, "fontsize": 8}
        cast(Figure, first.figure).supxlabel(quality.caption, **cast(Any, style))


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
        ax.set_title(f"{short(strategy)}, n = {own['n_seeds'].iloc[0]} seeds", fontsize=10)
        spending_axis(ax, by)
    for ax in axes[::3]:
        ax.set_ylabel(f"P(ahead of {short(against, 12)})")
    annotate_quality(axes, frame.attrs.get("surrogate_quality"))
    return axes


def plot_ranks(ranks: Ranks, ax: Axes | None = None) -> Axes:
    """Draw the critical difference diagram: a bar joins what the objectives cannot separate."""
    import scikit_posthocs  # takes seconds to import

    draw: Any = scikit_posthocs.critical_difference_diagram
    names = {name: short(name, 16) for name in ranks.values}
    if len(set(names.values())) < len(names):  # classes of the same name, from different modules
        names = {name: label(name, 200) for name in names}
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
        f"mean rank over n = {len(ranks.values)} objectives, {ranks.n_seeds} or more seeds each "
        f"(1 is best)\nFriedman's p = {ranks.friedman:.2g}; bars join what is not separable "
        f"(Nemenyi: {ranks.critical_difference:.2f} apart)",
        fontsize=10,
    )
    annotate_quality(ax, ranks.quality)
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
    workers = frame["workers"]
    axes = panels(2, 2, 5.0, 3.6)
    speed_up, shares = axes

    speed_up.plot(workers, workers, ":", color="0.4", label="ideal")
    speed_up.plot(workers, frame["speed_up"], label="simulated", **line_style(0))
    speed_up.set_yscale("log", base=2)
    speed_up.yaxis.set_major_formatter("{x:g}")
    speed_up.set_ylabel("speed-up (training seconds per second)")

    shares.plot(workers, frame["utilisation"], label="workers", **line_style(0))
    shares.plot(workers, frame["driver_share"], label="driver", **line_style(1))
    shares.set(ylabel="share of the time that is busy", ylim=(-0.05, 1.05))

    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(workers, [str(n) for n in workers])
        ax.set_xlabel("workers")
        legend_above(ax)
    return axes
