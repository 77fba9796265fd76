"""One warm process per thread: started, asked, watched and ended by that thread alone.

The thread notices every end of its process, whatever the exit code, and everything that crosses
the pipe back is bytes that the worker has written as JSON: nothing is unpickled here.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from hpo_lib.study.workers.process_guard import ProcessGuard, end_tree

READY = b"ready"
"""The first message of a process, when it is able to take a task."""

_LOOK_SECONDS = 0.1
_EXIT_SECONDS = 2.0
_START_TRIES = 3


class StartError(Exception):
    """A process ended before it was ready for its first task."""


class EndedError(Exception):
    """A process ended, or cut its pipe, while it had a task."""


class ClosedError(Exception):
    """The owner asked for the end while a task ran."""


class MemoryLimitError(Exception):
    """A process held more memory than it may."""


class WarmProcess:
    """A process that answers one message after another, and is replaced when it ends.

    Args:
        serve: a function of a module, run in the process with its end of the pipe and
            `arguments`; it sends `READY` before it waits for a message.
        arguments: further arguments of `serve`.
        memory_limit: bytes of resident memory while it has a task.
        guard: told of each process, to end it if the driver is killed.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        arguments: tuple[Any, ...],
        memory_limit: int | None,
        guard: ProcessGuard,
    ) -> None:
        self.closing = threading.Event()
        self._serve = serve
        self._arguments = arguments
        self._memory_limit = memory_limit
        self._guard = guard
        self._alive: tuple[BaseProcess, Connection[bytes, bytes]] | None = None

    def ask(self, message: bytes, time_limit: float | None = None) -> bytes:
        """Send a message and return the answer, from a new process where there is none.

        Raises:
            StartError: no process could be started.
            EndedError: it ended without an answer.
            TimeoutError: the answer took longer than `time_limit` seconds.
            MemoryLimitError: it held more than the memory limit; it is ended, as at a time-out.
            ClosedError: `closing` was set.
        """
        process, pipe = self._ready()
        try:
            pipe.send_bytes(message)
        except OSError as error:
            raise EndedError(self._death(process)) from error
        return self._receive(process, pipe, time_limit, self._memory_limit)

    def end(self) -> None:
        """Kill the process and everything that it has started."""
        if self._alive is None:
            return
        process, pipe = self._alive
        self._alive = None
        pipe.close()
        if process.pid is not None:
            end_tree(process.pid)
            _wait_for_end(process)
            self._guard.remove(process.pid)

    def _ready(self) -> tuple[BaseProcess, Connection[bytes, bytes]]:
        """Return the process that waits for a task, or a new one in its place."""
        if self._alive is not None and not self._alive[0].is_alive():
            self.end()
        attempt = 0
        while self._alive is None:
            attempt += 1
            process, pipe = self._start()
            try:
                self._receive(process, pipe, None, None)
            except EndedError as error:
                # by a signal: somebody killed it; with an exit code: so ends the next one
                killed = process.exitcode is None or process.exitcode < 0
                if not killed or attempt == _START_TRIES:
                    message = f"it ended before it was ready, with {error}"
                    raise StartError(message) from error
        return self._alive

    def _start(self) -> tuple[BaseProcess, Connection[bytes, bytes]]:
        if self.closing.is_set():
            raise ClosedError
        # fork would copy the driver's threads' locks and any CUDA context
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(
            target=self._serve, args=(theirs, *self._arguments), name="hpo_lib worker"
        )
        try:
            self._guard.start()
            process.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: this process is itself starting
            pipe.close()
            message = f"{type(error).__name__}: {str(error).strip()}"
            raise StartError(message) from error
        finally:
            theirs.close()
        self._alive = process, pipe
        if process.pid is not None:
            self._guard.add(process.pid)
        return self._alive

    def _receive(
        self,
        process: BaseProcess,
        pipe: Connection[bytes, bytes],
        time_limit: float | None,
        memory_limit: int | None,
    ) -> bytes:
        """Wait for a message; whatever else happens first ends the process."""
        began = time.monotonic()
        while not wait([pipe, process.sentinel], _LOOK_SECONDS):
            reason = None
            if self.closing.is_set():
                reason = ClosedError()
            elif time_limit is not None and time.monotonic() - began > time_limit:
                reason = TimeoutError()
            elif memory_limit is not None and _resident(process.pid) > memory_limit:
                reason = MemoryLimitError()
            if reason is not None:
                self.end()
                raise reason
            # a child that was forked may hold both of them open
            if not process.is_alive():
                break
        try:
            if pipe.poll():
                return pipe.recv_bytes()
        except (EOFError, OSError):
            pass  # the other end is closed
        raise EndedError(self._death(process))

    def _death(self, process: BaseProcess) -> str:
        """End what is left of the process and say how it ended."""
        ended = _wait_for_end(process)
        self.end()
        if ended:
            return f"exit code {process.exitcode}"
        return "its pipe closed, as when os.exec runs another program in its place"


def _wait_for_end(process: BaseProcess) -> bool:
    """Wait a little; `join` would wait for ever for one that has only closed its files."""
    until = time.monotonic() + _EXIT_SECONDS
    while process.is_alive():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _resident(pid: int | None) -> int:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).memory_info().rss
    return 0
