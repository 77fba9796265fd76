from __future__ import annotations

import warnings

import numpy as np
import pytest

from hpo_lib.counterfactual import counterfactual
from hpo_lib.replay import TrustWarning
from hpo_lib.study import run_study
from tests.toys import TOY_SPACE, bowl


@pytest.fixture(scope="module")
def study():
    return run_study(bowl, TOY_SPACE, "random", 60, name="mine", storage="memory", workers=0)


@pytest.mark.slow
def test_one_call_says_what_else_would_have_found_and_how_far_to_trust_it(study):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        result = counterfactual(study, ["bayes"], n_trials=8, seeds=range(6))
    table = result.table
    assert list(table.index) == [f"{s} × {n}" for n in (8, 16) for s in ("random", "bayes")]
    assert (table.n_seeds == 6).all()
    assert (table.q25 <= table["median"]).all()
    assert table["median"].iloc[2] <= table["median"].iloc[0]
    assert np.isnan(table.p.iloc[0])
    assert result.found == study.best_value
    assert result.frame.attrs["trust"] == result.trust
    text = str(result)
    assert f"The study found {study.best_value:.4f}." in text
    assert "rank correlation" in text
    assert "ahead in" in text


def test_doubt_in_the_surrogate_is_said(study):
    with pytest.warns(TrustWarning, match="surrogate not to be trusted"):
        result = counterfactual(
            study, ["random"], n_trials=3, factors=(1,), seeds=range(2), limit=1.0
        )
    assert "Warning" in str(result)


def test_a_short_study_says_what_it_lacks():
    short = run_study(bowl, TOY_SPACE, "random", 4, name="s", storage="memory", workers=0)
    with pytest.raises(ValueError, match="at least 10 configurations"):
        counterfactual(short)
