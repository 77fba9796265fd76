from __future__ import annotations

import itertools
import math
import re
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import optuna
import pandas as pd
import pytest

from hpo_lib.comparison.run import (
    COLUMNS,
    compare,
    final_values,
    replay,
    separations,
    summary,
    verdict,
)
from hpo_lib.comparison.statistics import any_time, within
from hpo_lib.objective import SegmentResult, as_objective
from hpo_lib.study.run import run_study
from hpo_lib.study.workers import local as workers
from tests.toys import TOY_SPACE, bowl


def frame_of(finals: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "strategy": s,
                "seed": i,
                "trial": 1,
                "value": v,
                "best": v,
                "seconds": 1.0,
                "suggest_seconds": 0.1,
            }
            for s, values in finals.items()
            for i, v in enumerate(values)
        ]
    )


class TimedBowl:
    """A bowl whose trainings take ten seconds each, by their own account."""

    budget = 1
    settings: ClassVar = {}

    def __call__(self, configuration, segment):
        value = bowl(configuration)
        return SegmentResult((value,), (value,), (value,), (10.0,))


def test_budgets_are_equal_seeds_paired_and_the_default_first():
    frame = compare(bowl, TOY_SPACE, ["random", "grid"], [0, 1], 5, workers=0)
    assert tuple(frame.columns) == COLUMNS
    assert (frame.groupby(["strategy", "seed"]).trial.max() == 5).all()
    first = frame[frame.trial == 1]
    assert set(first.value) == {bowl(TOY_SPACE.default_configuration())}
    assert (frame.groupby(["strategy", "seed"]).best.diff().dropna() <= 0).all()


def test_an_interrupted_comparison_goes_on():
    calls = []

    def counted(configuration):
        calls.append(configuration)
        return bowl(configuration)

    some = compare(counted, TOY_SPACE, ["random"], [0], 4, workers=0)
    both = compare(counted, TOY_SPACE, ["random", "grid"], [0], 4, workers=0)
    assert len(calls) == 8
    same = ["strategy", "seed", "trial", "value", "best"]
    pd.testing.assert_frame_equal(both[both.strategy == "random"][same], some[same])


