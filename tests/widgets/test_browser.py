"""The notebooks as a person opens them: JupyterLab in headless Chromium."""

from __future__ import annotations

import pytest

from hpo_lib.training.config import DataConfig

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "last", "written"),
    [
        ("01_data_preparation", "img >> nth=2", "figures/images.png"),
        ("03_search_space", "button:has-text('Save') >> nth=0", "space.yaml"),
    ],
)
def test_a_notebook_runs_in_jupyterlab(lab, page, name, last, written, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    if name != "01_data_preparation":  # which writes this
        DataConfig("digits", n_train=200).save(run / "data.json")

    page.goto(lab.format(f"{name}.ipynb"), timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)  # the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    notebook = page.locator(".jp-NotebookPanel")
    notebook.locator(f".jp-OutputArea-output {last}").wait_for(timeout=180_000)
    page.screenshot(path=str(tmp_path / f"{name}.png"))
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert (run / written).stat().st_size > 0
