from __future__ import annotations

import pytest
from skopt.space import Categorical, Integer, Real

from hpo_lib.space.skopt_space import SkoptSpace, skopt_dimension
from tests.toys import TOY_SPACE


def test_dimensions_and_points_convert_both_ways():
    kinds = [None, (1, 2), "l2"]
    dimensions = [Real(0.1, 1.0, "log-uniform", name="lr"), (1, 5), Categorical(kinds)]
    skopt_space = SkoptSpace.read(dimensions)
    lr, depth, kind = skopt_space.space.searched
    assert (lr.name, lr.log, depth.name, depth.high, kind.name) == ("lr", True, "x1", 5, "x2")
    assert skopt_space.dimensions.dimensions[0].bounds == (0.1, 1.0)
    points = [[0.5, 2, category] for category in kinds]
    configurations = skopt_space.read_points(points)
    assert all(isinstance(configuration["x2"], str) for configuration in configurations)
    assert [skopt_space.to_list(configuration) for configuration in configurations] == points
    assert skopt_space.to_dict(configurations[1]) == {"lr": 0.5, "x1": 2, "x2": (1, 2)}


def test_categories_that_a_space_can_hold_stay_as_they_are():
    skopt_space = SkoptSpace.read([["a", "b"], [True, False], Categorical([1, 2.5])])
    assert [p.options for p in skopt_space.space.searched] == [("a", "b"), (True, False), (1, 2.5)]
    assert skopt_space.categories == {}


def test_a_search_space_shows_the_defaults_of_inactive_parameters():
    skopt_space = SkoptSpace.read(TOY_SPACE)
    configuration = {"optimizer": "adamw", "lr": 0.1, "depth": 8}
    (complete,) = skopt_space.read_points(configuration)
    searched = TOY_SPACE.searched
    assert skopt_space.to_list(complete) == [complete.get(p.name, p.default) for p in searched]
    assert [skopt_dimension(p).name for p in searched] == [p.name for p in searched]
    assert not skopt_space.takes_lists


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ([Integer(0, 1, name="a"), Real(0, 1, name="a")], "must have different names"),
        ([Categorical(["a", "b"], prior=[0.9, 0.1])], "a prior of categories is not supported"),
        ([Categorical([1, True])], "x0: options must all differ"),
    ],
)
def test_dimensions_that_are_no_parameters_are_refused(dimensions, message):
    with pytest.raises(ValueError, match=message):
        SkoptSpace.read(dimensions)
