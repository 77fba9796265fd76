from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from hpo_lib.exceptions import StudyChangedError, StudyError
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import open_study
from hpo_lib.study.retrain import (
    best_configuration,
    describe_retrained,
    retrain_top_k,
    retrained_frame,
)
from hpo_lib.study.run import run_study
from hpo_lib.trials import RECORD_KEY

SPACE = SearchSpace.from_yaml("x: {type: int, low: 0, high: 39, default: 39}")


@dataclass(frozen=True)
class Noisy:
    """x / 100 and noise of the given size, which the seed decides; `fails` raises."""

    noise: float = 0.1
    fails: int = -1

    budget = 1

    @property
    def settings(self) -> dict[str, Any]:
        return {"noise": self.noise}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        if configuration["x"] == self.fails:
            message = "not twice"
            raise RuntimeError(message)
        value = int(configuration["x"]) / 100
        value += self.noise * float(np.random.default_rng(segment.seed).normal())
        return SegmentResult((value,), (value,), (value,), (0.01,))


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


def search(storage, seed=0, n_trials=40, noise=0.1):
    return run_study(
        Noisy(noise), SPACE, "random", n_trials, name="s", storage=storage, seed=seed, workers=0
    )


def retrain(storage, *args, noise=0.1, **options):
    return retrain_top_k(Noisy(noise), "s", *args, storage=storage, workers=0, **options)


def test_the_mean_of_fresh_trainings_ranks_the_best(storage):
    study = search(storage)
    frame = retrain(storage, 4, 5)
    assert list(frame["n"]) == [5] * 5, "four and the default"
    assert frame["is_default"].sum() == 1
    frame = frame[~frame["is_default"]]
    assert list(frame["mean"]) == sorted(frame["mean"])
    ranked = dict.fromkeys(t.params["x"] for t in sorted(study.trials, key=lambda t: t.value))
    assert set(frame["param_x"]) == set([*ranked][:4]), "distinct configurations"
    values = [
        t.value
        for t in open_study("s finalists", storage).trials
        if t.params["x"] == frame["param_x"][0]
    ]
    assert frame["mean"][0] == pytest.approx(np.mean(values))
    assert frame["standard_error"][0] == pytest.approx(np.std(values, ddof=1) / 5**0.5)
    assert best_configuration("s", storage) == {"x": frame["param_x"][0]}
    assert len(study.trials) == 40, "the search's record is only read"


def test_fresh_seeds_are_none_of_the_search(storage):
    search(storage, n_trials=3)
    frame = retrain(storage, 3, 4)
    assert (frame["optimism"].abs() > 1e-6).all()
    fresh = [trial.value for trial in open_study("s finalists", storage).trials]
    assert len(set(fresh)) == 12, "the default is one of three"


@pytest.mark.slow
def test_search_values_are_optimistic_and_means_choose_better():
    optimism, lucky, chosen = [], [], []
    for seed in range(20):
        storage = optuna.storages.InMemoryStorage()
        search(storage, seed)
        frame = retrain(storage, 5, 6)
        optimism.append(frame["optimism"][frame["search_value"].idxmin()])
        lucky.append(open_study("s", storage).best_params["x"])
        chosen.append(best_configuration("s", storage)["x"])
    # about 5 standard errors; the best of 40 draws with this noise is more than 0.1 too good
    assert np.mean(optimism) > 0.08
    assert np.mean(chosen) < np.mean(lucky)


def test_without_noise_no_value_is_optimistic(storage):
    search(storage, noise=0.0)
    frame = retrain(storage, 3, 2, noise=0.0)
    assert frame["optimism"].abs().max() < 1e-12
    assert frame["standard_error"].max() < 1e-12
    assert frame["search_value"].is_monotonic_increasing


def test_only_what_is_missing_is_trained(storage):
    search(storage)
    first = retrain(storage, 2, 2)
    assert retrain(storage, 2, 2).equals(first)
    more = retrain(storage, 3, 3)
    again = open_study("s finalists", storage)
    assert len(again.trials) == 12
    assert list(more["n"]) == [3, 3, 3, 3]


def test_an_interrupted_retraining_ends_as_an_undisturbed_one(storage):
    whole = optuna.storages.InMemoryStorage()
    search(whole)
    expected = retrain(whole, 3, 3)
    search(storage)

    def pull_the_plug(study, trial):
        if trial.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(storage, 3, 3, callback=pull_the_plug)
    assert len(open_study("s finalists", storage).trials) == 5
    assert retrain(storage, 3, 3).equals(expected)


def test_pruned_and_failed_trials_never_stand_for_election(storage):
    study = search(storage, n_trials=6)
    for state, value in ((TrialState.PRUNED, -9.0), (TrialState.FAIL, None)):
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params={"x": 7},
                distributions=SPACE.distributions(),
                user_attrs={RECORD_KEY: {"configuration": {"x": 7}}},
            )
        )
    completed = {t.params["x"] for t in study.trials[:6]}
    frame = retrain(storage, 9, 1)
    assert set(frame["param_x"]) == completed
    assert frame["standard_error"].isna().all()


def test_a_configuration_that_fails_comes_last(storage):
    search(storage)
    best = open_study("s", storage).best_params["x"]
    frame = retrain_top_k(Noisy(fails=best), "s", 2, 2, storage=storage, workers=0)
    assert list(frame["n"]) == [2, 2, 0]
    assert frame["param_x"].iloc[-1] == best
    assert best_configuration("s", storage)["x"] != best


def test_a_line_says_how_optimistic_it_was(storage):
    search(storage)
    assert describe_retrained(retrained_frame("s", storage)) == (
        "no configuration has a fresh training"
    )
    assert best_configuration("s", storage)["x"] == open_study("s", storage).best_params["x"]
    text = describe_retrained(retrain(storage, 3, 3))
    best = open_study("s", storage).best_trial
    assert f"(trial {best.number}); trained again: " in text
    assert "(95 %, n = 3)" in text
    assert "mean of all 3 configurations" in text
    assert "higher than in the search, which was partly luck" in text
    assert "default: " in text
    assert text.endswith("their order may be luck")
    lower = retrained_frame("s", storage).assign(optimism=-0.02)
    assert "0.02 lower than in the search: no sign of luck" in describe_retrained(lower)


def test_the_order_of_configurations_that_differ_is_no_luck(storage):
    search(storage, n_trials=6, noise=0.001)
    text = describe_retrained(retrain(storage, 3, 3, noise=0.001))
    assert "differ by more than their seeds do (p = " in text


def test_what_does_not_compare_is_refused(storage):
    search(storage, n_trials=3)
    with pytest.raises(StudyChangedError, match="the objective must be that of study 's'"):
        retrain(storage, noise=0.5)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        retrain(storage, 0)
    with pytest.raises(ValueError, match="n_seeds must be at least 1, got 0"):
        retrain(storage, 1, 0)
    with pytest.raises(StudyError, match="no study 'other'"):
        retrain_top_k(Noisy(), "other", storage=storage)


def test_a_study_that_others_made_is_refused(storage):
    study = optuna.create_study(study_name="s", storage=storage)
    study.optimize(lambda trial: trial.suggest_int("x", 0, 39), n_trials=2)
    with pytest.raises(StudyError, match="run_study did not make it"):
        retrain(storage)
    with pytest.raises(StudyError, match="run_study did not make it"):
        best_configuration("s", storage)
