"""Check the conditions under which parameters are active."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo_lib.space.parameters import Parameter
from hpo_lib.space.values import Value, read_conditions
from hpo_lib.space.yaml_io import label

Conditions = Mapping[str, tuple[Value, ...]]
"""Values that the parents of a parameter must have, by their names."""


def readable_conditions(body: Any) -> Conditions:
    """Return the conditions of a parameter that may have mistakes elsewhere."""
    try:
        return read_conditions(body["when"])
    except (KeyError, TypeError, ValueError):  # none, or reported with the parameter
        return {}


def condition_problems(
    conditions: Mapping[str, Conditions],
    parameters: Sequence[Parameter],
) -> Iterator[str]:
    """Yield what is wrong with conditions; values of unreadable parameters are not judged.

    Args:
        conditions: by the name of their parameter, in the order of the space.
        parameters: those that could be read.
    """
    readable = {parameter.name: parameter for parameter in parameters}
    earlier: set[str] = set()
    for name, when in conditions.items():
        for parent, values in when.items():
            subject = f"{label(name)}: when"
            if parent not in earlier:
                kind = "a later parameter" if parent in conditions else "an unknown parameter"
                kind = "itself" if parent == name else kind
                rule = "must refer to an earlier parameter"
                yield f"{subject} {rule}, got {label(parent)}, {kind}"
            elif parent in readable and _is_continuous(readable[parent]):
                rule = "must refer to a choice, an int or a float with a step"
                yield f"{subject} {rule}, got {label(parent)}, which hardly ever equals one value"
            elif parent in readable:
                try:
                    convert_all(readable[parent], values)
                except ValueError as error:
                    yield f"{subject} {label(parent)} {error}"
        earlier.add(name)


def _is_continuous(parameter: Parameter) -> bool:
    return parameter.count is None and parameter.fixed is None


def convert_all(parameter: Parameter, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values as a parameter holds them; ValueError where one lies outside."""
    return tuple(parameter.convert(value) for value in values)
