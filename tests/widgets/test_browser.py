"""The notebooks as a person opens them: JupyterLab in headless Chromium."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_notebook_runs_in_jupyterlab(lab, page, tmp_path):
    name = "01_data_preparation"
    page.goto(lab.format(f"{name}.ipynb"), timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)  # the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    notebook = page.locator(".jp-NotebookPanel")
    notebook.locator(".jp-OutputArea-output img").nth(2).wait_for(timeout=180_000)
    page.screenshot(path=str(tmp_path / f"{name}.png"))
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert (tmp_path / "run" / "figures").is_dir()
