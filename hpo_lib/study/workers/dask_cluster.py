"""Evaluate segments on a running Dask cluster: each Dask worker holds one warm process of ours.

That process is a `LocalWorkers(1)`: limits, crashes and hangs are dealt with there, since Dask
cannot end a running task. Each segment is tied to one Dask worker: when that leaves, the segment
is lost, and the driver decides whether it runs again. Dask itself repeats nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import uuid
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from distributed import Client, Scheduler, Security, Worker, get_worker
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from hpo_lib.checks import check_positive
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.values import Configuration
from hpo_lib.study.workers.base import Began, Evaluation, Failure, UsableTime, describe_exception
from hpo_lib.study.workers.local import LocalWorkers
from hpo_lib.study.workers.pickling import dump_objective

_POLL_SECONDS = 1.0


@dataclass
class _Task:
    future: Future[Evaluation]
    configuration: Configuration
    segment: Segment
    began: Began
    dask_future: Any = None


class DaskWorkers:
    """As many slots as the cluster has workers; those that join or leave are noticed.

    Args:
        cluster: the scheduler's address (`tcp://host:port`, `tls://host:port`), or a client of it,
            whose address and security are used.
        security: TLS certificates and keys; by default those of Dask's configuration.
        time_limit: seconds that one segment may take before its process is killed.
        memory_limit: bytes of resident memory that one process may hold.
        patience: seconds to wait for a scheduler or worker when there is none. Then the study
            stops with a `StudyError`, and the same call goes on with it.

    Raises:
        ValueError: the address, the security or a limit is not as it must be.
    """

    def __init__(
        self,
        cluster: str | Client,
        *,
        security: Security | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        patience: float = 60.0,
    ) -> None:
        check_positive(time_limit=time_limit, memory_limit=memory_limit, patience=patience)
        if isinstance(cluster, Client):
            security = security or cluster.security
            cluster = str(cluster.scheduler_info(0)["address"])
        if "://" not in cluster:
            message = f"workers must be a number or an address as tcp://host:port, got {cluster!r}"
            raise ValueError(message)
        _check_security(cluster, security or Security())

        # Settings, then what there is while this is connected.
        self.address = cluster
        self.patience = patience
        self._security = security
        self._limits = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._client: Client | None = None
        self._objective: Objective | None = None
        self._plugin: _SegmentWorkerPlugin | None = None
        self._is_registered = False
        self._dask_workers: set[str] = set()
        self._running: dict[str, _Task] = {}
        self._queue: deque[_Task] = deque()
        self._lock = threading.RLock()
        self._closing = threading.Event()

    @property
    def slots(self) -> int:
        """Return the number of Dask workers now; 1 while the first is waited for."""
        self._connect()
        return max(1, len(self._dask_workers))

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Send one segment to a free Dask worker, or to the next that is.

        Args:
            objective: sent once to each Dask worker; another one ends the processes.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.

        Raises:
            StudyError: no scheduler answers within `patience` seconds.
            TypeError: the objective cannot be sent to another process.
        """
        if self._objective is not None and objective is not self._objective:
            self.close()

        client = self._connect()
        task = _Task(Future(), configuration, _with_absolute_paths(segment), Began())
        with self._lock:
            if self._plugin is None:
                self._objective = objective
                name = f"hpo_lib-{uuid.uuid4().hex}"
                self._plugin = _SegmentWorkerPlugin(name, dump_objective(objective), self._limits)
                self._register(client)
            self._queue.append(task)
            self._dispatch()

        return task.future

    def close(self) -> None:
        """Leave the cluster, where every process of ours ends; running segments are lost."""
        if self._client is None:
            return

        # Nothing looks at the cluster any more.
        self._closing.set()
        self._watcher.join()

        with self._lock:
            client = self._client
            unfinished = [*self._running.values(), *self._queue]
            self._running.clear()
            self._queue.clear()
            self._client = self._objective = self._plugin = None

        client.close()
        for task in unfinished:
            self._settle(task, Failure("lost", "the workers were closed while it ran"))

    def _connect(self) -> Client:
        if self._client is not None:
            return self._client
        try:
            self._client = Client(
                self.address,
                security=self._security,
                timeout=self.patience,
                set_as_default=False,
                name="hpo_lib",
            )
        except OSError as error:
            message = f"no Dask scheduler at {self.address} within {self.patience:g} s: {error}"
            raise StudyError(message) from error

        # From now on a thread watches the cluster.
        self._dask_workers = _list_workers(self._client)
        self._absence = UsableTime()
        self._closing.clear()
        self._watcher = threading.Thread(target=self._watch, args=(self._client,), daemon=True)
        self._watcher.start()
        return self._client

    def _register(self, client: Client) -> None:
        """Give every present and future Dask worker its process, until this client is gone."""
        if self._plugin is not None:
            client.register_plugin(self._plugin, self._plugin.name)
            client.register_plugin(_CleanupPlugin(client.id, self._plugin.name))
            self._is_registered = True

    def _watch(self, client: Client) -> None:
        """Look once a second which Dask workers have joined or left."""
        while not self._closing.wait(_POLL_SECONDS):
            present: set[str] = set()
            try:
                if client.status == "running":
                    present = _list_workers(client)
                if present and not self._is_registered:
                    self._register(client)
            except OSError:  # the scheduler cannot be reached: the client tries again by itself
                present = set()
            self._update(present)

    def _update(self, present: set[str]) -> None:
        """Go on with the Dask workers that are present, without those that have left."""
        stranded: list[_Task] = []
        with self._lock:
            self._dask_workers = present
            left = self._running.keys() - present
            lost = {worker: self._running.pop(worker) for worker in left}

            # Without any Dask worker, tasks wait for one, but not for ever.
            if present:
                self._absence = UsableTime()
            else:
                self._is_registered = False
                if self._absence.look() > self.patience:
                    stranded = [*self._queue, *lost.values()]
                    self._queue.clear()
            self._dispatch()

        message = (
            f"no Dask worker at {self.address} for {self.patience:g} s; "
            "what finished is recorded, and the same call goes on with the study"
        )
        for task in stranded:
            task.future.set_exception(StudyError(message))
        for worker, task in lost.items():
            task.dask_future.cancel()
            self._settle(task, Failure("lost", f"Dask worker {worker} left the cluster"))

    def _dispatch(self) -> None:
        """Send queued tasks to free Dask workers; called with the lock held."""
        if self._client is None or self._plugin is None or not self._is_registered:
            return
        free = self._dask_workers - self._running.keys()
        while self._queue and free:
            worker = free.pop()
            task = self._queue.popleft()
            task.dask_future = self._client.submit(
                _evaluate_on_worker,
                self._plugin.name,
                task.configuration,
                task.segment,
                workers=[worker],
                pure=False,
            )
            self._running[worker] = task
            task.dask_future.add_done_callback(partial(self._finish, worker, task))

    def _finish(
        self,
        worker: str,
        task: _Task,
        dask_future: Any,
    ) -> None:
        """Take a result from Dask; called by Dask in a thread of its own."""
        if task.future.done():
            return

        outcome: Evaluation | Failure
        try:
            outcome = dask_future.result()
        except StudyError as error:
            task.future.set_exception(error)
            return
        except Exception as error:
            outcome = replace(describe_exception(error), status="lost")

        with self._lock:
            if self._running.get(worker) is task:
                del self._running[worker]
            if isinstance(outcome, Failure):  # send nothing before the next look at the cluster
                self._dask_workers.clear()
                self._is_registered = False
            self._dispatch()

        self._settle(task, outcome)

    def _settle(self, task: _Task, outcome: Evaluation | Failure) -> None:
        if isinstance(outcome, Failure):
            outcome = task.began.evaluation(outcome, "unknown")
        with self._lock:
            if not task.future.done():
                task.future.set_result(outcome)


