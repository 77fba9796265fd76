"""The space editor as a person uses it: JupyterLab in headless Chromium."""

from __future__ import annotations

import json

import pytest

from hpo_lib.space.search_space import SearchSpace
from tests.space.test_space import EXAMPLE
from tests.widgets.saving import save

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CODE = """from hpo_lib.widgets.space_editor import SpaceEditor
editor = SpaceEditor(path="space.yaml", seconds_per_trial=4.2)
editor"""
ROWS = [
    {"name": "optimizer", "type": "choice", "options": "adamw, sgd"},
    {"name": "lr", "low": "0.0001", "high": "0.1", "scale": "log", "default": "0.003"},
    {"name": "momentum", "low": "0.5", "high": "0.99", "default": "0.9", "when": "optimizer: sgd"},
    {"name": "n_filters", "type": "int", "low": "8", "high": "24", "step": "4", "default": "16"},
    {
        "name": "activation",
        "type": "choice",
        "options": "relu, leaky_relu, elu, selu, tanh, sigmoid",
    },
    {"name": "stride", "type": "int", "fixed": "1"},
]
# row, field, what is typed, what is said, what mends it
MISTAKES = [
    (2, "low", "1e-", "low must be a finite number, got '1e-'", "0.0001"),
    (2, "low", "1", "high must be above low = 1.0, got 0.1", "0.0001"),
    (2, "low", "0", "log needs low above 0, got low = 0.0", "0.0001"),
    (2, "default", "7", "default must lie between low = 0.0001 and high = 0.1, got 7.0", "0.003"),
    (2, "name", "stride", "name must differ, got 'stride'; row 2 has it already", "lr"),
    (2, "name", "", "name is required, got nothing", "lr"),
    (4, "step", "5", "the nearest valid high is 23", "4"),
    (5, "options", "relu, relu", "options must all differ", ROWS[4]["options"]),
    (5, "options", "[", "options must be YAML", ROWS[4]["options"]),
    (3, "when", "optimiser: sgd", "got optimiser, an unknown parameter", "optimizer: sgd"),
    (3, "when", "stride: 1", "got stride, a later parameter", "optimizer: sgd"),
    (6, "fixed", "1.5", "fixed must be a whole number, got 1.5", "1"),
]


def test_a_space_is_built_from_nothing(lab, page, tmp_path):
    from playwright.sync_api import expect  # most tests need no browser

    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": CODE}
    notebook["cells"] = [cell | {"execution_count": None}]
    notebook["metadata"] = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    folder = tmp_path / "notebooks"
    (folder / "editor.ipynb").write_text(json.dumps(notebook))
    pictures = tmp_path / "results"

    def shoot(name: str) -> None:
        page.screenshot(path=str(pictures / f"{name}.png"), style=".Toastify {display: none}")

    def at(field: str, row: int):
        return page.get_by_label(f"{field}, row {row}", exact=True)

    def put(row: int, field: str, text: str) -> None:
        if field in ("type", "scale"):
            at(field, row).select_option(text)
        else:
            at(field, row).fill(text)

    def press(name: str, times: int = 1) -> None:
        for _ in range(times):
            editor.get_by_role("button", name=name, exact=True).click()

    page.goto(lab.format("editor.ipynb"), timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.keyboard.press("Shift+Enter")
    editor = page.locator(".hpo-editor")
    status = editor.get_by_role("status")
    status.wait_for(timeout=120_000)
    shoot("1_empty")
    for i, row in enumerate(ROWS, 1):
        press("Add")
        at("name", i).wait_for()
        for field, text in row.items():
            put(i, field, text)
    status.get_by_text("Valid, not saved yet").wait_for()
    shoot("2_built")
    for n, (row, field, typed, said, mended) in enumerate(MISTAKES):
        put(row, field, typed)
        editor.get_by_text(said).wait_for()
        expect(editor.get_by_role("button", name="Save", exact=True)).to_be_disabled()
        expect(at(field, row)).to_have_value(typed)
        if n in (0, 4):
            shoot(f"3_mistake_{n}")
        put(row, field, mended)
        status.get_by_text("Valid, not saved yet").wait_for()

    # three steps back and forward, with the keyboard alone
    put(6, "fixed", "2")
    editor.get_by_role("button", name="Duplicate row 6").focus()
    page.keyboard.press("Enter")
    at("name", 7).wait_for()
    put(7, "name", "<img src=x onerror=alert(1)>")
    editor.get_by_role("row", name="<img src=x onerror=alert(1)>").wait_for()
    expect(editor.locator("img")).to_have_count(0)
    shoot("4_untrusted")
    undo = editor.get_by_role("button", name="Undo", exact=True)
    undo.focus()
    for _ in range(3):
        page.keyboard.press("Enter")
    at("name", 7).wait_for(state="detached")
    expect(at("fixed", 6)).to_have_value("1")
    press("Redo", 3)
    at("name", 7).wait_for()
    press("Undo", 3)
    at("name", 7).wait_for(state="detached")
    shoot("5_undone")
    press("Save")
    status.get_by_text("Valid and saved").wait_for()
    shoot("6_saved")
    assert (folder / "space.yaml").read_text() == EXAMPLE
    save(page, folder / "editor.ipynb", "widget-view")

    page.reload()
    page.locator(".hpo-editor").get_by_role("status").wait_for(timeout=120_000)
    at("name", 6).wait_for()
    shoot("7_reloaded")
    for i, row in enumerate(ROWS, 1):
        for field, text in row.items():
            expect(at(field, i)).to_have_value(text)
    assert SearchSpace.load(folder / "space.yaml").to_yaml() == EXAMPLE
