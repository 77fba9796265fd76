"""Keep one warm process: start it, ask it, watch it, and end it.

The driver's thread notices every end of the process, whatever the exit code, and everything that
crosses the pipe back is bytes: nothing is unpickled here.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import psutil

from hpo_lib.processes.guard import ProcessGuard, end_tree
from hpo_lib.study.workers.base import UsableTime
from hpo_lib.study.workers.worker_process import serve

_POLL_SECONDS = 0.1
_EXIT_SECONDS = 2.0
_MAX_START_ATTEMPTS = 3


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
        gpu: the one CUDA device that it sees; None leaves all visible.
        memory_limit: bytes of resident memory while it has a task.
        guard: told of each process, to end it if the driver is killed.
    """

    def __init__(
        self,
        gpu: str | None,
        memory_limit: int | None,
        guard: ProcessGuard,
    ) -> None:
        self.closing = threading.Event()
        self._gpu = gpu
        self._memory_limit = memory_limit
        self._guard = guard
        self._running: tuple[BaseProcess, Connection[bytes, bytes]] | None = None

    def ask(self, message: bytes, time_limit: float | None = None) -> bytes:
        """Send a message and return the answer, from a new process where there is none.

        Args:
            message: passed to the process as it is.
            time_limit: seconds that the answer may take, as far as this process could use them.

        Raises:
            StartError: no process could be started.
            EndedError: it ended without an answer.
            TimeoutError: the answer took longer than `time_limit` seconds.
            MemoryLimitError: it held more than the memory limit; it is ended, as at a time-out.
            ClosedError: `closing` was set.
        """
        process, pipe = self._ready_process()
        try:
            pipe.send_bytes(message)
        except OSError as error:
            raise EndedError(self._end_and_explain(process)) from error
        return self._receive(process, pipe, time_limit, self._memory_limit)

    def end(self) -> None:
        """Kill the process and everything that it has started."""
        if self._running is None:
            return
        process, pipe = self._running
        self._running = None

        pipe.close()
        if process.pid is not None:
            end_tree(process.pid)
            _wait_for_end(process)
            self._guard.remove(process.pid)

    def _ready_process(self) -> tuple[BaseProcess, Connection[bytes, bytes]]:
        """Return the process that waits for a task, or a new one in its place."""
        if self._running is not None and not self._running[0].is_alive():
            self.end()

        attempt = 0
        while self._running is None:
            attempt += 1
            process, pipe = self._start()
            try:
                self._receive(process, pipe, time_limit=None, memory_limit=None)
            except EndedError as error:
                # Another program has killed one that ended by a signal, and the next may live;
                # with an exit code, the next one would end in the same way.
                is_killed = process.exitcode is None or process.exitcode < 0
                if not is_killed or attempt == _MAX_START_ATTEMPTS:
                    message = f"it ended before it was ready, with {error}"
                    raise StartError(message) from error

        return self._running

    def _start(self) -> tuple[BaseProcess, Connection[bytes, bytes]]:
        if self.closing.is_set():
            raise ClosedError
        # fork would copy the driver's threads' locks and any CUDA context
        context = multiprocessing.get_context("spawn")
        pipe, child_pipe = context.Pipe()
        process = context.Process(
            target=serve, args=(child_pipe, self._gpu), name="hpo_lib worker"
        )
        try:
            self._guard.start()
            process.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: this process is itself starting
            pipe.close()
            message = f"{type(error).__name__}: {str(error).strip()}"
            raise StartError(message) from error
        finally:
            child_pipe.close()

        self._running = process, pipe
        if process.pid is not None:
            self._guard.add(process.pid)
        return self._running

    def _receive(
        self,
        process: BaseProcess,
        pipe: Connection[bytes, bytes],
        time_limit: float | None,
        memory_limit: int | None,
    ) -> bytes:
        """Wait for a message; whatever else happens first ends the process."""
        elapsed = UsableTime()
        while not wait([pipe, process.sentinel], _POLL_SECONDS):
            reason = None
            if self.closing.is_set():
                reason = ClosedError()
            elif time_limit is not None and elapsed.look() > time_limit:
                reason = TimeoutError()
            elif memory_limit is not None and _resident_memory(process.pid) > memory_limit:
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

        raise EndedError(self._end_and_explain(process))

    def _end_and_explain(self, process: BaseProcess) -> str:
        """End what is left of the process, and return how it ended."""
        has_ended = _wait_for_end(process)
        self.end()
        if has_ended:
            return f"exit code {process.exitcode}"
        return "its pipe closed, as when os.exec runs another program in its place"


def _wait_for_end(process: BaseProcess) -> bool:
    """Wait a little; `join` would wait for ever for one that has only closed its files."""
    deadline = time.monotonic() + _EXIT_SECONDS
    while process.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _resident_memory(pid: int | None) -> int:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).memory_info().rss
    return 0
