"""Milliseconds from a keystroke to what the widgets show of it, in a real browser.

- An edit: a value is typed into the editor, which holds the preset small.
- A redraw: the explorer of 200 trials along one axis and two; a monitor of 200 trials when one
  more ends; the comparison of two strategies with five seeds when a third is ticked.
- Brushing: lines of 1,000 and of 3,000 trials while the mouse moves along an axis, per frame.
- A click that shows a trial.

The goals are 200 ms for an edit, 300 ms for a redraw, and 33 ms a frame for 1,000 trials.

JupyterLab and Chromium run on this machine; the clock is the page's own, from the event of the
input to the first frame in which the answer stands on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import requests
from playwright.sync_api import Page, sync_playwright

EDITOR = """from hpo_lib.space.search_space import SearchSpace
from hpo_lib.widgets.space_editor import SpaceEditor
editor = SpaceEditor(SearchSpace.preset("small"), seconds_per_trial=4.2)
editor"""
EXPLORER = """from hpo_lib import StudyMonitor, SurrogateExplorer, run_study
def objective(configuration):
    return configuration["lr"] ** 0.5 + configuration["dropout"] / configuration["n_filters"]
space = SearchSpace.preset("small")
study = run_study(objective, space, "random", 200, name="b", storage="memory", workers=0)
SurrogateExplorer(study)"""
MONITOR = """options = {"storage": "memory", "workers": 0}
large = run_study(objective, space, "random", 1000, name="b", **options)
StudyMonitor(large)"""
MANY = """from dataclasses import replace
from hpo_lib.trials import recorded_trials
from hpo_lib.widgets.trial_view import TrialView
trials = [replace(t, number=1000 * i + t.number) for i in range(3) for t in recorded_trials(large)]
view = TrialView()
view.show(trials, space)
view"""
ENDING = """import ipywidgets, optuna
storage, n = optuna.storages.InMemoryStorage(), 200
def go_on(*_):
    global n
    one = run_study(objective, space, "random", n, name="e", storage=storage, workers=0)
    n += 1
    return one
