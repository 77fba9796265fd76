from __future__ import annotations

import inspect
import math
import os
import pickle
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skopt
import skopt.plots
from skopt.callbacks import DeltaYStopper
from skopt.space import Categorical, Integer, Real, Space

from hpo_lib.exceptions import StudyChangedError, StudyError, StudyStoppedError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import open_study
from hpo_lib.study.gp_minimize import gp_minimize
from tests.toys import TOY_SPACE, bowl

DIMENSIONS = [Real(0.001, 1.0, "log-uniform", name="lr"), (1, 5), ["a", "b", "c"]]
BRANIN = [(-5.0, 10.0), (0.0, 15.0)]


def cost(x):
    return (math.log10(x[0]) + 2) ** 2 + x[1] / 10 + (x[2] != "b")


def square(x):
    return (x[0] - 0.3) ** 2


def branin(x):
    valley = x[1] - 5.1 / (4 * math.pi**2) * x[0] ** 2 + 5 / math.pi * x[0] - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10


def hartmann6(x):
    """-3.32237 at its global minimum, about -3.2 at the next best (Surjanovic and Bingham)."""
    a = np.array(
        [
            [10, 3, 17, 3.5, 1.7, 8],
            [0.05, 10, 17, 0.1, 8, 14],
            [3, 3.5, 1.7, 10, 17, 8],
            [17, 8, 0.05, 10, 0.1, 14],
        ]
    )
    p = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    return float(-np.exp(-(a * (np.asarray(x) - p) ** 2).sum(1)) @ [1.0, 1.2, 3.0, 3.2])


class Spy:
    """Remembers what it was called with, and may break off."""

    version = 1  # a study goes on with another one

    def __init__(self, function=cost, stop_at=None):
        self.function, self.stop_at, self.calls = function, stop_at, []

    def __call__(self, x):
        self.calls.append(x)
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        return self.function(x)


def minimize(func=cost, dimensions=DIMENSIONS, n_calls=4, **options):
    options = {"n_initial_points": 3, "random_state": 0, **options}
    return gp_minimize(func, dimensions, n_calls, **options)


def test_a_function_of_a_list_gets_plain_values_in_order():
    spy = Spy()
    result = minimize(spy, n_calls=5)
    assert result.x_iters == spy.calls
    for x in spy.calls:
        assert [type(value) for value in x] == [float, int, str]
    assert list(result.func_vals) == [cost(x) for x in spy.calls]
    assert result.fun == min(result.func_vals) == cost(result.x)
    assert result.configuration == dict(zip(["lr", "x1", "x2"], result.x, strict=True))


def test_a_function_of_a_search_space_gets_a_configuration():
    spy = Spy(bowl)
    result = minimize(spy, TOY_SPACE, 5)
    for configuration, x in zip(spy.calls, result.x_iters, strict=True):
        assert TOY_SPACE.check(configuration) == configuration
        assert x == [configuration.get(one.name, one.default) for one in TOY_SPACE.searched]
    assert bowl(result.configuration) == result.fun


def test_the_result_is_one_of_skopts():
    stock = skopt.gp_minimize(square, [(0.0, 1.0)], n_calls=3, n_initial_points=2, random_state=0)
    ours = minimize(square, [(0.0, 1.0)])
    assert set(stock.keys()) <= set(ours.keys())
    for key in stock:
        assert type(ours[key]) is type(stock[key]), key
    assert ours.space == stock.space
    theirs = minimize(square, [(0.0, 1.0)], surrogate="skopt")
    assert type(theirs.models[-1]) is type(stock.models[-1])
    mean, std = ours.models[-1].predict([[0.5]], return_std=True)
    assert mean.shape == std.shape == (1,)


@pytest.mark.parametrize(
    ("func", "dimensions"), [(cost, DIMENSIONS), (bowl, TOY_SPACE), (branin, Space(BRANIN))]
)
def test_the_plots_of_skopt_draw_it(func, dimensions):
    result = minimize(func, dimensions, 5)
    assert skopt.plots.plot_convergence(result).get_xlabel()
    panels = len(result.space.dimensions) ** 2
    for draw in (skopt.plots.plot_evaluations, skopt.plots.plot_objective):
        plt.close("all")
        few = {} if draw is skopt.plots.plot_evaluations else {"n_points": 4, "n_samples": 5}
        draw(result, **few)
        assert len(plt.gcf().axes) >= panels
    plt.close("all")


