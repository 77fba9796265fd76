from __future__ import annotations

import math
import sys
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from hpo_lib.exceptions import StudyChangedError, StudyError, StudyHeldError, StudyStoppedError
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import delete_study, list_studies, open_study, trials_frame
from hpo_lib.study.lease import LEASE_SECONDS, Lease
from hpo_lib.study.run import estimate_cost, run_study
from hpo_lib.study.workers.base import Evaluation, Failure, InProcess
from hpo_lib.trials import StudyRecord, recorded_trials, stop_reason, study_space, write_lease
from tests.toys import TOY_SPACE, Learner, bowl, record_of


def run(name="toy", strategy="random", n_trials=6, objective=bowl, **options):
    options.setdefault("workers", 0)
    return run_study(objective, TOY_SPACE, strategy, n_trials, name=name, **options)


def run_in_memory(name="toy", **options):
    return run(name, storage="memory", **options)


def configurations(study):
    return [record_of(t).configuration for t in study.trials]


def test_the_default_configuration_is_tried_first():
    study = run_in_memory()
    assert configurations(study)[0] == TOY_SPACE.default_configuration()
    assert len(study.trials) == 6
    assert study.best_value == min(t.value for t in study.trials)


def test_without_the_default_all_trials_are_the_strategys():
    assert (
        configurations(run_in_memory(default_first=False))[0] != TOY_SPACE.default_configuration()
    )


def test_a_recorded_configuration_is_whole_and_plain():
    for configuration in configurations(run_in_memory(n_trials=12)):
        assert configuration["width"] == 3
        assert ("momentum" in configuration) == (configuration["optimizer"] == "sgd")
        assert {type(value) for value in configuration.values()} <= {float, int, str}


def test_a_complete_study_returns_without_evaluating():
    calls = []

    def counted(configuration):
        calls.append(configuration)
        return bowl(configuration)

    assert configurations(run(objective=counted)) == configurations(run(objective=counted))
    assert len(calls) == 6


def test_more_trials_go_on_where_it_stopped():
    longer = configurations(run(name="long", n_trials=8))
    run(n_trials=3)
    assert configurations(run(n_trials=8)) == longer


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, r"\+ seed: 1"),
        ({"strategy": "grid"}, r"\+ strategy: grid"),
        ({"objective": lambda c: 0.0}, "objective.content.code"),
        ({"default_first": False}, "default_first: False"),
    ],
)
def test_changed_settings_are_refused_with_the_difference(change, difference):
    run()
    with pytest.raises(StudyChangedError, match=difference) as error:
        run(**change)
    comparable = "objective" not in change
    assert ("choose a new name, with warm_start_from='toy'" in str(error.value)) == comparable
    assert ("a new name: the values do not compare" in str(error.value)) != comparable


def test_a_changed_space_is_refused_with_the_difference():
    run()
    wider = TOY_SPACE.from_yaml(TOY_SPACE.to_yaml().replace("high: 10", "high: 12"))
    with pytest.raises(StudyChangedError, match=r"\+ depth: .*high: 12"):
        run_study(bowl, wider, "random", 6, name="toy", workers=0)


def test_evidence_comes_along_and_does_not_count():
    run(n_trials=10)
    narrow = TOY_SPACE.from_yaml(TOY_SPACE.to_yaml().replace("low: 2", "low: 4"))
    study = run_study(bowl, narrow, "random", 4, name="narrow", workers=0, warm_start_from="toy")
    copied = [t for t in recorded_trials(study) if not t.is_own]
    assert copied
    assert len(study.trials) == len(copied) + 4
    assert all(t.params["depth"] >= 4 for t in copied)
    with pytest.raises(StudyChangedError, match="values do not compare"):
        run_study(lambda c: 0.0, narrow, "random", 4, name="x", workers=0, warm_start_from="toy")


