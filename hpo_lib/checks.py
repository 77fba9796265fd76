"""Checks at the edge: of arguments, naming the argument, the rule and the value, and of extras."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, SupportsIndex

from hpo_lib.exceptions import MissingExtraError

EXTRA_MODULES = {
    "training": {"tensorboard", "torch", "torchvision"},
    "notebooks": {
        "IPython",
        "anywidget",
        "ipykernel",
        "ipywidgets",
        "jinja2",
        "jupyter_client",
        "nbclient",
        "nbconvert",
        "nbformat",
        "nh3",
        "papermill",
        "pygments",
        "traitlets",
        "zmq",
    },
    "cluster": {"distributed"},
}
"""Modules that are imported from the distributions of each extra and what these bring along."""


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


def check_different(name: str, values: Sequence[Any]) -> None:
    """Refuse no values at all, and the same one twice.

    Args:
        name: name of the argument, for the message.
        values: its values.

    Raises:
        ValueError: there are none, or two are equal.
    """
    if not values or len(set(values)) < len(values):
        message = f"{name} must be at least one and all different, got {list(values)}"
        raise ValueError(message)


def check_name(name: Any) -> str:
    """Return the name of a study; an empty one, or what is no text, is refused."""
    if not isinstance(name, str):
        message = f"name must be text, got {name!r}"
        raise TypeError(message)
    if not name:
        message = f"name must not be empty, got {name!r}"
        raise ValueError(message)
    return name


def check_positive(**arguments: Any) -> None:
    """Refuse arguments that are neither None nor greater than 0."""
    for name, value in arguments.items():
        try:
            is_positive = value is None or value > 0
        except TypeError as error:
            message = f"{name} must be a number, got {value!r}"
            raise TypeError(message) from error
        if not is_positive:
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
    message = f"{name} must be a whole number, got {value!r}"
    if isinstance(value, bool):
        raise TypeError(message)
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(message) from error
    if least is not None and number < least:
        message = f"{name} must be at least {least}, got {number}"
        raise ValueError(message)
    return number


@contextmanager
def naming_extras(user: str) -> Generator[None]:
    """Name the extra where an import within the block finds that it is not installed.

    Args:
        user: what the block provides, for the message.

    Raises:
        MissingExtraError: a module of an extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        extras = [extra for extra, modules in EXTRA_MODULES.items() if missing in modules]
        if not extras:
            raise
        message = f"{user} needs {missing}: pip install 'hpo-lib[{extras[0]}]'"
        raise MissingExtraError(message) from error


def check_extra(extra: str, user: str) -> None:
    """Check that all modules of an extra are there, without importing them.

    Args:
        extra: a key of `EXTRA_MODULES`.
        user: what needs them, for the message.

    Raises:
        MissingExtraError: one is missing.
    """
    with naming_extras(user):
        for module in sorted(EXTRA_MODULES[extra]):
            if find_spec(module) is None:
                raise ModuleNotFoundError(name=module)
