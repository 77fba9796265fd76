"""Say whether the best configuration lies at an edge of the space, and which way to widen it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hpo_lib.assessment.evidence import Evidence, join, number
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.samplers.encoding import Axis
from hpo_lib.samplers.surrogate import Surrogate
from hpo_lib.space.values import Value
from hpo_lib.trials import RecordedTrial

_TOPIC = "Is the best at an edge?"
_N_TOP = 5
_MIN_VALUES = 4

_EDGE = 0.02
"""Share of a range that counts as its edge."""

_INWARD = 0.2
"""Where a value is moved to, as a share of the range from the edge."""

_BETTER = 0.5
_WORSE = 2.0
"""Standard deviations by which a bound is predicted to be better than the best trial, and a value
further inside to be worse; `benchmarks/findings_rates.py` measures what they lead to.
"""


class Edge(NamedTuple):
    """A bound at which the best trial lies, or that the surrogate predicts to be better.

    Attributes:
        name: the hyperparameter.
        bound: "lower" or "upper".
        value: its value in the best trial.
        n_top: how many of the best trials lie there.
        inward: by how many standard deviations a value further inside is predicted to be worse.
    """

    name: str
    bound: str
    value: Value
    n_top: int
    inward: float

    def advice(self, n_best: int) -> str:
        """Return which way to widen, and how many of the `n_best` best trials lie there."""
        direction = "downwards" if self.bound == "lower" else "upwards"
        place = f"{self.n_top} of the best {n_best} at its {self.bound} bound"
        return f"widen {self.name} {direction} ({number(self.value)}, {place})"

    def __str__(self) -> str:
        return f"{self.name} ({number(self.value)}, near its {self.bound} bound)"


def edge_finding(evidence: Evidence) -> Finding | None:
    """Name the hyperparameters to be widened; None where none has a range.

    A value is at an edge by chance in one of 25 trials, and wherever nothing depends on it. So the
    space is to be widened only where the surrogate predicts values further inside to be worse.

    Args:
        evidence: the study.
    """
    surrogate = evidence.surrogate
    top = [] if surrogate is None else _best_inside(evidence, surrogate)
    if surrogate is None or not top:
        sentence = "At least 4 completed trials are needed to tell."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    ranges = [axis for axis in surrogate.encoder.axes if _has_edges(axis)]
    if not ranges:
        return None

    edges = [edge for axis in ranges for edge in _edges(surrogate, top, axis)]
    figures = {"edges": [edge._asdict() for edge in edges], "n_top": len(top)}
    if not edges:
        sentence = f"No: the best of {len(evidence.ranked)} trials lies inside all ranges."
        return Finding(_TOPIC, Status.PASS, sentence, figures)

    shown = [edge for edge in edges if edge.inward > _WORSE and evidence.is_predictable]
    if not shown:
        sentence = (
            f"Perhaps, for {join(map(str, edges))}: {len(evidence.ranked)} trials do not show "
            "that values further inside are worse."
        )
        return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)

    advice = join(edge.advice(len(top)) for edge in shown)
    return Finding(_TOPIC, Status.WARN, f"Yes: {advice}.", figures)


def _best_inside(evidence: Evidence, surrogate: Surrogate) -> list[RecordedTrial]:
    """Return the best trials that lie inside the space, the best first."""
    inside = [trial for trial in evidence.ranked if surrogate.encoder.encode(trial.params)]
    return inside[:_N_TOP]


def _has_edges(axis: Axis) -> bool:
    """Return whether an axis is a range with enough values for its ends to be special."""
    is_short = axis.whole and axis.high - axis.low + 1 < _MIN_VALUES
    return not axis.choice and not is_short


def _edges(
    surrogate: Surrogate,
    top: Sequence[RecordedTrial],
    axis: Axis,
) -> Iterator[Edge]:
    """Yield the ends of a range at which the best value lies, or would be better.

    Args:
        surrogate: model of the study.
        top: the best trials, the best first.
        axis: the range.
    """
    if axis.name not in top[0].configuration:  # inactive
        return

    encoder = surrogate.encoder
    column = encoder.axes.index(axis)
    rows = encoder.scale(encoder.points([trial.params for trial in top]))
    for bound, end in (("lower", 0.0), ("upper", 1.0)):
        # Nothing lies below a lower bound of 0.
        if bound == "lower" and axis.distribution.low == 0:
            continue

        # The best configuration, the same at the bound, and the same further inside.
        moved = np.repeat(rows[:1], 3, axis=0)
        moved[1:, column] = (end, abs(end - _INWARD))
        mean, std = surrogate.model.predict(moved, return_std=True)
        better = (mean[0] - mean[1]) / std[1]
        inward = (mean[2] - mean[0]) / std[2]

        is_near = np.abs(rows[:, column] - end) <= _EDGE
        if is_near[0] or better > _BETTER:
            value = top[0].configuration[axis.name]
            yield Edge(axis.name, bound, value, int(is_near.sum()), float(inward))
