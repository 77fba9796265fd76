"""A trial explained, copied and annotated from the page: JupyterLab in headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from hpo_lib.space.yaml_io import read_yaml
from hpo_lib.study.catalog import open_study, trials_frame
from hpo_lib.trials import Note, read_notes, recorded_trials

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CODE = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from hpo_lib import StudyMonitor, run_study
from tests.toys import TOY_SPACE, bowl
run_study(bowl, TOY_SPACE, "sobol", 12, name="toy", storage="toy.db", workers=0, progress=False)
StudyMonitor("toy", "toy.db")"""


def test_a_trial_is_explained_copied_annotated_and_saved(lab, page, tmp_path):
    from playwright.sync_api import expect  # most tests need no browser

    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": CODE}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": kernel}
    notebook |= {"nbformat": 4, "nbformat_minor": 5}
    folder = tmp_path / "notebooks"
    (folder / "actions.ipynb").write_text(json.dumps(notebook))

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(lab.format("actions.ipynb"), timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.keyboard.press("Shift+Enter")
    panel = page.locator(".hpo-panel")
    panel.get_by_text("12 of 12 ended trials within the ranges").wait_for(timeout=120_000)

    def press(name: str) -> None:
        """With the keyboard alone."""
        panel.get_by_role("button", name=name, exact=True).focus()
        page.keyboard.press("Enter")

    panel.get_by_label("trial", exact=True).fill("3")
    panel.get_by_label("trial", exact=True).press("Tab")
    details = panel.get_by_role("region", name="the chosen trial")
    expect(details).to_contain_text("Trial 3:")
    details.get_by_text("log", exact=True).click()
    expect(details).to_contain_text("started 20")

    press("Explain")
    expect(panel).to_contain_text("From the default to trial 3, the surrogate predicts a loss of")
    expect(panel.get_by_role("columnheader", name="predicted")).to_be_visible()
    panel.get_by_role("button", name="Explain").scroll_into_view_if_needed()
    page.screenshot(path=str(tmp_path / "results" / "explained.png"))

    press("Copy YAML")
    expect(panel).to_contain_text("Trial 3 copied:")
    copied = page.evaluate("navigator.clipboard.readText()")
    study = open_study("toy", folder / "toy.db")
    assert read_yaml(copied)[0] == recorded_trials(study)[3].configuration

    panel.get_by_label("Note", exact=True).fill("<b>odd</b>")
    panel.get_by_label("Tags", exact=True).fill("check, lr")
    press("Write note")
    expect(panel).to_contain_text("Written to trial 3.")
    assert read_notes(study)[3] == Note("<b>odd</b>", ("check", "lr"))

    with page.expect_download() as download:
        press("Save CSV")
    saved = pd.read_csv(download.value.path())
    assert download.value.suggested_filename == "toy.csv"
    assert saved["number"].tolist() == trials_frame(study)["number"].tolist()
