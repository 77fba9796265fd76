from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import optuna
import psutil
import pytest

from hpo_lib.comparison.run import compare, replay
from hpo_lib.loop import as_objective
from hpo_lib.study.catalog import list_studies
from hpo_lib.study.lease import LEASE_SECONDS, Lease, lease_holder
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import read_lease, write_lease
from tests.toys import TOY_SPACE, bowl, record_of


def test_many_threads_may_create_one_file():
    together = Barrier(6)

    def create(_):
        together.wait()
        return open_storage("new.db").get_all_studies()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(create, range(6))) == [[]] * 6


def test_opening_waits_for_a_process_that_has_locked_the_new_file():
    with sqlite3.connect("new.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            opened = thread.submit(open_storage, "new.db")
            other.execute("COMMIT")
            assert opened.result().get_all_studies() == []


@pytest.mark.slow
def test_one_storage_serves_studies_that_run_side_by_side():
    frame = compare(
        bowl, TOY_SPACE, ["random", "sobol"], [0, 1], 8, storage=open_storage("s.db"), workers=3
    )
    alone = replay(as_objective(bowl), TOY_SPACE, ["random", "sobol"], [0, 1], 8)
    assert frame.value.tolist() == alone.value.tolist()
    for name in optuna.get_all_study_names("sqlite:///s.db"):
        trials = optuna.load_study(study_name=name, storage="sqlite:///s.db").trials
        assert all(set(trial.params) <= set(record_of(trial).configuration) for trial in trials)
        assert all("optimizer" in trial.params for trial in trials)


def test_a_driver_that_nobody_has_buried_holds_no_lease():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    study = optuna.create_study()
    lease = {"pid": process.pid, "host": socket.gethostname(), "token": "x", "renewed": 0.0}
    began = psutil.Process(process.pid).create_time() - psutil.boot_time()
    write_lease(study, {**lease, "process_started": began})
    assert lease_holder(study) == f"process {process.pid} on {socket.gethostname()}"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease_holder(study) is None
    process.communicate()


def test_a_lease_is_renewed_well_before_it_would_be_stale(monkeypatch):
    study = optuna.create_study()
    lease = Lease(study)
    lease.acquire()
    first = read_lease(study)["renewed"]
    now, wall = time.monotonic(), time.time()
    for passed, renewed in ((1, first), (LEASE_SECONDS / 2, wall + LEASE_SECONDS / 2)):
        monkeypatch.setattr(time, "monotonic", lambda passed=passed: now + passed)
        monkeypatch.setattr(time, "time", lambda passed=passed: wall + passed)
        lease.check()
        assert read_lease(study)["renewed"] == renewed


def test_a_path_from_the_home_folder_is_found_there(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage="~/mine.db", workers=0)
    assert (home / "mine.db").is_file()
    assert not (tmp_path / "~").exists()
    assert list(list_studies(home / "mine.db").name) == ["mine"]

    # There is no user of that name.
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage="~old.db", workers=0)
    assert (tmp_path / "~old.db").is_file()


@pytest.mark.parametrize("folder", ["what now?", "100%", "{a}", "a#b", "a%20b", "a&b=c", "ä ö"])
def test_any_name_of_a_file_works(folder, tmp_path):
    file = tmp_path / folder / "studies.db"
    options = {"name": "mine", "storage": file, "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 2, **options)
    assert len(run_study(bowl, TOY_SPACE, "random", 3, **options).trials) == 3
    assert list(list_studies(file).trials) == [3]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert {path.name for path in file.parent.iterdir()} <= {
        *("studies.db", "studies.db-wal", "studies.db-shm", "studies.db.lock"),
        "studies.db.checkpoints",
    }
