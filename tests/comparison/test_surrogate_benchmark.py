from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo_lib.comparison.run import compare, replay
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective, SurrogateQualityWarning
from hpo_lib.comparison.training_records import Record, read_record, study_record
from hpo_lib.loop import as_objective
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from hpo_lib.trials import StudyRecord
from tests.comparison.trainings import (
    EPOCHS,
    GRID,
    curve,
    grid_trainings,
    line_record,
    whole,
    write_record,
)
from tests.toys import TOY_SPACE, Learner, bowl, record_of


@pytest.mark.slow
def test_a_surrogate_ranks_what_it_has_not_seen(surrogate):
    assert surrogate.quality.warning is None
    assert surrogate.quality.spearman > 0.9
    rng = np.random.default_rng(1)
    fresh = [TOY_SPACE.sample(rng) for _ in range(300)]
    order = np.argsort(surrogate.predict(fresh)[:, -1])
    values = np.array([bowl(one) for one in fresh])[order]
    assert values[:60].mean() < values.mean() / 2


@pytest.mark.slow
def test_trust_is_cross_validated_by_configuration(tmp_path):
    """Errors without a trend, each seen three times: whoever splits by repeat would know them."""
    rng = np.random.default_rng(0)
    drawn = [TOY_SPACE.sample(rng) for _ in range(60)]
    trainings = [(one, curve(value)) for one in drawn for value in [rng.random()] * 3]
    record = read_record(write_record(tmp_path / "toy.csv", TOY_SPACE, trainings))
    with pytest.warns(SurrogateQualityWarning, match=r"rank correlation -?0\.\d\d < 0.8, n = 60"):
        trust = SurrogateObjective(record).quality
    assert abs(trust.spearman) < 0.5
    assert trust.r2 < 0.3
    assert (trust.n_trainings, trust.n_repeated) == (180, 60)
    assert "Warning" in str(trust)


@pytest.mark.slow
def test_noise_is_that_between_seeds(surrogate):
    assert 0.08 < surrogate.quality.noise < 0.12
    one = TOY_SPACE.complete({"optimizer": "adamw", "lr": 0.001, "depth": 4})
    finals = [surrogate(one, whole(seed)).validation_error[-1] for seed in range(200)]
    mean = surrogate.predict([one])[0, -1]
    assert np.mean(finals) == pytest.approx(mean, abs=0.05)
    assert 0.04 < np.std(finals) < 0.2


@pytest.mark.slow
def test_segments_join_to_the_whole_training(surrogate):
    one = TOY_SPACE.default_configuration()
    parts = [surrogate(one, whole(5, start=at, stop=at + 1)) for at in range(EPOCHS)]
    joined = surrogate(one, whole(5))
    assert sum((part.validation_error for part in parts), ()) == joined.validation_error
    assert joined.seconds == pytest.approx((2.5,) * EPOCHS)
    assert list(joined.validation_error) == sorted(joined.validation_error, reverse=True)


def test_an_error_is_never_below_zero_where_a_training_was_stopped(tmp_path):
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 0.5}\n")
    xs = np.linspace(0, 1, 15)
    errors = np.column_stack([xs + 0.5, np.maximum(xs - 0.5, 0)])
    errors[0, -1] = np.nan
    record = Record(space, tuple({"x": x} for x in xs.tolist()), errors, 1 + 0 * errors, "toy")
    surrogate = SurrogateObjective(record)  # no configuration has a second seed
    between = [{"x": x} for x in np.linspace(0, 1, 101).tolist()]
    finals = [surrogate(one, whole(stop=2, budget=2)).validation_error[-1] for one in between]
    assert surrogate.predict(between)[:, -1].min() < 0
    assert min(finals) == 0


def test_a_surrogate_knows_the_best_where_errors_differ_by_orders():
    space = SearchSpace.from_yaml(
        "x: {type: float, low: 0.0, high: 1.0}\ny: {type: float, low: 0.0, high: 1.0}\n"
    )
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(400)]

    def error(c):
        return 1e-3 * math.exp(15 * ((c["x"] - 0.3) ** 2 + (c["y"] - 0.6) ** 2))

    errors = np.array([[error(one)] for one in drawn[:60]])
    surrogate = SurrogateObjective(Record(space, tuple(drawn[:60]), errors, errors, "toy"))
    found = surrogate.predict(drawn[60:])[:, 0]
    best = [error(drawn[60 + index]) for index in np.argsort(found)[:10]]
    assert np.sort(found)[:10] == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(12),
        np.full(12, -1.0),
        np.r_[0.0, np.full(11, 2.0)],
        np.r_[1e-300, np.linspace(0.1, 1, 11)],
        np.r_[0.0, 1e-300, np.linspace(0.1, 1, 10)],
        np.linspace(0, 3, 12),
        np.linspace(-3, -1, 12),
        np.linspace(-1e9, 1e9, 12),
    ],
    ids=["zeros", "equal", "one zero", "one tiny", "zero, tiny", "from zero", "negative", "both"],
)
@pytest.mark.filterwarnings(
    "ignore::hpo_lib.comparison.surrogate_benchmark.SurrogateQualityWarning"
)
def test_a_surrogate_takes_any_values(values):
    record = line_record(values)
    found = SurrogateObjective(record).predict(record.configurations)[:, 0]
    assert np.abs(found - values).max() <= 0.1 * max(np.ptp(values), 1e-9)


