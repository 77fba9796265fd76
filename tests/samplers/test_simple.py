from __future__ import annotations

import pickle

import optuna
import pytest
from optuna.trial import TrialState

from hpo_lib.exceptions import ExhaustedError
from hpo_lib.samplers.registry import STRATEGIES, make_sampler
from hpo_lib.space.search_space import SearchSpace

FINITE = SearchSpace.from_yaml(
    """
opt: {type: choice, options: [adam, sgd]}
momentum: {type: float, low: 0.0, high: 1.0, step: 0.5, when: {opt: sgd}}
depth: {type: int, low: 1, high: 5}
"""
)
ALL = pytest.mark.parametrize("strategy", sorted(STRATEGIES))
SKOPT = pytest.param("skopt", marks=pytest.mark.slow)
NEVER_REPEATING = pytest.mark.parametrize("strategy", ["bayes", "grid", SKOPT])


def value(trial):
    configuration = FINITE.suggest(trial)
    return configuration["depth"] + configuration.get("momentum", 0.5)


def keys(study):
    return [frozenset(trial.params.items()) for trial in study.trials]


def exhaustive(strategy):
    return make_sampler(strategy, FINITE, 0, FINITE.size)


@NEVER_REPEATING
def test_a_trial_whose_parameters_are_recorded_in_part_is_not_repeated(strategy):
    study = optuna.create_study(sampler=exhaustive(strategy))
    for _ in range(FINITE.size - 1):
        study.tell(trial := study.ask(), value(trial))
    # The last configuration is chosen, and only one of its parameters is recorded.
    study.ask().suggest_categorical("opt", ["adam", "sgd"])
    assert study.sampler.is_exhausted(study)
    with pytest.raises(ExhaustedError, match="have been tried"):
        value(study.ask())


@pytest.mark.parametrize("strategy", ["bayes", "grid"])
def test_threads_do_not_repeat_configurations(strategy):
    study = optuna.create_study(sampler=exhaustive(strategy))
    study.optimize(value, n_trials=18, n_jobs=2)
    assert len(set(keys(study))) == len(study.trials) == 18


@NEVER_REPEATING
def test_optimize_stops_when_a_space_is_exhausted(strategy):
    study = optuna.create_study(sampler=exhaustive(strategy))
    study.optimize(value, n_trials=100)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len(set(keys(study))) == len(study.trials) == FINITE.size
    study.optimize(value, n_trials=3)
    assert [trial.state for trial in study.trials[FINITE.size :]] == [TrialState.PRUNED]


@NEVER_REPEATING
def test_what_is_enqueued_runs_before_an_exhausted_study_stops(strategy):
    study = optuna.create_study(sampler=exhaustive(strategy))
    study.enqueue_trial({"opt": "adam", "depth": 1})
    study.enqueue_trial({"opt": "adam", "depth": 1})
    study.optimize(value, n_trials=100)
    assert len(study.trials) == FINITE.size + 1


@ALL
def test_enqueued_trials_may_leave_parameters_open(strategy):
    study = optuna.create_study(sampler=make_sampler(strategy, FINITE, 0, 12))
    for opt in ("sgd", "adam"):
        for _ in range(3):
            study.enqueue_trial({"opt": opt})
    study.optimize(value, n_trials=8)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert [trial.params["opt"] for trial in study.trials[:6]] == ["sgd"] * 3 + ["adam"] * 3
    for trial in study.trials:
        assert FINITE.check(trial.params) == trial.params


@ALL
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_parameters_may_be_fixed(strategy):
    base = make_sampler(strategy, FINITE, 0, 12)
    sampler = optuna.samplers.PartialFixedSampler({"opt": "sgd"}, base)
    study = optuna.create_study(sampler=sampler)
    study.optimize(value, n_trials=6)
    assert {trial.params["opt"] for trial in study.trials} == {"sgd"}
    for trial in study.trials:
        assert FINITE.check(trial.params) == trial.params


@ALL
def test_samplers_can_be_pickled(strategy):
    sampler = make_sampler(strategy, FINITE, 3, 12)
    copy = pickle.loads(pickle.dumps(sampler))
    studies = [optuna.create_study(sampler=each) for each in (sampler, copy)]
    for study in studies:
        study.optimize(value, n_trials=8)
    assert keys(studies[0]) == keys(studies[1])


@ALL
@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_wrong_seed_is_refused_at_once(strategy, seed):
    with pytest.raises((TypeError, ValueError), match=f"seed must be .* got {seed}"):
        STRATEGIES[strategy](FINITE, seed, 12)
