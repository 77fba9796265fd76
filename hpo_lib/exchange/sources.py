"""Read trials of other programs as rows: a table, a CSV, an Optuna study, a Ray Tune experiment.

Rows are what the source says, unchecked. Only text and JSON are read, never a pickle.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import optuna
import pandas as pd
from optuna.study import StudyDirection

from hpo_lib.exceptions import DataError
from hpo_lib.files import user_path
from hpo_lib.trials import RecordedTrial, TrialOutcome, recorded_trials

PREFIXES = ("param_", "params_", "config/")
"""Beginnings of the names of parameters in tables of this package, of Optuna and of Ray Tune."""

STATES = ("state", "status")
"""Columns that say whether a trial ended well."""

_RESULTS = "result.json"
_PARAMETERS = "params.json"


class SourceRow(NamedTuple):
    """One trial of another program.

    Attributes:
        label: where it stands in the source.
        cells: its parameters, values and state by name.
        reason: why it has no value, if the source says so.
    """

    label: str
    cells: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Source:
    """Trials of another program.

    Attributes:
        name: what they come from, for messages and the record.
        rows: one per trial.
        is_maximized: whether the source says that higher values are better.
    """

    name: str
    rows: list[SourceRow]
    is_maximized: bool = False

    @property
    def columns(self) -> list[str]:
        """Names of all cells, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.cells))


def read_source(source: pd.DataFrame | optuna.Study | str | Path) -> Source:
    """Read all trials of a source.

    Args:
        source: a table with one row per trial, the path of such a table as CSV, an Optuna study,
            or the folder of a Ray Tune experiment.

    Raises:
        DataError: the source is not there or has another form.
    """
    if isinstance(source, pd.DataFrame):
        return Source("a data frame", table_rows(source))
    if isinstance(source, optuna.Study):
        return _read_study(source)

    path = user_path(source)
    if path.is_dir():
        return Source(path.name, list(_ray_rows(path)))
    if not path.is_file():
        message = f"source must be a CSV file or the folder of a Ray Tune experiment, got {path}"
        raise DataError(message)
    return Source(path.name, table_rows(read_csv(path)))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV, compressed or not, as text: the search space says what a cell means.

    Cells that are missing at the end of a row are NaN, and empty ones are not.

    Raises:
        DataError: it is damaged, or something else.
    """
    try:
        # Without a header, pandas neither renames columns nor takes the first for an index; its
        # Python engine tells a row that is too short from one with empty cells.
        table: Any = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            engine="python",
        )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        message = f"{path} must be a CSV file in UTF-8, got {error}"
        raise DataError(message) from error
    return table[1:].set_axis(table.iloc[0].tolist(), axis="columns")


def table_rows(table: pd.DataFrame) -> list[SourceRow]:
    """Return the rows of a table, numbered from 0.

    Raises:
        DataError: two columns have the same name.
    """
    columns = [str(name) for name in table.columns]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        message = f"the columns of a table must have different names, got {repeated} repeatedly"
        raise DataError(message)

    rows = table.astype(object).to_numpy().tolist()
    return [
        SourceRow(f"row {number}", dict(zip(columns, row, strict=True)))
        for number, row in enumerate(rows)
    ]


def _read_study(study: optuna.Study) -> Source:
    name = f"study {study.study_name}"
    if len(study.directions) > 1:
        message = (
            f"source must have one value per trial, got {name} with {len(study.directions)}: "
            "import study.trials_dataframe() and name the column of the value"
        )
        raise DataError(message)

    rows = [_study_row(trial.as_evidence()) for trial in recorded_trials(study)]
    return Source(name, rows, is_maximized=study.direction == StudyDirection.MAXIMIZE)


def _study_row(trial: RecordedTrial) -> SourceRow:
    cells: dict[str, Any] = {f"params_{name}": v for name, v in trial.configuration.items()}
    cells["value"] = trial.value
    cells["state"] = trial.outcome.value
    return SourceRow(f"trial {trial.number}", cells, trial.record.reason or "")


def _ray_rows(folder: Path) -> Iterator[SourceRow]:
    """Yield the trials of a Ray Tune experiment, those that are shorter than others as stopped."""
    files = (*folder.glob(f"*/{_RESULTS}"), *folder.glob(f"*/{_PARAMETERS}"))
    trials = sorted({file.parent for file in files})
    if not trials:
        message = (
            "source must be the folder of a Ray Tune experiment, whose trials have folders with "
            f"{_RESULTS} and {_PARAMETERS}, got {folder} without any"
        )
        raise DataError(message)

    reports = [_read_reports(trial / _RESULTS) for trial in trials]
    longest = max(map(_n_iterations, reports))
    for trial, reported in zip(trials, reports, strict=True):
        state, reason = _ray_state(trial, _n_iterations(reported), longest)
        last = reported[-1] if reported else {}
        parameters = {"config": _parse_object(_read_text(trial / _PARAMETERS))}
        cells = {**_flatten(last), **_flatten(parameters), "state": state}
        yield SourceRow(trial.name, cells, reason)


def _ray_state(trial: Path, n_iterations: int, longest: int) -> tuple[str, str]:
    """Return how a trial of Ray Tune has ended, and the reason.

    Args:
        trial: its folder.
        n_iterations: how many iterations it reported.
        longest: iterations of the longest trial of the experiment.
    """
    error = trial / "error.txt"
    if error.is_file():
        lines = _read_text(error).strip().splitlines()
        return TrialOutcome.FAILED, lines[-1] if lines else "it left an error file"
    if n_iterations == 0:
        return TrialOutcome.FAILED, f"{_RESULTS} has no report"
    if n_iterations < longest:
        return TrialOutcome.PRUNED, f"stopped after {n_iterations} of {longest} iterations"
    return TrialOutcome.COMPLETED, ""


def _n_iterations(reports: list[dict[str, Any]]) -> int:
    return int(reports[-1].get("training_iteration", len(reports))) if reports else 0


def _read_reports(path: Path) -> list[dict[str, Any]]:
    """Return one report per line, up to the first damaged one: a killed trial leaves such a line.

    Args:
        path: file that a trial appends to; it may not be there.
    """
    reports: list[dict[str, Any]] = []
    for line in _read_text(path).splitlines():
        report = _parse_object(line)
        if not report:
            break
        reports.append(report)
    return reports


def _read_text(path: Path) -> str:
    """Return the text of a file; nothing where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one where the text is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _flatten(nested: dict[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, with names as Ray Tune has them: `config/optimizer/lr`."""
    (flat,) = pd.json_normalize(nested, sep="/").to_dict("records")
    return {str(name): value for name, value in flat.items()}
