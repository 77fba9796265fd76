"""Lease that lets one driver at a time write a study.

In a database every statement that writes is fenced: the same transaction compares the lease. So
a driver that was stopped at any moment, and lost its lease meanwhile, writes nothing any more.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import optuna
import psutil
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import Connection, Engine, bindparam, column, event, select, table, update

from hpo_lib.exceptions import StudyError, StudyHeldError
from hpo_lib.study.sqlite_file import FileWatch
from hpo_lib.study.storage import (
    check_file,
    file_watch,
    fold_record,
    storage_lock,
    translate_storage_errors,
)
from hpo_lib.trials import LEASE_KEY, read_lease, study_name, write_lease

LEASE_SECONDS = 60.0
"""A driver on another host that has not renewed its lease for so long counts as gone."""


_ATTRIBUTES = table(
    "study_user_attributes", column("study_id"), column("key"), column("value_json")
)


class _DeletedError(StudyError):
    """The study is not in its storage any more."""


@contextmanager
def hold_lease(study: optuna.Study, storage: BaseStorage) -> Generator[Lease]:
    """Hold a study's lease; in the end its SQLite file holds all that was recorded.

    Args:
        study: the study to write.
        storage: its storage, as `open_storage` opened it.

    Raises:
        StudyHeldError: another driver holds or took the lease.
        StudyError: the file cannot be written, or was deleted, replaced or truncated meanwhile.
    """
    watch = file_watch(storage)
    lease = Lease(study, watch, storage)
    with translate_storage_errors(storage, watch):
        with storage_lock(storage):
            lease.acquire()
        try:
            with lease.fence():
                yield lease
            check_file(watch)
        except StudyError:
            raise
        except Exception:
            lease.check()  # what another driver has written since may be the cause
            raise
        finally:
            try:
                lease.release()
            finally:
                fold_record(watch)


class Lease:
    """Right to write one study, kept in its attributes.

    A holder whose processes can be seen from here is gone when its process is; one elsewhere when
    it has not renewed for `LEASE_SECONDS`.

    Args:
        study: the study to write.
        watch: of the study's SQLite file, if it has one.
        storage: the study's storage, to fence the writes to a database.
    """

    held: ClassVar[set[str]] = set()  # by this process; also given back where that failed

    def __init__(
        self,
        study: optuna.Study,
        watch: FileWatch | None = None,
        storage: BaseStorage | None = None,
    ) -> None:
        self._study = study
        self._name = study_name(study)
        self._watch = watch
        self._renewed = 0.0
        self._token = uuid.uuid4().hex
        self._holder = {
            "token": self._token,
            "host": socket.gethostname(),
            "processes": _visible_processes(),
            "pid": os.getpid(),
            "process_started": _seconds_after_boot(os.getpid()),
        }

        # For the comparison within a database's transactions.
        self._engine: Engine | None = None
        if isinstance(storage, RDBStorage):
            self._engine = storage.engine
            columns = _ATTRIBUTES.c
            study_id = storage.get_study_id_from_name(study.study_name)
            self._row = (columns.study_id == study_id) & (columns.key == LEASE_KEY)
            self._replacement = (
                update(_ATTRIBUTES)
                .where(self._row & columns.value_json.contains(self._token))
                .values(value_json=bindparam("holder"))
            )
        self._is_comparing = False

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            StudyHeldError: another driver that is alive holds it.
        """
        check_file(self._watch)
        check_unheld(self._study)
        self.held.add(self._token)
        write_lease(self._study, self._renewed_holder())
        self.check()

    def check(self) -> None:
        """Renew the lease in time.

        Raises:
            StudyHeldError: another driver took over.
            StudyError: the study, or its file, is not there any more.
        """
        check_file(self._watch)
        self._check_token()
        if time.monotonic() - self._renewed > LEASE_SECONDS / 4:
            self._replace(self._renewed_holder())

    def check_write(self) -> None:
        """Check before a write to a storage whose transactions cannot compare the lease."""
        if self._engine is None:
            self.check()

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self.held.discard(self._token)
        if self._watch is not None and self._watch.problem() is not None:
            return  # nobody would read it, and the error under way says more
        with suppress(_DeletedError, StudyHeldError):
            self._replace(None)

    @contextmanager
    def fence(self) -> Generator[None]:
        """Compare the lease in every transaction in which this thread writes to the database."""
        outer = _fence.set(self)
        try:
            yield
        finally:
            _fence.reset(outer)

    def compare_within(self, connection: Connection) -> None:
        """Renew the lease in a transaction that has written to the study's database.

        From that write on SQLite's lock, and from here on that of the lease's row, keeps others
        from taking the lease before the transaction ends.
        """
        if connection.engine is self._engine and not self._is_comparing:
            self._replace_in(connection, self._renewed_holder())

    def _replace(self, holder: Mapping[str, Any] | None) -> None:
        """Write a holder, or none, in our place if the lease is still ours."""
        if self._engine is not None:
            with self._engine.begin() as connection:
                self._replace_in(connection, holder)
            return

        self._check_token()
        write_lease(self._study, holder)

    def _replace_in(self, connection: Connection, holder: Mapping[str, Any] | None) -> None:
        self._is_comparing = True
        try:
            replaced = connection.execute(self._replacement, {"holder": json.dumps(holder)})
        finally:
            self._is_comparing = False

        if not replaced.rowcount:
            recorded = connection.scalar(select(_ATTRIBUTES.c.value_json).where(self._row))
            self._check_holder(None if recorded is None else json.loads(recorded) or {})

    def _renewed_holder(self) -> dict[str, Any]:
        self._renewed = time.monotonic()
        return {**self._holder, "renewed": time.time()}

    def _check_token(self) -> None:
        try:
            holder = read_lease(self._study)
        except KeyError:
            holder = None
        self._check_holder(holder)

    def _check_holder(self, recorded: Mapping[str, Any] | None) -> None:
        if recorded is None:
            message = "the study was deleted by another process while this one wrote it"
            raise _DeletedError(message)
        if recorded.get("token") != self._token:
            message = (
                f"study {self._name!r} was taken over by {_describe(recorded)}; "
                "what this driver had recorded is safe"
            )
            raise StudyHeldError(message)


