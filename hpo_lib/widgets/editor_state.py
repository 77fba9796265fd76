"""Hold a search space while it is edited: text as typed, undo, and the mistakes of each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.parameters import Parameter, read_parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.yaml_io import Comments, label, read_yaml, yaml_line

Cell = tuple[int, str]
"""A row's number from 0, and a field of `Row`."""

_COMMON_CELLS = ("default", "fixed", "when")
_RANGE_CELLS = ("low", "high", "step", *_COMMON_CELLS)

CELLS = {
    "float": _RANGE_CELLS,
    "int": _RANGE_CELLS,
    "choice": ("options", *_COMMON_CELLS),
}
"""Cells that count for each type; text in the others is kept for when the type returns."""

SCALES: dict[str, dict[str, Any]] = {
    "linear": {},
    "log": {"log": True},
    "segmented": {"prior": "segmented"},
    "log, segmented": {"log": True, "prior": "segmented"},
}
"""Entries of a range for each scale."""


_NO_COMMENTS = Comments()


@dataclass(frozen=True)
class Row:
    """Hold one hyperparameter as typed; every cell but the name is a piece of YAML.

    Attributes:
        name: the hyperparameter's name, as it is.
        type: "float", "int" or "choice".
        options: a list, with or without its brackets (`adamw, sgd`).
        low: one number, as are `high` and `step`.
        high: the upper end.
        step: the distance between values.
        scale: a key of `SCALES`.
        default: one value.
        fixed: one value.
        when: a mapping, with or without its braces (`optimizer: sgd`).
        comments: comments of the file, which no cell shows.
    """

    name: str = ""
    type: str = "float"
    options: str = ""
    low: str = ""
    high: str = ""
    step: str = ""
    scale: str = "linear"
    default: str = ""
    fixed: str = ""
    when: str = ""
    comments: Comments = _NO_COMMENTS

    @classmethod
    def from_parameter(cls, parameter: Parameter, comments: Comments = _NO_COMMENTS) -> Row:
        """Return the row that reads as a parameter, quoted where YAML needs it.

        Args:
            parameter: a parameter of a space.
            comments: its comments in the space's file.
        """
        # The canonical form leaves out what goes without saying, as a person would.
        body = parameter.to_dict()
        del body["type"]
        entries = {key: body.pop(key) for key in ("log", "prior") if key in body}
        scale = next(scale for scale in SCALES if SCALES[scale] == entries)
        cells = {field: _write_cell(value) for field, value in body.items()}
        return cls(parameter.name, parameter.type, scale=scale, **cells, comments=comments)

    def read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the parameter's entry of a space, and `{field: mistake}` of unreadable cells."""
        body: dict[str, Any] = {"type": self.type}
        mistakes: dict[str, str] = {}
        if self.type != "choice":
            body |= SCALES[self.scale]

        for field in CELLS.get(self.type, ()):
            text = getattr(self, field)
            if not text.strip():
                continue
            try:
                body[field] = _read_cell(field, text)
            except ValueError as error:
                mistakes[field] = f"{field} {error}"

        return body, mistakes

    @property
    def is_held(self) -> bool:
        """Whether a value is fixed."""
        return bool(self.fixed.strip())

    def default_text(self) -> str:
        """Return the default, also where it goes without saying; empty where none can be read."""
        if self.default.strip():
            return self.default
        try:
            body, _ = self.read()
            parameter = read_parameter(self.name, body)
            return _write_cell(parameter.default)
        except SpaceError:
            return ""


FIELDS = tuple(field.name for field in fields(Row) if field.name != "comments")
"""Fields of a row that can be typed, in the order of the file."""


def _write_cell(value: Any) -> str:
    """Return a value as YAML without the outer brackets or braces."""
    if isinstance(value, dict):
        return yaml_line("x", value).removeprefix("x: {").removesuffix("}\n")

    # Within a list, YAML quotes a text that holds a comma or a bracket.
    items = value if isinstance(value, list) else [value]
    return yaml_line("x", {"v": items}).removeprefix("x: {v: [").removesuffix("]}\n")


