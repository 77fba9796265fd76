"""Run a study beside its caller, in a thread: to pause, to stop and to go on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage

from hpo_lib.checks import check_name, check_whole
from hpo_lib.exceptions import StudyError
from hpo_lib.loop import as_objective
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, Value
from hpo_lib.study.catalog import check_not_superseded, newest_version, open_study, study_storage
from hpo_lib.study.lease import LEASE_SECONDS
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.versions import change_space
from hpo_lib.study.storage import Storage, read_storage, resolve_storage, storage_file
from hpo_lib.study.workers.base import Evaluation, TimedWorkers, Workers
from hpo_lib.study.workers.factory import check_sendable, make_workers
from hpo_lib.study.workers.local import LocalWorkers
from hpo_lib.trials import StudyRecord, study_name, study_space

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
        self.space = space
        self.n_trials = n_trials
        self.workers = workers
        self.storage = resolve_storage(storage)
        self.error: BaseException | None = None
        self._limits: dict[str, Any] = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._run_study = partial(
            run_study,
            objective,
            strategy=strategy,
            name=name,
            storage=self.storage,
            **{"progress": False, **settings},
        )

        # What a run needs; see `start`.
        self._thread: threading.Thread | None = None
        self._pausable = _PausableWorkers()
        self._state: State = "not started"
        self._version = self._recorded_version()

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

        Where the study has gone on in another space meanwhile, it goes on in that one.

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

        if 0 < self._version < self._recorded_version():
            self.space = study_space(open_study(self.name, self.storage))

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

    def _recorded_version(self) -> int:
        """Return the number of the version that the name stands for; 0 where none is recorded."""
        try:
            study = open_study(self.name, self.storage)
        except StudyError:
            return 0
        return StudyRecord.of(study).version

    def pause(self) -> None:
        """Let the segments that run end, and hold back the next; workers and lease are kept."""
        self._pausable.set_paused(paused=True)

    def stop(self) -> None:
        """End the workers now; trials under way go on from their checkpoints at the next start."""
        self._pausable.stop()

    @contextmanager
    def interrupted(self) -> Generator[None]:
        """Stop for a while; what ran before goes on afterwards, a pause ends in a stop."""
        was_running = self.state == "running"
        self.stop()
        if self._thread is not None:
            self._thread.join()
        try:
            yield
        finally:
            if was_running:
                self.start()

    def resize(self, workers: int | str) -> None:
        """Run on more or fewer local processes from now on, or on a Dask cluster.

        Nothing that trains is ended for it: a segment ends where it runs, and its trial goes on
        elsewhere from its checkpoint. A cluster has to see the folder of the checkpoints then.

        Args:
            workers: local processes that run at once, or the address `tcp://host:port` of the
                scheduler of a Dask cluster; the next `start` has the same.

        Raises:
            ValueError: it is neither.
            StudyError: no scheduler answers at that address.
        """
        if not isinstance(workers, str):
            workers = check_whole("workers", workers, 1)

        running = self._pausable.workers if self._state == "running" else None
        if isinstance(running, LocalWorkers) and isinstance(workers, int):
            running.resize(workers)
        elif running is not None or isinstance(workers, str):
            pool = make_workers(workers, **self._limits)
            if running is not None:
                check_sendable(self._objective(), workers)
                # A cluster answers here, or is refused.
                _ = pool.slots
                self._pausable.replace(pool)
                if self._state != "running":
                    # It ended while the cluster was asked.
                    pool.close()
        self._pausable.wake_driver()
        self.workers = workers

    def _objective(self) -> Objective:
        budget = self._run_study.keywords.get("budget")
        return as_objective(self.objective, budget)

    def change_space(
        self,
        space: SearchSpace,
        *,
        assumed: Mapping[str, Value] | None = None,
    ) -> optuna.Study:
        """Go on in another search space, as the function `change_space` does.

        A study that runs is stopped and goes on in the new space, with trials under way that lie
        inside; one that does not run begins there at the next `start`.

        Args:
            space: the search space to go on in.
            assumed: as in `change_space`.

        Raises:
            StudyError: nothing is recorded yet, or another process writes the study.
        """
        return change_space_of(open_study(self.name, self.storage), space, assumed)

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
        self._version = self._recorded_version()
        del _RUNNING[_key(self.name, self.storage)]
        self._state = state

    def _drive(self, pausable: _PausableWorkers) -> None:
        asked_for = self.workers
        pausable.workers = make_workers(asked_for, **self._limits)
        if isinstance(asked_for, Workers):
            pausable.kept = asked_for
        check_sendable(self._objective(), pausable.workers)

        try:
            self._run_study(
                space=self.space,
                n_trials=self.n_trials,
                workers=pausable,
            )
        finally:
            pausable.close(all_of_them=False)


def background_study(name: str, storage: Storage | None = None) -> BackgroundStudy | None:
    """Return the study of that name that runs in this process now, or None.

    Args:
        name: name of the study.
        storage: as in `run_study`.
    """
    check_name(name)
    return _RUNNING.get(_key(name, storage))


def change_space_of(
    study: optuna.Study,
    space: SearchSpace,
    assumed: Mapping[str, Value] | None = None,
) -> optuna.Study:
    """Do what `change_space` does to an open study, also to one that runs in this process.

    Args:
        study: its last version, from `open_study` or `run_study`.
        space: the search space to go on in.
        assumed: as in `change_space`.

    Raises:
        StudyError: it went on in another version, or another process writes it.
    """
    check_not_superseded(study)
    name = study_name(study)
    storage = study_storage(study)
    running = background_study(name, storage)
    with nullcontext() if running is None else running.interrupted():
        return change_space(name, space, storage=storage, assumed=assumed)


class _StoppedError(Exception):
    """Leaves the driver's loop; it closes the workers on its way out."""


