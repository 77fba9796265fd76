"""A study that runs beside its caller, in a thread: to pause, to stop and to go on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from hpo_lib.checks import check_name
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import LEASE_SECONDS, Storage, open_storage, sqlite_path
from hpo_lib.study.workers.base import Evaluation, TimedWorkers, Workers
from hpo_lib.study.workers.factory import make_workers
from hpo_lib.study.workers.in_process import InProcess

State = Literal["not started", "running", "paused", "stopping", "stopped", "failed", "finished"]


class _StoppedError(Exception):
    """Leaves the driver's loop; it closes the workers on its way out."""


class _Gate:
    """`TimedWorkers` that hold segments back while paused, and end the loop when it is to stop.

    The driver closes what is handed in only when it is stopped; else `_drive` does. The driver's
    thread alone calls `submit` and `wait`.
    """

    def __init__(self) -> None:
        self.workers: Workers = InProcess()
        self._held: list[tuple[Future[Evaluation], Callable[[], Future[Evaluation]]]] = []
        self._changed: Future[Any] = Future()
        self.paused = self.stopping = False

    @property
    def slots(self) -> int:
        return self.workers.slots

    def set(self, *, paused: bool = False, stopping: bool = False) -> None:
        """Change what is asked for, and wake the driver that may be waiting."""
        self.stopping = self.stopping or stopping
        self.paused = paused
        former, self._changed = self._changed, Future()
        former.set_result(None)

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        if self.stopping:
            raise _StoppedError
        if not self.paused:
            return self.workers.submit(objective, configuration, segment)
        future: Future[Evaluation] = Future()
        work = partial(self.workers.submit, objective, configuration, segment)
        self._held.append((future, work))
        return future

    def wait(self, running: Collection[Future[Evaluation]]) -> set[Future[Evaluation]]:
        """As `wait_for_first`; the lease is renewed between two calls, in a pause too."""
        changed = self._changed
        while self._held and not self.paused and not self.stopping:
            future, work = self._held.pop(0)
            work().add_done_callback(partial(_hand_on, future))
        timeout = 0 if self.stopping else LEASE_SECONDS / 4
        done = wait([*running, changed], timeout, FIRST_COMPLETED).done & set(running)
        if self.stopping and not done:
            raise _StoppedError
        return done

    def close(self) -> None:
        self.workers.close()


def _hand_on(to: Future[Evaluation], done: Future[Evaluation]) -> None:
    error = done.exception()
    if error is None:
        to.set_result(done.result())
    else:
        to.set_exception(error)


_ALIVE: dict[tuple[str, str], BackgroundStudy] = {}
"""Those that run in this process, by storage and name."""


def _key(name: str, storage: Storage | None) -> tuple[str, str]:
    path = sqlite_path(storage)
    if path is not None:
        return str(path.resolve()), name  # however it is linked to
    return str(id(storage) if isinstance(storage, BaseStorage) else storage), name


def background_study(name: str, storage: Storage | None = None) -> BackgroundStudy | None:
    """The one of that name that runs in this process now."""
    check_name(name)
    return _ALIVE.get(_key(name, storage))


class BackgroundStudy:
    """`run_study` in a thread of this process; the trainings are in worker processes.

    Args:
        objective: as all the others, what `run_study` takes.
        space: the search space.
        strategy: a name, or a sampler.
        n_trials: the budget; may be raised before the next `start`.
        name: the study's name.
        storage: with "memory" the study lives as long as this object.
        workers: with 0, trainings run in the thread, and a stop waits for the one that runs.
        time_limit: seconds per segment; in a new process its loading counts, too.
        memory_limit: bytes of resident memory per worker.
        settings: the other arguments of `run_study`.
    """

    def __init__(
        self,
        objective: Objective | Callable[[Configuration], float],
        space: SearchSpace,
        strategy: str | BaseSampler = "bayes",
        n_trials: int = 20,
        *,
        name: str,
        storage: Storage | None = None,
        workers: int | str | Workers = 1,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(workers, TimedWorkers):
            message = f"workers must run by the clock that all have, got {workers!r}"
            raise TypeError(message)
        check_name(name)
        self.name, self.n_trials, self.workers = name, n_trials, workers
        path = sqlite_path(storage)  # whole, because the working directory may change
        named = open_storage(storage) if storage == "memory" else storage
        self.storage = path.absolute() if path else named
        self.error: BaseException | None = None
        self._limits: dict[str, Any] = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._arguments = (objective, space, strategy)
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._gate = _Gate()
        self._state: State = "not started"

    @property
    def state(self) -> State:
        """What it is doing now."""
        if self._state != "running":
            return self._state
        gate = self._gate
        return "stopping" if gate.stopping else "paused" if gate.paused else "running"

    def start(self) -> None:
        """Begin, or go on where the record stands; paused, go on with what was held back.

        Raises:
            StudyError: another `BackgroundStudy` of this process runs the same study.
        """
        if self.state == "stopping" and self._thread is not None:
            self._thread.join()
        if self._state == "running":
            self._gate.set(paused=False)
            return
        if background_study(self.name, self.storage) is not None:
            message = f"study {self.name!r} runs in this process already: stop that first"
            raise StudyError(message)
        _ALIVE[_key(self.name, self.storage)] = self
        self.error, self._gate, self._state = None, _Gate(), "running"
        self._thread = threading.Thread(target=self._run, name=f"study {self.name}", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Let the segments that run end, and hold back the next; workers and lease are kept."""
        self._gate.set(paused=True)

    def stop(self) -> None:
        """End the workers now; trials under way go on from their checkpoints at the next start."""
        self._gate.set(stopping=True)

    def wait(self) -> optuna.Study:
        """Wait for the end of the run and return the study; an error of the run is raised."""
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error
        return optuna.load_study(study_name=self.name, storage=open_storage(self.storage))

    def _run(self) -> None:
        outcome: State = "finished"
        try:
            self._drive()
        except _StoppedError:
            outcome = "stopped"
        except BaseException as error:
            self.error, outcome = error, "failed"
        del _ALIVE[_key(self.name, self.storage)]
        self._state = outcome

    def _drive(self) -> None:
        pool = make_workers(self.workers, **self._limits)
        self._gate.workers = pool
        arguments: dict[str, Any] = {**self._settings, "name": self.name, "storage": self.storage}
        try:
            run_study(*self._arguments, self.n_trials, **arguments, workers=self._gate)
        finally:
            if pool is not self.workers:
                pool.close()
