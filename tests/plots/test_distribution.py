from __future__ import annotations

import numpy as np
import optuna
import pytest

from hpo_lib import plots
from hpo_lib.comparison.studies import compare_studies
from tests.plots.recorded import assert_labelled, draw, make_study


def test_the_distribution_counts_failed_trials_as_worse_than_all():
    study = make_study(n=12)  # of which two failed
    (values,) = plots.edf_data(study).values.values()
    assert (len(values), np.isinf(values).sum()) == (12, 2)
    assert (np.diff(values[:10]) >= 0).all()
    ax = plots.plot_edf(study)
    (line,) = ax.lines
    assert line.get_ydata()[-1] == pytest.approx(10 / 12)
    assert line.get_xdata()[0] == study.best_value
    assert "study 0 (n = 12 trials)" in draw(ax)
    assert_labelled(ax)


def test_the_distributions_of_several_studies_share_axes():
    studies = {"a": make_study(n=6, failures=()), "b": make_study(n=8, failures=())}
    ax = plots.plot_edf(studies)
    assert len(ax.lines) == 2
    assert plots.plot_edf(compare_studies(studies)).get_legend_handles_labels()[1] == [
        "a (n = 6 trials)",
        "b (n = 8 trials)",
    ]
    assert len(plots.plot_edf(plots.edf_data(studies)).lines) == 2


def test_ranks_are_drawn_for_each_pair_the_best_on_top():
    study = make_study()
    axes = plots.plot_rank(study, ["lr", "dropout", "optimizer"])
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in axes]
    assert labels == [("lr", "dropout"), ("lr", "optimizer"), ("dropout", "optimizer")]
    ranks = axes[0].collections[0].get_array()
    n = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    assert sorted(ranks) == pytest.approx(np.arange(1, n + 1))
    assert ranks[-1] == 1
    x, _ = axes[0].collections[0].get_offsets()[-1]
    assert x == study.best_params["lr"]
    for ax in axes:
        assert_labelled(ax)


def test_ranks_need_two_known_hyperparameters():
    with pytest.raises(ValueError, match=r"names must be two or more of .* got \['lr'\]"):
        plots.plot_rank(make_study(), ["lr"])
    with pytest.raises(ValueError, match="got \\['lr', 'none'\\]"):
        plots.plot_rank(make_study(), ["lr", "none"])


def test_the_front_holds_the_trials_that_none_beats_in_value_and_cost():
    study = make_study(failures=())

    def n_weights(configuration):
        return configuration["n_filters"]

    data = plots.pareto_data(study, n_weights)
    assert (data.cost_name, len(data.costs)) == ("number of weights", len(study.trials))
    front = data.numbers[data.is_best].tolist()
    for cost, value, number in zip(data.costs, data.values, data.numbers, strict=True):
        beaten = (data.costs <= cost) & (data.values < value)
        beaten |= (data.costs < cost) & (data.values == value)
        assert (number in front) == (not beaten.any())
    ax = plots.plot_pareto(data)
    assert ax.get_xlabel() == "number of weights"
    assert str(study.best_trial.number) in draw(ax)


def test_without_a_cost_it_is_seconds_and_without_a_trial_nothing():
    ax = plots.plot_pareto(make_study())
    assert ax.get_xlabel() == "seconds of the trial"
    with pytest.raises(ValueError, match="must have a completed trial"):
        plots.plot_pareto(optuna.create_study())
