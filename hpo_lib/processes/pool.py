"""Run a function in several processes of one thread each, which end with this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import cloudpickle
from threadpoolctl import threadpool_limits

from hpo_lib.processes.guard import end_with, use_one_thread
from hpo_lib.progress import Progress

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_Steps = SimpleQueue[Callable[[], str]]
"""Descriptions of the steps that processes have taken."""

_POLL_SECONDS = 0.2

_work: list[tuple[Callable[[Any, Progress], Any], Progress]] = []
"""In a process of a pool: the function that it runs, and where its steps are counted."""


def run_all(
    function: Callable[[_Argument, Progress], _Result],
    arguments: Sequence[_Argument],
    processes: int,
    progress: Progress,
) -> Iterator[tuple[_Argument, _Result]]:
    """Yield each argument with the result of a function of it, in the order in which they end.

    Args:
        function: gets an argument and a progress to count its steps; each process gets it once.
        arguments: one call each.
        processes: calls at once; a single one, or the only call, runs in this process.
        progress: counts the steps of all calls, also while they run.
    """
    if min(processes, len(arguments)) <= 1:
        for argument in arguments:
            yield argument, function(argument, progress)
        return

    spawn = get_context("spawn")  # fork would copy the threads' locks
    steps: _Steps = spawn.SimpleQueue()
    initial = (cloudpickle.dumps(function), steps, os.getpid())
    pool = ProcessPoolExecutor(processes, spawn, _start_process, initial)
    try:
        calls = {pool.submit(_run_in_process, argument): argument for argument in arguments}
        running = set(calls)
        while running:
            ended, running = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            # A call has counted all its steps before it ends.
            while not steps.empty():
                progress.advance(steps.get())
            for call in ended:
                yield calls[call], call.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(function: bytes, steps: _Steps, parent: int) -> None:
    use_one_thread()
    threadpool_limits(1)  # of libraries that are loaded already
    end_with(parent)
    _work.append((cloudpickle.loads(function), _RemoteProgress(steps)))


def _run_in_process(argument: Any) -> Any:
    function, progress = _work[0]
    return function(argument, progress)


class _RemoteProgress(Progress):
    """Progress that another process shows.

    Args:
        steps: what that process reads.
    """

    def __init__(self, steps: _Steps) -> None:
        super().__init__(0, enabled=False)
        self._steps = steps

    def advance(self, describe: Callable[[], str]) -> None:
        """Hand a step over."""
        self._steps.put(describe)
