"""Say whether the best configuration lies at an edge of the space, and which way to widen it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np

from hpo_lib.assessment.evidence import Evidence, join
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import format_value
from hpo_lib.samplers.encoding import Axis
from hpo_lib.samplers.surrogate import Surrogate
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.values import Value
from hpo_lib.trials import RecordedTrial

_TOPIC = "Is the best at an edge?"
_N_TOP = 5
_MIN_VALUES = 4
_MIN_OPTIONS = 3

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
        is_at: whether the best trial lies at the bound.
        n_top: how many of the best trials lie there.
        n_opposite: how many of them lie at the other bound.
        inward: by how many standard deviations a value further inside is predicted to be worse.
    """

    name: str
    bound: str
    value: Value
    is_at: bool
    n_top: int
    n_opposite: int
    inward: float

    def advice(self, n_best: int) -> str:
        """Return which way to widen, and how many of the `n_best` best trials lie there."""
        direction = "downwards" if self.bound == "lower" else "upwards"
        place = f"{self.n_top} of the best {n_best} at its {self.bound} bound"
        return f"widen {self.name} {direction} ({format_value(self.value)}, {place})"

    def __str__(self) -> str:
        place = "at its" if self.is_at else "predicted to be better at its"
        text = f"{format_value(self.value)}, {place} {self.bound} bound"
        if self.n_opposite:
            text += f"; {self.n_opposite} of the best at the other one"
        return f"{self.name} ({text})"


def edge_finding(evidence: Evidence) -> Finding | None:
    """Name the hyperparameters to be widened; None where none has a range.

    A value is at an edge by chance in one of 25 trials, and wherever nothing depends on it. So the
    space is to be widened only where the surrogate predicts values further inside to be worse.

    Args:
        evidence: the study.
    """
    surrogate = evidence.surrogate
    top = _best_inside(evidence)
    if surrogate is None or not top:
        sentence = "At least 4 completed trials are needed to tell."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    searched = evidence.space.distributions()
    ranges = [axis for axis in surrogate.encoder.axes if _has_edges(axis, searched)]
    options = _extreme_options(evidence)
    if not ranges and not options:
        return None

    edges: list[Edge] = []
    for axis in ranges:
        edges += _edges(surrogate, top, axis)
    figures = {
        "edges": list(map(Edge._asdict, edges)),
        "options": options,
        "n_top": len(top),
    }
    if not edges and not options:
        sentence = f"No: the best of {len(evidence.ranked)} trials lies inside all ranges."
        return Finding(_TOPIC, Status.PASS, sentence, figures)

    # The space is to be widened only where the trials show that it would help.
    shown: list[Edge] = []
    if evidence.is_predictable:
        shown = [edge for edge in edges if edge.inward > _WORSE]
    advice = [edge.advice(len(top)) for edge in shown]
    advice += [f"add an option {place} to {name}" for name, place in options.items()]

    doubtful = [edge for edge in edges if edge not in shown]
    doubt = f"{len(evidence.ranked)} trials do not show that values further inside are worse."
    if not advice:
        sentence = f"Perhaps, for {join(map(str, doubtful))}: {doubt}"
        return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)
    sentence = f"Yes: {join(advice)}."
    others = [str(edge) for edge in doubtful if edge.is_at]
    if others:
        sentence += f" Perhaps also for {join(others)}: {doubt}"
    return Finding(_TOPIC, Status.WARN, sentence, figures)


def _extreme_options(evidence: Evidence) -> dict[str, str]:
    """Return where options are missing, as "below 32", by hyperparameter.

    That is beyond the smallest or largest option, where this one earns part of the gain.

    Args:
        evidence: the study.
    """
    path = evidence.path
    if path is None or path.gain <= path.gain_half or not evidence.is_predictable:
        return {}

    best = path.steps[-1].configuration
    missing: dict[str, str] = {}
    for name in path.needed:
        place = _beyond(evidence.space[name], best[name])
        if place:
            missing[name] = place
    return missing


def _beyond(parameter: Parameter, value: Value) -> str:
    """Return where an option is missing; empty where the value is not the last of the options.

    Args:
        parameter: the hyperparameter.
        value: its best value.
    """
    options = parameter.options if isinstance(parameter, ChoiceParameter) else ()
    numbers = [option for option in options if _is_number(option)]
    # Of two options, each is a last one.
    if len(numbers) < max(len(options), _MIN_OPTIONS):
        return ""
    if value == min(numbers):
        return f"below {format_value(value)}"
    return f"above {format_value(value)}" if value == max(numbers) else ""


def _is_number(option: Value) -> TypeGuard[int | float]:
    return isinstance(option, int | float) and not isinstance(option, bool)


def _best_inside(evidence: Evidence) -> list[RecordedTrial]:
    """Return the best trials that lie inside the space, the best first."""
    surrogate = evidence.surrogate
    if surrogate is None:
        return []
    inside = [trial for trial in evidence.ranked if surrogate.encoder.encode(trial.params)]
    return inside[:_N_TOP]


def _has_edges(axis: Axis, searched: Collection[str]) -> bool:
    """Return whether an axis is a range with enough values for its ends to be special.

    Args:
        axis: a parameter of the surrogate.
        searched: names of parameters that are not held.
    """
    is_short = axis.whole and axis.high - axis.low + 1 < _MIN_VALUES
    return axis.name in searched and not axis.choice and not is_short


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
        is_opposite = np.abs(rows[:, column] - (1 - end)) <= _EDGE
        if is_near[0] or better > _BETTER:
            yield Edge(
                name=axis.name,
                bound=bound,
                value=top[0].configuration[axis.name],
                is_at=bool(is_near[0]),
                n_top=int(is_near.sum()),
                n_opposite=int(is_opposite.sum()),
                inward=float(inward),
            )
