"""Locked sliders hold their values, and the study goes on with these values alone."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.background import BackgroundStudy
from hpo_lib.study.catalog import open_study
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import incumbent, recorded_trials, study_space
from hpo_lib.widgets.surrogate_explorer import SurrogateExplorer
from tests.study.test_background import until
from tests.toys import TOY_SPACE, Waiting, bowl, record_of

CALL = {"name": "demo", "storage": "s.db", "workers": 0, "progress": False}


@pytest.fixture
def explorer() -> SurrogateExplorer:
    run_study(bowl, TOY_SPACE, "bayes", 16, **CALL)
    return SurrogateExplorer(open_study("demo", "s.db"))


def lock(explorer: SurrogateExplorer, **values) -> None:
    for name, value in values.items():
        explorer.sliders[name].value = value
        explorer.locks[name].value = True


def test_a_locked_slider_stays_and_the_others_go_to_the_best_trial_with_its_value(explorer):
    trials = [t for t in recorded_trials(explorer.study) if t.configuration["depth"] == 4]
    best = incumbent(trials)
    assert best is not None
    assert best.number != incumbent(explorer.study).number
    lock(explorer, depth=4)
    assert explorer.sliders["depth"].disabled
    explorer.to_incumbent.click()
    assert explorer.configuration == best.configuration
    assert explorer.status.value == f"Trial {best.number} is the best with depth = 4."

    explorer.locks["depth"].value = False
    assert not explorer.sliders["depth"].disabled
    explorer.to_incumbent.click()
    assert explorer.configuration == incumbent(explorer.study).configuration


def test_without_a_trial_with_the_locked_value_the_lowest_prediction_is_shown(explorer):
    explorer.sliders["lr"].index = 51
    explorer.locks["lr"].value = True
    held = explorer.sliders["lr"].value
    explorer.to_incumbent.click()
    assert explorer.status.value.startswith("No trial was made with lr = ")
    assert explorer.sliders["lr"].value == held
    shown, _ = explorer._fitted.surrogate.predict([explorer.configuration])
    rng = np.random.default_rng(0)
    others = [TOY_SPACE.sample(rng) | {"lr": held} for _ in range(200)]
    means, _ = explorer._fitted.surrogate.predict(others)
    assert shown[0] <= means.min() + 1e-6


def test_a_study_goes_on_with_the_locked_values_and_later_with_all_free(explorer):
    lock(explorer, depth=6)
    explorer.search.click()
    assert "'demo' goes on with depth = 6. Start it" in explorer.status.value
    assert "space.fix(depth=6)" in explorer.status.value
    slice_space = TOY_SPACE.fix(depth=6)
    study = run_study(bowl, slice_space, "bayes", 19, **CALL)
    assert [t.configuration["depth"] for t in recorded_trials(study)][16:] == [6] * 3

    # A new explorer finds the lock pressed, and the trials beside the slice as evidence.
    again = SurrogateExplorer(study)
    assert again.held == {"depth": 6}
    assert again.configuration == incumbent(study).configuration
    assert len(again._fitted.surrogate.model.X_) == 19
    again.x.value = "depth"
    again.locks["depth"].value = False
    again.search.click()
    assert "'demo' goes on with all values free" in again.status.value
    assert study_space(open_study("demo", "s.db")) == TOY_SPACE
    run_study(bowl, TOY_SPACE, "bayes", 20, **CALL)


def test_what_changes_nothing_or_leaves_nothing_to_vary_is_said(explorer):
    explorer.search.click()
    assert "is searched with all values free already" in explorer.status.value
    lock(explorer, depth=6)
    explorer.search.click()
    explorer.search.click()
    assert "is searched with depth = 6 already" in explorer.status.value
    lock(explorer, optimizer="sgd", lr=explorer.sliders["lr"].value)
    explorer.locks["momentum"].value = True
    explorer.search.click()
    assert "Not changed: a hyperparameter must be left to vary" in explorer.status.value
    explorer.to_incumbent.click()
    assert "Not moved: a hyperparameter must be left to vary" in explorer.status.value
    assert study_space(open_study("demo", "s.db")) == TOY_SPACE.fix(depth=6)


def test_a_locked_value_is_queued_and_one_that_the_study_does_not_hold_is_refused(explorer):
    lock(explorer, depth=6)
    explorer.sliders["lr"].index = 3
    explorer.search.click()
    explorer.queue.click()
    assert explorer.status.value.startswith("Queued")
    wanted = explorer.configuration
    study = run_study(bowl, TOY_SPACE.fix(depth=6), "bayes", 17, **CALL)
    assert recorded_trials(study)[16].configuration == wanted

    explorer.locks["depth"].value = False
    explorer.sliders["depth"].value = 8
    explorer.queue.click()
    assert "Not queued: depth: is fixed at 6, got 8" in explorer.status.value


def test_a_study_of_another_driver_or_of_optuna_alone_is_left_as_it_is(explorer):
    lock(explorer, depth=6)
    backend = open_storage("s.db")
    study = optuna.load_study(study_name="demo", storage=backend)
    with hold_lease(study, backend):
        explorer.search.click()
        assert "Not changed: study 'demo' is being written by" in explorer.status.value

    other = SurrogateExplorer(study)
    lock(other, depth=6)
    other.search.click()
    assert "must come from open_study or run_study" in other.status.value
    assert study_space(open_study("demo", "s.db")) == TOY_SPACE

    explorer.search.click()
    stale = SurrogateExplorer(optuna.load_study(study_name="demo", storage=backend))
    stale.search.click()
    assert "has gone on in another version: open that" in stale.status.value


@pytest.mark.slow
def test_a_study_that_runs_here_goes_on_in_the_slice_without_losing_what_trains(tmp_path):
    waiting = Waiting(str(tmp_path))
    options = {"name": "demo", "storage": "s.db", "workers": 1}
    search = BackgroundStudy(waiting, TOY_SPACE, "random", 9, **options)
    search.start()
    waiting.let(4)
    until(lambda: waiting.begun() == 5)

    explorer = SurrogateExplorer(open_study("demo", "s.db"))
    under_way = record_of(open_study("demo", "s.db").trials[4]).configuration
    lock(explorer, depth=under_way["depth"])
    explorer.search.click()
    assert explorer.status.value.endswith("It runs.")
    assert search.state == "running"
    waiting.let(20)
    trials = recorded_trials(search.wait())
    assert trials[4].configuration == under_way
    assert {t.configuration["depth"] for t in trials[4:]} == {under_way["depth"]}
    assert len(trials) == 9
    assert search.space == TOY_SPACE.fix(depth=under_way["depth"])


def test_names_that_are_no_words_can_be_held():
    name = "<img src=x onerror=alert(1)>"
    text = (
        f"'{name}': {{type: float, low: 0.0, high: 1.0}}\ny: {{type: float, low: 0.0, high: 1.0}}"
    )
    space = SearchSpace.from_yaml(text)
    study = run_study(lambda c: c[name] + c["y"], space, "random", 5, **CALL)
    explorer = SurrogateExplorer(study)
    assert explorer.locks[name].tooltip == f"Hold {name}"
    explorer.locks[name].value = True
    explorer.search.click()
    assert "goes on with" in explorer.status.value
