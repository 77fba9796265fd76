"""Open, list, delete and tabulate the studies of a storage."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import pandas as pd
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from hpo_lib.checks import check_name
from hpo_lib.exceptions import StudyError
from hpo_lib.study.checkpoints import StudyFolder, checkpoints_beside, study_identity
from hpo_lib.study.lease import check_unheld, lease_holder
from hpo_lib.study.storage import (
    Storage,
    StudyFile,
    fold_record,
    open_storage,
    read_storage,
    sqlite_path,
    storage_file,
    storage_lock,
    storage_name,
    translate_storage_errors,
)
from hpo_lib.trials import (
    Note,
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    incumbent,
    is_superseded,
    own_trials,
    read_notes,
    recorded_trials,
    running_best,
    study_name,
    value_name,
)

_STATES = {
    TrialOutcome.RUNNING: "running",
    TrialOutcome.COMPLETED: "complete",
    TrialOutcome.PRUNED: "pruned",
    TrialOutcome.OUTSIDE: "outside",
}
_RECORD_COLUMNS = ("suggest_seconds", "started", "finished", "reason", "worker", "warm_start")
_NOTE_COLUMNS = ("note", "tags")
_COLUMNS = (
    *("number", "state", "status", "value", "best", "n_epochs", "seconds"),
    *_RECORD_COLUMNS,
)

_BACKENDS: WeakKeyDictionary[optuna.Study, BaseStorage] = WeakKeyDictionary()
"""Storage of each study that was opened here, which Optuna's study does not tell."""


def open_study(name: str, storage: Storage | None = None) -> optuna.Study:
    """Open a study to read it.

    Args:
        name: the study's name.
        storage: an SQLite file, an Optuna URL or a storage; default `results/studies.db`.

    Raises:
        StudyError: there is none of that name (the message lists those there are), or no such
            file, or it cannot be read.

    Example:
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0, high: 1, default: 0.5}")
        >>> options = {"name": "demo", "storage": "demo.db", "workers": 0}
        >>> study = run_study(lambda c: c["lr"], space, "random", n_trials=2, **options)
        >>> open_study("demo", "demo.db").best_value <= 0.5
        True
    """
    check_name(name)
    backend = read_storage(storage)
    with translate_storage_errors(storage):
        names = optuna.get_all_study_names(backend)
        if name not in names:
            names = [study_name(study) for study in _newest_versions(backend)]
            message = f"no study {name!r} in {storage_name(storage)}; there are: {names}"
            raise StudyError(message)

        study = newest_version(name, backend)
        if study.directions != [StudyDirection.MINIMIZE]:
            directions = [direction.name.lower() for direction in study.directions]
            message = f"study {name!r} must minimize one value to be read here, got {directions}"
            raise StudyError(message)
        return study


def find_study(name: str, storage: Storage | None = None) -> optuna.Study | None:
    """Return a study to read it; None where it, or its file, is not there yet.

    Args:
        name: the study's name.
        storage: as in `open_study`.
    """
    path = sqlite_path(storage)
    if path is not None and not path.exists():
        return None

    backend = read_storage(storage)
    with translate_storage_errors(storage):
        if name not in optuna.get_all_study_names(backend):
            return None
        return newest_version(name, backend)


@contextmanager
def study_to_write(
    name: str,
    storage: Storage | None,
) -> Generator[tuple[optuna.Study, BaseStorage]]:
    """Yield a study that is there and its open storage, whose errors name it.

    Args:
        name: the study's name.
        storage: as in `open_study`.

    Raises:
        StudyError: as in `open_study`; no file is created then.
    """
    open_study(name, storage)
    backend = open_storage(storage)
    with translate_storage_errors(storage):
        yield newest_version(name, backend), backend


def newest_version(name: str, backend: BaseStorage) -> optuna.Study:
    """Return the study that a name stands for: that of the last version of its search space.

    Args:
        name: the study's name; it has to be there.
        backend: an open storage.
    """
    study = load_version(name, backend)
    record = StudyRecord.of(study)
    while record.next_version is not None and record.next_version > record.version:
        following = version_name(study_name(study), record.next_version)
        if following not in optuna.get_all_study_names(backend):
            break  # it was deleted
        study = load_version(following, backend)
        record = StudyRecord.of(study)
    return study


def load_version(stored: str, backend: BaseStorage) -> optuna.Study:
    """Open one version of a study; `study_storage` knows where it is from then on.

    Args:
        stored: what Optuna calls the version.
        backend: an open storage.
    """
    study = optuna.load_study(study_name=stored, storage=backend)
    _BACKENDS[study] = backend
    return study


def check_not_superseded(study: optuna.Study) -> None:
    """Refuse to change a study that went on in a later version than this one.

    Raises:
        StudyError: the message says so.
    """
    if is_superseded(study):
        message = f"study {study_name(study)!r} has gone on in another version: open that"
        raise StudyError(message)


def study_storage(study: optuna.Study) -> Storage:
    """Return the storage of a study, as `open_storage` takes it.

    Raises:
        StudyError: Optuna alone opened the study.
    """
    backend = _BACKENDS.get(study)
    if backend is None:
        message = f"study {study.study_name!r} must come from open_study or run_study"
        raise StudyError(message)
    return storage_file(backend) or backend


def version_name(name: str, version: int) -> str:
    """Return what Optuna calls a version of a study.

    Args:
        name: the study's name.
        version: counts the versions of its search space, from 1.
    """
    return name if version == 1 else f"{name} (version {version})"


