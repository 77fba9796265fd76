"""Checks of arguments at the edge: each names the argument, the rule and the value."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex


def check_member(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a value that is not among the allowed ones.

    Args:
        name: name of the argument, for the message.
        value: its value.
        allowed: values that it may have.

    Raises:
        ValueError: the value is none of them.
    """
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
    """Refuse arguments that are neither None nor greater than 0."""
    for name, value in arguments.items():
        if value is not None and not value > 0:
            message = f"{name} must be greater than 0, got {value!r}"
            raise ValueError(message)


def check_whole(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """Return a whole number, also one of numpy's, as a Python int.

    Args:
        name: name of the argument, for the message.
        value: its value.
        least: smallest number that is allowed; None for no bound.

    Raises:
        TypeError: the value is no whole number.
        ValueError: it is below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        message = f"{name} must be a whole number, got {value!r}"
        raise TypeError(message) from error
    if least is not None and number < least:
        message = f"{name} must be at least {least}, got {number}"
        raise ValueError(message)
    return number
