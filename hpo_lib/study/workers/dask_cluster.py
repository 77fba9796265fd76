"""Segments on a running Dask cluster: every Dask worker holds one warm process of ours.

That process is a `LocalWorkers(1)`: limits, crashes and hangs are dealt with there, since Dask
cannot end a running task. Each segment is tied to one Dask worker: when that leaves, the segment
is lost, and the driver decides whether it runs again. Dask itself repeats nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
import uuid
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import cloudpickle

from hpo_lib.checks import check_positive
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import Objective, Segment
from hpo_lib.space.values import Configuration
from hpo_lib.study.workers.local import Evaluation, Failure, LocalWorkers

try:
    from distributed import Client, Scheduler, Security, Worker, get_worker
    from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
except ModuleNotFoundError as error:
    _message = "a Dask cluster as workers needs distributed: pip install 'hpo-lib[cluster]'"
    raise ModuleNotFoundError(_message) from error

_LOOK_SECONDS = 1.0


@dataclass
class _Task:
    future: Future[Evaluation]
    configuration: Configuration
    segment: Segment
    submitted: float
    job: Any = None


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
        self.address = cluster
        self.patience = patience
        self._security = security
        self._limits = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._client: Client | None = None
        self._objective: Objective | None = None
        self._station: _Station | None = None
        self._registered = False
        self._known: set[str] = set()
        self._busy: dict[str, _Task] = {}
        self._queue: deque[_Task] = deque()
        self._lock = threading.RLock()
        self._stop = threading.Event()

    @property
    def slots(self) -> int:
        """The number of Dask workers now; 1 while there is none and the first is waited for."""
        self._connect()
        return max(1, len(self._known))

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Send one segment to a free Dask worker, or to the next that is."""
        if self._objective is not None and objective is not self._objective:
            self.close()
        client = self._connect()
        task = _Task(Future(), configuration, _with_absolute_paths(segment), time.time())
        with self._lock:
            if self._station is None:
                self._objective = objective
                payload = cloudpickle.dumps(objective)
                self._station = _Station(f"hpo_lib-{uuid.uuid4().hex}", payload, self._limits)
                self._register(client)
            self._queue.append(task)
            self._dispatch()
        return task.future

    def close(self) -> None:
        """Leave the cluster, where every process of ours ends; running segments are lost."""
        if self._client is None:
            return
        self._stop.set()
        self._watcher.join()
        with self._lock:
            client, self._client = self._client, None
            left = [*self._busy.values(), *self._queue]
            self._busy.clear()
            self._queue.clear()
            self._objective = self._station = None
        client.close()
        for task in left:
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
        self._known = _workers(self._client)
        self._seen = time.monotonic()
        self._stop.clear()
        self._watcher = threading.Thread(target=self._watch, args=(self._client,), daemon=True)
        self._watcher.start()
        return self._client

    def _register(self, client: Client) -> None:
        """Give every present and future Dask worker its process, until this client is gone."""
        if self._station is None:
            return
        client.register_plugin(self._station, self._station.name)
        client.register_plugin(_Departure(client.id, self._station.name))
        self._registered = True

    def _watch(self, client: Client) -> None:
        """Once a second: who is there, who left, and is there anybody."""
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                known = _workers(client) if client.status == "running" else set[str]()
                if known and not self._registered:
                    self._register(client)
            except OSError:  # the scheduler cannot be reached: the client tries again by itself
                known = set[str]()
            self._update(known)

    def _update(self, known: set[str]) -> None:
        stranded: list[_Task] = []
        with self._lock:
            self._known = known
            gone = {worker: task for worker, task in self._busy.items() if worker not in known}
            for worker in gone:
                del self._busy[worker]
            if known:
                self._seen = time.monotonic()
            else:
                self._registered = False
                if time.monotonic() - self._seen > self.patience:
                    stranded = [*self._queue, *gone.values()]
                    self._queue.clear()
            self._dispatch()
        message = (
            f"no Dask worker at {self.address} for {self.patience:g} s; "
            "what finished is recorded, and the same call goes on with the study"
        )
        for task in stranded:
            task.future.set_exception(StudyError(message))
        for worker, task in gone.items():
            task.job.cancel()
            self._settle(task, Failure("lost", f"Dask worker {worker} left the cluster"))

    def _dispatch(self) -> None:
        free = [worker for worker in self._known if worker not in self._busy]
        while self._queue and free and self._registered and self._client and self._station:
            worker, task = free.pop(), self._queue.popleft()
            task.job = self._client.submit(
                _evaluate_at_station,
                self._station.name,
                task.configuration,
                task.segment,
                workers=[worker],
                pure=False,
            )
            self._busy[worker] = task
            task.job.add_done_callback(partial(self._finish, worker, task))

    def _finish(self, worker: str, task: _Task, job: Any) -> None:
        if task.future.done():
            return
        outcome: Evaluation | Failure
        try:
            outcome = job.result()
        except StudyError as error:
            task.future.set_exception(error)
            return
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            outcome = Failure("lost", f"{type(error).__name__}: {error}", text)
        with self._lock:
            if self._busy.get(worker) is task:
                del self._busy[worker]
            if isinstance(outcome, Failure):  # nothing more before the next look at the cluster
                self._known.clear()
                self._registered = False
            self._dispatch()
        self._settle(task, outcome)

    def _settle(self, task: _Task, outcome: Evaluation | Failure) -> None:
        if isinstance(outcome, Failure):
            outcome = Evaluation(outcome, "unknown", task.submitted, time.time())
        with self._lock:
            if not task.future.done():
                task.future.set_result(outcome)


