"""A machine that sleeps and a clock that is set blame no trial: limits count usable time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hpo_lib.objective import FunctionObjective, Segment
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import Failure
from hpo_lib.study.workers.local import LocalWorkers
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, record_of

SEGMENT = Segment(seed=1, start=0, stop=1, budget=1)
CONFIGURATION = TOY_SPACE.default_configuration()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)


def let_go_on(configuration):
    """Return 1 once the driver's process says so."""
    Path("begun").touch()
    wait_for(Path("go on"))
    return 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [100.0, 1e9])
def test_a_time_limit_counts_no_time_in_which_the_machine_slept(seconds, monkeypatch):
    workers = LocalWorkers(1, time_limit=50)
    try:
        future = workers.submit(FunctionObjective(let_go_on), CONFIGURATION, SEGMENT)
        wait_for(Path("begun"))
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + seconds)
        time.sleep(0.5)  # the driver looks several times
        Path("go on").touch()
        assert future.result(60).outcome.validation_error == (1.0,)
    finally:
        workers.close()


@pytest.mark.slow
def test_an_endless_segment_is_still_ended_after_a_sleep(monkeypatch):
    workers = LocalWorkers(1, time_limit=1)
    try:
        future = workers.submit(FunctionObjective(let_go_on), CONFIGURATION, SEGMENT)
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 1000)
        outcome = future.result(60).outcome
        assert isinstance(outcome, Failure)
        assert outcome.status == "timed_out"
    finally:
        workers.close()


STOPPED = """
from hpo_lib.study.run import run_study
from tests.faults.test_clocks import let_go_on
from tests.toys import TOY_SPACE

if __name__ == "__main__":
    options = {"name": "x", "storage": "s.db", "time_limit": 5}
    [trial] = run_study(let_go_on, TOY_SPACE, "random", 1, **options).trials
    assert trial.value == 1.0, trial
"""


@pytest.mark.slow
def test_a_time_limit_counts_no_time_in_which_everything_was_stopped():
    Path("driver.py").write_text(STOPPED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "driver.py"], env=environment) as driver:
        wait_for(Path("begun"))
        everything = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(True)]
        for process in everything:
            process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        for process in everything:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.3)  # the driver looks before its worker has said anything
        Path("go on").touch()
        assert driver.wait(timeout=60) == 0


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_time_of_a_failed_trial_is_measured_whatever_the_clock_says(
    shift, workers, monkeypatch
):
    real = time.time

    def fail(configuration):
        time.time = lambda: real() + shift
        message = "too deep"
        raise ValueError(message)

    options = {"name": "x", "storage": "memory", "workers": workers}
    try:
        [trial] = run_study(fail, TOY_SPACE, "random", 1, **options).trials
    finally:
        time.time = real
    assert 0 <= record_of(trial).failed_seconds < 600
    assert abs(record_of(trial).finished - record_of(trial).started) < 600


@pytest.mark.slow
def test_a_time_out_in_the_midst_of_which_the_clock_was_set_is_measured(monkeypatch):
    workers = LocalWorkers(1, time_limit=2)
    try:
        future = workers.submit(FunctionObjective(let_go_on), CONFIGURATION, SEGMENT)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        evaluation = future.result(60)
        assert 0 < evaluation.finished - evaluation.started < 600
    finally:
        workers.close()
