"""Freeing the disk that runs and studies use: what hpo_lib wrote is deleted, nothing else."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hpo_lib.exceptions import RunError
from hpo_lib.files import shown
from hpo_lib.study.sqlite_file import is_sqlite, recorded_leases
from hpo_lib.study.storage import DEFAULT_STORAGE, living_holder, storage_lock

KEPT = ("reference", ".gitkeep")
"""Names directly below the results that belong to the repository."""

_RUN_FOLDERS = ("runs", "work", "reference_run")
_COMPANION = re.compile(r"(.+?)(-wal|-shm|-journal|\.lock)")
_STUDY_FOLDER = re.compile(r".+-[0-9a-f]{12}")
_JOURNAL = b'{"op_code":'  # how each line of Optuna's journal begins
_Leases = dict[str, dict[str, Any] | None]


def written_by_us(folder: Path) -> list[Path]:
    """Return the files and folders below a folder that runs and studies wrote.

    Study files are known by their content, whatever their name; links are left alone.
    """
    return [path for path, ours in _sorted_out(folder) if ours]


def others(folder: Path) -> list[Path]:
    """Return the files below a folder that are nobody's that hpo_lib knows."""
    return [path for path, ours in _sorted_out(folder) if not ours]


def _sorted_out(folder: Path, top: bool = True) -> Iterator[tuple[Path, bool]]:
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    children = [path for path in children if not (top and path.name in KEPT)]
    studies = {path.name for path in children if is_study_file(path)}
    if top:
        studies.add(DEFAULT_STORAGE.name)  # however damaged
    for path in children:
        if path.is_symlink():
            yield path, False
        elif _is_ours(path, studies, top):
            yield path, True
        elif path.is_dir():
            yield from _sorted_out(path, top=False)
        else:
            yield path, False


def _is_ours(path: Path, studies: set[str], top: bool) -> bool:
    if not path.is_dir():
        companion = _COMPANION.fullmatch(path.name)
        return path.name in studies or (companion is not None and companion[1] in studies)
    if path.suffix == ".checkpoints":
        return all(_STUDY_FOLDER.fullmatch(child.name) for child in path.iterdir())
    return (path / "run.json").is_file() or (top and path.name in _RUN_FOLDERS)


def is_study_file(path: Path) -> bool:
    """Return whether a file holds studies of Optuna's, as SQLite file or as journal."""
    return path.is_file() and _leases(path) is not None


def check_idle(folder: Path, held: ExitStack) -> None:
    """Refuse to delete a record that is being written, and let nobody begin to write one.

    Args:
        folder: all below it, but for the repository's own, is looked at.
        held: keeps the locks of the study files until it is closed.

    Raises:
        RunError: a driver that is alive holds a study in one of them.
    """
    kept = [folder / name for name in KEPT]
    for path in folder.rglob("*"):
        inside = any(path.is_relative_to(place) for place in kept)
        if inside or not is_study_file(path):
            continue
        held.enter_context(storage_lock(path))
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
    return {study.study_name: study.user_attrs.get("lease") for study in studies}


def delete(path: Path) -> None:
    """Delete a file or a folder; links in it are removed, what they lead to stays."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
