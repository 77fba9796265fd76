"""What an objective does with processes and signals works in a worker, and ends with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hpo_lib.exceptions import StudyError
from hpo_lib.objective import FunctionObjective, Segment
from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.local import LocalWorkers
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, bowl

SEGMENT = Segment(seed=1, start=0, stop=1, budget=1)
CONFIGURATION = TOY_SPACE.default_configuration()

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def pool():
    made = LocalWorkers(1)
    yield made
    made.close()


def value(pool, function) -> float:
    outcome = pool.submit(FunctionObjective(function), CONFIGURATION, SEGMENT).result(120).outcome
    return outcome.validation_error[0]


def assert_ends(pids: list[int]) -> None:
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert not psutil.wait_procs(left, timeout=30)[1]


# as in the driver


@pytest.mark.slow
def test_nothing_of_ours_runs_beside_an_objective(pool):
    def look(configuration):
        plain = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        plain &= signal.getsignal(signal.SIGINT) is signal.default_int_handler
        plain &= threading.enumerate() == [threading.main_thread()]
        plain &= not multiprocessing.current_process().daemon
        return float(plain)

    assert value(pool, look) == 1.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_ends_of_the_signal_that_it_is_sent(pool):
    def fork(configuration):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        return float(child.exitcode)

    assert value(pool, fork) == -signal.SIGTERM


@pytest.mark.slow
def test_a_program_that_was_started_hears_an_interrupt(pool):
    def interrupt(configuration):
        program = "print(flush=True); import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        return float(child.wait())

    assert value(pool, interrupt) == -signal.SIGINT


@pytest.mark.slow
def test_a_pool_of_forked_processes_works_many_times(pool):
    def square(configuration):
        with multiprocessing.get_context("fork").Pool(2) as squares:
            return float(sum(squares.map(abs, range(4))))

    assert [value(pool, square) for _ in range(20)] == [6.0] * 20


@pytest.mark.slow
def test_a_forked_child_that_returns_answers_nothing(pool):
    def both(configuration):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return float(child > 0)

    assert [value(pool, both) for _ in range(3)] == [1.0] * 3


# a process that cannot start


UNGUARDED = """
import os, sys
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, bowl
run_study(bowl, TOY_SPACE, "random", 4, name="x", workers=2, storage=sys.argv[1])
"""


def run_script(text: str, storage: str = "x.db") -> subprocess.CompletedProcess[str]:
    Path("script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py", storage],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(Path.cwd()), str(ROOT)))},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "storage"), [("", "x.db"), ("", "memory"), ("sys.exit(0)", "x.db")]
)
def test_a_script_without_a_guard_is_one_error_that_names_it(end, storage):
    quiet = UNGUARDED if not end else _ends_quietly(UNGUARDED)
    done = run_script(quiet, storage)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hpo_lib.exceptions.StudyError: no worker process can be started: ")
    assert 'below `if __name__ == "__main__":`' in last


def _ends_quietly(script: str) -> str:
    """Let the process that imports the script again end with exit code 0."""
    head, last = script.strip().rsplit("\n", 1)
    return f"{head}\nif __name__ == '__mp_main__':\n    sys.exit(0)\n{last}\n"


@pytest.mark.slow
def test_the_corrected_script_has_its_whole_budget():
    assert run_script(UNGUARDED).returncode == 1
    head, last = UNGUARDED.strip().rsplit("\n", 1)
    done = run_script(f"{head}\nif __name__ == '__main__':\n    {last}\n")
    assert done.returncode == 0, done.stderr
    values = [trial.value for trial in open_study("x", "x.db").trials]
    assert len(values) == 4
    assert None not in values


class Unloadable:
    """Raises where it is unpickled, in another process than the one that wrote it."""

    def __init__(self, pid):
        self.pid = pid

    def __call__(self, configuration):
        return 1.0

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            message = "no module named elsewhere"
            raise ModuleNotFoundError(message)


@pytest.mark.slow
def test_an_objective_that_no_worker_can_load_is_charged_to_no_trial():
    unloadable = Unloadable(os.getpid())
    options = {"name": "x", "storage": "x.db"}
    with pytest.raises(StudyError, match="cannot be loaded in a worker process: ModuleNot"):
        run_study(unloadable, TOY_SPACE, "random", 2, workers=1, **options)
    study = run_study(unloadable, TOY_SPACE, "random", 2, workers=0, **options)
    assert [trial.value for trial in study.trials] == [1.0, 1.0]


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_starts_is_started_again(pool, monkeypatch):
    before = set(psutil.Process().children())
    future = pool.submit(FunctionObjective(bowl), CONFIGURATION, SEGMENT)
    while not (new := _workers() - before):
        assert not future.done()
    new.pop().kill()  # long before its interpreter has loaded anything
    assert future.result(120).outcome.validation_error == (bowl(CONFIGURATION),)


def _workers() -> set[psutil.Process]:
    children = psutil.Process().children()
    return {child for child in children if "spawn_main" in " ".join(child.cmdline())}


# ends


STUCK = """
import ctypes, os, signal, subprocess, sys, time
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE

