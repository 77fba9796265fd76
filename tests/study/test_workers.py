from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from hpo_lib.objective import FunctionObjective, Segment
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import Evaluation, Failure, InProcess
from hpo_lib.study.workers.factory import make_workers
from hpo_lib.study.workers.local import LocalWorkers, visible_gpus
from tests.clusters import listening
from tests.toys import TOY_SPACE, Learner, bowl, record_of

SEGMENT = Segment(seed=1, start=0, stop=1, budget=1)
CONFIGURATION = TOY_SPACE.default_configuration()


def pid(configuration) -> float:
    return float(os.getpid())


def ask(pool, function) -> Evaluation:
    return pool.submit(FunctionObjective(function), CONFIGURATION, SEGMENT).result(timeout=120)


@pytest.mark.parametrize(
    ("workers", "limits", "message"),
    [
        (-1, {}, "workers must be at least 0, got -1"),
        (0, {"time_limit": 5}, "need worker processes: workers >= 1, got 0"),
        (1, {"time_limit": 0}, "time_limit must be greater than 0, got 0"),
        (InProcess(), {"memory_limit": 5}, "belong to the workers object"),
    ],
)
def test_impossible_workers_are_refused(workers, limits, message):
    with pytest.raises(ValueError, match=message):
        make_workers(workers, **limits)


@pytest.mark.parametrize("workers", [2.5, None])
def test_what_neither_counts_nor_works_is_refused(workers):
    with pytest.raises(TypeError, match=f"workers must be a whole number, got {workers}"):
        make_workers(workers)


def test_gpus_are_those_that_the_process_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


@pytest.mark.slow
def test_each_worker_has_one_gpu_and_one_thread(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    pool = LocalWorkers(3)
    seen = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    function = lambda c: float("".join(os.environ[name] for name in seen))  # noqa: E731
    futures = [pool.submit(FunctionObjective(function), CONFIGURATION, SEGMENT) for _ in range(3)]
    values = sorted(future.result(timeout=120).outcome.validation_error[0] for future in futures)
    pool.close()
    assert values == [41.0, 41.0, 71.0]


@pytest.mark.slow
def test_a_process_stays_warm_and_failures_do_not_end_it():
    pool = LocalWorkers(1)

    def fail(configuration):
        message = "broken"
        raise RuntimeError(message)

    first, failure, again = [ask(pool, function).outcome for function in (pid, fail, pid)]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.reason) == ("failed", "RuntimeError: broken")
    assert "in fail" in failure.traceback
    assert first.validation_error == again.validation_error
    process = psutil.Process(int(again.validation_error[0]))
    pool.close()
    assert not psutil.wait_procs([process], timeout=30)[1]


@pytest.mark.slow
def test_a_crash_a_hang_and_a_glutton_are_replaced():
    pool = LocalWorkers(1, time_limit=5, memory_limit=600 * 2**20)

    def hang(configuration):
        time.sleep(600)
        return 0.0

    def eat(configuration):
        hoard = [bytearray(b"x" * 2**20) for _ in range(900)]
        time.sleep(600)
        return float(len(hoard))

    def crash(configuration):
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0.0

    outcomes = [ask(pool, function).outcome for function in (crash, hang, eat)]
    assert [outcome.status for outcome in outcomes] == ["lost", "timed_out", "out_of_memory"]
    assert "exit code -11" in outcomes[0].reason
    assert "time_limit=5" in outcomes[1].reason
    assert ask(pool, bowl).outcome.validation_error == (bowl(CONFIGURATION),)
    pool.close()


@pytest.mark.slow
def test_an_idle_process_that_is_killed_is_no_evidence_and_replaced():
    pool = LocalWorkers(1)
    process = psutil.Process(int(ask(pool, pid).outcome.validation_error[0]))
    process.kill()
    outcome = ask(pool, bowl).outcome
    if isinstance(outcome, Failure):  # it was sent before the death was noticed
        assert outcome.status == "lost"
        outcome = ask(pool, bowl).outcome
    assert outcome.validation_error == (bowl(CONFIGURATION),)
    pool.close()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_values(tmp_path):
    def values(workers):
        study = run_study(
            Learner(str(tmp_path / "log")),
            TOY_SPACE,
            "random",
            6,
            name=f"with {workers}",
            workers=workers,
            rungs=(2,),
        )
        return {t.number: (t.value, record_of(t).configuration) for t in study.trials}

    assert values(0) == values(2)


