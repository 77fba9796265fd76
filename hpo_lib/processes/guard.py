"""End worker processes with all that they started; as a program, when their driver is killed.

A driver that dies of SIGKILL can end nothing, and a worker that holds the interpreter's lock does
not notice. `ProcessGuard` keeps a small program beside the driver that waits for its death.
Linux's parent-death signal would reach the worker alone, not what an objective has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psutil

HAS_PROCESS_GROUPS = hasattr(os, "killpg")
"""Whether this is a POSIX system; elsewhere processes are found by their parents alone."""

_POLL_SECONDS = 0.25


def use_one_thread() -> None:
    """Give this process one thread for numerical libraries."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"

    torch: Any = sys.modules.get("torch")  # loaded already when the user's script imports it
    if torch is not None:
        torch.set_num_threads(1)


def end_tree(pid: int) -> None:
    """Kill a process, its descendants, and what is left of the process group that it leads."""
    processes: list[psutil.Process] = []
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]

    # in the group are also those whose parent has ended already
    if HAS_PROCESS_GROUPS:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def end_with(parent: int) -> None:
    """End this process, and those that it has started, once its parent is gone."""
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while _is_alive(parent):
        time.sleep(_POLL_SECONDS)
    end_tree(os.getpid())


def _is_alive(parent: int) -> bool:
    """Return whether this process still has its parent; Windows keeps a dead one's number."""
    return os.getppid() == parent and (HAS_PROCESS_GROUPS or psutil.pid_exists(parent))


class ProcessGuard:
    """A program that ends the processes it was told of once this process is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program, if it does not run yet."""
        with self._lock:
            if self._program is None:
                self._program = subprocess.Popen(
                    # -P: the modules beside this file must not hide those of the library
                    [sys.executable, "-P", __file__, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C and a closed terminal are not for it
                )

    def add(self, pid: int) -> None:
        """End this process, too, when the driver is gone."""
        self._send(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """Forget a process that has ended."""
        self._send(f"-{pid}\n")

    def close(self) -> None:
        """End the program, which ends the processes that it still knows of."""
        with self._lock:
            program = self._program
            self._program = None
        if program is not None:
            program.communicate()

    def _send(self, line: str) -> None:
        with self._lock:
            if self._program is not None and self._program.stdin is not None:
                with suppress(BrokenPipeError):  # it was killed: workers end with their segments
                    self._program.stdin.write(line.encode())


def _guard(parent: int) -> None:
    """Collect process numbers from stdin until the parent closes it or dies.

    A child that the parent forked may hold the other end: hence the look at the parent itself.
    """
    pids: set[int] = set()
    reader = threading.Thread(target=_read_changes, args=(pids,), daemon=True)
    reader.start()
    while reader.is_alive() and _is_alive(parent):
        reader.join(_POLL_SECONDS)

    # the last lines of a parent that has just died are still in the pipe
    reader.join(_POLL_SECONDS)
    for pid in list(pids):
        end_tree(pid)


def _read_changes(pids: set[int]) -> None:
    # unbuffered: a thread that waits with a buffer's lock would break the program's end
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            change = pids.add if line.startswith(b"+") else pids.discard
            change(int(line[1:]))


if __name__ == "__main__":
    _guard(int(sys.argv[1]))
