"""Studies that version 0.1.0 recorded (at commit ce7af7b) open, go on and draw in this one.

`data/studies_0_1.db.gz` holds four: "killed", whose driver was killed while trial 8 ran; "old", of
`gp_minimize`; and "later", which took the trials of "earlier" as evidence. The functions below are
the calls that made them, and the values are those that the same version came to undisturbed.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from skopt.space import Categorical, Integer, Real

from hpo_lib import gp_minimize, list_studies, open_study, run_study, trials_frame
from hpo_lib.plots.study import (
    any_time_data,
    learning_curves_data,
    plot_any_time,
    plot_learning_curves,
    plot_timeline,
)
from hpo_lib.plots.trials import plot_slices
from tests.toys import TOY_SPACE, Fragile, bowl, listed_bowl

RECORDED = Path(__file__).parent / "data" / "studies_0_1.db.gz"

SGD = "sgd"
ADAMW = "adamw"

# What became of each trial, its value, and its configuration without the fixed width.
UNDISTURBED = [
    ("complete", 3.112098111111111, {"optimizer": ADAMW, "lr": 0.01, "depth": 4}),
    (
        "pruned",
        None,
        {
            "optimizer": SGD,
            "lr": 0.0034825435459217144,
            "momentum": 0.8700746819376945,
            "depth": 4,
        },
    ),
    (
        "fail",
        None,
        {
            "optimizer": SGD,
            "lr": 0.3466275696421165,
            "momentum": 0.12692225724458694,
            "depth": 10,
        },
    ),
    ("pruned", None, {"optimizer": ADAMW, "lr": 0.00013109821965862764, "depth": 4}),
    ("complete", 1.5106814749705129, {"optimizer": ADAMW, "lr": 0.2435688425059843, "depth": 6}),
    ("pruned", None, {"optimizer": ADAMW, "lr": 0.9992004447629835, "depth": 2}),
    (
        "complete",
        1.3614684654630034,
        {"optimizer": SGD, "lr": 1.0, "momentum": 0.9037887137516847, "depth": 6},
    ),
    (
        "pruned",
        None,
        {"optimizer": SGD, "lr": 0.9248607173044704, "momentum": 0.0, "depth": 6},
    ),
    (
        "complete",
        0.4887171448085862,
        {"optimizer": SGD, "lr": 0.21998057668780505, "momentum": 1.0, "depth": 6},
    ),
    # From here on by the sampler of today, which learns where trials fail.
    (
        "complete",
        0.1298295565886156,
        {"optimizer": SGD, "lr": 0.12262372911734087, "momentum": 1.0, "depth": 8},
    ),
    (
        "complete",
        0.17642676553424866,
        {"optimizer": SGD, "lr": 0.05842485664992468, "momentum": 1.0, "depth": 8},
    ),
    (
        "complete",
        0.13517733586171296,
        {"optimizer": SGD, "lr": 0.09572450487926723, "momentum": 0.747068305749451, "depth": 8},
    ),
]
N_BEFORE_THE_KILL = 8  # the next trial was running

MINIMIZED = [
    0.49000000000000005,
    0.832864505830004,
    0.4581821584622285,
    1.6285422437070622,
    2.401038448904637,
    1.989546714157963,
    0.7002263704302871,
    0.3275488354453937,
]
MINIMIZED_LATER = [
    0.7275488354453937,
    0.301516808277716,
    0.3164604777203741,
    0.2544560616738032,
]

EARLIER_BEST = 5.027946873493124e-05
LATER_VALUES = [3.0, 0.00026766624838769773, 0.006756733307788666]


def killed_search(storage: Path, log: Path, kill_at: int = 0) -> optuna.Study:
    learner = Fragile(str(log), epochs=9, kill="driver" if kill_at else "", kill_at=kill_at)
    return run_study(
        learner,
        TOY_SPACE,
        "bayes",
        12,
        name="killed",
        storage=storage,
        seed=2,
        workers=0,
        pruning="asha",
    )


def old_minimization(storage: Path, n_calls: int) -> Any:
    dimensions = [Real(-1.0, 2.0), Integer(1, 9), Categorical(["a", "b", "c"])]
    return gp_minimize(
        listed_bowl,
        dimensions,
        n_calls,
        n_initial_points=4,
        x0=[0.0, 2, "b"],
        name="old",
        storage=storage,
    )


def earlier_search(storage: Path) -> optuna.Study:
    return run_study(bowl, TOY_SPACE, "bayes", 26, name="earlier", storage=storage, workers=0)


def later_search(storage: Path) -> optuna.Study:
    return run_study(
        bowl,
        TOY_SPACE,
        "bayes",
        3,
        name="later",
        storage=storage,
        seed=1,
        workers=0,
        warm_start_from="earlier",
    )


# -------------------------------------------------------------------------------- the record


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A copy of the recorded file."""
    file = tmp_path / "studies.db"
    file.write_bytes(gzip.decompress(RECORDED.read_bytes()))
    return file


def own_rows(study: optuna.Study) -> list[tuple[str, float | None, dict[str, Any]]]:
    """Return the state, value and searched configuration of each trial of a study's own."""
    rows: list[tuple[str, float | None, dict[str, Any]]] = []
    for record in own_frame(study).to_dict("records"):
        value = None if math.isnan(record["value"]) else record["value"]
        names = [p.name for p in TOY_SPACE.searched]
        configuration = {n: record[n] for n in names if not pd.isna(record[n])}
        rows.append((record["state"], value, configuration))
    return rows


