"""Build a grid over a space with conditions, or count its points."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpo_lib.space.parameters import Parameter
from hpo_lib.space.values import Configuration

MAX_GRID = 100_000


def build_grid(parameters: Sequence[Parameter], points: int) -> list[Configuration] | None:
    """Return every combination of values, each once; None where there are more than 100,000.

    Args:
        parameters: in the order of the space.
        points: number of values per range.
    """
    grid: list[Configuration] = [{}]
    for parameter in parameters:
        values = parameter.grid_values(points)
        longer: list[Configuration] = []
        for configuration in grid:
            if parameter.is_met(configuration):
                longer += [configuration | {parameter.name: value} for value in values]
            else:
                longer.append(configuration)
            if len(longer) > MAX_GRID:  # it can only grow from here
                return None
        grid = longer

    return grid


def count_grid(parameters: Sequence[Parameter], points: int) -> int | None:
    """Return how many configurations a grid has, without building it.

    Only the parameters that conditions refer to are combined; the others multiply the number of
    each combination in which they are active.

    Args:
        parameters: in the order of the space.
        points: number of values per range.

    Returns:
        The number, or None where more than 100,000 combinations decide what is active.
    """
    parents = {parent for parameter in parameters for parent in parameter.when}
    switches = [parameter for parameter in parameters if parameter.name in parents]
    cases = build_grid(switches, points)
    if cases is None:
        return None

    others = [parameter for parameter in parameters if parameter.name not in parents]
    sizes = {parameter.name: len(parameter.grid_values(points)) for parameter in others}
    total = 0
    for case in cases:
        total += math.prod(sizes[other.name] for other in others if other.is_met(case))
    return total
