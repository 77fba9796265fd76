from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from _development_tasks import NAMES, load_development_tasks


@pytest.mark.slow
def test_every_task_has_a_finite_loss_that_repeats_itself(tmp_path):
    reference = tmp_path / "tasks.json"
    reference.write_text(json.dumps(dict.fromkeys(NAMES, (0.0, 1.0))))
    for task in load_development_tasks(reference):
        configuration = task.space.sample(np.random.default_rng(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, second = (task.function(configuration) for _ in range(2))
        assert np.isfinite(first)
        assert first == second


@pytest.mark.slow
def test_what_is_not_known_of_a_task_is_found_and_kept(tmp_path):
    (task,) = load_development_tasks(tmp_path / "tasks.json", 1)
    assert json.loads((tmp_path / "tasks.json").read_text()) == {
        task.name: [task.best, task.median]
    }
    assert task.best < task.median