def _check_security(address: str, security: Security) -> None:
    try:
        context = security.get_connection_args("client").get("ssl_context")
    except OSError as error:
        message = f"security must name certificates and keys that can be read: {error}"
        raise ValueError(message) from error
    encrypted = address.startswith("tls://")
    if encrypted != (context is not None) and (encrypted or security.require_encryption):
        what = "certificates and key" if encrypted else "an address as tls://host:port"
        message = f"security needs {what} for an encrypted cluster, got {address} and {security}"
        raise ValueError(message)


def _workers(client: Client) -> set[str]:
    return set(cast("dict[str, int]", client.ncores()))


def _with_absolute_paths(segment: Segment) -> Segment:
    """A worker's working directory is another one."""
    checkpoint, folder = (
        None if path is None else os.path.abspath(path)  # noqa: PTH100 links must stay as they are
        for path in (segment.checkpoint, segment.folder)
    )
    return replace(segment, checkpoint=checkpoint, folder=folder)


class _Station(WorkerPlugin):
    """One warm process beside a Dask worker; it carries the objective there, once."""

    idempotent = True  # a second registration must not end what runs

    def __init__(self, name: str, payload: bytes, limits: dict[str, Any]) -> None:
        self.name = name
        self.payload = payload
        self.limits = limits
        self.refusal = ""

    def setup(self, worker: Worker) -> None:
        """Called by Dask on each worker that is there or joins."""
        if multiprocessing.current_process().daemon:
            self.refusal = (  # raised here, it would end whoever registers this
                f"Dask worker {worker.name} may not start a process: start it with --no-nanny, or "
                "with the setting distributed.worker.daemon: False"
            )
            return
        self.label = str(worker.name)
        self.pool = LocalWorkers(1, **self.limits)

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker closes or the driver is gone."""
        if hasattr(self, "pool"):
            self.pool.close()

    def evaluate(self, configuration: Configuration, segment: Segment) -> Evaluation:
        """Run one segment in the process."""
        if self.refusal:
            raise StudyError(self.refusal)
        began = time.time()
        missing = [p for p in (segment.checkpoint, segment.folder) if p and not Path(p).exists()]
        if missing and (segment.start, segment.stop) == (0, segment.budget):
            segment = replace(segment, folder=None)  # it leaves nothing behind to go on from
        elif missing:
            reason = (
                f"{missing[0]} does not exist where Dask worker {self.label} runs: trials with "
                "rungs need the study's folder on a file system that driver and workers share"
            )
            return Evaluation(Failure("failed", reason), self.label, began, time.time())
        future = self.pool.submit_payload(self.payload, configuration, segment)
        return replace(future.result(), worker=self.label)


class _Departure(SchedulerPlugin):
    """Ends our processes when the driver's client leaves, be it killed."""

    idempotent = True

    def __init__(self, client: str, station: str) -> None:
        self.client = client
        self.station = station
        self.name = f"{station}-departure"

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask at the registration."""
        self.scheduler = scheduler

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Called by Dask when any client is gone."""
        if client == self.client:
            scheduler.remove_plugin(self.name)
            scheduler.loop.add_callback(
                scheduler.unregister_worker_plugin, comm=None, name=self.station
            )


def _evaluate_at_station(name: str, configuration: Configuration, segment: Segment) -> Evaluation:
    station = cast(_Station, get_worker().plugins[name])
    return station.evaluate(configuration, segment)
