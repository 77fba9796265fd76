"""Earlier results of four kinds as evidence, each with rows that do not fit."""

from __future__ import annotations

import json
import math

import numpy as np
import optuna
import pandas as pd
import pytest

from hpo_lib import SearchSpace, import_trials, list_studies, open_study, run_study, study_record
from hpo_lib.exceptions import DataError, StudyChangedError
from hpo_lib.study.catalog import trials_frame
from hpo_lib.trials import incumbent, own_trials, recorded_trials

SPACE = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}
momentum: {type: float, low: 0.5, high: 0.99, default: 0.9, when: {optimizer: sgd}}
n_filters: {type: int, low: 8, high: 24, step: 4, default: 16}
nesterov: {type: choice, options: [true, false], default: true}
stride: {type: int, fixed: 1}
"""
)
NAMES = {"learning_rate": "lr"}
GOOD = {"optimizer": "adamw", "learning_rate": 0.01, "n_filters": 16, "nesterov": True}


def causes(report):
    return {row.row: row.cause for row in report.left_out}


def configurations(name):
    return [trial.configuration for trial in recorded_trials(open_study(name))]


def test_a_data_frame_with_rows_that_do_not_fit():
    rows = [
        {**GOOD, "error": 0.1, "n_filters": 16.0, "nesterov": np.bool_(False)},
        {**GOOD, "error": 0.2, "optimizer": "sgd", "momentum": 0.9},
        {**GOOD, "error": 0.3, "optimizer": "sgd"},
        {**GOOD, "error": 0.4, "learning_rate": 0.5},
        {**GOOD, "error": math.nan},
        {**GOOD, "error": math.inf},
        {**GOOD, "error": 0.5, "state": "crashed"},
        {**GOOD, "error": 0.6, "state": "FINISHED", "momentum": 7.0},
        {**GOOD, "error": 0.7, "n_filters": 17},
        {**GOOD, "error": 0.8, "stride": 2},
        {**GOOD, "error": 0.9, "state": "running"},
    ]
    frame = pd.DataFrame(rows).assign(gpu="a100")
    report = import_trials(frame, SPACE, name="sweep", value="error", names=NAMES)

    assert report.n_imported == 3
    assert causes(report) == {
        "row 2": "parameter missing",
        "row 3": "outside the space",
        "row 4": "no value",
        "row 5": "no value",
        "row 6": "failed",
        "row 8": "outside the space",
        "row 9": "outside the space",
        "row 10": "not finished",
    }
    assert report.unused == ("gpu",)
    assert "3 outside the space" in str(report)
    assert "and 3 more in left_out" in str(report)

    first, second, third = configurations("sweep")
    adamw = {"optimizer": "adamw", "lr": 0.01, "n_filters": 16, "nesterov": False, "stride": 1}
    assert first == adamw
    assert [type(value) for value in first.values()] == [str, float, int, bool, int]
    assert second["momentum"] == 0.9
    assert third == {**adamw, "nesterov": True}


def test_a_csv_with_rows_that_do_not_fit(tmp_path):
    text = """\
