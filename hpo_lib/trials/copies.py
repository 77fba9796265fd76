"""Make trials of one study out of those of another one, or of another program."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, Value
from hpo_lib.space.yaml_io import label
from hpo_lib.trials import RECORD_KEY, RecordedTrial, TrialOutcome, TrialRecord

_STATES = {
    TrialOutcome.COMPLETED: TrialState.COMPLETE,
    TrialOutcome.PRUNED: TrialState.PRUNED,
}


def copy_for_warm_start(
    trial: FrozenTrial,
    source: str,
    configuration: Configuration,
    space: SearchSpace,
) -> FrozenTrial:
    """Return a completed trial of an earlier study as a warm-start trial of another one.

    Args:
        trial: the completed trial.
        source: where it was first trained, as `<study>#<number>`.
        configuration: its values in the other study's space.
        space: that space.
    """
    recorded = RecordedTrial.from_trial(trial).as_evidence()
    record = replace(recorded.record, configuration=configuration, warm_start=source, outside=None)
    copied = _completed_trial(record, recorded.final_value, space)
    copied.user_attrs = {**trial.user_attrs, **copied.user_attrs}
    copied.intermediate_values = trial.intermediate_values
    return copied


def imported_trial(
    value: float,
    configuration: Configuration,
    space: SearchSpace,
) -> FrozenTrial:
    """Return a training that another program made as a completed trial of one epoch.

    It has no intermediate values: epochs of two programs do not compare.

    Args:
        value: its final value, finite.
        configuration: its values in the study's space.
        space: that space.
    """
    record = TrialRecord(
        configuration=configuration, validation_error=(value,), status=TrialOutcome.COMPLETED
    )
    return _completed_trial(record, value, space)


def _completed_trial(record: TrialRecord, value: float, space: SearchSpace) -> FrozenTrial:
    return create_trial(
        value=value,
        user_attrs={RECORD_KEY: record.to_dict()},
        **_searched(record.configuration or {}, space),
    )


def _searched(configuration: Configuration, space: SearchSpace) -> dict[str, Any]:
    """Return what Optuna stores of a configuration: no fixed values."""
    searched = [parameter for parameter in space.searched if parameter.name in configuration]
    return {
        "params": {parameter.name: configuration[parameter.name] for parameter in searched},
        "distributions": {parameter.name: parameter.distribution() for parameter in searched},
    }


def project(
    configuration: Configuration,
    space: SearchSpace,
    assumed: Mapping[str, Value],
) -> Configuration:
    """Return a configuration of one version of a space as one of another version.

    Args:
        configuration: its values in the one version.
        space: the other version.
        assumed: the value that a hyperparameter has where a version does not name it.

    Raises:
        SpaceError: it lies outside, or the value of a hyperparameter in it is not known.
    """
    problems: list[str] = []
    for name, value in configuration.items():
        if name not in space and (name not in assumed or assumed[name] != value):
            problems.append(f"{label(name)}: is not searched any more, had {value!r}")

    known = {**assumed, **configuration}
    inside: Configuration = {}
    try:
        inside = space.check({name: value for name, value in known.items() if name in space})
    except SpaceError as error:
        problems += error.problems
    for name in inside.keys() - known.keys():
        problems.append(f"{label(name)}: its value in this trial is not known")

    if problems:
        raise SpaceError(problems)
    return inside


def copy_for_version(
    trial: FrozenTrial,
    space: SearchSpace,
    assumed: Mapping[str, Value],
) -> FrozenTrial:
    """Return a trial of a study for another version of its space, as it was or as outside.

    Args:
        trial: the trial in the version before.
        space: the new version.
        assumed: the value that a hyperparameter has where a version does not name it.
    """
    if trial.state == TrialState.WAITING:  # whether it lies inside is seen when it starts
        return trial

    recorded = RecordedTrial.from_trial(trial).as_evidence()
    try:
        configuration = project(recorded.configuration, space, assumed)
    except SpaceError as error:
        return _outside(trial, recorded.record, "; ".join(error.problems))
    return _inside(trial, recorded, configuration, space)


def _outside(trial: FrozenTrial, record: TrialRecord, reason: str) -> FrozenTrial:
    """Return a trial that Optuna's samplers and plots leave out, with the whole record."""
    moved = copy.deepcopy(trial)
    moved.distributions = {}
    moved.params = {}
    moved.values = None
    moved.state = TrialState.FAIL
    moved.datetime_complete = trial.datetime_complete or datetime.now()

    return _with_record(moved, replace(record, outside=reason))


def _inside(
    trial: FrozenTrial,
    recorded: RecordedTrial,
    configuration: Configuration,
    space: SearchSpace,
) -> FrozenTrial:
    """Return a trial with its values in the new space; one that was outside is restored."""
    moved = copy.deepcopy(trial)
    searched = _searched(configuration, space)
    moved.distributions = searched["distributions"]
    moved.params = searched["params"]

    if recorded.record.outside is not None:
        is_unfinished = recorded.record.status is None
        unfinished_or_failed = TrialState.RUNNING if is_unfinished else TrialState.FAIL
        moved.state = _STATES.get(recorded.outcome, unfinished_or_failed)
        moved.values = _values(recorded)
        moved.datetime_complete = None if is_unfinished else trial.datetime_complete

    record = replace(recorded.record, configuration=configuration, outside=None)
    return _with_record(moved, record)


def _values(trial: RecordedTrial) -> list[float] | None:
    """Return the values of a trial as Optuna stores them: of a pruned one the last it reported."""
    if trial.outcome == TrialOutcome.PRUNED and trial.intermediate_values:
        return [trial.intermediate_values[max(trial.intermediate_values)]]
    return None if trial.value is None else [trial.value]


def reopened(trial: FrozenTrial) -> FrozenTrial:
    """Return a pruned trial as one that runs and is not pruned again."""
    moved = copy.deepcopy(trial)
    moved.values = None
    moved.state = TrialState.RUNNING
    moved.datetime_complete = None

    record = replace(TrialRecord.read(trial.user_attrs), status=None, reason=None, promoted=True)
    return _with_record(moved, record)


def drop_pickles(trial: FrozenTrial) -> None:
    """Remove what Optuna's CMA-ES would unpickle, which runs code; it then begins afresh."""
    kept = [key for key in trial.system_attrs if ":optimizer" not in key]
    trial.system_attrs = {key: trial.system_attrs[key] for key in kept}


def _with_record(trial: FrozenTrial, record: TrialRecord) -> FrozenTrial:
    """Return a trial of one's own with another record."""
    trial.user_attrs = {**trial.user_attrs, RECORD_KEY: record.to_dict()}
    return trial
