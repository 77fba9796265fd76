from __future__ import annotations

import pytest

from hpo_lib.exceptions import SpaceError
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.held import best_given
from hpo_lib.trials import recorded_trials
from tests.toys import TOY_SPACE, bowl


def test_the_best_with_a_given_value_is_observed_and_suggested():
    options = {"name": "demo", "storage": "memory", "workers": 0, "progress": False}
    study = run_study(bowl, TOY_SPACE, "bayes", 25, **options)
    best = best_given(study, depth=4, optimizer="adamw")
    assert (best.configuration["depth"], best.configuration["optimizer"]) == (4, "adamw")
    assert set(best.configuration) == {"optimizer", "lr", "depth", "width"}
    assert abs(best.mean - bowl(best.configuration)) < 3 * best.std + 0.3

    # The observed one is the best of those that have the values, whatever the others reach.
    matching = [
        trial.value
        for trial in recorded_trials(study)
        if (trial.configuration["depth"], trial.configuration["optimizer"]) == (4, "adamw")
    ]
    assert best.trial is not None
    assert best.trial.value == min(matching) > study.best_value


def test_a_value_outside_and_nothing_left_to_vary_are_refused():
    options = {"name": "demo", "storage": "memory", "workers": 0, "progress": False}
    study = run_study(bowl, TOY_SPACE, "random", 5, **options)
    with pytest.raises(SpaceError, match="depth"):
        best_given(study, depth=3)
    with pytest.raises(SpaceError, match="batch_size: unknown"):
        best_given(study, batch_size=128)
    with pytest.raises(ValueError, match="left to vary"):
        best_given(study, depth=4, optimizer="adamw", lr=0.1, momentum=0.5)
