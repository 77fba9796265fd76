"""Say how lucky the best value of a search was: the lowest of many noisy values is too low."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hpo_lib.assessment.evidence import Evidence, number
from hpo_lib.assessment.finding import Finding, Status

_TOPIC = "Was the best value luck?"
_MIN_FRESH = 2
_TOLERATED = 0.5
"""Share of the spread of values that luck may be."""


class _Optimism(NamedTuple):
    """Mean of fresh trainings minus the value in the search, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def luck_finding(
    evidence: Evidence,
    final: pd.DataFrame | None,
) -> Finding | None:
    """Say by how much the best value was too good; None where no trial has a value.

    Args:
        evidence: the study.
        final: final trainings, whose validation errors are of the same configuration; used where
            they were trained as long as the best trial.
    """
    best = evidence.best
    if best is None or best.value is None:
        return None

    optimism = _from_retrained(best.number, evidence.retrained) or _from_final(evidence, final)
    if optimism is None:
        return _estimate(evidence)

    text = (
        f"trained again, the configuration of the best trial has "
        f"{number(best.value + optimism.mean)} on average; its {number(best.value)} in the search "
        f"was {number(abs(optimism.mean))} too {'low' if optimism.mean > 0 else 'high'} (too low "
        f"by {number(optimism.low)} to {number(optimism.high)} at 95 %; {optimism.n} trainings)."
    )
    figures = {**optimism._asdict(), "search_value": best.value, "spread": evidence.spread}
    if optimism.low > 0:
        return Finding(_TOPIC, Status.WARN, f"In part: {text}", figures)
    if optimism.high <= _TOLERATED * evidence.spread:
        return Finding(_TOPIC, Status.PASS, f"Hardly: {text}", figures)
    return Finding(_TOPIC, Status.CANT_SAY, f"Too few trainings to tell: {text}", figures)


def _from_retrained(trial: int, retrained: pd.DataFrame | None) -> _Optimism | None:
    """Read the optimism of a trial out of a frame of `retrained_frame`."""
    if retrained is None:
        return None
    for row in retrained.to_dict("records"):
        if row["trial"] == trial and row["n"] >= _MIN_FRESH:
            return _with_interval(row["optimism"], row["standard_error"], int(row["n"]))
    return None


def _from_final(evidence: Evidence, final: pd.DataFrame | None) -> _Optimism | None:
    """Compare with final trainings of the same length."""
    best = evidence.best
    if final is None or best is None or best is not evidence.tuned or best.value is None:
        return None

    budget = len(best.record.validation_error)
    is_same = (final["configuration"] == "tuned") & (final["epochs"] == budget)
    errors = np.array(final["validation_error"][is_same].tolist(), float)
    errors = errors[np.isfinite(errors)]
    if len(errors) < _MIN_FRESH:
        return None
    standard_error = errors.std(ddof=1) / math.sqrt(len(errors))
    return _with_interval(float(errors.mean()) - best.value, float(standard_error), len(errors))


def _with_interval(mean: float, standard_error: float, n: int) -> _Optimism:
    half = float(stats.t.ppf(0.975, n - 1)) * standard_error
    return _Optimism(mean, mean - half, mean + half, n)


def _estimate(evidence: Evidence) -> Finding:
    """Estimate the optimism by how far the surrogate's mean is above the best value."""
    best = evidence.best
    advice = (
        "Train the best configurations again with fresh seeds (`retrain_top_k`) to measure it."
    )
    point = None
    if evidence.surrogate is not None and best is not None:
        point = evidence.surrogate.encoder.encode(best.params)
    if evidence.surrogate is None or best is None or best.value is None or point is None:
        return Finding(_TOPIC, Status.CANT_SAY, advice)

    # Shrinkage: the mean borrows from trials nearby.
    rows = evidence.surrogate.encoder.scale(np.array([point]))
    mean, std = evidence.surrogate.model.predict(rows, return_std=True)
    optimism = float(mean[0]) - best.value
    half = 1.96 * float(std[0])
    sentence = (
        f"It was not trained again. By the surrogate of {len(evidence.ranked)} trials, the best "
        f"value {number(best.value)} is too low by {number(optimism)} ± {number(half)} (95 %). "
        f"{advice}"
    )
    figures = {"mean": optimism, "low": optimism - half, "high": optimism + half}
    return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)
