"""The record on disk: opening it, and the lease that lets one driver at a time write a study."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb.models import TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

DEFAULT_STORAGE = Path("results") / "studies.db"
# The studies' own callbacks tell what happens; Optuna's lines would tell it a second time.
optuna.logging.set_verbosity(optuna.logging.WARNING)

LEASE_SECONDS = 60.0
"""A driver on another host that has not renewed its lease for so long counts as gone."""

_WAIT_SECONDS = 60

Storage = str | Path | BaseStorage


class StudyError(RuntimeError):
    """A study cannot be opened, continued or written; the message says what to do."""


class StudyHeldError(StudyError):
    """Another driver writes this study."""


class StudyChangedError(StudyError):
    """The study was recorded with another space or other settings."""


class StudyStoppedError(StudyError):
    """Too many trials failed in a row."""


def open_storage(storage: Storage | None = None) -> BaseStorage:
    """Open an SQLite file (created when missing), an Optuna storage URL, or `"memory"`."""
    if isinstance(storage, BaseStorage):
        return get_storage(storage)
    text = str(DEFAULT_STORAGE if storage is None else storage)
    if text == "memory":
        return InMemoryStorage()
    if "://" in text and not text.startswith("sqlite:///"):
        return _open_url(text)
    path = Path(text.removeprefix("sqlite:///"))
    # One writer at a time: a second one waits for the file rather than fail.
    engine = {"connect_args": {"timeout": _WAIT_SECONDS}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage_lock(path):  # Optuna looks for the tables first and creates them then
        _use_write_ahead_log(path)
        return StudyFile(RDBStorage(f"sqlite:///{path}", engine_kwargs=engine))


def _open_url(url: str) -> BaseStorage:
    try:
        return get_storage(url)
    except Exception as error:  # SQLAlchemy's, a missing driver's or the network's
        message = f"a {url.partition('://')[0]} storage cannot be opened: {error}"
        raise StudyError(message) from error


def _noted(name: str) -> Any:
    """The write of that name, after which the trial counts as changed."""
    write = getattr(_CachedStorage, name)

    def method(self: StudyFile, trial_id: int, *arguments: Any, **named: Any) -> Any:
        try:
            return write(self, trial_id, *arguments, **named)
        finally:
            self._changed.add(trial_id)

    return method


class StudyFile(_CachedStorage):
    """An SQLite file behind Optuna's cache, which can be told who changes the trials.

    Optuna reads every unfinished trial again at each look at a study, several times per trial: of
    256 running ones that takes longer than all else that a driver does.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._written_here: int | None = None
        self._changed: set[int] = set()
        self._seen = -1

    set_trial_param = _noted("set_trial_param")
    set_trial_state_values = _noted("set_trial_state_values")
    set_trial_intermediate_value = _noted("set_trial_intermediate_value")
    set_trial_user_attr = _noted("set_trial_user_attr")
    set_trial_system_attr = _noted("set_trial_system_attr")

    @contextmanager
    def written_here(self, study_id: int) -> Generator[None]:
        """Within it this process alone changes the study's trials; others may queue some.

        A trial is then read again only after it was written.
        """
        self._written_here, self._changed, self._seen = study_id, set(), -1
        try:
            yield
        finally:
            self._written_here = None
            self._studies[study_id] = _StudyInfo()

    def set_trial_attributes(
        self, trial_id: int, attributes: Mapping[str, Any], values: Mapping[int, float]
    ) -> None:
        """Write user attributes and intermediate values in one transaction."""
        file = self._backend
        with _create_scoped_session(file.scoped_session, True) as session:
            for step, value in values.items():
                file._set_trial_intermediate_value_without_commit(session, trial_id, step, value)
            for key, value in attributes.items():
                file._set_trial_attr_without_commit(
                    session, TrialUserAttributeModel, trial_id, key, value
                )
        self._changed.add(trial_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As it is now, a copy."""
        study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (None, 0))
        if study_id is None or study_id != self._written_here:
            return super().get_trial(trial_id)
        if trial_id in self._changed:
            self._read_trials_from_remote_storage(study_id)
        return copy.deepcopy(self._studies[study_id].trials[number])

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id != self._written_here:
            super()._read_trials_from_remote_storage(study_id)
            return
        with self._lock:
            changed, self._changed = self._changed, set()
            trials = self._backend._get_trials(study_id, None, changed, self._seen)
            self._add_trials_to_cache(study_id, trials)
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


def storage_folder(storage: Storage | None) -> Path | None:
    """Where files that belong to a storage go: beside an SQLite file, else nowhere known."""
    if isinstance(storage, BaseStorage):
        return None
    text = str(DEFAULT_STORAGE if storage is None else storage).removeprefix("sqlite:///")
    return None if text == "memory" or "://" in text else Path(text).parent


def storage_lock(storage: Storage | None) -> AbstractContextManager[Any]:
    """Keep other processes from opening an SQLite file or taking a lease in it meanwhile.

    Other storages have no file to lock: of two drivers that take a lease there in the same
    moment, the first one stops at its next `Lease.check`.
    """
    if isinstance(storage, BaseStorage) or storage_folder(storage) is None:
        return nullcontext()
    text = str(DEFAULT_STORAGE if storage is None else storage).removeprefix("sqlite:///")
    return FileLock(f"{text}.lock", timeout=_WAIT_SECONDS)


def _use_write_ahead_log(path: Path) -> None:
    """Let dashboards read while the driver writes; the file keeps the mode."""
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
            _set_journal_mode(connection)
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        message = f"storage must be an SQLite file that holds studies, got {path}: {error}"
        raise StudyError(message) from error
    if tables and "studies" not in tables:
        message = f"storage must be an SQLite file that holds studies, got {path} with {tables}"
        raise StudyError(message)


def _set_journal_mode(connection: sqlite3.Connection) -> None:
    """SQLite itself does not wait when two processes change the mode of one file at once."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Lease:
    """The right to write one study, kept in its attributes.

    A holder on this host is gone when its process is; one elsewhere when it has not renewed for
    `LEASE_SECONDS`.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._token = uuid.uuid4().hex
        self._renewed = 0.0

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            StudyHeldError: another driver that is alive holds it.
        """
        holder = lease_holder(self._study)
        if holder is not None:
            message = f"study {self._study.study_name!r} is being written by {holder}"
            raise StudyHeldError(message)
        self._write()
        self.check()

    def check(self) -> None:
        """Renew in time; raise `StudyHeldError` when another driver took over."""
        held = self._study.user_attrs.get("lease") or {}
        if held.get("token") != self._token:
            message = (
                f"study {self._study.study_name!r} was taken over by {_describe(held)}; "
                "what this driver had recorded is safe"
            )
            raise StudyHeldError(message)
        if time.monotonic() - self._renewed > LEASE_SECONDS / 4:
            self._write()

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        held = self._study.user_attrs.get("lease") or {}
        if held.get("token") == self._token:
            self._study.set_user_attr("lease", None)

    def _write(self) -> None:
        holder = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _seconds_after_boot(os.getpid()),
            "renewed": time.time(),
        }
        self._study.set_user_attr("lease", holder)
        self._renewed = time.monotonic()


def lease_holder(study: optuna.Study) -> str | None:
    """Say who is writing the study now, or None."""
    held: dict[str, Any] | None = study.user_attrs.get("lease")
    return _describe(held) if held and _is_alive(held) else None


def _describe(held: dict[str, Any]) -> str:
    return f"process {held.get('pid')} on {held.get('host')}" if held else "nobody"


def _is_alive(held: dict[str, Any]) -> bool:
    if held["host"] != socket.gethostname():
        return abs(time.time() - held["renewed"]) < LEASE_SECONDS
    try:
        # A process number is used again; the time its process began tells the two apart.
        return abs(_seconds_after_boot(held["pid"]) - held["process_started"]) < 0.05
    except psutil.NoSuchProcess:
        return False


def _seconds_after_boot(pid: int) -> float:
    """When a process began, on a scale that setting the clock does not move."""
    booted = psutil.boot_time()
    return psutil.Process(pid).create_time() - booted
