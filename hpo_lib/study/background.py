"""Run a study beside its caller, in a thread: to pause, to stop and to go on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from hpo_lib.checks import check_name, check_whole
from hpo_lib.exceptions import StudyError
from hpo_lib.loop import as_objective
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import newest_version
from hpo_lib.study.lease import LEASE_SECONDS
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import Storage, read_storage, resolve_storage, sqlite_path
from hpo_lib.study.workers.base import Evaluation, TimedWorkers, Workers
from hpo_lib.study.workers.factory import check_sendable, make_workers
from hpo_lib.study.workers.local import LocalWorkers

State = Literal["not started", "running", "paused", "stopping", "stopped", "failed", "finished"]

_RUNNING: dict[tuple[str, str], BackgroundStudy] = {}
"""Studies that run in this process, by storage and name."""


class BackgroundStudy:
    """`run_study` in a thread of this process; the trainings are in worker processes.

    Args:
        objective: as in `run_study`.
        space: the search space.
        strategy: a name, or a sampler.
        n_trials: the budget; may be raised before the next `start`.
        name: the study's name.
        storage: as in `run_study`; with "memory" the study lives as long as this object.
        workers: as in `run_study`; with 0, trainings run in the thread, and a stop waits for the
            one that runs.
        time_limit: seconds per segment; in a new process its loading counts, too.
        memory_limit: bytes of resident memory per worker.
        settings: the other arguments of `run_study`; no bar is shown unless `progress` is True.

    Raises:
        TypeError: the workers have a clock of their own.
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

        self.name = check_name(name)
        self.n_trials = n_trials
        self.workers = workers
        self.storage = resolve_storage(storage)
        self.error: BaseException | None = None
        self._limits: dict[str, Any] = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._run_study = partial(
            run_study,
            objective,
            space,
            strategy,
            name=name,
            storage=self.storage,
            **{"progress": False, **settings},
        )

        # What a run needs; see `start`.
        self._thread: threading.Thread | None = None
        self._pausable = _PausableWorkers()
        self._state: State = "not started"

    @property
    def objective(self) -> Objective | Callable[[Configuration], float]:
        """Return what is minimised."""
        return self._run_study.args[0]

    @property
    def state(self) -> State:
        """Return what the study is doing now."""
        if self._state != "running":
            return self._state
        if self._pausable.is_stopping:
            return "stopping"
        return "paused" if self._pausable.is_paused else "running"

    def start(self) -> None:
        """Begin, or go on where the record stands; paused, go on with what was held back.

        Raises:
            StudyError: another `BackgroundStudy` of this process runs the same study.
        """
        # A run that is stopping ends first.
        if self.state == "stopping" and self._thread is not None:
            self._thread.join()

        # Paused: hand out what was held back.
        if self._state == "running":
            self._pausable.set_paused(paused=False)
            return

        if background_study(self.name, self.storage) is not None:
            message = f"study {self.name!r} runs in this process already: stop that first"
            raise StudyError(message)

        _RUNNING[_key(self.name, self.storage)] = self
        self.error = None
        self._pausable = _PausableWorkers()
        self._state = "running"
        self._thread = threading.Thread(
            target=self._run,
            args=(self._pausable,),
            name=f"study {self.name}",
            daemon=True,
        )
        self._thread.start()

    def pause(self) -> None:
        """Let the segments that run end, and hold back the next; workers and lease are kept."""
        self._pausable.set_paused(paused=True)

    def stop(self) -> None:
        """End the workers now; trials under way go on from their checkpoints at the next start."""
        self._pausable.stop()

    def resize(self, workers: int) -> None:
        """Run on more or fewer local processes from now on; none that trains is ended for it.

        Args:
            workers: processes that run at once; the next `start` has as many.

        Raises:
            StudyError: the study runs on other workers than local processes.
        """
        workers = check_whole("workers", workers, 1)
        running = vars(self._pausable).get("workers") if self._state == "running" else None
        if isinstance(running, LocalWorkers):
            running.resize(workers)
            self._pausable.wake_driver()
        elif running is not None:
            message = f"only local processes can become more or fewer, got {running!r}"
            raise StudyError(message)
        self.workers = workers

    def wait(self) -> optuna.Study:
        """Wait for the end of the run and return the study; an error of the run is raised."""
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error
        return newest_version(self.name, read_storage(self.storage))

    def _run(self, pausable: _PausableWorkers) -> None:
        state: State = "finished"
        try:
            self._drive(pausable)
        except _StoppedError:
            state = "stopped"
        except BaseException as error:
            self.error = error
            state = "failed"

        # Others may start the study from here on.
        del _RUNNING[_key(self.name, self.storage)]
        self._state = state

    def _drive(self, pausable: _PausableWorkers) -> None:
        asked_for = self.workers
        workers = make_workers(asked_for, **self._limits)
        pausable.workers = workers
        objective = as_objective(self._run_study.args[0], self._run_study.keywords.get("budget"))
        check_sendable(objective, workers)

        try:
            self._run_study(n_trials=self.n_trials, workers=pausable)
        finally:
            if workers is not asked_for:
                workers.close()


