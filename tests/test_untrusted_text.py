"""Names, options and reasons of a received record are shown as text, whatever they say."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import nbformat
import numpy as np
import optuna
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from hpo_lib.comparison.hypothesis_tests import Ranks
from hpo_lib.plots.comparison import plot_ranks
from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import trials_frame
from hpo_lib.study.run import run_study
from hpo_lib.widgets import front_end
from hpo_lib.widgets.space_editor import SpaceEditor
from hpo_lib.widgets.study_monitor import StudyMonitor
from hpo_lib.widgets.surrogate_explorer import SurrogateExplorer

MARKUP = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "$\\unknown{x}$")
ACTIVE = {"img", "script", "iframe", "meta", "base", "link", "form", "object", "embed"}
NOTEBOOKS = [notebook.path for notebook in find_notebooks(notebooks_folder())]


def markup_space() -> SearchSpace:
    name = f"lr {MARKUP[0]}"
    choice = {"type": "choice", "options": list(MARKUP)}
    return SearchSpace.from_dict(
        {name: {"type": "float", "low": 0.1, "high": 1.0}, MARKUP[1]: choice}
    )


def value(configuration: dict[str, Any]) -> float:
    if configuration[MARKUP[1]] == MARKUP[1]:
        raise ValueError(MARKUP[0])
    return float(configuration[f"lr {MARKUP[0]}"])


@pytest.fixture
def study(tmp_path):
    storage = tmp_path / "studies.db"
    return run_study(
        value, markup_space(), "random", 12, name=MARKUP[0], storage=storage, workers=0
    )


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """What `show_frame` hands to the page as HTML."""
    found: list[str] = []

    def keep(data: dict[str, str], *, raw: bool) -> None:
        assert raw
        found.append(data["text/html"])

    monkeypatch.setattr(front_end, "display", keep)
    return found


def cells(path: Path) -> Iterator[str]:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            yield cell.source


def cell_with(number: str, text: str) -> str:
    (path,) = (one for one in NOTEBOOKS if one.name.startswith(number))
    (source,) = (source for source in cells(path) if text in source)
    return source.rpartition("plt.show()\n")[2]  # figures have tests of their own


def assert_text_only(html: str) -> None:
    page = BeautifulSoup(html, "html.parser")
    assert not page.find_all(ACTIVE)
    assert [name for tag in page.find_all() for name in tag.attrs if name.startswith("on")] == []


@pytest.mark.parametrize("number", ["04", "10"])
def test_the_notebooks_show_the_best_trials_of_a_record_as_text(number, study, shown):
    names = {"frame": trials_frame(study), "trials_frame": trials_frame, "study": study}
    names |= {"space": markup_space(), "show_frame": front_end.show_frame}
    exec(cell_with(number, "frame.nsmallest"), names)
    (html,) = shown
    assert_text_only(html)
    assert MARKUP[0] in BeautifulSoup(html, "html.parser").get_text()


def test_a_table_escapes_names_of_rows_and_columns_and_keeps_mathematics_out(shown):
    frame = pd.DataFrame({MARKUP[1]: [0.123456, np.nan]}, pd.Index(["$a$", "b"], name=MARKUP[0]))
    front_end.show_frame(frame, 2)
    assert_text_only(shown[0])
    table = BeautifulSoup(shown[0], "html.parser").table
    assert {"mathjax_ignore", "tex2jax_ignore"} <= set(table["class"])
    assert [cell.get_text() for cell in table.find_all("td")] == ["0.12", ""]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_writes_html_of_its_own(path):
    refused = {"style", "to_html", "HTML", "Javascript", "Latex", "Markdown", "Math", "SVG"}
    for source in cells(path):
        nodes = list(ast.walk(ast.parse(source)))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not used & refused, source


def htmls(widget: ipywidgets.Widget) -> Iterator[str]:
    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    if isinstance(widget, ipywidgets.DOMWidget):
        assert not getattr(widget, "description_allow_html", False)
    for child in getattr(widget, "children", ()):
        yield from htmls(child)


def test_the_widgets_show_a_record_as_text(study, tmp_path):
    monitor = StudyMonitor(study)
    editor = SpaceEditor(markup_space(), tmp_path / f"{MARKUP[0]}.yaml", study=study)
    explorer = SurrogateExplorer(study)
    found = [*htmls(monitor), *htmls(editor.box), *htmls(explorer), editor.preview()]
    assert any("&lt;img" in html for html in htmls(monitor))
    for html in found:
        assert_text_only(html)


def test_ranks_draw_classes_of_the_same_name_without_reading_mathematics():
    names = ["$\\unknown{a}$.Sampler", "b.Sampler", "c.Sampler"]
    values = pd.DataFrame([[1.0, 2.0, 3.0]] * 4, columns=names)
    p = pd.DataFrame(np.ones((3, 3)), names, names)
    ranks = Ranks(values, p, 0.1, 1.0, 3, None)
    plot_ranks(ranks).figure.canvas.draw()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("state", ["complete", "running"])
def test_no_sampler_unpickles_what_a_received_record_holds(kind, state):
    storage: Any = "sent.db"
    if kind == "journal":
        backend = optuna.storages.journal.JournalFileBackend("sent.log")
        storage = optuna.storages.JournalStorage(backend)
    space = SearchSpace.from_yaml(
        "x: {type: float, low: 0.0, high: 1.0}\ny: {type: float, low: 0.0, high: 1.0}"
    )

    def run(n_trials: int) -> optuna.Study:
        strategy = "optuna.samplers.CmaEsSampler"
        options = {"name": "sent", "storage": storage, "workers": 0}
        return run_study(lambda c: c["x"] + c["y"], space, strategy, n_trials, **options)

    study = run(3)
    trial = study.trials[0]
    trial.system_attrs = {"cma:optimizer:0": pickle.dumps(Evil()).hex(), "cma:generation": 0}
    if state == "running":
        trial.state, trial.values, trial.datetime_complete = (
            optuna.trial.TrialState.RUNNING,
            None,
            None,
        )
    study.add_trial(trial)
    assert len(run(12).trials) == 12
    assert len(run(14).trials) == 14
    assert not Path("owned").exists()