@pytest.mark.slow
def test_evidence_is_no_trial_of_the_comparison(tmp_path):
    place = {"storage": tmp_path / "a.db", "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 20, name="earlier", seed=7, **place)
    frame = compare(bowl, TOY_SPACE, ["sobol"], [0], 3, warm_start_from="earlier", **place)
    assert frame.trial.tolist() == [1, 2, 3]
    assert frame.best.tolist() == np.minimum.accumulate(frame.value).tolist()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_result():
    serial = compare(bowl, TOY_SPACE, ["random", "grid"], [0, 1], 4, workers=0, name="a")
    parallel = compare(bowl, TOY_SPACE, ["random", "grid"], [0, 1], 4, workers=2, name="b")
    same = ["strategy", "seed", "trial", "value", "best"]
    pd.testing.assert_frame_equal(serial[same], parallel[same])


def test_a_replay_is_a_comparison_without_a_record():
    recorded = compare(bowl, TOY_SPACE, ["random", "grid"], [0, 1], 4, workers=0)
    replayed = replay(as_objective(bowl), TOY_SPACE, ["random", "grid"], [0, 1], 4)
    same = ["strategy", "seed", "trial", "value", "best"]
    pd.testing.assert_frame_equal(replayed[same], recorded[same])


@pytest.mark.slow
def test_the_number_of_processes_does_not_change_a_replay():
    said: list[str] = []
    arguments = (as_objective(bowl), TOY_SPACE, ["random", "bayes"], [0, 1], 12)
    serial = replay(*arguments)
    parallel = replay(*arguments, processes=2, progress=said.append)
    same = ["strategy", "seed", "trial", "value", "best"]
    pd.testing.assert_frame_equal(serial[same], parallel[same])
    assert len(said) == 4


def test_a_function_makes_a_sampler_for_each_seed():
    mine = {"mine": lambda seed: optuna.samplers.TPESampler(seed=seed)}
    same = replay(as_objective(bowl), TOY_SPACE, mine, [0, 1], 5)
    path = replay(as_objective(bowl), TOY_SPACE, ["optuna.samplers.TPESampler"], [0, 1], 5)
    assert same.value.tolist() == path.value.tolist()
    first, second = (same[same.seed == seed].value.tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("strategies", "seeds", "message"),
    [
        ([], [0], "strategies must be"),
        (["random"], [1, 1], r"seeds must be .* got \[1, 1\]"),
        ({"mine": optuna.samplers.RandomSampler()}, [0], "one sampler would search alike"),
    ],
)
def test_what_cannot_be_compared_is_refused(strategies, seeds, message):
    with pytest.raises(ValueError, match=message):
        compare(bowl, TOY_SPACE, strategies, seeds, 4, workers=0)


def test_the_summary_says_n():
    table = summary(frame_of({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}))
    assert list(table.n_seeds) == [3, 3]
    assert list(table["median"]) == [2.0, 5.0]
    assert list(table.q25) == [1.5, 4.5]


def test_final_values_keep_the_order_of_the_strategies():
    assert list(final_values(frame_of({"z": [1.0], "a": [2.0]})).columns) == ["z", "a"]


def test_five_seeds_cannot_separate_three_strategies_and_it_says_so():
    frame = frame_of({"a": [1, 2, 3, 4, 5], "b": [2, 4, 6, 8, 10], "c": [3, 6, 9, 12, 15]})
    assert "5 seeds cannot separate a from b at 1 trials, whatever they had shown" in verdict(
        frame
    )


def test_twenty_seeds_separate_what_is_far_apart():
    rng = np.random.default_rng(0)
    low = list(rng.normal(0, 1, 20))
    frame = frame_of({"a": low, "b": [v + 5 + rng.normal() for v in low]})
    assert verdict(frame).startswith("20 seeds: a ends below b")


@pytest.mark.slow
def test_equal_strategies_are_rarely_called_different():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        frame = frame_of({name: list(rng.normal(0, 1, 12)) for name in "abc"})
        called += bool((separations(frame)["p"] <= 0.05).any())
    assert called <= 20  # the family-wise rate is 5 %: 10 expected, 20 is 3 sigma


def test_a_close_call_says_how_little_it_is():
    rng = np.random.default_rng(1)
    text = verdict(frame_of({name: list(rng.normal(size=15)) for name in "ab"}))
    assert re.fullmatch(r"15 seeds cannot separate a from b at 1 trials \(p = 0\.\d\d\)\.", text)


def test_the_effect_goes_with_the_winner():
    frame = frame_of({"a": [float(v) for v in range(10)], "b": [v + 0.5 for v in range(10)]})
    assert separations(frame).effect.tolist() == [-1.0]
    assert "a ends below b at 1 trials (p = 0.002, effect size 1.00)" in verdict(frame)


def test_ties_are_counted_and_are_no_evidence():
    row = separations(frame_of({"a": [1.0, 1.0, 2.0], "b": [1.0, 1.0, 2.0]})).iloc[0]
    assert (row.ties, row.a_wins, row.p) == (3, 0, 1.0)


def test_a_budget_in_seconds_ends_a_study_and_counts_what_ended_in_time():
    frame = replay(TimedBowl(), TOY_SPACE, ["random", "grid"], [0, 1], 50, seconds=35.0)
    assert set(frame.groupby(["strategy", "seed"]).trial.max()) == {3}
    assert final_values(frame).loc[0, "random"] == frame[frame.trial == 3].best.iloc[0]
    assert list(summary(frame).n_trials) == [3, 3]
    assert "2 seeds cannot separate random from grid within 35 s" in verdict(frame)
    curves = any_time(frame, "seconds")
    assert curves.seconds.max() == 35.0
    early = within(frame, 5.0)
    assert (early.trial == 0).all()
    assert np.isinf(final_values(early)).all(axis=None)
    assert list(summary(early).n_trials) == [0, 0]


def test_a_seed_without_a_value_ends_above_those_that_have_one():
    frame = frame_of({"a": [0.1] * 10 + [math.nan] * 10, "b": [0.2 + i / 1000 for i in range(20)]})
    row = separations(frame).iloc[0]
    assert (row.n_seeds, row.a_wins) == (20, 10)
    assert row.p > 0.05
    assert list(summary(frame).n_seeds) == [20, 20]
    assert summary(frame)["q75"]["a"] == math.inf


def test_a_strategy_that_always_fails_hides_nothing_of_the_others():
    low, high = list(range(20)), list(range(30, 50))
    frame = frame_of({"a": low, "b": high, "bad": [math.nan] * 20})
    table = separations(frame)
    assert (table.p < 0.01).all()
    assert (table.n_seeds == 20).all()
    assert table.effect.tolist() == [-1.0, -1.0, -1.0]


def test_seeds_that_one_strategy_was_not_run_with_are_left_out_of_its_pairs():
    frame = frame_of({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0], "c": [3.0, 4.0, 5.0]})
    assert separations(frame).n_seeds.tolist() == [2, 3, 2]


def test_failed_trials_cost_the_time_that_they_took(monkeypatch):
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(workers, "time", SimpleNamespace(time=lambda: next(ticks)))

    def failing(configuration):
        if configuration["lr"] < 0.05:
            message = "no"
            raise ValueError(message)
        return bowl(configuration)

    frame = compare(failing, TOY_SPACE, ["random"], [0], 8, workers=0, max_failures=8)
    lasted = frame.seconds.diff().fillna(frame.seconds)
    assert frame.value.isna().any()
    assert (lasted[frame.value.isna()] == 10).all()


def test_three_strategies_are_tested_together_first():
    rng = np.random.default_rng(0)
    low = rng.normal(0, 1, 20)
    frame = frame_of({"a": list(low), "b": list(low + 5), "c": list(low + 9)})
    first = verdict(frame).splitlines()[0]
    assert (
        first == "20 seeds, 3 strategies: they differ at 1 trials (Friedman's test, p = 2.1e-09)."
    )


@pytest.mark.slow
def test_a_strategy_under_two_names_is_called_different_one_time_in_twenty():
    rng = np.random.default_rng(0)

    def searches() -> list[float]:
        return [min(bowl(TOY_SPACE.sample(rng)) for _ in range(5)) for _ in range(12)]

    called = 0
    for _ in range(200):
        frame = frame_of({"random": searches(), "the same": searches()})
        called += bool(separations(frame)["p"].iloc[0] <= 0.05)
    assert 3 <= called <= 19  # 10 expected; binomial, 0.2 % outside


def test_against_leaves_the_pairs_with_one_strategy():
    frame = frame_of({name: [float(i + k) for i in range(6)] for k, name in enumerate("abc")})
    table = separations(frame, against="b")
    assert list(zip(table.a, table.b, strict=True)) == [("a", "b"), ("c", "b")]
    assert (table.smallest_p == 2 * 2.0**-5).all()
    with pytest.raises(ValueError, match=r"at least two strategies, got \['a'\]"):
        separations(frame_of({"a": [1.0]}))
