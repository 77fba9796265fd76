from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest

from hpo_lib.exceptions import StudyHeldError
from hpo_lib.study.catalog import open_study
from hpo_lib.study.lease import LEASE_SECONDS, Lease, lease_holder
from hpo_lib.study.run import run_study
from hpo_lib.trials import read_lease, write_lease
from tests.toys import TOY_SPACE, bowl

PATIENCE = 600
"""Seconds that a process may take to start on a machine that does much else."""


def _drive(together):
    def first(study, trial):
        if trial.number == 0:
            together.wait(PATIENCE)  # holds the lease until everybody has tried

    together.wait(PATIENCE)
    try:
        run_study(
            bowl, TOY_SPACE, "random", 3, name="x", storage="new.db", workers=0, callback=first
        )
    except StudyHeldError:
        together.wait(PATIENCE)
        return False
    return True


@pytest.mark.slow
def test_of_drivers_that_start_together_on_a_new_file_one_gets_the_study():
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(3, context) as processes:
        together = manager.Barrier(3)
        drove = [processes.submit(_drive, together) for _ in range(3)]
        assert sorted(future.result(PATIENCE) for future in drove) == [False, False, True]
    assert [trial.number for trial in open_study("x", "new.db").trials] == [0, 1, 2]


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
def test_a_clock_that_is_set_does_not_free_the_study_of_a_living_driver(monkeypatch, shift):
    study = run_study(bowl, TOY_SPACE, "random", 1, name="x", workers=0)
    Lease(study).acquire()
    parent = psutil.Process(os.getppid())  # one's own lease is known without looking
    began = parent.create_time() - psutil.boot_time()
    held = {**read_lease(study), "pid": parent.pid, "process_started": began}
    write_lease(study, held)
    # what psutil tells after the clock was set: both are reckoned from the clock
    booted, created, now = psutil.boot_time, psutil.Process.create_time, time.time
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() + shift)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + shift)
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    assert lease_holder(study) is not None


HOLDER = """
import sys
from hpo_lib.study.lease import Lease
from hpo_lib.study.catalog import open_study
Lease(open_study("x", "s.db")).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_living_driver_in_another_container_keeps_its_study():
    """Containers may share the host's name, but each counts its processes itself."""
    run_study(bowl, TOY_SPACE, "random", 1, name="x", storage="s.db", workers=0)
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("namespaces of process numbers are not allowed here")

    command = [*apart, sys.executable, "-c", HOLDER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StudyHeldError, match="written by process 1 on "):
            run_study(bowl, TOY_SPACE, "random", 2, name="x", storage="s.db", workers=0)
        holder.kill()


@pytest.mark.parametrize("other", ["another-boot pid:[4026531836]", "another namespace"])
def test_a_process_number_of_another_kernel_or_namespace_says_nothing(other):
    study = run_study(bowl, TOY_SPACE, "random", 1, name="x", workers=0)
    Lease(study).acquire()
    held = {**read_lease(study), "processes": other, "pid": 2**22 + 1}  # no such process here
    write_lease(study, held)
    assert lease_holder(study) is not None
    write_lease(study, {**held, "renewed": time.time() - LEASE_SECONDS})
    assert lease_holder(study) is None


def test_a_new_file_is_made_where_a_linked_folder_leads(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    run_study(bowl, TOY_SPACE, "random", 1, name="x", storage="folder/s.db", workers=0)
    assert open_study("x", "real/s.db").trials
