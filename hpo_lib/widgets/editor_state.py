"""A search space while it is being written: text as typed, undo, and what each cell gets wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import optuna

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.search_space import Parameter, SearchSpace
from hpo_lib.space.yaml_io import label, read_yaml, yaml_line
from hpo_lib.trials import own_trials, recorded_trials

_COMMON = ("default", "fixed", "when")
_RANGE = ("low", "high", "step", "log", "prior", *_COMMON)
CELLS = {"float": _RANGE, "int": _RANGE, "choice": ("options", *_COMMON)}
"""The cells that count for each type; text in the others is kept for when the type returns."""

SCALES = {
    "linear": ("", ""),
    "log": ("true", ""),
    "segmented": ("", "segmented"),
    "log, segmented": ("true", "segmented"),
}
"""What `log` and `prior` hold for each scale."""


@dataclass(frozen=True)
class Row:
    """One hyperparameter as it was typed; every cell but the name is a piece of YAML.

    `options` stands without its brackets (`adamw, sgd`), `when` without braces (`optimizer: sgd`).
    """

    name: str = ""
    type: str = "float"
    options: str = ""
    low: str = ""
    high: str = ""
    step: str = ""
    log: str = ""
    prior: str = ""
    default: str = ""
    fixed: str = ""
    when: str = ""

    @classmethod
    def from_parameter(cls, parameter: Parameter) -> Row:
        """The row that reads as this parameter, quoted where YAML needs it."""
        cells = {
            key: _write_cell(value) for key, value in parameter.to_dict().items() if key != "type"
        }
        return cls(parameter.name, parameter.type, **cells)

    @property
    def scale(self) -> str:
        """`log` and `prior` in one word; linear where they spell no scale."""
        found = [s for s, cells in SCALES.items() if cells == (self.log, self.prior)]
        return found[0] if found else "linear"

    def read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What the file would say of it, and `{field: mistake}` for cells that do not read."""
        body: dict[str, Any] = {"type": self.type}
        mistakes: dict[str, str] = {}
        for field in CELLS.get(self.type, ()):
            text = getattr(self, field)
            if not text.strip():
                continue
            try:
                body[field] = _read_cell(field, text)
            except ValueError as error:
                mistakes[field] = f"{field} {error}"
        return body, mistakes


def _write_cell(value: Any) -> str:
    if isinstance(value, dict):
        return yaml_line("x", cast("dict[str, Any]", value))[len("x: {") : -len("}\n")]
    listed = cast("list[Any]", value) if isinstance(value, list) else [value]
    return yaml_line("x", {"v": listed})[len("x: {v: [") : -len("]}\n")]


def _read_cell(field: str, text: str) -> Any:
    before, after = "{}" if field == "when" else "[]"
    try:
        value, duplicates = read_yaml(f"{before}{text}\n{after}")
    except ValueError as error:
        message = f"must be YAML (quote words that hold , : # or brackets), got {text!r}"
        raise ValueError(message) from error
    if duplicates:
        message = f"must name each parameter once, got {text!r}"
        raise ValueError(message)
    if field in ("options", "when"):
        return value
    values = cast("list[Any]", value)
    if len(values) != 1 or values[0] is None:
        message = f"must be one value, got {text!r}"
        raise ValueError(message)
    return values[0]


class Reading(NamedTuple):
    """The space that the rows spell, or None; `messages` by row and field; and the other ones."""

    space: SearchSpace | None
    messages: dict[tuple[int, str], str]
    others: list[str]


