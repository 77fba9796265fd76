"""Two hosts, played by two network namespaces, and the link between them cut for a while.

Scheduler and driver are on one, the Dask workers on the other. Nothing leaves the namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from tests.clusters import Cluster, kill
from tests.toys import TOY_SPACE, Learner, record_of

pytestmark = pytest.mark.slow

N_TRIALS = 6
HEAD, NODE = (f"hpo-{name}-{os.getpid()}" for name in ("head", "node"))

DRIVER = """
import sys
import time
from pathlib import Path
from hpo_lib.study.workers.dask_cluster import DaskWorkers
from hpo_lib.study.run import run_study
from tests.faults.test_two_hosts import N_TRIALS, Held
from tests.toys import TOY_SPACE

workers = DaskWorkers(sys.argv[1], patience=120)
while workers.slots < 2:
    time.sleep(0.1)
held = Held(f"{Path.cwd()}/cut.log")
run_study(held, TOY_SPACE, "random", N_TRIALS, name="cut", workers=workers, rungs=(2,))
"""


class Held(Learner):
    """From the fifth segment on, a second one of some trial, one waits until it is let go on.

    None is trained before both workers have one: a slow one would find nothing left.
    """

    def __call__(self, configuration, segment):
        folder = Path(self.log).parent
        (folder / f"process {os.getpid()}").touch()
        wait_for(lambda: len([*folder.glob("process *")]) > 1)
        result = super().__call__(configuration, segment)
        if len(Path(self.log).read_text().splitlines()) >= 5:
            with suppress(FileExistsError):  # another one waits, or has waited
                (folder / "held").touch(exist_ok=False)
                wait_for((folder / "go on").exists)
        return result


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def ip(*arguments: str, check: bool = True) -> str:
    """Run `ip`; what it complains of."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stderr


class TwoHosts(Cluster):
    """Scheduler and driver on the head, workers on the node."""

    scheduler_host, worker_host = "10.99.99.1", "10.99.99.2"

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        host = HEAD if name in ("scheduler", "driver") else NODE
        return super().start(name, *arguments, before=("ip", "netns", "exec", host))

    def cut(self) -> None:
        ip("-n", NODE, "link", "set", "eth", "down")

    def restore(self) -> None:
        ip("-n", NODE, "link", "set", "eth", "up")


@pytest.fixture
def _namespaces() -> Iterator[None]:
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (iproute2)")
    try:
        for host in (HEAD, NODE):
            complaint = ip("netns", "add", host, check=False)
            if complaint:
                pytest.skip(f"network namespaces are not allowed here: {complaint.strip()}")
        pair = ["type", "veth", "peer", "name", "eth", "netns", NODE]
        ip("-n", HEAD, "link", "add", "eth", *pair)
        for host, address in ((HEAD, TwoHosts.scheduler_host), (NODE, TwoHosts.worker_host)):
            ip("-n", host, "address", "add", f"{address}/24", "dev", "eth")
            for device in ("lo", "eth"):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in (HEAD, NODE):
            ip("netns", "delete", host, check=False)


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("outage", ["short", "long"])
def test_a_study_survives_a_cut_between_two_hosts(outage):
    options = {"name": "calm", "workers": 0, "rungs": (2,)}
    calm = run_study(Learner("calm.log"), TOY_SPACE, "random", N_TRIALS, **options)
    # a cut that is longer than this breaks the connections
    limits = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "60s" if outage == "short" else "12s"}
    with TwoHosts(workers=2, **limits) as cluster:
        driver = cluster.start("driver", "-c", DRIVER, cluster.address)
        try:
            wait_for(Path("held").exists)
            cluster.cut()
            if outage == "short":
                time.sleep(2)  # a while, in which nobody notices
            for name in ("w0", "w1") if outage == "long" else ():
                cluster.workers[name].wait(timeout=120)
                cluster.start_worker(f"{name} again")  # as a service manager would
            cluster.restore()
            Path("go on").touch()
            assert driver.wait(timeout=240) == 0, (cluster.folder / "driver.log").read_text()
        finally:
            kill(driver)
    cut = open_study("cut")
    assert [t.value for t in cut.trials] == [t.value for t in calm.trials]
    assert {record_of(t).status for t in cut.trials} == {"completed"}
    workers = {record_of(t).worker for t in cut.trials}
    lost = len(Path("cut.log").read_text().splitlines()) - 2 * N_TRIALS
    if outage == "short":
        assert workers <= {"w0", "w1"}  # on a busy machine one may do it all
        assert lost == 0
    else:
        assert any(name.endswith("again") for name in workers)
        assert 1 <= lost <= 2
