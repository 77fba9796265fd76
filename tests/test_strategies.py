from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_lib.space import SearchSpace
from hpo_lib.strategies import STRATEGIES, GridSampler, RandomSampler, make_sampler
from hpo_lib.study import run_study
from tests.toys import TOY_SPACE, bowl

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


def configurations(study):
    return [trial.user_attrs["configuration"] for trial in study.trials]


@pytest.mark.parametrize(
    ("n_trials", "points"), [(3, 3), (4, 2), (7, 3), (9, 4), (10, 5), (99, 5)]
)
def test_the_grid_is_the_finest_that_fits_the_budget(n_trials, points):
    sampler = GridSampler(CORNER, 0, n_trials)
    assert (sampler.points, len(sampler)) == (points, 2 * points)


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


@pytest.mark.parametrize("strategy", ["grid", "random"])
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(strategy, tmp_path):
    def run(n_trials, name):
        storage = tmp_path / f"{name}.db"
        study = run_study(
            bowl, TOY_SPACE, strategy, n_trials, name="s", storage=storage, workers=0, seed=4
        )
        return configurations(study)

    run(3, "interrupted")
    assert run(8, "interrupted") == run(8, "undisturbed")


@pytest.mark.parametrize("sampler", [RandomSampler(CORNER, 0), GridSampler(CORNER, 0, 4)])
def test_a_parameter_that_the_space_does_not_have_is_refused(sampler):
    study = optuna.create_study(sampler=sampler)
    with pytest.raises(ValueError, match=r"'y' .* not in the space"):
        study.ask().suggest_float("y", 0.0, 1.0)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_runs_a_study(strategy):
    study = run_study(bowl, TOY_SPACE, strategy, 6, name="s", storage="memory", workers=0)
    for configuration in configurations(study):
        assert TOY_SPACE.check(configuration) == configuration
        assert {type(value) for value in configuration.values()} <= {float, int, str}


def test_a_sampler_is_returned_as_it_is():
    sampler = optuna.samplers.TPESampler(seed=0)
    assert make_sampler(sampler, CORNER, 0, 4) is sampler


def test_an_import_path_names_an_optuna_sampler():
    sampler = make_sampler("optuna.samplers:TPESampler", CORNER, 3, 4)
    assert isinstance(sampler, optuna.samplers.TPESampler)


@pytest.mark.parametrize(
    ("strategy", "seed", "message"),
    [
        ("bayesian", 0, r"strategy must be one of bayes, grid, random, skopt, .* got 'bayesian'"),
        ("optuna.samplers:Nothing", 0, "got 'optuna.samplers:Nothing'"),
        ("no_such_module:Sampler", 0, "No module named 'no_such_module'"),
        ("optuna.samplers:GridSampler2", 0, "got 'optuna.samplers:GridSampler2'"),
        ("optuna.samplers:PartialFixedSampler", 0, "sampler that takes a seed"),
        ("pathlib:Path", 0, "sampler that takes a seed"),
        ("random", -1, "seed must not be negative, got -1"),
    ],
)
def test_a_wrong_strategy_is_refused(strategy, seed, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(strategy, CORNER, seed, 4)


def test_the_table_opens_without_the_heavy_libraries():
    code = "import sys, hpo_lib.strategies; print({'skopt', 'sklearn', 'torch'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
