"""Whether a person can click, one answer to a click at a time, and tables for the page."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import display

_MOST_ROWS = 60
_NO_MATHEMATICS = "mathjax_ignore tex2jax_ignore"
_LOCK = threading.RLock()


@contextmanager
def in_turn() -> Generator[None]:
    """Kernels handle the messages of a page in several threads; here one waits for the other."""
    with _LOCK:
        yield


def is_watched() -> bool:
    """Whether a front end can answer; papermill and nbconvert tell their kernel that none can."""
    kernel: Any = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    content = kernel.get_parent("shell").get("content", {})
    return bool(content.get("allow_stdin", True))  # a click is a message without this word


def show_frame(frame: pd.DataFrame, digits: int = 4, *, index: bool = True) -> None:
    """Display a table whose names and values may come from anybody: all text is escaped.

    Args:
        frame: the table; of more than 60 rows the middle is left out.
        digits: decimal places of floating-point numbers.
        index: whether the names of the rows are shown.
    """
    options: dict[str, Any] = {"index": index, "na_rep": "", "max_rows": _MOST_ROWS}
    options["float_format"] = f"{{:.{digits}f}}".format
    html = frame.to_html(classes=_NO_MATHEMATICS, escape=True, **options)
    display({"text/plain": frame.to_string(**options), "text/html": html}, raw=True)
