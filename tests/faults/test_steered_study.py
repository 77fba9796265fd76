"""`kill -9` of a study whose space changes twice, with held values and a woken trial."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from sqlalchemy import Engine, event

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import find_study, list_studies, open_study
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.promotion import promote
from hpo_lib.trials import StudyRecord, TrialOutcome, recorded_trials
from tests.faults.test_every_operation import Moments
from tests.study.test_change_space import MORE_OPTIONS
from tests.toys import TOY_SPACE, Learner, ending

STEPS = [(TOY_SPACE, 5), (MORE_OPTIONS, 8), (MORE_OPTIONS.fix(depth=8, optimizer="sgd"), 11)]
"""Spaces, one after the other, and the budget of each."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["hpo_lib.samplers.bayes", "alembic.command", "tests.toys"])


def steer(change: Callable[[], None] = lambda: None) -> optuna.Study:
    """Go on from the version that the study is in; what a person would do after a kill."""
    study = find_study("study", "s.db")
    version = 1 if study is None else StudyRecord.of(study).version
    for space, n_trials in STEPS[version - 1 :]:
        change()
        study = run(space, n_trials)
    assert study is not None
    if StudyRecord.of(study).version == len(STEPS):
        trials = recorded_trials(study)
        pruned = [trial.number for trial in trials if trial.outcome == TrialOutcome.PRUNED]
        change()
        promote("study", pruned[-1], storage="s.db")
    return run(*STEPS[-1])


def run(space: SearchSpace, n_trials: int) -> optuna.Study:
    return run_study(
        Learner("segments"),
        space,
        "bayes",
        n_trials,
        name="study",
        storage="s.db",
        workers=0,
        rungs=(1, 3),
        pruning="asha",
        change_space=True,
    )


def drive(kill_at: int) -> None:
    moments = Moments(kill_at)
    event.listen(Engine, "commit", moments.count_commit)
    sys.addaudithook(moments.hear)
    changes: list[int] = []
    steer(lambda: changes.append(moments.n))
    moments.kill_at = 0
    Path("moments").write_text(json.dumps([moments.n, *changes]))


def start(kill_at: int = 0) -> int:
    process = processes.Process(target=drive, args=(kill_at,))
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


def what_is_left() -> tuple[object, ...]:
    study = open_study("study", "s.db")
    earlier = [optuna.load_study(study_name=n, storage="sqlite:///s.db") for n in NAMES[:-1]]
    return (
        ending(study),
        [ending(one) for one in earlier],
        optuna.get_all_study_names("sqlite:///s.db"),
        list(list_studies("s.db")["name"]),
        sorted(path.name for path in Path().rglob("*") if path.parent.name[:6] != "s.db.c"),
    )


NAMES = ["study", *(f"study (version {n})" for n in (2, 3, 4))]


@pytest.mark.slow
def test_a_steered_study_killed_at_any_moment_ends_as_ever(full, enter, report):
    enter("calm")
    assert start() == 0
    calm = what_is_left()
    assert calm[2:4] == (NAMES, ["study"])
    n_moments, _, *changes = json.loads(Path("moments").read_text())
    assert len(changes) == 3

    # Some right after each change begins, the others anywhere.
    rng = np.random.default_rng(0)
    n_each = 3 if full else 1
    during = [change + int(step) for change in changes for step in rng.integers(1, 25, n_each)]
    anywhere = rng.choice(n_moments, 14 if full else 2, replace=False) + 1
    kills = sorted({*during, *anywhere.tolist()})
    for kill_at in kills:
        enter(f"killed at {kill_at}")
        assert start(kill_at) == -signal.SIGKILL
        assert start() == 0
        assert what_is_left() == calm, kill_at
    report(f"steered study killed before {len(kills)} of {n_moments} operations")
