"""Record of a study and its trials: the one package that reads and writes their attributes.

Optuna stores parameters, values and states. Everything else that a study records about a trial
stands in one JSON object under the user attribute `hpo_lib`, so that a trial's record is written
whole or not at all and a user's own attributes never meet ours. The study has such an object, too.
Records of version 0.1.0, which had one attribute per field, are read as well.

A warm-start trial was copied from an earlier study. The models of the new study are fitted to it,
and it is never the incumbent: `own_trials`, `incumbent` and `running_best` leave it out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, cast

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.exceptions import StudyError
from hpo_lib.objective import CURVES
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials.old_records import read_old_record, read_old_study_record

VALIDATION_ERROR = "validation error (fraction)"

RECORD_KEY = "hpo_lib"
"""User attribute of trials and studies that holds our record."""

LEASE_KEY = "lease"
"""User attribute of a study that names the driver which writes it."""

_NOTE_KEY = "note"
"""User attribute of a study with a note on it; with a number at the end, on a trial."""

_QUEUED_KEY = "fixed_params"
"""System attribute in which Optuna keeps the values of an enqueued trial."""


class TrialOutcome(StrEnum):
    """Outcome of a trial."""

    WAITING = "waiting"
    """Enqueued and not started yet."""
    RUNNING = "running"
    """Started; not at the end of its budget yet."""
    COMPLETED = "completed"
    """Trained to the full budget: it has a value."""
    PRUNED = "pruned"
    """Stopped at a rung."""
    FAILED = "failed"
    """Its objective raised or returned no result that can be used."""
    DIVERGED = "diverged"
    """Its loss or value stopped being finite."""
    TIMED_OUT = "timed_out"
    """A segment ran longer than its time limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """Its process held more memory than its limit."""
    LOST = "lost"
    """Its worker was lost several times; this says nothing about the configuration."""
    OUTSIDE = "outside"
    """Of an earlier version of the search space, and outside of the present one."""


_OUTCOME_OF_STATE = {
    TrialState.WAITING: TrialOutcome.WAITING,
    TrialState.RUNNING: TrialOutcome.RUNNING,
    TrialState.COMPLETE: TrialOutcome.COMPLETED,
    TrialState.PRUNED: TrialOutcome.PRUNED,
}