@pytest.mark.parametrize("surrogate", ["bayes", "skopt"])
def test_a_random_state_fixes_the_points(surrogate):
    first = minimize(surrogate=surrogate)
    assert minimize(surrogate=surrogate, random_state=1).x_iters != first.x_iters
    generator = np.random.mtrand.RandomState(0)
    assert minimize(surrogate=surrogate, random_state=generator).x_iters == first.x_iters


def test_without_a_random_state_an_unnamed_run_is_random():
    runs = [minimize(n_calls=3, random_state=None).x_iters for _ in range(2)]
    assert runs[0] != runs[1]


def test_points_to_begin_with_count_as_calls():
    spy = Spy()
    x0 = [[0.5, 2, "a"], (0.01, 1, "b")]
    result = minimize(spy, x0=x0, n_calls=5)
    assert spy.calls[:2] == result.x_iters[:2] == [[0.5, 2, "a"], [0.01, 1, "b"]]
    assert len(spy.calls) == 5
    one = Spy()
    minimize(one, x0=[0.5, 2, "a"])
    assert one.calls[0] == [0.5, 2, "a"]
    with pytest.raises(ValueError, match=r"at least n_initial_points = 3 .* = 2 together, got 4"):
        minimize(x0=x0, n_calls=4)


@pytest.mark.parametrize("y0", [[7.0, 0.0], np.array([7.0, 0.0])])
def test_points_with_known_values_are_not_called_again(y0):
    spy = Spy()
    result = minimize(spy, x0=[[0.5, 2, "a"], [0.01, 1, "b"]], y0=y0, n_calls=3)
    assert len(spy.calls) == 3
    assert [0.5, 2, "a"] not in spy.calls
    assert list(result.func_vals[:2]) == [7.0, 0.0]
    assert (result.x, result.fun) == ([0.01, 1, "b"], 0.0)


def test_known_values_may_replace_the_initial_points():
    x0 = [[x] for x in (0.1, 0.5, 0.9)]
    y0 = [square(x) for x in x0]
    result = minimize(square, [(0.0, 1.0)], 2, x0=x0, y0=y0, n_initial_points=0)
    assert abs(result.x[0] - 0.3) < 0.1


def test_a_search_space_takes_configurations_to_begin_with():
    spy = Spy(bowl)
    x0 = {"optimizer": "adamw", "lr": 0.1, "depth": 8}
    minimize(spy, TOY_SPACE, x0=x0)
    assert spy.calls[0] == {**x0, "width": 3}


def test_callbacks_see_every_result_and_may_stop():
    seen = []
    result = minimize(callback=lambda so_far: seen.append(so_far.fun), n_calls=5)
    assert seen == list(np.minimum.accumulate(result.func_vals))
    short = minimize(callback=[lambda _: None, lambda so_far: len(so_far.x_iters) == 2])
    assert len(short.x_iters) == 2
    flat = minimize(lambda _: 0.5, callback=DeltaYStopper(0.1, n_best=3), n_calls=9)
    assert len(flat.x_iters) == 3


def test_verbose_prints_every_call(capsys):
    minimize(verbose=True, x0=[[0.3, 3, "a"]], n_calls=5, n_initial_points=2)
    out = capsys.readouterr().out
    assert out.count("Function value obtained") == 5
    begun = re.findall(r"No: (\d) started\. .*?(provided|random|optimal) point", out)
    kinds = ("provided", "random", "random", "optimal", "optimal")
    assert begun == [(str(number), kind) for number, kind in enumerate(kinds, 1)]


