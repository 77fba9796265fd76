"""Write the trials of a study as TensorBoard logs, with their hyperparameters for its table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from hpo_lib.files import user_path
from hpo_lib.objective import CURVES
from hpo_lib.trials import RecordedTrial, own_trials

# Made when they are imported, so that type checkers do not know them.
_Event: Any = vars(event_pb2)["Event"]
_Summary: Any = vars(summary_pb2)["Summary"]


def write_tensorboard(study: optuna.Study, folder: str | Path) -> Path:
    """Write a log per finished trial for TensorBoard: curves, and a row of the HParams tab.

    Trials that have a log already are passed over, so the same call adds what is new. As a
    callback, `lambda study, trial: write_tensorboard(study, "logs")` keeps up with a search.

    Args:
        study: a study of `run_study` or `open_study`.
        folder: where the logs go, a folder `trial_<number>` each; made where it is missing.

    Returns:
        The folder as an absolute path, for `tensorboard --logdir`.
    """
    root = user_path(folder)
    for trial in own_trials(study):
        # A promoted trial had a log when it was pruned.
        suffix = "_promoted" if trial.record.promoted else ""
        log = root / f"trial_{trial.number:04d}{suffix}"
        if not trial.is_finished or log.exists():
            continue

        # A log is there as a whole or not at all.
        partial = root / f".{log.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with closing(EventFileWriter(str(partial))) as writer:
            for event in _events(trial):
                writer.add_event(event)
        partial.rename(log)
    return root


def _events(trial: RecordedTrial) -> Iterator[Any]:
    """Yield the hyperparameters, one point per epoch of each curve, and the final value."""
    record = trial.record
    began = record.started or 0.0
    configuration: dict[str, Any] = dict(trial.configuration)
    summary = hparams_pb(configuration, f"trial_{trial.number:04d}", start_time_secs=began)
    yield _Event(wall_time=began, summary=summary)

    for name in CURVES:
        curve: Sequence[float] = getattr(record, name)
        for epoch, value in enumerate(curve, 1):
            yield _scalar(name, value, epoch, began + sum(record.seconds[:epoch]))

    if trial.value is not None:
        yield _scalar("value", trial.value, len(record.seconds), record.finished or began)


def _scalar(name: str, value: float, step: int, wall_time: float) -> Any:
    """Return one point of a curve.

    Args:
        name: of the curve.
        value: at the step.
        step: epoch, counted from 1.
        wall_time: in seconds since 1970.
    """
    summary = _Summary(value=[_Summary.Value(tag=name, simple_value=value)])
    return _Event(wall_time=wall_time, step=step, summary=summary)
