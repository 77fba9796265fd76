"""Open the storage of studies: an SQLite file, an Optuna URL or a storage object.

SQLite files get more care than Optuna takes: a new one is written whole, one process at a time
opens it, and errors name the file and say what to do.
"""

from __future__ import annotations

import glob
import re
import shlex
import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool, QueuePool

from hpo_lib.exceptions import PathError, StudyError
from hpo_lib.files import atomic_write_bytes, is_full_disk, remove_partials, user_path
from hpo_lib.study.sqlite_file import (
    Content,
    FileWatch,
    can_write,
    connect,
    fold_log,
    read_content,
)

DEFAULT_STORAGE = Path("results") / "studies.db"

# The studies' own callbacks tell what happens; Optuna's lines would tell it a second time.
optuna.logging.set_verbosity(optuna.logging.WARNING)

_WAIT_SECONDS = 60
_RETRY_SECONDS = 0.5
_MEMORY = ":memory:"

Storage = str | Path | BaseStorage


class StudyFile(RDBStorage):
    """An SQLite file of studies that notices when the file is taken away.

    Args:
        path: the file, which exists; absolute, because the working directory may change before
            another connection is made.
        name: how the caller named it.
        reading: whether it is only read; then no connection stays open, with files beside it.
    """

    def __init__(self, path: Path, name: str, *, reading: bool = False) -> None:
        self.path = path
        self.name = name
        # Connections are made from the path and not from a URL, in which some characters of a
        # file's name mean something else. One writer at a time: a second one waits for the file.
        pool = NullPool if reading else QueuePool
        super().__init__(
            "sqlite://",
            engine_kwargs={"creator": partial(connect, path), "poolclass": pool},
            skip_compatibility_check=True,
            skip_table_creation=reading,
        )
        self.watch = FileWatch(path)


def read_storage(storage: Storage | None = None) -> BaseStorage:
    """Open a storage of studies to read it: an SQLite file has to be there, and stays as it is.

    Args:
        storage: as in `open_storage`.

    Raises:
        StudyError: it is not there, cannot be opened, or holds something else.
    """
    path = sqlite_path(storage)
    if path is None:
        return open_storage(storage)
    if not path.exists():
        message = f"no studies in {storage_name(storage)}: there is no such file"
        raise StudyError(message)

    with translate_storage_errors(storage):
        check_content(path)
        return StudyFile(path, storage_name(storage), reading=True)


