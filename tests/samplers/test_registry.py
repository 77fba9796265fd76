from __future__ import annotations

import math
import statistics
import subprocess
import sys

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from hpo_lib.samplers.registry import STRATEGIES, make_sampler
from hpo_lib.samplers.simple import GridSampler, RandomSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, bowl, record_of

CORNER = SearchSpace.from_yaml(
    """
x: {type: float, low: 0.0, high: 1.0, default: 0.3}
kind: {type: choice, options: [a, b], default: a}
"""
)


def ask(sampler, space, n, study=None, value=0.0):
    study = study or optuna.create_study()
    study.sampler = sampler
    asked = []
    for _ in range(n):
        trial = study.ask()
        asked.append(space.suggest(trial))
        study.tell(trial, value)
    return asked


def keys(configurations):
    return {frozenset(configuration.items()) for configuration in configurations}


def flaky(configuration):
    if configuration["depth"] == 4:
        message = "depth 4 does not work"
        raise RuntimeError(message)
    return bowl(configuration)


def configurations(study):
    return [record_of(trial).configuration for trial in study.trials]


@pytest.mark.parametrize(
    ("n_trials", "points"), [(3, 3), (4, 2), (7, 3), (9, 4), (10, 5), (99, 5)]
)
def test_the_grid_is_the_finest_that_fits_the_budget(n_trials, points):
    sampler = GridSampler(CORNER, 0, n_trials)
    assert (sampler.points, len(sampler._grid)) == (points, 2 * points)


def test_the_grid_is_tried_once_each_in_an_order_of_the_seed():
    orders = [ask(GridSampler(CORNER, seed, 10), CORNER, 10) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert keys(orders[0]) == keys(orders[2]) == keys(CORNER.grid(5))


@given(st.integers(0, 1000))
def test_the_grid_needs_no_memory(seed):
    study = optuna.create_study()
    asked = [ask(GridSampler(TOY_SPACE, seed, 4), TOY_SPACE, 1, study)[0] for _ in range(6)]
    assert asked == ask(GridSampler(TOY_SPACE, seed, 4), TOY_SPACE, 6)


def test_running_and_enqueued_points_are_not_taken_again():
    study = optuna.create_study(sampler=GridSampler(CORNER, 0, 4))
    running = CORNER.suggest(study.ask())
    enqueued = next(c for c in CORNER.grid(2) if c != running)
    study.enqueue_trial(enqueued)
    assert CORNER.suggest(study.ask()) == enqueued
    rest = [CORNER.suggest(study.ask()) for _ in range(2)]
    assert keys([running, enqueued, *rest]) == keys(CORNER.grid(2))


def test_an_exhausted_grid_says_so():
    sampler = GridSampler(CORNER, 0, 4)
    study = optuna.create_study()
    ask(sampler, CORNER, 3, study)
    assert not sampler.is_exhausted(study)
    ask(sampler, CORNER, 1, study)
    assert sampler.is_exhausted(study)
    with pytest.raises(RuntimeError, match="all 4 configurations of the grid"):
        CORNER.suggest(study.ask())


@pytest.mark.parametrize(("n_trials", "n_grid"), [(9, 8), (50, 10)])
def test_a_study_ends_with_the_grid_whose_default_may_lie_off_it(n_trials, n_grid):
    objective = lambda c: c["x"]  # noqa: E731
    study = run_study(objective, CORNER, "grid", n_trials, name="g", storage="memory", workers=0)
    tried = configurations(study)
    assert tried[0] == CORNER.default_configuration()
    assert len(keys(tried)) == len(tried) == n_grid + 1


def test_an_absurd_grid_is_refused():
    lines = [f"p{i}: {{type: choice, options: [{', '.join('abcdefgh')}]}}" for i in range(6)]
    with pytest.raises(ValueError, match="100,000"):
        GridSampler(SearchSpace.from_yaml("\n".join(lines)), 0, 20)


def test_a_random_draw_is_a_function_of_seed_and_number():
    study = optuna.create_study()
    ask(RandomSampler(TOY_SPACE, 1), TOY_SPACE, 3, study, value=-1.0)
    later = ask(RandomSampler(TOY_SPACE, 0), TOY_SPACE, 3, study)
    assert later == ask(RandomSampler(TOY_SPACE, 0), TOY_SPACE, 6)[3:]
    assert len(keys(later)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - {"bayes", "skopt"}))  # in test_bayes
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(strategy, tmp_path):
    n_trials = 18

    def run(name, callback=None):
        study = run_study(
            flaky,
            TOY_SPACE,
            strategy,
            n_trials,
            name="s",
            storage=tmp_path / f"{name}.db",
            workers=0,
            seed=4,
            max_failures=n_trials,
            callback=callback,
        )
        return configurations(study)

    for stop in (3, n_trials - 3):
        assert len(run("interrupted", lambda _, trial, stop=stop: trial.number == stop)) < n_trials
    assert run("interrupted") == run("undisturbed")