_fence: ContextVar[Lease | None] = ContextVar("fence", default=None)


@event.listens_for(Engine, "after_cursor_execute")
def _compare_after_writes(connection: Connection, *call: Any) -> None:
    lease = _fence.get()
    context = call[3]
    if lease is not None and (context.isinsert or context.isupdate or context.isdelete):
        lease.compare_within(connection)


def lease_holder(study: optuna.Study) -> str | None:
    """Return a description of the process that writes a study now, or None."""
    return living_holder(read_lease(study))


def check_unheld(study: optuna.Study) -> None:
    """Refuse a study that another driver writes now.

    Raises:
        StudyHeldError: the message names the process.
    """
    holder = lease_holder(study)
    if holder is not None:
        message = f"study {study_name(study)!r} is being written by {holder}: stop that first"
        raise StudyHeldError(message)


def living_holder(holder: Mapping[str, Any] | None) -> str | None:
    """Describe the holder of a recorded lease; None where there is none, or it is gone."""
    return _describe(holder) if holder and _is_alive(holder) else None


def _describe(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "another driver, which has ended"
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _is_alive(holder: Mapping[str, Any]) -> bool:
    is_here = holder["host"] == socket.gethostname()
    if not is_here or holder.get("processes", _visible_processes()) != _visible_processes():
        return abs(time.time() - holder["renewed"]) < LEASE_SECONDS
    if holder["pid"] == os.getpid():
        return holder["token"] in Lease.held
    try:
        if psutil.Process(holder["pid"]).status() == psutil.STATUS_ZOMBIE:
            return False
        # A process number is used again; the time its process began tells the two apart.
        return abs(_seconds_after_boot(holder["pid"]) - holder["process_started"]) < 0.05
    except psutil.NoSuchProcess:
        return False


@cache
def _visible_processes() -> str:
    """Return what tells apart the sets of processes that the same host name may stand for.

    Hosts may be called alike, and a container counts its processes itself: a process number means
    something only within one running kernel and one namespace of process numbers.
    """
    with suppress(OSError):  # not Linux, or not to be seen
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _seconds_after_boot(pid: int) -> float:
    """Return when a process began, on a scale that setting the clock does not move."""
    booted = psutil.boot_time()
    return psutil.Process(pid).create_time() - booted
