from __future__ import annotations

import json
from typing import Any

import numpy as np
import optuna
import pytest

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.trials import recorded_trials, study_space
from hpo_lib.widgets.trial_view import TrialView
from tests.toys import TOY_SPACE, bowl


def failing(configuration: dict[str, Any]) -> float:
    if configuration["depth"] == 2:
        message = "no such depth <b>"
        raise RuntimeError(message)
    return bowl(configuration)


@pytest.fixture
def study() -> optuna.Study:
    settings: dict[str, Any] = {"storage": "memory", "workers": 0, "progress": False}
    return run_study(failing, TOY_SPACE, "random", 30, name="toy", max_failures=30, **settings)


def shown(study: optuna.Study) -> tuple[TrialView, np.ndarray[Any, Any]]:
    view = TrialView()
    view.show(recorded_trials(study), study_space(study))
    return view, np.frombuffer(view.table, np.float32).reshape(len(view.axes) + 2, -1)


def test_the_page_gets_a_row_for_each_axis_and_for_values_seconds_and_numbers(study):
    view, table = shown(study)
    assert [axis["name"] for axis in view.axes] == [*(p.name for p in TOY_SPACE.searched), "value"]
    assert table.shape == (7, 30)
    heights = table[:4]
    assert ((heights >= 0) & (heights <= 1) | np.isnan(heights)).all()
    optimizer = view.axes[0]["options"]
    for i, trial in enumerate(recorded_trials(study)):
        at = round(heights[0, i] * (len(optimizer) - 1))
        assert optimizer[at] == trial.configuration["optimizer"]
        assert np.isnan(heights[2, i]) == ("momentum" not in trial.configuration)
        assert np.isnan(table[4, i]) == trial.is_failed
    assert table[6].tolist() == list(range(30))
    assert view.incumbent == study.best_trial.number
    assert json.dumps(view.axes, allow_nan=False)


def test_a_click_shows_the_trial_with_its_configuration_and_reason(study):
    view, table = shown(study)
    failed = int(np.flatnonzero(np.isnan(table[4]))[0])
    view.selected = failed
    assert view.details["title"].startswith(f"Trial {failed}: failed, ")
    assert "no such depth <b>" in view.details["reason"]
    assert ("depth", "2") in view.details["rows"]
    assert json.dumps(view.details, allow_nan=False)
    view.selected = study.best_trial.number
    assert f"completed, value {study.best_value:.4g}" in view.details["title"].replace("0,", "0")
    view.selected = 99
    assert view.details == {}


def test_without_finished_trials_there_is_nothing_to_show():
    view = TrialView()
    view.show([], SearchSpace.preset("small"))
    assert view.axes == []


def test_weights_are_counted_once_and_on_demand_for_trials_that_trained(study):
    counted: list[Any] = []

    def n_weights(configuration):
        counted.append(configuration)
        return 10 * configuration["depth"]

    view = TrialView()
    trials = recorded_trials(study)
    view.show(trials, study_space(study), n_weights)
    assert counted == []
    view.state = {"x": "weights"}
    view.show(trials, study_space(study), n_weights)
    assert view.others == ["seconds", "trial number", "weights"]
    weights = np.frombuffer(view.table, np.float32).reshape(len(view.axes) + 3, -1)[-1]
    for trial, weight in zip(trials, weights, strict=True):
        assert weight == 10 * trial.configuration["depth"] or (
            trial.is_failed and weight != weight
        )
    assert len(counted) == sum(trial.is_completed for trial in trials)


def test_a_click_shows_when_and_where_a_trial_ran_and_its_traceback(study):
    view, table = shown(study)
    view.selected = int(np.flatnonzero(np.isnan(table[4]))[0])
    log = view.details["log"]
    assert log.startswith("started 20")
    assert "Traceback" in log
    assert "no such depth <b>" in log
