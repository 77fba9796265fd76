"""Write numbers and times as texts and tables show them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with significant digits; a large one keeps all digits before the point.

    Args:
        value: the number.
        digits: significant digits, so that a small number does not become 0.0000.

    Example:
        >>> [format_number(value) for value in (0.000123, 0.03125, 41.27, 1234567)]
        ['0.000123', '0.0312', '41.3', '1,234,567']
    """
    if not math.isfinite(value):
        return str(float(value))
    if value == 0 or abs(value) >= 10**digits:
        return f"{value:,.0f}"

    # Trailing zeros are digits, too: 0.50 is known better than 0.5.
    text = f"{value:#.{digits}g}"
    return text.removesuffix(".") if "e" not in text else f"{value:.{digits - 1}e}"


def format_value(value: object, digits: int = 3) -> str:
    """Return a value with significant digits, words and whole numbers as they are.

    Args:
        value: value of a hyperparameter or of an objective.
        digits: significant digits of a number that is not whole.
    """
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def format_changes(
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    names: Iterable[str],
) -> list[str]:
    """Return what differs between something recorded and what it is to go on with.

    Args:
        recorded: values by name, None for those that are missing.
        current: the same of now.
        names: which to compare.

    Example:
        >>> format_changes({"lr": 0.1, "depth": 8}, {"lr": 0.2, "depth": 8}, ["lr", "depth"])
        ['lr is 0.1 there and 0.2 here']
    """
    return [
        f"{name} is {recorded.get(name)!r} there and {current.get(name)!r} here"
        for name in names
        if recorded.get(name) != current.get(name)
    ]


def line_differences(before: str, after: str) -> list[str]:
    """Return the lines that one text has alone (`- `) and those of the other (`+ `).

    Args:
        before: the one text.
        after: the other.
    """
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line.startswith(("- ", "+ "))]


def format_uncertain(value: float, error: float) -> str:
    """Return a value with its uncertainty, both rounded to what the uncertainty leaves known.

    Args:
        value: the number.
        error: its uncertainty, shown with one significant digit, or two where it begins with 1
            or 2.

    Example:
        >>> [format_uncertain(*pair) for pair in ((0.1034, 0.0399), (0.0574, 0.0114), (41.2, 0))]
        ['0.10 ± 0.04', '0.057 ± 0.011', '41.2 ± 0']
    """
    if not math.isfinite(error) or error <= 0:
        return f"{format_number(value)} ± {error:.2g}"

    exponent = math.floor(math.log10(error))
    digits = 2 if error < 2.95 * 10.0**exponent else 1
    decimals = digits - 1 - exponent
    if decimals > 6:
        return f"{value:.2g} ± {error:.{digits}g}"
    return f"{round(value, decimals):,.{max(decimals, 0)}f} ± {error:.{max(decimals, 0)}f}"


def format_seconds(seconds: float) -> str:
    """Return a time as people say it, in seconds, minutes or hours.

    Example:
        >>> [format_seconds(seconds) for seconds in (14.2, 200, 9000)]
        ['14 s', '3 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count(n: int, noun: str) -> str:
    """Return a number of things, as in "1 seed" and "1,000 seeds".

    Args:
        n: how many.
        noun: its singular.
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def keep_together(text: str) -> str:
    r"""Return text in which no line ends between a number and what belongs to it.

    Example:
        >>> keep_together("5.7 % (p = 0.1)") == "5.7\N{NBSP}% (p\N{NBSP}=\N{NBSP}0.1)"
        True
    """
    return re.sub(r"(?<=\d) (?=%)| (?=[=±] )|(?<=[=±]) ", "\N{NBSP}", text)
