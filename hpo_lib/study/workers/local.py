"""Where segments run: in the driver's process or in warm processes, behind one interface.

Workers evaluate and nothing else: they never ask a sampler and never write the record.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol, runtime_checkable

import cloudpickle

from hpo_lib.checks import check_positive, check_whole
from hpo_lib.exceptions import CheckpointError, StudyError
from hpo_lib.files import is_full_disk
from hpo_lib.objective import CURVES, Objective, Segment, SegmentResult, checked_result
from hpo_lib.space.values import Configuration
from hpo_lib.study.workers.process_guard import ProcessGuard
from hpo_lib.study.workers.processes import (
    READY,
    ClosedError,
    EndedError,
    MemoryLimitError,
    StartError,
    WarmProcess,
)

FailureStatus = Literal[
    "failed", "timed_out", "out_of_memory", "lost", "no_checkpoint", "disk_full"
]

_REASON_LENGTH = 2_000
_TRACEBACK_LENGTH = 20_000


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
    """`slots` segments at a time; a future never raises for what happens inside a segment.

    A future raises `StudyError` where no segment could run at all: that is charged to no trial.
    """

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
        configuration: what it is called with.
        segment: the epochs to train.
        worker: the name that is recorded.
        interruptible: whether KeyboardInterrupt in the main thread is the user's and passes. An
            objective that raises it itself cannot be told from Ctrl-C there; in a worker
            process, which no Ctrl-C reaches, it can.
    """
    started = time.time()
    outcome: SegmentResult | Failure
    try:
        outcome = checked_result(objective(configuration, segment), segment)
    # a script's main() may end with sys.exit(), a task of asyncio with CancelledError
    except BaseException as error:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if interruptible and in_main_thread and isinstance(error, KeyboardInterrupt):
            raise
        outcome = _failure(error)
    return Evaluation(outcome, worker, started, time.time())


def _failure(error: BaseException) -> Failure:
    """Describe an exception, also one that cannot describe itself."""
    name = type(error).__name__
    try:
        reason = f"{name}: {error}"[:_REASON_LENGTH]
    except Exception as second:
        reason = f"{name}: its message cannot be shown, which raises {type(second).__name__}"
    try:
        text = "".join(traceback.format_exception(error))[-_TRACEBACK_LENGTH:]
    except Exception as second:
        text = f"the traceback cannot be shown, which raises {type(second).__name__}"
    return Failure(_blame(error), reason, text)


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


@dataclass(frozen=True)
class _Task:
    future: Future[Evaluation]
    message: bytes
    name: str
    submitted: float


