"""Write files as a whole: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from hpo_lib.exceptions import WriteError


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


def remove_partials(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes have left.

    Args:
        folder: nobody else writes there now: the caller holds a lock.
        name: of the file that was to be written; by default any.
    """
    for partial in folder.glob(f".{name}.{'[0-9a-f]' * 32}.partial"):
        partial.unlink(missing_ok=True)


def expand_user(path: str | Path) -> Path:
    """Return a path that a user typed, with a leading `~` replaced by the home folder.

    A name such as `~backup.db`, where there is no user of that name, stays as it is.

    Args:
        path: what was typed.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib refuses unknown users)


def disk_used(path: Path) -> int:
    """Return the bytes in a file, or in all files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(disk_used(child) for child in path.iterdir())


def shown(path: Path) -> str:
    """Return a path as a message shows it: from where the user stands, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
