"""Grids over the parameters of a space: their size, without building them, and their points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hpo_lib.space.parameters import Configuration, Parameter, Value

MAX_GRID = 100_000


def build_grid(parameters: Sequence[Parameter], points: int) -> list[Configuration]:
    """Return every combination of the values of active parameters, each once.

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
        grid = longer
    return grid


def count_grid(parameters: Sequence[Parameter], points: int) -> int | None:
    """Return how many configurations `build_grid` would make, without making them.

    Configurations with the same inactive parameters ahead continue alike, so they are counted
    together.

    Args:
        parameters: in the order of the space.
        points: number of values per range.

    Returns:
        The number, or None where conditions that depend on each other leave more than `MAX_GRID`
        cases to tell apart; the grid has at least as many configurations.
    """
    # Number of configurations by the names of the parameters that their values switch off.
    cases: Counter[frozenset[str]] = Counter({frozenset[str](): 1})
    for parameter in _depth_first(parameters):
        name = parameter.name
        children = [other for other in parameters if name in other.when]
        all_off = frozenset(child.name for child in children)
        effects = _switched_off(children, name, parameter.grid_values(points))

        following: Counter[frozenset[str]] = Counter()
        for off, times in cases.items():
            if name in off:
                following[(off | all_off) - {name}] += times
                continue
            for names, n_values in effects.items():
                following[off | names] += times * n_values

        cases = following
        if len(cases) > MAX_GRID:
            return None
    return cases.total()


def _depth_first(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters with children close to their parents, so that few cases stay open."""
    pending = {parameter.name: parameter for parameter in parameters}
    positions: dict[str, int] = {}
    ordered: list[Parameter] = []

    def last_parent(parameter: Parameter) -> int:
        return max((positions[parent] for parent in parameter.when), default=-1)

    while pending:
        ready = [p for p in pending.values() if p.when.keys() <= positions.keys()]
        parameter = pending.pop(max(ready, key=last_parent).name)
        positions[parameter.name] = len(ordered)
        ordered.append(parameter)
    return ordered


def _switched_off(
    children: Sequence[Parameter], parent: str, values: Sequence[Value]
) -> Counter[frozenset[str]]:
    """Return how many of a parent's values switch off which of its children."""
    if not children:
        return Counter({frozenset[str](): len(values)})
    return Counter(
        frozenset(child.name for child in children if value not in child.when[parent])
        for value in values
    )
