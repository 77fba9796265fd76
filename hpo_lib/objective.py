"""Contract between training and search: an objective evaluates a trial segment by segment."""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np

from hpo_lib.exceptions import CheckpointError
from hpo_lib.formatting import format_changes
from hpo_lib.identity import (
    digest,
    function_name,
    is_same_version,
    read_content,
    stated_version,
)
from hpo_lib.space.values import Configuration

Status = Literal["completed", "diverged"]

LOG_FOLDER = "tensorboard"
"""Files that a segment writes in here, below its folder, stay when the trial is closed."""


ORIGIN = {"study": "belongs to another study", "data": "was trained on other images or labels"}
"""Entries of a checkpoint that say where it comes from; older files do not have them."""


def check_origin(
    path: str | Path,
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
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
        is_known = None not in (recorded.get(key), current.get(key))
        changes = format_changes(recorded, current, [key])
        if is_known and changes:
            message = f"{path} {problem}: {changes[0]}"
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

    @classmethod
    def of_value(cls, value: float, seconds: float) -> SegmentResult:
        """Return the result of a single epoch, whose value stands for every curve.

        Args:
            value: what the search minimises.
            seconds: duration of the epoch.
        """
        return cls((value,), (value,), (value,), (seconds,))

    @classmethod
    def of_epochs(
        cls,
        epochs: Sequence[Mapping[str, float]],
        checkpoint: str | Path | None = None,
        status: Status = "completed",
    ) -> SegmentResult:
        """Return the result of several epochs.

        Args:
            epochs: a value by each name of `CURVES`, and others that are left out.
            checkpoint: file that the next segment starts from.
            status: "completed" or "diverged".
        """
        path = None if checkpoint is None else str(checkpoint)
        curves = {name: tuple(epoch[name] for epoch in epochs) for name in CURVES}
        return cls(**curves, checkpoint=path, status=status)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SegmentResult:
        """Return the result whose fields were written as JSON, which has lists for tuples."""
        curves: dict[str, Any] = {name: tuple(content[name]) for name in CURVES}
        return cls(**{**content, **curves})


CURVES = ("train_loss", "validation_loss", "seconds", "validation_error")
"""Fields of a `SegmentResult` with one entry per epoch."""


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


def function_identity(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the version of a function: its attribute `version`, or a digest of its content.

    What cannot be identified is left out, with a warning.
    """
    version = stated_version(function)
    if version is not None:
        return {"version": version}

    content, unknown = read_content(function)
    if unknown:
        message = (
            f"{', '.join(unknown)} cannot be identified by content: a study would not notice "
            "a change there. Where that matters, set an attribute of the objective, as in "
            'objective.version = "1", and change it with the objective'
        )
        warnings.warn(message, stacklevel=7)  # the caller of run_study
    return {"version": digest(content), "content": content}


@dataclass(frozen=True)
class FunctionObjective:
    """Plain function `f(configuration) -> float` as an objective with a single segment.

    For the question whether a study may go on, a function is its content (see `identity`), or
    what its attribute `version` says.

    Attributes:
        function: returns the value to minimise.
        budget: 1, the only segment.
    """

    function: Callable[..., Any]
    budget: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the version of the function: its attribute `version`, or a digest of its content.

        What cannot be identified is left out, with a warning.
        """
        return dict(self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"function": function_name(self.function), **function_identity(self.function)}

    def in_current_form(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return recorded settings as they are now, if they stand for the same function.

        Args:
            recorded: settings of any version. Earlier ones recorded names alone, with the
                addresses of arguments.
        """
        current = self._identity
        if "version" in recorded:
            is_same = is_same_version(recorded, current)
        else:
            known = {key: recorded[key] for key in ("function", "partial") if key in recorded}
            is_same = _without_addresses(known) == _without_addresses(self._old_settings())

        if not is_same:
            return dict(recorded)
        replaced = ("function", "partial", "version", "content")
        others = {key: value for key, value in recorded.items() if key not in replaced}
        return {**others, **current}

    def _old_settings(self) -> dict[str, str]:
        """Return the settings as earlier versions recorded them."""
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
        value = as_float("a number", self.function(dict(configuration)))
        seconds = time.perf_counter() - start_time
        return SegmentResult.of_value(value, seconds)


def _without_addresses(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: re.sub(" at 0x[0-9a-fA-F]+", "", text) for key, text in settings.items()}


def checked_result(result: object, segment: Segment) -> SegmentResult:
    """Return what an objective returned as plain Python floats and strings.

    Scalars and one-dimensional arrays of NumPy, PyTorch or pandas become floats. A validation
    error may be infinite or NaN: the driver closes such a trial as diverged.

    Args:
        result: what the objective returned.
        segment: the segment that it was called for.

    Raises:
        TypeError: a part is of another type than `SegmentResult` says.
        ValueError: a part has another length or value than the segment allows.
    """
    if not isinstance(result, SegmentResult):
        message = f"objective must return a SegmentResult, got {shown(result)}"
        raise TypeError(message)
    if result.status not in get_args(Status):
        rule = f"objective must return one of {', '.join(get_args(Status))} as status"
        message = f"{rule}, got {shown(result.status)}"
        raise ValueError(message)

    curves = {name: _curve(name, getattr(result, name)) for name in CURVES}
    _check_lengths(curves, segment.stop - segment.start, result.status)

    unusable = [value for value in curves["seconds"] if not 0 <= value < math.inf]
    if unusable:
        message = f"objective must return finite seconds of at least 0, got {unusable[0]}"
        raise ValueError(message)
    checkpoint = _checked_path(result.checkpoint)
    return SegmentResult(**curves, checkpoint=checkpoint, status=result.status)


def shown(value: object) -> str:
    """Return the start of a value's `repr`, or its type where that fails."""
    try:
        return f"{value!r:.200}"
    except Exception:  # a user's code
        return f"an object of type {type(value).__name__} whose repr fails"


def _curve(name: str, values: Any) -> tuple[float, ...]:
    given = values
    if hasattr(values, "tolist"):  # an array, a tensor, a series
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        rule = f"objective must return {name} as a sequence of numbers, one for each epoch"
        message = f"{rule}, got {shown(given)}"
        raise TypeError(message)

    numbers = cast("Sequence[object]", values)
    return tuple(as_float(f"numbers as {name}", value) for value in numbers)


def as_float(rule: str, value: Any) -> float:
    """Return one real number, also that of an array or a tensor with one element, as a float.

    Args:
        rule: what the objective must return, for the message.
        value: what it has returned.

    Raises:
        TypeError: it is no number.
        ValueError: it is beyond the range of a float.
    """
    number = value
    shape = getattr(value, "shape", None)
    if np.ma.is_masked(value):  # its item would be 0
        number = None
    elif isinstance(shape, tuple) and math.prod(cast("tuple[int, ...]", shape)) == 1:
        number = value.item()
    if not isinstance(number, Real | Decimal):
        message = f"objective must return {rule}, got {shown(value)}"
        raise TypeError(message)
    try:
        return float(number)
    except (OverflowError, ValueError) as error:  # an int of 400 digits, a signalling NaN
        message = f"objective must return {rule} within the range of a float, got {shown(value)}"
        raise ValueError(message) from error


def _check_lengths(curves: Mapping[str, Sequence[float]], n_epochs: int, status: Status) -> None:
    lengths = {name: len(curve) for name, curve in curves.items()}
    allowed = [n_epochs] if status == "completed" else range(n_epochs + 1)
    if len(set(lengths.values())) > 1 or lengths["seconds"] not in allowed:
        rule = f"objective must return curves of one length, the segment's {n_epochs} epochs"
        message = f"{rule} (fewer where it diverged), got {lengths}"
        raise ValueError(message)


def _checked_path(checkpoint: Any) -> str | None:
    path = os.fspath(checkpoint) if isinstance(checkpoint, os.PathLike) else checkpoint
    is_path = isinstance(path, str) and path and "\0" not in path
    if path is not None and not is_path:
        message = f"objective must return a path or None as checkpoint, got {shown(checkpoint)}"
        raise TypeError(message)
    return path