def _read_cell(field: str, text: str) -> Any:
    """Return the value of a cell; ValueError with the end of a sentence about its field."""
    first, last = "{}" if field == "when" else "[]"
    is_list = field in ("options", "when")
    has_brackets = text.strip().startswith(first) and text.strip().endswith(last)
    try:
        # The line break ends a comment.
        wrapped = f"{first}{text}\n{last}"
        value: Any
        value, duplicates = read_yaml(text if is_list and has_brackets else wrapped)
    except ValueError as error:
        message = f"must be YAML (quote words that hold , : # or brackets), got {text!r}"
        raise ValueError(message) from error

    if duplicates:
        message = f"must name each parameter once, got {text!r}"
        raise ValueError(message)
    if is_list:
        return value

    if len(value) != 1 or value[0] is None:
        message = f"must be one value, got {text!r}"
        raise ValueError(message)
    return value[0]


class Reading(NamedTuple):
    """Hold what the rows of an editor spell.

    Attributes:
        space: the search space; None where there is a mistake.
        messages: mistakes by cell.
        others: mistakes of the space as a whole.
    """

    space: SearchSpace | None
    messages: dict[Cell, str]
    others: list[str]


@dataclass(frozen=True)
class EditorState:
    """Hold all rows with their history; every change returns a new state.

    Attributes:
        rows: the hyperparameters, top down.
        past: the rows before each step that can be undone, oldest first.
        future: the rows after each step that was undone, the next first.
        typing: the cell that the last step typed into.
        footer: comments of the file below the last hyperparameter.
    """

    rows: tuple[Row, ...] = ()
    past: tuple[tuple[Row, ...], ...] = ()
    future: tuple[tuple[Row, ...], ...] = ()
    typing: Cell | None = None
    footer: Comments = _NO_COMMENTS

    @classmethod
    def from_space(cls, space: SearchSpace | None) -> EditorState:
        """Return the state before any edit; without a space it has no rows."""
        if space is None:
            return cls()
        comments = defaultdict(Comments, space.comments)
        rows = [Row.from_parameter(parameter, comments[parameter.name]) for parameter in space]
        return cls(tuple(rows), footer=comments[None])

    def _with_rows(
        self,
        rows: Iterable[Row],
        typing: Cell | None = None,
    ) -> EditorState:
        """Return the state after one more step; nothing happens where no row changes."""
        changed = tuple(rows)
        if changed == self.rows:
            return self
        past = (*self.past, self.rows)
        return replace(self, rows=changed, past=past, future=(), typing=typing)

    def _with_fields(
        self,
        row: int,
        texts: Mapping[str, str],
        typing: Cell | None = None,
    ) -> EditorState:
        """Return the state after some fields of a row were changed."""
        rows = list(self.rows)
        rows[row] = replace(rows[row], **texts)
        return self._with_rows(rows, typing)

    def edit(
        self,
        row: int,
        field: str,
        text: str,
    ) -> EditorState:
        """Put text into a cell; letters typed one after the other are one step of undo.

        Args:
            row: number of the row, from 0.
            field: a field of `Row`.
            text: the whole new text.
        """
        cell = (row, field)
        before = getattr(self.rows[row], field)
        after = self._with_fields(row, {field: text}, cell)

        # Letters added to a text or taken from its end, without another edit between.
        goes_on = text.startswith(before) or before.startswith(text)
        if self.typing == cell and goes_on:
            return replace(after, past=self.past)
        return after

    def add(self) -> EditorState:
        """Add an empty row at the end."""
        return self._with_rows([*self.rows, Row()])

    def duplicate(self, row: int) -> EditorState:
        """Add a copy of a row below it, under a name that is free."""
        names = {other.name for other in self.rows}
        name = f"{self.rows[row].name}_copy"
        while name in names:
            name += "_copy"

        rows = list(self.rows)
        rows.insert(row + 1, replace(rows[row], name=name, comments=_NO_COMMENTS))
        return self._with_rows(rows)

    def remove(self, row: int) -> EditorState:
        """Take a row out."""
        rows = list(self.rows)
        del rows[row]
        return self._with_rows(rows)

    def hold(self, row: int) -> EditorState:
        """Fix a hyperparameter at its default; nothing happens where that cannot be read."""
        default = self.rows[row].default_text()
        return self._with_fields(row, {"fixed": default})

    def release(self, row: int) -> EditorState:
        """Let a fixed hyperparameter vary; without a default, with that value as its default."""
        default = self.rows[row].default or self.rows[row].fixed
        return self._with_fields(row, {"fixed": "", "default": default})

    def move(self, row: int, by: int) -> EditorState:
        """Move a row, to the first or last place at most.

        Args:
            row: number of the row, from 0.
            by: places downwards; upwards where negative.
        """
        rows = list(self.rows)
        moved = rows.pop(row)
        # `insert` takes a place beyond the end for the end.
        rows.insert(max(row + by, 0), moved)
        return self._with_rows(rows)

    def load(self, space: SearchSpace) -> EditorState:
        """Replace all rows; undo brings them back."""
        loaded = EditorState.from_space(space)
        return replace(self._with_rows(loaded.rows), footer=loaded.footer)

    def undo(self) -> EditorState:
        """Return to the rows before the last step."""
        if not self.past:
            return self
        *past, rows = self.past
        future = (self.rows, *self.future)
        return replace(self, rows=rows, past=tuple(past), future=future, typing=None)

    def redo(self) -> EditorState:
        """Return to the rows before the last undo."""
        if not self.future:
            return self
        rows, *future = self.future
        past = (*self.past, self.rows)
        return replace(self, rows=rows, past=past, future=tuple(future), typing=None)

    @cached_property
    def reading(self) -> Reading:
        """Return the space that the rows spell, or all mistakes, each with its cell."""
        mapping, numbers, messages = self._read_rows()
        others: list[str] = []
        try:
            space = SearchSpace.from_dict(mapping)
        except SpaceError as error:
            space = None
            others = _add_problems(messages, error.problems, numbers)

        # A space without the unreadable cells may be valid by accident.
        if space is None or messages:
            return Reading(None, messages, others)

        comments: dict[str | None, Comments] = {row.name: row.comments for row in self.rows}
        comments[None] = self.footer
        return Reading(replace(space, comments=comments), messages, others)

    def _read_rows(self) -> tuple[dict[str, Any], dict[str, int], dict[Cell, str]]:
        """Return the space as a mapping, the row of each name, and mistakes by cell."""
        mapping: dict[str, Any] = {}
        numbers: dict[str, int] = {}
        messages: dict[Cell, str] = {}

        for i, row in enumerate(self.rows):
            body, mistakes = row.read()
            for field, mistake in mistakes.items():
                messages[i, field] = mistake

            # The first row of a name keeps it; the parameters after it may refer to it.
            if not row.name:
                messages[i, "name"] = "name is required, got nothing"
            if row.name not in numbers:
                numbers[row.name] = i
                mapping[row.name] = body
            elif row.name:
                other = f"row {numbers[row.name] + 1} has it already"
                messages[i, "name"] = f"name must differ, got {row.name!r}; {other}"

        return mapping, numbers, messages


def _add_problems(
    messages: dict[Cell, str],
    problems: Sequence[str],
    numbers: dict[str, int],
) -> list[str]:
    """Add a space's problems to the messages of their cells; return those of no cell."""
    # The space lacks what could not be read, and complains about it in vain.
    unread = set(messages)
    others: list[str] = []

    for problem in problems:
        cell, rule = _find_cell(problem, numbers)
        if cell is None:
            others.append(problem)
        elif cell in messages and cell not in unread:
            messages[cell] += f"; {rule}"
        elif cell not in unread:
            messages[cell] = rule

    return others


def _find_cell(
    problem: str,
    numbers: dict[str, int],
) -> tuple[Cell | None, str]:
    """Return the cell that a problem of a space is about, and the problem without its name."""
    for name, row in numbers.items():
        prefix = f"{label(name)}: "
        if problem.startswith(prefix):
            rule = problem.removeprefix(prefix)
            word = rule.split()[0]
            # One cell stands for these two entries.
            field = "scale" if word in ("log", "prior") else word
            return (row, field if field in FIELDS else "name"), rule

    return None, problem