def test_failures_are_recorded_and_survived():
    def sometimes(configuration):
        if configuration["optimizer"] == "sgd":
            message = "no luck with sgd"
            raise RuntimeError(message)
        return math.nan if configuration["depth"] > 4 else 1.0

    study = run(objective=sometimes, n_trials=14, max_failures=14)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    reasons = {record_of(t).reason for t in failed}
    assert reasons == {
        "RuntimeError: no luck with sgd",
        "the objective returned (nan,), not finite numbers",
    }
    raised = [t for t in failed if record_of(t).status == "failed"]
    assert "no luck with sgd" in record_of(raised[0]).traceback
    assert len(study.trials) == 14


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinity_fails_its_trial(bad):
    study = run(objective=lambda c: bad if c["depth"] == 4 else 1.0, storage="memory", n_trials=8)
    assert (
        record_of(study.trials[0]).reason == f"the objective returned ({bad},), not finite numbers"
    )
    assert {t.state for t in study.trials} == {TrialState.FAIL, TrialState.COMPLETE}
    assert study.best_value == 1.0


def test_failures_in_a_row_stop_the_study_with_the_reasons():
    def broken(configuration):
        raise KeyError(configuration["depth"])

    with pytest.raises(StudyStoppedError, match=r"3 trials failed in a row(?s:.*)KeyError: 4"):
        run(objective=broken, max_failures=3)
    assert len(open_study("toy").trials) == 3


def test_a_callback_ends_the_study():
    study = run(callback=lambda study, trial: trial.number == 2)
    assert len(study.trials) == 3
    assert stop_reason(study) == "stopped by the callback"
    assert len(run().trials) == 6


def test_a_grid_ends_by_itself():
    space = TOY_SPACE.from_yaml("depth: {type: int, low: 2, high: 6, step: 2, default: 4}")
    study = run_study(
        lambda c: c["depth"], space, "grid", 50, name="g", workers=0, storage="memory"
    )
    assert sorted(t.params["depth"] for t in study.trials) == [2, 4, 6]
    assert "every configuration" in stop_reason(study)


def test_segments_go_from_checkpoint_to_checkpoint(tmp_path):
    log = tmp_path / "log"
    study = run(objective=Learner(str(log)), rungs=(1, 3), n_trials=2)
    spans = [tuple(map(int, line.split()[2:])) for line in log.read_text().splitlines()]
    assert spans == [(0, 1), (1, 3), (3, 4)] * 2
    trial = study.trials[0]
    assert len(record_of(trial).validation_error) == 4
    assert list(trial.intermediate_values) == [1, 2, 3, 4]
    assert trial.value == record_of(trial).validation_error[-1]
    assert not list(tmp_path.rglob("*.json"))


def test_values_do_not_depend_on_the_rungs(tmp_path):
    one = run_in_memory(objective=Learner(str(tmp_path / "a")), name="one")
    many = run_in_memory(objective=Learner(str(tmp_path / "b")), name="many", rungs=(1, 2))
    assert [t.value for t in one.trials] == [t.value for t in many.trials]


@pytest.mark.parametrize("rungs", [(0,), (4,), (2, 1), (2, 2)])
def test_rungs_outside_the_budget_are_refused(rungs, tmp_path):
    with pytest.raises(ValueError, match="rungs must rise within 1 to 3"):
        run_in_memory(objective=Learner(str(tmp_path / "log")), rungs=rungs)


def test_a_second_driver_is_refused_with_who_holds_it():
    study = run()
    lease = Lease(study)
    lease.acquire()
    with pytest.raises(StudyHeldError, match=r"'toy' is being written by process \d+ on "):
        run(n_trials=9)
    with pytest.raises(StudyError, match="stop that first"):
        delete_study("toy")
    lease.release()
    assert len(run(n_trials=9).trials) == 9


def test_a_stale_lease_is_taken_over():
    study = run()
    lease = {"token": "x", "host": "elsewhere", "pid": 1, "process_started": 0}
    write_lease(study, {**lease, "renewed": time.time()})
    with pytest.raises(StudyHeldError, match="written by process 1 on elsewhere"):
        run(n_trials=7)
    write_lease(study, {**lease, "renewed": time.time() - LEASE_SECONDS})
    assert len(run(n_trials=7).trials) == 7


def test_a_driver_that_lost_its_lease_stops():
    def steal(study, trial):
        write_lease(study, {"token": "thief", "pid": 7, "host": "h"})

    with pytest.raises(StudyHeldError, match="taken over by process 7 on h"):
        run(callback=steal)


