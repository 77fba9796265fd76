"""Widgets for JupyterLab; where no front end listens, each shows its figure instead."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
import optuna

from hpo_lib.checks import check_member
from hpo_lib.exceptions import SpaceError
from hpo_lib.space.search_space import PRESETS, ChoiceParameter, Parameter, SearchSpace, Value
from hpo_lib.trials import StudyRecord, study_space
from hpo_lib.widgets.editor_state import (
    CELLS,
    SCALES,
    EditorState,
    Row,
    file_difference,
    trial_seconds,
    warm_start_count,
)
from hpo_lib.widgets.front_end import in_turn, is_watched

_COLUMNS = {
    **{"name": 11, "type": 8, "low": 7, "high": 7, "step": 5, "scale": 8},
    **{"default": 8, "fixed": 6, "when": 11},
}
_GRID = " ".join(f"minmax(0, {share}fr)" for share in _COLUMNS.values()) + " 116px"
_HINTS = {
    **{"name": "name", "low": "low", "high": "high", "options": "options: a, b, c"},
    **{"step": "any", "default": "middle", "fixed": "free", "when": "always"},
}
_BUTTONS = {
    "up": ("↑", "Move row {} up"),
    "down": ("↓", "Move row {} down"),
    "copy": ("×2", "Duplicate row {}"),
    "remove": ("✕", "Remove row {}"),
}
# The glyphs have an empty alternative, so that the title is what a screen reader says.
_GLYPHS = "".join(
    f".hpo-{what} i::before {{content: '{glyph}' / ''; font-family: sans-serif}}\n"
    for what, (glyph, _) in _BUTTONS.items()
)
_STYLE = """<style>
.hpo-editor .hpo-cell > label {position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); margin: 0; padding: 0}
.hpo-editor .hpo-wide {grid-column: span 4}
.hpo-editor .hpo-cell, .hpo-editor .hpo-cell input, .hpo-editor .hpo-cell select {
  width: 100%; min-width: 0; margin: 0}
