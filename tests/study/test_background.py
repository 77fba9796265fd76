from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo_lib.exceptions import StudyChangedError, StudyError
from hpo_lib.study.background import BackgroundStudy, background_study
from hpo_lib.study.catalog import open_study
from hpo_lib.study.lease import lease_holder
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import InProcess
from hpo_lib.study.workers.dask_cluster import DaskWorkers
from tests.clusters import Cluster
from tests.toys import TOY_SPACE, Learner, Waiting, bowl, ending, record_of

FAR = 60


def until(condition: Any) -> None:
    """Wait for what a thread or a process will do."""
    deadline = time.monotonic() + FAR
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def background(objective: Any = bowl, n_trials: int = 6, **settings: Any) -> BackgroundStudy:
    settings = {"name": "toy", "storage": "toy.db", "workers": 1, **settings}
    return BackgroundStudy(objective, TOY_SPACE, "random", n_trials, **settings)


def configurations(study: Any) -> list[Any]:
    return [record_of(trial).configuration for trial in study.trials]


def plain(n_trials: int) -> Any:
    return run_study(bowl, TOY_SPACE, "random", n_trials, name="plain", storage="p.db", workers=0)


@pytest.mark.slow
def test_a_study_runs_beside_its_caller_and_equals_the_plain_one():
    study = background(workers=0)
    assert study.state == "not started"
    study.start()
    assert configurations(study.wait()) == configurations(plain(6))
    assert (study.state, background_study("toy", "toy.db")) == ("finished", None)
    study.n_trials = 8
    study.start()
    assert configurations(study.wait()) == configurations(plain(8))


def test_a_study_in_memory_is_kept_by_its_object():
    study = background(storage="memory", workers=0)
    study.start()
    assert len(study.wait().trials) == 6


class OwnClock(InProcess):
    """Workers that the driver waits through, as it does through simulated ones."""

    def wait(self, running: Any) -> Any:
        return set(running)


def test_workers_with_a_clock_of_their_own_are_refused():
    with pytest.raises(TypeError, match=r"must run by the clock that all have, got .*OwnClock"):
        background(workers=OwnClock())


def test_an_error_of_the_run_is_kept_and_raised():
    plain_one = background(workers=0)
    plain_one.start()
    plain_one.wait()
    other = background(workers=0, seed=1)
    other.start()
    with pytest.raises(StudyChangedError, match="recorded with other settings"):
        other.wait()
    assert other.state == "failed"
    assert isinstance(other.error, StudyChangedError)


@pytest.mark.slow
def test_a_pause_holds_the_next_segment_and_keeps_the_lease(tmp_path):
    gate = Waiting(str(tmp_path))
    study = background(gate)
    study.start()
    until(lambda: gate.begun() == 1)
    study.pause()
    assert study.state == "paused"
    gate.let(1)
    opened = open_study("toy", "toy.db")
    until(lambda: len(opened.get_trials(states=(TrialState.RUNNING,))) == 1)
    until(lambda: opened.trials[0].state == TrialState.COMPLETE and len(opened.trials) == 2)
    assert gate.begun() == 1
    assert lease_holder(opened) is not None
    study.start()
    assert study.state == "running"
    until(lambda: gate.begun() == 2)
    gate.let(6)
    assert configurations(study.wait()) == configurations(plain(6))


@pytest.mark.slow
@pytest.mark.parametrize("paused", [False, True])
def test_a_stop_ends_the_workers_now_and_the_next_start_goes_on(tmp_path, paused):
    gate = Waiting(str(tmp_path))
    study = background(gate)
    study.start()
    gate.let(2)
    until(lambda: gate.begun() == 3)  # the third would wait for ever
    if paused:
        study.pause()
    study.stop()
    stopped = study.wait()
    assert study.state == "stopped"
    assert lease_holder(stopped) is None
    assert [t.state for t in stopped.trials].count(TrialState.COMPLETE) == 2
    assert stopped.trials[2].state == TrialState.RUNNING
    gate.let(9)
    study.start()
    assert configurations(study.wait()) == configurations(plain(6))
    assert all(trial.state == TrialState.COMPLETE for trial in study.wait().trials)


