"""How the widgets look, sound and are reached by the keyboard: JupyterLab in headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.widgets.saving import save

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CODE = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from hpo_lib import BackgroundStudy, SearchSpace, SpaceEditor, StudyComparison, StudyMonitor
from hpo_lib import SurrogateExplorer, run_study
from tests.toys import TOY_SPACE, bowl
settings = {{"storage": "toy.db", "workers": 0, "progress": False}}
study = run_study(bowl, TOY_SPACE, "random", 12, name="toy", **settings)
SpaceEditor(SearchSpace.preset("small"), "space.yaml", study=study)"""
COMPARISON = """for seed in range(4):
    run_study(bowl, TOY_SPACE, "sobol", 8, name=f"sobol-{seed}", seed=seed, **settings)
held = TOY_SPACE.fix(depth=8)
run_study(bowl, held, "random", 8, name="<b>held</b>", **settings)
StudyComparison("toy.db", ["toy", "sobol"])"""
WIDGETS = ("editor", "monitor", "explorer", "comparison")


@pytest.fixture
def notebook(lab, page, tmp_path) -> str:
    """The address of a notebook with all widgets, which has run."""
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    monitor = "BackgroundStudy(bowl, TOY_SPACE, 'random', 12, name='toy', **settings)"
    widgets = (f"StudyMonitor({monitor})", "SurrogateExplorer(study)", COMPARISON)
    sources = (CODE, *widgets)
    cells = [{**cell, "id": f"c{i}", "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks" / "looks.ipynb").write_text(json.dumps(content))

    page.set_viewport_size({"width": 1366, "height": 768})
    address = lab.format("looks.ipynb")
    page.goto(address, timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    for _ in sources:
        page.keyboard.press("Shift+Enter")
    page.get_by_text("Expected here").wait_for(timeout=120_000)
    page.locator(".hpo-table").first.wait_for(timeout=120_000)
    page.locator(".jp-Cell").nth(1).scroll_into_view_if_needed()
    page.get_by_text("12 of 12 ended trials within the ranges").wait_for(timeout=60_000)
    return address


def test_widgets_are_seen_heard_and_reached_by_the_keyboard(notebook, page, tmp_path):
    check_both_themes(page, tmp_path / "results")
    check_sharpness(page)
    check_keyboard(page)
    check_comparison(page)
    check_narrow_window(page)
    check_reopening(page, tmp_path)


def check_both_themes(page: Any, pictures: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe  # most tests need no browser
    from playwright.sync_api import expect

    for name in ("Hold row 3", "Hold depth"):
        lock = page.get_by_role("button", name=name, exact=True)
        expect(lock).to_have_attribute("aria-pressed", "false")
        lock.focus()
        page.keyboard.press("Enter")
        expect(lock).to_have_attribute("aria-pressed", "true")

    for theme in ("Light", "Dark"):
        for name in ("Settings", "Theme", f"JupyterLab {theme}"):
            page.locator(".lm-MenuBar, .lm-Menu").get_by_text(name, exact=True).click()
        page.locator(f"body[data-jp-theme-light='{str(theme == 'Light').lower()}']").wait_for(
            state="attached"
        )
        for i, name in enumerate(WIDGETS):
            panel = page.locator(".hpo-panel").nth(i)
            panel.evaluate("element => element.scrollIntoView({block: 'start'})")
            page.screenshot(path=str(pictures / f"{name}_{theme}.png"))

        # With "best practices" of whole pages axe would judge JupyterLab.
        results = Axe().run(page, ".hpo-panel", {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
        violations = results.response["violations"]
        shown = [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations]
        assert shown == []

    handles = page.locator(".hpo-panel .noUi-handle")
    names = [handle.get_attribute("aria-label") for handle in handles.all()]
    assert names == ["optimizer", "lr", "momentum", "depth"]


def check_sharpness(page: Any) -> None:
    """Every figure has a dot for each dot of the screen, and is seen without scrolling."""
    for figure in page.locator(".hpo-panel img.hpo-figure").all():
        natural, shown = figure.evaluate("i => [i.naturalWidth, i.clientWidth]")
        assert natural == shown * page.evaluate("devicePixelRatio")
        bottom = "i => i.getBoundingClientRect().bottom"
        top = "i => i.closest('.hpo-panel').getBoundingClientRect().top"
        assert figure.evaluate(bottom) - figure.evaluate(top) < 600


def check_keyboard(page: Any) -> None:
    from playwright.sync_api import expect  # most tests need no browser

    editor = page.locator(".hpo-editor")
    n_rows = len(editor.locator(".hpo-row").all()) - 1

    def press(name: str) -> None:
        editor.get_by_role("button", name=name, exact=True).press("Enter")

    def focused(name: str) -> None:
        expect(editor.locator(":focus")).to_have_accessible_name(name, timeout=60_000)

    press("Add")
    focused(f"name, row {n_rows + 1}")
    page.keyboard.type("size")
    expect(page.get_by_label(f"name, row {n_rows + 1}", exact=True)).to_have_value("size")
    page.wait_for_timeout(2000)  # the last letters are on their way to the kernel
    press(f"Move row {n_rows + 1} up")
    focused(f"Move row {n_rows} up")
    page.keyboard.press("Enter")
    focused(f"Move row {n_rows - 1} up")
    expect(page.get_by_label(f"name, row {n_rows - 1}", exact=True)).to_have_value("size")
    press("Move row 1 up")
    page.wait_for_timeout(2000)  # nothing changes, but the answer of the kernel moves the focus
    focused("Move row 1 up")
    press("Duplicate row 2")
    focused("name, row 3")
    press(f"Remove row {n_rows + 2}")
    focused(f"Remove row {n_rows + 1}")


def check_comparison(page: Any) -> None:
    """Studies are ticked by the keyboard, and their names are only text."""
    from playwright.sync_api import expect  # most tests need no browser

    panel = page.locator(".hpo-panel").nth(3)

    def says(text: str) -> None:
        expect(panel).to_contain_text(text, timeout=60_000)

    says("toy: 1 seed, 8 trials; sobol: 4 seeds, 8 trials")
    says("CAN'T SAY")
    held = panel.get_by_role("checkbox", name="<b>held</b>", exact=True)
    held.focus()
    page.keyboard.press("Space")
    says("<b>held</b>: 1 seed, 8 trials")
    says("fixed: 8")
    expect(panel.get_by_role("columnheader", name="<b>held</b>")).to_be_visible()
    expect(held).to_be_focused()

    panel.get_by_label("Compare at").select_option("their own ends")
    says("toy: 1 seed, 12 trials")
    panel.get_by_role("button", name="Read again").focus()
    page.keyboard.press("Enter")
    says("toy: 1 seed, 12 trials")


def check_narrow_window(page: Any) -> None:
    page.set_viewport_size({"width": 700, "height": 768})
    for field in ("name", "type", "low", "step", "when"):
        box = page.get_by_label(f"{field}, row 2", exact=True).bounding_box()
        assert box is not None
        assert box["width"] > 70


def check_reopening(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect  # most tests need no browser

    static = page.locator(".hpo-static")
    expect(static).to_have_count(len(WIDGETS))
    for one in static.all():
        expect(one).to_be_hidden()
    page.get_by_label("Vertical axis").select_option("depth")
    page.wait_for_timeout(2500)  # for the figures at rest
    path = tmp_path / "notebooks" / "looks.ipynb"
    save(page, path, "hpo-static")
    outputs = [cell["outputs"] for cell in json.loads(path.read_text())["cells"]]
    assert [len(several) for several in outputs[:4]] == [2, 2, 2, 2]

    page.evaluate(
        """async () => {
          const headers = {'X-XSRFToken': document.cookie.match('_xsrf=([^;]*)')[1]};
          for (const {id} of await (await fetch('/api/sessions')).json())
            await fetch(`/api/sessions/${id}`, {method: 'DELETE', headers});
        }"""
    )
    page.reload()
    static.nth(2).locator("img").wait_for(timeout=120_000)
    page.get_by_text("model not found").first.wait_for(state="attached", timeout=30_000)
    for error in page.get_by_text("model not found").all():
        expect(error).to_be_hidden()
    for one in static.all():
        one.scroll_into_view_if_needed()
        expect(one).to_be_visible()
    page.screenshot(path=str(tmp_path / "results" / "without_kernel.png"))
