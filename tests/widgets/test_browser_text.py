"""Text that holds a formula, as JupyterLab shows it: headless Chromium."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME = r"$lr$ \(x\) \begin{a}"
CODE = f"""import ipywidgets
from hpo_lib.widgets.front_end import escape_mathjax
name = {NAME!r}
slider = ipywidgets.SelectionSlider(options=[("one", 1)], description=escape_mathjax(name))
label = ipywidgets.Label(escape_mathjax(f"label {{name}}"))
ipywidgets.VBox([slider, label, ipywidgets.Label("typeset $y$")])"""


def test_names_are_shown_as_they_are(lab, page, tmp_path):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": CODE}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": kernel}
    notebook |= {"nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks" / "text.ipynb").write_text(json.dumps(notebook))

    page.goto(lab.format("text.ipynb"), timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.keyboard.press("Shift+Enter")

    # MathJax has done its work once the text that holds a formula on purpose is typeset.
    output = page.locator(".jp-OutputArea-output")
    output.locator(".widget-label mjx-container").wait_for(timeout=60_000)
    assert output.locator("mjx-container").count() == 1
    labels = output.locator(".widget-label").all_text_contents()
    assert labels[:2] == [NAME, f"label {NAME}"]
