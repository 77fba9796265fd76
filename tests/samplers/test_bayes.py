from __future__ import annotations

import math
import statistics

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from threadpoolctl import threadpool_limits

from hpo_lib.samplers import bayes
from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.samplers.encoding import Encoder
from hpo_lib.samplers.gp_sampler_base import INITIAL_POINT_GENERATORS
from hpo_lib.samplers.observations import (
    Observation,
    Observations,
    collect_observations,
    intermediate_observations,
    rung_thresholds,
    subsample_training_set,
    tie_break_margin,
)
from hpo_lib.samplers.optuna_samplers import choose_by_tpe
from hpo_lib.samplers.simple import RandomSampler
from hpo_lib.samplers.skopt_sampler import SkoptSampler
from hpo_lib.samplers.surrogate import fit_surrogate
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.trials import RECORD_KEY, own_trials, recorded_trials
from tests.toys import TOY_SPACE, bowl, record_of

BOTH = pytest.mark.parametrize("kind", [BayesSampler, SkoptSampler])
LINE = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
STEPS = SearchSpace.from_yaml("n: {type: int, low: 1, high: 8}")
FINITE = SearchSpace.from_yaml(
    """
kind: {type: choice, options: [a, 2, true]}
rate: {type: float, low: 0.1, high: 0.3, step: 0.1, when: {kind: a}}
"""
)
SQUARE = SearchSpace.from_yaml(
    "{x: {type: float, low: 0.0, high: 1.0}, y: {type: float, low: 0.0, high: 1.0}}"
)
PLANE = SearchSpace.from_yaml(
    """
x: {type: float, low: -5.0, high: 10.0}
y: {type: float, low: 0.0, high: 15.0}
"""
)


def branin(configuration):
    """0.3979 at three points."""
    x, y = configuration["x"], configuration["y"]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def search(sampler, space, function, n, study=None):
    study = study or optuna.create_study()
    study.sampler = sampler
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, function(space.suggest(trial)))
    return study


def params(study):
    return [trial.params for trial in study.trials]


def distinct(study):
    return len({frozenset(trial.params.items()) for trial in study.trials}) == len(study.trials)


def line_study(*trials):
    """A study over `LINE` of (x, value) or (x, value, state, status)."""
    study = optuna.create_study()
    for x, value, *more in trials:
        state, status = (*more, None)[:2] if more else (TrialState.COMPLETE, None)
        trial = create_trial(
            state=state,
            value=value,
            params={"x": x},
            distributions=LINE.distributions(),
            user_attrs={RECORD_KEY: {"status": status}},
        )
        study.add_trial(trial)
    return study


def next_x(study, kind=BayesSampler, **options):
    study.sampler = kind(0, LINE, 2, **options)
    return LINE.suggest(study.ask())["x"]


@BOTH
def test_values_are_plain_active_and_never_repeated(kind):
    study = search(kind(0, TOY_SPACE, 4), TOY_SPACE, bowl, 7)
    assert distinct(study)
    for trial in study.trials:
        assert {type(value) for value in trial.params.values()} <= {float, int, str}
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        assert TOY_SPACE.contains(trial.params)


@pytest.mark.slow
@BOTH
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(kind, tmp_path):
    def run(n_trials, name):
        sampler = kind(3, TOY_SPACE, 3)
        file = tmp_path / f"{name}.db"
        study = run_study(
            flaky, TOY_SPACE, sampler, n_trials, name="s", storage=file, workers=0, seed=3
        )
        return [record_of(trial).configuration for trial in study.trials]

    run(4, "interrupted")
    assert run(6, "interrupted") == run(6, "undisturbed")


@pytest.mark.slow
def test_the_number_of_threads_does_not_change_what_skopts_model_chooses():
    def found(threads):
        study = search(RandomSampler(TOY_SPACE, 0), TOY_SPACE, bowl, 40)
        with threadpool_limits(threads, "blas"):
            search(SkoptSampler(0, TOY_SPACE, 2), TOY_SPACE, bowl, 3, study)
        return params(study)

    assert found(1) == found(2)


def flaky(configuration):
    if configuration["depth"] == 4:
        message = "depth 4 does not work"
        raise RuntimeError(message)
    return bowl(configuration)


@BOTH
@pytest.mark.parametrize("outcome", ["value", "failure", "pending"])
def test_a_finite_space_is_tried_once_each_whatever_the_outcome(kind, outcome):
    sampler = kind(0, FINITE, 2)
    study = optuna.create_study(sampler=sampler)
    while not sampler.is_exhausted(study):
        trial = study.ask()
        FINITE.suggest(trial)
        if outcome == "value":
            study.tell(trial, trial.number / 10)
        elif outcome == "failure":
            study.tell(trial, state=TrialState.FAIL)
    assert len(study.trials) == FINITE.size == 5
    assert distinct(study)
    assert {type(trial.params["kind"]) for trial in study.trials} == {str, int, bool}
    with pytest.raises(RuntimeError, match="all 5 configurations of the space"):
        FINITE.suggest(study.ask())


