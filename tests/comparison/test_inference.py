from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from hpo_lib.comparison.statistics import (
    any_time,
    budget_to_target,
    effect_size,
    friedman,
    rank_strategies,
    superiority,
)


def frame_of(curves: dict[str, list[list[float]]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "strategy": name,
                "seed": seed,
                "trial": trial,
                "value": value,
                "best": value,
                "seconds": 10.0 * trial,
                "suggest_seconds": 1.0 * trial,
            }
            for name, runs in curves.items()
            for seed, run in enumerate(runs)
            for trial, value in enumerate(run, start=1)
        ]
    )


def test_intervals_hold_the_centre_and_say_n():
    rng = np.random.default_rng(0)
    runs = np.minimum.accumulate(rng.random((12, 5)), axis=1).tolist()
    table = any_time(frame_of({"a": runs}), best_known=-1.0)
    assert set(table.n_seeds) == {12}
    for name in ("median", "iqm"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    np.testing.assert_allclose(table.q25, np.quantile(runs, 0.25, axis=0) + 1)
    expected = np.median(runs, axis=0) + 1
    np.testing.assert_allclose(table["median"], expected)


def test_the_interquartile_mean_ignores_the_outer_quarters():
    table = any_time(frame_of({"a": [[-100.0], [1.0], [3.0], [1000.0]]}))
    assert table.loc[0, "iqm"] == 2.0


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(60):
        table = any_time(frame_of({"a": rng.normal(size=(30, 1)).tolist()}), seed=number)
        covered += bool(table.loc[0, "iqm_low"] <= 0 <= table.loc[0, "iqm_high"])
    assert 50 <= covered <= 60  # 57 expected


def test_a_study_that_ended_early_keeps_its_incumbent():
    table = any_time(frame_of({"grid": [[2.0, 1.0]], "random": [[3.0, 3.0, 0.5]]}))
    assert list(table[table.strategy == "grid"]["median"]) == [2.0, 1.0, 1.0]


def test_failed_first_trials_count_as_worse_than_anything():
    frame = frame_of({"a": [[math.nan, 1.0], [2.0, 1.0]], "b": [[5.0, 1.0], [5.0, 1.0]]})
    table = superiority(frame)
    assert list(table.probability) == [0.5, 0.5]
    assert any_time(frame).loc[0, "median"] == math.inf


def test_the_odds_follow_the_pairs():
    table = superiority(frame_of({"a": [[1.0, 1.0]] * 4, "b": [[2.0, 1.0]] * 3 + [[0.0, 0.0]]}))
    assert list(table.probability) == [0.75, 0.375]
    assert (table.low <= table.probability).all()
    assert (table.n_seeds == 4).all()
    # Wilson (1927) for 3 of 4: 0.3006 to 0.9544
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.3006, 0.9544], abs=1e-4)


def test_strategies_without_a_shared_seed_have_no_odds():
    frame = frame_of({"a": [[1.0]] * 3, "b": [[2.0]] * 3, "late": [[0.0]] * 3})
    frame.loc[frame.strategy == "late", "seed"] += 10
    assert superiority(frame)[["a", "b"]].to_numpy().tolist() == [["a", "b"]]
    with pytest.raises(ValueError, match="run with the same seeds, got none"):
        superiority(frame, against="late")


@pytest.mark.parametrize(("n", "truth"), [(5, 0.9), (12, 0.9), (30, 0.97)])
def test_the_odds_stay_unsure_where_all_seeds_agree(n, truth):
    coverage = 0.0
    for ahead in range(n + 1):
        runs = [[0.0]] * ahead + [[1.0]] * (n - ahead)
        row = superiority(frame_of({"a": runs, "b": [[0.5]] * n})).iloc[0]
        coverage += binom.pmf(ahead, n, truth) * (row.low <= truth <= row.high)
    assert coverage >= 0.9  # 0.95 is asked for; a resampled interval has 0.4 to 0.65


def test_a_target_is_reached_at_a_trial_or_never():
    fast, slow, never = [3.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 1.0], [3.0] * 4
    frame = frame_of({"random": [slow] * 3, "bayes": [fast, fast, never], "bad": [never] * 3})
    table = budget_to_target(frame, 1.5)
    assert list(table.median_trials) == [4.0, 2.0, math.inf]
    assert list(table.reached) == [3, 2, 0]
    assert list(table.speed_up[:2]) == [1.0, 2.0]
    assert math.isnan(table.speed_up["bad"])
    with pytest.raises(ValueError, match="baseline must be one of random, bayes, bad, got 'tpe'"):
        budget_to_target(frame, 1.5, baseline="tpe")


@given(arrays(float, 8, elements=st.floats(-5, 5)))
def test_effect_size_is_bounded_and_antisymmetric(difference):
    assert -1 - 1e-12 <= effect_size(difference) <= 1 + 1e-12
    assert effect_size(-difference) == pytest.approx(-effect_size(difference))


def test_effect_size_is_extreme_when_one_always_wins():
    assert effect_size(np.array([-1.0, -2.0, 0.0])) == -1.0


def three(n: int) -> dict[str, pd.DataFrame]:
    return {
        f"task {number}": frame_of({"c": [[3.0]] * 2, "a": [[1.0]] * 2, "b": [[2.0]] * 2})
        for number in range(n)
    }


def test_ranks_over_objectives_know_the_winner():
    ranks = rank_strategies(three(6))
    table = ranks.table
    assert list(table.index) == ["a", "b", "c"]
    assert list(table.mean_rank) == [1.0, 2.0, 3.0]
    assert list(table.times_best) == [6, 0, 0]
    assert (table.n_objectives == 6).all()
    assert ranks.friedman < 0.01
    # Demsar (2006), table 5: q = 2.343 for three strategies at 5 %
    assert ranks.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / 36), rel=1e-3)
    assert "6 objectives: a ranks before c (p = 0.0015, mean ranks 2.00 apart)" in str(ranks)
    assert "6 objectives: cannot separate a from b (p = 0.19" in str(ranks)


def test_two_objectives_cannot_tell_strategies_apart_and_it_says_so():
    assert "2 objectives cannot tell the strategies apart (Friedman's p = 0.14)" in str(
        rank_strategies(three(2))
    )
    with pytest.raises(ValueError, match="ranks need 2 objectives that share 3 strategies, got 1"):
        rank_strategies(three(1))


def test_friedman_needs_strategies_that_differ():
    assert friedman(np.ones((5, 3))) == 1.0
    assert math.isnan(friedman(np.ones((5, 2))))
    assert friedman(np.arange(15.0).reshape(5, 3)) < 0.01


def test_seconds_of_training_and_deciding_are_a_budget_too():
    fast, slow = [3.0, 1.0, 1.0], [3.0, 3.0, 1.0]
    frame = frame_of({"random": [slow] * 2, "bayes": [fast] * 2})
    table = budget_to_target(frame, 1.5, "seconds")
    assert list(table.median_seconds) == [33.0, 22.0]
    assert list(table.speed_up) == [1.0, 1.5]
    curves = any_time(frame, "seconds")
    bayes = curves[curves.strategy == "bayes"]
    assert (bayes.seconds.min(), bayes.seconds.max()) == (11.0, 33.0)
    assert set(bayes[bayes.seconds < 22]["median"]) == {3.0}
    assert set(bayes[bayes.seconds >= 22]["median"]) == {1.0}
    odds = superiority(frame, "seconds", against="random")
    assert list(odds.a.unique()) == ["bayes"]
    assert odds.probability.max() == 1.0
    assert odds.probability.iloc[0] == odds.probability.iloc[-1] == 0.5
