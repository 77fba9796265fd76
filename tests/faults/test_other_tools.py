"""Other tools on the record: they read while a study runs, and their studies are opened here."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo_lib.exceptions import StudyError
from hpo_lib.plots.study import any_time_data
from hpo_lib.study.catalog import list_studies, open_study, trials_frame
from hpo_lib.study.run import run_study
from hpo_lib.widgets.surrogate_explorer import SurrogateExplorer
from tests.faults.test_lease import PATIENCE
from tests.toys import TOY_SPACE, Learner, ending, record_of

N_TRIALS = 8


def read(file: str, progress, stop, found) -> None:
    """What a dashboard does: the study opened anew, and tables read with SQL."""
    bad = reads = 0
    while not stop.is_set():
        trials = optuna.load_study(study_name="study", storage=f"sqlite:///{file}").trials
        with sqlite3.connect(file) as connection:
            counted = connection.execute(
                "SELECT (SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'), "
                "(SELECT COUNT(*) FROM trial_values)"
            ).fetchone()
        connection.close()
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        bad += any(t.value != record_of(t).validation_error[-1] for t in complete)
        bad += [t.number for t in trials] != list(range(len(trials)))
        bad += counted[0] != counted[1] or counted[0] < len(complete)
        reads += 1
        progress.release()
    found.put((bad, reads))


@pytest.mark.slow
def test_readers_see_whole_trials_and_disturb_nobody(report):
    options = {"name": "study", "workers": 0, "rungs": (1, 3)}
    calm = run_study(Learner("calm"), TOY_SPACE, "random", N_TRIALS, storage="memory", **options)
    file = str(Path("s.db").absolute())
    run_study(Learner("log"), TOY_SPACE, "random", 1, storage=file, **options)
    context = multiprocessing.get_context("spawn")
    progress, stop, found = context.Semaphore(0), context.Event(), context.Queue()
    reader = context.Process(target=read, args=(file, progress, stop, found))
    reader.start()
    assert progress.acquire(timeout=PATIENCE)
    # a reader that never ends its transaction
    long = sqlite3.connect(file, isolation_level=None)
    long.execute("BEGIN")
    before = long.execute("SELECT COUNT(*) FROM trials").fetchone()

    def while_it_reads(study, trial):
        assert progress.acquire(timeout=PATIENCE)

    study = run_study(
        *(Learner("log"), TOY_SPACE, "random", N_TRIALS),
        storage=file,
        callback=while_it_reads,
        **options,
    )
    assert long.execute("SELECT COUNT(*) FROM trials").fetchone() == before
    long.close()
    stop.set()
    bad, reads = found.get(timeout=PATIENCE)
    reader.join()
    report(f"record read {reads} times by another process while it grew, inconsistent: {bad}")
    assert bad == 0
    assert ending(study) == ending(calm)


@pytest.fixture
def foreign() -> str:
    """Studies that Optuna made, one of them as ours are but for what run_study writes."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        if trial.number == 3:
            raise optuna.TrialPruned
        return x**2 + (kind == "b")

    url = "sqlite:///foreign.db"
    study = optuna.create_study(storage=url, study_name="theirs")
    study.optimize(objective, n_trials=8)
    study.ask()
    study.enqueue_trial({"x": 0.5, "kind": "a"})
    optuna.create_study(storage=url, study_name="empty")
    most = optuna.create_study(storage=url, study_name="most", direction="maximize")
    most.optimize(objective, n_trials=2)
    both = optuna.create_study(storage=url, study_name="both", directions=["minimize"] * 2)
    both.optimize(lambda trial: (objective(trial), 1.0), n_trials=2)
    return "foreign.db"


def test_a_study_made_elsewhere_is_listed_read_and_drawn(foreign):
    listed = list_studies(foreign).set_index("name")
    assert list(listed.trials) == [9, 0, 2, 2]
    assert list(listed.best.notna()) == [True, False, False, False]
    study = open_study("theirs", foreign)
    frame = trials_frame(study)
    assert list(frame.state) == [*["complete"] * 3, "pruned", *["complete"] * 4, "running"]
    assert {"x", "kind"} <= set(frame.columns)
    assert frame.best.iloc[-1] == study.best_value
    curve = any_time_data(study)
    assert curve.best[-1] == study.best_value
    assert trials_frame(open_study("empty", foreign)).empty


def test_what_cannot_be_read_here_is_refused_in_a_sentence(foreign):
    with pytest.raises(StudyError, match="'theirs' has no search space: run_study did not make"):
        SurrogateExplorer(open_study("theirs", foreign))
    for name, directions in (("most", "'maximize'"), ("both", "'minimize', 'minimize'")):
        with pytest.raises(StudyError, match=rf"'{name}' must minimize .*, got \[{directions}\]"):
            open_study(name, foreign)
