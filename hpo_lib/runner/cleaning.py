"""Free the disk that runs and studies use: delete what hpo_lib wrote, and nothing else."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hpo_lib.exceptions import RunError
from hpo_lib.files import shown
from hpo_lib.runner.record import LOCK_NAME, RECORD_NAME, lock_run
from hpo_lib.study.lease import living_holder
from hpo_lib.study.sqlite_file import is_sqlite, read_content, recorded_leases
from hpo_lib.study.storage import DEFAULT_STORAGE, storage_lock, version_problem

# Names directly below the results that belong to the repository, and those of folders of runs.
_KEPT = ("reference", ".gitkeep")
_RUN_FOLDERS = ("runs", "work", "reference_run")

# A study file, and what SQLite, locks and checkpoints put beside it.
_STUDY_FILE = re.compile(r"(.+?)(-wal|-shm|-journal|\.lock|\.checkpoints)?")


def find_written(results: Path) -> tuple[list[Path], list[Path]]:
    """Return what runs and studies wrote below a folder, and all other files there.

    Study files are known by their content, whatever their name; links and journals are left
    alone.
    """
    written: list[Path] = []
    others: list[Path] = []
    folders = [results] if results.is_dir() else []
    while folders:
        folder = folders.pop()
        is_top = folder == results
        children = sorted(folder.iterdir())
        studies = {path.name for path in children if _leases(path) is not None}
        if is_top:
            children = [path for path in children if path.name not in _KEPT]
            if other_version(folder / DEFAULT_STORAGE.name) is None:
                studies.add(DEFAULT_STORAGE.name)  # however damaged

        for path in children:
            if path.is_symlink():
                others.append(path)
            elif _is_written(path, studies, is_top):
                written.append(path)
            elif path.is_dir():
                folders.append(path)
            else:
                others.append(path)

    return written, others


def _is_written(path: Path, studies: set[str], is_top: bool) -> bool:
    is_run = (path / RECORD_NAME).is_file() or (is_top and path.name in _RUN_FOLDERS)
    name = _STUDY_FILE.fullmatch(path.name)
    return is_run or (name is not None and name[1] in studies)


def other_version(path: Path) -> str | None:
    """Return why a file with studies of another Optuna cannot be read; None for any other file."""
    try:
        if not path.is_file() or not is_sqlite(path):
            return None
        content = read_content(path)
    except sqlite3.DatabaseError:  # damaged, or locked by another process
        return None
    return version_problem(path, content) if "studies" in content.tables else None


def check_idle(results: Path, locks: ExitStack) -> None:
    """Refuse to delete what a run or a study writes, and let none begin to write it.

    Args:
        results: what runs and studies wrote below this folder is looked at.
        locks: keeps the locks of runs and study files until it is closed.

    Raises:
        RunError: a run is in progress, or a driver that is alive holds a study.
    """
    for written in find_written(results)[0]:
        for path in (written, *written.rglob("*")):
            if path.name == LOCK_NAME:
                locks.enter_context(lock_run(path.parent))
            if _leases(path) is None:
                continue

            # No driver can take a lease from here on.
            locks.enter_context(storage_lock(path))
            for name, lease in (_leases(path) or {}).items():
                holder = living_holder(lease)
                if holder is not None:
                    message = f"study {name!r} in {shown(path)} is being written by {holder}"
                    raise RunError(message)


def _leases(path: Path) -> dict[str, dict[str, Any] | None] | None:
    """Return the lease of each study in a file; None if it is no study file that can be read."""
    try:
        if not path.is_file() or not is_sqlite(path) or other_version(path) is not None:
            return None
        return recorded_leases(path)
    except sqlite3.OperationalError as error:
        message = f"{path} is being written by another process: {error}"
        raise RunError(message) from error


def delete(path: Path) -> None:
    """Delete a file or a folder; links in it are removed, what they lead to stays."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