.hpo-editor .hpo-wrong input, .hpo-editor .hpo-wrong select {
  border: 2px dashed #d55e00 !important}
.hpo-editor .widget-html {margin: 0}
.hpo-editor .widget-html-content {line-height: 1.4; overflow: hidden}
.hpo-editor :focus-visible {outline: 2px solid #0072b2 !important}
"""
_TABLE = """<style>
.hpo-preview {font-size: 12px; line-height: 1.4}
.hpo-preview table {border-collapse: collapse; margin: 4px 0; table-layout: auto}
.hpo-preview td, .hpo-preview th {padding: 0 8px 0 0; text-align: left; max-width: 110px;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; background: none}
.hpo-preview pre {font-size: 11px; margin: 2px 0; white-space: pre-wrap; line-height: 1.35}
.hpo-old {opacity: 0.65}
</style>"""
_BINS = 24
_FILE = "the file"


class SpaceEditor:
    """Shape a search space by hand and see at once what it means; saves what is valid only.

    Args:
        space: what to begin with; default what the file holds, else nothing.
        path: the YAML file that is saved to and compared with; comments are not kept.
        n_trials: budget of the study whose seconds are estimated.
        workers: processes that train at once.
        seconds_per_trial: for the estimate, where no study tells it.
        study: a recorded study: its trials tell the seconds, and how many lie inside the edited
            space. It is only read.
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        path: str | Path = "space.yaml",
        *,
        n_trials: int = 20,
        workers: int = 1,
        seconds_per_trial: float | None = None,
        study: optuna.Study | None = None,
    ) -> None:
        if study is not None:
            study_space(study)  # StudyError for one that others made
        self.path = _expanded(path)
        if space is None and self.path.is_file():
            space = SearchSpace.load(self.path)
        self.state = EditorState.from_space(space)
        self.n_trials, self.workers = n_trials, max(workers, 1)
        self.seconds_per_trial = seconds_per_trial
        self.study = study
        self._valid = space
        self._message = ""
        self._rows: list[_RowView] = []
        self._built = self._showing = False

    @property
    def space(self) -> SearchSpace:
        """The space that is shown; SpaceError with all mistakes where it is not valid."""
        reading = self.state.reading
        if reading.space is None:
            where = [f"row {row + 1}: {text}" for (row, _), text in reading.messages.items()]
            raise SpaceError([*where, *reading.others])
        return reading.space

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": f"SpaceEditor({self.path})", "text/html": self.preview()}
        if not is_watched():
            return plain
        shown: Any = self.box._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]
        return {**shown, **plain}

    def preview(self) -> str:
        """HTML: sizes, seconds, priors, sample, evidence, and the difference to the file."""
        space = self.state.reading.space
        self._valid = space or self._valid
        if self._valid is None:
            return f"{_TABLE}<div class='hpo-preview'>A preview follows the first row.</div>"
        parts = [self._sizes(self._valid), self._cost(), self._warm_start(self._valid)]
        lines = "".join(f"<div>{part}</div>" for part in parts if part)
        old = "" if space else "<b>The last valid space:</b>"
        style = "hpo-preview" if space else "hpo-preview hpo-old"
        table = _sample_table(self._valid)
        return f"{_TABLE}<div class='{style}'>{old}{lines}{table}{self._saving(self._valid)}</div>"

    def _saving(self, space: SearchSpace) -> str:
        try:
            changes = file_difference(space, self.path)
        except ValueError as error:
            return f"⚠ {escape(str(error))}"
        text = f"<b>Saving changes</b> {escape(self.path.name)}:"
        return f"{text}<pre>{escape(chr(10).join(changes))}</pre>" if changes else ""

    def _sizes(self, space: SearchSpace) -> str:
        n = f"{len(space)} hyperparameters, {len(space.searched)} searched"
        size = "infinitely many" if space.size is None else f"{space.size:,}"
        return f"{n} · {size} configurations · grid of 3 points: {space.grid_size(3):,}"

    def _cost(self) -> str:
        recorded = trial_seconds(self.study) if self.study is not None else []
        each = float(np.mean(recorded)) if recorded else self.seconds_per_trial
        budget = f"{self.n_trials:,} trials on {self.workers} worker{'s' * (self.workers > 1)}"
        if each is None:
            return f"{budget}: no trial is recorded that tells the seconds"
        source = f"from {len(recorded)} recorded trials" if recorded else "as estimated"
        seconds = each * math.ceil(self.n_trials / self.workers)
        spent = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"
        return f"{budget}: about <b>{spent} s</b> of training ({each:.2g} s each, {source})"

    def _warm_start(self, space: SearchSpace) -> str:
        if self.study is None:
            return ""
        inside, n = warm_start_count(self.study, space)
        name = repr(self.study.study_name)
        if StudyRecord.of(self.study).space == space.to_yaml(comments=False):
            return escape(f"Study {name} was recorded with this very space and can go on.")
        text = f"{inside} of the {n} trials of study {name} lie inside. A new study takes them: "
        return escape(text) + f"<code>{escape(f'run_study(…, warm_start_from={name})')}</code>"

    @cached_property
    def box(self) -> w.VBox:
        """The widget; it is made when a front end first asks for it."""
        self._undo = self._tool("Undo", lambda: self._to(self.state.undo()))
        self._redo = self._tool("Redo", lambda: self._to(self.state.redo()))
        self._save = self._tool("Save", self.save, "saved")
        self._source = labelled(
            w.Dropdown, "from", 210, options=[_FILE, *(f"preset {p}" for p in PRESETS)]
        )
        self._file = labelled(w.Text, "file", 330, value=str(self.path))
        trials = labelled(w.BoundedIntText, "trials", 120, value=self.n_trials, min=1, max=10**6)
        workers = labelled(w.BoundedIntText, "workers", 125, value=self.workers, min=1, max=10**4)
        for field, widget in (("n_trials", trials), ("workers", workers), ("path", self._file)):
            widget.observe(lambda change, field=field: self._set(field, change["new"]), "value")
        first = [self._tool("Add", lambda: self._to(self.state.add())), self._undo]
        first += [self._redo, self._source, self._tool("Load", self.load, "loaded")]
        self._status, self._preview = w.HTML(), w.HTML()
        heads = w.GridBox([w.HTML(f"<b>{n}</b>") for n in _COLUMNS], layout=_grid_layout())
        self._list = w.VBox()
        second, style = [self._file, self._save, trials, workers], f"{_STYLE}{_GLYPHS}</style>"
        tools = [w.HBox(one, layout={"flex_flow": "row wrap"}) for one in (first, second)]
        box = w.VBox([w.HTML(style), *tools, self._status, heads, self._list, self._preview])
        box.add_class("hpo-editor")
        self._built = True
        self._show()
        return box

    def _tool(self, text: str, act: Callable[[], None], done: str = "done") -> w.Button:
        @in_turn()
        def pressed(_: object) -> None:
            try:
                act()
            except (OSError, ValueError) as error:
                self._message = f"Nothing was {done}: {error}"
                self._show()

        button = w.Button(description=text, layout={"width": "82px"})
        button.on_click(pressed)
        return button

    @in_turn()
    def _set(self, field: str, value: Any) -> None:
        setattr(self, field, _expanded(value) if field == "path" else value)
        self._message = ""
        self._show()

    @in_turn()
    def edit(self, row: int, field: str, text: str) -> None:
        """Put text into a cell, as a person does who types it; `scale` is log and prior in one."""
        if self._showing:
            return
        check_member("field", field, [*Row.__dataclass_fields__, "scale"])
        if words := {"type": CELLS, "scale": SCALES}.get(field):
            check_member("text", text, words)
        self._to(self.state.edit(row, field, str(text)))  # a cell may hand over a number

    def _to(self, state: EditorState) -> None:
        self.state, self._message = state, ""
        self._show()

    @in_turn()
    def save(self) -> None:
        """Write the file; an invalid space is refused, and so is a file that holds no space."""
        space = self.space
        file_difference(space, self.path)
        space.save(self.path)
        self._to(self.state)

    @in_turn()
    def load(self) -> None:
        """Read the file, or the preset that is chosen; undo brings the rows back."""
        chosen = str(self._source.value) if self._built else _FILE
        preset = chosen.removeprefix("preset ")
        space = SearchSpace.load(self.path) if chosen == _FILE else SearchSpace.preset(preset)
        self._to(self.state.load(space))

    def _show(self) -> None:
        if not self._built:
            return
        reading = self.state.reading
        self._showing = True
        try:
            while len(self._rows) < len(self.state.rows):
                self._rows.append(_RowView(len(self._rows), self))
            for i, row in enumerate(self.state.rows):
                found = {field: text for (j, field), text in reading.messages.items() if j == i}
                self._rows[i].show(row, found)
            shown = tuple(view.box for view in self._rows[: len(self.state.rows)])
            if shown != self._list.children:
                self._list.children = shown
        finally:
            self._showing = False
        self._undo.disabled = not self.state.past
        self._redo.disabled = not self.state.future
        self._save.disabled = reading.space is None
        self._status.value = f"<div role='status' aria-live='polite'>{self._status_text()}</div>"
        self._preview.value = self.preview()

    def _status_text(self) -> str:
        reading = self.state.reading
        if self._message:
            return f"⚠ {escape(self._message)}"
        if reading.space is None:
            n = len(reading.messages) + len(reading.others)
            others = "; ".join(reading.others)
            return escape(f"⚠ {n} to mend before this can be saved. {others}")
        if saving := self._saving(reading.space):
            return saving if saving.startswith("⚠") else "● Valid, not saved yet."
        return escape(f"✓ Valid and saved in {self.path.name}.")

    @in_turn()
    def act(self, row: int, what: str) -> None:
        """Do what a button of a row says: `up`, `down`, `copy` or `remove`."""
        moves = {"up": -1, "down": 1}
        if what in moves:
            self._to(self.state.move(row, moves[what]))
        else:
            self._to(self.state.duplicate(row) if what == "copy" else self.state.remove(row))


