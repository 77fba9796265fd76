from __future__ import annotations

import warnings

import numpy as np
import optuna
import pytest

from hpo_lib.comparison.counterfactual import counterfactual
from hpo_lib.comparison.surrogate_benchmark import SurrogateQualityWarning
from hpo_lib.study.run import run_study
from hpo_lib.trials import own_trials
from tests.toys import TOY_SPACE, Learner, bowl


@pytest.fixture(scope="module")
def study():
    return run_study(bowl, TOY_SPACE, "random", 60, name="mine", storage="memory", workers=0)


@pytest.mark.slow
def test_one_call_says_what_else_would_have_found_and_how_far_to_trust_it(study):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        result = counterfactual(study, ["bayes"], n_trials=8, seeds=range(6))
    table = result.table
    assert list(table.index) == [f"{s} × {n}" for n in (8, 16) for s in ("random", "bayes")]
    assert (table.n_seeds == 6).all()
    assert (table.q25 <= table["median"]).all()
    assert table["median"].iloc[2] <= table["median"].iloc[0]
    assert np.isnan(table.p.iloc[0])
    assert result.best_value == study.best_value
    assert result.frame.attrs["surrogate_quality"] == result.quality
    text = str(result)
    assert f"The study found {study.best_value:#.3g}." in text
    assert "rank correlation" in text
    assert f"against {table.index[0]}" in text
    assert f"{table['median'].iloc[1]:#.3g}" in text


def test_doubt_in_the_surrogate_is_said():
    rng = np.random.default_rng(0)
    options = {"name": "noise", "storage": "memory", "workers": 0}
    noise = run_study(lambda _: rng.random(), TOY_SPACE, "random", 12, **options)
    with pytest.warns(SurrogateQualityWarning, match="surrogate not to be trusted"):
        result = counterfactual(noise, ["random"], n_trials=3, factors=(1,), seeds=range(2))
    assert "Warning" in str(result)


def test_a_short_study_says_what_it_lacks():
    short = run_study(bowl, TOY_SPACE, "random", 4, name="s", storage="memory", workers=0)
    with pytest.raises(ValueError, match="at least 10 configurations"):
        counterfactual(short)


@pytest.mark.filterwarnings(
    "ignore::hpo_lib.comparison.surrogate_benchmark.SurrogateQualityWarning"
)
def test_the_budget_counts_failures_and_trials_are_pruned_as_they_were(tmp_path):
    def sometimes(configuration):
        if configuration["depth"] == 2:
            message = "no"
            raise ValueError(message)
        return bowl(configuration)

    options = {"storage": "memory", "workers": 0, "default_first": False}
    failing = run_study(sometimes, TOY_SPACE, "random", 24, name="f", max_failures=9, **options)
    own = counterfactual(failing, ["random"], factors=(1,), seeds=range(2))
    assert list(own.table.index) == ["random × 24"]
    firsts = own.frame[own.frame.trial == 1].value
    assert firsts.nunique() == 2  # not the default configuration, with both seeds

    learner = Learner(str(tmp_path / "log"))
    options |= {"pruning": "asha", "reduction_factor": 2}
    pruned = run_study(learner, TOY_SPACE, "random", 60, name="p", **options)
    replayed = counterfactual(pruned, ["random"], factors=(1,), seeds=range(2))
    assert replayed.frame.value.isna().any()


def test_a_sampler_that_was_handed_in_is_not_replayed():
    options = {"name": "handed in", "storage": "memory", "workers": 0}
    sampler = optuna.samplers.RandomSampler(seed=0)
    mine = run_study(bowl, TOY_SPACE, sampler, 20, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        result = counterfactual(mine, ["random", "sobol"], factors=(1,), seeds=range(3))
    assert list(result.table.index) == ["random × 20", "sobol × 20"]
    assert "against random × 20" in str(result)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::hpo_lib.comparison.surrogate_benchmark.SurrogateQualityWarning"
)
def test_what_evidence_had_reached_is_not_what_the_study_found(tmp_path):
    place = {"storage": tmp_path / "a.db", "workers": 0}
    run_study(bowl, TOY_SPACE, "bayes", 30, name="earlier", seed=1, **place)
    mine = run_study(
        bowl, TOY_SPACE, "random", 12, name="m", warm_start_from="earlier", seed=2, **place
    )
    values = [t.value for t in own_trials(mine)]
    result = counterfactual(mine, ["random"], n_trials=3, factors=(1,), seeds=range(2))
    assert result.best_value == min(values) > mine.best_value
