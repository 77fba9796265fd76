"""The SQLite file behind Optuna's cache, for the driver of a study with many workers.

Optuna reads every unfinished trial again at each look at a study, several times per trial, and
writes each parameter and attribute by itself. With 256 workers that took longer than their trials.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialUserAttributeModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects.sqlite import insert

from hpo_lib.study.sqlite_file import FileWatch

_ROWS_PER_STATEMENT = 200
"""With at most 4 values each: SQLite before 3.32 takes 999 values."""


def _noted(name: str) -> Any:
    """The write of that name, after which the trial counts as changed."""
    write = getattr(_CachedStorage, name)

    def method(self: StudyFile, trial_id: int, *arguments: Any, **named: Any) -> Any:
        self._write_parameters()
        try:
            return write(self, trial_id, *arguments, **named)
        finally:
            self._changed.add(trial_id)

    return method


def _upsert(
    session: Any, model: Any, trial_id: int, key: str, rows: Sequence[dict[str, Any]]
) -> None:
    """Insert the rows of a trial, over those of the same key.

    SQLite limits the values that one statement may have: each writes a part of the rows.
    """
    for first in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = rows[first : first + _ROWS_PER_STATEMENT]
        statement = insert(model).values([{"trial_id": trial_id, **row} for row in part])
        changed = {name: statement.excluded[name] for name in part[0] if name != key}
        session.execute(
            statement.on_conflict_do_update(index_elements=["trial_id", key], set_=changed)
        )


class StudyFile(_CachedStorage):
    """A storage that can be told that one process alone changes the trials of a study."""

    def __init__(self, backend: RDBStorage, watch: FileWatch | None = None) -> None:
        super().__init__(backend)
        self.file = backend
        self.watch = watch
        self._written_here: int | None = None
        self._changed: set[int] = set()
        self._seen = -1
        self._parameters: list[tuple[int, str, float, BaseDistribution]] = []

    set_trial_state_values = _noted("set_trial_state_values")
    set_trial_intermediate_value = _noted("set_trial_intermediate_value")
    set_trial_user_attr = _noted("set_trial_user_attr")
    set_trial_system_attr = _noted("set_trial_system_attr")

    @contextmanager
    def written_here(self, study_id: int) -> Generator[None]:
        """Within it this process alone changes the study's trials; others may queue some.

        A trial is then read again only after it was written, and its parameters are written
        together, before anything else is read or written.
        """
        self._written_here, self._changed, self._seen = study_id, set(), -1
        try:
            yield
        finally:
            self._parameters.clear()  # of a trial whose configuration was not recorded either
            self._written_here = None
            with self._lock:  # from here on others write too: the next look reads all trials
                known = self._studies.setdefault(study_id, _StudyInfo())
                known.unfinished_trial_ids, known.last_finished_trial_id = set(), -1

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Write it, or keep it for the next write."""
        if self._written_here is not None and self._study_of(trial_id) == self._written_here:
            self._parameters.append((trial_id, param_name, param_value_internal, distribution))
        else:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_attributes(
        self, trial_id: int, attributes: Mapping[str, Any], values: Mapping[int, float]
    ) -> None:
        """Write user attributes and intermediate values in one transaction."""
        stored = TrialIntermediateValueModel.intermediate_value_to_stored_repr
        names = ("intermediate_value", "intermediate_value_type")
        steps = [
            {"step": step, **dict(zip(names, stored(value), strict=True))}
            for step, value in values.items()
        ]
        keys = [{"key": key, "value_json": json.dumps(v)} for key, v in attributes.items()]
        with _create_scoped_session(self._backend.scoped_session) as session:
            self._write_parameters(session)
            state: Any = TrialModel.find_or_raise_by_id(trial_id, session).state
            self._backend.check_trial_is_updatable(trial_id, state)
            _upsert(session, TrialIntermediateValueModel, trial_id, "step", steps)
            _upsert(session, TrialUserAttributeModel, trial_id, "key", keys)
        self._changed.add(trial_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As it is now, a copy."""
        study_id = self._study_of(trial_id)
        if study_id is None or study_id != self._written_here:
            return super().get_trial(trial_id)
        self._write_parameters()
        if trial_id in self._changed:
            self._read_trials_from_remote_storage(study_id)
        _, number = self._trial_id_to_study_id_and_number[trial_id]
        return copy.deepcopy(self._studies[study_id].trials[number])

    def _study_of(self, trial_id: int) -> int | None:
        return self._trial_id_to_study_id_and_number.get(trial_id, (None, 0))[0]

    def _write_parameters(self, session: Any = None) -> None:
        if session is None:
            if self._parameters:
                with _create_scoped_session(self._backend.scoped_session, True) as session:
                    self._write_parameters(session)
            return
        while self._parameters:
            trial_id, name, value, distribution = self._parameters.pop(0)
            known = self._studies[self._written_here or 0].param_distribution
            self._backend._set_trial_param_without_commit(
                session, trial_id, name, value, distribution, known.get(name)
            )
            known.setdefault(name, distribution)
            self._changed.add(trial_id)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id != self._written_here:
            super()._read_trials_from_remote_storage(study_id)
            return
        self._write_parameters()
        with self._lock:
            changed = set(self._changed)
            trials = self._backend._get_trials(study_id, None, changed, self._seen)
            self._add_trials_to_cache(study_id, trials)
            self._changed -= changed
            for trial in trials:
                self._seen = max(self._seen, trial._trial_id)
                if trial.state == TrialState.WAITING:  # another process may withdraw it
                    self._changed.add(trial._trial_id)


def written_here(storage: BaseStorage, name: str) -> AbstractContextManager[None]:
    """Tell a storage that only this process changes the trials of a study, if it can use that."""
    if isinstance(storage, StudyFile):
        return storage.written_here(storage.get_study_id_from_name(name))
    return nullcontext()


def set_trial_attributes(
    storage: BaseStorage,
    trial_id: int,
    attributes: Mapping[str, Any],
    values: Mapping[int, float] | None = None,
) -> None:
    """Write values of epochs, then user attributes in their order; in an SQLite file at once."""
    if isinstance(storage, StudyFile):
        storage.set_trial_attributes(trial_id, attributes, values or {})
        return
    for step, value in (values or {}).items():
        storage.set_trial_intermediate_value(trial_id, step, value)
    for key, value in attributes.items():
        storage.set_trial_user_attr(trial_id, key, value)