def test_studies_are_listed_opened_and_deleted():
    run("a")
    run("b", strategy="grid", n_trials=3)
    frame = list_studies().set_index("name")
    assert list(frame.trials) == [6, 3]
    assert list(frame.strategy) == ["random", "grid"]
    assert study_space(open_study("a")) == TOY_SPACE
    delete_study("a")
    assert list(list_studies().name) == ["b"]
    with pytest.raises(StudyError, match=r"no study 'a' .* there are: \['b'\]"):
        open_study("a")


def test_a_study_of_others_is_read_but_not_continued():
    other = optuna.create_study(storage="sqlite:///other.db", study_name="toy")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyChangedError, match="run_study did not make"):
        run(storage="other.db")
    assert len(trials_frame(open_study("toy", "other.db"))) == 1


def test_a_file_that_holds_no_studies_is_refused(tmp_path):
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StudyError, match=r"garbage\.db"):
        run(storage="garbage.db")


def test_the_frame_tells_the_whole_story():
    frame = trials_frame(run_in_memory(n_trials=8))
    assert list(frame.number) == list(range(8))
    assert list(frame.best) == list(frame.value.cummin())
    assert {"lr", "depth", "width", "seconds", "suggest_seconds", "worker"} <= set(frame.columns)
    assert (frame.finished >= frame.started).all()


def test_a_hyperparameter_called_like_a_column_hides_nothing():
    space = TOY_SPACE.from_yaml("value: {type: float, low: 0, high: 1, default: 0.25}")
    study = run_study(
        lambda c: c["value"] + 1, space, "random", 1, name="v", workers=0, storage="memory"
    )
    frame = trials_frame(study)
    assert (frame.value[0], frame.param_value[0]) == (1.25, 0.25)


def test_an_empty_study_has_an_empty_frame():
    empty = optuna.create_study(storage="sqlite:///e.db", study_name="e")
    assert list(trials_frame(empty)["best"]) == []


def test_cost_is_estimated_from_measured_epochs():
    class Fixed:
        budget = 10

        @property
        def settings(self):
            return {}

        def __call__(self, configuration, segment: Segment) -> SegmentResult:
            assert (segment.start, segment.stop) == (0, 2)
            seconds = 2.0 if configuration["optimizer"] == "sgd" else 1.0
            # The first epoch of a network takes longer, and there is one of them in a trial.
            return SegmentResult((1.0,) * 2, (1.0,) * 2, (1.0,) * 2, (seconds + 0.5, seconds))

    estimate = estimate_cost(Fixed(), TOY_SPACE, 6, workers=2, n_samples=8)
    assert estimate.n == 8
    assert 31.5 <= estimate.lowest < estimate.seconds < estimate.highest <= 61.5


