"""Turn recorded trials into observations that a model can be fitted to.

A completed trial is one observation, and so are the intermediate values of pruned ones: see
`intermediate_observations`. `rung_thresholds` estimates what a trial needs in order to survive.

Notation: the fidelity of a value is log(step) / log(budget), 1 for a full training; its task is 1
for the study's own trials and 0 for warm-start trials.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.study import StudyDirection

from hpo_lib.samplers.encoding import Array, Encoder, Point
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.trials import RecordedTrial, TrialOutcome, recorded_trials

MAX_TRAINING_SIZE = 500
"""How many observations a model is fitted to."""

_MAX_RUNGS = 3
_LARGEST_EXPONENT = 332
"""Base-2 exponent of 1e100: models multiply up to three values."""


class Observation(NamedTuple):
    """One value of one configuration; lower is better.

    Attributes:
        point: encoded configuration.
        value: objective value, with its sign changed where the study maximises.
        fidelity: 1 for a full training, else below 1.
        task: 1 for a trial of the study's own, 0 for a warm-start trial.
    """

    point: Point
    value: float
    fidelity: float = 1.0
    task: float = 1.0


class RungThreshold(NamedTuple):
    """A rung at which trials were pruned, and the value needed to pass it.

    Attributes:
        fidelity: fidelity of values at the rung.
        share: epochs until the rung as a fraction of the budget.
        highest: estimated cut-off: the k-th lowest value at the rung, k trials having passed.
    """

    fidelity: float
    share: float
    highest: float


@dataclass
class Observations:
    """Observations of a study, and what a sampler has to know beside them.

    Attributes:
        observed: completed trials and their intermediate values.
        failed: points of failed trials.
        tried: points of all trials: none of them is to be suggested again.
        pending: points of running and enqueued trials.
        epoch_seconds: pairs of a point and what each of its epochs took.
        rung_thresholds: in order of their fidelity.
        n_warm_start: number of warm-start trials.
    """

    observed: list[Observation]
    failed: list[Point]
    tried: set[Point]
    pending: list[Point]
    epoch_seconds: list[tuple[Point, Sequence[float]]]
    rung_thresholds: list[RungThreshold]
    n_warm_start: int = 0

    @property
    def points(self) -> list[Point]:
        """Points of the observations."""
        return [observation.point for observation in self.observed]

    @property
    def values(self) -> list[float]:
        """Values of the observations."""
        return [observation.value for observation in self.observed]

    @property
    def task_columns(self) -> Array:
        """Fidelity and task of the observations, shape (n, 2)."""
        return np.array([observation[2:] for observation in self.observed])

    @property
    def is_warm_start(self) -> NDArray[np.bool_]:
        """Mask of the observations of warm-start trials, shape (n,)."""
        return np.array([observation.task == 0 for observation in self.observed], bool)

    @property
    def full_trainings(self) -> list[Observation]:
        """Observations of full trainings of the study's own, in the order of their trials."""
        return [one for one in self.observed if one.fidelity == one.task == 1]

    def without_warm_start(self) -> Observations:
        """Return the study's own observations; the points of the others stay tried."""
        own = [observation for observation in self.observed if observation.task == 1]
        return replace(self, observed=own)

    def untried(self, points: Iterable[Point | None]) -> list[Point]:
        """Return those of some points that no trial has."""
        return [point for point in points if point and point not in self.tried]


def collect_observations(
    trials: Sequence[RecordedTrial],
    encoder: Encoder,
    sign: float,
    known: Sequence[Observation] = (),
    *,
    with_intermediate_values: bool = False,
    budget: int | None = None,
) -> Observations:
    """Collect what trials say of their configurations; those outside the space are left out.

    Args:
        trials: all trials of a study but the one that a configuration is chosen for.
        encoder: encoder of the search space.
        sign: 1 where the study minimises, -1 where it maximises.
        known: observations that are not trials.
        with_intermediate_values: whether to add those, and rung thresholds.
        budget: epochs of a full training, as far as known before any trial completed.
    """
    intermediate: dict[int, list[tuple[float, float]]] = {}
    if with_intermediate_values:
        intermediate = intermediate_observations(trials, budget)

    observed = list(known)
    tried = {observation.point for observation in known}
    failed: list[Point] = []
    pending: list[Point] = []
    epoch_seconds: list[tuple[Point, Sequence[float]]] = []

    for trial in trials:
        point = encoder.encode(trial.known_params)
        if point is None:
            continue
        tried.add(point)
        epoch_seconds.append((point, trial.record.seconds))

        # Pruned and lost trials without values are only not tried again.
        task = float(trial.is_own)
        for fidelity, value in intermediate.get(trial.number, ()):
            observation = Observation(point, sign * value, fidelity, task)
            observed.append(observation)

        if trial.value is not None and trial.has_usable_value:
            observation = Observation(point, sign * trial.value, 1.0, task)
            observed.append(observation)
        elif _is_conclusive(trial):
            failed.append(point)
        elif not trial.is_finished:
            pending.append(point)

    is_multi_fidelity = any(observation.fidelity < 1 for observation in observed)
    thresholds: list[RungThreshold] = []
    if is_multi_fidelity:
        thresholds = rung_thresholds(trials, sign)
    return Observations(
        observed,
        failed,
        tried,
        pending,
        epoch_seconds,
        thresholds,
        n_warm_start=sum(not trial.is_own for trial in trials),
    )


