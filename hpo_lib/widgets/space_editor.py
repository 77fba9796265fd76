"""Edit a search space in JupyterLab and see at once what each change means."""

from __future__ import annotations

from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

import optuna
from ipywidgets import HTML, BoundedIntText, Dropdown, HBox, Text, VBox
from jinja2 import Template

from hpo_lib.checks import check_member
from hpo_lib.exceptions import SpaceError, StudyError
from hpo_lib.files import user_path
from hpo_lib.progress import is_watched
from hpo_lib.space.search_space import PRESETS, SearchSpace
from hpo_lib.study.background import change_space_of
from hpo_lib.study.catalog import open_study, study_storage
from hpo_lib.trials import is_superseded, study_name, study_space
from hpo_lib.widgets.base import describe_going_on, make_button, make_field
from hpo_lib.widgets.editor_row import COLUMNS, DROPDOWNS, RowView, control_of, row_grid
from hpo_lib.widgets.editor_state import FIELDS, EditorState
from hpo_lib.widgets.editor_summary import (
    describe_change,
    describe_cost,
    describe_saving,
    describe_size,
    describe_warm_start,
    file_difference,
    is_space_of,
    sample_table,
    warm_start_count,
)
from hpo_lib.widgets.front_end import NO_MATHJAX, PANEL, Displayed, Page, in_turn

_PREVIEW = Template(
    """<style>
.hpo-preview {font-size: 12px; line-height: 1.4}
.hpo-preview table {border-collapse: collapse; margin: 4px 0; table-layout: auto}
.hpo-preview td, .hpo-preview th {padding: 0 8px 0 0; text-align: left; max-width: 110px;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; background: none}
.hpo-preview pre {font-size: 11px; margin: 2px 0; white-space: pre-wrap; line-height: 1.35}
.hpo-old {opacity: 0.65}
</style>
<div class='hpo-preview {{ no_mathjax }}{{ " hpo-old" if is_old }}'>
{% if is_old %}<b>The last valid space:</b>{% endif %}
{% for line in lines %}<div>{{ line | safe }}</div>{% endfor %}
</div>""",
    autoescape=True,
)
_FILE = "the file"
_STUDY = "the study"