def test_a_study_of_a_finite_space_ends_by_itself():
    study = run_study(
        lambda c: c.get("rate", 0.0), FINITE, "bayes", 50, name="f", storage="memory", workers=0
    )
    assert len(study.trials) == 5


@BOTH
def test_pending_trials_are_not_proposed_again(kind):
    study = search(kind(0, STEPS, 3), STEPS, lambda c: c["n"], 3)
    for _ in range(5):
        STEPS.suggest(study.ask())
    assert {trial.params["n"] for trial in study.trials} == set(range(1, 9))


@BOTH
def test_what_is_enqueued_is_not_proposed(kind):
    study = search(kind(0, STEPS, 3), STEPS, lambda c: c["n"], 3)
    number = study.ask().number
    for _ in range(5):  # each proposal waits from then on
        trial = study.trials[number]
        study.enqueue_trial(study.sampler.sample_relative(study, trial, STEPS.distributions()))
    assert {trial.state for trial in study.trials[number + 1 :]} == {TrialState.WAITING}
    enqueued = [trial.system_attrs["fixed_params"]["n"] for trial in study.trials[number + 1 :]]
    assert sorted(enqueued + [t.params["n"] for t in study.trials[:3]]) == [*range(1, 9)]


@BOTH
def test_values_that_are_no_numbers_do_not_reach_the_model(kind):
    def broken(configuration):
        if configuration["x"] < 0.4:
            return math.inf
        return math.nan if configuration["x"] > 0.9 else configuration["x"]

    study = optuna.create_study(sampler=kind(0, LINE, 3))
    study.optimize(lambda trial: broken(LINE.suggest(trial)), n_trials=6)
    assert len(study.trials) == 6
    assert 0.4 <= study.best_params["x"] < 0.7


def test_the_search_keeps_away_from_failures():
    good = [(0.3, 0.5), (0.5, 0.4), (0.7, 0.3), (0.85, 0.2)]
    failed = [(x, None, TrialState.FAIL, "diverged") for x in (0.93, 0.96, 1.0)]
    lost = [(x, None, TrialState.FAIL, "lost") for x in (0.93, 0.96, 1.0)]
    assert next_x(line_study(*good, *lost)) > 0.92
    assert next_x(line_study(*good, *failed)) < 0.92


def best_of(n, fails):
    """Return the best value of a search of a bowl, some trials of which fail."""
    sampler = BayesSampler(0, SQUARE)
    study = optuna.create_study(sampler=sampler)
    rng = np.random.default_rng(2)
    for _ in range(n):
        trial = study.ask()
        x, y = SQUARE.suggest(trial).values()
        if fails(x, rng.random()):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, (x - 0.5) ** 2 + (y - 0.5) ** 2)
    return study.best_value


@pytest.mark.slow
def test_failures_at_random_do_not_mislead_the_search():
    assert best_of(25, lambda x, u: u < 0.4) < 1e-3


@pytest.mark.slow
def test_an_optimum_on_the_border_of_failures_is_found():
    assert best_of(25, lambda x, u: x < 0.5) < 1e-2


@pytest.mark.parametrize("acq_func", ["gp_hedge", "EI", "EIps", "LCB", "PI"])
def test_every_acquisition_function_keeps_away_from_failures(acq_func):
    good = [(0.3, 0.5), (0.5, 0.4), (0.7, 0.3), (0.85, 0.2)]
    failed = [(x, None, TrialState.FAIL, "diverged") for x in (0.93, 0.96, 1.0)]
    assert next_x(line_study(*good, *failed), acq_func=acq_func) < 0.92


@BOTH
@pytest.mark.parametrize(("scale", "offset"), [(1e200, 0.0), (1e308, 0.0), (1e308, -1.7)])
def test_the_search_finds_the_optimum_of_huge_values(kind, scale, offset):
    study = search(kind(0, LINE, 5), LINE, lambda c: scale * ((c["x"] - 0.3) ** 2 + offset), 14)
    assert abs(study.best_params["x"] - 0.3) < 0.02


def test_one_huge_value_does_not_hide_the_others():
    good = [(0.1, 0.3), (0.3, 0.1), (0.5, 0.3), (0.7, 0.5)]
    expected = next_x(line_study(*good, (0.9, 1e20)))
    assert next_x(line_study(*good, (0.9, 1e200))) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("scale", [1e200, -1e308])
def test_a_surrogate_predicts_huge_values(scale):
    points = [(0.1, 0.9), (0.4, 0.2), (0.6, 0.3), (0.9, 0.8)]
    plain, _ = fit_surrogate(line_study(*points), LINE).predict([{"x": 0.5}])
    huge = line_study(*((x, scale * y) for x, y in points))
    mean, std = fit_surrogate(huge, LINE).predict([{"x": 0.5}])
    assert mean == pytest.approx(scale * plain)
    assert np.isfinite(std).all()


