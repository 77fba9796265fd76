"""Show one row of the space editor: a cell for each field, buttons, and the row's mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from ipywidgets import HTML, Button, Dropdown, GridBox, HBox, Text, VBox

from hpo_lib.widgets.base import make_lock
from hpo_lib.widgets.editor_state import CELLS, SCALES, Row

OnEdit = Callable[[int, str, str], None]
"""Takes the number of a row, a field and its new text."""

OnAction = Callable[[int, str], None]
"""Takes the number of a row, and `hold`, `release`, `up`, `down`, `copy` or `remove`."""

# The columns, as `page.css` lays them out.
COLUMNS = ("name", "type", "low", "high", "step", "scale", "default", "fixed", "when")
# The options of a choice stand where a range has these.
_RANGE_FIELDS = ("low", "high", "step", "scale")
_CELL_ORDER = ("name", "type", "options", *_RANGE_FIELDS, "default", "fixed", "when")

# Fields that are chosen rather than typed, with their options.
DROPDOWNS = {"type": list(CELLS), "scale": list(SCALES)}
# Shown in an empty cell: what that means, or what belongs there.
_HINTS = {
    "name": "name",
    "low": "low",
    "high": "high",
    "options": "options: a, b, c",
    "step": "any",
    "default": "middle",
    "fixed": "free",
    "when": "always",
}
# `page.css` has their glyphs.
_BUTTONS = {
    "up": "Move row {} up",
    "down": "Move row {} down",
    "copy": "Duplicate row {}",
    "remove": "Remove row {}",
}


def control_of(i: int, part: str) -> str:
    """Return the CSS class of a control of a row.

    Args:
        i: number of the row, from 0.
        part: a field of `Row`, or what a button does.
    """
    return f"hpo-{part}-{i}"


class RowView:
    """Hold the widgets of the i-th row, whichever hyperparameter stands there.

    Args:
        i: number of the row, from 0.
        on_edit: called when the text of a cell changes.
        on_action: called when a button is pressed.
    """

    def __init__(self, i: int, on_edit: OnEdit, on_action: OnAction) -> None:
        self.cells = {field: _make_cell(i, field, on_edit) for field in _CELL_ORDER}
        self.cells["options"].add_class("hpo-wide")
        self._texts: dict[str, str] = {}
        self._is_held = False

        self.lock = make_lock(f"Hold row {i + 1}", locked=False)
        self.lock.add_class(control_of(i, "lock"))
        self.lock.observe(partial(self._on_lock, i, on_action), "value")
        buttons = [_make_button(i, action, on_action) for action in _BUTTONS]
        tools = HBox([self.lock, *buttons])
        grid = row_grid([*self.cells.values(), tools])
        self.message = HTML()
        self.box = VBox([grid, self.message], layout={"overflow": "visible"})

    def show(self, row: Row, messages: dict[str, str]) -> None:
        """Bring the widgets to a row; newer text that waits for its turn stays.

        Args:
            row: the hyperparameter that stands here now.
            messages: its mistakes, by field.
        """
        hidden = _RANGE_FIELDS if row.type == "choice" else ("options",)
        for field, cell in self.cells.items():
            text = getattr(row, field)
            # A cell is only set where the state has moved: it may hold newer text by now.
            if self._texts.get(field) != text:
                self._texts[field] = text
                cell.value = text

            cell.layout.display = "none" if field in hidden else None
            if field in messages:
                cell.add_class("hpo-wrong")
            else:
                cell.remove_class("hpo-wrong")

        self._is_held = row.is_held
        self.lock.value = row.is_held
        text = "<br>".join(f"⚠ {escape(message)}" for message in messages.values())
        self.message.value = f"<div class='hpo-problem'>{text}</div>" if text else ""
        self.message.layout.display = None if text else "none"

    def _on_lock(
        self,
        i: int,
        on_action: OnAction,
        change: dict[str, Any],
    ) -> None:
        # A lock that shows a new state reports a change, which nobody made.
        if change["new"] != self._is_held:
            on_action(i, "hold" if change["new"] else "release")


def _make_cell(i: int, field: str, on_edit: OnEdit) -> Any:
    settings: dict[str, Any] = {
        "description": f"{field}, row {i + 1}",
        "layout": {"width": "auto"},
    }
    if field in DROPDOWNS:
        cell = Dropdown(options=DROPDOWNS[field], **settings)
    else:
        cell = Text(placeholder=_HINTS[field], **settings)

    cell.add_class("hpo-cell")
    cell.add_class(control_of(i, field))
    cell.observe(lambda change: on_edit(i, field, change["new"]), "value")
    return cell


def _make_button(i: int, action: str, on_action: OnAction) -> Button:
    layout = {"width": "27px", "padding": "0", "margin": "0 1px"}
    tooltip = _BUTTONS[action].format(i + 1)
    button = Button(icon="none", tooltip=tooltip, layout=layout)
    button.add_class(f"hpo-{action}")
    button.add_class(control_of(i, action))
    button.on_click(lambda _: on_action(i, action))
    return button


def row_grid(children: list[Any]) -> GridBox:
    """Return widgets side by side in the columns of the editor."""
    grid = GridBox(children)
    grid.add_class("hpo-row")
    return grid
