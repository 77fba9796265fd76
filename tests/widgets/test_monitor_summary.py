from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hpo_lib.plots.trials import trial_curves_data
from hpo_lib.study.lease import Lease
from hpo_lib.trials import StudyRecord, own_trials, recorded_trials
from hpo_lib.widgets.monitor_summary import (
    describe_study,
    failures_table,
    findings_summary,
    plot_progress,
    seconds_left,
)
from tests.toys import Learner, bowl, record_of
from tests.widgets.test_study_monitor import EVIL, run, run_in_memory
from tests.widgets.test_study_monitor import closed_figures as closed_figures


def sometimes(configuration: Any) -> float:
    if configuration["depth"] == 2:
        raise ValueError(EVIL)
    return bowl(configuration)


# The figures


def test_curves_are_told_apart_by_how_their_trials_stand(tmp_path, monkeypatch):
    learner = Learner(str(tmp_path / "log"), epochs=4)
    study = run_in_memory(12, learner, rungs=[1, 2], pruning="asha", reduction_factor=2)
    kinds = trial_curves_data(study)
    assert list(kinds["incumbent"]) == [study.best_trial.number]
    assert {len(errors) for errors in kinds["pruned"].values()} <= {1, 2}
    assert {len(errors) for errors in kinds["completed"].values()} <= {4}
    drawn = sum(map(len, kinds.values()))
    assert drawn == 12
    monkeypatch.setattr("hpo_lib.plots.trials._MOST_CURVES", 2)
    assert sum(map(len, trial_curves_data(study).values())) in (2, 3)
    left, right = plot_progress(study)
    assert right.get_xlabel() == "epoch"
    assert left.get_ylabel() == right.get_ylabel() == "value"
    assert f"incumbent: trial {study.best_trial.number}" in right.get_legend_handles_labels()[1]
    plt.close(left.figure)


# What is said


def test_seconds_left_are_of_the_rest_of_the_budget(tmp_path):
    learner = Learner(str(tmp_path / "log"), epochs=4)  # 0.01 s per epoch
    study = run_in_memory(4, learner)
    assert seconds_left(study) == 0
    StudyRecord.of(study).write(study, n_trials=9)
    deciding = np.mean([t.record.suggest_seconds for t in recorded_trials(study)])
    assert seconds_left(study) == pytest.approx(5 * (0.04 + deciding))


def test_copied_and_queued_trials_are_no_trials_of_its_own():
    old = run(8)
    study = run(3, name="new", warm_start_from="toy")
    own = own_trials(study)
    best = min(own, key=lambda trial: trial.value)
    study.enqueue_trial({"optimizer": "adamw", "lr": 0.5, "depth": 10})
    assert old.best_value < best.value
    assert describe_study(study).startswith("3 of 3 trials have ended (3 completed, 1 queued).")
    assert f"Best: {best.value:.4f}, trial {best.number}." in describe_study(study)


def test_the_budget_is_never_below_what_has_ended():
    study = run_in_memory(4)
    StudyRecord.of(study).write(study, n_trials=3)
    assert describe_study(study).startswith("4 of 4 trials have ended")


def test_seconds_left_are_told_only_while_it_runs():
    study = run_in_memory(4)
    StudyRecord.of(study).write(study, n_trials=9)
    assert "s left" not in describe_study(study)
    lease = Lease(study)
    lease.acquire()
    assert " s left." in describe_study(study)
    lease.release()


def test_failures_are_listed_with_their_reasons_as_text():
    study = run_in_memory(12, sometimes, max_failures=12)
    failed = [trial for trial in study.trials if record_of(trial).status == "failed"]
    table = failures_table(study)
    assert 0 < len(failed) == table.count("ValueError: &lt;img")
    assert "<img" not in table
    assert table.index(f"<td>{failed[-1].number}<") < table.index(f"<td>{failed[0].number}<")


def test_findings_are_shown_when_the_study_has_ended():
    study = run_in_memory(12, sometimes, max_failures=12)
    summary = findings_summary(study)
    assert "What went wrong?" in summary
    assert EVIL not in summary
    StudyRecord.of(study).write(study, stopped="interrupted")
    assert findings_summary(study) == ""
