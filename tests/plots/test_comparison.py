from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from hpo_lib.comparison.hypothesis_tests import rank_strategies
from hpo_lib.comparison.statistics import final_values
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective, SurrogateQuality
from hpo_lib.plots import comparison as plots_compare
from tests.comparison.trainings import line_record
from tests.plots.recorded import assert_labelled, draw


def make_comparison(seeds: int = 5, n: int = 20) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for strategy, rate in (("grid", 0.3), ("random", 0.5), ("bayes", 1.0)):
            values = 0.03 + rng.exponential(0.3 / (1 + rate * np.arange(n)))
            rows += [
                {
                    "strategy": strategy,
                    "seed": seed,
                    "trial": i + 1,
                    "value": values[i],
                    "best": values[: i + 1].min(),
                    "seconds": 5.0 * (i + 1) + seed,
                    "suggest_seconds": 0.1 * i,
                }
                for i in range(n)
            ]
    return pd.DataFrame(rows)


def test_comparison_draws_the_quartiles_over_seeds():
    frame = make_comparison()
    ax = plots_compare.plot_comparison(frame)
    grid = frame[frame["strategy"] == "grid"].groupby("trial")["best"]
    assert ax.lines[0].get_xdata().tolist() == list(range(1, 21))
    assert ax.lines[0].get_ydata() == pytest.approx(grid.median().to_numpy())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(grid.quantile(0.25).min())
    assert band.max() == pytest.approx(grid.quantile(0.75).max())
    assert [f"{one} (n = 5 seeds)" in draw(ax) for one in ("grid", "random", "bayes")] == [
        True
    ] * 3


def test_comparison_against_seconds_spans_what_all_seeds_reach():
    ax = plots_compare.plot_comparison(make_comparison(seeds=2), "seconds")
    # seed 1 ends its first trial at 6 s; seed 0 spends 100 s of training and 1.9 s of deciding
    assert ax.lines[0].get_xdata()[[0, -1]] == pytest.approx([6, 101.9])
    assert_labelled(ax)
    assert "(s)" in ax.get_xlabel()


def test_a_seed_without_any_value_counts_as_worse_than_all():
    frame = make_comparison(seeds=3)
    lost = (frame["strategy"] == "bayes") & (frame["seed"] > 0)
    frame.loc[lost, ["value", "best"]] = math.nan
    ax = plots_compare.plot_comparison(frame)
    assert np.isnan(ax.lines[2].get_ydata()).all()
    assert np.isfinite(ax.lines[0].get_ydata()).all()
    finals = plots_compare.plot_final_values(frame)
    assert_labelled(finals)
    assert "bayes\nn = 1 of 3 seeds" in draw(finals)


def test_a_strategy_without_any_value_is_still_named():
    frame = make_comparison(seeds=2)
    frame.loc[frame["strategy"] == "grid", ["value", "best"]] = math.nan
    assert "grid (n = 2 seeds)" in draw(plots_compare.plot_comparison(frame))
    assert "grid\nn = 0 of 2 seeds" in draw(plots_compare.plot_final_values(frame))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"by": "trials"}, "by must be one of trial, seconds"), ({"show": "mean"}, "show must be")],
)
def test_what_a_comparison_cannot_show_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        plots_compare.plot_comparison(make_comparison(), **wrong)


def test_import_paths_are_told_apart_by_their_class():
    paths = {"grid": "optuna.samplers.NSGAIISampler", "random": "optuna.samplers.TPESampler"}
    frame = make_comparison().replace({"strategy": paths})
    texts = draw(plots_compare.plot_final_values(frame))
    assert {"NSGAIISampler\nn = 5 seeds", "TPESampler\nn = 5 seeds"} <= set(texts)
    assert plots_compare.short_name("tpe, gamma 0.25") == "tpe, gamma 0.25"
    ranks = rank_strategies({"a": frame, "b": frame})
    assert any("TPESampler" in text for text in draw(plots_compare.plot_ranks(ranks)))


def test_final_values_mark_medians():
    frame = make_comparison()
    median = np.median(final_values(frame)["bayes"])
    ax = plots_compare.plot_final_values(frame)
    assert_labelled(ax)
    texts = draw(ax)
    assert f"{median:.4f}" in texts
    assert "bayes\nn = 5 seeds" in texts