class _SegmentWorkerPlugin(WorkerPlugin):
    """One warm process beside a Dask worker; it carries the objective there, once."""

    idempotent = True  # a second registration must not end what runs

    def __init__(
        self,
        name: str,
        payload: bytes,
        limits: dict[str, Any],
    ) -> None:
        self.name = name
        self.payload = payload
        self.limits = limits
        self.refusal = ""

    def setup(self, worker: Worker) -> None:
        """Make the process's pool; called by Dask on each worker that is there or joins."""
        self.label = str(worker.name)
        self.pool = LocalWorkers(1, **self.limits)
        if multiprocessing.current_process().daemon:
            self.refusal = (  # raised here, it would end whoever registers this
                f"Dask worker {worker.name} may not start a process: start it with --no-nanny, or "
                "with the setting distributed.worker.daemon: False"
            )

    def teardown(self, worker: Worker) -> None:
        """End the process; called by Dask when the worker closes or the driver is gone."""
        self.pool.close()

    def evaluate(self, configuration: Configuration, segment: Segment) -> Evaluation:
        """Run one segment in the process.

        Args:
            configuration: active hyperparameters of the trial.
            segment: epochs to train, with absolute paths.

        Raises:
            StudyError: this Dask worker may not start processes, or none can be started.
        """
        if self.refusal:
            raise StudyError(self.refusal)

        # Files must be where the Dask worker can see them.
        began = Began()
        paths = [path for path in (segment.checkpoint, segment.folder) if path is not None]
        missing = [path for path in paths if not Path(path).exists()]
        is_whole_trial = (segment.start, segment.stop) == (0, segment.budget)
        if missing and is_whole_trial:
            segment = replace(segment, folder=None)  # it leaves nothing behind to go on from
        elif missing:
            reason = (
                f"{missing[0]} does not exist where Dask worker {self.label} runs: trials with "
                "rungs need the study's folder on a file system that driver and workers share"
            )
            return began.evaluation(Failure("failed", reason), self.label)

        future = self.pool.submit_payload(self.payload, configuration, segment)
        return replace(future.result(), worker=self.label)


