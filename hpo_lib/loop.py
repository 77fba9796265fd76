"""Training loop of a user's own as an objective: a generator that yields each epoch's error."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from hpo_lib.checks import check_whole
from hpo_lib.exceptions import CheckpointError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.objective import (
    FunctionObjective,
    Objective,
    Segment,
    SegmentResult,
    as_float,
    check_origin,
    shown,
)
from hpo_lib.space.values import Configuration

Epoch = float | Mapping[str, float]
"""Report of one epoch: its validation error, or a mapping with losses beside it."""

Loop = Callable[..., Generator[Epoch, None, object]]
"""Generator function of a configuration, or of a configuration and a `TrialContext`."""

_REPORTED = ("validation_error", "train_loss", "validation_loss")
_STATE = "state"


class _State(NamedTuple):
    """Saved state of a trial.

    Attributes:
        path: its file.
        reports: of all epochs that are done in it.
        content: what the loop handed to `TrialContext.save`.
    """

    path: Path
    reports: list[dict[str, float]]
    content: Any


class TrialContext:
    """Everything that a training loop may ask for besides its configuration.

    Attributes:
        seed: fixes everything random in this trial; the same trial always gets the same.
        budget: epochs of a trial that runs to its end.
        epoch: epochs done in the state that `load` has returned; 0 for a training from its start.
        folder: where the loop may write files of its own; they go when the trial is closed.

    Args:
        segment: the segment that is trained.
        saved: state to go on from, if there is one.
    """

    def __init__(self, segment: Segment, saved: _State | None) -> None:
        if segment.folder is None:
            message = "a training loop needs a folder for its files, got None in the segment"
            raise ValueError(message)

        self.seed = segment.seed
        self.budget = segment.budget
        self.epoch = 0
        self.folder = Path(segment.folder)
        self._saved = saved
        self._unwritten: list[Any] = []

    @property
    def device(self) -> str:
        """Name of the device to train on, for PyTorch: "cuda", "mps" or "cpu"."""
        torch: Any = importlib.import_module("torch")
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def load(self) -> Any:
        """Return the last saved state of this trial, or None where it begins.

        From then on `epoch` is the number of epochs that are done, and the next report is taken
        for the epoch after them.
        """
        if self._saved is None:
            return None
        self.epoch = len(self._saved.reports)
        return self._saved.content

    def save(self, state: Any) -> None:
        """Keep a state from which the trial can go on after the epoch that is reported next.

        Args:
            state: dictionaries, lists, numbers, text, and in a program that uses PyTorch also
                tensors, as `state_dict()` returns them. Whatever else there is to keep can be
                written into `folder`.
        """
        self._unwritten = [state]

    def take_saved(self) -> list[Any]:
        """Return the state that was saved since the last call, as a list of at most one."""
        unwritten = self._unwritten
        self._unwritten = []
        return unwritten

    def loaded_reports(self) -> list[dict[str, float]]:
        """Return the reports up to the loaded state; none where the loop has not loaded it."""
        if self._saved is None or self.epoch == 0:
            return []
        return list(self._saved.reports)


@dataclass
class _Training:
    """A training that is suspended after an epoch.

    Attributes:
        key: trial that it belongs to.
        context: handed to the loop.
        epochs: the loop itself.
        reports: of all epochs that are done.
        state: file of the last saved state.
    """

    key: tuple[Any, ...]
    context: TrialContext
    epochs: Generator[Epoch, None, object]
    reports: list[dict[str, float]]
    state: Path | None

    @property
    def done(self) -> int:
        """Epochs done."""
        return len(self.reports)


# The training that this process suspended last: its next segment need not repeat it.
_suspended: list[_Training] = []


@dataclass(frozen=True)
class LoopObjective(FunctionObjective):
    """Training loop as an objective with early stopping, checkpoints and resume.

    The loop is a generator function. It gets a configuration, and a `TrialContext` where it has
    a second parameter, and yields the validation error after each epoch, `budget` times. With
    `context.save(state)` before a `yield` and `context.load()` at its beginning a trial goes on
    from its last state after a kill or on another worker, without them from its first epoch.

    Attributes:
        function: generator function; yields a number, or a mapping with "validation_error" and,
            for the figures, "train_loss" and "validation_loss".
        budget: epochs of a trial that runs to its end.

    Example:
        >>> def train(configuration, context):
        ...     weight = context.load() or 1.0
        ...     for epoch in range(context.epoch, context.budget):
        ...         weight = weight * (1 - configuration["lr"])
        ...         context.save(weight)
        ...         yield abs(weight)
        >>> objective = LoopObjective(train, budget=9)
    """

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the function, and the budget."""
        return {**super().settings, "budget": self.budget}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Train the epochs of one segment, from the last saved state.

        Args:
            configuration: values of the search space's active parameters.
            segment: epochs to train, seed, checkpoint and folder.

        Raises:
            ValueError: the loop yields less or more often than once per epoch.
            TypeError: it yields something else than numbers.
            CheckpointError: the segment's checkpoint is damaged, or of another study.
        """
        training = self._resumed(configuration, segment) or self._begun(configuration, segment)
        began = time.perf_counter()
        while training.done < segment.stop:
            _train_epoch(training, segment, began)
            if not math.isfinite(training.reports[-1]["validation_error"]):
                training.epochs.close()
                diverged = training.reports[segment.start : -1]
                return SegmentResult.of_epochs(diverged, status="diverged")
            # Epochs that are trained once more count as time of the first new one.
            if training.done > segment.start:
                began = time.perf_counter()

        if segment.stop < segment.budget:
            _suspended.append(training)
        else:
            _finish(training)
        reports = training.reports[segment.start : segment.stop]
        return SegmentResult.of_epochs(reports, training.state)

    def _resumed(self, configuration: Configuration, segment: Segment) -> _Training | None:
        """Return the training that this process suspended, if it is this trial's."""
        if not _suspended:
            return None
        training = _suspended.pop()
        if training.key == self._key(configuration, segment) and training.done == segment.start:
            return training
        training.epochs.close()
        return None

    def _begun(self, configuration: Configuration, segment: Segment) -> _Training:
        """Start the loop, with the last saved state within reach."""
        saved = _find_state(segment)
        context = TrialContext(segment, saved)
        arguments = [dict(configuration), context]
        n_parameters = len(inspect.signature(self.function).parameters)
        epochs = cast("Loop", self.function)(*arguments[: max(n_parameters, 1)])
        return _Training(
            key=self._key(configuration, segment),
            context=context,
            epochs=epochs,
            reports=[],
            state=None if saved is None else saved.path,
        )

    def _key(self, configuration: Configuration, segment: Segment) -> tuple[Any, ...]:
        values = tuple(sorted(configuration.items()))
        return (id(self.function), values, segment.study, segment.seed, segment.folder)


