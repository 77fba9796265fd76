"""Trials that were trained once and kept, to be replayed: read from a file or from a study."""

from __future__ import annotations

import csv
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
from numpy.typing import NDArray

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import StudyRecord, TrialOutcome, own_trials, study_space

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """Trainings of configurations of one space, each up to `budget` epochs.

    `errors` and `seconds` have shape (trainings, budget): NaN behind the epoch in which a training
    was stopped. Behind the one in which it diverged, its error is the worst that any training had.
    """

    space: SearchSpace
    configurations: tuple[Configuration, ...]
    errors: Array
    seconds: Array
    source: str

    def __post_init__(self) -> None:
        if not self.configurations or not np.isfinite(self.errors[:, -1]).any():
            message = f"a record needs at least one training to the full budget, got {self.source}"
            raise ValueError(message)

    @property
    def budget(self) -> int:
        """Epochs of a training that runs to its end."""
        return self.errors.shape[1]

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The number of each training's configuration, the same for its repeats."""
        numbers: dict[frozenset[tuple[str, Any]], int] = {}
        keys = (frozenset(one.items()) for one in self.configurations)
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys])

    @property
    def n_complete(self) -> int:
        """How many different configurations were trained to the full budget."""
        return len(np.unique(self.groups[np.isfinite(self.errors[:, -1])]))

    @property
    def best(self) -> float:
        """The lowest mean over the repeats of a configuration, at the full budget."""
        reached = np.isfinite(self.errors[:, -1])
        return float(group_means(self.errors[reached, -1], self.groups[reached]).min())

    @property
    def settings(self) -> dict[str, Any]:
        """Names the record and its content, so that a grown record is not taken for the old."""
        content = repr(self.configurations).encode()
        content += self.errors.tobytes() + self.seconds.tobytes()
        return {"record": self.source, "content": zlib.crc32(content)}


def group_means(values: Array, groups: NDArray[np.int64]) -> Array:
    """The mean of each group, in the order of their numbers."""
    which = np.unique(groups, return_inverse=True)[1].ravel()
    return np.bincount(which, values) / np.bincount(which)


def read_record(path: str | Path, space: SearchSpace | None = None) -> Record:
    """Read a CSV (or .csv.gz) of trainings, one per row.

    Each hyperparameter has a column (empty where it is inactive). `validation_error` (or `value`)
    and, if there is one, `seconds` hold one number per epoch, separated by spaces; `cpu_seconds`,
    which other work on the machine hardly changes, go before `seconds`. Where `machine` names
    several, the seconds are those of the commonest alone. A training that is shorter than the
    budget has diverged. Other columns, the test errors among them, are not read.

    Args:
        path: the file; a JSON file of the same stem may hold `space` (as YAML) and `budget`.
        space: the search space, where there is no such JSON file.

    Raises:
        ValueError: a column is missing or a cell is wrong; the message names row and column.
    """
    path = Path(path)
    beside = path.with_name(path.name.removesuffix(".gz")).with_suffix(".json")
    about = _about(beside) if beside.exists() else {}
    if space is None:
        if "space" not in about:
            message = f"space must be given where {beside.name} holds none, got None for {path}"
            raise ValueError(message)
        space = SearchSpace.from_yaml(str(about["space"]))
    always = [one.name for one in space.searched if not one.when]
    rows = _rows(path, always)
    configurations = [_configuration(row, space, f"{path}, row {i}") for i, row in enumerate(rows)]
    clock = "cpu_seconds" if rows and "cpu_seconds" in rows[0] else "seconds"
    errors, seconds = (
        [_numbers(row.get(name, ""), f"{path}, row {i}, {name}") for i, row in enumerate(rows)]
        for name in ("validation_error", clock)
    )
    longest = max([1, *map(len, errors)])
    budget = about.get("budget", longest)
    if not isinstance(budget, int) or not 1 <= budget <= longest:
        rule = f"budget in {beside.name} must be a whole number of epochs up to {longest}"
        message = f"{rule}, the longest training in {path.name}, got {budget!r}"
        raise ValueError(message)
    machines = [row.get("machine") for row in rows]
    commonest = Counter(machines).most_common(1)[0][0] if rows else None
    seconds = [one if m == commonest else [] for one, m in zip(seconds, machines, strict=True)]
    diverged = [len(curve) < budget for curve in errors]
    return _record(space, configurations, errors, seconds, diverged, budget, path.name)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        about = error
    if not isinstance(about, dict):
        message = f"{path} must be a JSON object, got {about!r:.200}"
        raise ValueError(message)
    return cast("dict[str, Any]", about)


