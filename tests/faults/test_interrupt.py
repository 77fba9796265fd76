"""Real SIGINTs to real processes: once, what runs is finished; twice, all stops at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from hpo_lib.comparison.run import compare, replay
from hpo_lib.runner.execution import HeadlessKernel
from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import stop_reason
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, Learner, ending, record_of

N_TRIALS = 6

# Ctrl-C in a terminal reaches every process of the driver's group, which leads the session;
# workers have groups of their own.
PROGRAM = """
import os, signal, sys, time
from dataclasses import dataclass
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner

@dataclass(frozen=True)
class Interrupted(Learner):
    def _kill(self):
        os.killpg(os.getsid(0), signal.SIGINT)
        for _ in range(6000 if self.kill == "hang" else 0):
            time.sleep(0.1)  # a signal just before one long sleep would be heard after it

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started with & ignores it
    learner = Interrupted("log", kill=sys.argv[2], kill_at=5)
    options = {"name": "study", "workers": int(sys.argv[1]), "rungs": (1, 3)}
    run_study(learner, TOY_SPACE, "random", 6, **options)
"""


def start(workers: int, kill: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    Path("driver.py").write_text(program)
    return subprocess.Popen(
        [sys.executable, "driver.py", str(workers), kill],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def told(driver: subprocess.Popen[str]) -> None:
    """Wait until the driver has said that it heard the first one."""
    assert driver.stderr is not None
    for line in driver.stderr:
        if line.startswith("interrupted: what runs now is finished and recorded"):
            return
    pytest.fail("it said nothing")


def segments() -> list[list[str]]:
    return [line.split() for line in Path("log").read_text().splitlines()]


def epochs() -> int:
    return sum(len(record_of(t).validation_error) for t in open_study("study").trials)


def assert_goes_on_as_ever(workers: int) -> None:
    options = {"workers": workers, "rungs": (1, 3)}
    study = run_study(Learner("log"), TOY_SPACE, "random", N_TRIALS, name="study", **options)
    options = {"workers": 0, "rungs": (1, 3), "storage": "memory"}
    calm = run_study(Learner("calm"), TOY_SPACE, "random", N_TRIALS, name="study", **options)
    assert ending(study) == ending(calm)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_one_interrupt_finishes_what_runs(workers):
    driver = start(workers, "once")
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGINT
    assert "KeyboardInterrupt: study 'study' stopped; the same call goes on with it" in said
    begun = segments()
    assert len(begun) in (5, 6)  # the other worker may have begun one more in that moment
    assert epochs() == sum(int(stop) - int(start) for *_, start, stop in begun)
    assert stop_reason(open_study("study")) == "interrupted"
    assert_goes_on_as_ever(workers)
    assert len(segments()) == 3 * N_TRIALS  # none ran twice


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_interrupts_stop_at_once(workers):
    driver = start(workers, "hang")
    told(driver)
    processes = {int(line[0]) for line in segments()} - {driver.pid}
    alive = [psutil.Process(pid) for pid in processes]
    os.killpg(driver.pid, signal.SIGINT)
    driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGINT
    assert not psutil.wait_procs(alive, timeout=30)[1]
    begun = [int(stop) - int(start) for *_, start, stop in segments()]
    assert sum(begun) > epochs() >= sum(sorted(begun)[:3])
    assert_goes_on_as_ever(workers)


COMPARISON = PROGRAM.replace(
    "import run_study", "import run_study\nfrom hpo_lib.comparison.run import compare"
).replace(
    'run_study(learner, TOY_SPACE, "random", 6, **options)',
    'compare(learner, TOY_SPACE, ["random", "sobol"], [0, 1], 6, workers=int(sys.argv[1]))',
)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kill"), [(0, "once"), (2, "once"), (2, "hang")])
def test_an_interrupted_comparison_ends_its_trials_but_not_its_studies(workers, kill):
    driver = start(workers, kill, COMPARISON)
    if kill == "hang":
        told(driver)
        os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said
    begun = len(segments())
    assert begun in (5, 6)  # of 24: the other worker may have begun one more in that moment
    goes_on = compare(Learner("log"), TOY_SPACE, ["random", "sobol"], [0, 1], 6, workers=0)
    calm = replay(Learner("calm"), TOY_SPACE, ["random", "sobol"], [0, 1], 6)
    assert goes_on.value.tolist() == calm.value.tolist()
    again = len(segments()) - 24
    assert 0 < again <= 2 if kill == "hang" else again == 0


def test_a_study_in_another_thread_runs_as_ever():
    options = {"name": "study", "storage": "memory", "workers": 0}
    before = signal.getsignal(signal.SIGINT)
    studies = []
    thread = threading.Thread(
        target=lambda: studies.append(
            run_study(Learner("log"), TOY_SPACE, "random", N_TRIALS, **options)
        )
    )
    thread.start()
    thread.join()
    assert len(studies[0].trials) == N_TRIALS
    assert signal.getsignal(signal.SIGINT) is before


def test_somebody_elses_handler_stays_in_charge(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        interrupted = Interrupting("log", kill="itself", kill_at=2)
        options = {"name": "study", "storage": "memory", "workers": 0}
        study = run_study(interrupted, TOY_SPACE, "random", N_TRIALS, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [True]
    assert len(study.trials) == N_TRIALS


class Interrupting(Learner):
    def _kill(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Kernel(KernelManager):
    """In this interpreter, and with this project."""

    kernel_spec = HeadlessKernel.kernel_spec
    data_folder = ""


CELL = """
import os, signal
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner

class Interrupting(Learner):
    def _kill(self):
        os.kill(os.getpid(), signal.SIGINT)  # as JupyterLab's stop button does

def go(learner, workers, n_trials):
    run_study(learner, TOY_SPACE, "random", n_trials, name="study", workers=workers, rungs=(1, 3))
"""

HANG = """
class Hanging(Learner):
    def _kill(self):
        import time
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

go(Hanging("log", kill="kernel", kill_at=12), 2, 20)
"""


@pytest.mark.slow
def test_in_a_kernel_an_interrupt_stops_the_cell_and_no_worker_outlives_a_kill():
    kernel = Kernel()
    kernel.start_kernel(cwd=str(Path.cwd()))
    client = kernel.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(CELL, timeout=120)
        stop = 'go(Interrupting("log", kill="kernel", kill_at=5), 0, 6)'
        reply = client.execute_interactive(stop, timeout=120)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert "the same call goes on" in reply["evalue"]
        assert len(segments()) == 5
        after = client.execute_interactive("go(Learner('log'), 0, 3)", timeout=120)
        assert after["content"]["status"] == "ok"
        assert len(segments()) == 9

        client.execute(HANG)
        process = kernel.provisioner.process
        assert process.wait(timeout=120) == -signal.SIGKILL
        workers = {int(line[0]) for line in segments()[9:]} - {process.pid}
        assert workers
        left = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
        assert not psutil.wait_procs(left, timeout=30)[1]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_an_interrupt_in_the_last_trial_ends_a_complete_study():
    interrupted = Interrupting("log", kill="itself", kill_at=N_TRIALS)
    options = {"name": "study", "workers": 0}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        study = run_study(interrupted, TOY_SPACE, "random", N_TRIALS, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop_reason(study) == "budget spent"
    assert not list(Path("results/studies.db.checkpoints").glob("*"))