@pytest.mark.slow
def test_a_stopped_trial_goes_on_from_its_checkpoint(tmp_path):
    log = tmp_path / "log"
    study = background(Learner(str(log), epochs=100), rungs=list(range(1, 100)), n_trials=1)
    study.start()
    until(lambda: log.exists() and len(log.read_text().splitlines()) > 5)
    study.stop()
    study.wait()
    study.start()
    (trial,) = study.wait().trials
    assert len(record_of(trial).validation_error) == 100
    assert len(log.read_text().splitlines()) <= 102  # the cut segment, and no other, ran again


def test_a_second_one_of_the_same_study_is_refused(tmp_path):
    gate = Waiting(str(tmp_path))
    first, second = background(gate), background(gate)
    first.start()
    until(lambda: gate.begun() == 1)
    assert background_study("toy", tmp_path / "toy.db") is first
    with pytest.raises(StudyError, match="'toy' runs in this process already"):
        second.start()
    first.stop()
    first.wait()
    assert threading.active_count() < 20


HOLD = """
import sys
from optuna import create_study
from hpo_lib.study.lease import Lease
from hpo_lib.study.storage import open_storage
study = create_study(study_name="toy", storage=open_storage("toy.db"), load_if_exists=True)
Lease(study).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process() -> Any:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLD]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={"PYTHONPATH": str(root)}, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.slow
def test_what_another_process_writes_is_left_to_it(other_process):
    study = background(workers=0)
    study.start()
    with pytest.raises(StudyError, match=f"is being written by process {other_process.pid}"):
        study.wait()
    assert open_study("toy", "toy.db").trials == []


def test_another_working_directory_is_no_matter(tmp_path, monkeypatch):
    objective = Waiting(str(tmp_path))
    one = background(objective, 1)
    one.start()
    until(lambda: objective.begun() == 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    objective.let(1)
    assert len(one.wait().trials) == 1
    assert one.state == "finished"


@pytest.mark.slow
def test_more_or_fewer_workers_take_effect_while_it_runs_and_lose_nothing(tmp_path):
    objective = Waiting(str(tmp_path))
    study = background(objective, 5, workers=1)
    study.resize(1)  # before it runs: for the start
    study.start()
    until(lambda: objective.begun() == 1)
    study.resize(3)
    until(lambda: objective.begun() == 3)

    # Three train, one may: nobody is ended, and nobody begins before two have.
    study.resize(1)
    first = [record_of(trial).configuration for trial in open_study("toy", "toy.db").trials]
    objective.let(2)
    until(lambda: sum(t.state.is_finished() for t in open_study("toy", "toy.db").trials) == 2)
    assert objective.begun() == 3
    objective.let(5)
    trials = study.wait().trials
    assert [record_of(trial).configuration for trial in trials[:3]] == first
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    assert objective.begun() == 5
    assert study.workers == 1


@pytest.mark.slow
def test_trials_with_rungs_share_what_workers_are_left():
    study = background(Learner("log", epochs=9), 6, workers=3, rungs=tuple(range(1, 9)))
    study.start()
    until(lambda: Path("log").exists())
    study.resize(1)
    assert [trial.state for trial in study.wait().trials] == [TrialState.COMPLETE] * 6
    assert len(Path("log").read_text().splitlines()) == 6 * 9  # no segment ran twice


@pytest.mark.slow
def test_a_training_in_this_process_ends_here_before_the_next_goes_to_workers(tmp_path):
    objective = Waiting(str(tmp_path))
    study = background(objective, 3, workers=0)
    study.start()
    until(lambda: objective.begun() == 1)
    study.resize(2)
    objective.let(9)
    workers = [record_of(trial).worker for trial in study.wait().trials]
    assert workers[0] == "driver"
    assert {str(worker).partition("/")[0] for worker in workers[1:]} == {socket.gethostname()}


def test_workers_that_are_none_are_refused_before_anything_changes():
    study = background(workers=1)
    for workers, problem in ((0, "workers must be at least 1"), ("two", "a number or an address")):
        with pytest.raises(ValueError, match=problem):
            study.resize(workers)
    assert study.workers == 1


@pytest.mark.slow
def test_a_study_that_runs_moves_to_a_cluster_and_back_and_loses_nothing(tmp_path):
    """The record is that of a run which nobody disturbed, and no segment runs twice."""
    options = {"n_trials": 12, "rungs": (1, 2, 3)}
    undisturbed = run_study(
        Learner(str(tmp_path / "other")), TOY_SPACE, "random", name="u", workers=0, **options
    )
    log = tmp_path / "log"

    def n_segments() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    with Cluster(workers=2) as cluster:
        cluster.wait(2)
        study = background(Learner(str(log)), workers=2, **options)
        study.start()
        until(lambda: n_segments() >= 4)
        study.resize(cluster.address)
        until(lambda: n_segments() >= 20)
        study.resize(1)
        moved = study.wait()

    assert ending(moved) == ending(undisturbed)
    assert n_segments() == 12 * 4
    assert study.workers == 1
    last_workers = [str(record_of(trial).worker) for trial in moved.trials]
    assert {"w0", "w1"} & set(last_workers)
    assert last_workers[-1].startswith(socket.gethostname())


@pytest.mark.slow
def test_a_cluster_is_added_while_a_training_and_a_pause_last(tmp_path):
    objective = Waiting(str(tmp_path))
    with Cluster(workers=1) as cluster:
        cluster.wait(1)
        study = background(objective, 4, workers=1)
        study.start()
        until(lambda: objective.begun() == 1)
        study.resize(cluster.address)

        # The cluster begins while the training here goes on.
        until(lambda: objective.begun() == 2)
        study.pause()
        objective.let(2)
        until(lambda: len(open_study("toy", "toy.db").trials) == 3)
        study.resize(1)
        study.start()
        objective.let(9)
        trials = study.wait().trials
    workers = [str(record_of(trial).worker) for trial in trials]
    assert workers[0].startswith(socket.gethostname())
    assert workers[1] == "w0"
    assert all(one.startswith(socket.gethostname()) for one in workers[2:])
    assert objective.begun() == 4


@pytest.mark.slow
def test_an_address_where_nobody_answers_changes_nothing(tmp_path, monkeypatch):
    # Dask waits as long as its patience says.
    monkeypatch.setattr(DaskWorkers, "__init__", partialmethod(DaskWorkers.__init__, patience=0.5))
    objective = Waiting(str(tmp_path))
    study = background(objective, 2, workers=1)
    study.start()
    until(lambda: objective.begun() == 1)
    with pytest.raises(StudyError, match="no Dask scheduler at"):
        study.resize("tcp://127.0.0.1:1")
    assert (study.workers, study.state) == (1, "running")
    objective.let(9)
    assert len(study.wait().trials) == 2


def test_a_study_changes_its_space_before_and_after_it_runs():
    study = background(workers=0)
    with pytest.raises(StudyError, match="no studies in"):
        study.change_space(TOY_SPACE.fix(depth=8))
    study.start()
    study.wait()
    changed = study.change_space(TOY_SPACE.fix(depth=8))
    assert changed.study_name == "toy (version 2)"
    assert study.state == "finished"
    study.n_trials = 8
    study.start()
    trials = study.wait().trials
    assert [record_of(trial).configuration["depth"] for trial in trials[6:]] == [8, 8]


def test_a_study_goes_on_in_the_space_that_another_process_has_given_it():
    study = background(workers=0)
    study.start()
    study.wait()

    # A process of its own does not know the objects of this one.
    code = "from hpo_lib import SearchSpace, change_space; "
    code += "change_space('toy', SearchSpace.load('held.yaml'), storage='toy.db')"
    held = TOY_SPACE.fix(depth=8)
    held.save("held.yaml")
    subprocess.run([sys.executable, "-c", code], check=True)

    study.n_trials = 8
    study.start()
    trials = study.wait().trials
    assert [record_of(trial).configuration["depth"] for trial in trials[6:]] == [8, 8]
    assert study.space == held


def test_a_study_of_another_space_is_not_taken_over():
    study = background(workers=0)
    run_study(bowl, TOY_SPACE.fix(depth=8), "random", 2, name="toy", storage="toy.db", workers=0)
    study.start()
    with pytest.raises(StudyChangedError):
        study.wait()
