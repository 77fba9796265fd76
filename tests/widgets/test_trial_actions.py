from __future__ import annotations

import io
import re
from typing import Any

import optuna
import pandas as pd
import pytest

from hpo_lib.assessment.ablation import ablation_path
from hpo_lib.space.yaml_io import format_configuration
from hpo_lib.study.catalog import open_study, trials_frame
from hpo_lib.study.run import run_study
from hpo_lib.trials import Note, incumbent, read_notes, recorded_trials
from hpo_lib.widgets.front_end import frame_html
from hpo_lib.widgets.study_monitor import StudyMonitor
from hpo_lib.widgets.trial_actions import TrialActions
from tests.toys import TOY_SPACE, bowl

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def study() -> optuna.Study:
    settings: dict[str, Any] = {"storage": "s.db", "workers": 0, "progress": False}
    run_study(bowl, TOY_SPACE, "sobol", 12, name="toy", **settings)
    return open_study("toy", "s.db")


@pytest.fixture
def actions(study, monkeypatch) -> TrialActions:
    """Those of a monitor, which tell what they would have sent to the page."""
    monitor = StudyMonitor("toy", "s.db")
    sent: list[dict[str, str]] = []
    monkeypatch.setattr(monitor.page, "send", sent.append)
    monitor.actions.sent = sent
    return monitor.actions


def test_the_incumbent_is_copied_until_a_trial_is_chosen(actions, study):
    actions.yaml.click()
    best = incumbent(study)
    assert actions.sent == [{"copy": format_configuration(best.configuration)}]
    assert f"Trial {best.number} copied:" in actions.answer.value

    actions._view.selected = 0
    assert actions.answer.value == ""
    actions.python.click()
    first = recorded_trials(study)[0]
    assert actions.sent[-1] == {"copy": format_configuration(first.configuration, "python")}
    assert "&#39;optimizer&#39;: &#39;adamw&#39;" in actions.answer.value


def test_a_trial_is_explained_by_the_path_from_the_default(actions, study):
    best = incumbent(study)
    actions._view.selected = best.number
    actions.explain.click()
    assert f"From the default to trial {best.number}, the surrogate predicts a gain of" in (
        actions.answer.value
    )
    changes = re.findall(r"<tr>\s*<td>([^<]*)</td>", actions.answer.value)
    assert changes[0] == "(default)"
    changed = {k for k, v in best.configuration.items() if TOY_SPACE[k].default != v}
    assert set(changes[1:]) == changed
    assert frame_html(ablation_path(study).table, 4, index=False) in actions.answer.value

    worst = max(recorded_trials(study), key=lambda trial: trial.value)
    actions._view.selected = worst.number
    actions.explain.click()
    assert f"to trial {worst.number}, the surrogate predicts a loss of" in actions.answer.value

    actions._view.selected = 0
    actions.explain.click()
    assert "Trial 0 is the default." in actions.answer.value


def test_notes_and_tags_are_written_to_the_study_and_to_trials(actions, study):
    actions.note.value = f"wider {EVIL}"
    actions.write.click()
    actions._view.selected = 3
    assert (actions.place.value, actions.note.value) == (3, "")
    actions.note.value = "diverges late"
    actions.tags.value = "odd, check,, odd"
    actions.write.click()
    assert "Written to trial 3." in actions.answer.value
    notes = read_notes(open_study("toy", "s.db"))
    assert notes == {None: Note(f"wider {EVIL}"), 3: Note("diverges late", ("odd", "check"))}

    actions.place.value = None
    assert actions.note.value == f"wider {EVIL}"
    actions._view.selected = 4
    actions._view.selected = 3
    assert (actions.note.value, actions.tags.value) == ("diverges late", "odd, check")
    actions._view.selected = 99
    assert actions.place.value is None


def test_all_trials_are_saved_as_csv(actions, study):
    actions.csv.click()
    (sent,) = actions.sent
    assert sent["download"] == "toy.csv"
    saved = pd.read_csv(io.StringIO(sent["text"]))
    assert saved["value"].tolist() == pytest.approx(trials_frame(study)["value"].tolist())


def test_what_cannot_be_done_is_said(study):
    monitor = StudyMonitor(optuna.create_study(study_name=EVIL))
    monitor.actions.explain.click()
    assert "Explain: no trial has ended well yet" in monitor.actions.answer.value
    monitor._study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    monitor.actions.explain.click()
    assert "has no search space" in monitor.actions.answer.value
    assert EVIL not in monitor.actions.answer.value
