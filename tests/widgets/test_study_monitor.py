from __future__ import annotations

import asyncio
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from nbconvert import HTMLExporter

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.background import BackgroundStudy
from hpo_lib.study.lease import Lease
from hpo_lib.study.run import run_study
from hpo_lib.widgets.study_monitor import StudyMonitor
from tests.study.test_background import other_process as other_process
from tests.study.test_background import until
from tests.toys import TOY_SPACE, Waiting, bowl

EVIL = "<img src=x onerror=alert(1)>"
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    assert plt.get_fignums() == []


def run(n_trials: int, objective: Any = bowl, name: str = "toy", **settings: Any) -> Any:
    settings = {"storage": "toy.db", "workers": 0, "space": TOY_SPACE, **settings}
    return run_study(objective, settings.pop("space"), "random", n_trials, name=name, **settings)


def run_in_memory(n_trials: int, objective: Any = bowl, **settings: Any) -> Any:
    return run(n_trials, objective, storage="memory", **settings)


@pytest.mark.slow
def test_a_monitor_draws_when_the_record_has_changed_and_only_then():
    study = run(8)
    monitor = StudyMonitor("toy", "toy.db")
    assert "read-only: nobody runs it now · 8 of 8 trials have ended" in monitor.status.value
    first, table = monitor.picture(), monitor.view.table
    assert first.startswith(PNG)
    monitor.refresh()
    assert monitor.view.table is table
    run(9)
    monitor.refresh()
    assert "9 of 9" in monitor.status.value
    assert f"Best: {study.best_value:.4f}" in monitor.status.value
    assert monitor.picture() != first
    assert [type(child).__name__ for child in monitor.children] == ["HBox", "HTML", "VBox", "Page"]
    assert monitor.children[0].children == ()


@pytest.mark.slow
def test_the_buttons_run_pause_and_stop_a_study_and_raise_its_budget(tmp_path):
    waiting = Waiting(str(tmp_path))
    study = BackgroundStudy(waiting, TOY_SPACE, "random", 4, name="toy", storage="toy.db")
    monitor = StudyMonitor(study)
    assert "not started" in monitor.status.value
    assert (monitor.start.disabled, monitor.stop.disabled) == (False, True)
    waiting.let(2)
    monitor.start.click()
    assert (monitor.start.disabled, monitor.trials.disabled) == (True, True)
    until(lambda: waiting.begun() == 3)
    again = StudyMonitor("toy", "toy.db")
    assert again.background is study
    monitor.refresh()
    assert "running · 2 of 4" in monitor.status.value
    again.pause.click()
    assert "paused" in again.status.value
    assert again.start.description == "Resume"
    again.stop.click()
    study.wait()
    monitor.refresh()
    said = "stopped · 2 of 4 trials have ended (2 completed, 1 interrupted)"
    assert said in monitor.status.value
    waiting.let(9)
    monitor.trials.value = 5
    monitor.start.click()
    assert len(study.wait().trials) == 5
    monitor.refresh()
    assert "finished · 5 of 5" in monitor.status.value


def test_a_number_of_workers_or_an_address_is_taken_and_all_else_refused():
    study = BackgroundStudy(bowl, TOY_SPACE, "random", 4, name="toy", storage="toy.db", workers=2)
    monitor = StudyMonitor(study)
    assert monitor.workers.value == "2"
    monitor.workers.value = " 3 "
    until(lambda: study.workers == 3)
    monitor.workers.value = "<two>"
    until(lambda: monitor._problem)
    monitor.refresh()
    assert "the workers stay as they were: workers must be a number" in monitor.status.value
    assert "<two>" not in monitor.status.value
    monitor.workers.value = "tcp://127.0.0.1:8786"
    until(lambda: study.workers == "tcp://127.0.0.1:8786")
    monitor.refresh()
    assert "stay as they were" not in monitor.status.value


@pytest.mark.slow
def test_a_study_of_an_earlier_kernel_keeps_its_budget():
    run(9)
    study = BackgroundStudy(bowl, TOY_SPACE, "random", 4, name="toy", storage="toy.db", workers=0)
    monitor = StudyMonitor(study)
    assert "not running · 9 of 9 trials have ended" in monitor.status.value
    assert monitor.trials.value == 9
    monitor.trials.value = 10
    monitor.start.click()
    study.wait()
    monitor.refresh()
    assert "finished · 10 of 10" in monitor.status.value
    longer = BackgroundStudy(bowl, TOY_SPACE, "random", 20, name="toy", storage="toy.db")
    assert StudyMonitor(longer).trials.value == 20