def test_pruned_and_lost_trials_are_no_evidence():
    good = [(0.3, 0.5), (0.5, 0.4), (0.7, 0.3)]
    pruned = line_study(*good, (0.2, 0.0, TrialState.PRUNED))
    lost = line_study(*good, (0.2, None, TrialState.FAIL, "lost"))
    assert next_x(pruned) == next_x(lost)


def test_without_any_value_it_draws_on():
    failed = [(x, None, TrialState.FAIL) for x in (0.2, 0.4, 0.6)]
    assert 0.0 <= next_x(line_study(*failed)) <= 1.0


@BOTH
def test_both_directions(kind):
    down = search(kind(0, LINE, 3), LINE, lambda c: (c["x"] - 0.6) ** 2, 5)
    up = optuna.create_study(direction="maximize")
    search(kind(0, LINE, 3), LINE, lambda c: -((c["x"] - 0.6) ** 2), 5, up)
    assert params(up) == params(down)


def test_trials_of_another_space_are_ignored():
    good = [(0.3, 0.5), (0.5, 0.4), (0.7, 0.3)]
    other = line_study(*good)
    for name, high in (("x", 9.0), ("z", 1.0)):
        other.add_trial(
            create_trial(
                params={name: high},
                distributions={name: FloatDistribution(0.0, high)},
                value=-1.0,
            )
        )
    study = line_study(*good, *[(0.3, 0.5, TrialState.PRUNED)] * 2)
    assert next_x(other) == next_x(study)


def test_what_is_to_be_tried_first_comes_after_the_default_and_evidence():
    storage = optuna.storages.InMemoryStorage()
    for name, earlier in (("a", None), ("b", "a")):
        sampler = BayesSampler(0, LINE, x0=[{"x": 0.1}, {"x": 0.2}])
        study = run_study(
            lambda c: c["x"],
            LINE,
            sampler,
            4,
            name=name,
            storage=storage,
            workers=0,
            warm_start_from=earlier,
        )
        own = [t.params["x"] for t in own_trials(study)]
        assert own[:3] == [0.5, 0.1, 0.2]
        assert len({*own}) == 4


@pytest.mark.parametrize("design", INITIAL_POINT_GENERATORS)
def test_initial_points_depend_on_seed_and_number_alone(design):
    def first(seed, value):
        sampler = BayesSampler(seed, PLANE, 6, initial_point_generator=design)
        return params(search(sampler, PLANE, lambda _: value, 6))

    assert first(0, 0.0) == first(0, 1.0) != first(1, 0.0)


def test_the_first_points_of_bayes_follow_the_prior():
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, prior: segmented}")
    drawn = [space.from_unit([u], 5)["x"] for u in (0.0, 1.0)]
    study = search(BayesSampler(5, space, 8), space, lambda c: c["x"], 8)
    assert all(drawn[0] <= trial.params["x"] <= drawn[1] for trial in study.trials)


def define_by_run(trial):
    width = trial.suggest_categorical("width", [None, "wide", 3])
    depth = trial.suggest_int("depth", 2, 10, step=4)
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    extra = trial.suggest_float("momentum", 0.0, 1.0) if depth == 6 else 0.5
    trial.suggest_float("constant", 1.0, 1.0)
    return abs(math.log10(lr) + 2) + (width is None) + depth / 10 + extra


@BOTH
def test_a_plain_optuna_program_works_and_repeats_itself(kind):
    studies = []
    for _ in range(2):
        study = optuna.create_study(sampler=kind(seed=1, n_initial_points=4))
        study.optimize(define_by_run, n_trials=7)
        studies.append(params(study))
    assert studies[0] == studies[1]
    assert {type(p["depth"]) for p in studies[0]} == {int}
    assert distinct(study)


@BOTH
def test_without_a_seed_every_run_is_another(kind):
    studies = [optuna.create_study(sampler=kind(None, n_initial_points=1)) for _ in range(2)]
    for study in studies:
        study.optimize(define_by_run, n_trials=2)
    assert params(studies[0]) != params(studies[1])


def test_a_plain_program_may_outlive_its_finite_space():
    study = optuna.create_study(sampler=BayesSampler(n_initial_points=2))
    study.optimize(lambda trial: trial.suggest_int("n", 1, 3), n_trials=6)
    found = [p["n"] for p in params(study)]
    assert {*found[:3]} == {1, 2, 3}
    assert found[3:] == [1, 1, 1]


