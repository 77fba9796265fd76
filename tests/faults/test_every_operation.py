"""`kill -9` before every commit and every file operation of a small study, one after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Engine, event

from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.values import Configuration
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner, ending

FILE_OPERATIONS = {
    *("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
    *("shutil.copyfile", "shutil.move", "shutil.rmtree", "sqlite3.connect"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RUNGS = (1, 3)
SQLITE_FILES = {"s.db", "s.db-wal", "s.db-shm", "s.db.lock", "s.db.checkpoints"}

processes = multiprocessing.get_context("forkserver")  # a driver starts without its imports
processes.set_forkserver_preload(["hpo_lib.samplers.bayes", "alembic.command", "tests.toys"])


class Moments:
    """Count what this process does to the files below its folder, and kill it before the n-th."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.n = 0
        self.folder = str(Path.cwd())

    def count(self) -> None:
        self.n += 1
        if self.n == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Hear what Python is about to do: a hook of `sys.addaudithook`."""
        if name == "open":
            if not arguments[2] & WRITING:
                return
        elif name not in FILE_OPERATIONS:
            return

        path = arguments[0]
        if isinstance(path, str | os.PathLike):
            path = os.path.join(self.folder, os.fspath(path))  # noqa: PTH118 (less to hear of)
            if path.startswith(self.folder):
                self.count()

    def count_commit(self, connection: Any) -> None:
        if connection.connection.dbapi_connection.in_transaction:
            self.count()


class Plan(NamedTuple):
    strategy: str
    storage: str
    pruning: str


PLANS = [Plan("tpe", "s.db", "asha"), Plan("random", "journal", "none")]


def run(plan: Plan, learner: Learner | None = None, workers: int = 0) -> optuna.Study:
    storage: Any = plan.storage
    if plan.storage == "journal":
        lock = JournalFileOpenLock("journal", grace_period=1)  # a killed driver leaves it locked
        storage = JournalStorage(JournalFileBackend("journal", lock))
    return run_study(
        learner or Learner("segments"),
        TOY_SPACE,
        plan.strategy,
        4,
        name="x",
        storage=storage,
        workers=workers,
        rungs=RUNGS,
        pruning=plan.pruning,
        checkpoint_quota=0,
    )


def drive(plan: Plan, kill_at: int) -> None:
    """Run a driver in a process of its own, and kill it at a moment."""
    tempfile.tempdir = str(Path("temporary").absolute())
    Path("temporary").mkdir(exist_ok=True)
    moments = Moments(kill_at)
    event.listen(Engine, "commit", moments.count_commit)
    sys.addaudithook(moments.hear)
    study = run(plan)
    moments.kill_at = 0
    Path("moments").write_text(f"{moments.n}\n{ending(study)}")


def start(plan: Plan, kill_at: int = 0) -> int:
    process = processes.Process(target=drive, args=(plan, kill_at))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


class Ending(NamedTuple):
    """What a study must come to, with what lies in its folder and the segments that ran."""

    trials: str
    files: list[str]
    segments: list[str]

    @classmethod
    def of_folder(cls) -> Ending:
        trials = Path("moments").read_text().partition("\n")[2]
        lines = Path("segments").read_text().splitlines()
        segments = sorted(line.partition(" ")[2] for line in lines)
        # Optuna itself leaves the lock of a journal whose driver was killed.
        files = [path for path in Path().rglob("*") if not path.name.startswith("journal.lock")]
        return cls(trials, sorted(map(str, files)), segments)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.storage)
def test_a_driver_killed_before_any_operation_loses_nothing(plan, full, enter, report):
    enter("calm")
    assert start(plan) == 0
    calm = Ending.of_folder()
    n_moments = int(Path("moments").read_text().partition("\n")[0])
    assert n_moments > 50

    kills = range(1, n_moments + 1, 1 if full else 10)
    for kill_at in kills:
        enter(f"killed at {kill_at}")
        assert start(plan, kill_at) == -signal.SIGKILL
        assert start(plan) == 0
        killed = Ending.of_folder()
        assert killed.trials == calm.trials, kill_at
        assert killed.files == calm.files, kill_at
        # The one segment that was running runs again, and no other.
        assert sorted({*killed.segments}) == calm.segments, kill_at
        assert len(killed.segments) - len(calm.segments) <= 1, kill_at
    report(f"driver ({plan.storage}) killed before {len(kills)} of {n_moments} operations")


@dataclass(frozen=True)
class Doomed(Learner):
    """A `Learner` whose first process is killed before its n-th operation on a file."""

    n: int = 0

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        first = Path("first")
        if not first.exists():
            first.write_text(str(os.getpid()))
            sys.addaudithook(Moments(self.n).hear)
        return super().__call__(configuration, segment)


@pytest.mark.slow
def test_a_worker_killed_before_any_operation_loses_nothing(full, enter, report):
    plan = PLANS[0]
    enter("calm")
    calm = ending(run(plan))
    n_segments = len(Path("segments").read_text().splitlines())

    n_kills = 0
    for n in range(1, 100, 1 if full else 7):
        enter(f"killed at {n}")
        assert ending(run(plan, Doomed("segments", n=n), workers=1)) == calm, n
        assert {path.name for path in Path().iterdir()} <= {"first", "segments", *SQLITE_FILES}, n
        lines = Path("segments").read_text().splitlines()
        assert len(lines) - n_segments <= 1, n

        pids = {line.partition(" ")[0] for line in lines}
        if pids == {Path("first").read_text()}:
            break  # nobody was killed: there are fewer operations
        n_kills += 1
    assert n_kills > 1
    report(f"worker killed before {n_kills} operations")
