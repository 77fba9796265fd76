"""Trainings that were made once and recorded: read from a CSV file or from a study.

A record is what replays rest on: `surrogate_benchmark` fits a model to it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from hpo_lib.exchange.sources import SourceRow, read_csv, table_rows
from hpo_lib.files import read_json, user_path
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import StudyRecord, TrialOutcome, own_trials, study_space

Array = NDArray[np.float64]

_TRAINED = (
    TrialOutcome.COMPLETED,
    TrialOutcome.PRUNED,
    TrialOutcome.DIVERGED,
)


@dataclass(frozen=True)
class Record:
    """Trainings of configurations of one space, each up to `budget` epochs.

    Attributes:
        space: the search space.
        configurations: the configuration of each training; repeats stand as often as they were
            trained.
        errors: validation errors, shape (trainings, budget). NaN after the epoch in which a
            training was stopped; after the one in which it diverged, the worst error recorded.
        seconds: training time of each epoch, shape (trainings, budget); NaN where unknown.
        source: where the record comes from, for messages.
    """

    space: SearchSpace
    configurations: tuple[Configuration, ...]
    errors: Array
    seconds: Array
    source: str

    def __post_init__(self) -> None:
        if not self.configurations or not self._is_complete.any():
            message = f"a record needs at least one training to the full budget, got {self.source}"
            raise ValueError(message)

    @property
    def budget(self) -> int:
        """Return the number of epochs of a training that runs to its end."""
        return self.errors.shape[1]

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Number the configuration of each training, alike for its repeats; shape (trainings,)."""
        configurations = [frozenset(c.items()) for c in self.configurations]
        return pd.factorize(pd.Series(configurations))[0]

    @property
    def n_complete(self) -> int:
        """Count the configurations that were trained to the full budget."""
        complete = self.groups[self._is_complete]
        return len(np.unique(complete))

    @property
    def best(self) -> float:
        """Return the lowest mean over the repeats of a configuration, at the full budget."""
        is_complete = self._is_complete
        errors = self.errors[is_complete, -1]
        means = group_means(errors, self.groups[is_complete])
        return float(means.min())

    @property
    def settings(self) -> dict[str, Any]:
        """Name the record and its content, so that a grown record is not taken for the old."""
        content = repr(self.configurations).encode()
        content += self.errors.tobytes()
        content += self.seconds.tobytes()
        return {"record": self.source, "content": zlib.crc32(content)}

    @property
    def _is_complete(self) -> NDArray[np.bool_]:
        return np.isfinite(self.errors[:, -1])


def group_means(values: Array, groups: NDArray[np.int64]) -> Array:
    """Return the mean of each group, in the order of their numbers.

    Args:
        values: what is averaged, shape (n,).
        groups: the number of the group of each value, shape (n,).
    """
    _, inverse = np.unique(groups, return_inverse=True)
    return np.bincount(inverse, values) / np.bincount(inverse)


def study_record(study: optuna.Study) -> Record:
    """Return the trials of a study as a record; pruned ones up to where they were stopped.

    Raises:
        StudyError: another program made the study, which has no space.
        ValueError: no trial was trained to the full budget.
    """
    settings = StudyRecord.of(study).settings
    trials = [trial for trial in own_trials(study) if trial.outcome in _TRAINED]

    # A diverged trial ends with epochs that have no error.
    errors: list[list[float]] = []
    for trial in trials:
        curve = trial.record.validation_error
        errors.append([error for error in curve if math.isfinite(error)])

    return _make_record(
        study_space(study),
        [trial.configuration for trial in trials],
        errors,
        [trial.record.seconds for trial in trials],
        diverged=[trial.outcome == TrialOutcome.DIVERGED for trial in trials],
        budget=int(settings["budget"]),
        source=f"study {study.study_name}",
    )


