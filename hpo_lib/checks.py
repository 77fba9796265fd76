"""Checks of arguments at the edge: each names the argument, the rule and the value."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex


def check_member(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse what is not one of the allowed values."""
    known = tuple(allowed)
    if value not in known:
        message = f"{name} must be one of {', '.join(known)}, got {value!r}"
        raise ValueError(message)


def check_name(name: str) -> str:
    """Return the name of a study; an empty one is refused."""
    if not name:
        message = f"name must not be empty, got {name!r}"
        raise ValueError(message)
    return name


def check_positive(**arguments: float | None) -> None:
    """Refuse an argument that is given and not greater than 0."""
    for name, value in arguments.items():
        if value is not None and not value > 0:
            message = f"{name} must be greater than 0, got {value!r}"
            raise ValueError(message)


def check_whole(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """A whole number as Python writes it, be it one of numpy's; one below `least` is refused."""
    try:
        number = operator.index(value)
    except TypeError as error:
        message = f"{name} must be a whole number, got {value!r}"
        raise TypeError(message) from error
    if least is not None and number < least:
        message = f"{name} must be at least {least}, got {number}"
        raise ValueError(message)
    return number