optimizer,learning_rate,momentum,n_filters,nesterov,accuracy,Status
adamw,1e-3,,16.0,True,91.5,finished
sgd,0.001,0.95,8,false,90,finished
rmsprop,0.001,,8,false,90,finished
adamw,,,8,false,90,finished
adamw,fast,,8,false,90,finished
adamw,0.001,,8,false,n/a,finished
adamw,0.001,,8,false,,finished
adamw,0.001,,8,TRUE,80,finished
"""
    path = tmp_path / "sweep.csv"
    path.write_text(text)
    options = {"value": "accuracy", "names": NAMES, "transform": lambda a: 1 - a / 100}
    report = import_trials(path, SPACE, name="csv", **options)
    assert report.causes == {"outside the space": 2, "no value": 2, "parameter missing": 1}
    assert [round(t.value, 3) for t in open_study("csv").trials] == [0.085, 0.1, 0.2]
    assert [c["nesterov"] for c in configurations("csv")] == [True, False, True]
    assert report.source == "sweep.csv"


def test_a_cell_that_is_no_yaml_leaves_out_its_row_alone(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(
        "optimizer,learning_rate,momentum,n_filters,nesterov,error\n"
        "adamw,[,,8,false,0.3\n"
        "adamw,0.01,[,8,false,0.2\n"  # momentum is not active
    )
    report = import_trials(path, SPACE, name="torn", value="error", names=NAMES)
    assert causes(report) == {"row 0": "outside the space"}
    assert [trial.value for trial in open_study("torn").trials] == [0.2]


def make_study(direction="minimize"):
    study = optuna.create_study(direction=direction, study_name="tuned")

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
        trial.suggest_categorical("optimizer", ["adamw"])
        trial.suggest_int("n_filters", 8, 24, step=4)
        trial.suggest_categorical("nesterov", [True, False])
        trial.suggest_float("dropout", 0, 1)
        if trial.number == 2:
            raise optuna.TrialPruned
        if trial.number == 3:
            raise RuntimeError
        return lr

    for lr in (0.01, 0.5, 0.01, 0.01, 0.02):
        study.enqueue_trial({"lr": lr})
    study.optimize(objective, n_trials=5, catch=RuntimeError)
    study.ask()
    return study


def test_an_optuna_study_with_trials_that_do_not_fit():
    report = import_trials(make_study(), SPACE, name="tuned")
    assert causes(report) == {
        "trial 1": "outside the space",
        "trial 2": "stopped early",
        "trial 3": "failed",
        "trial 5": "not finished",
    }
    assert report.unused == ("params_dropout",)
    assert [t.value for t in open_study("tuned").trials] == [0.01, 0.02]


def test_a_maximised_study_needs_a_transform():
    study = make_study("maximize")
    with pytest.raises(DataError, match="study tuned, which maximises"):
        import_trials(study, SPACE, name="tuned")
    import_trials(study, SPACE, name="tuned", transform=lambda accuracy: 1 - accuracy)
    assert [t.value for t in open_study("tuned").trials] == [0.99, 0.98]


def test_the_frame_that_optuna_makes_of_a_study():
    report = import_trials(make_study().trials_dataframe(), SPACE, name="frame")
    assert report.n_imported == 2
    assert report.causes["outside the space"] == 1


def ray_experiment(folder):
    params = {"lr": 0.01, "optimizer": "adamw", "model": {"n_filters": 16}, "nesterov": True}

    def trial(name, errors, changes=(), tail="", error=None):
        path = folder / name
        path.mkdir(parents=True)
        (path / "params.json").write_text(json.dumps({**params, **dict(changes)}))
        lines = [
            json.dumps({"error": e, "training_iteration": i, "pid": 7, "config": params})
            for i, e in enumerate(errors, 1)
        ]
        (path / "result.json").write_text("\n".join(lines) + tail)
        (path / "params.pkl").write_bytes(b"never opened")
        if error:
            (path / "error.txt").write_text(error)

    trial("train_0", [0.5, 0.3, 0.2])
    trial("train_1", [0.5, 0.3, 0.1], {"lr": 0.02}, tail='\n{"error": 0.')
    trial("train_2", [0.5])
    trial("train_3", [0.5, 0.3, math.nan])
    trial("train_4", [0.5, 0.3, 0.2], {"lr": 3})
    trial("train_5", [0.4, 0.3], error="Traceback\n  line\nRuntimeError: out of memory\n")
    trial("train_6", [])
    trial("train_7", [0.5, 0.3, 0.25], {"lr": None})
    (folder / "tuner.pkl").write_bytes(b"never opened")
    (folder / "experiment_state.json").write_text("{}")
    return folder


def test_a_ray_tune_folder_with_trials_that_do_not_fit(tmp_path):
    folder = ray_experiment(tmp_path / "train_2026")
    names = {"model/n_filters": "n_filters"}
    report = import_trials(folder, SPACE, name="ray", value="error", names=names)
    assert causes(report) == {
        "train_2": "stopped early",
        "train_3": "no value",
        "train_4": "outside the space",
        "train_5": "failed",
        "train_6": "failed",
        "train_7": "parameter missing",
    }
    imported = open_study("ray").trials
    assert [(t.value, t.params["lr"]) for t in imported] == [(0.2, 0.01), (0.1, 0.02)]
    assert "RuntimeError: out of memory" in str(pd.DataFrame(report.left_out).reason.tolist())
    assert report.unused == ()


def sweep(n=12):
    rng = np.random.default_rng(0)
    rows = [SPACE.sample(rng) for _ in range(n)]
    return pd.DataFrame(rows).assign(value=lambda f: f.n_filters / 24 + f.lr)


def error(configuration):
    return configuration["n_filters"] / 24 + configuration["lr"]


@pytest.mark.parametrize("strategy", ["random", "bayes"])
def test_a_new_study_takes_them_as_warm_start_trials(strategy):
    import_trials(sweep(), SPACE, name="sweep")
    options = {"workers": 0, "warm_start_from": "sweep", "progress": False}
    study = run_study(error, SPACE, strategy, 3, name="new", **options)
    assert len(study.trials) == 15
    assert {t.record.warm_start for t in recorded_trials(study) if not t.is_own} == {
        f"sweep#{i}" for i in range(12)
    }
    assert incumbent(study).is_own
    assert len(own_trials(study)) == 3
    # The same call continues, and returns at once.
    assert len(run_study(error, SPACE, strategy, 3, name="new", **options).trials) == 15


def test_an_imported_study_is_read_like_any_other_and_not_continued():
    import_trials(sweep(), SPACE, name="sweep")
    study = open_study("sweep")
    assert trials_frame(study)["best"].iloc[-1] == study.best_value
    assert study_record(study).n_complete == 12
    assert list_studies().completed.tolist() == [12]
    with pytest.raises(StudyChangedError, match="with warm_start_from='sweep'"):
        run_study(error, SPACE, "random", 20, name="sweep", workers=0)


def test_the_same_import_changes_nothing_and_another_is_refused(tmp_path):
    first = import_trials(sweep(), SPACE, name="sweep")
    assert import_trials(sweep(), SPACE, name="sweep") == first
    assert len(open_study("sweep").trials) == 12
    with pytest.raises(StudyChangedError, match="holds other trials"):
        import_trials(sweep(13), SPACE, name="sweep")
    run_study(error, SPACE, "random", 2, name="own", workers=0)
    with pytest.raises(StudyChangedError, match="holds other trials"):
        import_trials(sweep(), SPACE, name="own")


def test_a_killed_import_goes_on(monkeypatch):
    add_trial = optuna.Study.add_trial

    def killed(study, trial):
        if len(study.trials) == 5:
            raise KeyboardInterrupt
        add_trial(study, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        import_trials(sweep(), SPACE, name="sweep")
    monkeypatch.undo()
    import_trials(sweep(), SPACE, name="sweep", storage="results/studies.db")
    assert trials_frame(open_study("sweep"))["value"].tolist() == sweep()["value"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "loss"}, r"a column for each of \['loss'\]"),
        ({"names": {"rate": "lr"}}, r"a column for each of \['lr'\]"),
        ({"names": {"n_filters": "width"}}, r"names must be one of optimizer, .*, got 'width'"),
    ],
)
def test_missing_columns_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        import_trials(sweep(), SPACE, name="sweep", **change)
    assert not list_studies("memory").size


def test_sources_that_are_none(tmp_path):
    two = optuna.create_study(directions=["minimize", "maximize"])
    for source in (tmp_path, tmp_path / "no.csv", two):
        with pytest.raises(DataError, match="source must"):
            import_trials(source, SPACE, name="x")
    with pytest.raises(DataError, match=r"(?s)must have a trial inside the space.*12 no value"):
        import_trials(sweep().assign(value="?"), SPACE, name="x")
    twice = pd.concat([sweep(), sweep()[["lr"]]], axis="columns")
    twice.to_csv(tmp_path / "twice.csv", index=False)
    for source in (twice, tmp_path / "twice.csv"):
        with pytest.raises(DataError, match=r"different names, got \['lr'\]"):
            import_trials(source, SPACE, name="x")
    assert not (tmp_path / "results").exists()
