"""Callbacks of experiment trackers."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from hpo_lib import SearchSpace, run_study, write_tensorboard
from hpo_lib.trials import own_trials, stop_reason

SPACE = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.9, default: 0.1}")


def train(configuration, context):
    weight = context.load() or 1.0
    for _ in range(context.epoch, context.budget):
        weight *= 1 - configuration["lr"]
        if configuration["lr"] > 0.8:
            message = "too large a step"
            raise ValueError(message)
        context.save(weight)
        yield weight


def run(**options):
    options = {"workers": 0, "pruning": "asha", "budget": 9, "max_failures": 30} | options
    return run_study(train, SPACE, "random", 16, name="tracked", **options)


def test_several_callbacks_are_called_for_each_trial():
    seen = {"first": [], "second": []}

    def callback(name):
        def note(study, trial):
            seen[name].append(trial.number)
            return name == "first" and trial.number == 4

        return note

    study = run(callback=[callback("first"), callback("second")])
    assert seen == {"first": [0, 1, 2, 3, 4], "second": [0, 1, 2, 3, 4]}
    assert stop_reason(study) == "stopped by the callback"


def test_something_else_than_a_callback_is_refused():
    with pytest.raises(TypeError, match="callback must be a function of study and trial"):
        run(callback=["mlflow"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_every_trial_of_a_study(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    integration = pytest.importorskip("optuna_integration")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = integration.MLflowCallback(tracking_uri=uri, metric_name="validation_error")
    study = run(callback=[tracker])

    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(experiment_names=["tracked"]).set_index("tags.mlflow.runName")
    assert len(runs) == 16
    states = {trial.state.name for trial in study.trials}
    assert states == {"COMPLETE", "PRUNED", "FAIL"}
    for trial in study.trials:
        logged = runs.loc[str(trial.number)]
        assert logged["tags.state"] == trial.state.name
        assert float(logged["params.lr"]) == trial.params["lr"]
        if trial.state.name == "COMPLETE":
            assert logged["metrics.validation_error"] == trial.value


def test_tensorboard_has_curves_and_hyperparameters_of_each_trial(tmp_path):
    study = run(callback=lambda study, _: write_tensorboard(study, "logs"))
    again = write_tensorboard(study, "logs")
    assert again == tmp_path / "logs"
    assert [path.name for path in sorted(again.iterdir())] == [
        f"trial_{number:04d}" for number in range(16)
    ]
    for trial in own_trials(study):
        log = EventAccumulator(str(again / f"trial_{trial.number:04d}")).Reload()
        content = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        session = HParamsPluginData.FromString(content).session_start_info
        assert session.hparams["lr"].number_value == trial.configuration["lr"]
        if trial.is_failed:
            assert "value" not in log.Tags()["scalars"]
        else:
            points = [(point.step, point.value) for point in log.Scalars("validation_error")]
            expected = enumerate(trial.record.validation_error, 1)
            assert points == [(step, pytest.approx(value)) for step, value in expected]
        if trial.is_completed:
            assert log.Scalars("value")[0].value == pytest.approx(trial.value)
