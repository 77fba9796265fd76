"""An SQLite file as a file: whether it is still the one that was opened, and its log.

A process that has the file open in SQLite must not open it by other means: closing it then would
drop SQLite's locks (see "How To Corrupt An SQLite Database File", 2.2). So all here is asked of
the file system by name, or of SQLite.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hpo_lib.trials import LEASE_KEY

_FOLD_SECONDS = 1.0
_WAIT_SECONDS = 60.0
_SMALLEST = 512  # bytes of the smallest page


class FileWatch:
    """Notices that an open SQLite file was deleted, replaced or truncated.

    SQLite goes on to write a file that has no name any more, and says nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # the working directory may change
        self._log = self.path.resolve().with_name(f"{self.path.resolve().name}-wal")
        self._opened = _identity(self.path)
        self._log_opened = _identity(self._log)
        self._size = _size(self.path)

    def problem(self) -> str | None:
        """Say what happened to the file since it was opened; None if it is as it should be."""
        now = _identity(self.path)
        if now is None:
            return "was deleted or moved"
        if now != self._opened:
            return "was replaced by another file"
        return self._log_problem() or self._size_problem()

    def _log_problem(self) -> str | None:
        # It stays as long as a connection is open, and the storage keeps some.
        now = _identity(self._log)
        self._log_opened = self._log_opened or now
        return None if now == self._log_opened else "lost its write-ahead log (-wal)"

    def _size_problem(self) -> str | None:
        size, before = _size(self.path), self._size
        self._size = size
        if size >= before:
            return None
        # Another tool may have compacted it (VACUUM): SQLite can tell whether it is whole. An
        # empty file it would take for a new one.
        whole = size >= _SMALLEST and _is_whole(self.path)
        return None if whole else f"was truncated from {before} to {size} bytes"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # not there, or its folder is not
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def connect(path: Path, timeout: float = _WAIT_SECONDS) -> sqlite3.Connection:
    """Open a file that is there; reading leaves nothing beside it, and every byte as it was.

    Args:
        path: the file; the file system says whether it can be written.
        timeout: seconds to wait for another connection that has locked it.
    """
    path = path.resolve()
    log = path.with_name(f"{path.name}-wal")
    index = path.with_name(f"{path.name}-shm")

    # SQLite makes a log and its index beside a file, and removes them with the last connection.
    is_writable = can_write(path)
    has_log = _size(log) > 0
    if has_log and not is_writable and not index.exists():
        return _copy_into_memory(path, log)

    is_alone = not is_writable and not has_log
    uri = f"{path.as_uri()}?mode=rw{'&immutable=1' if is_alone else ''}"
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=timeout,
        check_same_thread=False,
    )


def can_write(path: Path) -> bool:
    """Return whether the file system lets SQLite write a file, and make a log beside it."""
    path = path.resolve()
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _copy_into_memory(path: Path, log: Path) -> sqlite3.Connection:
    """Read a file with a log where SQLite cannot: no index is there, and none can be made."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with tempfile.TemporaryDirectory(prefix="hpo_lib_") as folder:
        for file in (path, log):
            shutil.copyfile(file, Path(folder) / file.name)
        with closing(sqlite3.connect(Path(folder) / path.name)) as copied:
            copied.backup(memory)
    return memory


class Content(NamedTuple):
    """What is in an SQLite file.

    Attributes:
        tables: names of its tables and indices.
        revision: of the form in which Optuna stored studies there; None if it is not told.
        version: of the Optuna that made it.
    """

    tables: set[str]
    revision: str | None
    version: str


def read_content(path: Path) -> Content:
    """Read what is in an SQLite file; sqlite3.Error if it is damaged or none."""
    with closing(connect(path)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        [[found]] = connection.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(found)

        revision = version = None
        if "alembic_version" in tables:
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if "version_info" in tables:
            version = connection.execute("SELECT library_version FROM version_info").fetchone()

    version = "of an unknown version" if version is None else version[0]
    return Content(tables, revision and revision[0], version)


def _is_whole(path: Path) -> bool:
    try:
        read_content(path)
    except sqlite3.Error:
        return False
    return True


def is_sqlite(path: Path) -> bool:
    """Return whether SQLite knows a file as its own, damaged or not, by its first bytes."""
    try:
        with closing(connect(path, _FOLD_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode != sqlite3.SQLITE_NOTADB
    return True


def fold_log(path: Path) -> None:
    """Write what is in the write-ahead log into the file itself, so that the file is the record.

    Where a reader holds an old state or the disk is full, what cannot be written stays in the
    log: SQLite reads it from there, and the next driver tries again.
    """
    with suppress(sqlite3.Error), closing(connect(path, _FOLD_SECONDS)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def recorded_leases(path: Path) -> dict[str, dict[str, Any] | None] | None:
    """Return the lease of each study in a file, whatever Optuna wrote it; None if it has none.

    Raises:
        sqlite3.OperationalError: another process has locked the file.
    """
    query = (
        "SELECT study_name, value_json FROM studies LEFT JOIN study_user_attributes AS found "
        "ON found.study_id = studies.study_id AND found.key = ?"
    )
    try:
        with closing(connect(path, _FOLD_SECONDS)) as connection:
            rows = connection.execute(query, (LEASE_KEY,)).fetchall()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        return None  # no SQLite file, one of something else, or a damaged one

    return {name: json.loads(lease) if lease else None for name, lease in rows}
