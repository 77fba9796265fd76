"""`kill -9` of the driver at random moments: what was told is kept, and the study ends as ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sqlalchemy import Engine, event

from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner, ending

N_TRIALS = 6
WAL = Path("results/studies.db-wal")
processes = multiprocessing.get_context("forkserver")  # a driver starts without its imports
processes.set_forkserver_preload(["hpo_lib.samplers.bayes", "alembic.command", "tests.toys"])


class Plan(NamedTuple):
    strategy: str
    pruning: str
    workers: int


SERIAL = [
    Plan("random", "median", 0),
    Plan("bayes", "asha", 0),
    Plan("tpe", "hyperband", 0),
    Plan("sobol", "none", 0),
    Plan("three_step", "none", 0),
]
PARALLEL = Plan("random", "none", 2)


def drive(plan: Plan, kill_at: int) -> None:
    """One driver; in the middle of a write, before SQLite's commit, it is killed."""
    moments = 0

    def count(*call: Any) -> None:
        nonlocal moments
        moments += len(call) == 1 or not call[2].startswith(("SELECT", "PRAGMA"))
        if kill_at and moments >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(study, trial):
        with Path("told").open("a") as file:
            file.write(json.dumps([trial.number, trial.state.name, trial.value]) + "\n")

    for name in ("after_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    run_study(
        Learner("segments"),
        TOY_SPACE,
        plan.strategy,
        N_TRIALS,
        name="study",
        workers=plan.workers,
        rungs=(1, 3),
        pruning=plan.pruning,
        callback=tell,
    )
    Path("moments").write_text(str(moments))


def start(plan: Plan, write: int = 0, growth: int = 0) -> bool:
    """Run a driver to its end; whether it was killed, in a write or when its file had grown."""
    process = processes.Process(target=drive, args=(plan, write))
    process.start()
    seen: set[tuple[int, int]] = set()
    while growth and process.is_alive():
        with suppress(FileNotFoundError):
            seen.add((WAL.stat().st_size, WAL.stat().st_mtime_ns))
        if len(seen) == growth:
            process.kill()
        process.join(0.001)  # leaves the processor to it
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def lost() -> int:
    """How many trials that a driver had told as finished were told again, or ended otherwise."""
    told = [json.loads(line) for line in Path("told").read_text().splitlines()]
    recorded = {t.number: [t.state.name, t.value] for t in open_study("study").trials}
    again = len(told) - len({number for number, *_ in told})
    return again + sum(recorded.get(number) != how for number, *how in told)


class Toll(NamedTuple):
    kills: int = 0
    lost: int = 0
    studies: int = 0


def kill_studies(plans: Iterator[Plan], n_kills: int, enter: Callable[[str], None]) -> Toll:
    """Every other kill strikes in the middle of a write, the others as the file grows."""
    rng = np.random.default_rng(n_kills)
    calm: dict[Plan, tuple[list[tuple], int]] = {}
    toll = Toll()
    while toll.kills < n_kills:
        plan = next(plans)
        if plan not in calm:
            enter(f"calm {plan}")
            assert not start(plan)
            calm[plan] = ending(open_study("study")), int(Path("moments").read_text())
        undisturbed, moments = calm[plan]
        enter(f"study {toll.studies} {plan}")
        toll = toll._replace(studies=toll.studies + 1)
        while toll.kills < n_kills:
            # of the growths only some are seen: most writes are two moments, and one growth
            kind, last = (("write", moments // 2), ("growth", moments // 8))[toll.kills % 2]
            if not start(plan, **{kind: int(rng.integers(1, last))}):
                break
            toll = toll._replace(kills=toll.kills + 1)
        assert not start(plan)
        toll = toll._replace(lost=toll.lost + lost())
        assert len(undisturbed) == N_TRIALS
        assert ending(open_study("study")) == undisturbed
    return toll


@pytest.mark.slow
def test_a_driver_killed_while_it_makes_the_file_leaves_none(enter):
    enter("new")
    for write in (2, 12, 20):
        assert start(SERIAL[0], write)
        assert not Path("results/studies.db").exists()


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_nothing(full, enter, report):
    n_serial, n_parallel = (90, 10) if full else (6, 1)
    serial = kill_studies(cycle(SERIAL), n_serial, enter)
    parallel = kill_studies(repeat(PARALLEL), n_parallel, enter)
    kills, lost, studies = map(sum, zip(serial, parallel, strict=True))
    report(f"driver killed {kills} times in {studies} studies, completed trials lost: {lost}")
    assert lost == 0
    assert kills == n_serial + n_parallel