def _is_conclusive(trial: RecordedTrial) -> bool:
    """Return whether a trial was trained to its end or failed.

    A pruned trial has no final value, and a lost worker says nothing about its configuration.
    """
    inconclusive = (TrialOutcome.PRUNED, TrialOutcome.LOST, TrialOutcome.OUTSIDE)
    return trial.is_finished and trial.outcome not in inconclusive


def varied_parameters(trials: Iterable[RecordedTrial], space: SearchSpace) -> tuple[str, ...]:
    """Return the names of held parameters of a space that have other values in some trials.

    Args:
        trials: trials of a study, whose space may have been another one before.
        space: the search space.
    """
    configurations = [trial.configuration for trial in trials]
    return tuple(
        parameter.name
        for parameter in space.held
        if any(
            one.get(parameter.name, parameter.fixed) != parameter.fixed for one in configurations
        )
    )


def direction_sign(study: optuna.Study) -> float:
    """Return the factor that turns values of a study into ones to minimise."""
    return -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0


def choice_seed(
    seed: int,
    number: int,
    name: str = "",
) -> int:
    """Return the seed of what is chosen for one trial, or for one of its parameters.

    Args:
        seed: seed of the sampler.
        number: number of the trial.
        name: name of the parameter.
    """
    key = (seed, number, zlib.crc32(name.encode()))
    sequence = np.random.SeedSequence(key)
    state = sequence.generate_state(1)
    return int(state[0])


def output_transform(values: ArrayLike) -> Array:
    """Compress bad values and spread good ones, in the same order.

    Returns log(1 + (y - best) / (median - best)): what failed badly then neither sets the scale
    nor bends the fit around the good values.
    """
    y = np.asarray(values, float)
    halves = y / 2  # the difference of two of the largest numbers would overflow
    best = halves.min()
    spread = np.median(halves) - best
    distance = halves - best
    if spread == 0:
        return y / overflow_scale(y)
    if spread <= 1e-300 * distance.max():  # the quotient would overflow
        with np.errstate(divide="ignore"):  # the logarithm of 0
            return np.logaddexp(0, np.log(distance) - np.log(spread))

    return np.log1p(distance / spread)


def overflow_scale(values: Array) -> float:
    """Return the power of two to divide values by, so that their squares do not overflow.

    It is 1 for values up to 8e99, and the division is exact.
    """
    largest = np.max(np.abs(values), initial=0.0)
    _, exponent = np.frexp(largest)
    return float(np.ldexp(1.0, max(exponent - _LARGEST_EXPONENT, 0)))


