"""`kill -9` of the driver, then the same call again: nothing recorded is lost or changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hpo_lib.storage import StudyHeldError
from hpo_lib.study import open_study, run_study
from tests.toys import TOY_SPACE, Learner

N_TRIALS = 12
ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from hpo_lib.study import run_study
from tests.toys import TOY_SPACE, Learner
name, strategy = sys.argv[1:3]
n_trials, workers, kill_at = map(int, sys.argv[3:6])
if __name__ == "__main__":
    os.environ["DRIVER_PID"] = str(os.getpid())
    learner = Learner(name + ".log", kill="driver" if kill_at else "", kill_at=kill_at)
    run_study(learner, TOY_SPACE, strategy, n_trials, name=name, workers=workers, rungs=(1, 3))
"""


def drive(name: str, strategy: str, workers: int, kill_at: int = 0) -> int:
    Path("driver.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "driver.py",
        name,
        strategy,
        *map(str, (N_TRIALS, workers, kill_at)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=False, timeout=300).returncode


def record(name: str) -> list[tuple]:
    keys = ("configuration", "validation_error", "train_loss", "status")
    return [
        (t.number, t.state, t.value, *(t.user_attrs[key] for key in keys))
        for t in open_study(name).trials
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "workers"), [("skopt", 0), ("random", 1), ("bayes", 1)])
def test_a_killed_study_ends_as_an_undisturbed_one(strategy, workers):
    learner = Learner("calm.log")
    options = {"workers": 0, "rungs": (1, 3)}
    run_study(learner, TOY_SPACE, strategy, N_TRIALS, name="calm", **options)
    # three segments per trial: in the third trial, in the tenth, in the last segment of all
    for kill_at in (8, 29, 38):
        assert drive("killed", strategy, workers, kill_at) == -signal.SIGKILL
        assert not all(t.state.is_finished() for t in open_study("killed").trials)
    assert drive("killed", strategy, workers) == 0
    assert record("killed") == record("calm")
    segments = Path("killed.log").read_text().splitlines()
    assert len(segments) == 3 * N_TRIALS + 3  # one segment lost by each kill


@pytest.mark.slow
def test_no_worker_outlives_its_driver():
    assert drive("killed", "random", 1, kill_at=5) == -signal.SIGKILL
    worker = int(Path("killed.log").read_text().splitlines()[-1].split()[0])
    if psutil.pid_exists(worker):
        psutil.Process(worker).wait(timeout=30)
    assert not psutil.pid_exists(worker)


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_runs():
    run_study(Learner("held.log"), TOY_SPACE, "random", 2, name="held", workers=0)
    program = """
import sys
from hpo_lib.storage import Lease
from hpo_lib.study import open_study
Lease(open_study("held")).acquire()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    again = {"name": "held", "workers": 0}
    with pytest.raises(StudyHeldError, match=f"written by process {holder.pid} on "):
        run_study(Learner("held.log"), TOY_SPACE, "random", 3, **again)
    holder.kill()
    holder.communicate()
    study = run_study(Learner("held.log"), TOY_SPACE, "random", 3, **again)
    assert len(study.trials) == 3
