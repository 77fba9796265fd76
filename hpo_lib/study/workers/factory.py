"""Make workers from what a user writes: a number, an address or an object."""

from __future__ import annotations

from hpo_lib.checks import check_whole, naming_extras
from hpo_lib.objective import Objective
from hpo_lib.study.workers.base import InProcess, Workers
from hpo_lib.study.workers.local import LocalWorkers
from hpo_lib.study.workers.pickling import dump_objective


def make_workers(
    workers: int | str | Workers,
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Workers:
    """Return workers for a number or an address; an object that was handed in as it is.

    Args:
        workers: 0 for this process, N for N local processes, `tcp://host:port` for the scheduler
            of a running Dask cluster; or a `Workers` object.
        time_limit: seconds that one segment may take; needs worker processes.
        memory_limit: bytes of resident memory per process; needs worker processes.

    Raises:
        ValueError: a limit cannot be applied to these workers, or a number is out of range.
        TypeError: `workers` is none of these.
        MissingExtraError: the extra `cluster` is not installed.
    """
    has_limits = time_limit is not None or memory_limit is not None

    if isinstance(workers, str):
        with naming_extras("a Dask cluster as workers"):
            from hpo_lib.study.workers.dask_cluster import DaskWorkers

        return DaskWorkers(workers, time_limit=time_limit, memory_limit=memory_limit)

    if isinstance(workers, Workers):
        if has_limits:
            message = "time_limit and memory_limit belong to the workers object that was handed in"
            raise ValueError(message)
        return workers

    n_workers = check_whole("workers", workers, 0)
    if n_workers > 0:
        return LocalWorkers(n_workers, time_limit=time_limit, memory_limit=memory_limit)
    if has_limits:
        message = "time_limit and memory_limit need worker processes: workers >= 1, got 0"
        raise ValueError(message)
    return InProcess()


def check_sendable(objective: Objective, workers: int | str | Workers) -> None:
    """Refuse an objective that cannot be sent to the processes of workers.

    Args:
        objective: what they will be given.
        workers: as for `make_workers`.

    Raises:
        TypeError: part of it exists in this process alone; the message names it.
    """
    if isinstance(workers, int | str | LocalWorkers) and workers != 0:
        dump_objective(objective)
