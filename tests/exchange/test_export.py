"""A study as a data frame and as a CSV, read back."""

from __future__ import annotations

import pandas as pd
import pytest

from hpo_lib import (
    SearchSpace,
    import_trials,
    open_study,
    read_record,
    run_study,
    study_record,
    trials_frame,
)
from hpo_lib.trials import TrialOutcome, own_trials

SPACE = SearchSpace.from_yaml(
    """
kind: {type: choice, options: [a, "1", "none"], default: a}
value: {type: float, low: 0.01, high: 0.9, default: 0.1}
depth: {type: int, low: 2, high: 10, step: 2, default: 4, when: {kind: [a, "1"]}}
bias: {type: choice, options: [true, false], default: true}
"""
)


def train(configuration, context):
    weight = 1.0 + configuration.get("depth", 0) / 100
    for _ in range(context.budget):
        weight *= 1 - configuration["value"]
        if configuration["kind"] == "none":
            message = "no kind, a comma and a\nline"
            raise ValueError(message)
        yield weight


@pytest.fixture
def study():
    options = {"workers": 0, "pruning": "asha", "budget": 9, "max_failures": 30}
    study = run_study(train, SPACE, "random", 24, name="exported", **options)
    outcomes = {trial.outcome for trial in own_trials(study)}
    assert {TrialOutcome.COMPLETED, TrialOutcome.PRUNED, TrialOutcome.FAILED} <= outcomes
    return study


def completed(study):
    trials = [trial for trial in own_trials(study) if trial.is_completed]
    return [(trial.configuration, trial.value) for trial in trials]


def test_a_csv_has_what_the_frame_has(study, tmp_path):
    frame = trials_frame(study)
    frame.to_csv(tmp_path / "trials.csv", index=False)
    read = pd.read_csv(tmp_path / "trials.csv")
    same = ["number", "state", "value", "best", "seconds", "param_value", "depth"]
    pd.testing.assert_frame_equal(read[same], frame[same], check_dtype=False)


@pytest.mark.parametrize("form", ["frame", "csv"])
def test_an_exported_study_is_imported_again(study, tmp_path, form):
    frame = trials_frame(study)
    frame.to_csv(tmp_path / "trials.csv", index=False)
    source = frame if form == "frame" else tmp_path / "trials.csv"
    report = import_trials(source, SPACE, name="again")
    assert completed(open_study("again")) == completed(study)
    counts = frame.state.value_counts()
    assert report.causes == {"stopped early": counts["pruned"], "failed": counts["fail"]}


def test_a_csv_is_a_record_for_replays(study, tmp_path):
    frame = trials_frame(study).rename(columns={"param_value": "lr"})
    text = SPACE.to_yaml().replace("value:", "lr:")
    frame.to_csv(tmp_path / "trials.csv", index=False)
    record = read_record(tmp_path / "trials.csv", SearchSpace.from_yaml(text))
    own = study_record(study)
    assert record.n_complete == own.n_complete
    assert record.best == own.best
    # What was pruned or raised did not diverge.
    assert len(record.configurations) == 24
