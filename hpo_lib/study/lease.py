"""Lease that lets one driver at a time write a study."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import optuna
import psutil
from optuna.storages import BaseStorage

from hpo_lib.exceptions import StudyError, StudyHeldError
from hpo_lib.study.sqlite_file import FileWatch
from hpo_lib.study.storage import (
    check_file,
    file_watch,
    fold_record,
    storage_lock,
    translate_storage_errors,
)
from hpo_lib.trials import read_lease, write_lease

LEASE_SECONDS = 60.0
"""A driver on another host that has not renewed its lease for so long counts as gone."""


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
    lease = Lease(study, watch)
    with translate_storage_errors(storage, watch):
        with storage_lock(storage):
            lease.acquire()
        try:
            yield lease
            check_file(watch)
        finally:
            try:
                lease.release()
            finally:
                fold_record(watch)


class Lease:
    """Right to write one study, kept in its attributes.

    A holder on this host is gone when its process is; one elsewhere when it has not renewed for
    `LEASE_SECONDS`.

    Args:
        study: the study to write.
        watch: of the study's SQLite file, if it has one.
    """

    held: ClassVar[set[str]] = set()  # by this process; also given back where that failed

    def __init__(self, study: optuna.Study, watch: FileWatch | None = None) -> None:
        self._study = study
        self._watch = watch
        self._token = uuid.uuid4().hex
        self._renewed = 0.0

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            StudyHeldError: another driver that is alive holds it.
        """
        check_file(self._watch)
        holder = lease_holder(self._study)
        if holder is not None:
            message = f"study {self._study.study_name!r} is being written by {holder}"
            raise StudyHeldError(message)
        self._write()
        self.check()

    def check(self) -> None:
        """Renew the lease in time.

        Raises:
            StudyHeldError: another driver took over.
            StudyError: the study, or its file, is not there any more.
        """
        check_file(self._watch)
        recorded = self._read()
        if recorded.get("token") != self._token:
            message = (
                f"study {self._study.study_name!r} was taken over by {_describe(recorded)}; "
                "what this driver had recorded is safe"
            )
            raise StudyHeldError(message)
        if time.monotonic() - self._renewed > LEASE_SECONDS / 4:
            self._write()

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self.held.discard(self._token)
        if self._watch is not None and self._watch.problem() is not None:
            return  # nobody would read it, and the error under way says more
        with suppress(_DeletedError):
            if self._read().get("token") == self._token:
                write_lease(self._study, None)

    def _read(self) -> dict[str, Any]:
        try:
            return read_lease(self._study)
        except KeyError as error:
            message = "the study was deleted by another process while this one wrote it"
            raise _DeletedError(message) from error

    def _write(self) -> None:
        holder = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _seconds_after_boot(os.getpid()),
            "renewed": time.time(),
        }
        self.held.add(self._token)
        write_lease(self._study, holder)
        self._renewed = time.monotonic()


def lease_holder(study: optuna.Study) -> str | None:
    """Return a description of the process that writes a study now, or None."""
    return living_holder(read_lease(study))


def living_holder(holder: Mapping[str, Any] | None) -> str | None:
    """Describe the holder of a recorded lease; None where there is none, or it is gone."""
    return _describe(holder) if holder and _is_alive(holder) else None


def _describe(holder: Mapping[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}" if holder else "nobody"


def _is_alive(holder: Mapping[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
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


def _seconds_after_boot(pid: int) -> float:
    """Return when a process began, on a scale that setting the clock does not move."""
    booted = psutil.boot_time()
    return psutil.Process(pid).create_time() - booted