def test_options_with_parameters_of_their_own_are_searched_on_when_all_were_tried():
    def costs(trial):
        option = trial.suggest_categorical("option", ["bad", "good", "worse"])
        depth = trial.suggest_int("depth", 1, 2)
        own = trial.suggest_float(f"own_{option}", 0.0, 1.0)
        return own + depth + 10 * (option != "good")

    study = optuna.create_study(sampler=BayesSampler(0))
    study.optimize(costs, n_trials=24)
    later = [(p["option"], p["depth"]) for p in params(study)[12:]]
    assert set(later) <= {("good", 1), ("good", 2)}  # what it does not know looks like noise
    assert later.count(("good", 1)) >= len(later) - 1


@BOTH
def test_the_last_configurations_of_a_large_finite_space_are_found(kind):
    space = SearchSpace.from_yaml("n: {type: int, low: 1, high: 2500}")
    study = optuna.create_study(sampler=kind(0, space, 0))
    study.add_trials(
        create_trial(state=TrialState.FAIL, params={"n": n}, distributions=space.distributions())
        for n in range(1, 2501)
        if n not in (700, 1900)
    )
    assert {space.suggest(study.ask())["n"] for _ in range(2)} == {700, 1900}
    with pytest.raises(RuntimeError, match="all 2500 configurations of the space"):
        space.suggest(study.ask())


@BOTH
def test_several_objectives_are_refused(kind):
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=kind())
    with pytest.raises(ValueError, match=f"{kind.__name__} optimises one objective, .* with 2"):
        study.ask().suggest_float("x", 0.0, 1.0)


@BOTH
def test_constraints_are_refused(kind):
    study = optuna.create_study(sampler=kind(0, LINE))
    trial = study.ask()
    trial.set_constraint("memory", 1.0)
    study.tell(trial, LINE.suggest(trial)["x"])
    with pytest.raises(ValueError, match=r"Sampler knows no constraints, got \{'memory': 1.0\}"):
        LINE.suggest(study.ask())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acq_func": "UCB"}, r"acq_func must be one of gp_hedge, EI, LCB, PI.* got 'UCB'"),
        ({"initial_point_generator": "grid"}, "initial_point_generator must .* got 'grid'"),
        ({"n_initial_points": -3}, "n_initial_points must be at least 0, got -3"),
        ({"x0": [{"x": 0.5}]}, "need a space"),
        ({"space": LINE, "x0": [{"x": 2.0}]}, "x: .* got 2.0"),
        (
            {"space": LINE, "x0": [{"x": 0.5}], "y0": [math.nan]},
            r"y0 must be finite .* got \[nan\]",
        ),
        ({"space": LINE, "x0": [{"x": 0.5}], "y0": []}, "for each of 1 points x0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BayesSampler(0, **options)


def test_a_number_of_initial_points_is_whole():
    with pytest.raises(TypeError, match=r"n_initial_points must be a whole number, got 2\.5"):
        BayesSampler(0, n_initial_points=2.5)  # pyright: ignore[reportArgumentType]


def test_the_number_of_initial_points_may_be_that_of_numpy():
    plain, numpys = (BayesSampler(0, TOY_SPACE, n) for n in (3, np.int64(3)))
    assert params(search(plain, TOY_SPACE, bowl, 3)) == params(search(numpys, TOY_SPACE, bowl, 3))


@pytest.mark.parametrize("acq_func", ["gp_hedge", "EI", "LCB", "PI"])
def test_every_acquisition_function_works(acq_func):
    study = line_study((0.3, 0.5), (0.5, 0.4), (0.7, 0.3))
    assert 0.0 <= next_x(study, SkoptSampler, acq_func=acq_func) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "space", "function", "n"),
    [
        (BayesSampler, TOY_SPACE, bowl, 12),
        (SkoptSampler, TOY_SPACE, bowl, 12),
        (BayesSampler, PLANE, branin, 20),
    ],
)
def test_the_model_beats_random_draws(kind, space, function, n):
    def median(make):
        bests = [search(make(seed), space, function, n).best_value for seed in range(3)]
        return statistics.median(bests)

    model = median(lambda seed: kind(seed, space, 5))
    assert model < median(lambda seed: RandomSampler(space, seed))


def test_a_surrogate_knows_what_it_was_fitted_to():
    study = search(RandomSampler(TOY_SPACE, 0), TOY_SPACE, bowl, 25)
    surrogate = fit_surrogate(study, TOY_SPACE)
    tried = [TOY_SPACE.complete(trial.params) for trial in study.trials]
    mean, std = surrogate.predict(tried)
    assert mean.shape == std.shape == (25,)
    assert np.corrcoef(mean, [trial.value for trial in study.trials])[0, 1] > 0.95
    fresh = [TOY_SPACE.sample(np.random.default_rng(seed)) for seed in range(20)]
    expected, spread = surrogate.predict(fresh)
    assert np.corrcoef(expected, [bowl(c) for c in fresh])[0, 1] > 0.6
    assert spread.mean() > std.mean()


