"""What recorded trials say, as far as a model is concerned with it."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpo_lib.samplers.encoding import Codes, Point
from hpo_lib.trials import RecordedTrial, TrialOutcome, is_usable_value

MOST = 500
"""How much evidence a model is fitted to."""

_MOST_GATES = 3


class Gate(NamedTuple):
    """Where trials are stopped: a fidelity, the epochs until it as a share, and what goes on.

    As many trials as went on had a value of at most `highest` there.
    """

    fidelity: float
    share: float
    highest: float


class History(NamedTuple):
    """`points` with their `values` are the evidence, lower is better; none of `tried` repeats.

    `trusts` are two numbers per value: its fidelity, 1 for that of a full training, and 1 for the
    study's own trials, 0 for those of an earlier study; `seconds` is what an epoch took where.
    `gates` are in the order of their fidelity.
    """

    tried: set[Point]
    points: list[Point]
    trusts: list[tuple[float, float]]
    values: list[float]
    pending: list[Point]
    seconds: list[tuple[Point, float]]
    gates: list[Gate]


def standing(trial: RecordedTrial) -> str:
    """What a trial says of its configuration: "valued", "failed", "pending" or "unknown"."""
    if trial.has_usable_value:
        return "valued"
    if not trial.is_finished:
        return "pending"
    # A pruned trial has no final value, and a lost worker says nothing about its configuration:
    # these are only not tried again.
    unknown = trial.outcome in (TrialOutcome.PRUNED, TrialOutcome.LOST)
    return "unknown" if unknown else "failed"


def choice_seed(seed: int, number: int, name: str = "") -> int:
    """The seed of what is chosen for a trial, or for one of its parameters."""
    key = (seed, number, zlib.crc32(name.encode()))
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def epoch_seconds(codes: Codes, trials: Sequence[RecordedTrial]) -> list[tuple[Point, float]]:
    """The mean over each trial's epochs that `run_study` has recorded, pruned trials too."""
    timed = [(codes.encode(trial.known_params), trial.record.seconds) for trial in trials]
    return [(p, float(np.mean(each))) for p, each in timed if p is not None and any(each)]


def representatives(values: NDArray[np.float64], full: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The indices of what the model is fitted to: all, or of much evidence a part of fixed size.

    Half of the part are the best full trainings, half are spread evenly over the others.
    """
    if len(values) <= MOST:
        return np.arange(len(values))
    order = np.lexsort((values, ~full))
    others = np.sort(order[MOST // 2 :])
    spread = others[np.linspace(0, len(others) - 1, MOST - MOST // 2).astype(int)]
    return np.sort(np.r_[order[: MOST // 2], spread])


def plateau_step(values: NDArray[np.float64]) -> float:
    """What the function must fall by at least: half the smallest gap, once the best is tied.

    Validation errors are multiples of one over the number of examples: between equal values a
    smooth model hopes for a little less, and the search would go on within a plateau. Half a gap
    below it a value is rounded to the next step.
    """
    gaps = np.diff(np.sort(values))
    if not len(gaps) or gaps[0] > 0:
        return 0.0
    return 0.5 * float(min(gaps[gaps > 1e-9 * gaps.sum()], default=0.0))


def partial_values(trials: Sequence[RecordedTrial]) -> dict[int, list[tuple[float, float]]]:
    """What completed and pruned trials showed on the way: (fidelity, value) by trial number.

    The fidelity is the logarithm of the step as a share of the budget's, below 1: a value of the
    last step is left to the final one. The budget is the last step of completed trials. Nothing is
    said before one of them has steps, nor while no trial is pruned. Of the steps of one trial each
    is at most two thirds of the next, which keeps rungs and thins out epochs.
    """
    completed, pruned, budget, shift = _steps(trials)
    if not pruned or not budget:
        return {}
    found: dict[int, list[tuple[float, float]]] = {}
    for trial in (*completed, *pruned):
        above = budget + shift if trial.is_completed else math.inf
        shown = found[trial.number] = []
        for step, value in sorted(trial.intermediate_values.items(), reverse=True):
            count = step + shift
            if step < budget and 3 * count <= 2 * above and is_usable_value(value):
                shown.insert(0, (math.log(count) / math.log(budget + shift), value))
                above = count
    return found


def gates(trials: Sequence[RecordedTrial], sign: float) -> list[Gate]:
    """Where most of this study's trials were pruned and others passed; `sign` -1 maximises."""
    own = [trial for trial in trials if trial.is_own]
    completed, pruned, budget, shift = _steps(own)
    found: list[Gate] = []
    stops = Counter(max(trial.intermediate_values) for trial in pruned)
    for step in sorted(step for step, _ in stops.most_common(_MOST_GATES)):
        there = [t for t in (*completed, *pruned) if step in t.intermediate_values]
        passed = sum(max(t.intermediate_values) > step for t in there)
        shown = (sign * trial.intermediate_values[step] for trial in there)
        values = sorted(filter(is_usable_value, shown))
        if values and passed > 0 and step < budget:
            count, whole = step + shift, budget + shift
            fidelity = math.log(count) / math.log(whole)
            found.append(Gate(fidelity, count / whole, values[:passed][-1]))
    return found


def _steps(
    trials: Sequence[RecordedTrial],
) -> tuple[list[RecordedTrial], list[RecordedTrial], int, int]:
    """Completed and pruned trials, the last step of the completed, and what to add to a step."""
    completed = [t for t in trials if t.has_usable_value]
    pruned = [t for t in trials if t.outcome == TrialOutcome.PRUNED and t.intermediate_values]
    budget = max((max(t.intermediate_values, default=0) for t in completed), default=0)
    steps = {step for t in (*completed, *pruned) for step in t.intermediate_values}
    return completed, pruned, budget, 1 - min([1, *steps])  # programs may count from 0