def subsample_training_set(values: Array, full: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of the observations to fit a model to: all, or 500 of them.

    Half of them are the best full trainings, half are spread evenly over the others.

    Args:
        values: shape (n,).
        full: mask of the full trainings of the study's own, shape (n,).
    """
    if len(values) <= MAX_TRAINING_SIZE:
        return np.arange(len(values))

    # Full trainings first, by value.
    n_best = MAX_TRAINING_SIZE // 2
    order = np.lexsort((values, ~full))
    best = order[:n_best]

    # The others in their order of time.
    others = np.sort(order[n_best:])
    evenly = np.linspace(0, len(others) - 1, MAX_TRAINING_SIZE - n_best)
    spread = others[evenly.astype(int)]
    return np.sort(np.r_[best, spread])


def tie_break_margin(values: Array) -> float:
    """Return by how much the best value is to be improved on, once it is tied; else 0.

    Validation errors are multiples of one over the number of examples. Between equal values a
    smooth model expects slightly less, and the search would go on within a plateau. The margin is
    half the smallest gap, below which a value is rounded to the next multiple.

    Args:
        values: values of full trainings, shape (n,).
    """
    gaps = np.diff(np.sort(values))
    is_tied = len(gaps) > 0 and not gaps[0] > 0
    if not is_tied:
        return 0.0

    larger = gaps[gaps > 1e-9 * gaps.sum()]  # no rounding errors
    return 0.5 * float(min(larger, default=0.0))


class _Curves(NamedTuple):
    """Trials with intermediate values.

    Attributes:
        completed: trials with a final value.
        pruned: pruned trials.
        budget: last step of the completed trials, counted from 1; `offset` where none has steps.
            Before any trial completed, what is known from elsewhere.
        offset: what to add to a step to count from 1, as programs may count from 0.
    """

    completed: list[RecordedTrial]
    pruned: list[RecordedTrial]
    budget: int
    offset: int

    @classmethod
    def of(cls, trials: Sequence[RecordedTrial], known_budget: int | None = None) -> _Curves:
        """Select the completed and the pruned trials."""
        completed = [trial for trial in trials if trial.has_usable_value]
        stopped = [trial for trial in trials if trial.outcome == TrialOutcome.PRUNED]
        pruned = [trial for trial in stopped if trial.intermediate_values]

        steps = [step for trial in completed for step in trial.intermediate_values]
        pruned_steps = [step for trial in pruned for step in trial.intermediate_values]
        offset = 1 - min([1, *steps, *pruned_steps])
        budget = max([0, *steps]) + offset
        if not completed and known_budget is not None:
            budget = known_budget
        return cls(completed, pruned, budget, offset)

    def fidelity(self, epochs: int) -> float:
        """Return the fidelity of a value after some epochs."""
        return math.log(epochs) / math.log(self.budget)


def intermediate_observations(
    trials: Sequence[RecordedTrial],
    budget: int | None = None,
) -> dict[int, list[tuple[float, float]]]:
    """Return pairs (fidelity, value) of completed and pruned trials, by trial number.

    A value at the last step of the budget is left to the final one. Nothing is returned while no
    trial is pruned, nor, without a known budget, before a completed trial has steps.

    Args:
        trials: all trials of a study.
        budget: epochs of a full training, as far as known before any trial completed.
    """
    curves = _Curves.of(trials, budget)
    if not curves.pruned or curves.budget == curves.offset:
        return {}

    observations: dict[int, list[tuple[float, float]]] = {}
    for trial in (*curves.completed, *curves.pruned):
        pairs: list[tuple[float, float]] = []
        later = curves.budget if trial.is_completed else math.inf

        # Backwards, each step at most two thirds of the next one: this keeps rungs and thins out
        # epochs.
        for step, value in sorted(trial.intermediate_values.items(), reverse=True):
            epochs = step + curves.offset
            is_kept = epochs < curves.budget and 3 * epochs <= 2 * later
            if is_kept and math.isfinite(value):
                fidelity = curves.fidelity(epochs)
                pairs.append((fidelity, value))
                later = epochs

        observations[trial.number] = pairs[::-1]

    return observations


def rung_thresholds(trials: Sequence[RecordedTrial], sign: float) -> list[RungThreshold]:
    """Estimate the thresholds of the rungs at which most of the study's own trials were pruned.

    Args:
        trials: all trials of a study.
        sign: 1 where the study minimises, -1 where it maximises.
    """
    own = [trial for trial in trials if trial.is_own]
    curves = _Curves.of(own)
    last_steps = [max(trial.intermediate_values) for trial in curves.pruned]
    pruned_at = Counter(last_steps)
    rungs = [rung for rung, _ in pruned_at.most_common(_MAX_RUNGS)]

    thresholds: list[RungThreshold] = []
    for rung in sorted(rungs):
        # Values of all trials that reached the rung.
        n_passed = 0
        values: list[float] = []
        for trial in (*curves.completed, *curves.pruned):
            if rung in trial.intermediate_values:
                n_passed += max(trial.intermediate_values) > rung
                values.append(sign * trial.intermediate_values[rung])

        # As many values lie below the threshold as trials passed.
        values = sorted(filter(math.isfinite, values))
        epochs = rung + curves.offset
        if values and n_passed > 0 and epochs < curves.budget:
            threshold = RungThreshold(
                fidelity=curves.fidelity(epochs),
                share=epochs / curves.budget,
                highest=values[:n_passed][-1],
            )
            thresholds.append(threshold)

    return thresholds


def final_values(study: optuna.Study) -> list[tuple[RecordedTrial, float]]:
    """Return finished trials with their values to minimise, failed ones with the worst value.

    A pruned value is of a lower fidelity and a lost trial says nothing: both are left out. The
    list is empty while no trial has a usable value.
    """
    sign = direction_sign(study)
    trials = list(filter(_is_conclusive, recorded_trials(study)))
    values: list[float] = []
    for trial in trials:
        value = math.inf if trial.value is None else sign * trial.value
        values.append(value)

    # Failed trials have the worst value of the others.
    worst = max(filter(math.isfinite, values), default=None)
    if worst is None:
        return []

    values = [value if math.isfinite(value) else worst for value in values]
    return list(zip(trials, values, strict=True))
