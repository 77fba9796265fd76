from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import optuna
import pandas as pd
import pytest

from hpo_lib.comparison.hypothesis_tests import verdict
from hpo_lib.comparison.run import check_strategies, compare, replay
from hpo_lib.comparison.statistics import any_time, final_values, summary, within
from hpo_lib.loop import as_objective
from hpo_lib.objective import SegmentResult
from hpo_lib.study.run import run_study
from hpo_lib.study.workers import base as workers
from tests.toys import TOY_SPACE, bowl


class TimedBowl:
    """A bowl whose trainings take ten seconds each, by their own account."""

    budget = 1
    settings: ClassVar = {}

    def __call__(self, configuration, segment):
        value = bowl(configuration)
        return SegmentResult((value,), (value,), (value,), (10.0,))


@pytest.mark.slow
def test_budgets_are_equal_seeds_paired_and_the_default_first():
    frame = compare(bowl, TOY_SPACE, ["random", "grid"], [0, 1], 5, workers=0)
    columns = ["strategy", "seed", "trial", "value", "best", "seconds", "suggest_seconds"]
    assert list(frame.columns) == columns
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
    arguments = (as_objective(bowl), TOY_SPACE, ["random", "bayes"], [0, 1], 12)
    serial = replay(*arguments)
    parallel = replay(*arguments, processes=2)
    same = ["strategy", "seed", "trial", "value", "best"]
    pd.testing.assert_frame_equal(serial[same], parallel[same])


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


def test_failed_trials_cost_the_time_that_they_took(monkeypatch):
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(
        workers, "time", SimpleNamespace(time=lambda: 0, monotonic=lambda: next(ticks))
    )

    def failing(configuration):
        if configuration["lr"] < 0.05:
            message = "no"
            raise ValueError(message)
        return bowl(configuration)

    frame = compare(failing, TOY_SPACE, ["random"], [0], 8, workers=0, max_failures=8)
    lasted = frame.seconds.diff().fillna(frame.seconds)
    assert frame.value.isna().any()
    assert (lasted[frame.value.isna()] == 10).all()


@pytest.mark.parametrize(
    ("strategies", "baseline", "message"),
    [
        (["random"], None, r"at least two strategies, got \['random'\]"),
        (["random", "random"], None, "all different"),
        (["random", "bays"], None, r"strategy must be one of .*got 'bays'"),
        (["random", "optuna.samplers.Nothing"], None, "package.module:ClassName"),
        (["random", "bayes"], "grid", "against must be one of random, bayes, got 'grid'"),
    ],
)
def test_strategies_that_cannot_be_compared_are_refused_beforehand(strategies, baseline, message):
    with pytest.raises(ValueError, match=message):
        check_strategies(strategies, baseline)


def test_nothing_runs_when_a_later_strategy_is_unknown():
    called: list[object] = []
    with pytest.raises(ValueError, match="strategy must be one of"):
        compare(called.append, TOY_SPACE, ["random", "bays"], [0], 2, storage="memory", workers=0)
    assert called == []
