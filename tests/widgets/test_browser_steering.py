"""A study is steered from the page: held values, another space, more workers; in Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpo_lib.study.catalog import open_study
from hpo_lib.trials import incumbent, recorded_trials, study_space
from tests.toys import TOY_SPACE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RUN = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from hpo_lib import BackgroundStudy, SpaceEditor, StudyMonitor, SurrogateExplorer, open_study
from tests.toys import TOY_SPACE, bowl
search = BackgroundStudy(bowl, TOY_SPACE, "bayes", 16, name="toy", storage="toy.db", workers=1)
StudyMonitor(search)"""
EXPLORE = "SurrogateExplorer(open_study('toy', 'toy.db'))"
EDIT = "SpaceEditor(TOY_SPACE, study=open_study('toy', 'toy.db'))"


def test_a_study_is_steered_from_the_page(lab, page, tmp_path):
    from playwright.sync_api import expect  # most tests need no browser

    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**cell, "id": f"c{i}", "source": s} for i, s in enumerate((RUN, EXPLORE, EDIT))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    folder = tmp_path / "notebooks"
    (folder / "steer.ipynb").write_text(json.dumps(notebook))
    panels = page.locator(".hpo-panel")

    def shoot(name: str, panel: int) -> None:
        panels.nth(panel).evaluate("element => element.scrollIntoView({block: 'start'})")
        hidden = ".Toastify {display: none}"
        page.screenshot(path=str(tmp_path / "results" / f"{name}.png"), style=hidden)

    def press(name: str):
        button = page.get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        return button

    def run_next_cell(n: int) -> None:
        page.locator(".jp-NotebookPanel .jp-Cell").nth(n).click(position={"x": 200, "y": 10})
        page.keyboard.press("Shift+Enter")

    def finishes(n_trials: int) -> None:
        monitor = panels.first.get_by_role("status").first
        expect(monitor).to_contain_text(f"finished · {n_trials} of {n_trials}", timeout=120_000)

    def go_on_to(n_trials: int) -> None:
        trials = page.get_by_label("trials", exact=True).first
        trials.fill(str(n_trials))
        trials.press("Tab")
        press("Start")
        finishes(n_trials)

    # More workers are typed into the monitor; what is no number and no address is refused there.
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(lab.format("steer.ipynb"), timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    run_next_cell(0)
    workers = page.get_by_label("workers", exact=True).first
    workers.wait_for(timeout=120_000)
    workers.fill("two")
    workers.press("Enter")
    alert = panels.first.get_by_role("alert")
    expect(alert).to_contain_text("the workers stay as they were", timeout=60_000)
    shoot("1_workers", 0)
    workers.fill("2")
    workers.press("Enter")
    expect(alert).to_have_count(0, timeout=60_000)
    press("Start")
    finishes(16)

    # A lock holds a value: the best with it is shown, and the study goes on with it.
    run_next_cell(1)
    panels.nth(1).get_by_text("Expected here").wait_for(timeout=120_000)
    slider = page.locator(".widget-hslider", has_text="depth")
    lock = press("Hold depth")
    expect(lock).to_have_attribute("aria-pressed", "true")
    handle = slider.locator(".noUi-handle")
    expect(handle).to_have_attribute("aria-disabled", "true")
    handle.focus()
    page.keyboard.press("ArrowLeft")
    press("Go to incumbent")
    best = incumbent(open_study("toy", folder / "toy.db"))
    assert best is not None
    held = best.configuration["depth"]
    status = panels.nth(1).get_by_text(f"Trial {best.number} is the best with depth = {held}.")
    status.wait_for(timeout=60_000)
    shoot("2_locked", 1)
    press("Search with these held")
    panels.nth(1).get_by_text("Start it in its monitor").wait_for(timeout=60_000)
    shoot("3_slice", 1)
    assert study_space(open_study("toy", folder / "toy.db")) == TOY_SPACE.fix(depth=held)
    go_on_to(18)
    trials = recorded_trials(open_study("toy", folder / "toy.db"))
    assert {trial.configuration["depth"] for trial in trials[16:]} == {held}

    # The editor says what continuing changes, and the study goes on in the edited space.
    run_next_cell(2)
    editor = panels.nth(2)
    editor.get_by_text("Valid, not saved yet").wait_for(timeout=120_000)
    page.get_by_label("low, row 2", exact=True).fill("0.001")
    lock = press("Hold row 1")
    expect(lock).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("fixed, row 1", exact=True)).to_have_value("adamw")
    expect(editor).to_contain_text("+ lr: {type: float, low: 0.001", timeout=60_000)
    expect(editor).to_contain_text("+ optimizer: {type: choice, options: [adamw, sgd], fixed: ")
    shoot("4_editor", 2)
    press("Hold row 1")
    expect(page.get_by_label("fixed, row 1", exact=True)).to_have_value("")
    press("Continue with this space")
    said = editor.get_by_role("status")
    expect(said).to_contain_text("Study 'toy' goes on in this space", timeout=60_000)
    expect(page.get_by_role("button", name="Continue with this space")).to_be_disabled()
    shoot("5_continued", 2)
    go_on_to(20)
    study = open_study("toy", folder / "toy.db")
    assert study_space(study)["lr"].low == 0.001
    assert study_space(study)["depth"].fixed is None
    assert len(study.trials) == 20