def test_failures_are_left_out_and_survived():
    def partial(x):
        if x[2] == "a":
            message = "a does not work"
            raise RuntimeError(message)
        return math.nan if x[2] == "c" else cost(x)

    reasons = "RuntimeError: a does not work|the objective returned .*nan"
    message = rf"^\d of 9 calls failed and are left out .* first was call \d: ({reasons})"
    with pytest.warns(UserWarning, match=message):
        result = minimize(partial, n_calls=9, n_initial_points=8, initial_point_generator="lhs")
    assert 1 <= len(result.x_iters) < 9
    assert {x[2] for x in result.x_iters} == {"b"}


def test_nothing_but_failures_is_an_error_that_says_why():
    with pytest.raises(StudyStoppedError, match="division by zero"):
        minimize(lambda _: 1 / 0, n_calls=9)
    with pytest.raises(StudyError, match=r"no call of func .*division"):
        minimize(lambda _: 1 / 0)


def test_a_named_run_goes_on_where_it_was_interrupted(tmp_path):
    def run(spy, name="s", n_calls=5):
        return minimize(spy, n_calls=n_calls, name=name, storage=tmp_path / "studies.db")

    broken = Spy(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    again = Spy()
    resumed = run(again)
    undisturbed = run(Spy(), "other")
    assert resumed.x_iters == undisturbed.x_iters
    assert broken.calls[:3] + again.calls == undisturbed.x_iters
    idle = Spy()
    assert run(idle).x_iters == resumed.x_iters
    assert idle.calls == []
    assert len(open_study("s", tmp_path / "studies.db").trials) == 5
    with pytest.raises(StudyChangedError, match="n_initial_points: 2"):
        minimize(Spy(), n_initial_points=2, n_calls=5, name="s", storage=tmp_path / "studies.db")


def test_a_run_that_a_callback_stopped_is_complete(tmp_path):
    spy = Spy()
    for _ in range(2):
        minimize(
            spy,
            n_calls=9,
            callback=lambda so_far: len(so_far.x_iters) == 2,
            name="s",
            storage=tmp_path / "studies.db",
        )
    assert len(spy.calls) == 2


def test_counts_may_be_those_of_numpy():
    result = minimize(n_calls=np.int64(4), n_initial_points=np.int64(3), name="s")
    assert result.x_iters == minimize(n_initial_points=3).x_iters


@pytest.mark.parametrize("surrogate", ["bayes", "skopt"])
def test_huge_values_are_values(surrogate):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = minimize(lambda x: 1e200 * (x[0] - 0.3) ** 2, n_calls=12, surrogate=surrogate)
    assert len(result.x_iters) == 12
    assert abs(result.x[0] - 0.3) < 0.1
    messages = [str(warning.message) for warning in caught]
    is_warned = any("predict NaN after values beyond 1e100" in message for message in messages)
    assert is_warned == (surrogate == "skopt")


@pytest.mark.slow
def test_workers_evaluate_in_processes_of_their_own():
    result = minimize(lambda x: float(os.getpid()), BRANIN, 6, workers=2)
    assert len(result.x_iters) == 6
    assert os.getpid() not in result.func_vals


def test_a_finite_space_ends_the_search():
    with pytest.warns(UserWarning, match="ended after 4 of 20 calls: all points were tried"):
        result = minimize(lambda x: x[0], [(1, 4)], 20)
    assert sorted(x[0] for x in result.x_iters) == [1, 2, 3, 4]


def test_the_users_dimensions_are_left_alone():
    dimension = Real(0.0, 1.0)
    minimize(square, [dimension], 3)
    assert (dimension.name, dimension.transform_) == (None, "identity")


def test_points_and_result_can_be_pickled(tmp_path):
    result = minimize()
    assert pickle.loads(pickle.dumps(result.x_iters)) == result.x_iters
    skopt.dump(result, tmp_path / "result.pkl")
    assert skopt.load(tmp_path / "result.pkl").x == result.x


def test_it_takes_every_argument_of_skopt_at_its_default():
    parameters = inspect.signature(skopt.gp_minimize).parameters
    default = {
        name: one.default
        for name, one in parameters.items()
        if name not in ("func", "dimensions", "n_calls", "n_initial_points", "random_state")
    }
    assert (
        minimize(**default).x_iters
        == minimize(
            acq_func="gp_hedge", initial_point_generator="random", xi=0.01, kappa=1.96
        ).x_iters
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_estimator": "RF"}, "base_estimator is not supported, got 'RF': .* \"skopt\""),
        ({"space_constraint": len}, "space_constraint .* conditions"),
        ({"dimensions": Space([(0.0, 1.0)], constraint=len)}, "space_constraint"),
        ({"n_calls": 2}, "n_calls must be at least n_initial_points = 3"),
        ({"n_initial_points": 0}, "n_initial_points must be positive"),
        ({"surrogate": "RF"}, "surrogate must be one of bayes, skopt, got 'RF'"),
        ({"acq_func": "UCB"}, "acq_func must be one of"),
        ({"storage": "memory"}, "storage needs the name of a study"),
        ({"x0": [0.5, 2]}, r"x0 must have 3 values per point, got \[0.5, 2\]"),
        ({"x0": 0.5, "dimensions": [(0.0, 1.0)]}, "x0 must be one point or several, .* got 0.5"),
        ({"x0": [0.5, 9, "a"]}, "x1: .* got 9"),
        ({"x0": [0.5, 2, "a"], "y0": [1.0, 2.0]}, "must be finite for each of 1 points x0"),
        ({"x0": [0.5, 2, "a"], "y0": math.nan}, r"y0 must be finite .*got \[nan\]"),
        ({"y0": 1.0}, "each of 0 points"),
        ({"dimensions": [Integer(0, 1, name="a"), Real(0, 1, name="a")]}, "different names"),
        ({"dimensions": [Categorical(["a", None])], "x0": [["None"]]}, r"x0: .* got \"'None'\""),
        ({"x0": [0.5, 2, "a"], "y0": [(1.0, 2.0)], "acq_func": "EIps"}, r"got \[\(1.0, 2.0\)\]"),
        ({"acq_func": "EIps", "surrogate": "skopt"}, "acq_func must be one of .* got 'EIps'"),
        ({"acq_func": "PIps"}, "acq_func must be one of .* got 'PIps'"),
        ({"dimensions": [Categorical([1, True])]}, "x0: options must all differ in Python"),
        ({"dimensions": [Categorical(["a", "b"], prior=[0.9, 0.1])]}, "prior of categories"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        minimize(**options)


def named_function():
    """A category."""


@pytest.mark.parametrize(
    "categories",
    [[None, "l2"], [None, "None"], [(1, 2), (3, 4)], [named_function, math.sqrt], [math.inf, 0.0]],
)
@pytest.mark.parametrize("surrogate", ["bayes", "skopt"])
def test_categories_may_be_any_values(categories, surrogate, tmp_path):
    def run(spy):
        dimensions = [(0.0, 1.0), Categorical(categories, name="kind")]
        return minimize(
            spy,
            dimensions,
            6,
            x0=[0.5, categories[0]],
            surrogate=surrogate,
            name="s",
            storage=tmp_path / "s.db",
        )

    spy = Spy(lambda x: x[0] + (x[1] is categories[0]))
    result = run(spy)
    assert spy.calls == result.x_iters
    assert spy.calls[0] == [0.5, categories[0]]
    seen = [x[1] for x in spy.calls]
    assert all(any(value is category for category in categories) for value in seen)
    assert any(value is not categories[0] for value in seen)
    assert result.configuration == {"x0": result.x[0], "kind": result.x[1]}
    assert run(Spy(stop_at=1)).x_iters == result.x_iters, "the same call resumes"


def test_plots_of_skopt_draw_a_category_that_is_none():
    result = minimize(lambda x: x[0] + (x[1] is None), [(0.0, 1.0), Categorical([None, "l2"])], 5)
    skopt.plots.plot_evaluations(result)
    skopt.plots.plot_objective(result, n_points=4, n_samples=5)
    plt.close("all")


@pytest.mark.parametrize(
    ("func", "dimensions", "options"),
    [
        (cost, DIMENSIONS, {"x0": [0.5, 2, "a"], "noise": "gaussian", "n_random_starts": None}),
        (bowl, TOY_SPACE, {"x0": {"optimizer": "adamw", "lr": 0.1, "depth": 8}}),
    ],
)
def test_a_result_prints_and_its_arguments_repeat_the_call(func, dimensions, options):
    result = minimize(func, dimensions, **options)
    assert "func_vals" in str(result)
    assert "func_vals" in repr(result)
    assert gp_minimize(**result.specs["args"]).x_iters == result.x_iters


def test_random_starts_are_initial_points():
    assert minimize(n_random_starts=2).x_iters == minimize(n_initial_points=2).x_iters
    with pytest.raises(ValueError, match="n_calls must be at least n_initial_points = 9"):
        minimize(n_random_starts=9)


def test_arguments_that_mean_nothing_here_are_ignored_with_one_warning():
    ignored = {
        "acq_optimizer": "sampling",
        "n_points": 100,
        "n_restarts_optimizer": 2,
        "model_queue_size": 1,
        "noise": 0.1,
    }
    with pytest.warns(
        UserWarning, match="^gp_minimize ignores acq_optimizer='sampling'"
    ) as caught:
        result = minimize(**ignored)
    (warning,) = caught
    assert all(f"{name}={value!r}" in str(warning.message) for name, value in ignored.items())
    assert result.x_iters == minimize().x_iters


def test_improvement_per_second_takes_the_seconds_that_the_function_returns():
    def run(seconds):
        # both halves are equally good; the seconds say which is cheaper
        func = lambda x: ((abs(x[0]) - 0.5) ** 2, seconds(x[0]))  # noqa: E731
        return minimize(func, [(-1.0, 1.0)], 12, n_initial_points=6, acq_func="EIps")

    right = run(lambda x: 100.0 if x < 0 else 0.01)
    left = run(lambda x: 0.01 if x < 0 else 100.0)
    assert list(right.func_vals) == [(abs(x) - 0.5) ** 2 for (x,) in right.x_iters]
    seconds = [100.0 if x < 0 else 0.01 for (x,) in right.x_iters]
    assert np.exp(right.log_time) == pytest.approx(seconds)
    assert all(x > 0 for (x,) in right.x_iters[6:])
    assert all(x < 0 for (x,) in left.x_iters[6:])


def test_improvement_per_second_takes_a_function_that_returns_a_value_alone():
    result = minimize(square, [(0.0, 1.0)], 5, acq_func="EIps")
    assert list(result.func_vals) == [square(x) for x in result.x_iters]


def test_a_pair_is_a_failure_where_no_seconds_are_asked_for():
    with pytest.raises(StudyError, match=r"must return a number, got \(0.5, 1.0\)"):
        minimize(lambda x: (0.5, 1.0))


def test_an_unknown_argument_and_counts_that_are_none_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_call'"):
        minimize(n_call=3)
    message = "n_calls, the third argument, must be a whole number, got 'GP'"
    with pytest.raises(TypeError, match=message):
        gp_minimize(cost, DIMENSIONS, "GP")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"n_initial_points must be a whole number, got 2\.5"):
        minimize(n_initial_points=2.5)


@pytest.mark.slow
def test_it_finds_the_optimum_of_branin():
    assert minimize(branin, BRANIN, 25, n_initial_points=5).fun < 0.5


@pytest.mark.slow
def test_it_finds_the_optimum_of_hartmann6():
    bests = [minimize(hartmann6, [(0.0, 1.0)] * 6, 80, random_state=seed).fun for seed in range(8)]
    # -3.322 is the optimum; about half of many seeds end there, the others at a local one
    assert np.sum(np.array(bests) < -3.25) >= 2
    assert np.median(bests) < -3.1


def test_a_space_without_anything_to_search_is_one_call():
    space = SearchSpace.from_yaml("kind: {type: choice, options: [only]}")
    with pytest.warns(UserWarning, match="ended after 1 of 3 calls"):
        result = minimize(lambda c: 0.5, space, 3)
    assert (result.x_iters, result.fun) == ([["only"]], 0.5)