@pytest.mark.parametrize("sampler", [RandomSampler(CORNER, 0), GridSampler(CORNER, 0, 4)])
def test_a_parameter_that_the_space_does_not_have_is_refused(sampler):
    study = optuna.create_study(sampler=sampler)
    with pytest.raises(ValueError, match=r"'y' .* not in the space"):
        study.ask().suggest_float("y", 0.0, 1.0)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_runs_a_study(strategy):
    study = run_study(bowl, TOY_SPACE, strategy, 6, name="s", storage="memory", workers=0)
    assert len(study.trials) == 6
    for configuration in configurations(study):
        assert TOY_SPACE.check(configuration) == configuration
        assert {type(value) for value in configuration.values()} <= {float, int, str}


def test_a_sampler_is_returned_as_it_is():
    sampler = optuna.samplers.TPESampler(seed=0)
    assert make_sampler(sampler, CORNER, 0, 4) is sampler


@pytest.mark.parametrize("path", ["optuna.samplers:TPESampler", "optuna.samplers.TPESampler"])
def test_an_import_path_names_an_optuna_sampler(path):
    sampler = make_sampler(path, CORNER, 3, 4)
    assert isinstance(sampler, optuna.samplers.TPESampler)


@pytest.mark.parametrize(
    ("strategy", "seed", "message"),
    [
        ("bayesian", 0, r"strategy must be one of bayes, cmaes, .*, tpe, .* got 'bayesian'"),
        ("optuna.samplers:Nothing", 0, "got 'optuna.samplers:Nothing'"),
        ("no_such_module:Sampler", 0, "No module named 'no_such_module'"),
        ("optuna.samplers:GridSampler2", 0, "got 'optuna.samplers:GridSampler2'"),
        ("optuna.samplers:PartialFixedSampler", 0, "sampler that takes a seed"),
        (
            "optuna.samplers.GridSampler",
            0,
            "takes a seed alone, got 'optuna.samplers.GridSampler'",
        ),
        (RandomSampler, 0, "or a sampler, got <class '.*RandomSampler'>"),
        ("pathlib:Path", 0, "sampler that takes a seed"),
        ("random", -1, "seed must be at least 0, got -1"),
    ],
)
def test_a_wrong_strategy_is_refused(strategy, seed, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(strategy, CORNER, seed, 4)


def test_the_table_opens_without_the_heavy_libraries():
    heavy = "{'skopt', 'sklearn', 'torch'} & {*sys.modules}"
    code = f"import sys, hpo_lib.samplers.registry; print({heavy})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


MIXED = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.001, high: 0.1, log: true, prior: segmented}
width: {type: int, low: 3, high: 15, step: 2}
kind: {type: choice, options: [a, b]}
slope: {type: float, low: 0.0, high: 0.9, step: 0.3, when: {kind: b}}
"""
)


def mixed(configuration):
    """0 at lr 0.01, width 7, kind b, slope 0.6."""
    value = math.log10(configuration["lr"] / 0.01) ** 2 + ((configuration["width"] - 7) / 6) ** 2
    return value + (abs(configuration["slope"] - 0.6) if configuration["kind"] == "b" else 0.5)


def median_of_best(strategy, space, function, n_trials=50):
    bests = []
    for seed in range(10):
        study = optuna.create_study(sampler=make_sampler(strategy, space, seed, n_trials))
        for _ in range(n_trials):
            trial = study.ask()
            study.tell(trial, function(space.suggest(trial)))
        bests.append(study.best_value)
    return statistics.median(bests)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "function"), [(TOY_SPACE, bowl), (MIXED, mixed)])
def test_what_learns_from_trials_beats_random_search(space, function):
    random = median_of_best("random", space, function)
    for strategy in ("tpe", "cmaes", "three_step"):
        assert median_of_best(strategy, space, function) < random, strategy


@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - {"skopt"}))
@pytest.mark.parametrize("outcome", ["value", "failure", "pruned", "pending"])
def test_inactive_parameters_are_absent_and_steps_are_kept_whatever_the_outcome(strategy, outcome):
    n_trials = 12 if strategy == "grid" else 26  # its grid is no larger
    study = optuna.create_study(sampler=make_sampler(strategy, MIXED, 1, n_trials))
    for _ in range(n_trials):
        trial = study.ask()
        configuration = MIXED.suggest(trial)
        assert MIXED.check(configuration) == configuration
        assert trial.params.keys() == configuration.keys()
        if outcome == "value":
            study.tell(trial, mixed(configuration))
        elif outcome == "failure":
            study.tell(trial, state=TrialState.FAIL)
        elif outcome == "pruned":
            trial.report(1.0, 1)
            study.tell(trial, state=TrialState.PRUNED)


def segment_points(seed):
    """The three points of the prior of `MIXED`'s lr."""
    return [MIXED["lr"].from_unit(u, seed) for u in (0.0, 0.5, 1.0)]