def _newest_versions(backend: BaseStorage) -> list[optuna.Study]:
    """Return the last version of each study of a storage."""
    names = optuna.get_all_study_names(backend)
    studies = [optuna.load_study(study_name=name, storage=backend) for name in names]
    # Others are reached from the first version, or were begun by a process that was killed.
    first = [study.study_name for study in studies if study_name(study) == study.study_name]
    return [newest_version(name, backend) for name in first]


def delete_study(name: str, storage: Storage | None = None) -> None:
    """Delete a study and what its trials wrote into the study's own folder.

    Args:
        name: the study's name; all versions of its search space are deleted.
        storage: an SQLite file, an Optuna URL or a storage; default `results/studies.db`.

    Raises:
        StudyError: it is being written, or there is none of that name.
    """
    with study_to_write(name, storage) as (study, backend), storage_lock(backend):
        # Nobody takes the lease while the file is locked.
        check_unheld(study)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
        identity = study_identity(study)
        name = study_name(study)
        # The newest first: what is left after a kill is whole.
        for version in range(StudyRecord.of(study).version, 0, -1):
            optuna.delete_study(study_name=version_name(name, version), storage=backend)
    if isinstance(backend, StudyFile):
        fold_record(backend.watch)

    file = storage_file(backend)
    if file is not None and identity is not None:
        folder = StudyFolder(checkpoints_beside(file), name, identity)
        folder.clear(numbers, with_logs=True)


def list_studies(storage: Storage | None = None) -> pd.DataFrame:
    """Return one row per study: its strategy, numbers of trials, best value and who writes it.

    Where a study has a note or tags (see `annotate`), these are columns, too.

    Args:
        storage: an SQLite file, an Optuna URL or a storage; default `results/studies.db`.

    Raises:
        StudyError: there is no such file, or it cannot be read.
    """
    backend = read_storage(storage)
    with translate_storage_errors(storage):
        studies = _newest_versions(backend)
        rows = [_study_row(study) for study in studies]
        notes = [read_notes(study).get(None, Note()) for study in studies]
    columns = ["name", "strategy", "trials", "completed", "pruned", "failed", "best"]
    frame = pd.DataFrame(rows, columns=[*columns, "stopped", "held_by"])
    return _with_notes(frame, notes)


def open_studies(storage: Storage | None = None) -> list[optuna.Study]:
    """Open all studies of a storage that minimise one value, to read them.

    Args:
        storage: an SQLite file, an Optuna URL or a storage; default `results/studies.db`.

    Raises:
        StudyError: there is no such file, or it cannot be read.
    """
    backend = read_storage(storage)
    with translate_storage_errors(storage):
        studies = _newest_versions(backend)
        return [study for study in studies if study.directions == [StudyDirection.MINIMIZE]]


def _study_row(study: optuna.Study) -> list[Any]:
    trials = own_trials(study)
    record = StudyRecord.of(study)
    best = incumbent(trials) if study.directions == [StudyDirection.MINIMIZE] else None
    return [
        study_name(study),
        record.settings.get("strategy"),
        len(trials),
        sum(trial.is_completed for trial in trials),
        sum(trial.outcome == TrialOutcome.PRUNED for trial in trials),
        sum(trial.is_failed for trial in trials),
        math.nan if best is None else best.value,
        record.stopped,
        lease_holder(study),
    ]


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """Return one row per trial, its record first, then one column per hyperparameter.

    `value` is that of a whole training alone, NaN for failed and pruned trials, and for those
    "outside" of the present version of the search space (see `change_space`); `best` is the
    incumbent's after the trial; `n_epochs` and `seconds` are those of training. `warm_start` names
    the trial of another study that a row was copied from; such rows count neither as budget nor in
    `best`. A hyperparameter that is called like a column of the record stands in `param_<name>`.
    Where a trial has a note or tags (see `annotate`), these are the last columns.

    Args:
        study: a study of `run_study` or `open_study`.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1.0), n_trials=3)
        >>> trials_frame(study)[["number", "state", "warm_start"]]
           number     state warm_start
        0       0  complete       None
        1       1  complete       None
        2       2  complete       None
    """
    trials = recorded_trials(study)
    rows = [_trial_row(trial) for trial in trials if trial.outcome != TrialOutcome.WAITING]
    frame = pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))
    frame["best"] = running_best(frame["value"].where(frame["warm_start"].isna()))
    frame.attrs["value_name"] = value_name(trials)
    notes = read_notes(study)
    return _with_notes(frame, [notes.get(number, Note()) for number in frame["number"]])


def shown_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that figures show: of the study's own trials in its present search space.

    Warm-start trials were paid for elsewhere; trials outside belong to an earlier space.

    Args:
        frame: as `trials_frame` returns it.
    """
    is_own = frame["warm_start"].isna()
    is_inside = frame["state"] != TrialOutcome.OUTSIDE
    return frame.loc[is_own & is_inside]


def _with_notes(frame: pd.DataFrame, notes: Sequence[Note]) -> pd.DataFrame:
    """Add the columns of notes and tags where there are any; one note per row."""
    if any(note != Note() for note in notes):
        frame["note"] = [note.text for note in notes]
        frame["tags"] = [", ".join(note.tags) for note in notes]
    return frame


def _trial_row(trial: RecordedTrial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": _STATES.get(trial.outcome, "fail"),
        "status": trial.record.status,
        "value": math.nan if trial.value is None else trial.value,
        "best": math.nan,
        "n_epochs": len(trial.record.validation_error),
        "seconds": trial.training_seconds,
    }
    for name in _RECORD_COLUMNS:
        row[name] = getattr(trial.record, name)
    for name, value in trial.configuration.items():
        row[f"param_{name}" if name in (*_COLUMNS, *_NOTE_COLUMNS) else name] = value
    return row