@dataclass(frozen=True)
class TrialRecord:
    """Record of a trial beside what Optuna stores.

    Attributes:
        configuration: the active values, fixed ones included.
        suggest_seconds: time that choosing the configuration took.
        train_loss: one entry per finished epoch.
        validation_loss: one entry per finished epoch.
        validation_error: one entry per finished epoch.
        seconds: training time of each finished epoch.
        failed_seconds: time of the segment in which the trial failed.
        started: start of the first segment, in seconds since 1970.
        finished: end of the last segment, in seconds since 1970.
        worker: name of the worker that ran the last segment.
        status: what became of a trial that has finished.
        reason: why the trial was pruned or failed.
        traceback: of the objective's exception.
        checkpoints: file by the epoch after which it was written.
        warm_start: the trial of another study that this one was copied from, as `<study>#<n>`.
        outside: why the trial lies outside of the present version of the search space.
        promoted: True where a pruned trial was asked to go on to its end.
    """

    configuration: Configuration | None = None
    suggest_seconds: float = 0.0
    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    validation_error: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    failed_seconds: float = 0.0
    started: float | None = None
    finished: float | None = None
    worker: str | None = None
    status: str | None = None
    reason: str | None = None
    traceback: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=lambda: {})
    warm_start: str | None = None
    outside: str | None = None
    promoted: bool | None = None

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> TrialRecord:
        """Read the record out of a trial's user attributes; an empty one where there is none."""
        record = _content(attributes) or read_old_record(attributes, cls.__match_args__)

        # A later version may have more fields; JSON has lists for tuples.
        values = {key: value for key, value in record.items() if key in cls.__match_args__}
        for name in CURVES:
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    @property
    def n_resumable_epochs(self) -> int:
        """Epochs after which the trial can go on; 0 where its errors are not finite."""
        is_finite = all(map(math.isfinite, self.validation_error))
        return len(self.validation_error) if is_finite else 0

    def write(self, storage: BaseStorage, trial_id: int) -> None:
        """Write the record as one user attribute of a trial, which is one transaction.

        Args:
            storage: the storage of the study.
            trial_id: id of the trial in it.
        """
        storage.set_trial_user_attr(trial_id, RECORD_KEY, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not empty, for JSON."""
        return {key: value for key, value in vars(self).items() if value not in _EMPTY}


_EMPTY: tuple[Any, ...] = (None, (), "", {})


def _content(attributes: Mapping[str, Any], key: str = RECORD_KEY) -> dict[str, Any]:
    """Return an attribute of ours; empty where there is none."""
    content = attributes.get(key)
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


@dataclass(frozen=True)
class RecordedTrial:
    """A trial as the rest of the package sees it, made from one of Optuna's.

    Attributes:
        number: position in the study, from 0.
        outcome: what became of it.
        value: final value of a completed trial, else None.
        params: the suggested values of searched parameters.
        queued_params: the values that it was enqueued with; None where a strategy chose it.
        intermediate_values: reported value by epoch.
        record: what the study recorded beside this.
    """

    number: int
    outcome: TrialOutcome
    value: float | None
    params: Mapping[str, Any]
    queued_params: Mapping[str, Any] | None
    intermediate_values: Mapping[int, float]
    record: TrialRecord

    @classmethod
    def from_trial(cls, trial: FrozenTrial) -> RecordedTrial:
        """Make one from an Optuna trial, whether `run_study` made it or another program."""
        record = TrialRecord.read(trial.user_attrs)
        outcome = _OUTCOME_OF_STATE.get(trial.state) or _failure_outcome(record.status)
        if record.outside is not None:
            outcome = TrialOutcome.OUTSIDE
        return cls(
            number=trial.number,
            outcome=outcome,
            value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
            params=trial.params,
            queued_params=trial.system_attrs.get(_QUEUED_KEY),
            intermediate_values=trial.intermediate_values,
            record=record,
        )

    @property
    def configuration(self) -> Configuration:
        """Active values; the parameters of a trial that another program made."""
        recorded = self.record.configuration
        return dict(self.params) if recorded is None else recorded

    @property
    def known_params(self) -> dict[str, Any]:
        """Suggested values, and those that an enqueued trial will get."""
        return {**(self.queued_params or {}), **self.params}

    @property
    def is_queued(self) -> bool:
        """Whether the trial was enqueued rather than chosen by a strategy."""
        return self.queued_params is not None

    @property
    def is_own(self) -> bool:
        """Whether the trial belongs to this study: warm-start trials belong to an earlier one."""
        return self.record.warm_start is None

    @property
    def is_chosen(self) -> bool:
        """Whether a strategy chose it: it was neither enqueued nor copied."""
        return self.is_own and not self.is_queued

    @property
    def is_finished(self) -> bool:
        """Whether the trial has ended, in whatever way."""
        return self.outcome not in (TrialOutcome.WAITING, TrialOutcome.RUNNING)

    @property
    def is_inside(self) -> bool:
        """Whether it is of the present version of the space; figures show no other trials."""
        return self.outcome != TrialOutcome.OUTSIDE

    @property
    def is_failed(self) -> bool:
        """Whether the trial ended without a value, for another reason than pruning."""
        has_ended_well = self.outcome in (TrialOutcome.COMPLETED, TrialOutcome.PRUNED)
        return self.is_finished and self.is_inside and not has_ended_well

    @property
    def is_completed(self) -> bool:
        """Whether the trial was trained to its full budget."""
        return self.outcome == TrialOutcome.COMPLETED

    @property
    def has_usable_value(self) -> bool:
        """Whether the trial has a final value that models can take: a finite one."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def final_value(self) -> float:
        """Final value of a trial that has one: it was completed."""
        return cast("float", self.value)

    def as_evidence(self) -> RecordedTrial:
        """Return a trial outside of the space as it ended; any other as it is.

        It is no candidate for the incumbent, but a model that knows where it lies learns from it.
        """
        if self.record.outside is None:
            return self

        # One without a status was still running.
        outcome = _failure_outcome(self.record.status or TrialOutcome.LOST)
        value = self.record.validation_error[-1] if outcome == TrialOutcome.COMPLETED else None
        return replace(self, outcome=outcome, value=value, params=self.configuration)

    @property
    def training_seconds(self) -> float:
        """Seconds of its epochs, and of the segment in which it failed."""
        return float(sum(self.record.seconds)) + self.record.failed_seconds

    @property
    def spent_seconds(self) -> float:
        """Seconds of training it and of choosing its configuration."""
        return self.training_seconds + self.record.suggest_seconds


def _failure_outcome(status: str | None) -> TrialOutcome:
    try:
        return TrialOutcome(status or "failed")
    except ValueError:  # written by a version that knows more outcomes
        return TrialOutcome.FAILED


def recorded_trials(source: optuna.Study | Iterable[FrozenTrial]) -> list[RecordedTrial]:
    """Return all trials of a study, warm-start and enqueued ones included, by number."""
    trials = source.get_trials(deepcopy=False) if isinstance(source, optuna.Study) else source
    return [RecordedTrial.from_trial(trial) for trial in trials]


def own_trials(study: optuna.Study) -> list[RecordedTrial]:
    """Return the trials that count as budget: started, and not copied from another study."""
    trials = recorded_trials(study)
    return [trial for trial in trials if trial.is_own and trial.outcome != TrialOutcome.WAITING]


def incumbent(source: optuna.Study | Iterable[RecordedTrial]) -> RecordedTrial | None:
    """Return the study's own completed trial with the lowest finite value, the first of equals."""
    trials = recorded_trials(source) if isinstance(source, optuna.Study) else source
    candidates = (trial for trial in trials if trial.is_own and trial.has_usable_value)
    return min(candidates, key=attrgetter("final_value"), default=None)


def value_name(trials: Iterable[RecordedTrial]) -> str:
    """Return what the values of a study are called: in a training a loss stands beside them."""
    records = [trial.record for trial in trials if trial.value is not None]
    has_loss = any(record.validation_loss != record.validation_error for record in records)
    return VALIDATION_ERROR if has_loss else "value"


def running_best(values: ArrayLike) -> NDArray[np.float64]:
    """Return the lowest value so far at each position, shape (n,); NaN before the first.

    The values are those of a study's own trials in order, NaN for a trial without one.
    """
    array = np.asarray(values, float)
    return np.fmin.accumulate(array) if len(array) else array


@dataclass(frozen=True)
class StudyRecord:
    """Settings that a study was begun with, and how it ended.

    Attributes:
        space: the search space as canonical YAML.
        settings: all that values and choices depend on, as JSON; empty for a study that another
            program made.
        n_trials: the budget that was asked for last.
        stopped: why the study ended; None while it was never stopped.
        is_ready: whether the default trial and the warm-start trials are all written.
        identity: drawn once per study; it names the folder of its checkpoints.
        name: what the study is called; None in the first version, where Optuna knows it.
        version: counts the versions of the search space, from 1.
        next_version: the version that the study goes on in; None in the last one.
        earlier: the versions before this one, each with its `space` and `n_trials`, the number of
            trials when the next one began.
    """

    space: str | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {})
    n_trials: int | None = None
    stopped: str | None = None
    is_ready: bool = False
    identity: str | None = None
    name: str | None = None
    version: int = 1
    next_version: int | None = None
    earlier: list[dict[str, Any]] = field(default_factory=lambda: [])

    @classmethod
    def of(cls, study: optuna.Study) -> StudyRecord:
        """Read the record of a study; an empty one where another program made the study."""
        attributes = study.user_attrs
        record = _content(attributes) or read_old_study_record(attributes)
        return cls(**{key: value for key, value in record.items() if key in cls.__match_args__})

    def write(self, study: optuna.Study, **changes: Any) -> StudyRecord:
        """Write the record with some fields changed, in one transaction, and return it."""
        changed = replace(self, **changes)
        study.set_user_attr(RECORD_KEY, asdict(changed))
        return changed