def is_loop(function: object) -> bool:
    """Return whether calling an object makes a generator: a function, partial or instance."""
    instance_call = getattr(type(function), "__call__", None)  # noqa: B004 it is looked into
    return any(map(inspect.isgeneratorfunction, (function, instance_call)))


def _train_epoch(training: _Training, segment: Segment, began: float) -> None:
    """Run the loop to its next report, and write the state that it has saved.

    Args:
        training: changed in place.
        segment: the segment that is trained.
        began: when this epoch began, by `time.perf_counter`.
    """
    context = training.context
    try:
        epoch = next(training.epochs)
    except StopIteration:
        message = (
            f"a training loop must yield once for each of its {segment.budget} epochs, "
            f"this one ended after {training.done}"
        )
        raise ValueError(message) from None

    if not training.reports:  # empty, too, where the loop has not loaded a state
        training.reports = context.loaded_reports()
    seconds = time.perf_counter() - began
    training.reports.append({**_checked_report(epoch), "seconds": seconds})

    for state in context.take_saved():
        training.state = _write_state(training, state, segment)


def _checked_report(epoch: object) -> dict[str, float]:
    """Return the curves' values of one epoch; an error alone stands for the losses, too.

    Raises:
        TypeError: it is neither a number nor a mapping of numbers.
        ValueError: the mapping has no validation error, or other entries.
    """
    if not isinstance(epoch, Mapping):
        error = as_float("a number from each yield of a training loop", epoch)
        return dict.fromkeys(_REPORTED, error)

    report = cast("Mapping[str, object]", epoch)
    unknown = sorted(set(report) - set(_REPORTED))
    if unknown or "validation_error" not in report:
        message = (
            "a training loop must yield a number or a mapping with validation_error and, beside "
            f"it, train_loss and validation_loss, got {shown(epoch)}"
        )
        raise ValueError(message)

    values = {name: as_float(f"a number as {name}", value) for name, value in report.items()}
    return dict.fromkeys(_REPORTED, values["validation_error"]) | values