def read_record(path: str | Path, space: SearchSpace | None = None) -> Record:
    """Read a CSV (or .csv.gz) of trainings, one per row.

    Each hyperparameter has a column (empty where it is inactive). `validation_error` (or `value`)
    and, if there is one, `seconds` hold one number per epoch, separated by spaces; `cpu_seconds`,
    which other work on the machine hardly changes, go before `seconds`. Where `machine` names
    several, the seconds are those of the commonest alone. A training that is shorter than the
    budget has diverged, unless columns `state` and `status` say otherwise. Other columns, the test
    errors among them, are not read. A file that `trials_frame(study).to_csv` wrote has this form.

    Args:
        path: the file; a JSON file of the same stem may hold `space` (as YAML) and `budget`.
        space: the search space, where there is no such JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing or a cell is wrong; the message names row and column.
    """
    path = user_path(path)
    if not path.is_file():
        message = f"record must be a file of recorded trainings, got {path}, which is not there"
        raise FileNotFoundError(message)

    # Space and budget from the JSON file, if there is one.
    about_path = path.with_name(path.name.removesuffix(".gz")).with_suffix(".json")
    about = read_json(about_path) if about_path.exists() else {}
    if space is None and "space" in about:
        space = SearchSpace.from_yaml(str(about["space"]))
    if space is None:
        message = f"space must be given where {about_path.name} holds none, got None for {path}"
        raise ValueError(message)

    # Of trials that a change of their study's space has left outside, none is a training here.
    outside = TrialOutcome.OUTSIDE
    rows = [row for row in _read_rows(path, space) if row.cells.get("state") != outside]
    configurations = [_read_configuration(row, space) for row in rows]
    errors = [_read_numbers(row, "validation_error") for row in rows]

    # The longest training is a full one, if nothing else is said. True is an int for Python.
    longest = max([1, *map(len, errors)])
    budget = about.get("budget", longest)
    if type(budget) is not int or not 1 <= budget <= longest:
        rule = f"budget in {about_path.name} must be a number of epochs up to {longest}"
        message = f"{rule}, got {budget!r}"
        raise ValueError(message)

    return _make_record(
        space,
        configurations,
        errors,
        _read_seconds(rows),
        diverged=[
            len(curve) < budget and _may_have_diverged(row)
            for row, curve in zip(rows, errors, strict=True)
        ],
        budget=budget,
        source=path.name,
    )


def _read_rows(path: Path, space: SearchSpace) -> list[SourceRow]:
    """Read the rows of a CSV as text; `value` is another name of `validation_error`."""
    table = read_csv(path)
    if "validation_error" not in table:
        table = table.rename(columns={"value": "validation_error"})
    needed = [parameter.name for parameter in space.searched if not parameter.when]
    missing = {*needed, "validation_error"}.difference(table)
    if missing:
        message = f"{path} must have a column for each of {sorted(missing)}, got {list(table)}"
        raise ValueError(message)

    is_short = table.isna().any(axis="columns")
    if is_short.any():
        n_cells = table.shape[1]
        message = f"{path}, row {is_short.argmax()} must have {n_cells} cells, got fewer"
        raise ValueError(message)

    return [row._replace(label=f"{path}, {row.label}") for row in table_rows(table)]


def _read_seconds(rows: Sequence[SourceRow]) -> list[list[float]]:
    """Read the seconds of each epoch; none of trainings on another than the commonest machine."""
    if not rows:
        return []

    # Seconds of different machines do not compare.
    column = "cpu_seconds" if "cpu_seconds" in rows[0].cells else "seconds"
    machines = [row.cells.get("machine") for row in rows]
    commonest = mode(machines)
    return [
        _read_numbers(row, column) if machine == commonest else []
        for row, machine in zip(rows, machines, strict=True)
    ]


def _may_have_diverged(row: SourceRow) -> bool:
    """Return whether a training may have ended by divergence, not by pruning or a failure."""
    return "state" not in row.cells or row.cells.get("status") == TrialOutcome.DIVERGED


def _read_configuration(row: SourceRow, space: SearchSpace) -> Configuration:
    values: dict[str, Any] = {}
    try:
        for parameter in space.searched:
            if text := row.cells.get(parameter.name):
                values[parameter.name] = parameter.parse(text)
        return space.complete(values)
    except ValueError as error:
        message = f"{row.label}: {error}"
        raise ValueError(message) from error


def _read_numbers(row: SourceRow, column: str) -> list[float]:
    """Read the numbers of a cell; none where there is no such column."""
    text = row.cells.get(column, "")
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        rule = "must be finite numbers separated by spaces"
        message = f"{row.label}, {column} {rule}, got {text!r}"
        raise ValueError(message)

    return numbers


def _make_record(
    space: SearchSpace,
    configurations: Sequence[Configuration],
    errors: Sequence[Sequence[float]],
    seconds: Sequence[Sequence[float]],
    *,
    diverged: Sequence[bool],
    budget: int,
    source: str,
) -> Record:
    """Make a record of curves of different lengths."""
    padded = _pad(errors, budget)
    is_recorded = np.isfinite(padded)
    if is_recorded.any():
        # Epochs after a divergence count as the worst error of all.
        is_diverged = np.asarray(diverged, bool)[:, None]
        padded[~is_recorded & is_diverged] = padded[is_recorded].max()

    return Record(
        space,
        tuple(configurations),
        errors=padded,
        seconds=_pad(seconds, budget),
        source=source,
    )


def _pad(curves: Sequence[Sequence[float]], budget: int) -> Array:
    """Return curves as rows of shape (trainings, budget), with NaN after their ends."""
    padded = np.full((len(curves), budget), np.nan)
    for row, curve in zip(padded, curves, strict=True):
        row[: len(curve)] = curve[:budget]
    return padded
