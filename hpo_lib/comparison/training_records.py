"""Trainings that were made once and recorded: read from a CSV file or from a study.

A record is what replays rest on: `surrogate_benchmark` fits a model to it.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from hpo_lib.files import user_path
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, Value
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
        numbers: dict[frozenset[tuple[str, Value]], int] = {}
        groups: list[int] = []
        for configuration in self.configurations:
            key = frozenset(configuration.items())
            groups.append(numbers.setdefault(key, len(numbers)))
        return np.array(groups)

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
    budget has diverged. Other columns, the test errors among them, are not read. A file that
    `trials_frame(study).to_csv` wrote has this form.

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
    stem = path.name.removesuffix(".gz")
    about_path = path.with_name(stem).with_suffix(".json")
    about = _read_about(about_path)

    if space is None:
        if "space" not in about:
            rule = f"space must be given where {about_path.name} holds none"
            message = f"{rule}, got None for {path}"
            raise ValueError(message)
        space = SearchSpace.from_yaml(str(about["space"]))

    # One training per row.
    rows = _read_rows(path, space)
    configurations = [_read_configuration(row, space) for row in rows]
    errors = [_read_numbers(row, "validation_error") for row in rows]
    budget = _checked_budget(about, errors, about_path, path)
    return _make_record(
        space,
        configurations,
        errors,
        _read_seconds(rows),
        diverged=[len(curve) < budget for curve in errors],
        budget=budget,
        source=path.name,
    )


@dataclass(frozen=True)
class _Row:
    """One row of the file: where it stands, and its cells by the names of the columns."""

    place: str
    cells: Mapping[str, str]


def _read_about(path: Path) -> dict[str, Any]:
    """Return what the JSON file beside a record says; nothing where there is none."""
    if not path.exists():
        return {}

    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        about = error
    if not isinstance(about, dict):
        message = f"{path} must be a JSON object, got {about!r:.200}"
        raise ValueError(message)
    return cast("dict[str, Any]", about)


def _checked_budget(
    about: Mapping[str, Any],
    errors: Sequence[Sequence[float]],
    about_path: Path,
    path: Path,
) -> int:
    """Return the epochs of a full training: those of the longest one, if nothing else is said."""
    longest = max([1, *map(len, errors)])
    budget = about.get("budget", longest)
    # True is an int for Python, but no number of epochs.
    if type(budget) is not int or not 1 <= budget <= longest:
        rule = f"budget in {about_path.name} must be a whole number of epochs up to {longest}"
        message = f"{rule}, the longest training in {path.name}, got {budget!r}"
        raise ValueError(message)

    return budget


def _read_rows(path: Path, space: SearchSpace) -> list[_Row]:
    """Read the rows of a CSV as text; `value` is another name of `validation_error`."""
    try:
        # Without a header, pandas neither renames columns nor takes the first for an index; its
        # Python engine tells a row that is too short from one with empty cells.
        table = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            engine="python",
        )
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"{path} must be a CSV file in UTF-8, got {error}"
        raise ValueError(message) from error

    # The first row names the columns.
    header, *cells = table.to_numpy().tolist()
    if "validation_error" not in header:
        header = ["validation_error" if name == "value" else name for name in header]
    _check_table(table, header, path, space)

    rows: list[_Row] = []
    for number, row in enumerate(cells):
        named_cells = dict(zip(header, row, strict=True))
        rows.append(_Row(f"{path}, row {number}", named_cells))
    return rows


def _check_table(
    table: pd.DataFrame,
    header: list[str],
    path: Path,
    space: SearchSpace,
) -> None:
    """Refuse a table without a column that every row needs, or with a row that is too short."""
    needed = [parameter.name for parameter in space.searched if not parameter.when]
    needed.append("validation_error")

    missing = [name for name in needed if name not in header]
    if missing:
        message = f"{path} must have a column for each of {missing}, got {header}"
        raise ValueError(message)

    # The first row is the header.
    n_cells = table.notna().sum(axis="columns")
    for number, n in enumerate(n_cells[1:]):
        if n < len(header):
            message = f"{path}, row {number} must have {len(header)} cells, got {n}"
            raise ValueError(message)


def _read_seconds(rows: Sequence[_Row]) -> list[list[float]]:
    """Read the seconds of each epoch; none of trainings on another than the commonest machine."""
    if not rows:
        return []

    # Seconds of different machines do not compare.
    column = "cpu_seconds" if "cpu_seconds" in rows[0].cells else "seconds"
    machines = Counter(row.cells.get("machine") for row in rows)
    [(commonest, _)] = machines.most_common(1)

    seconds: list[list[float]] = []
    for row in rows:
        numbers = _read_numbers(row, column)
        is_comparable = row.cells.get("machine") == commonest
        seconds.append(numbers if is_comparable else [])

    return seconds


def _read_configuration(row: _Row, space: SearchSpace) -> Configuration:
    values = {
        parameter.name: _read_value(row, parameter)
        for parameter in space.searched
        if row.cells.get(parameter.name)
    }
    try:
        return space.complete(values)
    except ValueError as error:
        message = f"{row.place}: {error}"
        raise ValueError(message) from error


def _read_value(row: _Row, parameter: Parameter) -> Value:
    text = row.cells[parameter.name]
    if isinstance(parameter, ChoiceParameter):
        # The space refuses what is no option, with the options in the message.
        return _spellings(parameter.options).get(text, text)

    numbers = _read_numbers(row, parameter.name)
    if len(numbers) != 1:
        message = f"{row.place}, {parameter.name} must be one number, got {text!r}"
        raise ValueError(message)
    return numbers[0]


def _spellings(options: Sequence[Value]) -> dict[str, Value]:
    """Map texts to the options that they mean.

    A column of numbers with empty cells comes back with 0 as 0.0, and spreadsheets write TRUE.
    """
    spellings: dict[str, Value] = {}
    for option in options:
        if isinstance(option, bool):
            spellings[str(option).upper()] = option
            spellings[str(option).lower()] = option
        elif isinstance(option, int):
            spellings[f"{option}.0"] = option
        elif isinstance(option, float):
            spellings[f"{option:g}"] = option

    # An exact text goes before another spelling.
    return spellings | {str(option): option for option in options}


def _read_numbers(row: _Row, column: str) -> list[float]:
    """Read the numbers of a cell; none where there is no such column."""
    text = row.cells.get(column, "")
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        rule = "must be finite numbers separated by spaces"
        message = f"{row.place}, {column} {rule}, got {text!r}"
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
