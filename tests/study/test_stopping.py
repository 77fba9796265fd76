from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.samplers.surrogate import fit_surrogate
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import list_studies, open_study
from hpo_lib.study.gp_minimize import gp_minimize
from hpo_lib.study.run import run_study
from hpo_lib.study.stopping import (
    MaxSeconds,
    NoImprovement,
    SmallImprovement,
    TargetValue,
    largest_expected_improvement,
    stopping_rules,
)
from hpo_lib.trials import own_trials, recorded_trials, stop_reason
from tests.toys import TOY_SPACE, Learner, bowl


def run(objective=bowl, n_trials=40, name="toy", strategy="random", **options):
    options.setdefault("workers", 0)
    return run_study(objective, TOY_SPACE, strategy, n_trials, name=name, **options)


def values(study):
    return [trial.value for trial in study.trials]


def test_a_target_ends_the_study_at_the_first_trial_that_reaches_it():
    found = values(run(stop=[TargetValue(1.5)], storage="memory"))
    assert found[-1] <= 1.5 < min(found[:-1])
    assert len(found) < 40


def test_the_reason_is_recorded_and_listed():
    study = run(stop=[TargetValue(1.5)])
    assert stop_reason(study).endswith("reached the target 1.5")
    assert list_studies().stopped[0] == stop_reason(study)


@pytest.mark.parametrize("patience", [1, 4])
def test_patience_ends_after_trials_without_improvement(patience):
    found = values(run(stop=[NoImprovement(patience)], storage="memory"))
    assert min(found[:-patience]) <= min(found[-patience:])
    for earlier in range(patience + 1, len(found)):
        assert min(found[:earlier][-patience:]) < min(found[:earlier][:-patience])


def test_failed_trials_are_no_improvement():
    def broken(configuration):
        if configuration != TOY_SPACE.default_configuration():
            raise OSError
        return 1.0

    assert len(run(broken, stop=[NoImprovement(3)], storage="memory").trials) == 4


@pytest.mark.slow
def test_warm_start_trials_are_not_what_has_to_be_beaten():
    run(n_trials=12, strategy="bayes")
    study = run(name="more", n_trials=30, warm_start_from="toy", stop=[NoImprovement(2)])
    assert len(own_trials(study)) == 3


def test_seconds_are_those_of_training_and_deciding_over_all_runs(tmp_path):
    objective = Learner(str(tmp_path / "log"))  # 0.04 s per trial, says its record
    run(objective, n_trials=2)
    study = run(objective, stop=[MaxSeconds(0.2)])
    spent = [trial.spent_seconds for trial in own_trials(study)]
    assert sum(spent) >= 0.2 > sum(spent[:-1])
    assert len(spent) > 2
    assert "the limit is 0.2 s" in stop_reason(study)


@pytest.mark.slow
def test_expected_improvement_ends_a_search_that_has_converged():
    flat = run(
        lambda c: 1.0 if c["depth"] < 5 else 1.0001,
        strategy="bayes",
        name="flat",
        stop=[SmallImprovement(0.01, min_trials=6)],
    )
    assert len(flat.trials) == 6
    steep = run(n_trials=12, strategy="bayes", name="steep", stop=[SmallImprovement(1e-6)])
    assert len(steep.trials) == 12
    assert stop_reason(steep) == "budget spent"


def test_huge_values_are_not_taken_for_convergence():
    def steep(configuration):
        return sys.float_info.max if configuration["depth"] < 5 else bowl(configuration)

    study = run(steep, n_trials=8, stop=[SmallImprovement(1e-9, min_trials=4)])
    assert stop_reason(study) == "budget spent"


def test_without_anything_to_choose_no_improvement_is_asked_for():
    space = SearchSpace.from_yaml("kind: {type: choice, options: [only]}")
    rule = SmallImprovement(0.1, min_trials=4)
    study = run_study(lambda _: 0.5, space, "random", 6, name="one", workers=0, stop=[rule])
    assert len(study.trials) == 6


def test_the_largest_improvement_is_that_of_the_search_itself():
    study = run(n_trials=10, strategy="sobol", storage="memory")
    surrogate = fit_surrogate(study, TOY_SPACE)
    found = largest_expected_improvement(surrogate, recorded_trials(study))

    # A random sample of the space, however large, finds none that is larger.
    rng = np.random.default_rng(0)
    encoder = surrogate.encoder
    points = encoder.from_unit_cube(rng.random((20_000, len(encoder.axes))))
    mean, std = surrogate.model.predict(encoder.scale(points), return_std=True)
    best = surrogate.model.predict(encoder.scale(surrogate.points)).min()
    assert found >= np.exp(log_expected_improvement(mean, std, best)).max()


@pytest.mark.slow
def test_a_loose_threshold_stops_no_later_than_a_tight_one():
    n = [
        len(run(n_trials=16, strategy="bayes", name=str(t), stop=[SmallImprovement(t)]).trials)
        for t in (10.0, 0.1, 1e-9)
    ]
    assert n == sorted(n)
    assert n[0] == 10
    assert n[1] < 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [TargetValue(1.2), NoImprovement(5), SmallImprovement(0.1)], ids=repr
)
def test_an_interrupted_study_stops_at_the_same_trial(rule):
    whole = values(run(name="whole", strategy="bayes", stop=[rule]))
    assert len(whole) < 40
    run(strategy="bayes", n_trials=3)
    run(strategy="bayes", n_trials=len(whole) - 1, stop=[rule])
    assert values(run(strategy="bayes", stop=[rule])) == whole
    assert values(run(strategy="bayes", stop=[rule])) == whole, "and stays stopped"


def test_later_rules_or_none_go_on():
    n = len(run(stop=[TargetValue(1.5)]).trials)
    assert len(run(n_trials=n + 3).trials) == n + 3


def test_any_function_of_the_study_is_a_rule():
    study = run(stop=[lambda s: "enough" if len(s.trials) == 3 else None])
    assert (len(study.trials), stop_reason(study)) == (3, "enough")


def test_zero_switches_a_rule_off():
    assert stopping_rules() == []
    assert stopping_rules(seconds=5, error=0.1, patience=3, improvement=0.01) == [
        MaxSeconds(5),
        TargetValue(0.1),
        NoImprovement(3),
        SmallImprovement(0.01),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxSeconds(-1), "seconds must be greater than 0, got -1"),
        (lambda: MaxSeconds(math.nan), "seconds must be"),
        (lambda: NoImprovement(0), "n_trials must be greater than 0, got 0"),
        (lambda: SmallImprovement(0), "threshold must be greater than 0, got 0"),
        (lambda: SmallImprovement(1, min_trials=3), "min_trials must be at least 4, got 3"),
    ],
)
def test_impossible_limits_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gp_minimize_takes_rules_as_callbacks():
    seen = []
    result = gp_minimize(
        lambda x: (x[0] - 0.3) ** 2,
        [(0.0, 1.0)],
        30,
        n_initial_points=5,
        callback=[TargetValue(0.01), lambda result: seen.append(len(result.x_iters))],
        name="face",
    )
    assert result.fun <= 0.01 < min(result.func_vals[:-1])
    assert seen == [*range(1, len(result.func_vals) + 1)]
    assert "target" in stop_reason(open_study("face"))
