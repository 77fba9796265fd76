"""Show how far long work is and how long it may still take.

Where someone watches, in JupyterLab or a terminal, that is a bar. A log, also that of papermill,
gets a line every now and then: `[12/20] best 0.0312, 14 s left`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm.auto import tqdm

from hpo_lib.formatting import format_seconds

# least seconds between two texts of a bar, and between two lines of a log
_BAR_SECONDS = 0.2
_LINE_SECONDS = 10.0

_BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


def is_watched() -> bool:
    """Return whether a front end can answer; papermill and nbconvert say that they cannot."""
    # Without a loaded IPython there is no kernel, and loading it takes time.
    ipython: Any = sys.modules.get("IPython")
    kernel: Any = getattr(ipython and ipython.get_ipython(), "kernel", None)
    if kernel is None:
        return False

    # A message that comes from a widget has no `allow_stdin`.
    content = kernel.get_parent("shell").get("content", {})
    return bool(content.get("allow_stdin", True))


class Progress:
    """Bar of a piece of work, or its lines in a log.

    Args:
        total: steps in all.
        done: steps that were done before.
        enabled: whether anything is shown.

    Example:
        >>> with Progress(2, enabled=False) as progress:
        ...     progress.advance(lambda: "best 0.5")
        >>> progress.done
        1
    """

    def __init__(self, total: int, *, done: int = 0, enabled: bool = True) -> None:
        self.total = total
        self.done = done
        self._done_before = done
        self._began = time.perf_counter()
        self._first: tuple[float, int] | None = None
        self._lock = threading.Lock()

        # Lines go where bars go, so that a program's own output stays clean.
        self._enabled = enabled
        self._has_bar = enabled and (is_watched() or sys.stderr.isatty())
        self._interval = _BAR_SECONDS if self._has_bar else _LINE_SECONDS
        self._shown_at = self._began
        self._unshown: Callable[[], str] | None = None
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not self._has_bar,
            bar_format=_BAR_FORMAT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self._unshown is not None and error_type is None:
            self._show(self._unshown())
        self._bar.close()

    def advance(self, describe: Callable[[], str]) -> None:
        """Count a step that has ended; callable from any thread.

        Args:
            describe: returns what is known now, as "best 0.0312"; called only to be shown.
        """
        with self._lock:
            self.done += 1
            if not self._enabled:
                return

            self._first = self._first or (time.perf_counter(), self.done)
            self._unshown = describe
            is_due = time.perf_counter() - self._shown_at >= self._interval
            if is_due or self.done >= self.total:
                self._show(describe())

    def _show(self, text: str) -> None:
        text = f"{text}, {self._time()}"
        if self._has_bar:
            self._bar.n = self.done
            self._bar.set_postfix_str(text)
        else:
            print(f"[{self.done}/{self.total}] {text}", file=sys.stderr, flush=True)

        self._shown_at = time.perf_counter()
        self._unshown = None

    def _time(self) -> str:
        """Return the time left at the pace so far, at the end the time that it took."""
        seconds = time.perf_counter() - self._began
        if self.done >= self.total:
            return f"{format_seconds(seconds)} in all"

        # The first step also starts processes and loads data: the pace is that of the others.
        began, done_before = self._began, self._done_before
        if self._first is not None and self.done > self._first[1]:
            began, done_before = self._first
        pace = (time.perf_counter() - began) / (self.done - done_before)
        left = pace * (self.total - self.done)
        return f"{format_seconds(max(left, 1.0))} left"
