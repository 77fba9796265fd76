"""Every exception that hpo_lib raises for its callers to catch."""

from __future__ import annotations

from collections.abc import Iterable


class SpaceError(ValueError):
    """All mistakes of a space or a configuration at once.

    Attributes:
        problems: one sentence per mistake; each names parameter, rule and value.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class DataError(ValueError):
    """Data that cannot be used; the message names the file or argument and the rule."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another training.

    An objective that raises it says nothing about its configuration: the trial begins anew.
    """


class PathError(ValueError):
    """A path that leads nowhere; the message names it and says why."""


class MissingExtraError(ModuleNotFoundError):
    """A dependency of an extra is not installed; the message names the extra."""


class RunError(ValueError):
    """A run cannot begin: a notebook, a parameter, a profile or a folder is not as it must be."""


class ExhaustedError(RuntimeError):
    """All configurations of a finite space or grid have been tried."""


class StudyError(RuntimeError):
    """A study cannot be opened, continued or written; the message says what to do."""


class StudyHeldError(StudyError):
    """Another driver writes this study."""


class StudyChangedError(StudyError):
    """The study was recorded with another space or other settings."""


class StudyStoppedError(StudyError):
    """Too many trials failed in a row."""


class WriteError(OSError):
    """A file could not be written: its former content is whole, and nothing is left behind."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written: {self.strerror}"