@pytest.mark.slow
def test_a_trial_whose_worker_dies_runs_again(tmp_path):
    def study(name, **options):
        learner = Learner(str(tmp_path / name), **options)
        return run_study(learner, TOY_SPACE, "random", 3, name=name, workers=1, rungs=(2,))

    calm = study("calm")
    killed = study("killed", kill="worker", kill_at=4)
    assert [t.value for t in killed.trials] == [t.value for t in calm.trials]
    lines = (tmp_path / "killed").read_text().splitlines()
    assert len(lines) == len((tmp_path / "calm").read_text().splitlines()) + 1
    assert lines[3].split()[1:] == lines[4].split()[1:]
    assert lines[4].split()[2:] == ["2", "4"]  # from the checkpoint, which the learner reads


@pytest.mark.slow
def test_a_trial_that_always_kills_its_worker_is_lost(tmp_path):
    def crash_deep(configuration):
        if configuration["depth"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    study = run_study(crash_deep, TOY_SPACE, "random", 2, name="x", workers=1)
    lost = study.trials[0]
    assert record_of(lost).status == "lost"
    assert "exit code -9" in record_of(lost).reason


@pytest.mark.slow
def test_a_local_study_listens_nowhere():
    seen: list[set[str]] = []
    before = listening(os.getpid())

    def look(study, trial):
        seen.append(listening(os.getpid()) - before)

    run_study(bowl, TOY_SPACE, "random", 4, name="x", workers=2, callback=look)
    assert seen == [set()] * 4


@pytest.mark.slow
def test_a_finished_trial_is_replaced_at_once(tmp_path):
    def function(configuration):
        try:
            (tmp_path / "first").mkdir()
        except FileExistsError:
            (tmp_path / f"done {configuration['lr']}").touch()
            return 1.0
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("done *"))) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        return float(time.monotonic() < until)

    study = run_study(function, TOY_SPACE, "random", 4, name="x", workers=2)
    assert [trial.value for trial in study.trials] == [1.0] * 4


@pytest.mark.slow
def test_data_are_loaded_once_per_worker():
    def loads(configuration):
        from hpo_lib.training.config import DataConfig, TrainingConfig
        from hpo_lib.training.objective import TrainingObjective, load_cached

        data = DataConfig(n_train=100, n_validation=50, n_test=50)
        config = TrainingConfig(depth=8, n_filters=4, epochs=1)
        TrainingObjective(config, data)({}, SEGMENT)
        return float(load_cached.cache_info().misses)

    pool = LocalWorkers(1)
    assert [ask(pool, loads).outcome.validation_error[0] for _ in range(3)] == [1.0] * 3
    pool.close()


@pytest.mark.slow
def test_what_an_objective_has_started_ends_with_it():
    def outer(configuration):
        program = "import time  # started by an objective\ntime.sleep(600)"
        subprocess.run([sys.executable, "-c", program], check=True)
        return 1.0

    def started() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [one for one in children if "started by an objective" in " ".join(one.cmdline())]

    pool = LocalWorkers(1)
    future = pool.submit(FunctionObjective(outer), CONFIGURATION, SEGMENT)
    while not (seen := started()):
        assert not future.done(), future.result()
    pool.close()
    assert future.result().outcome.status == "lost"
    assert not psutil.wait_procs(seen, timeout=30)[1]


@pytest.mark.slow
def test_a_function_may_use_special_modules_of_a_library():
    # Of `torch.classes` and `torch.backends` the names alone are used, as any attribute.
    code = """
    import pickle, torch
    from hpo_lib.study.workers.pickling import dump_objective

    class Data:
        classes = ("a", "b")

    def objective(configuration):
        torch.backends.cudnn.benchmark = False
        return len(Data.classes) + torch.ones(1).item()

    print(pickle.loads(dump_objective(objective))({}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "3.0\n"