def background_study(name: str, storage: Storage | None = None) -> BackgroundStudy | None:
    """Return the study of that name that runs in this process now, or None.

    Args:
        name: name of the study.
        storage: as in `run_study`.
    """
    check_name(name)
    return _RUNNING.get(_key(name, storage))


class _StoppedError(Exception):
    """Leaves the driver's loop; it closes the workers on its way out."""


class _PausableWorkers:
    """`TimedWorkers` that hold segments back while paused, and end the loop when it is to stop.

    The driver closes what is handed in only when it is stopped; else `_drive` does. The driver's
    thread alone calls `submit` and `wait`.
    """

    workers: Workers

    def __init__(self) -> None:
        self.is_paused = False
        self.is_stopping = False
        self._held: list[tuple[Future[Evaluation], Callable[[], Future[Evaluation]]]] = []
        self._wake_up: Future[Any] = Future()

    @property
    def slots(self) -> int:
        return self.workers.slots

    def set_paused(self, *, paused: bool) -> None:
        self.is_paused = paused
        self.wake_driver()

    def stop(self) -> None:
        self.is_stopping = True
        self.set_paused(paused=False)

    def wake_driver(self) -> None:
        """End the wait of the driver, which looks at what has changed."""
        waited_for = self._wake_up
        self._wake_up = Future()
        waited_for.set_result(None)

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        if self.is_stopping:
            raise _StoppedError

        # Paused, a segment is held back, and its future stands for it.
        submit = partial(self.workers.submit, objective, configuration, segment)

        if not self.is_paused:
            return submit()
        future: Future[Evaluation] = Future()
        self._held.append((future, submit))
        return future

    def wait(self, running: Collection[Future[Evaluation]]) -> set[Future[Evaluation]]:
        """Wait as `wait_for_first`; the lease is renewed between two calls, in a pause too."""
        wake_up = self._wake_up
        while self._held and not self.is_paused and not self.is_stopping:
            future, submit = self._held.pop(0)
            submit().add_done_callback(partial(_copy_outcome, future))

        # `wake_driver` ends this wait.
        timeout = 0 if self.is_stopping else LEASE_SECONDS / 4
        done = wait([*running, wake_up], timeout, FIRST_COMPLETED).done & set(running)
        if self.is_stopping and not done:
            raise _StoppedError
        return done

    def close(self) -> None:
        self.workers.close()


def _copy_outcome(target: Future[Evaluation], source: Future[Evaluation]) -> None:
    error = source.exception()
    if error is None:
        target.set_result(source.result())
    else:
        target.set_exception(error)


def _key(name: str, storage: Storage | None) -> tuple[str, str]:
    path = sqlite_path(storage)
    if path is not None:
        return str(path.resolve()), name  # whatever links lead to it
    return str(id(storage) if isinstance(storage, BaseStorage) else storage), name
