"""A pruned trial is woken and ends as if it had never been stopped."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hpo_lib.exceptions import StudyError
from hpo_lib.exchange.tensorboard import write_tensorboard
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.promotion import promote
from hpo_lib.study.steering.versions import change_space
from hpo_lib.trials import TrialOutcome, incumbent, recorded_trials
from tests.toys import TOY_SPACE, Learner

CALL = {"name": "demo", "storage": "s.db", "workers": 0, "rungs": (1, 3)}


def search(n_trials=9, pruning="asha", **options):
    options = {**CALL, **options}
    return run_study(Learner("log"), TOY_SPACE, "random", n_trials, pruning=pruning, **options)


def pruned(study) -> list[int]:
    trials = recorded_trials(study)
    return [trial.number for trial in trials if trial.outcome == TrialOutcome.PRUNED]


def kept() -> list[int]:
    return sorted(int(path.name) for path in Path("s.db.checkpoints").glob("*/*"))


def test_a_promoted_trial_goes_on_from_its_checkpoint_to_the_end_it_would_have_had():
    undisturbed = recorded_trials(search(pruning=None, name="whole", storage="whole.db"))
    study = search()
    first, second, *others = pruned(study)
    assert kept() == pruned(study)
    n_segments = len(Path("log").read_text().splitlines())

    promote("demo", first, second, storage="s.db")
    after = search()
    trials = recorded_trials(after)
    for number in (first, second):
        assert trials[number].outcome == "completed"
        assert trials[number].value == undisturbed[number].value
        assert trials[number].record.validation_error == (
            undisturbed[number].record.validation_error
        )
    spans = [line.split()[2:] for line in Path("log").read_text().splitlines()[n_segments:]]
    assert ["0", "1"] not in spans
    assert len(trials) == 9
    assert kept() == others
    assert incumbent(after) == min((t for t in trials if t.is_completed), key=lambda t: t.value)

    # Once is enough, and nothing old was touched.
    assert promote("demo", first, storage="s.db").study_name == after.study_name
    old = optuna.load_study(study_name="demo", storage="sqlite:///s.db")
    assert old.trials[first].state.name == "PRUNED"


def test_the_worst_checkpoints_go_first_within_the_quota_and_none_are_kept_with_0():
    study = search()
    trials = recorded_trials(study)
    numbers = sorted(pruned(study), key=lambda n: trials[n].record.validation_error[-1])
    size = sum(path.stat().st_size for path in Path("s.db.checkpoints").glob("*/*/*"))
    search(checkpoint_quota=size - 1)
    assert kept() == sorted(numbers[:-1])
    search(checkpoint_quota=0)
    assert kept() == []

    # Without its checkpoint a trial begins anew.
    whole = recorded_trials(search(pruning=None, name="whole", storage="whole.db"))
    promote("demo", numbers[0], storage="s.db")
    assert recorded_trials(search())[numbers[0]].value == whole[numbers[0]].value


@pytest.mark.slow
def test_a_journal_and_workers_go_on_too():
    journal = JournalStorage(JournalFileBackend("journal"))
    options = {"storage": journal, "workers": 2}
    number = pruned(search(**options))[0]
    promote("demo", number, storage=journal)
    study = search(**options)
    assert recorded_trials(study)[number].is_completed
    assert study.study_name == "demo (version 2)"
    change_space("demo", TOY_SPACE.fix(depth=4), storage=journal)
    options |= {"storage": JournalStorage(JournalFileBackend("journal"))}
    study = run_study(
        Learner("log"), TOY_SPACE.fix(depth=4), "random", 12, pruning="asha", **CALL | options
    )
    assert len(study.trials) == 12
    assert {t.outcome for t in recorded_trials(study)} <= {"completed", "pruned", "outside"}


def test_a_tracker_gets_what_a_promoted_trial_came_to():
    study = search()
    number = pruned(study)[0]
    write_tensorboard(study, "logs")
    promote("demo", number, storage="s.db")
    write_tensorboard(search(), "logs")
    names = {path.name for path in Path("logs").iterdir()}
    assert {f"trial_{number:04d}", f"trial_{number:04d}_promoted"} <= names
    assert len(names) == 10


def test_what_was_not_pruned_is_refused():
    study = search()
    completed = next(t.number for t in recorded_trials(study) if t.is_completed)
    with pytest.raises(StudyError, match=rf"must be pruned ones, got \[{completed}, 99\]"):
        promote("demo", completed, 99, storage="s.db")