@dataclass(frozen=True)
class EditorState:
    """All rows, what they were before, and what they were before an undo. Immutable."""

    rows: tuple[Row, ...] = ()
    past: tuple[tuple[Row, ...], ...] = ()
    future: tuple[tuple[Row, ...], ...] = ()
    typing: tuple[int, str] | None = None

    @classmethod
    def from_space(cls, space: SearchSpace | None) -> EditorState:
        """The state in which nothing was edited yet; without a space it has no rows."""
        return cls(tuple(map(Row.from_parameter, space or ())))

    def _after(self, rows: Sequence[Row], typing: tuple[int, str] | None = None) -> EditorState:
        if tuple(rows) == self.rows:
            return self
        return EditorState(tuple(rows), (*self.past, self.rows), (), typing)

    def edit(self, row: int, field: str, text: str) -> EditorState:
        """Put text into a cell, or a scale into its two; letters typed are one step of undo."""
        before = getattr(self.rows[row], field)
        rows = list(self.rows)
        scale = field == "scale"
        cells = dict(zip(("log", "prior"), SCALES[text], strict=True)) if scale else {field: text}
        rows[row] = replace(rows[row], **cells)
        after = self._after(rows, None if scale else (row, field))
        if self.typing == (row, field) and (text.startswith(before) or before.startswith(text)):
            return replace(after, past=self.past)
        return after

    def add(self) -> EditorState:
        """Add an empty row at the end."""
        return self._after([*self.rows, Row()])

    def duplicate(self, row: int) -> EditorState:
        """Add a copy of a row below it, under a name that is free."""
        names = {one.name for one in self.rows}
        name = f"{self.rows[row].name}_copy"
        while name in names:
            name += "_copy"
        copy = replace(self.rows[row], name=name)
        return self._after([*self.rows[: row + 1], copy, *self.rows[row + 1 :]])

    def remove(self, row: int) -> EditorState:
        """Take a row out."""
        return self._after([*self.rows[:row], *self.rows[row + 1 :]])

    def move(self, row: int, by: int) -> EditorState:
        """Move a row down by so many places (up where negative), as far as there are places."""
        rows = list(self.rows)
        moved = rows.pop(row)
        rows.insert(min(max(row + by, 0), len(rows)), moved)
        return self._after(rows)

    def load(self, space: SearchSpace) -> EditorState:
        """Replace all rows; undo brings them back."""
        return self._after(EditorState.from_space(space).rows)

    def undo(self) -> EditorState:
        """The rows before the last step."""
        if not self.past:
            return self
        return EditorState(self.past[-1], self.past[:-1], (self.rows, *self.future))

    def redo(self) -> EditorState:
        """The rows before the last undo."""
        if not self.future:
            return self
        return EditorState(self.future[0], (*self.past, self.rows), self.future[1:])

    @cached_property
    def reading(self) -> Reading:
        """What the rows say, with all mistakes beside the cells that they are in."""
        messages: dict[tuple[int, str], str] = {}
        mapping: dict[str, Any] = {}
        rows: dict[str, int] = {}
        for i, row in enumerate(self.rows):
            body, mistakes = row.read()
            messages |= {(i, field): mistake for field, mistake in mistakes.items()}
            if not row.name:
                messages[i, "name"] = "name is required, got nothing"
            if row.name in rows:
                first = f"row {rows[row.name] + 1} has it already"
                messages.setdefault((i, "name"), f"name must differ, got {row.name!r}; {first}")
            else:
                rows[row.name], mapping[row.name] = i, body
        unread = set(messages)
        others: list[str] = []
        try:
            space = SearchSpace.from_dict(mapping)
        except SpaceError as error:
            space = None
            for problem in error.problems:
                place, rule = _place(problem, rows)
                if place is None:
                    others.append(problem)
                elif place not in unread:
                    messages[place] = "; ".join(filter(None, [messages.get(place), rule]))
        return Reading(None if messages or others else space, messages, others)


def _place(problem: str, rows: dict[str, int]) -> tuple[tuple[int, str] | None, str]:
    """The cell that a problem of a space is about, and the problem without the row's name."""
    for name, row in rows.items():
        rule = problem.removeprefix(f"{label(name)}: ")
        if rule != problem:
            word = rule.split()[0]
            return (row, word if word in Row.__dataclass_fields__ else "name"), rule
    return None, problem


def file_difference(space: SearchSpace, path: Path) -> list[str]:
    """Lines that saving would take out of the file (`- `) and put in (`+ `).

    Raises:
        ValueError: what is there is no space, which saving would destroy.
    """
    try:
        saved = path.read_text(encoding="utf-8") if path.exists() else ""
        is_space = _spells_space(saved)
    except (OSError, ValueError):
        saved, is_space = "", False
    if not is_space:
        message = f"file must be new or hold a search space, got {path}, which holds neither"
        raise ValueError(message)
    lines = difflib.ndiff(saved.splitlines(), space.to_yaml().splitlines())
    return [line for line in lines if line.startswith(("- ", "+ "))]


@lru_cache(maxsize=1)
def _spells_space(text: str) -> bool:
    """Whether the YAML is a space, with mistakes maybe, or nothing yet."""
    content = read_yaml(text)[0] or {}
    return isinstance(content, dict) and all(
        isinstance(body, dict) and "type" in body
        for body in cast("dict[str, Any]", content).values()
    )


def trial_seconds(study: optuna.Study) -> list[float]:
    """Seconds of training of each completed trial of a study's own."""
    return [trial.training_seconds for trial in own_trials(study) if trial.is_completed]


def warm_start_count(study: optuna.Study, space: SearchSpace) -> tuple[int, int]:
    """How many completed trials lie inside a space, and how many there are.

    Those inside are what `run_study(..., warm_start_from=study.study_name)` copies.
    """
    trials = [trial for trial in recorded_trials(study) if trial.is_completed]
    inside = sum(space.contains(trial.configuration) for trial in trials)
    return inside, len(trials)
