from __future__ import annotations

import math

import numpy as np
import pytest

from hpo_lib.comparison.hypothesis_tests import superiority
from hpo_lib.comparison.statistics import (
    any_time,
    budget_to_target,
    equal_budgets,
    final_values,
    summary,
)
from tests.comparison.frames import curves_frame, finals_frame


def test_the_summary_says_n():
    table = summary(finals_frame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}))
    assert list(table.n_seeds) == [3, 3]
    assert list(table["median"]) == [2.0, 5.0]
    assert list(table.q25) == [1.5, 4.5]


def test_final_values_keep_the_order_of_the_strategies():
    assert list(final_values(finals_frame({"z": [1.0], "a": [2.0]})).columns) == ["z", "a"]


def test_intervals_hold_the_centre_and_say_n():
    rng = np.random.default_rng(0)
    runs = np.minimum.accumulate(rng.random((12, 5)), axis=1).tolist()
    table = any_time(curves_frame({"a": runs}), best_known=-1.0)
    assert set(table.n_seeds) == {12}
    for name in ("median", "iqm"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    np.testing.assert_allclose(table.q25, np.quantile(runs, 0.25, axis=0) + 1)
    expected = np.median(runs, axis=0) + 1
    np.testing.assert_allclose(table["median"], expected)


def test_the_interquartile_mean_ignores_the_outer_quarters():
    table = any_time(curves_frame({"a": [[-100.0], [1.0], [3.0], [1000.0]]}))
    assert table.loc[0, "iqm"] == 2.0


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(60):
        table = any_time(curves_frame({"a": rng.normal(size=(30, 1)).tolist()}), seed=number)
        covered += bool(table.loc[0, "iqm_low"] <= 0 <= table.loc[0, "iqm_high"])
    assert 50 <= covered <= 60  # 57 expected


def test_a_study_that_ended_early_keeps_its_incumbent():
    table = any_time(curves_frame({"grid": [[2.0, 1.0]], "random": [[3.0, 3.0, 0.5]]}))
    assert list(table[table.strategy == "grid"]["median"]) == [2.0, 1.0, 1.0]


def test_equal_budgets_end_with_the_shortest_study():
    frame = curves_frame({"a": [[3.0, 2.0, 1.0]], "b": [[2.0, 2.0], [4.0, 3.0, 0.0]]})
    cut = equal_budgets(frame)
    assert cut["trial"].max() == 2
    assert final_values(cut)["b"].tolist() == [2.0, 3.0]
    # 11 seconds for each trial
    assert equal_budgets(frame, "seconds").attrs["seconds"] == 22.0
    assert final_values(equal_budgets(frame, "seconds"))["a"].tolist()[0] == 2.0


def test_failed_first_trials_count_as_worse_than_anything():
    frame = curves_frame({"a": [[math.nan, 1.0], [2.0, 1.0]], "b": [[5.0, 1.0], [5.0, 1.0]]})
    table = superiority(frame)
    assert list(table.probability) == [0.5, 0.5]
    assert any_time(frame).loc[0, "median"] == math.inf


def test_a_target_is_reached_at_a_trial_or_never():
    fast, slow, never = [3.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 1.0], [3.0] * 4
    frame = curves_frame({"random": [slow] * 3, "bayes": [fast, fast, never], "bad": [never] * 3})
    table = budget_to_target(frame, 1.5)
    assert list(table.median_trials) == [4.0, 2.0, math.inf]
    assert list(table.reached) == [3, 2, 0]
    assert list(table.speed_up[:2]) == [1.0, 2.0]
    assert math.isnan(table.speed_up["bad"])
    with pytest.raises(ValueError, match="baseline must be one of random, bayes, bad, got 'tpe'"):
        budget_to_target(frame, 1.5, baseline="tpe")


def test_seconds_of_training_and_deciding_are_a_budget_too():
    fast, slow = [3.0, 1.0, 1.0], [3.0, 3.0, 1.0]
    frame = curves_frame({"random": [slow] * 2, "bayes": [fast] * 2})
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
