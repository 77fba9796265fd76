"""Free the disk that runs and studies use: delete what hpo_lib wrote, and nothing else."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hpo_lib.exceptions import RunError
from hpo_lib.files import shown
from hpo_lib.runner.record import LOCK_NAME, RECORD_NAME, lock_run
from hpo_lib.study.lease import living_holder
from hpo_lib.study.sqlite_file import is_sqlite, read_content, recorded_leases
from hpo_lib.study.storage import DEFAULT_STORAGE, storage_lock, version_problem
from hpo_lib.trials import read_lease

# Names directly below the results that belong to the repository, and those of folders of runs.
_KEPT = ("reference", ".gitkeep")
_RUN_FOLDERS = ("runs", "work", "reference_run")

# Files that SQLite and locks put beside a study file, and folders of checkpoints.
_COMPANION = re.compile(r"(.+?)(-wal|-shm|-journal|\.lock)")
_STUDY_FOLDER = re.compile(r".+-[0-9a-f]{12}")

_JOURNAL = b'{"op_code":'  # how each line of Optuna's journal begins

_Leases = dict[str, dict[str, Any] | None]


def find_written(results: Path) -> tuple[list[Path], list[Path]]:
    """Return what runs and studies wrote below a folder, and all other files there.

    Study files are known by their content, whatever their name; links are left alone.
    """
    written: list[Path] = []
    others: list[Path] = []
    folders = [results] if results.is_dir() else []
    while folders:
        folder = folders.pop()
        is_top = folder == results
        children, studies = _list(folder, is_top)

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


def _list(folder: Path, is_top: bool) -> tuple[list[Path], set[str]]:
    """Return what lies in a folder, and the names of the study files among it."""
    children = sorted(folder.iterdir())
    studies = {path.name for path in children if is_study_file(path)}
    if is_top:
        children = [path for path in children if path.name not in _KEPT]
        if other_version(folder / DEFAULT_STORAGE.name) is None:
            studies.add(DEFAULT_STORAGE.name)  # however damaged
    return children, studies


def _is_written(path: Path, studies: set[str], is_top: bool) -> bool:
    if path.is_dir():
        if path.suffix == ".checkpoints":
            return all(_STUDY_FOLDER.fullmatch(child.name) for child in path.iterdir())
        return (path / RECORD_NAME).is_file() or (is_top and path.name in _RUN_FOLDERS)

    companion = _COMPANION.fullmatch(path.name)
    return path.name in studies or (companion is not None and companion[1] in studies)


def is_study_file(path: Path) -> bool:
    """Return whether a file holds studies that can be read, as an SQLite file or as a journal."""
    return path.is_file() and other_version(path) is None and _leases(path) is not None


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
        results: everything below this folder is looked at, but for the repository's own.
        locks: keeps the locks of runs and study files until it is closed.

    Raises:
        RunError: a run is in progress, or a driver that is alive holds a study.
    """
    kept = [results / name for name in _KEPT]
    for path in results.rglob("*"):
        if any(path.is_relative_to(folder) for folder in kept):
            continue
        if path.name == LOCK_NAME:
            locks.enter_context(lock_run(path.parent))
        elif is_study_file(path):
            # Optuna locks a journal itself, by a link that has the name of our lock.
            if is_sqlite(path):
                locks.enter_context(storage_lock(path))
            _check_leases(path)


def _check_leases(path: Path) -> None:
    for name, lease in (_leases(path) or {}).items():
        holder = living_holder(lease)
        if holder is not None:
            message = f"study {name!r} in {shown(path)} is being written by {holder}"
            raise RunError(message)


def _leases(path: Path) -> _Leases | None:
    try:
        return recorded_leases(path) if is_sqlite(path) else _journal_leases(path)
    except sqlite3.OperationalError as error:
        message = f"{path} is being written by another process: {error}"
        raise RunError(message) from error


def _journal_leases(path: Path) -> _Leases | None:
    with path.open("rb") as file:
        if file.read(len(_JOURNAL)) != _JOURNAL:
            return None
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = storage.get_all_studies()
    return {study.study_name: read_lease(study) for study in studies}


def delete(path: Path) -> None:
    """Delete a file or a folder; links in it are removed, what they lead to stays."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