class _CleanupPlugin(SchedulerPlugin):
    """Ends our processes when the driver's client leaves, also when the driver was killed."""

    idempotent = True

    def __init__(self, client: str, worker_plugin: str) -> None:
        self.client = client
        self.worker_plugin = worker_plugin
        self.name = f"{worker_plugin}-cleanup"

    async def start(self, scheduler: Scheduler) -> None:
        """Keep the scheduler; called by Dask at the registration."""
        self.scheduler = scheduler

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Unregister both plugins; called by Dask when any client is gone.

        Args:
            scheduler: of the cluster.
            client: identity of the client that is gone.
        """
        if client == self.client:
            scheduler.remove_plugin(self.name)
            scheduler.loop.add_callback(
                scheduler.unregister_worker_plugin, comm=None, name=self.worker_plugin
            )


def _evaluate_on_worker(
    name: str,
    configuration: Configuration,
    segment: Segment,
) -> Evaluation:
    plugin = cast(_SegmentWorkerPlugin, get_worker().plugins[name])
    return plugin.evaluate(configuration, segment)


def _check_security(address: str, security: Security) -> None:
    try:
        context = security.get_connection_args("client").get("ssl_context")
    except OSError as error:
        message = f"security must name certificates and keys that can be read: {error}"
        raise ValueError(message) from error

    is_encrypted = address.startswith("tls://")
    has_certificates = context is not None
    if is_encrypted and not has_certificates:
        missing = "certificates and key"
    elif has_certificates and not is_encrypted and security.require_encryption:
        missing = "an address as tls://host:port"
    else:
        return

    message = f"security needs {missing} for an encrypted cluster, got {address} and {security}"
    raise ValueError(message)


def _list_workers(client: Client) -> set[str]:
    return set(cast("dict[str, int]", client.ncores()))


def _with_absolute_paths(segment: Segment) -> Segment:
    """Return a segment that means the same in a worker's working directory."""

    def absolute(path: str | None) -> str | None:
        # links must stay as they are, which Path.resolve would follow
        return None if path is None else os.path.abspath(path)  # noqa: PTH100

    return replace(
        segment, checkpoint=absolute(segment.checkpoint), folder=absolute(segment.folder)
    )
