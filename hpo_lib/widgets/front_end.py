"""Whether a person can click, and one answer to a click at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from IPython.core.getipython import get_ipython

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