def test_a_study_of_that_name_elsewhere_is_not_controlled(tmp_path):
    waiting = Waiting(str(tmp_path))
    default = BackgroundStudy(waiting, TOY_SPACE, "random", 2, name="toy", workers=0)
    default.start()
    monitor = StudyMonitor(run(2))
    assert monitor.background is None
    assert monitor.children[0].children == ()
    waiting.let(9)
    default.wait()


def test_what_breaks_the_run_is_shown():
    run(2, name=EVIL)
    arguments: dict[str, Any] = {"name": EVIL, "storage": "toy.db", "workers": 0, "seed": 1}
    study = BackgroundStudy(bowl, TOY_SPACE, "random", 2, **arguments)
    monitor = StudyMonitor(study)
    monitor.start.click()
    until(lambda: study.state == "failed")
    monitor.refresh()
    assert "StudyChangedError: study" in monitor.status.value
    assert "+ seed: 1" in monitor.status.value
    assert "role='alert'" in monitor.status.value
    assert "<img" not in monitor.status.value


@pytest.mark.slow
def test_a_study_of_another_process_is_read_only(other_process):
    study = BackgroundStudy(bowl, TOY_SPACE, name="toy", storage="toy.db")
    for monitor in (StudyMonitor(study), StudyMonitor("toy", "toy.db")):
        assert f"read-only: process {other_process.pid} on" in monitor.status.value
        buttons = (monitor.start, monitor.pause, monitor.stop)
        assert [button.disabled for button in buttons] == [True] * 3


def test_a_study_that_nothing_made_yet_and_one_of_optuna_alone_are_shown():
    import optuna

    monitor = StudyMonitor("nothing", "toy.db")
    assert monitor.image.value == b""
    assert "no study of that name in toy.db" in monitor.status.value
    background = BackgroundStudy(bowl, TOY_SPACE, name="nothing", storage="toy.db")
    assert "no study" not in StudyMonitor(background).status.value
    study = optuna.create_study(study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), 3)
    monitor = StudyMonitor(study)
    assert "3 trials have ended (3 completed)" in monitor.status.value
    assert monitor.view.axes == []


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [True, False])
def test_an_open_page_is_kept_up_to_date_and_says_what_it_cannot_read(monkeypatch, by_name):
    study = run(4)
    monkeypatch.setattr("hpo_lib.widgets.study_monitor.is_watched", lambda: True)
    monkeypatch.setattr("hpo_lib.widgets.study_monitor.REFRESH_SECONDS", 0.01)

    async def watch() -> None:
        monitor = StudyMonitor("toy", "toy.db") if by_name else StudyMonitor(study)
        monitor._repr_mimebundle_()
        run(6)
        while len(monitor.view.table) < 7 * 6 * 4:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(type(study), "get_trials", lambda *_, **__: 1 / 0)
        while "ZeroDivisionError" not in monitor.status.value:
            await asyncio.sleep(0.01)
        monitor.close()
        assert monitor._task is not None
        await asyncio.wait([monitor._task])
        assert monitor._task.cancelled()

    asyncio.run(asyncio.wait_for(watch(), 60))


def test_a_hostile_name_is_text():
    space = SearchSpace.from_dict({EVIL: {"type": "float", "low": 0, "high": 1}})
    run(6, lambda c: c[EVIL] ** 2, name=EVIL, space=space)
    monitor = StudyMonitor(EVIL, "toy.db")
    assert "&lt;img" in monitor.status.value
    assert "<img" not in monitor.status.value + monitor.failures.value


def test_a_lease_that_is_given_back_leaves_nobody():
    study = run_in_memory(4)
    lease = Lease(study)
    lease.acquire()
    monitor = StudyMonitor(study)
    assert "writes it" in monitor.status.value
    lease.release()
    monitor.refresh()
    assert "nobody runs it now" in monitor.status.value


@pytest.mark.slow
def test_all_widgets_of_an_executed_notebook_are_figures(tmp_path):
    run(6)
    notebook = nbformat.v4.new_notebook()
    lines = [
        "from hpo_lib import *",
        "SpaceEditor(SearchSpace.preset('small'))",
        "StudyMonitor('toy', 'toy.db')",
        "SurrogateExplorer(open_study('toy', 'toy.db'))",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(line) for line in lines]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    options: dict[str, Any] = {"kernel_name": "python3", "progress_bar": False}
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", **options)
    assert "widget-view+json" not in (tmp_path / "out.ipynb").read_text()
    page, _ = HTMLExporter().from_filename(str(tmp_path / "out.ipynb"))
    assert "Error displaying widget" not in page
    assert page.count('src="data:image/png') == 2
    assert 'aria-label="prior of lr"' in page