class _PausableWorkers:
    """`TimedWorkers` that hold segments back while paused, and end the loop when it is to stop.

    The driver closes what is handed in only when it is stopped; else `_drive` does. The driver's
    thread alone calls `slots`, `submit` and `wait`.

    Attributes:
        workers: where segments are sent now.
        kept: workers that were handed in, which their owner closes.
    """

    def __init__(self) -> None:
        self.workers = cast("Workers", None)  # until the driver's thread has made them
        self.is_paused = False
        self.is_stopping = False
        self.kept: Workers | None = None
        self._replaced: list[Workers] = []
        self._places: dict[Future[Evaluation], Workers] = {}
        self._held: list[tuple[Future[Evaluation], Callable[[], Future[Evaluation]]]] = []
        self._wake_up: Future[Any] = Future()

    @property
    def slots(self) -> int:
        # What still runs on earlier workers takes no place of the present ones.
        elsewhere = [place for place in self._places_in_use() if place is not self.workers]
        return self.workers.slots + len(elsewhere)

    def _places_in_use(self) -> list[Workers]:
        return [workers for future, workers in self._places.items() if not future.done()]

    def replace(self, workers: Workers) -> None:
        """Send segments elsewhere from now on; those that run end where they are."""
        self._replaced.append(self.workers)
        self.workers = workers

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
        submit = partial(self._submit_now, objective, configuration, segment)

        if not self.is_paused:
            return submit()
        future: Future[Evaluation] = Future()
        self._held.append((future, submit))
        return future

    def _submit_now(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        workers = self.workers
        future = workers.submit(objective, configuration, segment)
        self._places[future] = workers
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
        self._close_replaced()
        return done

    def _close_replaced(self) -> None:
        """Close workers that were replaced and have ended their last segment."""
        for future in list(self._places):
            if future.done():
                del self._places[future]

        in_use = self._places_in_use()
        for workers in self._replaced.copy():
            if workers not in in_use:
                self._replaced.remove(workers)
                if workers is not self.kept:
                    workers.close()

    def close(self, *, all_of_them: bool = True) -> None:
        for workers in (self.workers, *self._replaced):
            if all_of_them or workers is not self.kept:
                workers.close()


def _copy_outcome(target: Future[Evaluation], source: Future[Evaluation]) -> None:
    error = source.exception()
    if error is None:
        target.set_result(source.result())
    else:
        target.set_exception(error)


def _key(name: str, storage: Storage | None) -> tuple[str, str]:
    path = storage_file(storage)
    if path is not None:
        return str(path.resolve()), name  # whatever links lead to it
    if isinstance(storage, RDBStorage) and storage.engine.name != "sqlite":
        return storage.url, name
    return str(id(storage) if isinstance(storage, BaseStorage) else storage), name
