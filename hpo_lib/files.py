"""Find the files that a user names, and write files as a whole.

A reader sees the old content of a file or the new, never a part.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hpo_lib.exceptions import DataError, PathError, WriteError

PACKAGE_PARENT = Path(__file__).resolve().parents[1]
"""The folder that holds the package and, in a repository, the notebooks."""


def project_folder() -> Path:
    """Return the folder that holds notebooks and results.

    It is where the user stands, there or in its `notebooks`, if it has profiles of runs; else
    the repository, where the package is in one.
    """
    here = Path.cwd()
    project = here.parent if here.name == "notebooks" else here
    has_profiles = os.access(project / "notebooks" / "profiles.yaml", os.R_OK)
    is_repository = (PACKAGE_PARENT / "notebooks").is_dir()
    return PACKAGE_PARENT if is_repository and not has_profiles else project


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error says that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to a temporary file in the same folder, then rename it over `path`.

    Args:
        path: file to create or replace; its folder exists.
        text: content.

    Raises:
        WriteError: the file could not be written; its former content is whole.
    """
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary file in the same folder, then rename it over `path`.

    Args:
        path: file to create or replace; its folder exists.
        content: bytes to write.

    Raises:
        WriteError: the file could not be written; its former content is whole.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_settings(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write settings as JSON, as a whole.

    Args:
        path: file to create or replace.
        settings: values by name, of JSON's types.
    """
    text = json.dumps(settings, indent=2, allow_nan=False)
    atomic_write_text(path, text + "\n")


def read_settings(path: str | Path, notebook: str) -> dict[str, Any]:
    """Read settings that `write_settings` wrote.

    Args:
        path: the file.
        notebook: number of the notebook that writes it, for the message where it is missing.

    Raises:
        DataError: the file is missing, or no JSON object.
    """
    path = Path(path)
    if not path.exists():
        message = (
            f"{path} is missing: run notebook {notebook} into this folder first "
            f"(python -m hpo_lib run --into {path.parent} {notebook})"
        )
        raise DataError(message)

    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = f"{path} is damaged, it must be JSON: {error}"
        raise DataError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold a JSON object, got {content!r}"
        raise DataError(message)
    return cast("dict[str, Any]", content)


def remove_partials(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes have left.

    Args:
        folder: nobody else writes there now: the caller holds a lock.
        name: of the file that was to be written; by default any.
    """
    for partial in folder.glob(f".{name}.{'[0-9a-f]' * 32}.partial"):
        partial.unlink(missing_ok=True)


def user_path(text: str | Path) -> Path:
    """Return the absolute path that a user typed; every path from outside passes here, once.

    A leading `~` is the home folder; a name such as `~backup.db`, where there is no user of that
    name, stays as it is. A relative path begins in the working directory, in a project's
    notebooks in the project's folder.

    Args:
        text: what was typed.

    Raises:
        PathError: it is no path, or a part of it is a symbolic link that leads nowhere.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111 (pathlib refuses unknown users)
    try:
        path = path if path.is_absolute() else _standing_place() / path
        links = [part for part in (path, *path.parents) if part.is_symlink()]
        broken = [link for link in links if not link.exists()]
    except OSError as error:  # a name that is too long, a folder that may not be searched
        message = f"{str(text)!r} is no path that can be used: {error}"
        raise PathError(message) from error

    if broken:
        message = (
            f"{shown(path)} leads nowhere: {shown(broken[0])} is a symbolic link to "
            f"{broken[0].readlink()}, which is not there"
        )
        raise PathError(message)
    return path


def _standing_place() -> Path:
    here = Path.cwd()
    if "ipykernel.kernelapp" not in sys.modules:
        return here
    project = project_folder()
    return project if here == project / "notebooks" else here


def disk_used(path: Path) -> int:
    """Return the bytes in a file, or in all files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(disk_used(child) for child in path.iterdir())


def shown(path: Path) -> str:
    """Return a path as a message shows it: from where the user stands, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