def test_few_configurations_make_no_surrogate(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()))
    with pytest.raises(ValueError, match=r"at least 10 configurations .* got 6 in grid\.csv"):
        SurrogateObjective(record)


@pytest.mark.slow
def test_a_study_becomes_a_record(tmp_path):
    learner = Learner(str(tmp_path / "log"))
    study = run_study(
        learner, TOY_SPACE, "random", 12, name="s", storage="memory", workers=0, rungs=[2]
    )
    record = study_record(study)
    assert record.errors.shape == (12, learner.budget)
    assert record.best == study.best_value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        surrogate = SurrogateObjective(record)
    assert surrogate.quality.n_repeated == 0
    assert math.isnan(surrogate.quality.noise)
    assert "none was trained twice" in str(surrogate.quality)


@pytest.mark.slow
def test_a_stopped_trial_counts_up_to_where_it_was_stopped(toy_record):
    errors = toy_record.errors.copy()
    stopped = errors[:, 0] > np.median(errors[:, 0])
    errors[stopped, 1:] = np.nan
    kind = type(toy_record)
    record = kind(TOY_SPACE, toy_record.configurations, errors, toy_record.seconds, "stopped")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        surrogate = SurrogateObjective(record)
    assert surrogate.quality.n_trainings == int((~stopped).sum())
    worst = toy_record.configurations[int(np.argmax(errors[:, 0]))]
    first, *later = surrogate.predict([worst])[0]
    assert first > np.median(errors[:, 0])
    assert np.isfinite(later).all()


@pytest.mark.slow
def test_a_pruned_study_on_a_surrogate_keeps_to_full_trainings(surrogate):
    options = {"workers": 0, "storage": "memory", "pruning": "asha"}
    study = run_study(surrogate, TOY_SPACE, "bayes", 20, name="p", rungs=(1, 2), **options)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert len(pruned) > 5
    assert {len(record_of(t).validation_error) for t in pruned} <= {1, 2}
    assert study.best_trial.state == TrialState.COMPLETE
    record = study_record(study)
    assert np.isfinite(record.errors[:, -1]).sum() == 20 - len(pruned)
    # the stopped part of a training is that of the whole one
    one = pruned[0]
    again = surrogate(record_of(one).configuration, whole(trial_seed(0, one.number)))
    stopped = record_of(one).validation_error
    assert list(again.validation_error)[: len(stopped)] == list(stopped)


def test_both_models_predict_and_say_which_they_are(toy_record, surrogate):
    trees = SurrogateObjective(toy_record, model="trees")
    assert surrogate.quality.spearman > trees.quality.spearman > 0.8
    assert surrogate.settings != trees.settings
    one = TOY_SPACE.default_configuration()
    assert trees.predict([one]).shape == surrogate.predict([one]).shape == (1, EPOCHS)
    assert "n = 120 configurations" in trees.quality.caption
    with pytest.raises(ValueError, match="model must be one of gp, trees, got 'forest'"):
        SurrogateObjective(toy_record, model="forest")


def test_a_study_on_a_surrogate_goes_on_whatever_its_file_is_called(toy_record):
    surrogate = SurrogateObjective(toy_record, model="trees")
    renamed = SurrogateObjective(replace(toy_record, source="other.csv"), model="trees")
    assert renamed.settings == surrogate.settings

    # As earlier versions recorded it.
    study = run_study(surrogate, TOY_SPACE, "random", 2, name="s", workers=0)
    record = StudyRecord.of(study)
    named = {**surrogate.settings, "surrogate": toy_record.settings}
    record.write(study, settings={**record.settings, "objective": named})
    assert len(run_study(surrogate, TOY_SPACE, "random", 3, name="s", workers=0).trials) == 3


def test_what_rests_on_a_surrogate_says_so(surrogate):
    replayed = replay(surrogate, TOY_SPACE, ["random"], [0], 2)
    recorded = compare(surrogate, TOY_SPACE, ["random"], [0], 2, storage="memory", workers=0)
    assert (
        replayed.attrs["surrogate_quality"]
        == recorded.attrs["surrogate_quality"]
        == surrogate.quality
    )
    assert (
        "surrogate_quality" not in replay(as_objective(bowl), TOY_SPACE, ["random"], [0], 2).attrs
    )
