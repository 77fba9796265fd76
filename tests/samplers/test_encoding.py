from __future__ import annotations

import numpy as np
import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo_lib.samplers.encoding import Encoder
from hpo_lib.space.search_space import SearchSpace

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
    encoder = Encoder(SPACE.distributions(), SPACE)
    configuration = SPACE.sample(np.random.default_rng(seed))
    point = encoder.encode(configuration)
    assert point is not None
    assert len(point) == len(encoder.axes) == 5
    decoded = encoder.decode(point)
    assert decoded == searched(configuration)
    assert {k: type(v) for k, v in decoded.items()} == {
        k: type(v) for k, v in searched(configuration).items()
    }


def test_drawn_points_are_configurations_of_the_space():
    encoder = Encoder(SPACE.distributions(), SPACE)
    rng = np.random.default_rng(0)
    drawn = encoder.from_unit_cube(rng.random((50, 5)))
    assert encoder.all_points() is None
    near = encoder.neighbours(drawn, 200, (0.01, 0.3), rng)
    for rows in (drawn, near):
        for row in rows.tolist():
            configuration = encoder.decode(row)
            assert SPACE.contains({"one": "only", **configuration})
            assert encoder.encode({**configuration, "one": "only"}) == tuple(row)
        assert encoder.scale(rows)[:, 1:].min() >= 0
        assert encoder.scale(rows)[:, 1:].max() <= 1
    assert len(np.unique(drawn, axis=0)) == 50


def test_the_whole_range_is_drawn_and_scaled():
    encoder = Encoder(SPACE.distributions(), SPACE)
    ends = encoder.from_unit_cube(np.array([[0.0] * 5, [1.0] * 5]))
    assert encoder.decode(ends[0]) == {
        "kind": "a",
        "lr": 1e-5,
        "rate": 0.1,
        "depth": 1,
        "width": 8,
    }
    assert encoder.decode(ends[1]) == {"kind": "b", "lr": 1.0, "depth": 100, "width": 24}
    assert encoder.scale(ends)[0].tolist() == [0, 0, 0, 0, 0]
    assert encoder.scale(ends)[1, [0, 1, 3, 4]].tolist() == [3, 1, 1, 1]


def test_neighbours_differ_and_can_land_on_a_bound():
    encoder = Encoder({"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 3)})
    start = np.array([[0.95, 1.0]])
    near = encoder.neighbours(start, 300, (0.05,), np.random.default_rng(0))
    assert (near[:, 0] == 1.0).any()
    assert set(near[:, 1]) == {0.0, 1.0, 2.0}
    assert (near != start).any(axis=1).all()


def test_inactive_parameters_do_not_tell_points_apart():
    encoder = Encoder(FINITE.distributions(), FINITE)
    every = encoder.all_points()
    assert every is not None
    assert len(every) == FINITE.size == 4 * 3 + 4
    configurations = {frozenset(encoder.decode(row).items()) for row in every}
    assert len(configurations) == len(every)


def test_conditions_on_constants_and_chains_are_imputed():
    space = SearchSpace.from_yaml(
        """
mode: {type: choice, options: [fast, slow], fixed: fast}
a: {type: choice, options: [x, y]}
b: {type: int, low: 1, high: 3, default: 2, when: {a: x, mode: fast}}
c: {type: float, low: 0.0, high: 1.0, default: 0.5, when: {b: [1, 3]}}
d: {type: float, low: 0.0, high: 1.0, default: 0.25, when: {mode: slow}}
"""
    )
    encoder = Encoder(space.distributions(), space)
    rng = np.random.default_rng(0)
    for row in encoder.from_unit_cube(rng.random((60, 4))):
        configuration = {"mode": "fast", **encoder.decode(row.tolist())}
        assert encoder.encode(configuration) == tuple(row)
        assert row[3] == 0.25
        assert ("c" in configuration) == (configuration.get("b") in (1, 3))


def test_what_is_missing_or_outside_has_no_point():
    encoder = Encoder(SPACE.distributions(), SPACE)
    configuration = SPACE.default_configuration()
    assert encoder.encode(configuration) is not None
    for change in ({"lr": 2.0}, {"kind": "c"}, {"width": 9}, {"depth": "deep"}):
        assert encoder.encode({**configuration, **change}) is None
    del configuration["width"]
    assert encoder.encode(configuration) is None


def test_without_a_space_choices_may_be_anything_that_optuna_takes():
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "layer": CategoricalDistribution([None, "wide", 3]),
        "x": FloatDistribution(0.0, 1.0, step=0.25),
    }
    encoder = Encoder(distributions)
    assert encoder.encode({"layer": None, "x": 0.75}) == (0, 3)
    assert encoder.decode([1, 2]) == {"layer": "wide", "x": 0.5}
    assert encoder.encode({"layer": None}) is None


def test_held_parameters_are_axes_of_which_one_value_is_generated():
    space = SearchSpace.from_yaml(
        """
a: {type: choice, options: [x, y], default: x}
b: {type: int, low: 1, high: 3, default: 2, when: {a: x}}
c: {type: float, low: 0.0, high: 1.0, default: 0.5}
"""
    ).fix(a="x", c=0.25)
    assert len(Encoder(space.distributions(), space).axes) == 1
    encoder = Encoder(space.distributions(), space, ("a", "c"))
    assert [axis.name for axis in encoder.axes] == ["b", "a", "c"]

    # Any value has a point, a missing one is the held one, and only that is generated.
    assert encoder.encode({"a": "y", "c": 0.75}) == (1, 1, 0.75)
    assert encoder.encode({"b": 3}) == (2, 0, 0.25)
    assert encoder.decode((2.0, 0.0, 0.25)) == {"b": 3}
    assert encoder.all_points().tolist() == [[0, 0, 0.25], [1, 0, 0.25], [2, 0, 0.25]]
    rng = np.random.default_rng(0)
    rows = np.vstack(
        [
            encoder.from_unit_cube(rng.random((20, 3))),
            encoder.neighbours(np.array([[2.0, 1.0, 0.75]]), 20, (0.1,), rng),
        ]
    )
    assert np.unique(rows[:, 1:], axis=0).tolist() == [[0, 0.25]]
    assert encoder.is_reachable((1.0, 0.0, 0.25))
    assert not encoder.is_reachable((1.0, 1.0, 0.25))
