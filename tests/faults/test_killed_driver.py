"""`kill -9` of the driver, then the same call again: nothing recorded is lost or changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from hpo_lib.exceptions import StudyHeldError
from hpo_lib.study.catalog import open_study
from hpo_lib.study.checkpoints import temporary_checkpoints
from hpo_lib.study.driver import Driver
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner, ending

N_TRIALS = 12
ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner
name, strategy = sys.argv[1:3]
n_trials, workers, kill_at = map(int, sys.argv[3:6])
if __name__ == "__main__":
    os.environ["DRIVER_PID"] = str(os.getpid())
    learner = Learner(name + ".log", kill="driver" if kill_at else "", kill_at=kill_at)
    options = {"rungs": (1, 3), "pruning": sys.argv[6]}
    run_study(learner, TOY_SPACE, strategy, n_trials, name=name, workers=workers, **options)
"""


def drive(name: str, strategy: str, workers: int, kill_at: int = 0, pruning: str = "none") -> int:
    Path("driver.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "driver.py",
        name,
        strategy,
        *map(str, (N_TRIALS, workers, kill_at, pruning)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=False, timeout=300).returncode


def record(name: str, storage: str | None = None) -> list[tuple]:
    return ending(open_study(name, storage))


def _spans(log: str) -> list[str]:
    return [line.partition(" ")[2] for line in Path(log).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "workers"), [("skopt", 0), ("bayes", 1)])
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
@pytest.mark.parametrize(("strategy", "pruning"), [("tpe", "hyperband")])
def test_a_killed_pruned_study_ends_as_an_undisturbed_one(strategy, pruning):
    options = {"workers": 0, "rungs": (1, 3), "pruning": pruning}
    run_study(Learner("calm.log"), TOY_SPACE, strategy, N_TRIALS, name="calm", **options)
    assert {"completed", "pruned"} == {row[1] for row in record("calm")}
    n_segments = len(Path("calm.log").read_text().splitlines())
    for kill_at in (5, 9, n_segments + 2):
        assert drive("killed", strategy, 0, kill_at, pruning) == -signal.SIGKILL
    assert drive("killed", strategy, 0, 0, pruning) == 0
    assert record("killed") == record("calm")
    assert len(Path("killed.log").read_text().splitlines()) == n_segments + 3


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["asha", "hyperband", "median"])
def test_a_driver_lost_between_a_rung_and_its_verdict_decides_the_same(pruning, monkeypatch):
    options = {"workers": 0, "rungs": (1, 3), "pruning": pruning, "storage": "s.db"}
    run_study(Learner("calm.log"), TOY_SPACE, "random", N_TRIALS, name="calm", **options)
    decide = Driver._continue
    for lost_at in (1, 4, 5, 2):
        asked = iter(range(1, 100))

        def stop(*arguments, lost_at=lost_at, asked=asked):
            if next(asked) == lost_at:
                raise KeyboardInterrupt
            decide(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Driver, "_continue", stop)
            with pytest.raises(KeyboardInterrupt):
                run_study(
                    Learner("lost.log"), TOY_SPACE, "random", N_TRIALS, name="lost", **options
                )
    run_study(Learner("lost.log"), TOY_SPACE, "random", N_TRIALS, name="lost", **options)
    assert record("lost", "s.db") == record("calm", "s.db")
    assert sorted(set(_spans("lost.log"))) == sorted(_spans("calm.log"))


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
from hpo_lib.study.lease import Lease
from hpo_lib.study.catalog import open_study
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


KILLED = """
import os, sys, tempfile
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner
os.environ["DRIVER_PID"] = str(os.getpid())
tempfile.tempdir = sys.argv[1]
learner = Learner("log", kill="driver", kill_at=int(sys.argv[3]))
storage = {"file": "s.db", "memory": "memory"}.get(sys.argv[2])
storage = storage or JournalStorage(JournalFileBackend("journal"))
options = {"name": "x", "storage": storage, "workers": 0, "rungs": (1, 3)}
run_study(learner, TOY_SPACE, "random", 2, **options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "file", "memory"])
def test_a_killed_driver_leaves_no_temporary_folder_for_long(storage, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", KILLED, str(temporary), storage]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kill_at in ("2", "100"):
        ended = subprocess.run([*command, kill_at], env=environment, check=False, timeout=120)
        left = [path for path in temporary.iterdir() if path.suffix != ".lock"]
        assert len(left) <= (storage != "file" and kill_at == "2")
    assert ended.returncode == 0
    assert list(temporary.iterdir()) == []
    if storage == "memory":
        return

    # Behind a journal, too, the trial goes on from its checkpoint.
    assert [span.split()[1:] for span in _spans("log")[:3]] == [["0", "1"], ["1", "3"], ["1", "3"]]


def test_only_abandoned_temporary_folders_of_ours_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    theirs = ["hpo_lib_mine", f"hpo_lib_{'0' * 31}x"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()

    # The outer study is alive, and in use, while the inner one looks for abandoned ones.
    with (
        temporary_checkpoints("1" * 32, is_lasting=False) as outer,
        temporary_checkpoints("2" * 32, is_lasting=False) as inner,
    ):
        assert outer.is_dir()
        assert inner.is_dir()

    abandoned = tmp_path / f"hpo_lib_{'3' * 32}"
    abandoned.mkdir()
    (abandoned / "1.json").touch()
    (tmp_path / f"{abandoned.name}.lock").touch()
    with temporary_checkpoints("4" * 32, is_lasting=False):
        assert not abandoned.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(theirs)
    assert not (tmp_path / f"{abandoned.name}.lock").exists()
