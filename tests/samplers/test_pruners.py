from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from hpo_lib.samplers.pruners import (
    RungPruner,
    bracket,
    default_rungs,
    geometric_rungs,
    halving_goes_on,
    make_pruner,
    median_goes_on,
)

FACTORS = st.integers(2, 5)
VALUES = st.dictionaries(st.integers(0, 50), st.sampled_from([0.1, 0.2, 0.3, 0.5]), min_size=1)


@given(st.integers(1, 2000), FACTORS)
def test_rungs_are_powers_below_the_budget(budget, factor):
    rungs = geometric_rungs(budget, factor)
    assert default_rungs(budget, "hyperband", factor) == rungs
    assert rungs == tuple(factor**k for k in range(len(rungs)))
    assert all(rung < budget for rung in rungs)
    assert factor ** len(rungs) >= budget


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_rungs_are_shares_of_the_budget(rule):
    expected = {
        52: (6, 13, 26),
        27: (3, 7, 14),
        9: (1, 2, 4),
        4: (1, 2),
        3: (1, 2),
        2: (1,),
        1: (),
    }
    assert {budget: default_rungs(budget, rule) for budget in expected} == expected


@given(VALUES, FACTORS)
def test_halving_keeps_its_share_and_always_the_best(values, factor):
    kept = {number for number in values if halving_goes_on(number, values, factor)}
    assert len(kept) == max(1, len(values) // factor)
    assert min(values, key=lambda number: (values[number], number)) in kept
    worst_kept = max(values[number] for number in kept)
    assert all(values[number] >= worst_kept for number in values if number not in kept)


@given(VALUES, FACTORS, st.integers(1, 60))
def test_halving_waits_for_the_least_number_of_trials(values, factor, least):
    for number in values:
        goes_on = halving_goes_on(number, values, factor)
        expected = goes_on and len(values) >= least
        assert halving_goes_on(number, values, factor, least) == expected


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
def test_what_somebody_asked_for_is_trained_to_its_end(rule):
    study = optuna.create_study(pruner=RungPruner(rule, (1,)))
    for number in range(12):
        if number in (0, 11):
            study.enqueue_trial({"x": 1.0})
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(100.0 + number, 1)
        stopped = trial.should_prune()
        study.tell(
            trial,
            state=optuna.trial.TrialState.PRUNED if stopped else None,
            values=None if stopped else 1.0,
        )
        assert not (stopped and number in (0, 11))
    assert TrialState.PRUNED in {trial.state for trial in study.trials}


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_is_no_number_at_a_rung_stops_and_is_no_rival(rule, direction):
    def verdicts(values):
        study = optuna.create_study(direction=direction, pruner=RungPruner(rule, (1,), seed=1))
        found = []
        for value in values:
            trial = study.ask()
            if value is not None:
                trial.report(value, 1)
            found.append(trial.should_prune())
        return found

    numbers = [4.0, 6.0, 3.0, 5.0, 2.0, 7.0, 1.0, 8.0]
    mixed = verdicts([4.0, *[math.nan] * 5, *numbers])
    assert mixed[1:6] == [True] * 5
    assert mixed[6:] == verdicts([4.0, *[None] * 5, *numbers])[6:]


@pytest.mark.parametrize("asked_for", [False, True])
def test_halving_waits_for_rivals_unless_one_was_asked_for(asked_for):
    study = optuna.create_study(pruner=RungPruner("asha", (1,)))
    if asked_for:
        study.enqueue_trial({"x": 1.0})
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).report(9.0, 1)
    stopped = []
    for value in (3.0, 2.0, 1.0):
        trial = study.ask()
        trial.report(value, 1)
        stopped.append(trial.should_prune())
    assert stopped == [not asked_for, not asked_for, False]


@given(VALUES, FACTORS, st.randoms())
def test_verdicts_follow_the_order_of_values_alone(values, factor, random):
    items = list(values.items())
    random.shuffle(items)
    squeezed = {number: math.exp(value) for number, value in items}
    for number in values:
        halved = halving_goes_on(number, squeezed, factor)
        assert halved == halving_goes_on(number, values, factor)
        assert median_goes_on(number, dict(items)) == median_goes_on(number, values)


def test_the_median_rule_waits_for_four_others_and_stops_the_worse_half():
    values = dict(enumerate((0.1, 0.2, 0.3, 0.4)))
    assert median_goes_on(9, {**values, 9: 0.25})
    assert not median_goes_on(9, {**values, 9: 0.26})
    del values[0]
    assert median_goes_on(9, {**values, 9: 0.9})


def test_brackets_are_fixed_by_seed_and_number_and_share_the_epochs():
    drawn = [bracket(7, number, 3) for number in range(2000)]
    assert drawn == [bracket(7, number, 3) for number in range(2000)]
    assert drawn != [bracket(8, number, 3) for number in range(2000)]
    # 27, 12, 6 and 4 of 49 trials (Li et al., 2018, table 1, for a budget of 27 epochs)
    for level, share in enumerate((27, 12, 6, 4)):
        assert drawn.count(level) / 2000 == pytest.approx(share / 49, abs=0.03)


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_in_any_program_a_verdict_does_not_depend_on_names_or_on_asking(rule, direction):
    def run(name, times):
        pruner = RungPruner(rule, (1, 3), seed=1)
        study = optuna.create_study(study_name=name, direction=direction, pruner=pruner)
        sign = 1 if direction == "minimize" else -1
        for number in range(30):
            trial = study.ask()
            for epoch in range(1, 5):
                trial.report(sign * ((number * 7 % 30) + 1 / epoch), epoch)
                if [trial.should_prune() for _ in range(times)][-1]:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, sign * (number * 7 % 30))
        return [(t.state, t.last_step) for t in study.trials]

    once = run("one", 1)
    assert once == run("another", 3)
    steps = [step for _, step in once]
    assert steps[0] == (1 if rule == "asha" else 4)
    assert {1, 3, 4} == set(steps)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"pruning must be one of asha, .* none, got 'best'"):
        make_pruner("best", (1,), 3, 0)
    with pytest.raises(ValueError, match="reduction_factor must be at least 2, got 1"):
        geometric_rungs(9, 1)
    for factor in (0, 1, -3):
        with pytest.raises(ValueError, match=f"reduction_factor must be .* got {factor}"):
            make_pruner("hyperband", (1, 3), factor, 0)


@given(VALUES)
def test_no_rung_no_verdict(values):
    study = optuna.create_study(pruner=RungPruner("asha", (2,)))
    for value in values.values():
        trial = study.ask()
        trial.report(value, 1)
        assert not trial.should_prune()
