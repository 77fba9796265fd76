from __future__ import annotations

import numpy as np
import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hpo_lib.codes import Codes
from hpo_lib.space import SearchSpace

SPACE = SearchSpace.from_yaml(
    """
kind: {type: choice, options: [a, 2, true, b]}
lr: {type: float, low: 0.00001, high: 1.0, log: true}
rate: {type: float, low: 0.1, high: 0.7, step: 0.1, when: {kind: [a, 2]}}
depth: {type: int, low: 1, high: 100, log: true}
width: {type: int, low: 8, high: 24, step: 4}
one: {type: choice, options: [only]}
fixed: {type: float, fixed: 0.5}
"""
)
FINITE = SearchSpace.from_yaml(
    """
kind: {type: choice, options: [a, b]}
width: {type: int, low: 1, high: 4, log: true}
rate: {type: float, low: 0.0, high: 1.0, step: 0.5, when: {kind: a}}
"""
)


def searched(configuration):
    return {k: v for k, v in configuration.items() if k not in ("one", "fixed")}


@given(st.integers(0, 10**6))
def test_a_configuration_comes_back_as_it_was(seed):
    codes = Codes(SPACE.distributions(), SPACE)
    configuration = SPACE.sample(np.random.default_rng(seed))
    point = codes.encode(configuration)
    assert point is not None
    assert len(point) == len(codes.axes) == 5
    decoded = codes.decode(point)
    assert decoded == searched(configuration)
    assert {k: type(v) for k, v in decoded.items()} == {
        k: type(v) for k, v in searched(configuration).items()
    }


def test_drawn_points_are_configurations_of_the_space():
    codes = Codes(SPACE.distributions(), SPACE)
    points = codes.draw(50, np.random.default_rng(0))
    assert codes.every() is None
    for point in points:
        assert SPACE.contains({"one": "only", **codes.decode(point)})
        assert codes.impute(point) == point
    assert len(set(points)) == len(points) == 50


def test_inactive_parameters_do_not_tell_points_apart():
    every = Codes(FINITE.distributions(), FINITE).every()
    assert every is not None
    assert len(every) == len(set(every)) == FINITE.size == 4 * 3 + 4


def test_what_is_missing_or_outside_has_no_point():
    codes = Codes(SPACE.distributions(), SPACE)
    configuration = SPACE.default_configuration()
    assert codes.encode(configuration) is not None
    for change in ({"lr": 2.0}, {"kind": "c"}, {"width": 9}, {"depth": "deep"}):
        assert codes.encode({**configuration, **change}) is None
    del configuration["width"]
    assert codes.encode(configuration) is None


def test_without_a_space_choices_may_be_anything_that_optuna_takes():
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "layer": CategoricalDistribution([None, "wide", 3]),
        "x": FloatDistribution(0.0, 1.0, step=0.25),
    }
    codes = Codes(distributions)
    assert codes.encode({"layer": None, "x": 0.75}) == (0, 3)
    assert codes.decode([1, 2]) == {"layer": "wide", "x": 0.5}
    assert codes.encode({"layer": None}) is None
