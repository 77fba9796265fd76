"""The notebooks as a person opens them: JupyterLab in headless Chromium."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, sync_playwright

from hpo_lib.notebooks import notebooks_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("HPO_REQUIRE_BROWSER") == "1"
SMALL = {"trial_epochs": "1", "n_train": "200", "n_validation": "100"}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM and not REQUIRED, reason="no Chromium on this machine"),
]


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """A JupyterLab on loopback over copies of the notebooks; the address without its path."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for path in notebooks_folder().glob("*.ipynb"):
        text = path.read_text().replace("results/work", (tmp_path / "run").as_posix())
        for name, value in SMALL.items():
            text = re.sub(rf"({name}: int = )\d+", rf"\g<1>{value}", text)
        (folder / path.name).write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", f"--IdentityProvider.token={token}", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", f"--LabApp.workspaces_dir={tmp_path / 'lab'}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PATH": path}
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.ConnectionError:
            continue
    pytest.fail(f"JupyterLab ended with code {server.returncode}")


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


@pytest.mark.parametrize(
    ("name", "closing"),
    [("01_data_preparation", "figures/images.png"), ("03_search_space", "bytes  space.yaml")],
)
def test_a_notebook_runs_in_jupyterlab(lab, page, name, closing, tmp_path):
    page.goto(lab.format(f"{name}.ipynb"), timeout=120_000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=120_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)  # the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    notebook = page.locator(".jp-NotebookPanel")
    notebook.locator(".jp-OutputArea-output", has_text=closing).wait_for(timeout=180_000)
    page.screenshot(path=str(tmp_path / f"{name}.png"))
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert (tmp_path / "run" / "figures").is_dir()
