"""Say how lucky the best value of a search was: the lowest of many noisy values is too low."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hpo_lib.assessment.evidence import Evidence
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import format_uncertain, format_value
from hpo_lib.study.retrain import half_width

_TOPIC = "Was the best value luck?"
_MIN_FRESH = 2

TOLERATED = 0.5
"""Share of what the search gained over the default that luck may be."""


class _Optimism(NamedTuple):
    """Mean of fresh trainings minus the value in the search, with its 95 % interval.

    Attributes:
        mean: the difference, positive where the search's value was too low.
        low: lower end of the interval.
        high: upper end.
        n: trainings.
        source: which trainings they are.
    """

    mean: float
    low: float
    high: float
    n: int
    source: str


def luck_finding(evidence: Evidence) -> Finding | None:
    """Say by how much the best value was too good; None where no trial has a value.

    Args:
        evidence: the study.
    """
    best = evidence.best
    if best is None:
        return None

    # Retrained configurations are ranked by their means, so that the first one may be lucky, too.
    # By the final trainings nothing was chosen.
    optimism = _from_final(evidence) or _from_retrained(evidence)
    if optimism is None:
        return _estimate(evidence)

    fresh = format_uncertain(best.final_value + optimism.mean, optimism.high - optimism.mean)
    side = "above" if optimism.mean > 0 else "below"
    text = (
        f"{optimism.n} {optimism.source} of the best trial's configuration have {fresh} on "
        f"average (95 %), {abs(optimism.mean):.1g} {side} its {format_value(best.final_value)} "
        "in the search."
    )

    # Without a default, what it gained over the worse trials.
    gain = evidence.spread
    default = evidence.default
    if default is not None:
        was_retrained = default.number in evidence.fresh_means
        gain = evidence.fresh_means.get(default.number, default.final_value) - best.final_value
        baseline = "mean of fresh trainings" if was_retrained else "value"
        text += f" That value was {format_value(gain)} below the default's {baseline}."
    figures = {**optimism._asdict(), "search_value": best.final_value, "gain": gain}
    if optimism.low > 0:
        return Finding(_TOPIC, Status.WARN, f"In part: {text}", figures)
    if optimism.high <= TOLERATED * gain:
        return Finding(_TOPIC, Status.PASS, f"Hardly: {text}", figures)
    return Finding(_TOPIC, Status.CANT_SAY, f"Too few trainings to tell: {text}", figures)


def _from_retrained(evidence: Evidence) -> _Optimism | None:
    """Read the optimism of the best trial out of a frame of `retrained_frame`."""
    best = evidence.best
    if evidence.retrained is None or best is None:
        return None
    source = "retrainings"
    if best is evidence.tuned and len(evidence.retrained) > 1:
        source = "retrainings (by which it was chosen, so that they may be lucky, too)"
    for row in evidence.retrained.to_dict("records"):
        if row["trial"] == best.number and row["n"] >= _MIN_FRESH:
            return _with_interval(
                row["optimism"],
                row["standard_error"],
                int(row["n"]),
                source,
            )
    return None


def _from_final(evidence: Evidence) -> _Optimism | None:
    """Compare with final trainings of the same length."""
    best = evidence.best
    errors = np.array(evidence.final_values("tuned"))
    is_same = best is evidence.tuned and len(errors) >= _MIN_FRESH
    if best is None or not is_same:
        return None
    standard_error = errors.std(ddof=1) / math.sqrt(len(errors))
    mean = float(errors.mean()) - best.final_value
    return _with_interval(
        mean,
        float(standard_error),
        len(errors),
        "final trainings",
    )


def _with_interval(mean: float, standard_error: float, n: int, source: str) -> _Optimism:
    half = half_width(standard_error, n)
    return _Optimism(mean, mean - half, mean + half, n, source)


def _estimate(evidence: Evidence) -> Finding:
    """Estimate the optimism by how far the surrogate's mean is above the best value."""
    best = evidence.best
    advice = (
        "Train the best configurations again with fresh seeds (`retrain_top_k`) to measure it."
    )
    point = None
    if evidence.surrogate is not None and best is not None:
        point = evidence.surrogate.encoder.encode(best.params)
    if evidence.surrogate is None or best is None or point is None:
        return Finding(_TOPIC, Status.CANT_SAY, advice)

    # Shrinkage: the mean borrows from trials nearby.
    rows = evidence.surrogate.encoder.scale(np.array([point]))
    mean, std = evidence.surrogate.model.predict(rows, return_std=True)
    optimism = float(mean[0]) - best.final_value
    half = 1.96 * float(std[0])
    sentence = (
        f"It was not trained again. By the surrogate of {len(evidence.ranked)} trials, the "
        f"best value {format_value(best.final_value)} is too low by "
        f"{format_uncertain(optimism, half)} (95 %). {advice}"
    )
    figures = {"mean": optimism, "low": optimism - half, "high": optimism + half}
    return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)
