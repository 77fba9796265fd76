"""The record on disk: opening it, and the lease that lets one driver at a time write a study."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import optuna
import psutil
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage

from hpo_lib.exceptions import StudyError, StudyHeldError
from hpo_lib.files import atomic_write_bytes, is_full_disk
from hpo_lib.study.sqlite_file import FileWatch, fold_log
from hpo_lib.study.study_file import StudyFile

DEFAULT_STORAGE = Path("results") / "studies.db"
# The studies' own callbacks tell what happens; Optuna's lines would tell it a second time.
optuna.logging.set_verbosity(optuna.logging.WARNING)

LEASE_SECONDS = 60.0
"""A driver on another host that has not renewed its lease for so long counts as gone."""

_WAIT_SECONDS = 60

Storage = str | Path | BaseStorage


class _DeletedError(StudyError):
    """The study is not in its storage any more."""


def open_storage(storage: Storage | None = None) -> BaseStorage:
    """Open an SQLite file (created when missing), an Optuna storage URL, or `"memory"`."""
    if isinstance(storage, StudyFile):  # one for each study: it knows what was written there
        return StudyFile(storage.file, storage.watch)
    if isinstance(storage, BaseStorage):
        return get_storage(storage)
    path = sqlite_path(storage)
    if path is None:
        return InMemoryStorage() if storage == "memory" else _open_url(str(storage))
    # One writer at a time: a second one waits for the file rather than fail.
    engine = {"connect_args": {"timeout": _WAIT_SECONDS}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with explained(storage), storage_lock(path):
        if not path.exists():
            atomic_write_bytes(path, _empty_file())
        _use_write_ahead_log(path)
        # whole, because the working directory may change before another connection is made
        whole = path.absolute()
        return StudyFile(RDBStorage(f"sqlite:///{whole}", engine_kwargs=engine), FileWatch(whole))


def _open_url(url: str) -> BaseStorage:
    try:
        return get_storage(url)
    except Exception as error:  # SQLAlchemy's, a missing driver's or the network's
        message = f"a {url.partition('://')[0]} storage cannot be opened: {error}"
        raise StudyError(message) from error


@cache
def _empty_file() -> bytes:
    """A file without studies, to be written whole.

    Optuna does not complete one that it was killed in the middle of.
    """
    engine = RDBStorage("sqlite:///:memory:").engine
    with closing(engine.raw_connection()) as connection:
        content = cast(sqlite3.Connection, connection.driver_connection).serialize()
    engine.dispose()
    return content


@contextmanager
def explained(storage: Storage | None, watch: FileWatch | None = None) -> Generator[None]:
    """Say which record it is, and why, when SQLite or a full disk ends what is done in here.

    With `watch`, an error that comes of a file that was taken away meanwhile says that.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        causes = [one for one in _chain(error) if isinstance(one, sqlite3.Error)]
        if not causes and not is_full_disk(error):
            raise
        check_file(watch)
        cause = [*causes, error][0]
        message = f"the studies in {_named(storage)} cannot be read or written: {cause}"
        if "full" in str(cause) or is_full_disk(error):
            message += (
                "; what was recorded before is safe, and the same call goes on once there is space"
            )
        raise StudyError(message) from error


def check_file(watch: FileWatch | None) -> None:
    """Refuse to go on with an SQLite file that was deleted, replaced or truncated.

    Raises:
        StudyError: it was; the message says what to do.
    """
    problem = None if watch is None else watch.problem()
    if watch is not None and problem is not None:
        message = (
            f"the studies in {watch.path} cannot be written: the file {problem} while it was in "
            "use, and what was told since may be lost; put the file back, from a copy if need be, "
            "and the same call goes on with it, or begins anew where there is none"
        )
        raise StudyError(message)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _named(storage: Storage | None) -> str:
    backend = getattr(storage, "_backend", storage)  # behind Optuna's cache
    return str(getattr(backend, "url", DEFAULT_STORAGE if backend is None else backend))


def sqlite_path(storage: Storage | None) -> Path | None:
    """The file of a storage that is named by one; None for an object, a URL or "memory"."""
    if isinstance(storage, BaseStorage):
        return None
    text = str(DEFAULT_STORAGE if storage is None else storage).removeprefix("sqlite:///")
    return None if text == "memory" or "://" in text else Path(text)