def test_the_range_of_an_estimate_holds_most_studies_and_is_narrow():
    space = SearchSpace.from_yaml("width: {type: float, low: 0.0, high: 1.0, default: 0.4}")

    def seconds(configuration) -> float:
        return float(np.exp(3 * configuration["width"]))

    class Timed(Returning):
        def __call__(self, configuration, segment):
            return SegmentResult((1.0,), (1.0,), (1.0,), (seconds(configuration),))

    n_inside = 0
    for seed in range(100):
        estimate = estimate_cost(Timed(None, budget=1), space, 20, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        spent = sum(seconds(space.sample(rng)) for _ in range(20))
        n_inside += estimate.lowest <= spent <= estimate.highest
        assert estimate.highest <= 20 * np.exp(3)
    assert n_inside >= 80


def pruned_run(name, log, **options):
    learner = Learner(str(log), epochs=9)
    return run(name, objective=learner, n_trials=12, **options)


@pytest.fixture
def memory():
    return optuna.storages.InMemoryStorage()


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["asha", "hyperband", "median"])
def test_pruned_trials_count_as_budget_and_never_as_incumbent(pruning, tmp_path):
    study = pruned_run("p", tmp_path / "log", pruning=pruning, checkpoint_quota=0)
    states = [t.state for t in study.trials]
    assert len(states) == 12
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)
    frame = trials_frame(study)
    assert list(frame.value.isna()) == [state == TrialState.PRUNED for state in states]
    assert frame.best.iloc[-1] == study.best_value == frame.value.min()
    pruned = frame[frame.state == "pruned"]
    assert set(pruned.status) == {"pruned"}
    assert pruned.reason.str.contains("of 9 epochs").all()
    epochs = [len(record_of(t).validation_error) for t in study.trials]
    assert set(epochs) <= ({1, 3, 9} if pruning == "hyperband" else {1, 2, 4, 9})
    segments = [line.split()[2:] for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(int(stop) - int(start) for start, stop in segments) == sum(epochs)
    assert list_studies().pruned[0] == states.count(TrialState.PRUNED)
    assert not list(tmp_path.rglob("*.json"))
    again = pruned_run("other name", tmp_path / "log", pruning=pruning)
    assert [t.state for t in again.trials] == states


def test_a_study_keeps_the_rungs_that_it_was_begun_with(tmp_path, memory):
    options = {"pruning": "asha", "storage": memory}
    run("p", objective=Learner(str(tmp_path / "log"), epochs=9), rungs=[1, 3], **options)
    study = pruned_run("p", tmp_path / "log", **options)
    assert {len(record_of(trial).validation_error) for trial in study.trials} <= {1, 3, 9}
    with pytest.raises(StudyChangedError, match="rungs"):
        pruned_run("p", tmp_path / "log", rungs=[1, 2, 4], **options)


def test_changed_pruning_is_refused(tmp_path, memory):
    pruned_run("p", tmp_path / "log", pruning="asha", storage=memory)
    for change in ({}, {"pruning": "median"}, {"pruning": "asha", "reduction_factor": 4}):
        with pytest.raises(StudyChangedError, match=r"pruning|reduction_factor"):
            pruned_run("p", tmp_path / "log", storage=memory, **change)
    plain = pruned_run("plain", tmp_path / "log", storage=memory)
    same = pruned_run("plain", tmp_path / "log", pruning="none", storage=memory)
    assert len(same.trials) == len(plain.trials) == 12


def test_a_pruner_of_optunas_may_be_handed_in(tmp_path, memory):
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = pruned_run("p", tmp_path / "log", pruning=pruner, storage=memory)
    assert TrialState.PRUNED in {t.state for t in study.trials}
    with pytest.raises(StudyChangedError, match=r"pruning: optuna\.pruners\._successive"):
        pruned_run("p", tmp_path / "log", pruning="asha", storage=memory)


def test_pruning_is_refused_where_nothing_can_be_stopped():
    with pytest.raises(ValueError, match="pruning needs a budget of at least 2 epochs, got 1"):
        run_in_memory(pruning="asha")


@pytest.mark.parametrize("name", [".", "..", "試" * 40])
def test_odd_names_keep_to_their_own_folder(name):
    other = Path("results/studies.db.checkpoints/other/00000/epoch_1.pt")
    other.parent.mkdir(parents=True)
    other.touch()
    run(name)
    delete_study(name)
    assert other.exists()
    assert Path("results/studies.db").exists()


def test_numbers_may_be_numpys_but_must_be_whole():
    study = run(seed=np.int64(3), n_trials=np.int64(2))
    assert configurations(study) == configurations(run("other", seed=3, n_trials=2))
    with pytest.raises(TypeError, match=r"n_trials must be a whole number, got 2\.5"):
        run(n_trials=2.5)


def test_evidence_that_is_not_there_leaves_the_name_free():
    run("base")
    with pytest.raises(StudyError, match="no study 'bsae'"):
        run("next", warm_start_from="bsae")
    assert len(run("next", warm_start_from="base").trials) == 12


def test_evidence_of_which_none_lies_inside_is_refused():
    run("base")
    wider = SearchSpace.from_yaml(f"{TOY_SPACE.to_yaml()}new: {{type: int, low: 1, high: 3}}\n")
    with pytest.raises(StudyChangedError, match="must have a trial inside the space, got 6"):
        run_study(bowl, wider, "random", 2, name="w", workers=0, warm_start_from="base")


@dataclass
class Returning:
    result: Any
    budget: int = 2
    settings: ClassVar = {}

    def __call__(self, configuration, segment):
        return self.result


SHORT = SegmentResult((1.0,), (1.0,), (1.0,), (1.0,))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (0.5, "TypeError: objective must return a SegmentResult, got 0.5"),
        (
            SHORT,
            "ValueError: objective must return curves of one length, the segment's 2 epochs",
        ),
    ],
)
def test_what_is_no_result_is_a_failed_trial(result, reason):
    study = run_in_memory(objective=Returning(result), n_trials=1)
    assert record_of(study.trials[0]).reason.startswith(reason)


