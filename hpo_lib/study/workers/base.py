"""Define the interface of workers, and evaluate one segment where it is called.

Workers evaluate and nothing else: they never ask a sampler and never write the record.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Collection, Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hpo_lib.exceptions import CheckpointError
from hpo_lib.files import is_full_disk
from hpo_lib.objective import Objective, Segment, SegmentResult, checked_result
from hpo_lib.space.values import Configuration

FailureStatus = Literal[
    "failed", "timed_out", "out_of_memory", "lost", "no_checkpoint", "disk_full"
]

_LONGEST_PAUSE = 1.0
_MAX_REASON_LENGTH = 2_000
_MAX_TRACEBACK_LENGTH = 20_000


@dataclass(frozen=True)
class Failure:
    """A segment that has no result.

    Attributes:
        status: what happened; "lost", "no_checkpoint" and "disk_full" say nothing about the
            configuration.
        reason: one sentence.
        traceback: of the objective's exception; empty where there was none.
    """

    status: FailureStatus
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Outcome of one segment.

    Attributes:
        outcome: its result, or why there is none.
        worker: name of the worker that it ran on.
        started: in seconds since 1970.
        finished: the same, later by the time that it took, wherever the clock was set meanwhile.
    """

    outcome: SegmentResult | Failure
    worker: str
    started: float
    finished: float


class Began:
    """Moment at which a segment was begun, on the clock and for measuring from there."""

    def __init__(self) -> None:
        self._started = time.time()
        self._began = time.monotonic()

    def evaluation(self, outcome: SegmentResult | Failure, worker: str) -> Evaluation:
        """Return the evaluation of a segment that ends now.

        Args:
            outcome: its result, or why there is none.
            worker: name of the worker that it ran on.
        """
        seconds = time.monotonic() - self._began
        return Evaluation(outcome, worker, self._started, self._started + seconds)


class UsableTime:
    """Measure how long this process could run, for a loop that looks again and again.

    Between two looks that are far apart the process was stopped, or the machine slept: with it
    stood still what is waited for.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._looked = time.monotonic()

    def look(self) -> float:
        """Return the seconds since the beginning that this process could use."""
        now = time.monotonic()
        self._seconds += min(now - self._looked, _LONGEST_PAUSE)
        self._looked = now
        return self._seconds


@runtime_checkable
class Workers(Protocol):
    """A number of slots that evaluate one segment each at a time.

    A future never raises for what happens inside a segment. It raises `StudyError` where no
    segment could run at all: that is charged to no trial.
    """

    @property
    def slots(self) -> int:
        """Return how many segments run at once."""
        ...

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Start one segment; only called while fewer than `slots` are running.

        Args:
            objective: evaluates the segment.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.
        """
        ...

    def close(self) -> None:
        """End every process at once; a later `submit` starts anew."""
        ...


@runtime_checkable
class TimedWorkers(Workers, Protocol):
    """Workers that say themselves when a segment has finished: the driver waits through them.

    Simulated workers have a clock of their own; those of a study in the background can be paused
    and stopped.
    """

    def wait(self, running: Collection[Future[Evaluation]]) -> set[Future[Evaluation]]:
        """Wait until at least one has finished, and return those that have by then."""
        ...


def wait_for_first(
    workers: Workers,
    running: Collection[Future[Evaluation]],
    timeout: float,
) -> set[Future[Evaluation]]:
    """Return the finished futures as soon as there is one, or none after the timeout.

    Args:
        workers: where they run.
        running: futures of submitted segments.
        timeout: in seconds; `TimedWorkers` have their own.
    """
    if isinstance(workers, TimedWorkers):
        return workers.wait(running)
    return wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done


def evaluate(
    objective: Objective,
    configuration: Configuration,
    segment: Segment,
    worker: str,
    *,
    interruptible: bool = True,
) -> Evaluation:
    """Run one segment here; whatever the objective raises becomes a `Failure`.

    Args:
        objective: called once.
        configuration: passed to the objective.
        segment: epochs to train.
        worker: name that is recorded.
        interruptible: whether KeyboardInterrupt in the main thread is the user's and passes. An
            objective that raises it itself cannot be told from Ctrl-C there; in a worker
            process, which no Ctrl-C reaches, it can.
    """
    began = Began()
    outcome: SegmentResult | Failure
    try:
        with _keep_working_directory():
            outcome = checked_result(objective(configuration, segment), segment)
    # a script's main() may end with sys.exit(), a task of asyncio with CancelledError
    except BaseException as error:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if interruptible and in_main_thread and isinstance(error, KeyboardInterrupt):
            raise
        outcome = describe_exception(error)

    return began.evaluation(outcome, worker)


class InProcess:
    """One slot in the driver's own process, for debugging: no limits, no protection."""

    slots = 1

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Evaluate one segment before returning.

        Args:
            objective: evaluates the segment.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.
        """
        future: Future[Evaluation] = Future()
        future.set_result(evaluate(objective, configuration, segment, "driver"))
        return future

    def close(self) -> None:
        """Do nothing: there is no process to end."""


@contextmanager
def _keep_working_directory() -> Generator[None]:
    """Come back from where an objective went: each segment begins where the process stood."""
    try:
        here = Path.cwd()
    except OSError:  # the folder is gone
        here = None
    try:
        yield
    finally:
        if here is not None:
            with suppress(OSError):  # the objective removed it
                os.chdir(here)


def describe_exception(error: BaseException) -> Failure:
    """Return an exception as a failure, also one that cannot describe itself."""
    name = type(error).__name__
    try:
        reason = f"{name}: {error}"[:_MAX_REASON_LENGTH]
    except Exception as second:
        reason = f"{name}: its message cannot be shown, which raises {type(second).__name__}"

    try:
        text = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK_LENGTH:]
    except Exception as second:
        text = f"the traceback cannot be shown, which raises {type(second).__name__}"

    return Failure(_failure_status(error), reason, text)


def _failure_status(error: BaseException) -> FailureStatus:
    if isinstance(error, CheckpointError):
        return "no_checkpoint"
    return "disk_full" if is_full_disk(error) else "failed"
