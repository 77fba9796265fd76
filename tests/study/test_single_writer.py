"""The driver's storage shows what is in the file, and reads little of it again."""

from __future__ import annotations

from collections import Counter

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo_lib.study.single_writer import SingleWriterStorage
from hpo_lib.study.storage import open_storage
from tests.toys import TOY_SPACE

SAMPLER = optuna.samplers.RandomSampler(seed=0)


@pytest.fixture
def study() -> optuna.Study:
    """A new study as its driver opens it."""
    backend = open_storage("new.db")
    optuna.create_study(study_name="x", storage=backend)
    return drive(backend)


def drive(backend: optuna.storages.BaseStorage) -> optuna.Study:
    storage = SingleWriterStorage(backend, backend.get_study_id_from_name("x"), lambda: None)
    return optuna.load_study(study_name="x", storage=storage, sampler=SAMPLER)


def elsewhere() -> optuna.Study:
    """Open the study as another process sees it."""
    return optuna.load_study(study_name="x", storage=open_storage("new.db"))


def test_a_running_trial_is_read_again_only_after_a_write(study, monkeypatch):
    reads: Counter[int] = Counter()
    trials = [study.ask() for _ in range(4)]
    study.get_trials()
    read = RDBStorage.get_trial

    def count(storage, trial_id):
        reads[trial_id] += 1
        return read(storage, trial_id)

    monkeypatch.setattr(RDBStorage, "get_trial", count)
    monkeypatch.setattr(RDBStorage, "get_all_trials", None)
    trials[1].set_user_attr("a", 1)
    for _ in range(3):
        assert study.get_trials()[1].user_attrs == {"a": 1}
    study.tell(trials[2].number, 0.5)
    assert study.get_trials()[2].value == 0.5
    assert sorted(reads.values()) == [1, 1]


def test_parameters_are_written_before_anything_else(study):
    trial = study.ask()
    TOY_SPACE.suggest(trial)
    trial.report(0.25, 3)
    assert elsewhere().trials[0].params == trial.params
    trial = study.ask()
    TOY_SPACE.suggest(trial)
    study.tell(trial, 0.5)
    assert elsewhere().trials[1].params == trial.params


def test_everything_is_in_the_file_at_the_next_look(study):
    trial = study.ask()
    configuration = TOY_SPACE.suggest(trial)
    searched = {name: value for name, value in configuration.items() if name != "width"}
    assert elsewhere().trials[0].params == {}
    assert study.trials[0].params == searched  # this look has written them
    assert study.trials == elsewhere().trials
    trial.report(0.25, 3)
    trial.set_user_attr("a", 1)
    assert study.trials == elsewhere().trials
    study.tell(trial, 0.5)
    assert study.trials == elsewhere().trials
    assert drive(open_storage("new.db")).trials == study.trials


def test_trials_that_others_enqueue_are_asked_for_next(study):
    first = study.ask()
    other = elsewhere()
    other.enqueue_trial({"lr": 0.5})
    asked = study.ask()
    assert (first.number, asked.number) == (0, 1)
    assert asked.suggest_float("lr", 0, 1) == 0.5
    assert study.trials == elsewhere().trials


def test_a_trial_that_others_withdraw_is_not_asked_for(study):
    study.enqueue_trial({"lr": 0.5})
    assert study.get_trials(states=(TrialState.WAITING,))[0].number == 0
    backend = open_storage("new.db")
    backend.set_trial_state_values(study.trials[0]._trial_id, TrialState.FAIL)
    assert study.ask().number == 1
    assert study.trials == elsewhere().trials


def test_trials_that_others_add_in_between_take_their_numbers(study, monkeypatch):
    create = RDBStorage.create_new_trial

    def late(storage, study_id, template_trial=None):
        monkeypatch.setattr(RDBStorage, "create_new_trial", create)
        elsewhere().enqueue_trial({"lr": 0.5})
        elsewhere().add_trial(optuna.trial.create_trial(value=0.5))
        return create(storage, study_id, template_trial)

    monkeypatch.setattr(RDBStorage, "create_new_trial", late)
    assert study.ask().number == 2
    assert study.trials == elsewhere().trials
    assert study.ask().number == 0


def test_another_study_of_the_same_file_is_left_to_the_file(study):
    other = optuna.create_study(study_name="y", storage=open_storage("new.db"))
    other.add_trial(optuna.trial.create_trial(value=0.5))
    study.enqueue_trial({"lr": 0.5})
    seen = optuna.load_study(study_name="y", storage=study._storage)
    assert seen.trials == other.trials
    assert len(study.trials) == 1
