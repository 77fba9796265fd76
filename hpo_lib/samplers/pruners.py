"""Decide whether a trial goes on at a rung: `RungPruner.prune`.

Optuna's own pruners are stateful and tie brackets to the study's name, so
that a resumed study differs. The verdicts here are functions of (seed, trial number, recorded
values) alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial

from hpo_lib.checks import check_whole
from hpo_lib.samplers.observations import direction_sign
from hpo_lib.trials import RecordedTrial, TrialOutcome, recorded_trials

RULES = ("asha", "hyperband", "median")

_MIN_OTHERS = 4
"""Trials that the median rule waits for at a rung."""


def default_rungs(
    budget: int,
    pruning: str | BasePruner,
    reduction_factor: int = 3,
) -> tuple[int, ...]:
    """Return an eighth, a quarter and half of the budget, rounded; for brackets, powers.

    Rungs at 1, 3, 9, ... epochs stopped good configurations in the first epochs, which say little
    on many learning curves. Hyperband, whose brackets skip the lowest rungs, has those.

    Args:
        budget: epochs of a full training.
        pruning: "asha", "hyperband" or "median", or any Optuna pruner.
        reduction_factor: of Hyperband, at least 2.
    """
    if pruning not in ("asha", "median"):
        return geometric_rungs(budget, reduction_factor)

    rungs = {max(1, round(budget / divisor)) for divisor in (8, 4, 2)}
    return tuple(sorted(rung for rung in rungs if rung < budget))


def geometric_rungs(budget: int, reduction_factor: int = 3) -> tuple[int, ...]:
    """Return 1, 3, 9, ... epochs, each a multiple of the one before, all below the budget.

    Args:
        budget: epochs of a full training.
        reduction_factor: factor between two rungs, at least 2.
    """
    check_whole("reduction_factor", reduction_factor, 2)
    rungs = [1]
    while rungs[-1] < budget:
        rungs.append(rungs[-1] * reduction_factor)
    return tuple(rungs[:-1])


def halving_goes_on(
    number: int,
    values: Mapping[int, float],
    reduction_factor: int = 3,
    min_trials: int = 1,
) -> bool:
    """Return whether the trial is in the best 1 / `reduction_factor` of those at the rung.

    Asynchronous successive halving (Li et al., 2020, "A system for massively parallel
    hyperparameter tuning") in the form that stops trials and promotes none later. Among equal
    values the earlier trial is the better one; the best one goes on, however few there are.

    Args:
        number: number of the trial in question.
        values: value at the rung by number, of all trials of the bracket; lower is better.
        reduction_factor: how many trials share one place on the next rung.
        min_trials: trials that must have reached the rung before one goes on.
    """
    own = (values[number], number)
    n_better = sum((value, other) < own for other, value in values.items())
    n_promoted = max(1, len(values) // reduction_factor)
    return len(values) >= min_trials and n_better < n_promoted


def median_goes_on(number: int, values: Mapping[int, float]) -> bool:
    """Return whether the trial is no worse than the median of the others at the rung.

    After Golovin et al. (2017), "Google Vizier", section 3.1. Values at the rung itself are
    compared, not the best ones until then, since the last epoch's value counts in the end.

    Args:
        number: number of the trial in question.
        values: value at the rung by number; lower is better.
    """
    others = [value for other, value in values.items() if other != number]
    return len(others) < _MIN_OTHERS or values[number] <= statistics.median(others)


def bracket(
    seed: int,
    number: int,
    n_rungs: int,
    reduction_factor: int = 3,
) -> int:
    """Return how many of the lowest rungs a trial skips without a decision, 0 to `n_rungs`.

    It is drawn with the weights of Hyperband's brackets (Li et al., 2018, algorithm 1), in which
    each gets about the same number of epochs.

    Args:
        seed: seed of the study.
        number: number of the trial.
        n_rungs: how many rungs there are.
        reduction_factor: of the halving.
    """
    s = np.arange(n_rungs, -1, -1)  # rungs at which the bracket still halves
    rate = float(reduction_factor) ** s
    n_trials = np.ceil((n_rungs + 1) / (s + 1) * rate)
    drawn = np.random.default_rng([seed, number]).random()
    cumulative = np.cumsum(n_trials) / n_trials.sum()
    return int(np.searchsorted(cumulative, drawn, side="right"))


class RungPruner(BasePruner):
    """Successive halving, Hyperband or the median rule, at given rungs, in any Optuna program.

    Args:
        rule: "asha", "hyperband" or "median". With "asha" no trial passes the lowest rung before
            `reduction_factor` trials have reached it, or an enqueued one has: a first trial that
            goes on without rivals costs a full training.
        rungs: epochs at which a trial may be stopped.
        reduction_factor: of successive halving and of Hyperband's brackets.
        seed: of Hyperband's brackets.
    """

    def __init__(
        self,
        rule: str,
        rungs: tuple[int, ...],
        reduction_factor: int = 3,
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            message = f"pruning must be one of {', '.join(RULES)}, none, got {rule!r}"
            raise ValueError(message)
        self._rule = rule
        self._rungs = rungs
        self._reduction_factor = check_whole("reduction_factor", reduction_factor, 2)
        self._seed = seed

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial stops at the last epoch that it reported.

        Enqueued trials, such as the default configuration, go on: their value was asked for. Any
        other trial whose value is NaN stops, and is compared with none. Warm-start trials do not
        compete: those that completed are the survivors of another search.

        Args:
            study: study that the trial belongs to.
            trial: trial that has reported a value.
        """
        rung = trial.last_step
        if rung not in self._rungs or RecordedTrial.from_trial(trial).is_queued:
            return False
        if math.isnan(trial.intermediate_values[rung]):
            return True

        rivals = _rivals(study, rung)
        sign = direction_sign(study)
        values = {one.number: sign * one.intermediate_values[rung] for one in rivals}
        values[trial.number] = sign * trial.intermediate_values[rung]

        if self._rule == "median":
            return not median_goes_on(trial.number, values)

        # Successive halving, for Hyperband among the trials of one bracket.
        min_trials = 1
        if self._rule == "hyperband":
            own = self._bracket(trial.number)
            if self._rungs.index(rung) < own:
                return False
            values = {other: v for other, v in values.items() if self._bracket(other) == own}
        elif rung == self._rungs[0] and not any(one.is_queued for one in rivals):
            min_trials = self._reduction_factor
        return not halving_goes_on(trial.number, values, self._reduction_factor, min_trials)

    def _bracket(self, number: int) -> int:
        return bracket(self._seed, number, len(self._rungs), self._reduction_factor)


def _rivals(study: optuna.Study, rung: int) -> list[RecordedTrial]:
    """Return the trials of the study's own that have a value at the rung."""
    rivals: list[RecordedTrial] = []
    for trial in recorded_trials(study):
        value = trial.intermediate_values.get(rung, math.nan)
        no_rival = (TrialOutcome.WAITING, TrialOutcome.OUTSIDE)
        is_started = trial.is_own and trial.outcome not in no_rival
        if is_started and not math.isnan(value):
            rivals.append(trial)
    return rivals


def make_pruner(
    pruning: str | BasePruner | None,
    rungs: tuple[int, ...],
    reduction_factor: int,
    seed: int,
) -> BasePruner:
    """Return the pruner of a rule.

    Args:
        pruning: "asha", "hyperband", "median" or None, or any Optuna pruner.
        rungs: epochs at which a trial may be stopped.
        reduction_factor: of successive halving and of Hyperband's brackets.
        seed: of Hyperband's brackets.
    """
    if isinstance(pruning, BasePruner):
        return pruning
    return NopPruner() if pruning is None else RungPruner(pruning, rungs, reduction_factor, seed)
