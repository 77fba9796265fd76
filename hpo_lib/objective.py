"""What is minimised: the validation error of one configuration, trained one segment at a time."""

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
"""What a segment writes in here, below its folder, stays when the trial is closed."""


ORIGIN = {"study": "belongs to another study", "data": "was trained on other images or labels"}
"""What a checkpoint may say of where it comes from; older ones say nothing."""


def check_origin(path: str | Path, recorded: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that names another study or other data than those here.

    Args:
        path: the checkpoint's file, for the message.
        recorded: its content; what it does not name, or as None, is not known.
        here: the study and data to go on with, by the keys of `ORIGIN`.

    Raises:
        CheckpointError: both name one, and they differ.
    """
    for key, problem in ORIGIN.items():
        theirs, ours = recorded.get(key), here.get(key)
        if theirs != ours and theirs is not None and ours is not None:
            message = f"{path} {problem}: {key} is {theirs} there and {ours} here"
            raise CheckpointError(message)


@dataclass(frozen=True)
class Segment:
    """The epochs `start` (exclusive) to `stop` (inclusive) of a trial that may run to `budget`.

    `seed` fixes everything random in the trial; `checkpoint` is the file that the segment before
    wrote (None for the first); `folder` is where this segment may write. `study` is the identity
    of the study: a checkpoint that names another one is to be refused with `CheckpointError`.
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
    """One entry per epoch of the segment; `seconds` are those of each epoch.

    A diverged segment ends at the epoch in which the loss stopped being finite: its curves stop
    before that epoch.
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
        """What values depend on besides the configuration, as JSON for the study's record."""
        ...

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Evaluate one segment of one trial."""
        ...


@dataclass(frozen=True)
class FunctionObjective:
    """A plain function `f(configuration) -> float` as an objective with a single segment."""

    function: Callable[[Configuration], float]

    budget: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """The function's name: a changed body is not noticed, a changed function is.

        Of a `partial`, what it holds, too; of a method, its class alone.
        """
        function, held = self.function, {}
        if isinstance(function, partial):
            held = {"partial": repr((function.args, function.keywords))}
            function = function.func
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return {"function": f"{function.__module__}.{name}", **held}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Call the function once; its value stands for every curve."""
        began = time.perf_counter()
        value = float(self.function(dict(configuration)))
        seconds = time.perf_counter() - began
        return SegmentResult((value,), (value,), (value,), (seconds,))


def as_objective(objective: Objective | Callable[[Configuration], float]) -> Objective:
    """Return an objective as it is, a plain function wrapped; anything else is refused."""
    if isinstance(objective, Objective):
        return objective
    if not callable(objective) or inspect.isclass(objective):
        message = f"objective must be an Objective or a function, got {objective!r}"
        raise TypeError(message)
    return FunctionObjective(objective)
