"""Talk to a front end: one message at a time, and text that is only text."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
from IPython.display import display

from hpo_lib.formatting import format_number

NO_MATHJAX = "mathjax_ignore tex2jax_ignore"
"""CSS classes of an HTML element whose text MathJax leaves as it is."""

PROBLEM_STYLE = """<style>
.hpo-problem {color: #a34700}
[data-jp-theme-light='false'] .hpo-problem {color: #ffa869}
</style>"""
"""Orange for mistakes, which stands out in JupyterLab's light and dark themes."""

_MAX_ROWS = 60
_LOCK = threading.RLock()


@contextmanager
def in_turn() -> Generator[None]:
    """Handle one message of the page at a time; a kernel receives them in several threads."""
    with _LOCK:
        yield


def escape_mathjax(text: str) -> str:
    r"""Escape text for a `Label` or a description, in which JupyterLab typesets `$...$`.

    Example:
        >>> print(escape_mathjax("$lr$"))
        \$lr\$
    """
    # JupyterLab sets MathJax's `processEscapes`: `\$` and `\\` stand for the characters alone.
    return re.sub(r"([\\$])", r"\\\1", text)


def show_frame(
    frame: pd.DataFrame,
    digits: int = 3,
    *,
    index: bool = True,
) -> None:
    """Display a table whose names and values may come from anybody: all text is escaped.

    Args:
        frame: the table; of more than 60 rows the middle is left out.
        digits: significant digits of floating-point numbers.
        index: whether the names of the rows are shown.
    """
    options: dict[str, Any] = {
        "index": index,
        "na_rep": "",
        "max_rows": _MAX_ROWS,
        "float_format": partial(format_number, digits=digits),
    }
    html = frame.to_html(classes=NO_MATHJAX, escape=True, **options)
    text = frame.to_string(**options)
    display({"text/plain": text, "text/html": html}, raw=True)


def show_widget(make: Callable[..., Any], *arguments: Any) -> None:
    """Display a widget; where it has too little to show, print why.

    Args:
        make: its class, such as `SurrogateExplorer`.
        *arguments: those of the class.
    """
    try:
        widget = make(*arguments)
    except ValueError as error:
        print(f"{make.__name__} is not shown: {error}")
    else:
        display(widget)
