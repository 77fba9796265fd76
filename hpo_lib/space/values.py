"""Values of hyperparameters, and how they are read from YAML, Python and numpy."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

Value = float | int | str | bool
Configuration = dict[str, Value]

LARGEST_WHOLE = 2**53  # beyond it floats, which Optuna stores, do not tell integers apart


def _without_numpy(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def read_value(value: Any) -> Value:
    """Return a value with numpy scalars as Python's; ValueError unless it is a `Value`."""
    plain = _without_numpy(value)
    is_finite = isinstance(plain, float) and math.isfinite(plain)
    if is_finite or isinstance(plain, (str, int)):
        return plain

    message = f"must be a word, a finite number, true or false, got {value!r}"
    raise ValueError(message)


def read_float(value: Any) -> float:
    """Return a number as a float; ValueError unless it is finite."""
    plain = _without_numpy(value)
    is_number = isinstance(plain, (int, float)) and not isinstance(plain, bool)
    if is_number and abs(plain) <= sys.float_info.max:
        return float(plain)

    message = f"must be a finite number, got {value!r}"
    raise ValueError(message)


def read_int(value: Any) -> int:
    """Return a number as an int; ValueError unless it is whole."""
    number = read_float(value)
    if number.is_integer() and abs(number) <= LARGEST_WHOLE:
        return int(number)

    message = f"must be a whole number, got {value!r}"
    raise ValueError(message)


def read_options(values: Any) -> tuple[Value, ...]:
    """Return a list as plain values; ValueError where two are equal in Python."""
    if not isinstance(values, (list, tuple)) or not values:
        message = f"must be a list of at least one value, got {values!r}"
        raise ValueError(message)

    options = tuple(map(read_value, cast("list[Any]", values)))
    if len(set(options)) < len(options):
        message = f"must all differ in Python, got {list(options)}"
        raise ValueError(message)
    return options


def read_conditions(value: Any) -> dict[str, tuple[Value, ...]]:
    """Read `{name: value}` or `{name: [value, ...]}` as `{name: (value, ...)}`."""
    if not isinstance(value, Mapping):
        message = f"must be a mapping of names to values, got {value!r}"
        raise ValueError(message)

    conditions: dict[str, tuple[Value, ...]] = {}
    for name, values in cast("Mapping[str, Any]", value).items():
        listed = values if isinstance(values, (list, tuple)) else [values]
        conditions[name] = read_options(listed)
    return conditions