@pytest.mark.parametrize("strategy", ["random", "sobol"])
def test_the_segmented_prior_governs_where_values_are_drawn(strategy):
    low, middle, high = segment_points(5)
    drawn = [c["lr"] for c in ask(make_sampler(strategy, MIXED, 5, 64), MIXED, 64)]
    assert low <= min(drawn)
    assert max(drawn) <= high
    assert sum(lr < middle for lr in drawn) == pytest.approx(32, abs=8)


def test_sobol_fills_every_cell_once_and_depends_on_the_seed():
    plane = SearchSpace.from_yaml(
        "x: {type: float, low: 0.0, high: 1.0}\ny: {type: float, low: 0.0, high: 1.0}"
    )
    drawn = [ask(make_sampler("sobol", plane, seed, 16), plane, 16) for seed in (3, 4)]
    assert drawn[0] != drawn[1]
    for points in drawn:
        for wide, high in ((16, 1), (4, 4), (1, 16)):
            assert len({(int(p["x"] * wide), int(p["y"] * high)) for p in points}) == 16


def test_sobol_goes_on_from_any_trial_number():
    study = optuna.create_study()
    ask(RandomSampler(TOY_SPACE, 1), TOY_SPACE, 5, study)
    later = ask(make_sampler("sobol", TOY_SPACE, 0, 8), TOY_SPACE, 3, study)
    assert later == ask(make_sampler("sobol", TOY_SPACE, 0, 8), TOY_SPACE, 8)[5:]


def three_steps(space, function, n, seed=0):
    study = optuna.create_study(sampler=make_sampler("three_step", space, seed, n))
    tried = []
    for _ in range(n):
        trial = study.ask()
        tried.append(space.suggest(trial))
        study.tell(trial, function(tried[-1]))
    return tried