class SpaceEditor(Displayed):
    """Edit a search space, see at once what it means, and save it once it is valid.

    Args:
        space: the space to begin with; by default what the file holds, else nothing.
        path: the YAML file that is saved to and compared with.
        n_trials: budget of the study whose seconds are estimated.
        workers: processes that train at once.
        seconds_per_trial: for the estimate, where no study tells it.
        study: a recorded study: its trials tell the seconds, and how many lie inside the edited
            space. It is only written where it is to go on in that space.

    Raises:
        StudyError: another program made the study, which has no space.
        SpaceError: the file holds a space with mistakes.

    Example:
        >>> from hpo_lib import SearchSpace
        >>> editor = SpaceEditor(SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}"))
        >>> editor.edit(0, "low", "0.2")
        >>> editor.space["lr"].low
        0.2
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
        # StudyError for a study that another program made, before anything is shown.
        if study is not None:
            study_space(study)

        self.path = user_path(path)
        if space is None and self.path.is_file():
            space = SearchSpace.load(self.path)

        self.state = EditorState.from_space(space)
        self.n_trials = n_trials
        self.workers = max(workers, 1)
        self.seconds_per_trial = seconds_per_trial
        self.study = study
        self._last_valid_space = space
        self._message = ""
        self._rows: list[RowView] = []
        self._is_built = False

    @property
    def space(self) -> SearchSpace:
        """Return the space that is shown; SpaceError with all mistakes where it is not valid."""
        reading = self.state.reading
        if reading.space is None:
            problems = [f"row {row + 1}: {text}" for (row, _), text in reading.messages.items()]
            raise SpaceError([*problems, *reading.others])
        return reading.space

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        text = {"text/plain": f"SpaceEditor({self.path})"}
        if not is_watched():
            return {**text, "text/html": self.preview()}

        widget: Any = self.box
        return {**widget._repr_mimebundle_(), **text}

    def static_html(self) -> str:
        """Return what `preview` does."""
        return self.preview()

    def preview(self) -> str:
        """Return HTML: size, cost, priors, draws, warm start, and the difference to the file."""
        # While a mistake stands, the last valid space is shown, greyed.
        current = self.state.reading.space
        space = current or self._last_valid_space
        self._last_valid_space = space
        if space is None:
            lines = ["A preview follows the first row."]
            return _PREVIEW.render(lines=lines, no_mathjax=NO_MATHJAX)

        lines = [
            describe_size(space),
            describe_cost(self.n_trials, self.workers, self.seconds_per_trial, self.study),
        ]
        if self.study is not None:
            lines.append(describe_warm_start(self.study, space))
            lines.append(describe_change(self.study, space))

        lines += [sample_table(space), describe_saving(space, self.path)]
        return _PREVIEW.render(lines=lines, is_old=current is None, no_mathjax=NO_MATHJAX)

    @cached_property
    def box(self) -> VBox:
        """Return the widget; it is made when a front end first asks for it."""
        tools = self._make_tools()
        self._status = HTML()
        self._preview = HTML()
        self._list = VBox()

        heads = row_grid([HTML(f"<b>{name}</b>") for name in COLUMNS])
        heads.add_class("hpo-heads")
        self._page = Page()
        children = [
            *(HBox(line, layout={"flex_flow": "row wrap"}) for line in tools),
            self._status,
            heads,
            self._list,
            self._preview,
            self._page,
        ]
        box = VBox(children)
        for name in (PANEL, "hpo-editor"):
            box.add_class(name)

        self._is_built = True
        self._show()
        return box

    def _make_tools(self) -> tuple[list[Any], list[Any]]:
        """Return the two lines of tools above the rows."""
        button = partial(make_button, refusal="⚠ Nothing was done", tell=self._tell, width=82)
        add = button("Add", self.add)
        add.add_class("hpo-add")
        self._undo = button("Undo", lambda: self._set_state(self.state.undo()))
        self._redo = button("Redo", lambda: self._set_state(self.state.redo()))
        sources = [_FILE, *(f"preset {name}" for name in PRESETS)]
        if self.study is not None:
            sources.insert(1, _STUDY)
        self._source = make_field(Dropdown, "from", 210, options=sources)
        load = button("Load", self.load, refusal="⚠ Nothing was loaded")

        self._file = make_field(Text, "file", 330, value=str(self.path))
        self._save = button("Save", self.save, refusal="⚠ Nothing was saved")
        self._continue = button(
            "Continue with this space",
            self.go_on,
            refusal="⚠ Nothing was changed",
            width=185,
            tooltip="The study goes on under its name in this space",
        )
        number = partial(make_field, BoundedIntText, min=1)
        n_trials = number("trials", 120, max=10**6, value=self.n_trials)
        workers = number("workers", 125, max=10**4, value=self.workers)

        settings = {"n_trials": n_trials, "workers": workers, "path": self._file}
        for name, field in settings.items():
            field.observe(partial(self._on_setting, name), "value")

        first = [add, self._undo, self._redo, self._source, load]
        second = [self._file, self._save, n_trials, workers]
        if self.study is not None:
            second.append(self._continue)
        return first, second

    @in_turn()
    def _on_setting(self, name: str, change: dict[str, Any]) -> None:
        value = change["new"]
        setattr(self, name, user_path(value) if name == "path" else value)
        self._tell("")

    @in_turn()
    def edit(self, row: int, field: str, text: str) -> None:
        """Put text into a cell, as a person does who types it.

        Args:
            row: number of the row, from 0.
            field: a field of `Row`.
            text: the whole new text.

        Raises:
            ValueError: no such field, or no such type or scale.
        """
        check_member("field", field, FIELDS)
        if field in DROPDOWNS:
            check_member("text", text, DROPDOWNS[field])

        # Python code may hand over a number.
        text = str(text)
        # A cell that shows a new state reports a change, which nobody typed.
        if getattr(self.state.rows[row], field) != text:
            self._set_state(self.state.edit(row, field, text))

    @in_turn()
    def add(self) -> None:
        """Add an empty row at the end, as the button does, and go on typing there."""
        self._set_state(self.state.add())
        self._focus(len(self.state.rows) - 1, "name")

    @in_turn()
    def act(self, row: int, action: str) -> None:
        """Do what a button of a row does.

        Args:
            row: number of the row, from 0.
            action: `hold`, `release`, `up`, `down`, `copy` or `remove`.
        """
        actions = {
            "hold": self.state.hold,
            "release": self.state.release,
            "up": partial(self.state.move, by=-1),
            "down": partial(self.state.move, by=1),
            "copy": self.state.duplicate,
            "remove": self.state.remove,
        }
        self._set_state(actions[action](row))

        # The keyboard goes with the row, and from a removed one to the next.
        last = len(self.state.rows) - 1
        places = {"up": max(row - 1, 0), "down": min(row + 1, last), "remove": min(row, last)}
        if action == "copy":
            self._focus(row + 1, "name")
        elif action in places:
            self._focus(places[action], action)

    @in_turn()
    def save(self) -> None:
        """Write the file; a space with mistakes is refused, and so is a file of another kind."""
        # Both refuse with a message before the file is touched.
        space = self.space
        file_difference(space, self.path)
        space.save(self.path)
        self._set_state(self.state)

    @in_turn()
    def go_on(self) -> None:
        """Let the study go on in this space under its name, as `change_space` does.

        Raises:
            SpaceError: the space has mistakes.
            StudyError: there is no study, or it cannot be changed now.
        """
        space = self.space
        if self.study is None:
            message = "an editor without a study has nothing to go on with"
            raise StudyError(message)

        name = study_name(self.study)
        if is_superseded(self.study):
            self.study = open_study(name, study_storage(self.study))
            message = f"study {name!r} has gone on meanwhile: see what this space changes now"
            raise StudyError(message)

        self.study = change_space_of(self.study, space)
        inside, n_trials = warm_start_count(self.study, space)
        text = f"✓ Study {name!r} goes on in this space, where {inside} of {n_trials} trials lie."
        self._set_state(self.state)
        how = describe_going_on(self.study, "this space")
        saving = " The file does not have it yet." if describe_saving(space, self.path) else ""
        self._tell(f"{text} {how}{saving}")

    @in_turn()
    def load(self) -> None:
        """Read the file, the study's space or a preset; undo brings the rows back."""
        source = str(self._source.value) if self._is_built else _FILE
        if source == _FILE:
            space = SearchSpace.load(self.path)
        elif source == _STUDY and self.study is not None:
            space = study_space(self.study)
        else:
            space = SearchSpace.preset(source.removeprefix("preset "))
        self._set_state(self.state.load(space))

    def _set_state(self, state: EditorState) -> None:
        self.state = state
        self._tell("")

    def _tell(self, message: str) -> None:
        """Bring the page to the state, with a message in place of the status."""
        self._message = message
        self._show()

    def _focus(self, row: int, part: str) -> None:
        """Put the keyboard's focus on a control of a row; without rows, on `Add`."""
        if self._is_built:
            field = f".{control_of(row, part)}"
            self._page.focus_on(f"{field} input, button{field}" if self.state.rows else ".hpo-add")

    def _show(self) -> None:
        """Bring the page to the state."""
        if not self._is_built:
            return

        self._show_rows()
        self._undo.disabled = not self.state.past
        self._redo.disabled = not self.state.future
        space = self.state.reading.space
        self._save.disabled = space is None
        if self.study is not None:
            self._continue.disabled = space is None or is_space_of(self.study, space)
        self._status.value = f"<div role='status' aria-live='polite'>{self._status_html()}</div>"
        self._preview.value = self.preview()
        self.keep_last()

    def _show_rows(self) -> None:
        # Views of removed rows are kept for rows that are added later.
        rows = self.state.rows
        while len(self._rows) < len(rows):
            self._rows.append(RowView(len(self._rows), self.edit, self.act))

        messages: list[dict[str, str]] = [{} for _ in rows]
        for (i, field), text in self.state.reading.messages.items():
            messages[i][field] = text

        views = self._rows[: len(rows)]
        for view, row, mistakes in zip(views, rows, messages, strict=True):
            view.show(row, mistakes)

        boxes = tuple(view.box for view in views)
        # A list that is set again takes the keyboard's focus away.
        if boxes != self._list.children:
            self._list.children = boxes

    def _status_html(self) -> str:
        if self._message:
            return escape(self._message)

        reading = self.state.reading
        if reading.space is None:
            n = len(reading.messages) + len(reading.others)
            others = "; ".join(reading.others)
            return escape(f"⚠ {n} to mend before this can be saved. {others}")

        saving = describe_saving(reading.space, self.path)
        if not saving:
            return escape(f"✓ Valid and saved in {self.path.name}.")
        return saving if saving.startswith("⚠") else "● Valid, not saved yet."