def open_storage(storage: Storage | None = None) -> BaseStorage:
    """Open a storage of studies to write it.

    Args:
        storage: an SQLite file (created when missing), an Optuna storage URL, `"memory"` (as are
            SQLite's own URLs without a file), or an open storage; default `results/studies.db`.

    Raises:
        StudyError: it cannot be opened, or holds something else.
    """
    if isinstance(storage, BaseStorage):
        return storage
    path = sqlite_path(storage)
    if path is None:
        return InMemoryStorage() if _database(storage) == _MEMORY else _open_url(str(storage))

    with translate_storage_errors(storage), _translate_refusals(path):
        if path.exists():
            check_content(path, may_be_empty=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage_lock(storage):
            if not path.exists():
                remove_partials(path.parent, glob.escape(path.name))
                atomic_write_bytes(path, _empty_file()[0])
            # Let dashboards read while the driver writes; the file keeps the mode.
            with closing(connect(path)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return StudyFile(path, storage_name(storage))


@contextmanager
def _translate_refusals(path: Path) -> Generator[None]:
    """Raise a `StudyError` where a file or its folder cannot be written at all."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise
        message = f"the studies in {path} cannot be written: {error}; they may still be read"
        raise StudyError(message) from error


def _open_url(url: str, n_tries: int = 5) -> BaseStorage:
    try:
        # The server may have closed a connection that waited, or restarted meanwhile.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:  # SQLAlchemy's, a missing driver's or the network's
        # Drivers that open a new database at once all make its tables, and one succeeds.
        is_made_twice = isinstance(error, IntegrityError) or "already exists" in str(error)
        if n_tries > 1 and is_made_twice:
            time.sleep(_RETRY_SECONDS)
            return _open_url(url, n_tries - 1)

        reason = getattr(error, "orig", None) or error  # without the statement
        message = f"a {url.partition('://')[0]} storage cannot be opened: {reason}"
        raise StudyError(message) from error


@cache
def _empty_file() -> tuple[bytes, list[str]]:
    """Return the content of a file without studies, and the forms of files, the latest first.

    It is written whole, because Optuna does not complete one in whose making it was killed.
    """
    storage = RDBStorage("sqlite:///:memory:")
    with closing(storage.engine.raw_connection()) as connection:
        content = cast("sqlite3.Connection", connection.driver_connection).serialize()
    storage.engine.dispose()
    return content, storage.get_all_versions()


def check_content(path: Path, *, may_be_empty: bool = False) -> None:
    """Refuse an SQLite file that is damaged, is none, or holds no studies that can be read.

    Args:
        path: the file, which exists and stays as it is.
        may_be_empty: whether it may have no tables, as one that is to be written.

    Raises:
        StudyError: the message names the file and, for studies of another Optuna, its version.
        sqlite3.OperationalError: another process has locked it.
    """
    rule = f"storage must be an SQLite file that holds studies, got {path}"
    if not path.is_file():
        message = f"{rule}, which is no file"
        raise StudyError(message)
    try:
        content = read_content(path)
    except sqlite3.OperationalError:
        raise  # says nothing about the content
    except sqlite3.DatabaseError as error:
        message = f"{rule}: {error}"
        raise StudyError(message) from error

    if "studies" in content.tables:
        problem = version_problem(path, content)
        if problem is not None:
            raise StudyError(problem)
    elif content.tables or not may_be_empty:
        message = f"{rule} with {', '.join(sorted(content.tables)) or 'nothing'} in it"
        raise StudyError(message)


def version_problem(path: Path, content: Content) -> str | None:
    """Return why studies are in the form of another Optuna, and what to do; None if they are not.

    Args:
        path: the SQLite file.
        content: what is in it, studies too.
    """
    current, *earlier = _empty_file()[1]
    if content.revision == current:
        return None

    message = (
        f"{path} holds studies of Optuna {content.version}, which Optuna {optuna.__version__} "
        "cannot read"
    )
    if content.revision is None or content.revision in earlier:
        url = shlex.quote(f"sqlite:///{path}")
        command = f"optuna storage upgrade --storage {url}"
        return f"{message}; keep a copy, then bring them up to date: {command}"
    return f"{message}: install that version or a newer one"


@contextmanager
def translate_storage_errors(
    storage: Storage | None, watch: FileWatch | None = None
) -> Generator[None]:
    """Raise a `StudyError` that names the storage for an error of the database or a full disk.

    Args:
        storage: what `open_storage` takes or returns.
        watch: of its file; an error that comes of a file that was taken away then says so.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        causes = [cause for cause in map(_database_error, _chain(error)) if cause is not None]
        if not causes and not is_full_disk(error):
            raise
        check_file(watch)

        cause = causes[0] if causes else error
        message = f"the studies in {storage_name(storage)} cannot be read or written: {cause}"
        if "full" in str(cause) or is_full_disk(error):
            message += (
                "; what was recorded before is safe, and the same call goes on once there is space"
            )
        raise StudyError(message) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _database_error(error: BaseException) -> BaseException | None:
    """Return the error of a database's driver; None for any other error."""
    if isinstance(error, DBAPIError):
        return error.orig
    return error if isinstance(error, sqlite3.Error) else None


def storage_name(storage: Storage | None) -> str:
    """Return what a message calls a storage: a file or a URL, without its password."""
    if storage is None:
        return str(DEFAULT_STORAGE)
    if isinstance(storage, StudyFile):
        return storage.name
    text = str(storage.url if isinstance(storage, RDBStorage) else storage)
    return re.sub(r"(://[^/@]*:)[^@]*@", r"\1***@", text)


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
    """Return the file that names a storage; None for another URL, "memory" or an object.

    Raises:
        StudyError: the path leads nowhere, or an SQLite URL has more than a path.
    """
    database = _database(storage)
    if database is None or database == _MEMORY:
        return None
    try:
        return user_path(database)
    except PathError as error:
        message = f"storage must be a file or a URL: {error}"
        raise StudyError(message) from error


def is_read_only(storage: Storage | None) -> bool:
    """Return whether a storage is an SQLite file that is there and cannot be written."""
    path = sqlite_path(storage)
    return path is not None and path.exists() and not can_write(path)


def resolve_storage(storage: Storage | None) -> Storage | None:
    """Return a storage that does not depend on the working directory, which may change.

    Args:
        storage: what `open_storage` takes; one in memory is opened.
    """
    if _database(storage) == _MEMORY:
        return open_storage(storage)
    return sqlite_path(storage) or storage


def _database(storage: Any) -> str | None:
    """Return the SQLite database of a name: a path or ":memory:"; None for all else."""
    if isinstance(storage, BaseStorage):
        return None
    if not isinstance(storage, str | Path | None):
        message = f"storage must be a file, a URL or a storage, got {storage!r}"
        raise StudyError(message)
    text = str(DEFAULT_STORAGE if storage is None else storage)
    if text == "memory":
        return _MEMORY

    scheme = re.match(r"([a-z][\w.-]*)(\+\w+)?://", text, re.IGNORECASE)
    if scheme is None:
        return text
    if scheme[1].lower() != "sqlite":
        return None

    # As SQLAlchemy reads it; connections here wait a minute for others, whatever `timeout` says.
    options = parse_qs(text.partition("?")[2], keep_blank_values=True)
    try:
        url = make_url(scheme[0].lower() + text[scheme.end() :])
    except (ArgumentError, ValueError) as error:
        raise _url_error(text) from error
    if url.host or set(options) - {"timeout"}:
        raise _url_error(text)
    return url.database or _MEMORY


def _url_error(text: str) -> StudyError:
    return StudyError(
        f"an SQLite URL must be sqlite:///<path> without options, got {text!r}; a file whose "
        "name holds a question mark is given by its path alone"
    )


def storage_file(storage: Storage | None) -> Path | None:
    """Return the SQLite file of a storage, named or open; None where it has none.

    Args:
        storage: what `open_storage` takes or returns.
    """
    if not isinstance(storage, RDBStorage):
        return sqlite_path(storage)
    if isinstance(storage, StudyFile):
        return storage.path
    if storage.engine.name != "sqlite":
        return None
    # SQLite knows where it is, whatever the URL and wherever the process stands now.
    with storage.engine.connect() as connection:
        databases = connection.exec_driver_sql("PRAGMA database_list").all()
    files = [file for _, name, file in databases if name == "main" and file]
    return Path(files[0]) if files else None


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
