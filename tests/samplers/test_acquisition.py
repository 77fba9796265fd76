from __future__ import annotations

import numpy as np
import pytest

from hpo_lib.samplers.acquisition import optimize_acquisition
from hpo_lib.samplers.encoding import Encoder
from hpo_lib.space.search_space import SearchSpace

UNIT = {"type": "float", "low": 0.0, "high": 1.0}
MIXED = SearchSpace.from_dict(
    {
        "kind": {"type": "choice", "options": ["a", "b", "c"]},
        "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"kind": ["a", "b"]}},
        "rate": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.1},
        "depth": {"type": "int", "low": 1, "high": 100, "log": True},
        **{f"x{i}": UNIT for i in range(8)},
    }
)


def maximize(space, function):
    """Return the encoder, the points and their values."""
    encoder = Encoder(space.distributions(), space)
    incumbents = encoder.from_unit_cube(np.full((1, len(encoder.axes)), 0.5))
    rng = np.random.default_rng(0)
    points = optimize_acquisition(encoder, lambda x: function(encoder.scale(x)), incumbents, rng)
    return encoder, points, function(encoder.scale(points))


def test_the_maximum_is_reached_in_many_dimensions():
    space = SearchSpace.from_dict({f"x{i}": UNIT for i in range(30)})
    optimum = np.random.default_rng(0).uniform(-0.2, 1.2, size=30)
    _, points, _ = maximize(space, lambda rows: -((rows - optimum) ** 2).sum(axis=1))
    assert np.allclose(points[0], np.clip(optimum, 0, 1), atol=1e-3)


@pytest.mark.parametrize(
    "function",
    [
        lambda rows: -((rows - 0.37) ** 2).sum(axis=1),
        lambda rows: np.sin(1e5 * rows).sum(axis=1),  # its gradient leads nowhere
        lambda rows: np.where(rows[:, 1] < 0.4, rows[:, 2], -np.inf),
        lambda rows: np.zeros(len(rows)),
    ],
)
def test_the_best_point_comes_first_and_all_lie_in_the_space(function):
    encoder, points, values = maximize(MIXED, function)
    assert values[0] == values.max()
    for point in points:
        configuration = encoder.decode(point)
        assert MIXED.contains(configuration)
        assert encoder.encode(configuration) == point