def test_a_surrogate_needs_three_values_inside_the_space():
    study = line_study((0.3, 0.5), (0.5, 0.4), (0.8, None, TrialState.FAIL))
    with pytest.raises(ValueError, match="at least 3 completed trials inside the space, got 2"):
        fit_surrogate(study, LINE)
    study.add_trial(line_study((0.9, 0.2)).trials[0])
    surrogate = fit_surrogate(study, LINE)
    with pytest.raises(ValueError, match=r"must lie inside the space, got \{'x': 3.0\}"):
        surrogate.predict([{"x": 0.5}, {"x": 3.0}])


def test_beyond_500_trials_the_model_rests_on_500_of_them_and_finds_the_optimum(monkeypatch):
    sizes = []
    fit = bayes.GaussianProcess.fit

    def spy(self, rows, values, *args):
        sizes.append(len(rows))
        return fit(self, rows, values, *args)

    monkeypatch.setattr(bayes.GaussianProcess, "fit", spy)
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}\n")
    study = optuna.create_study(sampler=BayesSampler(0, space))
    rng = np.random.default_rng(0)
    study.add_trials(
        optuna.trial.create_trial(
            params={"x": x}, distributions=space.distributions(), value=(x - 0.3) ** 2
        )
        for x in np.r_[rng.uniform(0.0, 0.25, 750), rng.uniform(0.35, 1.0, 750)].tolist()
    )
    trial = study.ask()
    assert space.suggest(trial)["x"] == pytest.approx(0.3, abs=0.05)
    assert 0 < max(sizes) <= 500


def learned(*curves):
    """A study of trials (x, values at epochs 1, 3, 9): whole with three values, else pruned."""
    study = optuna.create_study()
    for x, *values in curves:
        steps = dict(zip((1, 3, 9), values, strict=False))
        whole = len(values) == 3
        state = TrialState.COMPLETE if whole else TrialState.PRUNED
        study.add_trial(
            create_trial(
                state=state,
                value=values[-1],
                params={"x": x},
                distributions={"x": FloatDistribution(0, 1)},
                intermediate_values=steps,
            )
        )
    return study


def test_what_pruned_trials_showed_moves_the_search():
    good = [(0.3, 0.9, 0.8, 0.5), (0.5, 0.8, 0.7, 0.4), (0.7, 0.7, 0.6, 0.3)]
    bad = [(x, 1.0) for x in (0.9, 0.95, 1.0)]
    assert next_x(learned(*good)) > 0.8
    assert next_x(learned(*good, *bad)) < 0.88


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_ranks_that_are_reversed_at_low_fidelity_do_not_mislead(direction):
    study = optuna.create_study(direction=direction, sampler=BayesSampler(0, LINE, 4))
    sign = 1 if direction == "minimize" else -1
    for number in range(16):
        trial = study.ask()
        error = (LINE.suggest(trial)["x"] - 0.7) ** 2
        trial.report(sign * (0.5 - error), 1)
        trial.report(sign * (0.2 + error), 3)
        if number % 2:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.report(sign * error, 9)
            study.tell(trial, sign * error)
    assert study.best_params["x"] == pytest.approx(0.7, abs=0.01)
    if direction == "maximize":
        down = optuna.create_study(sampler=BayesSampler(0, LINE, 4))
        for trial in study.trials:
            steps = {step: -value for step, value in trial.intermediate_values.items()}
            trial.values, trial.intermediate_values = [-trial.value], steps
            chosen = down.ask()
            assert LINE.suggest(chosen) == trial.params
            for step, value in steps.items():
                chosen.report(value, step)
            final = None if trial.state == TrialState.PRUNED else trial.value
            down.tell(chosen, final, state=trial.state)


GOOD = [(0.3, 0.9, 0.8, 0.5), (0.5, 0.8, 0.7, 0.4), (0.7, 0.7, 0.6, 0.3)]


def test_curves_say_nothing_until_a_trial_is_pruned():
    plain = [(x, values[-1]) for x, *values in GOOD]
    assert next_x(learned(*GOOD)) == next_x(line_study(*plain))
    pruned = learned(*GOOD, (0.9, 0.95))
    assert next_x(pruned) != next_x(line_study(*plain, (0.9, 0.95, TrialState.PRUNED)))


RUNGS_ONLY = [(0.1, 0.9), (0.3, 0.7), (0.5, 0.5), (0.7, 0.3), (0.2, 0.8, 0.75)]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_values_at_rungs_lead_before_any_trial_completed(direction):
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(direction=direction)
    study.set_user_attr(RECORD_KEY, {"settings": {"budget": 9}})
    for trial in learned(*RUNGS_ONLY).trials:
        steps = {step: sign * value for step, value in trial.intermediate_values.items()}
        trial.intermediate_values = steps
        study.add_trial(trial)
    assert next_x(study) > 0.8


