"""Ctrl-C in a running study: once, what runs is finished; twice, everything stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

_SAID = "\ninterrupted: what runs now is finished and recorded; interrupt again to stop at once"

_heard = threading.local()


def share_interrupt(interrupt: threading.Event) -> None:
    """Let the studies that this thread runs stop when the main thread was interrupted."""
    _heard.interrupt = interrupt


@contextmanager
def first_interrupt_waits() -> Generator[threading.Event]:
    """Set an event at the first SIGINT; the next one raises KeyboardInterrupt as ever.

    Nothing changes in another thread than the main one, which alone hears signals (but may share
    what it hears), or where the program handles SIGINT already.
    """
    interrupt = getattr(_heard, "interrupt", None) or threading.Event()
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not plain or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt.set()
        with suppress(RuntimeError):  # in the middle of printing something else
            print(_SAID, file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