def study_name(study: optuna.Study) -> str:
    """Return what a study is called, whatever version of its search space it is in."""
    return StudyRecord.of(study).name or study.study_name


def is_superseded(study: optuna.Study) -> bool:
    """Return whether a study went on in a later version than this one."""
    return StudyRecord.of(study).next_version is not None


@dataclass(frozen=True)
class Note:
    """What a user has written to a study or to one of its trials.

    Attributes:
        text: free text.
        tags: words to find it by.
    """

    text: str = ""
    tags: tuple[str, ...] = ()


def read_notes(study: optuna.Study) -> dict[int | None, Note]:
    """Return the notes of a study by trial number, that of the study itself under None."""
    notes: dict[int | None, Note] = {}
    for key in study.user_attrs:
        match = re.fullmatch(rf"{_NOTE_KEY}( \d+)?", key)
        if match is not None:
            content = _content(study.user_attrs, key)
            number = int(match[1]) if match[1] else None
            notes[number] = Note(content.get("text", ""), tuple(content.get("tags", ())))
    return notes


def write_note(study: optuna.Study, number: int | None, note: Note) -> None:
    """Write a note, whatever the driver of the study writes meanwhile.

    A trial that has ended can have no new attributes, so all notes are the study's.

    Args:
        study: the study.
        number: number of the trial; None for the study itself.
        note: takes the place of the one before.
    """
    key = _NOTE_KEY if number is None else f"{_NOTE_KEY} {number}"
    study.set_user_attr(key, asdict(note))


def read_lease(study: optuna.Study) -> dict[str, Any]:
    """Return who holds the right to write a study; empty when nobody does."""
    return _content(study.user_attrs, LEASE_KEY)


def write_lease(study: optuna.Study, holder: Mapping[str, Any] | None) -> None:
    """Record who holds the right to write a study; None gives it back."""
    study.set_user_attr(LEASE_KEY, holder)


def stop_reason(study: optuna.Study) -> str | None:
    """Return why a study ended; None while it was never stopped."""
    return StudyRecord.of(study).stopped


def study_space(study: optuna.Study) -> SearchSpace:
    """Return the search space that a study was run with.

    Raises:
        StudyError: another program made the study, which has no space.
    """
    recorded = StudyRecord.of(study)
    if recorded.space is None:
        message = f"study {study.study_name!r} has no search space: run_study did not make it"
        raise StudyError(message)
    return SearchSpace.from_yaml(recorded.space)


def sort_by_value(trials: Iterable[RecordedTrial]) -> list[RecordedTrial]:
    """Return the study's own completed trials, the lowest value first."""
    completed = [trial for trial in trials if trial.is_own and trial.value is not None]
    return sorted(completed, key=attrgetter("final_value"))
