"""Contract between training and search: an objective evaluates a trial segment by segment."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hpo_lib.exceptions import CheckpointError
from hpo_lib.space.search_space import Configuration

Status = Literal["completed", "diverged"]

LOG_FOLDER = "tensorboard"
"""Files that a segment writes in here, below its folder, stay when the trial is closed."""


ORIGIN = {"study": "belongs to another study", "data": "was trained on other images or labels"}
"""Entries of a checkpoint that say where it comes from; older files do not have them."""


def check_origin(
    path: str | Path, recorded: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint that names another study or other data than those here.

    Args:
        path: file of the checkpoint, for the message.
        recorded: its content; an entry that is missing or None is not known.
        current: study and data to go on with, by the keys of `ORIGIN`.

    Raises:
        CheckpointError: both name one, and they differ.
    """
    for key, problem in ORIGIN.items():
        theirs = recorded.get(key)
        ours = current.get(key)
        if theirs != ours and theirs is not None and ours is not None:
            message = f"{path} {problem}: {key} is {theirs} there and {ours} here"
            raise CheckpointError(message)


@dataclass(frozen=True)
class Segment:
    """Epochs `start` (exclusive) to `stop` (inclusive) of a trial that may run to `budget`.

    Attributes:
        seed: fixes everything random in the trial.
        start: epochs done before.
        stop: epochs done afterwards.
        budget: epochs of a trial that runs to its end.
        checkpoint: file that the segment before wrote; None for the first.
        folder: where this segment may write.
        study: identity of the study; a checkpoint that names another one is to be refused with
            `CheckpointError`.

    Raises:
        ValueError: the epochs are out of order.
    """

    seed: int
    start: int
    stop: int
    budget: int
    checkpoint: str | None = None
    folder: str | None = None
    study: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.budget:
            message = (
                "a segment needs 0 <= start < stop <= budget, "
                f"got start={self.start}, stop={self.stop}, budget={self.budget}"
            )
            raise ValueError(message)


@dataclass(frozen=True)
class SegmentResult:
    """Curves of a segment, with one entry per epoch.

    A diverged segment ends at the epoch in which the loss stopped being finite: its curves stop
    before that epoch.

    Attributes:
        train_loss: mean loss over the epoch's steps.
        validation_loss: loss on the validation data.
        validation_error: value that the search minimises.
        seconds: duration of each epoch.
        checkpoint: file that the next segment starts from.
        status: "completed" or "diverged".
    """

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_error: tuple[float, ...]
    seconds: tuple[float, ...]
    checkpoint: str | None = None
    status: Status = "completed"


@runtime_checkable
class Objective(Protocol):
    """A pure function of its arguments and the files that they name, in any process."""

    @property
    def budget(self) -> int:
        """Epochs of a trial that runs to its end."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Return as JSON all that values depend on besides the configuration."""
        ...

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Evaluate one segment of one trial.

        Args:
            configuration: values of the search space's active parameters.
            segment: epochs to run, seed, checkpoint and folder.
        """
        ...


@dataclass(frozen=True)
class FunctionObjective:
    """Plain function `f(configuration) -> float` as an objective with a single segment.

    Attributes:
        function: returns the value to minimise.
        budget: 1, the only segment.
    """

    function: Callable[[Configuration], float]
    budget: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the function's name: a changed body is not noticed, a changed function is.

        A `partial` adds the arguments that it holds; a method stands for its class alone.
        """
        function = self.function
        arguments: dict[str, str] = {}
        if isinstance(function, partial):
            arguments = {"partial": repr((function.args, function.keywords))}
            function = function.func

        name = getattr(function, "__qualname__", type(function).__qualname__)
        return {"function": f"{function.__module__}.{name}", **arguments}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Call the function once; its value stands for every curve.

        Args:
            configuration: values of the search space's active parameters.
            segment: not used.
        """
        start_time = time.perf_counter()
        value = float(self.function(dict(configuration)))
        seconds = time.perf_counter() - start_time
        return SegmentResult((value,), (value,), (value,), (seconds,))


def as_objective(objective: Objective | Callable[[Configuration], float]) -> Objective:
    """Return an objective as it is and a plain function wrapped.

    Raises:
        TypeError: it is neither.

    Example:
        >>> as_objective(lambda configuration: configuration["x"] ** 2).budget
        1
    """
    if isinstance(objective, Objective):
        return objective
    if not callable(objective) or inspect.isclass(objective):
        message = f"objective must be an Objective or a function, got {objective!r}"
        raise TypeError(message)
    return FunctionObjective(objective)