def test_values_at_rungs_stay_of_low_fidelity_before_any_trial_completed():
    trials = recorded_trials(learned(*RUNGS_ONLY))
    assert intermediate_observations(trials) == {}
    found = intermediate_observations(trials, budget=9)
    assert [len(found[number]) for number in range(5)] == [1, 1, 1, 1, 2]
    assert [share for share, _ in found[4]] == [0.0, pytest.approx(0.5)]
    completed = recorded_trials(learned(*RUNGS_ONLY, *GOOD))
    assert intermediate_observations(completed, 27) == intermediate_observations(completed)


def test_without_a_budget_pruned_values_are_left_out():
    plain = [(x, values[-1]) for x, *values in GOOD]
    study = line_study(*plain)
    study.add_trial(learned((0.9, 0.01)).trials[0])
    assert next_x(study) == next_x(line_study(*plain, (0.9, None, TrialState.FAIL, "lost")))


def test_a_pruned_value_is_never_a_final_one():
    study = learned(*GOOD, (0.1, 0.001), (0.12, 0.9, 0.001))
    study.trials[-1].intermediate_values[9] = 0.0
    late = create_trial(
        state=TrialState.PRUNED,
        params={"x": 0.15},
        distributions=LINE.distributions(),
        intermediate_values={0: 0.9, 9: -1.0, 12: -2.0, 3: math.nan},
    )
    study.add_trial(late)
    found = intermediate_observations(recorded_trials(study))
    assert [len(found[number]) for number in range(6)] == [2, 2, 2, 1, 2, 1]
    assert all(0 <= share < 1 for shown in found.values() for share, _ in shown)
    assert 0.0 <= next_x(study) <= 1.0


@pytest.mark.parametrize("acq_func", ["EI", "EIps"])
def test_what_would_be_stopped_again_is_left_alone(acq_func):
    # the final error falls with x, but at the first rung it rises, and large x are stopped there
    whole = [(0.1, 0.1, 0.5, 0.9), (0.3, 0.3, 0.5, 0.7), (0.5, 0.5, 0.5, 0.5)]
    stopped = [(0.7, 0.7), (0.8, 0.8), (0.9, 0.9)]
    assert next_x(learned(*whole), acq_func=acq_func) > 0.65
    assert next_x(learned(*whole, *stopped), acq_func=acq_func) < 0.65


def test_a_rung_threshold_lets_as_many_pass_as_it_did():
    study = learned(*GOOD, (0.9, 0.95), (0.1, math.nan), (0.2, 0.75, 0.9))
    earlier = learned((0.4, 0.01)).trials[0]
    earlier.set_user_attr(RECORD_KEY, {"warm_start": "earlier#0"})
    study.add_trial(earlier)
    assert rung_thresholds(recorded_trials(study), 1.0) == [
        (0.0, pytest.approx(1 / 9), 0.9),
        (pytest.approx(0.5), pytest.approx(1 / 3), 0.8),
    ]
    assert [threshold.highest for threshold in rung_thresholds(recorded_trials(study), -1.0)] == [
        -0.75,
        -0.7,
    ]
    assert (
        rung_thresholds(recorded_trials(learned(*GOOD)), 1.0)
        == rung_thresholds(recorded_trials(learned((0.9, 0.95))), 1.0)
        == []
    )


def test_of_many_epochs_few_are_kept_and_rungs_all():
    def steps_of(steps, budget=52):
        distributions = LINE.distributions()
        trials = [
            create_trial(
                state=state,
                value=0.5,
                params={"x": 0.5},
                distributions=distributions,
                intermediate_values=dict.fromkeys(steps_seen, 0.5),
            )
            for state, steps_seen in (
                (TrialState.COMPLETE, [budget]),
                (TrialState.PRUNED, steps),
            )
        ]
        trials[1].number = 1
        return [
            round(52**share) for share, _ in intermediate_observations(recorded_trials(trials))[1]
        ]

    assert steps_of([1, 3, 9, 27]) == [1, 3, 9, 27]
    assert steps_of(range(1, 28)) == [1, 2, 3, 5, 8, 12, 18, 27]


def test_pruned_failed_pending_and_given_trials_meet():
    study = learned(*GOOD, (0.1, 0.99), (0.2, 0.95, 0.9))
    for trial in line_study((0.92, None, TrialState.FAIL)).trials:
        study.add_trial(trial)
    chosen = []
    for acq_func in ("EI", "LCB", "PI", "gp_hedge"):
        options = {"acq_func": acq_func, "x0": [{"x": 0.75}], "y0": [0.28], "xi": 0.01}
        chosen.append(next_x(study, **options))  # each stays pending
    assert len({*chosen, 0.92, 0.1, 0.2}) == 7
    assert all(0.3 < x < 0.92 for x in chosen[:1])


def test_of_many_intermediate_values_the_model_keeps_the_best_full_trainings():
    rng = np.random.default_rng(0)
    values = rng.random(900)
    full = np.arange(900) < 100
    values[full] += 2
    kept = subsample_training_set(values, full)
    assert len(kept) == 500
    assert set(range(100)) <= set(kept.tolist())


