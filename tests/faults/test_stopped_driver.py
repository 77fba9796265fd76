"""A driver that was stopped for longer than its lease goes on: the study is another's by then."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Engine, event

from hpo_lib.exceptions import StudyHeldError
from hpo_lib.study import lease
from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import write_lease
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, Learner, ending

THIEF = {"token": "thief", "host": "elsewhere", "pid": 7, "process_started": 0, "renewed": 0}


def run(storage: Any, n_trials: int = 2, strategy: Any = "random") -> optuna.Study:
    options = {"name": "x", "storage": storage, "workers": 0, "rungs": (1, 3)}
    return run_study(Learner("log"), TOY_SPACE, strategy, n_trials, **options)


def content(file: str) -> list[str]:
    with sqlite3.connect(file) as connection:
        return list(connection.iterdump())


@contextmanager
def taken_over_before_write(n: int, file: str) -> Iterator[list[Any]]:
    """Let another driver take the study over before the n-th write; yield the content then."""
    contents: list[Any] = []
    n_writes = 0

    def count(connection: Any, cursor: Any, statement: str, *call: Any) -> None:
        nonlocal n_writes
        in_transaction = connection.connection.dbapi_connection.in_transaction
        if in_transaction or not statement.startswith(("INSERT", "UPDATE", "DELETE")):
            return
        n_writes += 1
        if n_writes == n:
            write_lease(optuna.load_study(study_name="x", storage=f"sqlite:///{file}"), THIEF)
            contents.append(content(file))

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield contents
    finally:
        event.remove(Engine, "before_cursor_execute", count)


@pytest.mark.slow
def test_a_driver_that_was_stopped_before_any_write_writes_nothing_more():
    for n in range(5, 60, 3):  # the first writes make the study and take its lease
        file = f"{n}.db"
        with taken_over_before_write(n, file) as contents, suppress(StudyHeldError):
            run(file)
        if not contents:
            break
        assert contents[0] == content(file)
    assert n > 20


class TakenOver(RandomSampler):
    """The study is taken over while the second trial is suggested."""

    def __init__(self, file: str) -> None:
        super().__init__(seed=0)
        self._file = file
        self.n_lines = 0

    def after_trial(self, *arguments: Any) -> None:
        """Keep no state."""

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
        if trial.number == 1:
            storage = JournalStorage(JournalFileBackend(self._file))
            write_lease(optuna.load_study(study_name="x", storage=storage), THIEF)
            self.n_lines = len(Path(self._file).read_text().splitlines())
        return {}


def test_a_stopped_driver_writes_nothing_more_to_a_journal():
    storage = JournalStorage(JournalFileBackend("journal"))
    sampler = TakenOver("journal")
    with pytest.raises(StudyHeldError, match="taken over by process 7 on elsewhere"):
        run(storage, strategy=sampler)
    assert len(Path("journal").read_text().splitlines()) == sampler.n_lines > 0


class Slipping(JournalFileBackend):
    """Journal whose driver is stopped just before its n-th write; another one runs the study."""

    def __init__(self, n: int) -> None:
        super().__init__("journal")
        self.n = n

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.n -= 1
        if self.n == 0:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(lease, "living_holder", lambda _: None)
                run(JournalStorage(JournalFileBackend("journal")))
        super().append_logs(logs)


@pytest.mark.slow
def test_the_one_write_that_may_slip_into_a_journal_changes_no_result(enter, full, report):
    calm = ending(run("memory"))
    n_added = 0
    for n in range(4, 60, 1 if full else 4):  # the first writes make the study and take its lease
        enter(f"stopped at {n}")
        slipping = Slipping(n)
        with suppress(StudyHeldError):
            run(JournalStorage(slipping))
        if slipping.n > 0:
            break

        # At worst it is a trial beyond the budget.
        found = ending(run(JournalStorage(JournalFileBackend("journal"))))
        assert found[:2] == calm
        n_added += len(found) - 2
    assert n > 30
    assert n_added <= 2
    report(f"journal: of {n - 4} moments for a late write {n_added} added a trial")


STOPPED = """
import os, signal, socket
socket.gethostname = lambda: "elsewhere"
from hpo_lib.space.search_space import SearchSpace
from tests.faults.test_stopped_driver import run

suggest = SearchSpace.suggest
def stop(space, trial):
    if trial.number == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return suggest(space, trial)
SearchSpace.suggest = stop
run("s.db", 6)
"""


@pytest.mark.slow
def test_a_driver_on_another_host_that_was_really_stopped_finds_the_study_taken(monkeypatch):
    driver = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
    )
    process = psutil.Process(driver.pid)
    while process.status() != psutil.STATUS_STOPPED:
        assert driver.poll() is None
    with pytest.raises(StudyHeldError, match=f"process {driver.pid} on elsewhere"):
        run("s.db", 6)

    monkeypatch.setattr(lease, "LEASE_SECONDS", 0)
    run("s.db", 5)
    driver.send_signal(signal.SIGCONT)
    errors = driver.communicate(timeout=60)[1].decode()
    assert "StudyHeldError" in errors
    run("s.db", 6)
    assert ending(open_study("x", "s.db")) == ending(run("calm.db", 6))
