"""Import trials of another program as a study, which a new one takes as warm-start trials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd

from hpo_lib.checks import check_member, check_name
from hpo_lib.exceptions import DataError, SpaceError, StudyChangedError
from hpo_lib.exchange.sources import PREFIXES, STATES, Source, SourceRow, read_source
from hpo_lib.identity import digest
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.settings import imported_settings
from hpo_lib.study.storage import Storage, open_storage, translate_storage_errors
from hpo_lib.trials import StudyRecord
from hpo_lib.trials.copies import imported_trial

_N_SHOWN = 5

_Trial = tuple[float, Configuration]


class Cause(StrEnum):
    """Why a row was not imported."""

    OUTSIDE = "outside the space"
    INCOMPLETE = "parameter missing"
    NO_VALUE = "no value"
    FAILED = "failed"
    STOPPED = "stopped early"
    UNFINISHED = "not finished"


class LeftOut(NamedTuple):
    """Row of a source that was not imported.

    Attributes:
        row: where it stands in the source.
        cause: kind of the reason.
        reason: one sentence.
    """

    row: str
    cause: Cause
    reason: str


# States in the words of this package, Optuna, MLflow, Weights & Biases and Ray Tune; any other
# word is a failure.
_CAUSES: dict[str, Cause | None] = {
    **dict.fromkeys(("complete", "completed", "finished", "terminated", "success", "done")),
    **dict.fromkeys(("pruned", "stopped", "early_stopped"), Cause.STOPPED),
    **dict.fromkeys(("waiting", "running", "pending", "scheduled"), Cause.UNFINISHED),
    "outside": Cause.OUTSIDE,
}


@dataclass(frozen=True)
class ImportedTrials:
    """Report of an import: every row of the source was imported or is listed.

    Attributes:
        study: name of the study that holds the trials.
        source: where they come from.
        n_rows: rows of the source.
        left_out: the rows that were not imported; a list for `pandas.DataFrame`.
        unused: columns of the source, its parameters where they can be told, that the search
            space does not have. What they changed appears as noise.
    """

    study: str
    source: str
    n_rows: int
    left_out: tuple[LeftOut, ...]
    unused: tuple[str, ...]

    @property
    def n_imported(self) -> int:
        """How many rows were imported."""
        return self.n_rows - len(self.left_out)

    @property
    def causes(self) -> dict[str, int]:
        """How many rows were left out by cause, the most frequent first."""
        return dict(Counter(row.cause for row in self.left_out).most_common())

    def __str__(self) -> str:
        lines = [
            f"{self.n_imported} of {self.n_rows} trials of {self.source} fit study {self.study!r}"
        ]
        if self.left_out:
            counts = ", ".join(f"{n} {cause}" for cause, n in self.causes.items())
            lines.append(f"left out: {counts}")
            lines += [f"  {row.row}: {row.reason}" for row in self.left_out[:_N_SHOWN]]
        if len(self.left_out) > _N_SHOWN:
            lines.append(f"  and {len(self.left_out) - _N_SHOWN} more in left_out")
        if self.unused:
            lines.append(f"not used: {', '.join(self.unused)}")
        return "\n".join(lines)


def import_trials(
    source: pd.DataFrame | optuna.Study | str | Path,
    space: SearchSpace,
    *,
    name: str,
    storage: Storage | None = None,
    value: str = "value",
    names: Mapping[str, str] | None = None,
    transform: Callable[[float], float] | None = None,
) -> ImportedTrials:
    """Import trials of another program as a study for `run_study(..., warm_start_from=name)`.

    Text is read as the value that the search space has for it ("0.001", "True", "16.0"). Columns
    of parameters may begin with `param_`, `params_` or `config/`. Rows that have no value, that
    failed or were stopped early (by a column `state` or `status`), that lack a parameter or lie
    outside the space are left out and reported. The same import again changes nothing.

    Args:
        source: a data frame or the path of a CSV with one row per trial, an Optuna study, or the
            folder of a Ray Tune experiment.
        space: the search space; its fixed values are taken for those of a source without them.
        name: name of the study that is made.
        storage: that of the new study; an SQLite file, an Optuna URL or a storage; default
            `results/studies.db`.
        value: column of the value that was minimised, or a metric of Ray Tune, whose last report
            counts.
        names: parameter of the space by its name in the source, where they differ.
        transform: turns the value of the source into one to minimise on the scale of the new
            study, such as `lambda accuracy: 1 - accuracy`; a study that maximises needs one.

    Raises:
        DataError: the source cannot be read, a column is missing, or no row can be imported.
        StudyChangedError: a study of this name holds something else.

    Example:
        >>> import pandas as pd
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.001, high: 0.1, log: true}")
        >>> sweep = pd.DataFrame({"learning_rate": ["0.01", "5"], "accuracy": [0.9, 0.1]})
        >>> print(
        ...     import_trials(
        ...         sweep,
        ...         space,
        ...         name="sweep",
        ...         value="accuracy",
        ...         names={"learning_rate": "lr"},
        ...         transform=lambda accuracy: 1 - accuracy,
        ...     )
        ... )
        1 of 2 trials of a data frame fit study 'sweep'
        left out: 1 outside the space
          row 1: lr: must lie between low = 0.001 and high = 0.1, got 5.0
    """
    check_name(name)
    read = read_source(source)
    if read.is_maximized and transform is None:
        message = (
            f"transform must turn the values of {read.name}, which maximises, into ones to "
            "minimise, such as lambda accuracy: 1 - accuracy; got None"
        )
        raise DataError(message)

    columns = _find_columns(read, space, value, names or {})

    # Every row becomes a trial or a reason.
    trials: list[_Trial] = []
    left_out: list[LeftOut] = []
    for row in read.rows:
        try:
            trial = _read_row(row, space, columns, value, transform)
            trials.append(trial)
        except _UnfitError as error:
            left_out.append(LeftOut(row.label, *error.args))

    report = ImportedTrials(
        study=name,
        source=read.name,
        n_rows=len(read.rows),
        left_out=tuple(left_out),
        unused=_unused(read, {*columns.values(), value}),
    )
    if not trials:
        message = f"source must have a trial inside the space: {report}"
        raise DataError(message)

    settings = imported_settings(
        source=read.name,
        value=value,
        names=dict(names or {}),
        n_rows=report.n_rows,
        left_out=report.causes,
        content=digest(trials),
    )
    _write_study(name, storage, space, settings, trials)
    return report


def _find_columns(
    source: Source,
    space: SearchSpace,
    value: str,
    names: Mapping[str, str],
) -> dict[str, str]:
    """Return the column of each parameter of the space that the source has.

    Raises:
        DataError: there is no column for the value, for a parameter that every configuration has,
            or for a name of `names`.
        ValueError: `names` has a parameter that the space does not have.
    """
    for parameter in names.values():
        check_member("names", parameter, space.names)

    known = source.columns
    renamed = {parameter: name for name, parameter in names.items()}
    columns: dict[str, str] = {}
    missing = [] if value in known else [value]
    for parameter in space.parameters:
        name = parameter.name
        candidates = [f"{prefix}{renamed.get(name, name)}" for prefix in (*PREFIXES, "")]
        column = next(filter(known.__contains__, candidates), None)
        if column is not None:
            columns[name] = column
        elif name in renamed or (parameter.fixed is None and not parameter.when):
            missing.append(name)

    if missing:
        message = (
            f"{source.name} must have a column for each of {missing} (names={{...}} maps those "
            f"that are called otherwise), got {known}"
        )
        raise DataError(message)
    return columns


def _unused(source: Source, used: set[str]) -> tuple[str, ...]:
    """Return the names of parameters, or of all columns, that were not used."""
    marked = [column for column in source.columns if column.startswith(PREFIXES)]
    columns = marked or source.columns
    return tuple(c for c in columns if c not in used and c not in STATES)


class _UnfitError(Exception):
    """A row cannot be imported: the cause, and one sentence."""


def _read_row(
    row: SourceRow,
    space: SearchSpace,
    columns: Mapping[str, str],
    value: str,
    transform: Callable[[float], float] | None,
) -> _Trial:
    """Return the value and the configuration of a row.

    Args:
        row: one trial of the source.
        space: the search space.
        columns: column by parameter.
        value: column of the value.
        transform: of the value.

    Raises:
        _UnfitError: it has none.
    """
    state = next((row.cells[c] for c in STATES if c in row.cells and c not in space), None)
    # None where it ended well, or where nothing is said.
    cause = None if _is_missing(state) else _CAUSES.get(str(state).lower(), Cause.FAILED)
    if cause is not None:
        raise _UnfitError(cause, row.reason or f"its state is {state}")

    try:
        number = _read_number(row.cells.get(value))
        number = number if transform is None else _read_number(transform(number))
    except ValueError as error:
        raise _UnfitError(Cause.NO_VALUE, f"{value}: {error}") from error
    return number, _read_configuration(row, space, columns)


def _read_configuration(
    row: SourceRow,
    space: SearchSpace,
    columns: Mapping[str, str],
) -> Configuration:
    """Return the active values of a row.

    Args:
        row: one trial of the source.
        space: the search space.
        columns: column by parameter.

    Raises:
        _UnfitError: a value is missing or outside the space.
    """
    values: dict[str, Any] = {}
    for name, column in columns.items():
        cell = row.cells.get(column)
        if _is_missing(cell):
            continue
        if isinstance(cell, str):
            with suppress(ValueError):  # a text that stands for no value is refused as it is
                cell = space[name].parse(cell)
        values[name] = cell
    try:
        return space.check(values)
    except SpaceError as error:
        # Where defaults for what is missing would mend it, no value lies outside.
        defaults = {parameter.name: parameter.default for parameter in space}
        is_incomplete = space.contains(defaults | values)
        cause = Cause.INCOMPLETE if is_incomplete else Cause.OUTSIDE
        raise _UnfitError(cause, "; ".join(error.problems)) from error


def _is_missing(cell: object) -> bool:
    is_nan = isinstance(cell, float | np.floating) and math.isnan(cell)
    return cell is None or cell is pd.NA or is_nan or cell in ("", "nan", "NaN")


def _read_number(cell: Any) -> float:
    """Return a finite number; ValueError for anything else."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(cell, bool | np.bool_):
        message = f"must be a finite number, got {cell!r}"
        raise ValueError(message)
    return number


def _write_study(
    name: str,
    storage: Storage | None,
    space: SearchSpace,
    settings: dict[str, Any],
    trials: list[_Trial],
) -> None:
    """Write a study of imported trials, or the rest of one that a killed import left.

    Raises:
        StudyChangedError: a study of this name holds something else.
    """
    backend = open_storage(storage)
    text = space.to_yaml(comments=False)
    with translate_storage_errors(storage):
        study = optuna.create_study(storage=backend, study_name=name, load_if_exists=True)

    with hold_lease(study, backend):
        record = StudyRecord.of(study)
        n_written = len(study.get_trials(deepcopy=False))
        is_new = record.space is None and n_written == 0
        if not is_new and (record.space, record.settings) != (text, settings):
            message = (
                f"study {name!r} holds other trials or settings than this import: choose another "
                "name, or delete the study first (delete_study)"
            )
            raise StudyChangedError(message)

        record = record.write(study, space=text, settings=settings, n_trials=len(trials))
        for value, configuration in trials[n_written:]:
            study.add_trial(imported_trial(value, configuration, space))
        record.write(study, is_ready=True)