def _finish(training: _Training) -> None:
    """Let the code after the last report run, and refuse another report."""
    done = object()
    if next(training.epochs, done) is not done:
        training.epochs.close()
        message = (
            f"a training loop must yield once for each of its {training.done} epochs, "
            "this one yields more often: change its range, or the budget"
        )
        raise ValueError(message)


def _find_state(segment: Segment) -> _State | None:
    """Return the last readable state of a trial from which its segment can be trained.

    It may be later than the segment's checkpoint: saved before a kill.
    """
    folder = Path(segment.folder or ".")
    files = [path for path in folder.glob("state_*") if path.suffix in (".json", ".pt")]
    for path in sorted(files, key=_epoch_of, reverse=True):
        if _epoch_of(path) >= segment.stop:
            continue
        try:
            return _read_state(path, segment)
        except CheckpointError:
            # The driver goes back to an earlier checkpoint, and names that next.
            if str(path) == segment.checkpoint:
                raise
    return None


def _epoch_of(path: Path) -> int:
    number = path.stem.removeprefix("state_")
    return int(number) if number.isdecimal() else sys.maxsize


def _read_state(path: Path, segment: Segment) -> _State:
    """Read a state.

    Raises:
        CheckpointError: the file is damaged, or of another study.
    """
    try:
        content: dict[str, Any]
        if path.suffix == ".pt":
            torch: Any = importlib.import_module("torch")
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = json.loads(path.read_bytes())
        state = _State(path, content["reports"], content[_STATE])
    except Exception as error:  # a damaged file may break anything
        message = f"{path} is damaged or no checkpoint ({type(error).__name__}: {error})"
        raise CheckpointError(message) from error

    check_origin(path, content, {"study": segment.study})
    return state


def _write_state(training: _Training, state: Any, segment: Segment) -> Path:
    """Write a state with the reports up to it, and remove those that nothing needs any more.

    Raises:
        TypeError: the state holds objects that could not be read again.
    """
    content = {"study": segment.study, "reports": training.reports, _STATE: state}
    # Tensors need PyTorch; a program that has not loaded it has none.
    torch: Any = sys.modules.get("torch")
    suffix, written = ("json", _as_json(content)) if torch is None else ("pt", _as_pt(content))

    folder = training.context.folder
    path = folder / f"state_{training.done:05d}.{suffix}"
    atomic_write_bytes(path, written)

    # The states of earlier rungs stay for a trial whose later ones are damaged.
    for older in folder.glob("state_*"):
        if segment.start < _epoch_of(older) < training.done:
            older.unlink(missing_ok=True)
    return path


def _as_json(content: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        message = f"context.save takes dictionaries, lists, numbers and text: {error}"
        raise TypeError(message) from error
    if json.loads(text)[_STATE] != content[_STATE]:  # tuples, numbers as keys
        rule = "context.save takes dictionaries with text as keys, lists, numbers and text"
        message = f"{rule}, got {shown(content[_STATE])}"
        raise TypeError(message)
    return text.encode()


def _as_pt(content: dict[str, Any]) -> bytes:
    torch: Any = sys.modules["torch"]
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)  # it runs no code of the file's
    except Exception as error:
        message = (
            "context.save takes tensors, dictionaries, lists, numbers and text, as state_dict() "
            f"returns them: {error}"
        )
        raise TypeError(message) from error
    return buffer.getvalue()


def as_objective(
    objective: Objective | Callable[..., Any], budget: int | None = None
) -> Objective:
    """Return an objective as it is; a plain function and a training loop wrapped.

    Args:
        objective: an objective, a function of a configuration that returns a number, or a
            generator function that yields one after each epoch.
        budget: epochs of a training loop; None for the others, which have their own.

    Raises:
        TypeError: it is none of these.
        ValueError: a training loop has no budget, or something else has one.

    Example:
        >>> as_objective(lambda configuration: configuration["x"] ** 2).budget
        1
    """
    if is_loop(objective):
        if budget is None:
            message = "budget, the number of epochs, is needed for a training loop, got None"
            raise ValueError(message)
        return LoopObjective(cast("Loop", objective), check_whole("budget", budget, 1))

    if budget is not None:
        rule = "budget belongs to a training loop (a generator function) alone"
        message = f"{rule}, got {budget!r} for {shown(objective)}"
        raise ValueError(message)
    if isinstance(objective, Objective):
        return objective
    if not callable(objective) or inspect.isclass(objective):
        message = f"objective must be an Objective or a function, got {objective!r}"
        raise TypeError(message)
    return FunctionObjective(objective)