def stuck(configuration):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(os.getpid(), child.pid, flush=True)
    ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
    return 0.0

if __name__ == "__main__":
    run_study(stuck, TOY_SPACE, "random", 1, name="x", workers=1)
"""


@pytest.mark.slow
def test_a_worker_that_holds_the_interpreters_lock_ends_with_its_killed_driver():
    Path("script.py").write_text(STUCK)
    driver = subprocess.Popen(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2
    driver.kill()
    driver.communicate(timeout=60)
    assert_ends(pids)


@pytest.mark.slow
def test_a_worker_that_holds_the_interpreters_lock_ends_at_the_time_limit():
    def stuck(configuration):
        import ctypes

        ctypes.PyDLL(None).sleep(600)
        return 0.0

    pool = LocalWorkers(1, time_limit=1)
    future = pool.submit(FunctionObjective(stuck), CONFIGURATION, SEGMENT)
    assert future.result(60).outcome.status == "timed_out"
    pool.close()


@pytest.mark.slow
def test_what_objectives_started_ends_with_the_study(tmp_path):
    def leave(configuration):
        children = [
            subprocess.Popen(SLEEP),
            subprocess.Popen(SLEEP, start_new_session=True),
        ]
        # its parent, a shell, ends at once
        orphan = subprocess.run(
            ["/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"],
            check=True,
            capture_output=True,
            text=True,
        )
        pids = [child.pid for child in children] + [int(orphan.stdout)]
        (tmp_path / f"{os.getpid()} {time.time()}").write_text(" ".join(map(str, pids)))
        return 1.0

    run_study(leave, TOY_SPACE, "random", 2, name="x", workers=1)
    pids = [int(pid) for path in tmp_path.glob("* *") for pid in path.read_text().split()]
    assert len(pids) == 6
    assert_ends(pids)


@pytest.mark.slow
def test_workers_that_nobody_closed_end_with_the_program():
    text = """
import os
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.local import LocalWorkers
from tests.toys import TOY_SPACE

def pid(configuration):
    return float(os.getpid())

if __name__ == "__main__":
    study = run_study(pid, TOY_SPACE, "random", 1, name="x", workers=LocalWorkers(1))
    print(study.best_value)
"""
    done = run_script(text)
    assert done.returncode == 0
    assert_ends([int(float(done.stdout))])


WITHOUT_GROUPS = """
import os, subprocess, sys
from hpo_lib import LocalWorkers, Segment, run_study
from hpo_lib.processes.guard import HAS_PROCESS_GROUPS
from tests.toys import TOY_SPACE, bowl

def start(configuration):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(os.getpid(), child.pid, flush=True)
    return bowl(configuration)

if __name__ == "__main__":
    study = run_study(start, TOY_SPACE, "random", 2, name="x", workers=1)
    print(HAS_PROCESS_GROUPS, [trial.state.name for trial in study.trials])
"""


@pytest.mark.slow
def test_workers_work_and_end_where_there_are_no_process_groups():
    Path("sitecustomize.py").write_text("import os\ndel os.killpg, os.setpgid\n")
    done = run_script(WITHOUT_GROUPS)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "False ['COMPLETE', 'COMPLETE']"
    assert_ends([int(pid) for line in lines for pid in line.split()])
