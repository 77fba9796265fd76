from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from hpo_lib.study.storage import open_storage
from hpo_lib.study.study_file import StudyFile, set_trial_attributes, written_here
from tests.toys import TOY_SPACE


@pytest.fixture
def study() -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        study_name="x", storage=open_storage("new.db"), sampler=sampler, direction="minimize"
    )


def elsewhere() -> optuna.Study:
    """As another process sees the study."""
    return optuna.load_study(study_name="x", storage=open_storage("new.db"))


def test_a_running_trial_is_read_again_only_after_a_write(study, monkeypatch):
    file = study._storage
    assert isinstance(file, StudyFile)
    reads: list[set[int]] = []
    read = file._backend._get_trials

    def record(study_id, states, included, greater):
        reads.append(set(included))
        return read(study_id, states, included, greater)

    with written_here(file, "x"):
        trials = [study.ask() for _ in range(4)]
        _ = study.get_trials()
        monkeypatch.setattr(file._backend, "_get_trials", record)
        trials[1].set_user_attr("a", 1)
        for _ in range(3):
            assert study.get_trials()[1].user_attrs == {"a": 1}
        study.tell(trials[2].number, 0.5)
        assert study.get_trials()[2].value == 0.5
    assert [len(one) for one in reads if one] == [1, 1]


def test_parameters_and_attributes_are_written_together(study):
    with written_here(study._storage, "x"):
        trial = study.ask()
        configuration = TOY_SPACE.suggest(trial)
        assert elsewhere().trials[0].params == {}
        set_trial_attributes(study._storage, trial._trial_id, {"a": 1}, {3: 0.25})
        seen = elsewhere().trials[0]
        assert (seen.user_attrs, seen.intermediate_values) == ({"a": 1}, {3: 0.25})
        assert seen.params == {k: v for k, v in configuration.items() if k != "width"}
        assert study.trials[0] == seen


def test_parameters_are_there_for_whoever_reads_next(study):
    with written_here(study._storage, "x"):
        trial = study.ask()
        TOY_SPACE.suggest(trial)
        assert study.trials[0].params == trial.params


def test_what_others_queue_is_noticed_and_what_they_write_later_too(study):
    with written_here(study._storage, "x"):
        first = study.ask()
        assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
        elsewhere().enqueue_trial({"lr": 0.5})
        assert study.trials[1].state == TrialState.WAITING
        assert study.ask().number == 1
    elsewhere().tell(first.number, 0.5)
    assert study.trials[0].value == 0.5


def test_when_others_may_write_again_all_trials_are_known_and_looked_at_anew(study):
    with written_here(study._storage, "x"):
        study.tell(study.ask(), 0.5)
        running = study.ask()
    assert study.best_value == 0.5  # before anybody has looked at all trials
    elsewhere().tell(running.number, 0.25)
    assert study.best_value == 0.25
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * 2