class LocalWorkers:
    """Warm processes on this machine, one per slot.

    Each slot keeps its name, its process's replacement and its GPU together; the GPUs that this
    process sees are handed out in turn.

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
        self._guard = ProcessGuard()
        self._threads: dict[int, _SlotThread] = {}
        self._free = list(reversed(range(slots)))
        self._lock = threading.Lock()
        _OPEN.add(self)

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Send one segment to a free process."""
        return self.submit_payload(cloudpickle.dumps(objective), configuration, segment)

    def submit_payload(
        self, payload: bytes, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Send one segment of an objective that cloudpickle has written."""
        task = pickle.dumps((payload, configuration, segment))
        with self._lock:
            if not self._free:
                message = f"all {self.slots} workers are busy"
                raise RuntimeError(message)
            slot = self._free.pop()
            if slot not in self._threads:
                self._threads[slot] = self._start_thread(slot)
            thread = self._threads[slot]
        name = f"{socket.gethostname()}/{slot}"
        future: Future[Evaluation] = Future()
        thread.tasks.put(_Task(future, task, name, time.time()))
        return future

    def close(self) -> None:
        """Kill every process; running segments end as `lost`."""
        with self._lock:
            threads, self._threads = list(self._threads.values()), {}
        for thread in threads:
            thread.process.closing.set()
            thread.tasks.put(None)
        for thread in threads:
            thread.join()
        self._guard.close()

    def release(self, slot: int) -> None:
        """Make a slot free again."""
        with self._lock:
            self._free.append(slot)

    def _start_thread(self, slot: int) -> _SlotThread:
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        process = WarmProcess(_serve, (gpu,), self.memory_limit, self._guard)
        thread = _SlotThread(self, slot, process)
        thread.start()
        return thread


_OPEN: weakref.WeakSet[LocalWorkers] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End the processes before multiprocessing waits for them at the end of the program."""
    for workers in list(_OPEN):
        workers.close()


class _SlotThread(threading.Thread):
    """The owner of one slot's process: sends it one segment after another."""

    def __init__(self, workers: LocalWorkers, slot: int, process: WarmProcess) -> None:
        super().__init__(name=f"hpo_lib slot {slot}", daemon=True)
        self.process = process
        self.tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._workers = workers
        self._slot = slot

    def run(self) -> None:
        """Work until `None` comes."""
        while (task := self.tasks.get()) is not None:
            try:
                evaluation = self._evaluate(task)
            except Exception as error:  # whoever waits for the future must hear of it
                self._workers.release(self._slot)
                task.future.set_exception(error)
            else:
                self._workers.release(self._slot)
                task.future.set_result(evaluation)
        self.process.end()

    def _evaluate(self, task: _Task) -> Evaluation:
        workers = self._workers
        failure: Failure
        try:
            answer = self.process.ask(task.message, workers.time_limit)
            return _decoded(answer, task.name)
        except StartError as error:
            raise StudyError(_start_message(error)) from error
        except ClosedError:
            failure = Failure("lost", "the workers were closed while it ran")
        except TimeoutError:
            failure = Failure("timed_out", f"ran longer than time_limit={workers.time_limit} s")
        except MemoryLimitError:
            reason = f"held more than memory_limit={workers.memory_limit} bytes"
            failure = Failure("out_of_memory", reason)
        except EndedError as error:
            failure = Failure("lost", f"its process died without a result: {error}")
        except (ValueError, KeyError, TypeError) as error:  # the objective wrote into our pipe
            self.process.end()
            failure = Failure("lost", f"its process sent what is no result: {error!r}")
        return Evaluation(failure, task.name, task.submitted, time.time())


def _start_message(error: StartError) -> str:
    return (
        f"no worker process can be started: {error}. Each one runs the program's main module "
        'again: what starts a study there belongs below `if __name__ == "__main__":`. '
        "What the process said itself stands on stderr; no trial was charged, and the same call "
        "goes on (workers=0 needs no process)"
    )


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
        from hpo_lib.study.workers.dask_cluster import DaskWorkers

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


def _serve(pipe: Connection[bytes, bytes], gpu: str | None) -> None:
    """Evaluate segments in a worker process until the driver is gone.

    Nothing of ours runs beside the objective, neither a thread nor a signal's handler, for its
    children would inherit them: limits and ends are the driver's work.
    """
    prepare_process(gpu)
    # A group of its own: Ctrl-C in a terminal does not reach it, and a driver that ends it also
    # finds those of an objective's children whose parent has ended.
    os.setpgid(0, 0)
    os.set_inheritable(pipe.fileno(), False)  # os.exec closes it, which the driver notices
    pid = os.getpid()
    pipe.send_bytes(READY)
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        answer = _answer(message)
        if os.getpid() != pid:  # a child that the objective has forked returned from it, too
            os._exit(0)
        pipe.send_bytes(answer)


def _answer(message: bytes) -> bytes:
    payload, configuration, segment = pickle.loads(message)
    try:
        objective = _objective(payload)
    except BaseException as error:
        return json.dumps({"refusal": _failure(error).reason}).encode()
    evaluation = evaluate(objective, configuration, segment, "", interruptible=False)
    return json.dumps(asdict(evaluation)).encode()


def _decoded(answer: bytes, worker: str) -> Evaluation:
    """Return the evaluation that a worker has written."""
    content: dict[str, Any] = json.loads(answer)
    if "refusal" in content:
        message = f"the objective cannot be loaded in a worker process: {content['refusal']}"
        raise StudyError(message)
    outcome: dict[str, Any] = content["outcome"]
    if "reason" in outcome:
        result = Failure(**outcome)
    else:
        curves = {name: tuple(outcome.pop(name)) for name in CURVES}
        result = SegmentResult(**curves, **outcome)
    return Evaluation(result, worker, content["started"], content["finished"])


def prepare_process(gpu: str | None = None) -> None:
    """Give this process one thread and one GPU."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch: Any = sys.modules.get("torch")  # loaded already when the user's script imports it
    if torch is not None:
        torch.set_num_threads(1)
