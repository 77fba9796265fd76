"""A Dask cluster of real processes on the loopback device."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil
from distributed import Client

ROOT = Path(__file__).parents[1]


class Cluster:
    """A scheduler and workers, each ended by `kill -9`."""

    scheduler_host = worker_host = "127.0.0.1"
    protocol = "tcp"

    def __init__(self, workers: int = 0, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hpo_lib_dask_"))
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.scheduler = self.start_scheduler()
        for number in range(workers):
            self.start_worker(f"w{number}")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (*self.workers.values(), self.scheduler):
            kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_scheduler(self, port: int = 0) -> subprocess.Popen[bytes]:
        """Start one and wait until it listens; 0 takes a free port."""
        script = (
            "import asyncio, sys\n"
            "from distributed import Scheduler\n"
            "async def main():\n"
            "    protocol, host, port = sys.argv[1:]\n"
            "    options = dict(protocol=protocol, host=host, port=int(port), dashboard=False)\n"
            "    options['dashboard_address'] = '127.0.0.1:0'  # that runs all the same\n"
            "    async with Scheduler(**options) as scheduler:\n"
            "        print(scheduler.address, flush=True)\n"
            "        await scheduler.finished()\n"
            "asyncio.run(main())\n"
        )
        place = (self.protocol, self.scheduler_host, str(port))
        process = self.start("scheduler", "-c", script, *place)
        assert process.stdout is not None
        self.address = process.stdout.readline().decode().strip()
        return process

    def start_worker(self, name: str) -> None:
        """Start one as a user would."""
        command = ["-m", "dask", "worker", self.address, "--no-nanny"]
        command += ["--nthreads", "1", "--name", name, "--host", self.worker_host]
        command += ["--dashboard-address", "127.0.0.1:0"]
        command += ["--no-dashboard", "--local-directory", str(self.folder)]
        self.workers[name] = self.start(name, *command)

    def start(
        self, name: str, *arguments: str, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Run Python, through another command; what it says on standard error goes to a log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*before, sys.executable, *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait(self, workers: int) -> None:
        """Until so many have joined."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def kill_worker(self, name: str) -> None:
        """End it and its process at once."""
        kill(self.workers.pop(name))


def listening(*pids: int) -> set[str]:
    """The addresses at which these processes and their children wait for others."""
    family = {child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)}
    return {
        one.laddr.ip
        for one in psutil.net_connections("inet")
        if one.pid in family.union(pids) and one.status == psutil.CONN_LISTEN
    }


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