@pytest.mark.parametrize("acq_func", ["EI", "EIps"])
def test_improvement_per_second_looks_where_trials_are_cheap(acq_func):
    # two valleys of equal depth, at 0.2 and 0.8; the seconds rise a hundredfold with x
    study = optuna.create_study()
    for x in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        trial = optuna.trial.create_trial(
            value=min(abs(x - 0.2), abs(x - 0.8)),
            params={"x": x},
            distributions=LINE.distributions(),
            user_attrs={RECORD_KEY: {"seconds": [100**x] * 3}},
        )
        study.add_trial(trial)
    chosen = [next_x(study, acq_func=acq_func) for _ in range(4)]
    assert min(chosen) == pytest.approx(0.2, abs=0.1)
    assert (max(chosen) > 0.6) == (acq_func == "EI")


def test_without_recorded_seconds_they_do_not_count():
    first, second = (
        next_x(line_study((0.1, 1.0), (0.5, 0.2), (0.9, 0.7)), acq_func=acq_func)
        for acq_func in ("EI", "EIps")
    )
    assert first == second


@pytest.mark.parametrize(
    ("values", "least"),
    [([0.3, 0.1, 0.2], 0.0), ([0.3, 0.1, 0.1], 0.1), ([0.5, 0.1, 0.4, 0.1], 0.05)],
)
def test_a_tied_best_value_asks_for_half_a_step(values, least):
    assert tie_break_margin(np.array(values)) == pytest.approx(least)


def test_rounding_makes_no_step():
    assert tie_break_margin(np.array([0.1, 0.1, 0.1 + 1e-12, 0.5])) == pytest.approx(0.2)
    assert tie_break_margin(np.array([0.1, 0.1])) == 0.0


def test_the_search_leaves_a_plateau():
    plateau = [(0.3, 0.2), (0.4, 0.2), (0.45, 0.2), (0.6, 0.4), (0.9, 0.6), (0.02, 0.4)]
    assert not 0.3 <= next_x(line_study(*plateau)) <= 0.45


@pytest.mark.parametrize(("last", "n_least", "n_most"), [(0.5, 5, 15), (0.51, 0, 0)])
def test_on_a_plateau_every_other_choice_is_that_of_tpe(monkeypatch, last, n_least, n_most):
    asked = []
    monkeypatch.setattr(bayes, "choose_by_tpe", lambda *known: asked.append(known) or (0.77,))

    tried = [(0.05 * i, 0.5 + 0.1 * (i % 3)) for i in range(11)]
    choices = []
    for seed in range(20):
        study = line_study(*tried, (0.9, last))
        study.sampler = BayesSampler(seed, LINE)
        choices.append(LINE.suggest(study.ask())["x"])
    assert n_least <= len(asked) <= n_most
    assert choices.count(0.77) == len(asked)


def test_tpe_chooses_among_good_points_and_knows_conditions():
    encoder = Encoder(TOY_SPACE.distributions(), TOY_SPACE)
    study = search(BayesSampler(0, TOY_SPACE, 30), TOY_SPACE, bowl, 30)
    observations = collect_observations(recorded_trials(study), encoder, 1.0)

    rng = np.random.default_rng(0)
    points = [choose_by_tpe(encoder, observations, rng) for _ in range(20)]
    assert all(map(encoder.is_reachable, points))
    chosen = [TOY_SPACE.complete(encoder.decode(point)) for point in points]
    assert statistics.median(map(bowl, chosen)) < np.quantile(observations.values, 0.25)


def test_tpe_keeps_away_from_pruned_points():
    encoder = Encoder(LINE.distributions(), LINE)
    completed = [Observation((x,), abs(x - 0.5)) for x in (0.1, 0.3, 0.7, 0.9, 0.45, 0.2)]
    pruned = [Observation((0.5 + 0.01 * i,), 0.9, fidelity=0.5) for i in range(20)]
    chosen: list[float] = []
    for observed in (completed, completed + pruned):
        observations = Observations(observed, [], set(), [], [], [])
        rng = np.random.default_rng(0)
        points = [choose_by_tpe(encoder, observations, rng) for _ in range(20)]
        chosen.append(np.mean([0.5 < x < 0.7 for (x,) in points]))
    assert chosen[1] < chosen[0] / 2


@pytest.mark.parametrize("seed", range(4))
def test_under_noise_what_is_known_by_heart_is_not_tried_again(seed):
    noise = np.random.default_rng(seed).normal(scale=0.1, size=43)
    places = [0.0, 0.1, 0.2, *(1 - 0.001 * i for i in range(40))]
    study = line_study(*((x, 1 - round(x) + each) for x, each in zip(places, noise, strict=True)))
    assert 0.2 < next_x(study) < 0.96


