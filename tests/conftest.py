from __future__ import annotations

import gc
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# two test processes on two cores: before numpy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import matplotlib.pyplot as plt
import pytest
import requests
from hypothesis import settings

from hpo_lib.runner.notebooks import notebooks_folder

if TYPE_CHECKING:
    from playwright.sync_api import Page

matplotlib.use("Agg")

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SMALL = {"trial_epochs": "1", "n_train": "200", "n_validation": "100"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Nothing that a test writes by default lands in the repository, and no figure stays open."""
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


@pytest.fixture
def chromium() -> str | None:
    """Where the browser is; without one its tests are skipped, unless they are required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found and os.environ.get("HPO_REQUIRE_BROWSER") != "1":
        pytest.skip("no Chromium on this machine")
    return found


@pytest.fixture
def lab(tmp_path, chromium) -> Iterator[str]:
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
    command += [f"--LabApp.user_settings_dir={tmp_path / 'settings'}"]  # a test changes the theme
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
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:  # it waits for kernels, and the test has its answer
            server.kill()
            server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.ConnectionError:
            continue
    pytest.fail(f"JupyterLab ended with code {server.returncode}")


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright  # most tests need no browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector what is imported: it would go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="faults in large counts")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the large counts of the fault tests are asked for."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def report(record_property) -> Callable[[str], None]:
    """Say a line that is shown when all tests have run."""
    return partial(record_property, "counts")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for result in (
        one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)
    ):
        for name, line in result.user_properties if result.when == "call" else ():
            if name == "counts":
                terminalreporter.write_line(line)