def own_frame(study: optuna.Study) -> pd.DataFrame:
    frame = trials_frame(study)
    return frame[frame["warm_start"].isna()].reset_index(drop=True)


def expect(
    found: list[tuple[str, float | None, dict[str, Any]]],
    expected: list[tuple[str, float | None, dict[str, Any]]],
) -> None:
    """Compare to nine digits: another processor may round another way."""
    assert [state for state, _, _ in found] == [state for state, _, _ in expected]
    for (_, value, configuration), (_, known, recorded) in zip(found, expected, strict=True):
        assert value == (None if known is None else pytest.approx(known, rel=1e-9))
        assert configuration["optimizer"] == recorded["optimizer"]
        numbers = {k: v for k, v in configuration.items() if k != "optimizer"}
        known_numbers = {k: v for k, v in recorded.items() if k != "optimizer"}
        assert numbers == pytest.approx(known_numbers, rel=1e-9)


def test_all_studies_of_0_1_0_are_listed(storage):
    listed = list_studies(storage).set_index("name")

    assert list(listed.index) == ["killed", "old", "earlier", "later"]
    assert listed["trials"].to_dict() == {"killed": 9, "old": 8, "earlier": 26, "later": 3}
    assert listed.loc["killed", ["completed", "pruned", "failed"]].tolist() == [3, 4, 1]
    assert listed.loc["earlier", "best"] == EARLIER_BEST


def test_the_trials_of_a_killed_study_of_0_1_0_are_read_as_recorded(storage):
    study = open_study("killed", storage)
    *finished, running = own_rows(study)

    assert finished == UNDISTURBED[:N_BEFORE_THE_KILL]
    assert running == ("running", None, UNDISTURBED[N_BEFORE_THE_KILL][2])

    frame = own_frame(study)
    statuses = ["completed", "pruned", "failed", "pruned"]
    statuses += ["completed", "pruned", "completed", "pruned"]
    assert frame["status"].tolist()[:-1] == statuses
    assert frame["reason"][1] == "stopped at 4.1274 after 1 of 9 epochs"
    assert frame["reason"][2] == "MemoryError: depth 10 does not fit into memory"
    assert frame["seconds"].tolist() == pytest.approx(
        [0.09, 0.01, 0.0005216598510742188, 0.01, 0.09, 0.01, 0.09, 0.01, 0.01]
    )

    curves = learning_curves_data(study, 2)
    assert list(curves) == ["trial 6 (incumbent)", "trial 4"]
    errors = curves["trial 6 (incumbent)"].validation_error
    assert (errors[0], errors[-1]) == (2.250357354351892, 1.3614684654630034)


@pytest.mark.slow
def test_a_killed_study_of_0_1_0_goes_on_as_if_it_had_never_been_killed(storage, tmp_path):
    study = killed_search(storage, tmp_path / "log")

    expect(own_rows(study), UNDISTURBED)
    assert len(study.trials) == len(UNDISTURBED)
    assert {trial.state for trial in study.trials} <= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    }
    plot_any_time(study)
    plot_slices(study)


@pytest.mark.slow
def test_gp_minimize_goes_on_with_a_study_of_0_1_0(storage):
    again = old_minimization(storage, len(MINIMIZED))
    assert list(again.func_vals) == MINIMIZED

    result = old_minimization(storage, len(MINIMIZED) + len(MINIMIZED_LATER))

    assert list(result.func_vals[: len(MINIMIZED)]) == MINIMIZED
    assert result.func_vals[len(MINIMIZED) :].tolist() == pytest.approx(MINIMIZED_LATER, rel=1e-9)
    assert result.x_iters[0] == [0.0, 2, "b"]
    assert result.fun == min(result.func_vals)


def test_the_incumbent_of_a_warm_started_study_of_0_1_0_is_its_own(storage):
    study = open_study("later", storage)
    frame = trials_frame(study)
    evidence = frame["warm_start"].dropna()

    assert sorted(evidence, key=lambda text: int(text.partition("#")[2])) == [
        f"earlier#{number}" for number in range(26)
    ]
    assert own_frame(study)["value"].tolist() == LATER_VALUES

    assert min(LATER_VALUES) > EARLIER_BEST
    listed = list_studies(storage).set_index("name")
    assert listed.loc["later", "best"] == min(LATER_VALUES)
    curve = any_time_data(study)
    assert curve.values.tolist() == LATER_VALUES
    assert curve.best[-1] == min(LATER_VALUES)


def test_figures_of_a_study_of_0_1_0_draw(storage):
    study = open_study("later", storage)

    (line, *_) = plot_any_time(study).get_lines()
    assert min(line.get_ydata()) == min(LATER_VALUES)
    assert len(plot_slices(study)) == len(TOY_SPACE.searched)
    plot_learning_curves(open_study("killed", storage))
    plot_timeline(open_study("killed", storage))


def test_a_complete_warm_started_study_of_0_1_0_returns_at_once(storage):
    before = trials_frame(open_study("later", storage))

    study = later_search(storage)

    pd.testing.assert_frame_equal(trials_frame(study), before)
    assert len(earlier_search(storage).trials) == 26