def test_wrong_evidence_is_found_out():
    study = optuna.create_study(sampler=BayesSampler(0, LINE))
    for x in np.linspace(0, 1, 15).tolist():
        study.add_trial(
            create_trial(
                value=1 - abs(x - 0.2),
                params={"x": x},
                distributions=LINE.distributions(),
                user_attrs={RECORD_KEY: {"warm_start": "earlier#0"}},
            )
        )
    search(study.sampler, LINE, lambda c: abs(c["x"] - 0.2), 12, study)
    best = min(study.trials[15:], key=lambda trial: trial.value)
    assert best.params["x"] == pytest.approx(0.2, abs=0.05)


def line_study_after(evidence, own=()):
    """Return a study with values of an earlier one and its own, both functions of x."""
    study = optuna.create_study(sampler=BayesSampler(0, LINE))
    for x in np.linspace(0, 1, 15).tolist():
        earlier = create_trial(
            value=evidence(x),
            params={"x": x},
            distributions=LINE.distributions(),
            user_attrs={RECORD_KEY: {"warm_start": "earlier#0"}},
        )
        study.add_trial(earlier)
    for x in own:
        trial = create_trial(
            value=abs(x - 0.2),
            params={"x": x},
            distributions=LINE.distributions(),
        )
        study.add_trial(trial)
    return study


def test_contradicted_evidence_changes_no_choice():
    own = [0.95, 0.8, 0.6, 0.45, 0.3]
    reversed_values = line_study_after(lambda x: 1 - abs(x - 0.2), own)
    shifted = line_study_after(lambda x: 3 - 5 * abs(x - 0.2), own)
    assert next_x(reversed_values) == next_x(shifted) < 0.3


def test_every_other_first_trial_tests_the_evidence():
    study = line_study_after(lambda x: abs(x - 0.2) + 0.1)
    search(study.sampler, LINE, lambda c: abs(c["x"] - 0.2), 5, study)
    chosen = [trial.params["x"] for trial in study.trials[15:]]

    alone = optuna.create_study(sampler=BayesSampler(0, LINE))
    search(alone.sampler, LINE, lambda c: abs(c["x"] - 0.2), 5, alone)
    design = [trial.params["x"] for trial in alone.trials]
    assert chosen[::2] == design[::2]
    assert chosen[1] == pytest.approx(0.2, abs=0.1)
    assert chosen[3] == pytest.approx(0.2, abs=0.1)


def test_a_prior_that_trials_contradict_is_left_out():
    def chosen(default):
        space = SearchSpace.from_yaml(
            f"x: {{type: float, low: 0.0, high: 1.0, default: {default}}}"
        )
        study = line_study_after(lambda x: x, [0.95, 0.9, 0.6, 0.45, 0.3])
        study.sampler = BayesSampler(0, space, 2, prior_std={"x": 0.05})
        return space.suggest(study.ask())["x"]

    assert chosen(0.9) == chosen(0.95)


BELIEF = SearchSpace.from_yaml(
    """
x: {type: float, low: 0.0, high: 1.0, default: 0.7}
kind: {type: choice, options: [a, b, c], default: b}
"""
)


@pytest.mark.slow
def test_a_belief_steers_the_first_points_and_ruins_nothing():
    def run(prior_std, optimum, seed):
        sampler = BayesSampler(seed, BELIEF, prior_std=prior_std)
        return search(
            sampler, BELIEF, lambda c: (c["x"] - optimum) ** 2 + 0.2 * (c["kind"] != "b"), 25
        )

    def away(study, n):
        return statistics.mean(abs(trial.params["x"] - 0.7) for trial in study.trials[:n])

    prior_std = {"x": 0.05, "kind": 0.5}
    near = [away(run(prior_std, 0.7, seed), 8) for seed in range(3)]
    far = [away(run(None, 0.7, seed), 8) for seed in range(3)]
    assert statistics.mean(near) < statistics.mean(far)
    assert run(prior_std, 0.1, 0).best_value < 1e-3
    assert params(run(prior_std, 0.1, 0)) == params(run(prior_std, 0.1, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_std": {"z": 0.1}}, r"for parameters of \['x'\], got z: 0.1"),
        ({"prior_std": {"x": 0.0}}, "prior_std must be positive, .* got x: 0.0"),
        (
            {"prior_std": {"x": 0.1}, "acq_func": "LCB"},
            "acq_func with prior_std must be one of EI, PI",
        ),
    ],
)
def test_a_belief_that_cannot_be_used_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BayesSampler(0, LINE, **options)


@pytest.mark.slow
def test_many_parameters_that_all_matter_are_searched():
    space = SearchSpace.from_dict(
        {f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(10)}
    )

    def best(seed):
        optimum = np.random.default_rng([seed, 10]).uniform(0.2, 0.8, size=10)

        def sphere(configuration):
            return float(((2 * (np.array(list(configuration.values())) - optimum)) ** 2).sum())

        return search(BayesSampler(seed, space), space, sphere, 40).best_value

    assert statistics.median(map(best, range(3))) < 0.4  # random search: 2.2