def storage_file(storage: Storage | None) -> Path | None:
    """Return the SQLite file of a storage, be it named or opened already; None where it has none.

    Args:
        storage: what `open_storage` takes.
    """
    backend = getattr(storage, "_backend", storage)  # behind Optuna's cache
    if not isinstance(backend, RDBStorage):
        return sqlite_path(storage)
    url = backend.engine.url
    named = url.get_backend_name() == "sqlite" and bool(url.database)
    # A URI of SQLite's own may be anything, memory too.
    plain = named and url.database != ":memory:" and not str(url.database).startswith("file:")
    return Path(str(url.database)) if plain else None


def storage_lock(storage: Storage | None) -> AbstractContextManager[Any]:
    """Keep other processes from opening an SQLite file or taking a lease in it meanwhile.

    Other storages have no file to lock: of two drivers that take a lease there in the same
    moment, the first one stops at its next `Lease.check`.
    """
    path = sqlite_path(storage)
    if path is None:
        return nullcontext()
    # of the file itself, however it is linked to: SQLite's own locks are there, too
    path = path.resolve() if path.is_symlink() else path
    return FileLock(f"{path}.lock", timeout=_WAIT_SECONDS)


def _use_write_ahead_log(path: Path) -> None:
    """Let dashboards read while the driver writes; the file keeps the mode."""
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            [[found]] = connection.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except sqlite3.DatabaseError as error:
        message = f"storage must be an SQLite file that holds studies, got {path}: {error}"
        raise StudyError(message) from error
    if tables and "studies" not in tables:
        message = f"storage must be an SQLite file that holds studies, got {path} with {tables}"
        raise StudyError(message)


@contextmanager
def holding(
    study: optuna.Study, storage: Storage | None, backend: BaseStorage | None = None
) -> Generator[Lease]:
    """Hold a study's lease; in the end its SQLite file holds all that was recorded.

    Args:
        study: the study to write.
        storage: its storage as the caller named it.
        backend: the same as `open_storage` opened it, which knows the file from then on.

    Raises:
        StudyHeldError: another driver holds or took the lease.
        StudyError: the file cannot be written, or was deleted, replaced or truncated meanwhile.
    """
    watch = _watch(storage, backend)
    lease = Lease(study, watch)
    with explained(storage, watch):
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


def _watch(storage: Storage | None, backend: BaseStorage | None) -> FileWatch | None:
    known = backend.watch if isinstance(backend, StudyFile) else None
    file = storage_file(storage)
    return known or (FileWatch(file) if file else None)


def fold_record(watch: FileWatch | None) -> None:
    """Move what is in the write-ahead log into the SQLite file, if that is still the one."""
    if watch is not None and watch.problem() is None:
        fold_log(watch.path)


class Lease:
    """The right to write one study, kept in its attributes.

    A holder on this host is gone when its process is; one elsewhere when it has not renewed for
    `LEASE_SECONDS`.
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
        """Renew in time.

        Raises:
            StudyHeldError: another driver took over.
            StudyError: the study, or its file, is not there any more.
        """
        check_file(self._watch)
        held = self._recorded()
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
        self.held.discard(self._token)
        if self._watch is not None and self._watch.problem() is not None:
            return  # nobody would read it, and the error under way says more
        with suppress(_DeletedError):
            if self._recorded().get("token") == self._token:
                self._study.set_user_attr("lease", None)

    def _recorded(self) -> dict[str, Any]:
        try:
            return self._study.user_attrs.get("lease") or {}
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
        self._study.set_user_attr("lease", holder)
        self._renewed = time.monotonic()


def lease_holder(study: optuna.Study) -> str | None:
    """Say who is writing the study now, or None."""
    return living_holder(study.user_attrs.get("lease"))


def living_holder(held: dict[str, Any] | None) -> str | None:
    """Say who holds a recorded lease, or None where nobody does or the holder is gone."""
    return _describe(held) if held and _is_alive(held) else None


def _describe(held: dict[str, Any]) -> str:
    return f"process {held.get('pid')} on {held.get('host')}" if held else "nobody"


def _is_alive(held: dict[str, Any]) -> bool:
    if held["host"] != socket.gethostname():
        return abs(time.time() - held["renewed"]) < LEASE_SECONDS
    if held["pid"] == os.getpid():
        return held["token"] in Lease.held
    try:
        if psutil.Process(held["pid"]).status() == psutil.STATUS_ZOMBIE:
            return False
        # A process number is used again; the time its process began tells the two apart.
        return abs(_seconds_after_boot(held["pid"]) - held["process_started"]) < 0.05
    except psutil.NoSuchProcess:
        return False


def _seconds_after_boot(pid: int) -> float:
    """When a process began, on a scale that setting the clock does not move."""
    booted = psutil.boot_time()
    return psutil.Process(pid).create_time() - booted
