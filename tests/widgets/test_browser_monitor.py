"""A study run, watched, stopped and questioned from the page: JupyterLab in headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpo_lib.study.catalog import open_study
from tests.toys import Waiting, record_of
from tests.widgets.saving import save

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "<img src=x onerror=alert(1)>"
WATCH = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from hpo_lib import BackgroundStudy, SearchSpace, StudyMonitor, SurrogateExplorer, open_study
from tests.toys import TOY_SPACE, Waiting
evil = {EVIL!r}
text = TOY_SPACE.to_yaml() + f"'{{evil}}': {{{{type: float, low: 0.0, high: 1.0}}}}"
space = SearchSpace.from_yaml(text)
waiting = Waiting("steps", fail_at=3)
search = BackgroundStudy(waiting, space, "random", 8, name=evil, storage="toy.db")
StudyMonitor(search)"""
OTHER = """import ipywidgets
other, seen = ipywidgets.IntSlider(description="other"), ipywidgets.Label()
other.observe(lambda change: setattr(seen, "value", f"seen {change['new']}"), "value")
ipywidgets.VBox([other, seen])"""
QUESTION = "SurrogateExplorer(open_study(evil, 'toy.db'))"


def test_a_study_is_run_stopped_and_questioned_from_the_page(lab, page, tmp_path):
    from playwright.sync_api import expect  # most tests need no browser

    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**cell, "id": f"c{i}", "source": s} for i, s in enumerate((OTHER, WATCH, QUESTION))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    folder = tmp_path / "notebooks"
    (folder / "monitor.ipynb").write_text(json.dumps(notebook))
    (folder / "steps").mkdir()
    steps = Waiting(str(folder / "steps"))

    def shoot(name: str) -> None:
        hidden = ".Toastify {display: none}"
        page.screenshot(path=str(tmp_path / "results" / f"{name}.png"), style=hidden)

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).click()

    def slide(name: str, key: str, handle: int = 0, times: int = 1) -> None:
        slider = page.locator(".widget-hslider", has_text=name).locator(".noUi-handle")
        slider.nth(handle).focus()
        for _ in range(times):
            page.keyboard.press(key)

    def says(text: str) -> None:
        expect(status).to_contain_text(text, timeout=60_000)

    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.type), dialog.accept()))
    page.goto(lab.format("monitor.ipynb"), timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    status = page.locator(".jp-NotebookPanel").get_by_role("status").first
    says(f"{EVIL} · not started")
    shoot("1_not_started")

    # the second trial is held up by the test, and another widget answers meanwhile
    steps.let(1)
    press("Start")
    says("1 of 8 trials have ended (1 completed, 1 running)")
    slide("other", "ArrowRight", times=3)
    page.get_by_text("seen 3", exact=True).wait_for()
    says("running · 1 of 8")
    shoot("2_running")
    save(page, folder / "monitor.ipynb", "widget-view")

    # the page is closed and opened again; the study has gone on
    page.goto("about:blank")
    steps.let(4)
    page.goto(lab.format("monitor.ipynb"), timeout=120_000)
    says("running · 4 of 8 trials have ended (3 completed, 1 failed, 1 running)")
    shoot("3_reopened")
    slide("other", "ArrowLeft")
    page.get_by_text("seen 2", exact=True).wait_for()

    # pause, stop, resume, with the keyboard alone
    page.get_by_role("button", name="Pause", exact=True).focus()
    page.keyboard.press("Enter")
    says("paused")
    steps.let(5)
    says("5 of 8")
    page.get_by_role("button", name="Stop", exact=True).focus()
    page.keyboard.press("Enter")
    says("stopped · 5 of 8")
    shoot("4_stopped")
    steps.let(20)
    press("Resume")
    says("finished · 8 of 8")
    failures = page.locator(".hpo-failed").get_by_text(f"{EVIL} went wrong")
    failures.wait_for()
    page.get_by_text("8 of 8 ended trials within the ranges").wait_for()
    shoot("5_finished")

    # brush by keyboard and by mouse, and ask for a trial by a click
    trials = page.locator(".hpo-trials")
    highest = trials.get_by_role("slider", name="value, highest")
    highest.press("End")
    for _ in range(9):
        highest.press("PageDown")
    expect(trials.get_by_role("status")).not_to_contain_text("8 of 8")
    highest.press("Escape")
    expect(trials.get_by_role("status")).to_contain_text("8 of 8")
    box = trials.get_by_role("group", name="depth").bounding_box()
    assert box is not None
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(x, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(trials.get_by_role("status")).not_to_contain_text("8 of 8")
    press("Show all")
    trials.get_by_label("trial", exact=True).fill("2")
    trials.get_by_label("trial", exact=True).press("Tab")
    details = trials.get_by_role("region", name="the chosen trial")
    expect(details).to_contain_text("Trial 2:")
    scatter = trials.locator(".hpo-scatter")
    dots = scatter.bounding_box()
    assert dots is not None
    # The lowest dot, between the margins of the figure.
    best = open_study(EVIL, folder / "toy.db").best_trial
    at = 64 + (dots["width"] - 94) * best.number / 7
    scatter.click(position={"x": at, "y": dots["height"] - 40})
    expect(details).to_contain_text(f"Trial {best.number}: completed")
    expect(details).to_contain_text("depth")
    page.locator(".hpo-failed").scroll_into_view_if_needed()
    shoot("6_brushed")
    press("Show all")
    page.get_by_text("8 of 8 ended trials within the ranges").wait_for()

    # question the surrogate, queue what it shows, and go on
    page.locator(".jp-NotebookPanel .jp-Cell").last.click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text("Expected here").wait_for(timeout=60_000)
    page.get_by_text("Expected here").scroll_into_view_if_needed()
    shoot("7_explorer")
    expected = page.get_by_text("Expected here").inner_text()
    page.get_by_label("Vertical axis").select_option("depth")
    slide("lr", "ArrowRight", handle=-1, times=5)
    expect(page.get_by_text("Expected here")).not_to_have_text(expected)
    press("Queue as next trial")
    page.get_by_text("Queued: it is the first trial when the study goes on.").wait_for()
    shoot("8_queued")
    (queued,) = [t for t in open_study(EVIL, folder / "toy.db").trials if t.number == 8]
    page.get_by_label("trials", exact=True).fill("9")
    page.get_by_label("trials", exact=True).press("Tab")
    press("Start")
    says("finished · 9 of 9")
    page.get_by_text("9 of 9 ended trials within the ranges").wait_for()
    shoot("9_gone_on")
    ran = open_study(EVIL, folder / "toy.db").trials[8]
    assert ran.params == queued.system_attrs["fixed_params"]
    assert record_of(ran).status == "completed"
    assert page.locator("img[src=x]").count() == 0
    assert "alert" not in dialogs
