"""A study goes on in another search space under its name, and everybody agrees on what counts."""

from __future__ import annotations

import optuna
import pytest

from hpo_lib.__main__ import main
from hpo_lib.assessment.evidence import Evidence
from hpo_lib.assessment.failures import failures_finding
from hpo_lib.assessment.worth import worth_finding
from hpo_lib.comparison.studies import compare_studies
from hpo_lib.comparison.training_records import read_record
from hpo_lib.exceptions import SpaceError, StudyChangedError, StudyError, StudyHeldError
from hpo_lib.exchange.imports import import_trials
from hpo_lib.plots.study import any_time_data, timeline_data
from hpo_lib.plots.trials import points_data, trial_curves_data
from hpo_lib.samplers.surrogate import fit_surrogate
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.yaml_io import read_yaml
from hpo_lib.study.catalog import delete_study, list_studies, open_study, trials_frame
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.retrain import retrain_top_k
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.versions import change_space
from hpo_lib.study.stopping import NoImprovement
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import (
    StudyRecord,
    incumbent,
    own_trials,
    recorded_trials,
    study_name,
    study_space,
)
from hpo_lib.widgets.surrogate_explorer import queue_trial
from tests.toys import TOY_SPACE, Learner, bowl

NARROW = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.01, high: 1.0, log: true, default: 0.01}
momentum: {type: float, low: 0.0, high: 1.0, default: 0.5, when: {optimizer: sgd}}
depth: {type: int, low: 2, high: 10, step: 2, default: 4}
width: {type: int, fixed: 3}
"""
)
OPTIONS = TOY_SPACE.to_yaml().replace("[adamw, sgd]", "[adamw, lion, sgd]")
MORE_OPTIONS = SearchSpace.from_yaml(OPTIONS)


def search(space, n_trials, strategy="random", **options):
    options = {"name": "demo", "storage": "s.db", "workers": 0, **options}
    return run_study(bowl, space, strategy, n_trials, **options)


def outcomes(study) -> list[str]:
    return [str(trial.outcome) for trial in recorded_trials(study)]


@pytest.mark.parametrize("strategy", ["bayes", "tpe", "grid", "three_step", "cmaes"])
def test_a_narrowed_study_goes_on_under_its_name_and_number(strategy):
    before = search(TOY_SPACE, 8, strategy)
    after = search(NARROW, 12, strategy, change_space=True)
    assert [t.number for t in after.trials] == list(range(12))
    assert study_space(open_study("demo", "s.db")) == NARROW

    # Old trials count where they lie inside, and nowhere else.
    for old, new in zip(recorded_trials(before), recorded_trials(after), strict=False):
        is_inside = NARROW.contains(old.configuration)
        assert new.outcome == ("completed" if is_inside else "outside")
        assert new.value == (old.value if is_inside else None)
        assert new.configuration == pytest.approx(old.configuration)
    assert all(NARROW.contains(trial.configuration) for trial in recorded_trials(after)[8:])
    assert len(own_trials(after)) == 12
    assert StudyRecord.of(after).earlier == [
        {"space": TOY_SPACE.to_yaml(comments=False), "n_trials": 8}
    ]

    # Nothing old was touched, and the same calls change nothing.
    assert outcomes(before) == ["completed"] * 8
    assert search(NARROW, 12, strategy, change_space=True).study_name == after.study_name
    assert search(NARROW, 12, strategy).study_name == after.study_name


def test_incumbent_tables_figures_and_optuna_agree_on_what_counts():
    search(TOY_SPACE, 12)
    study = change_space("demo", NARROW, storage="s.db")
    best = incumbent(study)
    assert best is not None
    inside = [t for t in recorded_trials(study) if t.outcome == "completed"]
    assert 0 < len(inside) < 12
    frame = trials_frame(study)
    assert best.value == min(t.value for t in inside) == study.best_value == frame["best"].min()
    assert frame["state"].value_counts()["outside"] == 12 - len(inside)
    assert list(points_data(study).numbers) == [t.number for t in inside]
    assert trial_curves_data(study)["failed"] == {}
    assert any_time_data(study).values.tolist() == [t.value for t in inside]
    assert timeline_data(study).numbers.tolist() == [t.number for t in inside]
    assert compare_studies({"demo": study})["value"].tolist() == [t.value for t in inside]
    finding = failures_finding(Evidence(study, NARROW).trials)
    assert finding.figures == {"n_finished": len(inside), "n_failed": 0}
    [row] = list_studies("s.db").to_dict("records")
    assert (row["name"], row["trials"], row["completed"]) == ("demo", 12, len(inside))
    assert (row["failed"], row["best"]) == (0, best.value)


def test_the_cost_of_a_search_includes_what_lies_outside_now():
    search(TOY_SPACE, 12)
    study = change_space("demo", NARROW, storage="s.db")
    finding = worth_finding(Evidence(study, NARROW))
    assert finding.figures["search_trainings"] == 12


def test_trials_outside_are_no_trials_without_improvement():
    search(TOY_SPACE, 12)
    study = change_space("demo", NARROW, storage="s.db")
    n_inside = outcomes(study).count("completed")
    assert NoImprovement(n_inside + 1)(study) is None


def test_a_table_of_a_changed_study_is_read_back():
    search(TOY_SPACE, 12)
    study = change_space("demo", NARROW, storage="s.db")
    n_inside = outcomes(study).count("completed")
    trials_frame(study).to_csv("trials.csv", index=False)
    assert len(read_record("trials.csv", NARROW).configurations) == n_inside

    # A table has no values of trials outside, but the study itself has.
    report = import_trials("trials.csv", NARROW, name="table", storage="i.db")
    causes = {str(row.cause) for row in report.left_out}
    assert (report.n_imported, causes) == (n_inside, {"outside the space"})
    report = import_trials(study, TOY_SPACE, name="whole", storage="i.db")
    assert report.n_imported == 12


def test_a_way_back_restores_what_was_outside():
    before = search(TOY_SPACE, 10, "bayes")
    change_space("demo", NARROW, storage="s.db")
    again = change_space("demo", TOY_SPACE, storage="s.db")
    assert again.study_name == "demo (version 3)"
    assert [t.state for t in again.trials] == [t.state for t in before.trials]
    assert [t.values for t in again.trials] == [t.values for t in before.trials]
    assert [t.params for t in again.trials] == [t.params for t in before.trials]
    assert [t.intermediate_values for t in again.trials] == [
        t.intermediate_values for t in before.trials
    ]
    assert recorded_trials(again) == recorded_trials(before)


def test_options_are_added_and_dropped_and_optuna_opens_it():
    search(TOY_SPACE, 8)
    more = search(MORE_OPTIONS, 10, change_space=True)
    assert outcomes(more) == ["completed"] * 10
    one = SearchSpace.from_yaml(
        OPTIONS.replace("[adamw, lion, sgd]", "[lion, sgd]").replace(
            "default: adamw", "default: sgd"
        )
    )
    fewer = search(one, 12, change_space=True)
    kept = [t.configuration["optimizer"] for t in recorded_trials(fewer) if t.is_completed]
    assert set(kept) <= {"lion", "sgd"}

    url = "sqlite:///s.db"
    names = optuna.get_all_study_names(url)
    assert names == ["demo", "demo (version 2)", "demo (version 3)"]
    loaded = optuna.load_study(study_name=names[-1], storage=url)
    loaded.trials_dataframe()
    assert loaded.best_value == incumbent(fewer).value
    assert set(optuna.importance.get_param_importances(loaded)) <= set(one.names)


def test_a_hyperparameter_that_is_added_or_dropped_counts_with_the_value_that_is_assumed():
    search(TOY_SPACE, 8)
    added = SearchSpace.from_yaml(
        TOY_SPACE.to_yaml() + "decay: {type: float, low: 0.0, high: 1.0, default: 0.5}\n"
    )
    study = change_space("demo", added, storage="s.db", assumed={"decay": 0.25})
    assert [t.params["decay"] for t in study.trials] == [0.25] * 8
    assert (
        "decay"
        not in recorded_trials(optuna.load_study(study_name="demo", storage="sqlite:///s.db"))[
            0
        ].configuration
    )

    # Dropped again: only trials with the value that the objective uses count.
    study = change_space("demo", TOY_SPACE, storage="s.db", assumed={"decay": 0.25})
    assert outcomes(study) == ["completed"] * 8
    study = change_space("demo", added, storage="s.db")
    assert outcomes(study) == ["outside"] * 8
    assert "decay: must have a value" in (recorded_trials(study)[0].record.outside or "")

    fixed = SearchSpace.from_yaml(TOY_SPACE.to_yaml() + "decay: {type: float, fixed: 0.1}\n")
    study = change_space("demo", fixed, storage="s.db")
    assert "not known" in (recorded_trials(study)[0].record.outside or "")

    for wrong in ({"lr": 0.1}, {"decay": 7.0}, {"nothing": 1}):
        with pytest.raises(SpaceError, match="assumed"):
            change_space("demo", TOY_SPACE, storage="s.db", assumed=wrong)


def test_what_else_was_changed_is_refused_before_the_space_is():
    search(TOY_SPACE, 3)
    with pytest.raises(StudyChangedError, match=r"go on as 'demo' .* change_space=True"):
        search(NARROW, 3)
    with pytest.raises(StudyChangedError, match="seed"):
        search(NARROW, 3, seed=7, change_space=True)
    assert optuna.get_all_study_names("sqlite:///s.db") == ["demo"]
    with pytest.raises(StudyError, match="no study 'other'"):
        change_space("other", NARROW, storage="s.db")
    with pytest.raises(StudyError, match="no such file"):
        change_space("demo", NARROW, storage="missing.db")


def test_a_study_that_runs_is_not_changed():
    search(TOY_SPACE, 3)
    backend = open_storage("s.db")
    study = optuna.load_study(study_name="demo", storage=backend)
    with hold_lease(study, backend), pytest.raises(StudyHeldError, match="is being written"):
        change_space("demo", NARROW, storage="s.db")


def test_trials_under_way_go_on_from_their_checkpoints_and_count_at_rungs():
    def stop_third(study, trial):
        if trial.number == 2:
            raise RuntimeError

    options = {"name": "demo", "storage": "s.db", "workers": 0, "rungs": (1,), "pruning": "median"}
    with pytest.raises(RuntimeError):
        run_study(Learner("log"), TOY_SPACE, "random", 6, callback=stop_third, **options)
    backend = open_storage("s.db")
    study = optuna.load_study(study_name="demo", storage=backend)
    running = study.ask()
    assert running.number == 3

    study = run_study(Learner("log"), NARROW, "random", 6, change_space=True, **options)
    assert len(own_trials(study)) == 6
    assert all(trial.is_finished for trial in recorded_trials(study))


def test_deleted_with_all_versions_and_retrained_in_the_last():
    search(TOY_SPACE, 6)
    retrain_top_k(bowl, "demo", 2, 2, storage="s.db", workers=0)
    search(NARROW, 8, change_space=True)
    frame = retrain_top_k(bowl, "demo", 2, 2, storage="s.db", workers=0)
    assert (frame["n"] >= 2).sum() >= 2
    assert study_name(open_study("demo", "s.db")) == "demo"
    delete_study("demo", "s.db")
    delete_study("demo finalists", "s.db")
    assert optuna.get_all_study_names("sqlite:///s.db") == []


@pytest.mark.parametrize("storage", ["memory"])
def test_a_study_in_memory_goes_on_too(storage):
    storage = optuna.storages.InMemoryStorage()
    search(TOY_SPACE, 4, storage=storage)
    study = search(MORE_OPTIONS, 6, storage=storage, change_space=True)
    assert len(study.trials) == 6


def test_a_held_value_searches_the_slice_with_all_that_is_known():
    search(TOY_SPACE, 12, "bayes")
    held = TOY_SPACE.fix(lr=0.1, optimizer="sgd")
    study = search(held, 18, "bayes", change_space=True)
    new = recorded_trials(study)[12:]
    assert {(t.configuration["lr"], t.configuration["optimizer"]) for t in new} == {(0.1, "sgd")}
    best = incumbent(study)
    assert best is not None
    assert held.contains(best.configuration)

    # Trials off the slice are no candidates, and the surrogate learns from them all the same.
    assert {"outside"} == set(outcomes(study)[:12]) - {"completed"}
    surrogate = fit_surrogate(study, held)
    assert len(surrogate.model.X_) == 18
    mean, _ = surrogate.predict([{**best.configuration, "momentum": 0.9, "depth": 8}])
    assert mean[0] < 0.5

    wide = search(held.fix(lr=None, optimizer=None), 20, "bayes", change_space=True)
    assert outcomes(wide) == ["completed"] * 20


def test_the_command_line_does_the_same_and_refuses_with_one_sentence(capsys):
    search(TOY_SPACE, 6)
    NARROW.save("narrow.yaml")

    def hpo_lib(*arguments: str) -> tuple[int, str]:
        code = main(["studies", "--storage", "s.db", *arguments])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    assert "study demo goes on" in hpo_lib("--change-space", "demo", "narrow.yaml")[1]
    assert study_space(open_study("demo", "s.db")) == NARROW
    assert "narrower" in hpo_lib("--note", "demo", "narrower")[1]
    code, text = hpo_lib("--best", "demo")
    assert (code, read_yaml(text)[0]) == (0, incumbent(open_study("demo", "s.db")).configuration)
    assert hpo_lib("--promote", "demo", "0")[0] == 2
    assert "must be a whole number, got 'x'" in hpo_lib("--promote", "demo", "x")[1]
    assert hpo_lib("--change-space", "other", "narrow.yaml")[0] == 2
    assert hpo_lib("--change-space", "demo", "missing.yaml")[0] == 1


def test_a_new_study_takes_what_lies_outside_of_the_last_space_of_an_earlier_one():
    search(TOY_SPACE, 6)
    change_space("demo", NARROW, storage="s.db")
    study = search(TOY_SPACE, 1, name="new", warm_start_from="demo")
    copies = [t for t in recorded_trials(study) if not t.is_own]
    assert len(copies) == 6
    assert {t.outcome for t in copies} == {"completed"}


def test_nothing_is_queued_in_a_version_that_was_left():
    study = search(TOY_SPACE, 3)
    change_space("demo", NARROW, storage="s.db")
    with pytest.raises(StudyError, match="gone on in another version"):
        queue_trial(study, TOY_SPACE.default_configuration() | {"depth": 10})
