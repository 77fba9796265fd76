"""The notebooks themselves, run once in number order with the smallest values."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder
from hpo_lib.runner.run import run_notebooks

NAMES = [notebook.name for notebook in find_notebooks(notebooks_folder())]

# one process runs them, once
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return run_notebooks(profile="smoke", into=tmp_path_factory.mktemp("run")).folder


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_to_its_end(folder, name):
    entry = json.loads((folder / "run.json").read_text())["notebooks"][name]
    assert entry["status"] == "ok", entry
    copy = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    assert copy.metadata.papermill.exception is None
    outputs = [out for cell in copy.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs), "a figure"


def test_a_notebook_that_reads_images_can_resize_them():
    reading = [
        notebook
        for notebook in find_notebooks(notebooks_folder())
        if "DataConfig(" in notebook.path.read_text() and "data_root" in notebook.parameters
    ]
    assert len(reading) >= 6
    for notebook in reading:
        assert "image_size" in notebook.parameters, notebook.name
        assert "image_size=image_size or None" in notebook.path.read_text(), notebook.name


def test_what_the_search_found_is_strict_json(folder):
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    best = json.loads((folder / "best.json").read_text(), parse_constant=refuse)
    assert best["retrained"][0]["n"] == 2


@pytest.mark.skipif(not NAMES, reason="no notebooks")
def test_the_report_shows_every_notebook(folder):
    page = (folder / "report.html").read_text()
    assert [name for name in NAMES if f'<section class="notebook" id="{name}">' not in page] == []
    assert "Error displaying widget" not in page
    assert page.count("data:image/png") >= len(NAMES)
    assert list((folder / "figures").glob("*.png"))
    assert not list(folder.glob("*.running.ipynb"))
