"""Say whether the search may end: edges of the space, improvement left, surrogate, rungs."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from hpo_lib.assessment.evidence import (
    MIN_CROSS_VALIDATED,
    Evidence,
    count,
    join,
    number,
    rank_correlation,
)
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.space.parameters import ChoiceParameter
from hpo_lib.space.values import Value
from hpo_lib.study.stopping import largest_expected_improvement
from hpo_lib.trials import TrialOutcome

_EDGE_TOPIC = "Is the best at an edge?"
_EDGE = 0.02
"""Share of a range that counts as its edge."""

_N_TOP = 5
_MIN_VALUES = 4
_INWARD = 0.2
_LEVEL = 0.05

_FLAT_TOPIC = "Has the search flattened?"
_MIN_TRIALS = 10
_FLAT = 0.02
_STEEP = 0.1

_WEAK = 0.5
"""Rank correlation below which a ranking is of little use."""


class Edge(NamedTuple):
    """A bound at which the best trial lies.

    Attributes:
        name: the hyperparameter.
        bound: "lower" or "upper".
        value: its value in the best trial.
        n_top: how many of the best trials lie there.
        p: probability that so many would by chance.
        inward: by how much the surrogate predicts a value further inside to be worse, in
            standard deviations; 0 without a surrogate.
    """

    name: str
    bound: str
    value: Value
    n_top: int
    p: float
    inward: float


def edge_finding(evidence: Evidence) -> Finding | None:
    """Name the hyperparameters whose best value lies at a bound; None where none has bounds.

    Args:
        evidence: the study.
    """
    ranges = [
        parameter
        for parameter in evidence.space.searched
        if not isinstance(parameter, ChoiceParameter) and _has_inside(parameter.count)
    ]
    if not ranges:
        return None
    if evidence.surrogate is None or evidence.best is None:
        sentence = "At least 4 completed trials are needed to tell."
        return Finding(_EDGE_TOPIC, Status.CANT_SAY, sentence)

    edges = _find_edges(evidence)
    n_top = min(_N_TOP, len(evidence.ranked))
    figures = {"edges": [edge._asdict() for edge in edges], "n_top": n_top}
    if not edges:
        n = count(len(ranges), "range")
        sentence = f"No: the best of {len(evidence.ranked)} trials lies inside all {n}."
        return Finding(_EDGE_TOPIC, Status.PASS, sentence, figures)

    # Holm's correction would be less strict; most spaces have one edge.
    level = _LEVEL / len(ranges)
    shown = [edge for edge in edges if edge.p <= level and edge.inward > 1]
    if shown:
        parts = [_describe_edge(edge, n_top) for edge in shown]
        return Finding(_EDGE_TOPIC, Status.WARN, f"Yes: {'; '.join(parts)}.", figures)

    parts = [f"{edge.name} ({edge.bound} bound, {number(edge.value)})" for edge in edges]
    sentence = (
        f"The best trial lies at a bound of {join(parts)}, but too few of the best {n_top} do, or "
        "too little depends on it, to tell this from chance."
    )
    return Finding(_EDGE_TOPIC, Status.CANT_SAY, sentence, figures)


def _has_inside(n_values: int | None) -> bool:
    """Return whether a range has enough values for its bounds to be something special."""
    return n_values is None or n_values >= _MIN_VALUES


def _describe_edge(edge: Edge, n_top: int) -> str:
    others = f"the best trial and {edge.n_top} of the best {n_top} lie"
    way = "further down" if edge.bound == "lower" else "further up"
    return f"{others} at the {edge.bound} bound of {edge.name} ({number(edge.value)}): widen {way}"


def _find_edges(evidence: Evidence) -> list[Edge]:
    """Return the bounds at which the best trial lies."""
    surrogate = evidence.surrogate
    best = evidence.best
    if surrogate is None or best is None:
        return []

    encoder = surrogate.encoder
    points = [encoder.encode(trial.params) for trial in evidence.ranked[:_N_TOP]]
    inside = [point for point in points if point is not None]
    if points[0] is None:
        return []

    rows = encoder.scale(inside)
    edges: list[Edge] = []
    for column, axis in enumerate(encoder.axes):
        n_values = evidence.space[axis.name].count
        is_range = not axis.choice and axis.name in best.configuration
        if not is_range or not _has_inside(n_values):
            continue

        # Distances from either bound; a whole number is at an edge where it is the last one.
        for bound, distance in (("lower", rows[:, column]), ("upper", 1 - rows[:, column])):
            if distance[0] > _EDGE:
                continue
            chance = max(_EDGE, 1 / n_values if n_values else 0.0)
            n_top = int((distance <= _EDGE).sum())

            # Predict the same configuration with this value further inside.
            moved = rows[:1].copy()
            moved[0, column] = _INWARD if bound == "lower" else 1 - _INWARD
            inner, std = surrogate.model.predict(moved, return_std=True)
            at_edge = surrogate.model.predict(rows[:1])
            inward = (inner[0] - at_edge[0]) / std[0]
            edge = Edge(
                name=axis.name,
                bound=bound,
                value=best.configuration[axis.name],
                n_top=n_top,
                p=float(stats.binom.sf(n_top - 1, len(rows), chance)),
                inward=float(inward),
            )
            edges.append(edge)

    return edges


def flat_finding(evidence: Evidence) -> Finding:
    """Say how much improvement is left by the surrogate, and when the last one was.

    Args:
        evidence: the study.
    """
    finished = [trial for trial in evidence.trials if trial.is_finished]
    surrogate = evidence.surrogate
    if len(evidence.ranked) < _MIN_TRIALS or surrogate is None or evidence.best is None:
        n = count(len(evidence.ranked), "completed trial")
        sentence = f"{n} are too few to tell; it takes {_MIN_TRIALS}."
        return Finding(_FLAT_TOPIC, Status.CANT_SAY, sentence)

    since = len(finished) - 1 - finished.index(evidence.best)
    expected = largest_expected_improvement(surrogate, evidence.ranked)
    ratio = expected / evidence.spread if evidence.spread > 0 else 0.0
    figures = {
        "expected_improvement": expected,
        "share_of_spread": ratio,
        "trials_since_gain": since,
        "n_trials": len(finished),
    }
    text = (
        f"the surrogate expects one more trial to gain {number(expected)} ({_percent(ratio)} of "
        f"the distance from the median trial to the best); the last gain was {since} trials ago, "
        f"of {len(finished)}."
    )
    if not evidence.is_predictable:
        sentence = f"The surrogate does not predict well enough to tell: {text}"
        return Finding(_FLAT_TOPIC, Status.CANT_SAY, sentence, figures)
    if ratio <= _FLAT:
        return Finding(_FLAT_TOPIC, Status.PASS, f"Yes: {text}", figures)
    if ratio >= _STEEP:
        sentence = f"No, more trials should help: {text}"
        return Finding(_FLAT_TOPIC, Status.WARN, sentence, figures)
    return Finding(_FLAT_TOPIC, Status.CANT_SAY, f"Nearly: {text}", figures)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def surrogate_finding(evidence: Evidence) -> Finding:
    """Say whether the surrogate ranks trials that it was not fitted to.

    Args:
        evidence: the study.
    """
    topic = "Does the surrogate predict?"
    quality = evidence.quality
    if quality is None:
        sentence = (
            f"Too few different configurations to hold some back; it takes {MIN_CROSS_VALIDATED}."
        )
        return Finding(topic, Status.CANT_SAY, sentence)

    figures = quality._asdict()
    text = f"rank correlation of predicted and measured values {quality}, cross-validated."
    if quality.low > 0:
        sentence = f"Yes, better than the mean of all trials: {text}"
        return Finding(topic, Status.PASS, sentence, figures)
    if quality.high < _WEAK:
        sentence = f"No, no better than their mean; do not read figures of it: {text}"
        return Finding(topic, Status.WARN, sentence, figures)
    return Finding(topic, Status.CANT_SAY, f"Too few trials to tell: {text}", figures)


def rung_finding(evidence: Evidence) -> Finding | None:
    """Say whether the first rung ranks trials as the end does; None where none was pruned.

    Args:
        evidence: the study.
    """
    topic = "Do the rungs rank as the end does?"
    pruned_at: Counter[int] = Counter()
    for trial in evidence.trials:
        if trial.outcome == TrialOutcome.PRUNED and trial.intermediate_values:
            pruned_at[max(trial.intermediate_values)] += 1
    if not pruned_at:
        return None

    rung = min(pruned_at)
    reached = [trial for trial in evidence.ranked if rung in trial.intermediate_values]
    figures: dict[str, Any] = {"rung": rung, "n_pruned": pruned_at.total(), "n": len(reached)}
    if len(reached) < _MIN_VALUES + 1:
        n = count(len(reached), "trial")
        sentence = f"Only {n} went from the first rung ({rung}) to the end; it takes 5."
        return Finding(topic, Status.CANT_SAY, sentence, figures)

    at_rung = [trial.intermediate_values[rung] for trial in reached]
    at_end = [trial.value for trial in reached]
    tau = rank_correlation(at_rung, np.array(at_end, float), "kendall")
    figures |= tau._asdict()
    text = (
        f"Kendall's τ between the first rung ({rung}) and the end is {tau}. Only survivors of the "
        "pruning are in it, so that the τ of all trials is probably higher."
    )
    if tau.low > 0:
        return Finding(topic, Status.PASS, f"Yes: {text}", figures)
    if tau.high < _WEAK:
        sentence = f"Hardly; prune later or not at all: {text}"
        return Finding(topic, Status.WARN, sentence, figures)
    return Finding(topic, Status.CANT_SAY, f"Too few trials to tell: {text}", figures)