monitor = StudyMonitor(go_on())
button = ipywidgets.Button(description="one more")
button.on_click(lambda _: (go_on(), monitor.refresh()))
ipywidgets.VBox([button, monitor])"""
COMPARISON = """from hpo_lib import StudyComparison, compare
several = optuna.storages.InMemoryStorage()
compare(objective, space, ["random", "sobol", "tpe"], range(5), 40, storage=several, workers=0)
StudyComparison(several)"""
CELLS = (EDITOR, EXPLORER, MONITOR, MANY, ENDING, COMPARISON)
ROW = 2
MEASURE = """async ([label, text, expected]) => {
  const editor = document.querySelector('.hpo-editor');
  const id = [...editor.querySelectorAll('label')].find(l => l.textContent === label).htmlFor;
  const input = document.getElementById(id);
  const begun = performance.now();
  input.value = text;
  input.dispatchEvent(new Event('input', {bubbles: true}));
  await new Promise((done, fail) => {
    setTimeout(() => fail(new Error('nothing shown in 30 s: ' + expected)), 30000);
    const watch = new MutationObserver(() => {
      if (!editor.textContent.includes(expected)) return;
      watch.disconnect();
      requestAnimationFrame(done);
    });
    watch.observe(editor, {subtree: true, childList: true, characterData: true});
  });
  return performance.now() - begun;
}"""

SLIDE = """async (cell, [label, key]) => {
  const slider = [...cell.querySelectorAll('.widget-hslider')].find(
    s => s.querySelector('label').textContent === label);
  const img = cell.querySelector('img');
  let before;
  do {  // until what was drawn before is shown
    before = img.src;
    await new Promise(done => setTimeout(done, 1000));
  } while (img.src !== before);
  const begun = performance.now();
  slider.querySelector('.noUi-handle').dispatchEvent(
    new KeyboardEvent('keydown', {key, bubbles: true}));
  await new Promise((done, fail) => {
    setTimeout(() => fail(new Error('no new picture in 30 s')), 30000);
    new MutationObserver(() => {
      if (img.src !== before) img.decode().then(() => requestAnimationFrame(done));
    }).observe(img, {attributes: true});
  });
  return performance.now() - begun;
}"""

# The button of the mouse is down on the axis: each frame draws the lines of another range.
BRUSH = """async (view, n) => {
  const axis = view.querySelector('[role=group][aria-label=lr]');
  const {left, top, height} = axis.getBoundingClientRect();
  const times = [];
  for (let i = 0; i < n + 2; i++) {
    const begun = performance.now();
    const clientY = top + height * (0.3 + 0.6 * (i % 20) / 20);
    axis.dispatchEvent(new PointerEvent('pointermove', {clientX: left, clientY}));
    await new Promise(requestAnimationFrame);
    if (i > 1) times.push(performance.now() - begun);
  }
  return times;
}"""

CLICK = """async (view, number) => {
  const input = view.querySelector('input[type=number]');
  const details = view.querySelector('.hpo-details');
  const begun = performance.now();
  input.value = number;
  input.dispatchEvent(new Event('change'));
  await new Promise((done, fail) => {
    setTimeout(() => fail(new Error('no trial shown in 30 s')), 30000);
    const watch = new MutationObserver(() => {
      if (!details.textContent.startsWith(`Trial ${number}:`)) return;
      watch.disconnect();
      requestAnimationFrame(done);
    });
    watch.observe(details, {subtree: true, childList: true});
  });
  return performance.now() - begun;
}"""


# Click a control, and wait for what the cell says next and for the next picture.
REDRAW = """async (cell, [selector, expected]) => {
  const img = cell.querySelector('img.hpo-figure');
  const before = img.src;
  const begun = performance.now();
  cell.querySelector(selector).click();
  await new Promise((done, fail) => {
    setTimeout(() => fail(new Error('nothing redrawn in 30 s: ' + expected)), 30000);
    const watch = new MutationObserver(() => {
      if (img.src === before || !cell.textContent.includes(expected)) return;
      watch.disconnect();
      img.decode().then(() => requestAnimationFrame(done));
    });
    watch.observe(cell, {subtree: true, childList: true, characterData: true, attributes: true});
  });
  return performance.now() - begun;
}"""


def measure_redraws(page: Page, n: int) -> dict[str, list[float]]:
    """Let a trial end, and tick and untick a study of the comparison."""
    times: dict[str, list[float]] = {"monitor, a trial more": [], "comparison": []}
    monitor = page.locator(".jp-Cell").nth(4)
    monitor.scroll_into_view_if_needed()
    for i in range(n + 2):
        # The findings of the trial before are still being computed.
        page.get_by_text("(ipykernel) | Idle").wait_for()
        expected = f"{201 + i} of {201 + i} ended trials"
        milliseconds = monitor.evaluate(REDRAW, ["button", expected])
        times["monitor, a trial more"].append(milliseconds)

    comparison = page.locator(".jp-Cell").nth(5)
    comparison.scroll_into_view_if_needed()
    for i in range(n + 2):
        expected = "tpe: 5 seeds" if i % 2 == 0 else "sobol: 5 seeds, 40 trials"
        selector = ".hpo-ticks .widget-checkbox:nth-child(3) input"
        times["comparison"].append(comparison.evaluate(REDRAW, [selector, expected]))
    # The first ones warm up.
    return {kind: values[2:] for kind, values in times.items()}


def measure_trials(page: Page, n: int, cell: int, kind: str) -> dict[str, list[float]]:
    """Brush the axis of a hyperparameter, and ask for trials."""
    view = page.locator(".jp-Cell").nth(cell).locator(".hpo-trials")
    view.scroll_into_view_if_needed()
    box = view.get_by_role("group", name="lr").bounding_box()
    if box is None:
        message = "the axis of lr is not shown"
        raise RuntimeError(message)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.down()
    frames = view.evaluate(BRUSH, n)
    page.mouse.up()
    clicks = [view.evaluate(CLICK, number) for number in range(n + 1)]
    return {f"brush of {kind}, a frame": frames, f"a clicked trial of {kind}": clicks[1:]}


def measure_pictures(page: Page, n: int) -> dict[str, list[float]]:
    """Move a slider of the explorer, along one axis and along two."""
    times: dict[str, list[float]] = {}
    for kind in ("explorer", "explorer, two axes"):
        place = page.locator(".jp-Cell").nth(1)
        place.scroll_into_view_if_needed()
        if kind.endswith("axes"):
            place.get_by_label("Vertical axis").select_option("dropout")
        times[kind] = []
        for i in range(n + 2):
            key = "ArrowRight" if i % 2 == 0 else "ArrowLeft"
            milliseconds = place.evaluate(SLIDE, ["lr", key])
            if i > 1:  # the first ones warm up
                times[kind].append(milliseconds)
    return times


def measure_editor(page: Page, n: int) -> dict[str, list[float]]:
    """Type a mistake and mend it with a new value, `n` times."""
    label = f"high, row {ROW}"
    times: dict[str, list[float]] = {"validation": [], "preview": []}
    for i in range(n + 1):
        for kind, text, shown in (
            ("validation", f"x{i}y", f"got 'x{i}y'"),
            ("preview", f"0.5{i:03d}1", f"high: 0.5{i:03d}1"),
        ):
            milliseconds = page.evaluate(MEASURE, [label, text, shown])
            if i:  # the first one warms up
                times[kind].append(milliseconds)
    return times


def start_lab(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a JupyterLab on loopback for one notebook; return it and the notebook's address."""
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [{**cell, "id": f"c{i}", "source": source} for i, source in enumerate(CELLS)]
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    (folder / "editor.ipynb").write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", f"--IdentityProvider.token={token}", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", f"--LabApp.workspaces_dir={folder / 'lab'}"]

    # All cells stay on the page.
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "lab.log").open("w") as log:
        environment = {**os.environ, "PATH": path}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    while server.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).ok:
                return server, f"http://127.0.0.1:{port}/lab/tree/editor.ipynb?token={token}"
        except requests.ConnectionError:
            continue
    message = f"JupyterLab ended with code {server.returncode}"
    raise RuntimeError(message)


def main() -> None:
    """Print medians and 95 % points, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 keystrokes of each kind, not 50")
    arguments = parser.parse_args()
    n = 10 if arguments.quick else 50
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server, address = start_lab(Path(folder))
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address, timeout=120_000)
            page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
            page.locator(".jp-NotebookPanel .jp-Cell").first.click()
            for _ in CELLS:
                page.keyboard.press("Shift+Enter")
            page.locator(".hpo-ticks").wait_for(timeout=600_000)
            page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
            times = measure_editor(page, n) | measure_pictures(page, n) | measure_redraws(page, n)
            times |= measure_trials(page, n, 2, "1,000") | measure_trials(page, n, 3, "3,000")
            browser.close()
        finally:
            server.terminate()
            server.wait(timeout=60)
    print("ms from keystroke to frame")
    for kind, values in times.items():
        high = statistics.quantiles(values, n=20)[-1]
        print(f"{kind:28s} median {statistics.median(values):6.0f}   95 % {high:6.0f}   n {n}")
    medians = {kind: round(statistics.median(values), 1) for kind, values in times.items()}
    print(json.dumps({"n": n, "median_ms": medians}))


if __name__ == "__main__":
    main()
