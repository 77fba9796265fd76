"""The record of trials and studies: what is written is read, and all agree on the incumbent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo_lib.comparison.run import comparison_frame
from hpo_lib.exceptions import StudyError
from hpo_lib.formatting import format_number
from hpo_lib.plots.study import any_time_data, learning_curves_data
from hpo_lib.plots.trials import points_data, trial_curves_data
from hpo_lib.study.catalog import list_studies, open_study, trials_frame
from hpo_lib.study.retrain import best_configuration
from hpo_lib.study.run import describe_best, run_study
from hpo_lib.study.stopping import NoImprovement, TargetValue
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import (
    RECORD_KEY,
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    TrialRecord,
    incumbent,
    own_trials,
    read_lease,
    recorded_trials,
    running_best,
    sort_by_value,
    stop_reason,
    study_space,
    write_lease,
)
from hpo_lib.trials.copies import copy_for_warm_start
from hpo_lib.widgets.monitor_summary import describe_study
from tests.toys import TOY_SPACE, Learner

WHOLE = TrialRecord(
    configuration={"lr": 0.1, "optimizer": "sgd"},
    suggest_seconds=0.25,
    train_loss=(2.0, 1.0),
    validation_loss=(2.5, 1.5),
    validation_error=(0.5, 0.25),
    seconds=(3.0, 4.0),
    failed_seconds=1.0,
    started=100.0,
    finished=108.0,
    worker="local/0",
    status="failed",
    reason="ValueError: no",
    traceback="Traceback",
    checkpoints={"1": "study-0123/00000/1.pt"},
    warm_start="earlier#3",
    outside="lr: too high",
    promoted=True,
)


def study_with(*trials: optuna.trial.FrozenTrial) -> optuna.Study:
    study = optuna.create_study(study_name="x")
    study.add_trials(trials)
    return study


# ------------------------------------------------------------------------------ the trial's record


def test_every_field_of_a_trials_record_is_written_and_read():
    changed = [one.name for one in fields(TrialRecord)]
    assert all(getattr(WHOLE, name) != getattr(TrialRecord(), name) for name in changed)

    storage = open_storage("s.db")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    WHOLE.write(storage, trial._trial_id)

    (seen,) = study.get_trials()
    assert set(seen.user_attrs) == {RECORD_KEY}
    assert TrialRecord.read(seen.user_attrs) == WHOLE
    assert TrialRecord.read({}) == TrialRecord()
    assert TrialRecord().to_dict() == {"suggest_seconds": 0.0, "failed_seconds": 0.0}


def test_fields_of_a_later_version_are_passed_over():
    record = json.loads(json.dumps({**WHOLE.to_dict(), "energy": 7}))
    assert TrialRecord.read({RECORD_KEY: record}) == WHOLE
    trial = create_trial(state=TrialState.FAIL, user_attrs={RECORD_KEY: {"status": "molten"}})
    assert RecordedTrial.from_trial(trial).outcome == TrialOutcome.FAILED


def test_attributes_of_version_0_1_0_are_read():
    attributes = {**vars(WHOLE), "deciding_seconds": 0.25, "evidence": "earlier#3"}
    del attributes["suggest_seconds"], attributes["warm_start"]
    assert TrialRecord.read(json.loads(json.dumps(attributes))) == WHOLE
    changed = TrialRecord(configuration={"lr": 0.2})
    assert TrialRecord.read({**attributes, RECORD_KEY: changed.to_dict()}) == changed


USERS_OWN = {"seconds": "many", "evidence": 1, "status": [], "warm_start": True, "lease": "a flat"}


@pytest.mark.parametrize("own", [USERS_OWN, {**USERS_OWN, RECORD_KEY: "mine"}, {RECORD_KEY: 7}])
def test_a_users_own_attributes_disturb_nothing(own):
    trial = create_trial(
        params={"lr": 0.5},
        distributions={"lr": optuna.distributions.FloatDistribution(0, 1)},
        value=0.5,
        user_attrs=own,
    )
    study = study_with(trial)
    for key, value in own.items():
        study.set_user_attr(key, value)

    (recorded,) = own_trials(study)
    assert recorded.record == TrialRecord()
    assert (recorded.configuration, recorded.value) == ({"lr": 0.5}, 0.5)
    assert (recorded.is_own, recorded.is_chosen, recorded.spent_seconds) == (True, True, 0.0)
    assert StudyRecord.of(study) == StudyRecord()
    assert read_lease(study) == {}
    assert incumbent(study) == recorded
    assert trials_frame(study)["best"].tolist() == [0.5]


@pytest.mark.parametrize("storage", ["s.db", "memory"])
def test_a_users_own_attributes_stay_and_a_study_goes_on(storage):
    backend = open_storage(storage)

    def note(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        for key, value in USERS_OWN.items():
            if key != "lease":
                study.set_user_attr(key, value)

    def run(n_trials: int) -> optuna.Study:
        return run_study(
            lambda configuration: float(configuration["lr"]),
            TOY_SPACE,
            "random",
            n_trials,
            name="x",
            storage=backend,
            workers=0,
            callback=note,
        )

    run(2)
    study = run(4)
    assert study.user_attrs["seconds"] == "many"
    assert [trial.outcome for trial in own_trials(study)] == [TrialOutcome.COMPLETED] * 4
    assert {len(trial.user_attrs) for trial in study.trials} == {1}


@pytest.mark.parametrize(
    ("state", "status", "outcome"),
    [
        (TrialState.WAITING, None, TrialOutcome.WAITING),
        (TrialState.RUNNING, "diverged", TrialOutcome.RUNNING),
        (TrialState.COMPLETE, None, TrialOutcome.COMPLETED),
        (TrialState.PRUNED, "pruned", TrialOutcome.PRUNED),
        (TrialState.FAIL, None, TrialOutcome.FAILED),
        (TrialState.FAIL, "timed_out", TrialOutcome.TIMED_OUT),
    ],
)
def test_the_outcome_follows_from_state_and_status(state, status, outcome):
    record = {} if status is None else {RECORD_KEY: {"status": status}}
    value = 0.5 if state == TrialState.COMPLETE else None
    trial = RecordedTrial.from_trial(create_trial(state=state, value=value, user_attrs=record))
    assert trial.outcome == outcome
    assert trial.is_finished == (outcome not in (TrialOutcome.WAITING, TrialOutcome.RUNNING))
    assert trial.is_failed == (state == TrialState.FAIL)


# ------------------------------------------------------------------------------ the study's record


def test_every_field_of_a_studys_record_is_written_and_read():
    study = optuna.create_study(storage=open_storage("s.db"))
    assert StudyRecord.of(study) == StudyRecord()
    with pytest.raises(StudyError, match="has no search space"):
        study_space(study)

    versions = {"name": "toy", "version": 2, "next_version": 3, "earlier": [{"n_trials": 3}]}
    whole = StudyRecord(
        TOY_SPACE.to_yaml(), {"budget": 3}, 7, "budget spent", True, "ab" * 16, **versions
    )
    assert all(getattr(whole, n) != getattr(StudyRecord(), n) for n in vars(whole))
    StudyRecord().write(study, **vars(whole))
    assert StudyRecord.of(study) == whole
    assert whole.write(study, n_trials=9) == replace(whole, n_trials=9) == StudyRecord.of(study)
    assert (study_space(study), stop_reason(study)) == (TOY_SPACE, "budget spent")
    assert set(study.user_attrs) == {RECORD_KEY}


def test_a_studys_attributes_of_version_0_1_0_are_read_and_renamed():
    study = optuna.create_study()
    settings = {"strategy": "hpo_lib.bayes.BayesSampler", "evidence_from": "earlier", "seed": 3}
    attributes = {"settings": settings, "space": "a", "ready": True, "identity": "ab" * 16}
    for name, value in {**attributes, "n_trials": 4, "stopped": "budget spent"}.items():
        study.set_user_attr(name, value)

    renamed = {"strategy": "BayesSampler", "warm_start_from": "earlier", "seed": 3}
    expected = StudyRecord("a", renamed, 4, "budget spent", True, "ab" * 16)
    assert StudyRecord.of(study) == expected
    StudyRecord.of(study).write(study, n_trials=5)
    assert StudyRecord.of(study) == replace(expected, n_trials=5)


def test_a_lease_is_written_read_and_given_back():
    study = optuna.create_study(storage=open_storage("s.db"))
    write_lease(study, {"pid": 7})
    assert read_lease(study) == {"pid": 7}
    write_lease(study, None)
    assert read_lease(study) == {}


# ------------------------------------------------------------------------------ the incumbent


def test_the_running_best_passes_over_what_has_no_value():
    best = running_best([float("nan"), 3.0, float("nan"), 1.0, 2.0])
    assert best.tolist()[1:] == [3.0, 3.0, 1.0, 1.0]
    assert len(running_best([])) == 0


def test_the_incumbent_is_the_first_of_equals_with_a_finite_value():
    infinite = create_trial(value=float("inf"))
    assert incumbent(study_with(infinite)) is None
    best = incumbent(study_with(infinite, create_trial(value=1.0), create_trial(value=1.0)))
    assert best is not None
    assert best.number == 1


@pytest.fixture
def warm(tmp_path: Path) -> optuna.Study:
    """A study whose warm-start trials are all better than its own."""
    storage = open_storage("s.db")
    options = {"storage": storage, "workers": 0}
    learner = Learner(str(tmp_path / "log"))
    earlier = run_study(learner, TOY_SPACE, "random", 12, name="earlier", **options)
    best = sort_by_value(recorded_trials(earlier))[:3]

    run_study(learner, TOY_SPACE, "random", 1, name="warm", seed=1, **options)
    study = open_study("warm", storage)
    for trial in best:
        frozen = earlier.trials[trial.number]
        source = f"earlier#{trial.number}"
        study.add_trial(copy_for_warm_start(frozen, source, trial.configuration, TOY_SPACE))
    run_study(learner, TOY_SPACE, "random", 5, name="warm", seed=1, **options)

    own = [trial.value for trial in own_trials(study)]
    copied = [trial.value for trial in recorded_trials(study) if not trial.is_own]
    assert (len(own), len(copied)) == (5, 3)
    assert max(copied) < min(own)
    return study


def by_frame(study: optuna.Study) -> float:
    return trials_frame(study)["best"].iloc[-1]


def by_list(study: optuna.Study) -> float:
    return list_studies("s.db").set_index("name").loc["warm", "best"]


def by_any_time(study: optuna.Study) -> float:
    return any_time_data(study).best[-1]


def by_points(study: optuna.Study) -> float:
    points = points_data(study)
    assert points.incumbent is not None
    return points.values[points.incumbent]


def by_curves_of_trials(study: optuna.Study) -> float:
    (curve,) = trial_curves_data(study)["incumbent"].values()
    return curve[-1]


def by_learning_curves(study: optuna.Study) -> float:
    [best] = learning_curves_data(study, 1).values()
    return best.validation_error[-1]


def by_target(study: optuna.Study) -> float:
    """Find the lowest target that stops the study, among the values of all its trials."""
    values = sorted(trial.value for trial in study.trials if trial.value is not None)
    return next(value for value in values if TargetValue(value)(study))


def by_patience(study: optuna.Study) -> float:
    """Find the number of trials since the last improvement."""
    trials = own_trials(study)
    patience = next(n for n in range(1, 99) if not NoImprovement(n)(study))
    value = trials[len(trials) - patience].value
    assert value is not None
    return value


def by_retraining(study: optuna.Study) -> float:
    configuration = best_configuration("warm", "s.db")
    (trial,) = (t for t in recorded_trials(study) if t.configuration == configuration)
    assert trial.value is not None
    return trial.value


def by_comparison(study: optuna.Study) -> float:
    return comparison_frame(study, "random", 1)["best"].iloc[-1]


@pytest.mark.parametrize(
    "find",
    [
        by_frame,
        by_list,
        by_any_time,
        by_points,
        by_curves_of_trials,
        by_learning_curves,
        by_target,
        by_patience,
        by_retraining,
        by_comparison,
    ],
)
def test_all_places_name_the_same_best_trial(
    warm: optuna.Study, find: Callable[[optuna.Study], float]
):
    best = incumbent(warm)
    assert best is not None
    assert find(warm) == best.value


def test_all_texts_name_the_same_best_trial(warm: optuna.Study):
    best = incumbent(warm)
    assert best is not None
    assert f"Best: {best.value:.4f}, trial {best.number}." in describe_study(warm)
    assert describe_best(warm) == f"best {format_number(best.value)}"
