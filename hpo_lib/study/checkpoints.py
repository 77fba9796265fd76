"""Where the trials of a study write: a folder that belongs to one study of one file.

Beside `studies.db` it is `studies.db.checkpoints/<name>-<identity>/<trial number>`. The identity
is drawn once per study and kept in its record, so no other study, no other file and nobody's own
folder has the same place. Only trial folders of the study's own record are ever emptied, and no
symbolic link below `studies.db.checkpoints` is followed.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import quote

import optuna
from filelock import FileLock

from hpo_lib.exceptions import StudyError
from hpo_lib.files import disk_used
from hpo_lib.objective import LOG_FOLDER
from hpo_lib.trials import RecordedTrial, StudyRecord, TrialOutcome, own_trials

_LONGEST_NAME = 200  # file systems stop at 255 bytes
_TEMPORARY = "hpo_lib_"
_IDENTITY = re.compile(r"[0-9a-f]{32}")


def study_identity(study: optuna.Study) -> str | None:
    """Return the identity in a study's record; None where a driver has not given it one.

    A record may come from another user, and a part of its identity becomes the name of a folder:
    what is not such a number counts as none.
    """
    recorded: object = StudyRecord.of(study).identity
    if isinstance(recorded, str) and _IDENTITY.fullmatch(recorded):
        return recorded
    return None


def ensure_identity(study: optuna.Study) -> str:
    """Return the identity of a study, and write one into a record that has none."""
    identity = study_identity(study)
    if identity is None:
        identity = uuid.uuid4().hex
        StudyRecord.of(study).write(study, identity=identity)
    return identity


def tidy(study: optuna.Study, folder: StudyFolder, quota: int) -> None:
    """Remove the checkpoints of trials that have ended, but for those of pruned ones that fit.

    Of the pruned ones the worst go first, and the oldest of equals.

    Args:
        study: the study.
        folder: where its trials write.
        quota: bytes that the checkpoints of pruned trials may take.
    """
    trials = own_trials(study)
    pruned = [trial for trial in trials if trial.outcome == TrialOutcome.PRUNED]
    ended = [trial for trial in trials if trial.is_finished and trial not in pruned]
    worst_first = sorted(pruned, key=_last_error, reverse=True)
    folder.limit([trial.number for trial in worst_first], quota)
    folder.clear(trial.number for trial in ended)


def _last_error(trial: RecordedTrial) -> float:
    errors = trial.record.validation_error
    return errors[-1] if errors else math.inf


def checkpoints_beside(file: Path) -> Path:
    """Return the folder for the checkpoints of all studies of an SQLite file."""
    # A file that is linked to has one place; links above it stay, since hosts may share them.
    file = file.resolve() if file.is_symlink() else file.absolute()
    return file.with_name(f"{file.name}.checkpoints")


@contextmanager
def temporary_checkpoints(identity: str, *, is_lasting: bool) -> Generator[Path]:
    """Yield a temporary folder, for a study without a file beside which one could lie.

    The next driver of a lasting study finds the folder that a killed driver left, goes on from the
    checkpoints in it, and removes it. A study in memory has no next driver: its folder is in use
    as long as it is locked, and the next driver of any other study in memory removes the rest.

    Args:
        identity: the study's identity.
        is_lasting: whether the study outlives its driver.
    """
    place = Path(tempfile.gettempdir())
    folder = place / f"{_TEMPORARY}{identity}"
    if not is_lasting:
        _remove_abandoned(place)

    with nullcontext() if is_lasting else _locked(Path(f"{folder}.lock")):
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(file: Path) -> Generator[None]:
    """Lock a file, then remove it; a process that is killed gives the lock back."""
    with FileLock(file, timeout=0):
        yield
    with suppress(OSError):
        file.unlink()


def _remove_abandoned(place: Path) -> None:
    """Remove the folders of studies in memory whose drivers were killed."""
    own_user = getattr(os, "getuid", int)()  # on Windows 0, as for all files
    for lock in place.glob(f"{_TEMPORARY}*.lock"):
        with suppress(OSError):  # its driver lives, or it was removed meanwhile
            is_ours = lock.lstat().st_uid == own_user and not lock.is_symlink()
            if is_ours and _IDENTITY.fullmatch(lock.stem.removeprefix(_TEMPORARY)):
                with _locked(lock):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


class StudyFolder:
    """Folder of one study.

    Args:
        root: the folder for all studies of a file, or a temporary one.
        name: the study's name.
        identity: the study's identity.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        identity: str,
    ) -> None:
        self.root = root
        self.identity = identity

        # The name is for people, the identity tells studies apart.
        short_identity = identity[:12]
        self.path = root / f"{_quoted(name)}-{short_identity}"

    def trial(self, number: int) -> Path:
        """Return the folder of a trial, whether or not it is there."""
        return self.path / f"{number:05d}"

    def make(self, number: int) -> Path:
        """Make the folder of a trial.

        Raises:
            StudyError: a symbolic link stands in its place, behind which are others' files.
        """
        folder = self.trial(number)
        if self._through_link(folder):
            message = (
                f"the folder of trial {number} must be no symbolic link, nor be reached through "
                f"one, got {folder}: remove the link"
            )
            raise StudyError(message)

        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def recorded(self, checkpoint: str) -> str:
        """Return a checkpoint's path as it is recorded: from the root, where it lies below.

        So a record that was moved together with its folder still finds its checkpoints.
        """
        path = Path(checkpoint)
        as_they_are = (self.path, path)
        resolved = (self.path.resolve(), path.resolve())
        for folder, file in (as_they_are, resolved):
            if file.is_relative_to(folder):
                from_root = self.path.name / file.relative_to(folder)
                return from_root.as_posix()

        return checkpoint

    def find(self, recorded: str) -> str | None:
        """Return where a recorded checkpoint is now; None where it is not, or behind a link.

        Records from before studies had an identity hold the whole path.
        """
        path = Path(recorded)
        if path.parts[:1] == (self.path.name,):
            is_outside = ".." in path.parts
            path = self.root / path
            if is_outside or self._through_link(path):
                return None

        return str(path) if path.exists() else None

    def clear(self, numbers: Iterable[int], *, with_logs: bool = False) -> None:
        """Remove the checkpoints of these trials, and the study's folder if nothing is left.

        Args:
            numbers: the trials.
            with_logs: whether to remove TensorBoard's logs, too.
        """
        remove = _remove if with_logs else _clear
        for folder in self._folders(numbers):
            remove(folder)
        if not self._through_link(self.path):
            _remove_empty(self.path)

    def limit(self, numbers: Iterable[int], quota: int) -> None:
        """Remove the checkpoints of some trials until those of the others fit.

        Args:
            numbers: the trials; the checkpoints of the first go first.
            quota: bytes that they may take.
        """
        sizes = {
            folder: sum(disk_used(file) for file in _checkpoints(folder))
            for folder in self._folders(numbers)
        }
        excess = sum(sizes.values()) - quota
        for folder, size in sizes.items():
            # A driver that was killed meanwhile has left an empty folder.
            if excess <= 0 and size > 0:
                continue
            _clear(folder)
            excess -= size

    def _folders(self, numbers: Iterable[int]) -> list[Path]:
        """Return the folders of those of some trials that have one, behind no link."""
        if self._through_link(self.path) or not self.path.is_dir():
            return []

        names = {child.name for child in self.path.iterdir()}
        there = [folder for folder in map(self.trial, numbers) if folder.name in names]
        return [folder for folder in there if folder.is_dir() and not folder.is_symlink()]

    def _through_link(self, path: Path) -> bool:
        """Return whether a part of a path below the root is a symbolic link."""
        part = self.root
        for name in path.relative_to(self.root).parts:
            part = part / name
            if part.is_symlink():
                return True
        return False


def _quoted(name: str) -> str:
    quoted = quote(name, safe=" ")
    if len(quoted) <= _LONGEST_NAME:
        return quoted

    # The digest of the whole name has 40 characters.
    digest = hashlib.sha1(name.encode()).hexdigest()
    return quoted[: _LONGEST_NAME - 40] + digest


def _checkpoints(folder: Path) -> list[Path]:
    """Return what is in the folder of a trial beside TensorBoard's logs."""
    return [child for child in folder.iterdir() if child.name != LOG_FOLDER]


def _clear(folder: Path) -> None:
    """Remove a trial's checkpoints; TensorBoard's logs stay."""
    for child in _checkpoints(folder):
        _remove(child)
    _remove_empty(folder)


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # stops at links itself
    else:
        with suppress(OSError):
            path.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()