class _RowView:
    """The widgets of the i-th row; whichever hyperparameter stands there."""

    def __init__(self, i: int, editor: SpaceEditor) -> None:
        self.cells: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        for field in ("name", "type", "options", *list(_COLUMNS)[2:]):
            about: dict[str, Any] = {"description": f"{field}, row {i + 1}"}
            about["layout"] = {"width": "auto"}
            if field in ("type", "scale"):
                cell = w.Dropdown(options=list(CELLS if field == "type" else SCALES), **about)
            else:
                cell = w.Text(placeholder=_HINTS[field], **about)
            cell.add_class("hpo-cell")
            cell.observe(lambda change, f=field: editor.edit(i, f, change["new"]), "value")
            self.cells[field] = cell
        self.cells["options"].add_class("hpo-wide")
        buttons: list[w.Button] = []
        for what, (_, tip) in _BUTTONS.items():
            layout = {"width": "27px", "padding": "0", "margin": "0 1px"}
            buttons.append(w.Button(icon="none", tooltip=tip.format(i + 1), layout=layout))
            buttons[-1].add_class(f"hpo-{what}")
            buttons[-1].on_click(lambda _, what=what: editor.act(i, what))
        self.message = w.HTML()
        grid = w.GridBox([*self.cells.values(), w.HBox(buttons)], layout=_grid_layout())
        self.box = w.VBox([grid, self.message], layout={"overflow": "visible"})

    def show(self, row: Row, messages: dict[str, str]) -> None:
        """Bring the widgets to what the row says; newer text that waits for its turn stays."""
        for field, cell in self.cells.items():
            text = getattr(row, field)
            if self.texts.get(field) != text:
                cell.value = self.texts[field] = text
            hidden = field in ("low", "high", "step", "scale") and row.type == "choice"
            hidden = hidden or (field == "options" and row.type != "choice")
            cell.layout.display = "none" if hidden else None
            wrong = field in messages or (field == "scale" and {"log", "prior"} & set(messages))
            (cell.add_class if wrong else cell.remove_class)("hpo-wrong")
        text = "<br>".join(f"⚠ {escape(text)}" for text in messages.values())
        self.message.value = f"<div style='color: #a34700'>{text}</div>" if text else ""
        self.message.layout.display = None if text else "none"


