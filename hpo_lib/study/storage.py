"""Open the storage of studies: an SQLite file, an Optuna URL or a storage object.

SQLite files get more care than Optuna takes: a new one is written whole, one process at a time
opens it, and errors name the file and say what to do.
"""

from __future__ import annotations

import glob
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.pool import QueuePool

from hpo_lib.exceptions import StudyError
from hpo_lib.files import atomic_write_bytes, expand_user, is_full_disk, remove_partials
from hpo_lib.study.sqlite_file import FileWatch, fold_log

DEFAULT_STORAGE = Path("results") / "studies.db"

# The studies' own callbacks tell what happens; Optuna's lines would tell it a second time.
optuna.logging.set_verbosity(optuna.logging.WARNING)

_WAIT_SECONDS = 60

Storage = str | Path | BaseStorage


class StudyFile(RDBStorage):
    """An SQLite file of studies that notices when the file is taken away.

    Args:
        path: the file, which exists.
        name: how the caller named it.
    """

    def __init__(self, path: Path, name: str) -> None:
        # Absolute, because the working directory may change before another connection is made.
        self.path = path.absolute()
        # Connections are made from the path and not from a URL, in which some characters of a
        # file's name mean something else. One writer at a time: a second one waits for the file.
        connect = partial(
            sqlite3.connect,
            self.path,
            timeout=_WAIT_SECONDS,
            check_same_thread=False,
        )
        engine = {"creator": connect, "poolclass": QueuePool}
        super().__init__("sqlite://", engine_kwargs=engine)
        self.name = name
        self.watch = FileWatch(path)


def open_storage(storage: Storage | None = None) -> BaseStorage:
    """Open a storage of studies.

    Args:
        storage: an SQLite file (created when missing), an Optuna storage URL, `"memory"`, or an
            open storage; default `results/studies.db`.

    Raises:
        StudyError: it cannot be opened, or holds something else.
    """
    if isinstance(storage, BaseStorage):
        return storage
    path = sqlite_path(storage)
    if path is None:
        return InMemoryStorage() if storage == "memory" else _open_url(str(storage))

    # A new file is made where a link leads, not in place of the link.
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    with translate_storage_errors(storage), storage_lock(storage):
        if not path.exists():
            remove_partials(path.parent, glob.escape(path.name))
            atomic_write_bytes(path, _empty_file())
        _use_write_ahead_log(path)
        return StudyFile(path, _display_name(storage))


def _open_url(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except Exception as error:  # SQLAlchemy's, a missing driver's or the network's
        message = f"a {url.partition('://')[0]} storage cannot be opened: {error}"
        raise StudyError(message) from error


@cache
def _empty_file() -> bytes:
    """Return the content of a file without studies.

    It is written whole, because Optuna does not complete one in whose making it was killed.
    """
    engine = RDBStorage("sqlite:///:memory:").engine
    with closing(engine.raw_connection()) as connection:
        content = cast("sqlite3.Connection", connection.driver_connection).serialize()
    engine.dispose()
    return content


def _use_write_ahead_log(path: Path) -> None:
    """Let dashboards read while the driver writes; the file keeps the mode."""
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            [[damage]] = connection.execute("PRAGMA quick_check(1)")
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
    except sqlite3.DatabaseError as error:
        message = f"storage must be an SQLite file that holds studies, got {path}: {error}"
        raise StudyError(message) from error
    if tables and "studies" not in tables:
        message = f"storage must be an SQLite file that holds studies, got {path} with {tables}"
        raise StudyError(message)


@contextmanager
def translate_storage_errors(
    storage: Storage | None, watch: FileWatch | None = None
) -> Generator[None]:
    """Raise a `StudyError` that names the storage for an error of SQLite or a full disk.

    Args:
        storage: what `open_storage` takes or returns.
        watch: of its file; an error that comes of a file that was taken away then says so.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        causes = [cause for cause in _chain(error) if isinstance(cause, sqlite3.Error)]
        if not causes and not is_full_disk(error):
            raise
        check_file(watch)

        cause = causes[0] if causes else error
        message = f"the studies in {_display_name(storage)} cannot be read or written: {cause}"
        if "full" in str(cause) or is_full_disk(error):
            message += (
                "; what was recorded before is safe, and the same call goes on once there is space"
            )
        raise StudyError(message) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _display_name(storage: Storage | None) -> str:
    if storage is None:
        return str(DEFAULT_STORAGE)
    if isinstance(storage, StudyFile):
        return storage.name
    return str(storage.url if isinstance(storage, RDBStorage) else storage)


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


def file_watch(storage: BaseStorage) -> FileWatch | None:
    """Return the watch over the SQLite file of an open storage; None where it has none."""
    if isinstance(storage, StudyFile):
        return storage.watch
    file = storage_file(storage)
    return None if file is None else FileWatch(file)


def fold_record(watch: FileWatch | None) -> None:
    """Move the write-ahead log into the SQLite file, unless that was taken away."""
    if watch is not None and watch.problem() is None:
        fold_log(watch.path)


def sqlite_path(storage: Storage | None) -> Path | None:
    """Return the file that names a storage; None for another URL, "memory" or an object."""
    if isinstance(storage, BaseStorage):
        return None
    text = str(DEFAULT_STORAGE if storage is None else storage).removeprefix("sqlite:///")
    return None if text == "memory" or "://" in text else expand_user(text)


def storage_file(storage: Storage | None) -> Path | None:
    """Return the SQLite file of a storage, named or open; None where it has none.

    Args:
        storage: what `open_storage` takes or returns.
    """
    if not isinstance(storage, RDBStorage):
        return sqlite_path(storage)
    if isinstance(storage, StudyFile):
        return storage.path
    url = storage.engine.url
    # A URI of SQLite's own may be anything, memory too.
    is_uri = str(url.database).startswith("file:")
    is_named = bool(url.database) and url.database != ":memory:" and not is_uri
    is_file = url.get_backend_name() == "sqlite" and is_named
    return Path(str(url.database)) if is_file else None


def storage_lock(storage: Storage | None) -> AbstractContextManager[Any]:
    """Keep other processes from opening an SQLite file or taking a lease in it meanwhile.

    Other storages have no file to lock: of two drivers that take a lease there in the same
    moment, the first one stops at its next `Lease.check`.

    Args:
        storage: what `open_storage` takes or returns.
    """
    path = storage_file(storage)
    if path is None:
        return nullcontext()
    # The lock stands beside the file itself, however that is linked to: SQLite's own do, too.
    path = path.resolve() if path.is_symlink() else path
    return FileLock(f"{path}.lock", timeout=_WAIT_SECONDS)
