from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo_lib import plots
from tests.plots.recorded import SPACE, TrueFunction, draw, make_study, shown


def test_points_hold_failed_and_inactive_trials():
    study = make_study()
    data = plots.points_data(study)
    sgd = np.array([t.params["optimizer"] == "sgd" for t in study.trials])
    assert [p.name for p in data.parameters] == [p.name for p in SPACE.searched]
    assert (np.isnan(data.positions["momentum"]) == ~sgd).all()
    assert (data.positions["optimizer"] == sgd).all()
    assert data.numbers[data.failed].tolist() == [3, 11]
    assert data.incumbent == study.best_trial.number


def test_a_pruned_trial_is_shown_but_never_the_incumbent():
    study = make_study(n=3, failures=())
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            value=0.0,
            params={"lr": 0.01},
            distributions={"lr": SPACE.distributions()["lr"]},
            intermediate_values={1: 0.0},
        )
    )
    data = plots.points_data(study)
    assert math.isnan(data.values[3])
    assert data.incumbent != 3
    assert math.isnan(data.positions["optimizer"][3])


@pytest.mark.parametrize("plot", [plots.plot_parallel_coordinates, plots.plot_slices])
def test_points_are_drawn_with_their_failures_counted(plot: Any):
    axes = plot(make_study())
    assert shown(axes)[0].get_ylabel()
    assert all(ax.get_xlabel() for ax in shown(axes))
    assert any("n = 24 trials, 2 without a final value" in text for text in draw(axes))


def test_slices_are_log_where_the_parameter_is():
    axes = plots.plot_slices(plots.points_data(make_study()))
    assert [ax.get_xscale() for ax in axes[:3]] == ["linear", "log", "linear"]
    assert axes[2].get_title().startswith("active in ")


@pytest.mark.parametrize(
    "study",
    [make_study(n=0), make_study(n=2, failures=(0, 1))],
    ids=["empty", "all failed"],
)
def test_studies_without_values_are_drawn(study: optuna.Study):
    for plot in (plots.plot_any_time, plots.plot_parallel_coordinates, plots.plot_slices):
        draw(plot(study))
    draw(plots.plot_timeline(study))
    draw(plots.plot_pair_matrix(study, ["lr", "dropout"], surrogate=TrueFunction()))
