"""Count the points of a grid over a space with conditions, without building it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hpo_lib.space.parameters import Parameter
from hpo_lib.space.values import Value

MAX_GRID = 100_000
_MAX_CASES = 1024


def count_grid(parameters: Sequence[Parameter], points: int) -> int | None:
    """Return how many configurations a grid has.

    Partial configurations that switch off the same parameters go on alike and are counted
    together.

    Args:
        parameters: in the order of the space.
        points: number of values per range.

    Returns:
        The number, or None where conditions depend on each other in too many ways to count.
    """
    # A dynamic programme: the state is what the choices so far mean for later parameters.
    # Number of partial configurations by the names of the parameters that they switch off.
    cases: Counter[frozenset[str]] = Counter({frozenset(): 1})
    for parameter in _depth_first(parameters):
        name = parameter.name
        children = [other for other in parameters if name in other.when]
        all_off = frozenset(child.name for child in children)
        effects = Counter(
            frozenset(_names_off(children, name, value)) for value in parameter.grid_values(points)
        )

        following: Counter[frozenset[str]] = Counter()
        for off, times in cases.items():
            if name in off:  # and with it all that depends on it
                following[(off | all_off) - {name}] += times
            else:
                for names, n_values in effects.items():
                    following[off | names] += times * n_values

        cases = following
        if len(cases) > _MAX_CASES:
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
        positions[parameter.name] = len(ordered)  # children of the last parent come first
        ordered.append(parameter)

    return ordered


def _names_off(children: Sequence[Parameter], parent: str, value: Value) -> list[str]:
    """Return which of its children a value of a parent switches off."""
    return [child.name for child in children if value not in child.when[parent]]
