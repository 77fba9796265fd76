"""An SQLite file as a file: whether it is still the one that was opened, and its log.

A process that has the file open in SQLite must not open it by other means: closing it then would
drop SQLite's locks (see "How To Corrupt An SQLite Database File", 2.2). So all here is asked of
the file system by name, or of SQLite.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hpo_lib.trials import LEASE_KEY

_FOLD_SECONDS = 1.0
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


def _connect(
    path: Path,
    mode: str,
    timeout: float,
) -> sqlite3.Connection:
    """Open a file that is there: plain `connect` would make it."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=timeout)


def _is_whole(path: Path) -> bool:
    try:
        with closing(_connect(path, "ro", _FOLD_SECONDS)) as connection:
            [[found]] = connection.execute("PRAGMA quick_check(1)")
    except sqlite3.Error:
        return False
    return found == "ok"


def is_sqlite(path: Path) -> bool:
    """Return whether SQLite knows a file as its own, damaged or not, by its first bytes."""
    try:
        with closing(_connect(path, "ro", _FOLD_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode != sqlite3.SQLITE_NOTADB
    return True


def fold_log(path: Path) -> None:
    """Write what is in the write-ahead log into the file itself, so that the file is the record.

    Where a reader holds an old state or the disk is full, what cannot be written stays in the
    log: SQLite reads it from there, and the next driver tries again.
    """
    with suppress(sqlite3.Error), closing(_connect(path, "rw", _FOLD_SECONDS)) as connection:
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
        with closing(_connect(path, "ro", _FOLD_SECONDS)) as connection:
            rows = connection.execute(query, (LEASE_KEY,)).fetchall()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        return None  # no SQLite file, one of something else, or a damaged one

    return {name: json.loads(lease) if lease else None for name, lease in rows}