def _expanded(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's raises while ~na is typed)


def labelled(kind: Any, text: str, width: int, **options: Any) -> Any:
    """A field that is as wide as said, with its description before it."""
    style = {"description_width": "initial"}
    return kind(description=text, style=style, layout={"width": f"{width}px"}, **options)


def _grid_layout() -> w.Layout:
    return w.Layout(grid_template_columns=_GRID, grid_gap="2px 4px", width="100%")


def _sample_table(space: SearchSpace, n: int = 5) -> str:
    """One row per hyperparameter: the shape of its prior, its default, and `n` draws."""
    rng = np.random.default_rng(0)
    draws = [space.default_configuration(), *(space.sample(rng) for _ in range(n))]
    heads = ["", "prior", "default", *(f"draw {i}" for i in range(1, n + 1))]
    rows = ["".join(f"<th>{head}</th>" for head in heads)]
    for one in space:
        values = [_number(draw[one.name]) if one.name in draw else "–" for draw in draws]
        cells = [prior_shape(one), *map(escape, values)]
        rows.append(f"<th>{escape(one.name)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _number(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def prior_shape(parameter: Parameter) -> str:
    """SVG: how often values of each part of the range are drawn, from `low` to `high`."""
    if parameter.fixed is not None:
        return "fixed"
    drawn = [parameter.from_unit((k + 0.5) / 240) for k in range(240)]
    if isinstance(parameter, ChoiceParameter) or (parameter.count or _BINS + 1) <= _BINS:
        heights = [drawn.count(value) for value in parameter.grid_values(_BINS)]
    else:
        extent, positions = (parameter.low, parameter.high), np.array(drawn, dtype=float)
        heights: list[int] = np.histogram(positions, _BINS, extent)[0].tolist()
    width, top = 96 / len(heights), max(heights)
    bar = width - 1 if len(heights) < _BINS else width
    bars = "".join(
        f"<rect x='{i * width:.1f}' y='{18 - 17 * h / top:.1f}' width='{bar:.1f}'"
        f" height='{17 * h / top:.1f}'/>"
        for i, h in enumerate(heights)
        if h
    )
    title = escape(f"prior of {parameter.name}", quote=True)
    return (
        f'<svg role="img" aria-label="{title}" width="96" height="19" fill="#0072b2">{bars}'
        '<path d="M0 18.5H96" stroke="currentColor"/></svg>'
    )