def _rows(path: Path, always: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV as text, `value` being another name of `validation_error`."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"{path} must be a CSV file in UTF-8, got {error}"
        raise ValueError(message) from error
    if "validation_error" not in header:
        header = ["validation_error" if name == "value" else name for name in header]
    missing = [name for name in (*always, "validation_error") if name not in header]
    if missing:
        message = f"{path} must have a column for each of {missing}, got {header}"
        raise ValueError(message)
    for i, row in enumerate(rows):
        if len(row) != len(header):
            message = f"{path}, row {i} must have {len(header)} cells, got {len(row)}"
            raise ValueError(message)
    return [dict(zip(header, row, strict=True)) for row in rows]


def study_record(study: optuna.Study) -> Record:
    """The trials of a study; pruned ones count up to where they were stopped."""
    space = study_space(study)
    settings = StudyRecord.of(study).settings
    budget = int(settings["budget"])
    trained = (TrialOutcome.COMPLETED, TrialOutcome.PRUNED, TrialOutcome.DIVERGED)
    trials = [trial for trial in own_trials(study) if trial.outcome in trained]
    return _record(
        space,
        [trial.configuration for trial in trials],
        [[x for x in trial.record.validation_error if math.isfinite(x)] for trial in trials],
        [trial.record.seconds for trial in trials],
        [trial.outcome == TrialOutcome.DIVERGED for trial in trials],
        budget,
        f"study {study.study_name}",
    )


def _record(
    space: SearchSpace,
    configurations: Sequence[Configuration],
    errors: Sequence[Sequence[float]],
    seconds: Sequence[Sequence[float]],
    diverged: Sequence[bool],
    budget: int,
    source: str,
) -> Record:
    padded = np.full((2, len(errors), budget), np.nan)
    for part, curves in zip(padded, (errors, seconds), strict=True):
        for row, curve in zip(part, curves, strict=True):
            row[: len(curve)] = curve[:budget]
    recorded = padded[0][np.isfinite(padded[0])]
    if len(recorded):
        fill = np.isnan(padded[0]) & np.asarray(diverged, bool)[:, None]
        padded[0][fill] = recorded.max()
    return Record(space, tuple(configurations), padded[0], padded[1], source)


def _configuration(row: Mapping[str, str], space: SearchSpace, place: str) -> Configuration:
    values: dict[str, Any] = {}
    for one in space.searched:
        text = row.get(one.name, "")
        options: Sequence[Any] = getattr(one, "options", ())
        # a file holds words: an option is the one that is written so
        named = {str(option): option for option in options}
        if text != "":
            values[one.name] = named.get(text, text) if options else _number(text, place, one.name)
    try:
        return space.complete(values)
    except ValueError as error:
        message = f"{place}: {error}"
        raise ValueError(message) from error


def _number(text: str, place: str, name: str) -> float:
    numbers = _numbers(text, f"{place}, {name}")
    if len(numbers) != 1:
        message = f"{place}, {name} must be one number, got {text!r}"
        raise ValueError(message)
    return numbers[0]


def _numbers(text: str, place: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        message = f"{place} must be finite numbers separated by spaces, got {text!r}"
        raise ValueError(message)
    return numbers
