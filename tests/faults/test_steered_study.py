"""`kill -9` at many moments of a study whose space changes twice: it ends as ever."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from sqlalchemy import Engine, event

from hpo_lib.study.catalog import find_study, list_studies, open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import StudyRecord
from tests.faults.test_every_operation import Moments
from tests.study.test_change_space import MORE_OPTIONS
from tests.toys import TOY_SPACE, Learner, ending

STEPS = [(TOY_SPACE, 5), (MORE_OPTIONS, 8), (MORE_OPTIONS.fix(depth=8, optimizer="sgd"), 11)]
"""Spaces, one after the other, and the budget of each."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["hpo_lib.samplers.bayes", "alembic.command", "tests.toys"])


def steer() -> optuna.Study:
    """Go on from the version that the study is in; what a person would do after a kill."""
    study = find_study("study", "s.db")
    version = 1 if study is None else StudyRecord.of(study).version
    for space, n_trials in STEPS[version - 1 :]:
        study = run_study(
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
    assert study is not None
    return study


def drive(kill_at: int) -> None:
    moments = Moments(kill_at)
    event.listen(Engine, "commit", moments.count_commit)
    sys.addaudithook(moments.hear)
    steer()
    moments.kill_at = 0
    Path("moments").write_text(str(moments.n))


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
        sorted(path.name for path in Path().iterdir()),
    )


NAMES = ["study", "study (version 2)", "study (version 3)"]


@pytest.mark.slow
def test_a_steered_study_killed_at_any_moment_ends_as_ever(full, enter, report):
    enter("calm")
    assert start() == 0
    calm = what_is_left()
    assert calm[2:4] == (NAMES, ["study"])
    n_moments = int(Path("moments").read_text())

    n_kills = 20 if full else 5
    kills = np.random.default_rng(0).choice(n_moments, n_kills, replace=False) + 1
    for kill_at in map(int, kills):
        enter(f"killed at {kill_at}")
        assert start(kill_at) == -signal.SIGKILL
        assert start() == 0
        assert what_is_left() == calm, kill_at
    report(f"steered study killed before {n_kills} of {n_moments} operations")
