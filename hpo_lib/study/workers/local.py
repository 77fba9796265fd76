"""Evaluate segments in warm processes on this machine, the number of which may change."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import socket
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_lib.checks import check_positive, check_whole
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import Objective, Segment, SegmentResult
from hpo_lib.processes.guard import ProcessGuard
from hpo_lib.space.values import Configuration
from hpo_lib.study.workers.base import Began, Evaluation, Failure
from hpo_lib.study.workers.pickling import dump_objective
from hpo_lib.study.workers.processes import (
    ClosedError,
    EndedError,
    MemoryLimitError,
    StartError,
    WarmProcess,
)


@dataclass
class _Task:
    message: bytes
    future: Future[Evaluation]
    began: Began


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
        self._lock = threading.Lock()
        self._busy: set[int] = set()
        self._queue: deque[_Task] = deque()
        self._processes: dict[int, WarmProcess] = {}
        self._threads: dict[int, threading.Thread] = {}

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Send one segment to a free process, or to the next that is.

        Args:
            objective: sent with cloudpickle, so that it may come from a notebook.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.

        Raises:
            TypeError: the objective cannot be sent to another process.
        """
        return self.submit_payload(dump_objective(objective), configuration, segment)

    def submit_payload(
        self,
        payload: bytes,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Send one segment of an objective that cloudpickle has written.

        Args:
            payload: the objective.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.
        """
        message = pickle.dumps((payload, configuration, segment))
        task = _Task(message, Future(), Began())
        with self._lock:
            self._queue.append(task)
            self._dispatch()
        return task.future

    def resize(self, slots: int) -> None:
        """Run more or fewer processes from now on.

        A process too many ends its segment first; its trial goes on in another one. A driver
        that waits notices more slots within a quarter of a minute.

        Args:
            slots: processes that run at once.
        """
        slots = check_whole("workers", slots, 1)
        with self._lock:
            self.slots = slots
            idle = [slot for slot in self._processes if slot >= slots and slot not in self._busy]
            retired = [self._processes.pop(slot) for slot in idle]
            self._dispatch()
        for process in retired:
            process.end()

    def _dispatch(self) -> None:
        """Start queued segments in free slots, the lowest first; called with the lock held."""
        free = [slot for slot in range(self.slots) if slot not in self._busy]
        for slot, _ in zip(free, list(self._queue), strict=False):
            task = self._queue.popleft()
            self._busy.add(slot)

            # Processes are started when they are needed, and kept.
            if slot not in self._processes:
                self._processes[slot] = self._make_process(slot)
            process = self._processes[slot]

            # One thread per segment: a process is asked, watched and ended by one at a time.
            thread = threading.Thread(target=self._run, args=(slot, process, task), daemon=True)
            self._threads[slot] = thread
            thread.start()

    def close(self) -> None:
        """Kill every process; running segments end as `lost`."""
        with self._lock:
            waiting = list(self._queue)
            self._queue.clear()
            processes = list(self._processes.values())
            threads = list(self._threads.values())
            self._processes.clear()
            self._threads.clear()

        for process in processes:
            process.closing.set()
        for thread in threads:
            thread.join()
        for process in processes:
            process.end()
        for task in waiting:
            failure = Failure("lost", "the workers were closed before it ran")
            task.future.set_result(task.began.evaluation(failure, "none"))

        self._guard.close()
        atexit.unregister(self.close)

    def _make_process(self, slot: int) -> WarmProcess:
        # Processes have to end before multiprocessing waits for them at the end of the program.
        atexit.unregister(self.close)
        atexit.register(self.close)

        # Slots share the GPUs in turn.
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        return WarmProcess(gpu, self.memory_limit, self._guard)

    def _run(
        self,
        slot: int,
        process: WarmProcess,
        task: _Task,
    ) -> None:
        """Evaluate one segment, and free the slot before anyone hears of the result."""
        try:
            evaluation = self._evaluate(process, task.message, f"{socket.gethostname()}/{slot}")
        except Exception as error:  # the driver waits for the future and must hear of it
            self._free(slot)
            task.future.set_exception(error)
        else:
            self._free(slot)
            task.future.set_result(evaluation)

    def _free(self, slot: int) -> None:
        with self._lock:
            self._busy.discard(slot)
            retired = self._processes.pop(slot, None) if slot >= self.slots else None
            self._dispatch()
        if retired is not None:
            retired.end()

    def _evaluate(
        self,
        process: WarmProcess,
        message: bytes,
        worker: str,
    ) -> Evaluation:
        began = Began()
        try:
            return _decode_answer(process.ask(message, self.time_limit), worker)
        except StartError as error:
            text = (
                f"no worker process can be started: {error}. Each one runs the program's main "
                "module again: what starts a study there belongs below "
                '`if __name__ == "__main__":`. What the process said itself stands on stderr; no '
                "trial was charged, and the same call goes on (workers=0 needs no process)"
            )
            raise StudyError(text) from error
        except ClosedError:
            failure = Failure("lost", "the workers were closed while it ran")
        except TimeoutError:
            failure = Failure("timed_out", f"ran longer than time_limit={self.time_limit} s")
        except MemoryLimitError:
            reason = f"held more than memory_limit={self.memory_limit} bytes"
            failure = Failure("out_of_memory", reason)
        except EndedError as error:
            failure = Failure("lost", f"its process died without a result: {error}")
        except (ValueError, KeyError, TypeError) as error:  # the objective wrote into our pipe
            process.end()
            failure = Failure("lost", f"its process sent what is no result: {error!r}")

        return began.evaluation(failure, worker)


def _decode_answer(answer: bytes, worker: str) -> Evaluation:
    """Return the evaluation that a worker process has written.

    The answer is JSON: the driver unpickles nothing that an objective may have written.

    Args:
        answer: as the process sends it.
        worker: name of the worker.

    Raises:
        StudyError: the process cannot load the objective.
        ValueError, KeyError, TypeError: it is no answer.
    """
    content: dict[str, Any] = json.loads(answer)
    if "refusal" in content:
        message = f"the objective cannot be loaded in a worker process: {content['refusal']}"
        raise StudyError(message)

    outcome: dict[str, Any] = content["outcome"]
    is_failure = "reason" in outcome
    result = Failure(**outcome) if is_failure else SegmentResult.from_dict(outcome)
    return Evaluation(result, worker, content["started"], content["finished"])


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use, without importing torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        devices = Path("/dev").glob("nvidia[0-9]*")
        return sorted(path.name.removeprefix("nvidia") for path in devices)
    numbers = [part.strip() for part in listed.split(",")]
    return [number for number in numbers if number not in ("", "-1")]