def changed(one, other):
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


@given(st.integers(0, 200))
def test_three_step_warms_up_at_the_points_of_a_segmented_prior(seed):
    first, *warm_up = three_steps(MIXED, mixed, 4, seed)
    assert [one["lr"] for one in warm_up] == segment_points(seed)
    assert all(changed(first, one) <= {"lr"} for one in warm_up)


@given(st.integers(0, 200))
def test_three_step_warms_up_in_each_third_of_a_range(seed):
    first, *warm_up = three_steps(TOY_SPACE, bowl, 4, seed)
    thirds = [int(3 * (math.log10(one["lr"]) + 4) / 4) for one in warm_up]
    assert thirds == [0, 1, 2]
    assert all(changed(first, one) <= {"lr"} for one in warm_up)


def test_three_step_changes_one_parameter_of_the_incumbent_per_block_in_turn():
    cube = SearchSpace.from_yaml(
        "".join(f"{name}: {{type: float, low: 0.0, high: 1.0}}\n" for name in "abc")
    )
    function = lambda c: sum((c[name] - 0.3) ** 2 for name in "abc")  # noqa: E731
    tried = three_steps(cube, function, 4 + 18)
    for number in range(4, len(tried)):
        incumbent = min(tried[:number], key=function)
        assert changed(incumbent, tried[number]) == {"abc"[(number - 4) // 3 % 3]}
    assert function(min(tried, key=function)) < 0.01


def test_three_step_does_not_count_trials_that_it_did_not_choose():
    study = optuna.create_study(sampler=make_sampler("three_step", MIXED, 7, 9))
    study.enqueue_trial({"lr": 0.05, "width": 3, "kind": "a"})
    tried = [MIXED.suggest(study.ask()) for _ in range(5)]
    assert tried[1:] == three_steps(MIXED, mixed, 4, 7)


def test_three_step_warms_up_what_others_hang_on():
    space = SearchSpace.from_yaml(
        "layers: {type: int, low: 1, high: 3}\n"
        "units: {type: int, low: 8, high: 64, default: 32, when: {layers: [2, 3]}}"
    )
    first, *warm_up = three_steps(space, lambda c: c["layers"], 6, 2)[:4]
    assert first == {"layers": 1}
    assert warm_up == [{"layers": 1}, {"layers": 2, "units": 32}, {"layers": 3, "units": 32}]


def test_three_step_goes_on_after_a_huge_value():
    def positions(huge):
        tried = three_steps(CORNER, lambda c: huge if c["x"] < 0.5 else c["x"], 12)
        assert len(keys(tried)) == 12
        return [configuration["x"] for configuration in tried]

    assert positions(sys.float_info.max) == pytest.approx(positions(1e149), abs=0.01)


def test_three_step_without_numbers_or_with_short_lines_goes_on():
    words = SearchSpace.from_yaml(
        "u: {type: choice, options: [a, b]}\nv: {type: choice, options: [a, b, c]}"
    )
    tried = three_steps(words, lambda c: (c["u"] == "a") + "abc".index(c["v"]), 5)
    assert len(keys(tried[:4])) == 4
    assert {"u": "b", "v": "a"} in tried


@pytest.mark.parametrize(("strategy", "factor"), [("cmaes", 10), ("genetic", 2)])
def test_generations_come_nearer_to_the_optimum(strategy, factor):
    cube = SearchSpace.from_yaml(
        "".join(f"{name}: {{type: float, low: 0.0, high: 1.0}}\n" for name in "abcd")
    )
    study = optuna.create_study(sampler=make_sampler(strategy, cube, 0, 96))
    for _ in range(96):
        trial = study.ask()
        study.tell(trial, sum((value - 0.8) ** 2 for value in cube.suggest(trial).values()))
    values = [trial.value for trial in study.trials]
    assert np.mean(values[-24:]) < np.mean(values[:24]) / factor
