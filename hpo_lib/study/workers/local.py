"""Where segments run: in the driver's process or in warm processes, behind one interface.

Workers evaluate and nothing else: they never ask a sampler and never write the record.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import cloudpickle
import psutil
from pebble import ProcessExpired, ProcessPool

from hpo_lib.checks import check_positive, check_whole
from hpo_lib.exceptions import CheckpointError
from hpo_lib.files import is_full_disk
from hpo_lib.objective import Objective, Segment, SegmentResult
from hpo_lib.space.search_space import Configuration

FailureStatus = Literal[
    "failed", "timed_out", "out_of_memory", "lost", "no_checkpoint", "disk_full"
]

_MEMORY_EXIT = 77
_WATCH_SECONDS = 0.25


@dataclass(frozen=True)
class Failure:
    """Why a segment has no result; the last three say nothing about its configuration."""

    status: FailureStatus
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What came of one segment: where it ran, and when (seconds since 1970)."""

    outcome: SegmentResult | Failure
    worker: str
    started: float
    finished: float


@runtime_checkable
class Workers(Protocol):
    """`slots` segments at a time; a future never raises for what happens inside a segment."""

    @property
    def slots(self) -> int:
        """How many segments run at once."""
        ...

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Start one segment; only called while fewer than `slots` are running."""
        ...

    def close(self) -> None:
        """End every process at once; a later `submit` starts anew."""
        ...


@runtime_checkable
class TimedWorkers(Workers, Protocol):
    """Workers that say themselves when something has finished: the driver waits through them.

    Those of a simulation have a clock of their own; those of a study in the background can be
    paused and stopped.
    """

    def wait(self, running: Collection[Future[Evaluation]]) -> set[Future[Evaluation]]:
        """Go on to the moment when at least one has finished; those that have by then."""
        ...


def wait_for_first(
    workers: Workers, running: Collection[Future[Evaluation]], timeout: float
) -> set[Future[Evaluation]]:
    """Those that have finished, as soon as there is one; none after `timeout` seconds."""
    if isinstance(workers, TimedWorkers):
        return workers.wait(running)
    return wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done


def evaluate(
    objective: Objective, configuration: Configuration, segment: Segment, worker: str
) -> Evaluation:
    """Run one segment here; an exception of the objective becomes a `Failure`."""
    started = time.time()
    outcome: SegmentResult | Failure
    try:
        outcome = _checked(objective(configuration, segment), segment)
    except (Exception, SystemExit) as error:  # a script's main() may end with sys.exit()
        reason = f"{type(error).__name__}: {error}"
        outcome = Failure(_blame(error), reason, traceback.format_exc())
    return Evaluation(outcome, worker, started, time.time())


def _checked(result: object, segment: Segment) -> SegmentResult:
    if not isinstance(result, SegmentResult):
        message = f"objective must return a SegmentResult, got {result!r}"
        raise TypeError(message)
    n = segment.stop - segment.start
    if result.status == "completed" and len(result.validation_error) != n:
        rule = f"objective must return a validation_error for each of the segment's {n} epochs"
        message = f"{rule}, got {len(result.validation_error)}"
        raise ValueError(message)
    path = result.checkpoint
    return replace(result, checkpoint=None if path is None else os.fspath(path))


def _blame(error: BaseException) -> FailureStatus:
    if isinstance(error, CheckpointError):
        return "no_checkpoint"
    return "disk_full" if is_full_disk(error) else "failed"


class InProcess:
    """One slot in the driver's own process, for debugging: no limits, no protection."""

    slots = 1

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Evaluate before returning."""
        future: Future[Evaluation] = Future()
        future.set_result(evaluate(objective, configuration, segment, "driver"))
        return future

    def close(self) -> None:
        """Nothing to end."""


class LocalWorkers:
    """Warm processes on this machine, one pool per slot.

    A pool of one process each keeps a slot's name, its replacement and its GPU together; the GPUs
    that this process sees are handed out in turn.

    Args:
        slots: processes that run at once.
        time_limit: seconds that one segment may take before its process is killed.
        memory_limit: bytes of resident memory that one process may hold.
    """

    def __init__(
        self,
        slots: int = 1,
        *,
        time_limit: float | None = None,
        memory_limit: int | None = None,
    ) -> None:
        check_positive(workers=slots, time_limit=time_limit, memory_limit=memory_limit)
        self.slots = slots
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self._gpus = visible_gpus()
        self._pools: dict[int, ProcessPool] = {}
        self._free = list(reversed(range(slots)))
        self._tasks: set[Future[Evaluation]] = set()
        self._lock = threading.Lock()

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Send one segment to a free process."""
        return self.submit_payload(cloudpickle.dumps(objective), configuration, segment)

    def submit_payload(
        self, payload: bytes, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Send one segment of an objective that cloudpickle has written."""
        with self._lock:
            if not self._free:
                message = f"all {self.slots} workers are busy"
                raise RuntimeError(message)
            slot = self._free.pop()
            pool = self._pools.get(slot)
            if pool is None or not pool.active:  # pebble gives up when an idle process dies
                pool = self._pools[slot] = self._pool(slot)
        name = f"{socket.gethostname()}/{slot}"
        future: Future[Evaluation] = Future()
        task: Future[Evaluation] = pool.schedule(
            _evaluate_payload,
            args=(payload, configuration, segment, name),
            timeout=self.time_limit,
        )
        self._tasks.add(task)
        task.add_done_callback(partial(self._finish, future, slot, name, time.time()))
        return future

    def close(self) -> None:
        """Kill every process; running segments end as `lost`."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.stop()
        for pool in pools:
            pool.join()
        for task in list(self._tasks):  # pebble resolves not all that it stops
            task.cancel()

    def _pool(self, slot: int) -> ProcessPool:
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        return ProcessPool(
            max_workers=1,
            initializer=prepare_process,
            initargs=(os.getpid(), gpu, self.memory_limit),
            # fork would copy the driver's threads' locks and any CUDA context
            context=multiprocessing.get_context("spawn"),
        )

    def _finish(
        self,
        future: Future[Evaluation],
        slot: int,
        name: str,
        submitted: float,
        task: Future[Evaluation],
    ) -> None:
        with self._lock:
            self._free.append(slot)
            self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            future.set_result(task.result())
        elif isinstance(error, Exception | None):
            failure = self._explain(error)
            future.set_result(Evaluation(failure, name, submitted, time.time()))
        else:
            future.set_exception(error)

    def _explain(self, error: Exception | None) -> Failure:
        if error is None:
            return Failure("lost", "the workers were closed while it ran")
        if isinstance(error, TimeoutError):
            return Failure("timed_out", f"ran longer than time_limit={self.time_limit} s")
        if isinstance(error, BrokenProcessPool):
            return Failure("lost", f"its process died before it began: {error}")
        if isinstance(error, ProcessExpired):
            if error.exitcode == _MEMORY_EXIT:
                reason = f"held more than memory_limit={self.memory_limit} bytes"
                return Failure("out_of_memory", reason)
            return Failure("lost", f"its process died with exit code {error.exitcode}")
        text = "".join(traceback.format_exception(error))
        return Failure("failed", f"{type(error).__name__}: {error}", text)


def make_workers(
    workers: int | str | Workers,
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Workers:
    """Return workers for a number (0: in this process) or the address of a Dask scheduler.

    An object that was handed in is returned as it is.
    """
    limited = time_limit is not None or memory_limit is not None
    if isinstance(workers, str):
        from hpo_lib.study.workers.dask_cluster import DaskWorkers  # needs an extra

        return DaskWorkers(workers, time_limit=time_limit, memory_limit=memory_limit)
    if isinstance(workers, Workers):
        if limited:
            message = "time_limit and memory_limit belong to the workers object that was handed in"
            raise ValueError(message)
        return workers
    n = check_whole("workers", workers, 0)
    if n == 0:
        if limited:
            message = "time_limit and memory_limit need worker processes: workers >= 1, got 0"
            raise ValueError(message)
        return InProcess()
    return LocalWorkers(n, time_limit=time_limit, memory_limit=memory_limit)


def visible_gpus() -> list[str]:
    """Device numbers that this process may use, found without importing torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [part.strip() for part in listed.split(",") if part.strip() not in ("", "-1")]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


@lru_cache(maxsize=2)
def _objective(payload: bytes) -> Objective:
    return cloudpickle.loads(payload)


def _evaluate_payload(
    payload: bytes, configuration: Configuration, segment: Segment, worker: str
) -> Evaluation:
    return evaluate(_objective(payload), configuration, segment, worker)


def prepare_process(parent: int, gpu: str | None = None, memory_limit: int | None = None) -> None:
    """Begin a worker process: one thread, one GPU, and an end with its parent or at the limit."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch: Any = sys.modules.get("torch")  # loaded already when the user's script imports it
    if torch is not None:
        torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: _end(1))  # sent at the time limit
    threading.Thread(target=_watch, args=(parent, memory_limit), daemon=True).start()


def _watch(parent: int, memory_limit: int | None) -> None:
    """End this process when the driver is gone or the memory limit is passed."""
    process = psutil.Process()
    while os.getppid() == parent:
        if memory_limit is not None and process.memory_info().rss > memory_limit:
            _end(_MEMORY_EXIT)
        time.sleep(_WATCH_SECONDS)
    _end(1)


def _end(code: int) -> None:
    """End this process now, and those that an objective has started."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(code)