def quality(spearman: float) -> SurrogateQuality:
    return SurrogateQuality(80, 100, 10, spearman, 0.8, 0.01, 0.005)


def test_intervals_name_the_centre_the_regret_and_n():
    ax = plots_compare.plot_comparison(make_comparison(), "seconds", "iqm", best_known=0.03)
    assert_labelled(ax)
    assert "regret" in ax.get_ylabel()
    assert "interquartile mean with 95 % interval" in ax.get_ylabel()
    assert "bayes (n = 5 seeds)" in draw(ax)


def test_odds_have_a_panel_per_strategy():
    axes = plots_compare.plot_superiority(make_comparison(), "random")
    assert [ax.get_title() for ax in axes] == ["grid, n = 5 seeds", "bayes, n = 5 seeds"]
    assert axes[0].get_ylabel() == "P(ahead of random)"
    with pytest.raises(ValueError, match="against must be one of grid, random, bayes, got 'tpe'"):
        plots_compare.plot_superiority(make_comparison(), "tpe")


def test_ranks_say_over_how_many_objectives():
    frames = {name: make_comparison(n=n) for name, n in (("a", 5), ("b", 10), ("c", 20))}
    ax = plots_compare.plot_ranks(rank_strategies(frames))
    texts = " ".join(draw(ax))
    assert "n = 3 objectives, 5 or more seeds each" in texts
    assert "bayes (1.33)" in texts
    frames["a"].attrs["surrogate_quality"] = quality(0.9)
    mixed = plots_compare.plot_ranks(rank_strategies(frames))
    assert "1 of 3 objectives: replayed on" in mixed.figure.get_supxlabel()
    colours = {one.get_text().strip(" ()0123456789."): one.get_color() for one in ax.texts}
    for panel in plots_compare.plot_superiority(frames["a"], "random"):
        strategy = panel.get_title().split(",")[0]
        assert colours[strategy] in [line.get_color() for line in panel.lines]


@pytest.mark.parametrize(
    "plot",
    [
        plots_compare.plot_comparison,
        plots_compare.plot_final_values,
        plots_compare.plot_superiority,
        lambda frame: plots_compare.plot_ranks(rank_strategies({"a": frame, "b": frame})),
    ],
)
@pytest.mark.parametrize(
    ("spearman", "said"),
    [
        (0.5, "surrogate not to be trusted: rank correlation 0.50 < 0.8"),
        (0.9, "rank correlation 0.90"),
    ],
)
def test_a_figure_says_what_surrogate_it_rests_on(plot, spearman, said):
    frame = make_comparison()
    frame.attrs["surrogate_quality"] = quality(spearman)
    axes = plot(frame[frame["seed"] < 4])
    first = axes.flat[0] if isinstance(axes, np.ndarray) else axes
    assert said in first.figure.get_supxlabel()


def test_more_workers_are_drawn_against_fewer():
    columns = {"speed_up": [1.0, 3.5, 9.0], "utilisation": [1.0, 0.9, 0.6]}
    frame = pd.DataFrame({"workers": [1, 4, 16], **columns, "driver_share": [0.1, 0.4, 1.0]})
    for ax in plots_compare.plot_scaling(frame):
        assert_labelled(ax)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4", "16"]


@pytest.mark.filterwarnings("ignore:surrogate not to be trusted")
def test_a_figure_of_the_surrogates_quality_shows_what_was_held_out():
    surrogate = SurrogateObjective(
        line_record([0.9, 0.2, 0.5, 0.1, 0.3, 0.7, 0.4, 0.6, 0.8, 0.25])
    )
    ax = plots_compare.plot_surrogate_quality(surrogate)
    drawn = ax.collections[0].get_offsets()
    np.testing.assert_array_equal(drawn, np.column_stack(surrogate.held_out))
    correlation = spearmanr(*surrogate.held_out).statistic
    assert correlation == pytest.approx(surrogate.quality.spearman)
    assert any("rank correlation" in text for text in draw(ax))