def test_a_checkpoint_may_be_a_path():
    two = (1.0, 1.0)
    run(objective=Returning(SegmentResult(two, two, two, two, Path("x.pt"))), n_trials=1)


def test_settings_that_are_not_json_are_refused():
    class Odd(Returning):
        settings: ClassVar = {"file": Path("x")}

    with pytest.raises(TypeError, match="settings of the objective must be JSON, got"):
        run_in_memory(objective=Odd(SHORT))


def test_an_objective_that_exits_is_a_failed_trial():
    study = run_in_memory(objective=lambda c: sys.exit(3), n_trials=1)
    assert record_of(study.trials[0]).reason == "SystemExit: 3"


@pytest.mark.filterwarnings("ignore:Fixed parameter lr with value 50.0")
def test_a_trial_queued_outside_the_space_fails_and_the_next_goes_on():
    run(n_trials=1)
    outside = {**TOY_SPACE.default_configuration(), "lr": 50.0}
    open_study("toy").enqueue_trial(outside)
    study = run(n_trials=3)
    assert [t.state for t in study.trials[1:]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "queued outside the space: {" in record_of(study.trials[1]).reason


class LosesEachOnce(InProcess):
    """Loses every segment the first time."""

    def __init__(self):
        self.seen = set()

    def submit(self, objective, configuration, segment):
        if segment in self.seen:
            return super().submit(objective, configuration, segment)
        self.seen.add(segment)
        future = Future()
        future.set_result(Evaluation(Failure("lost", "gone"), "x", 0.0, 1.0))
        return future


def test_each_segment_may_be_lost_twice(tmp_path):
    learner = Learner(str(tmp_path / "log"), epochs=9)
    pool = LosesEachOnce()
    study = run_in_memory(objective=learner, n_trials=1, rungs=(1, 2, 3, 4, 5), workers=pool)
    assert study.trials[0].state == TrialState.COMPLETE


class AllAtOnce(InProcess):
    """Evaluates three side by side and hands them over together."""

    slots = 3

    def __init__(self):
        self.given = []

    def submit(self, objective, configuration, segment):
        self.given.append((Future(), (objective, configuration, segment)))
        return self.given[-1][0]

    def wait(self, running):
        for future, work in self.given:
            future.set_result(super().submit(*work).result())
        self.given.clear()
        return set(running)


def test_what_ended_beside_a_failure_is_recorded_before_the_study_stops():
    def first_fails(configuration):
        if configuration == TOY_SPACE.default_configuration():
            raise ArithmeticError
        return bowl(configuration)

    with pytest.raises(StudyStoppedError):
        run(objective=first_fails, workers=AllAtOnce(), max_failures=1)
    states = [trial.state for trial in open_study("toy").trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_an_estimate_counts_whole_rounds_and_what_diverged():
    class Diverging(Returning):
        budget = 10

        def __call__(self, configuration, segment):
            return SegmentResult((), (), (), (), status="diverged")

    assert estimate_cost(Diverging(None), TOY_SPACE, 2).lowest > 0
    one = SegmentResult((1.0,), (1.0,), (1.0,), (1.0,))
    assert estimate_cost(Returning(one, budget=10), TOY_SPACE, 2, workers=8).seconds == 10.0


def test_another_option_of_a_sampler_is_another_setting():
    def search(n_trials: int, **options: Any) -> optuna.Study:
        sampler = BayesSampler(0, TOY_SPACE, **options)
        return run_study(bowl, TOY_SPACE, sampler, n_trials, name="options", workers=0)

    search(2, acq_func="EI")
    with pytest.raises(
        StudyChangedError, match=r"- sampler.acq_func: EI\n.*\+ sampler.acq_func: LCB"
    ):
        search(3, acq_func="LCB")
    with pytest.raises(StudyChangedError, match=r"\+ sampler.prior_std.lr: 0.1"):
        search(3, prior_std={"lr": 0.1})
    assert len(search(3, acq_func="EI").trials) == 3

    # Version 0.1.0 recorded the class alone.
    study = open_study("options")
    record = StudyRecord.of(study)
    settings = {key: value for key, value in record.settings.items() if key != "sampler"}
    record.write(study, settings=settings)
    assert len(search(4, acq_func="EI").trials) == 4
