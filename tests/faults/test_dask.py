"""`kill -9` of Dask workers, of the scheduler and of the driver of a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from hpo_lib.exceptions import StudyError
from hpo_lib.objective import FunctionObjective, Segment
from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.study.workers import base, dask_cluster
from hpo_lib.study.workers.dask_cluster import DaskWorkers
from tests.clusters import ROOT, Cluster, kill
from tests.toys import TOY_SPACE, Learner, bowl, record_of

pytestmark = pytest.mark.slow

N_TRIALS = 6


def study(name: str, workers, **options):
    callback = options.pop("callback", None)
    learner = Learner(f"{Path.cwd()}/{name}.log", **options)
    return run_study(
        learner,
        TOY_SPACE,
        "random",
        N_TRIALS,
        name=name,
        workers=workers,
        rungs=(2,),
        callback=callback,
    )


def values(name: str) -> list[float | None]:
    return [trial.value for trial in open_study(name).trials]


def test_a_trial_goes_on_where_another_dask_worker_is_left():
    study("calm", 0)
    with Cluster(workers=2) as cluster:
        cluster.wait(2)
        # the process kills the Dask worker that started it, in the middle of a segment
        study("killed", cluster.address, kill="driver", kill_at=4)
        ended = [name for name, worker in cluster.workers.items() if worker.poll() is not None]
    assert len(ended) == 1
    assert values("killed") == values("calm")
    assert len(Path("killed.log").read_text().splitlines()) == 2 * N_TRIALS + 1


def test_a_study_survives_its_scheduler():
    study("calm", 0)
    with Cluster(workers=1) as cluster:
        cluster.wait(1)

        def lose_scheduler(running, trial):
            if trial.number == 1:
                kill(cluster.scheduler)

        pool = DaskWorkers(cluster.address, patience=2)
        with pytest.raises(StudyError, match=r"no Dask worker at .* for 2 s; what finished is"):
            study("killed", pool, callback=lose_scheduler)
        pool.close()
        assert values("killed")[:2] == values("calm")[:2]

        cluster.scheduler = cluster.start_scheduler()
        cluster.start_worker("again")

        def replace_scheduler(running, trial):
            if trial.number == 3:
                kill(cluster.scheduler)
                port = int(cluster.address.rpartition(":")[2])
                cluster.scheduler = cluster.start_scheduler(port)
                cluster.start_worker("late")

        study("killed", cluster.address, callback=replace_scheduler)
        workers = {record_of(t).worker for t in open_study("killed").trials}
    assert values("killed") == values("calm")
    assert workers == {"w0", "again", "late"}


PROGRAM = """
import os, sys, time
from pathlib import Path
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE

driver, log = os.getpid(), sys.argv[2]

def hang(configuration):
    Path(log).write_text(str(os.getpid()))
    os.kill(driver, 9)
    time.sleep(600)

run_study(hang, TOY_SPACE, "random", 2, name="gone", workers=sys.argv[1])
"""


def test_no_segment_outlives_its_driver_on_the_cluster():
    with Cluster(workers=1) as cluster:
        cluster.wait(1)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, cluster.address, f"{Path.cwd()}/segment"]
        driver = subprocess.run(command, env=environment, timeout=120, check=False)
        assert driver.returncode == -signal.SIGKILL
        process = int(Path("segment").read_text())
        if psutil.pid_exists(process):
            psutil.Process(process).wait(timeout=60)
        assert cluster.workers["w0"].poll() is None


def test_the_patience_with_a_cluster_counts_no_time_in_which_the_machine_slept(monkeypatch):
    with Cluster(workers=0) as cluster:
        pool = DaskWorkers(cluster.address, patience=50)
        segment = Segment(seed=1, start=0, stop=1, budget=1)
        future = pool.submit(FunctionObjective(bowl), TOY_SPACE.default_configuration(), segment)
        slept = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000, time=time.time)
        for module in (base, dask_cluster):
            monkeypatch.setattr(module, "time", slept, raising=False)
        time.sleep(3)  # the watch over the cluster looks once a second
        assert not future.done()
        cluster.start_worker("late")
        assert future.result(60).worker == "late"
        pool.close()
