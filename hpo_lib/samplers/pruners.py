"""Whether a trial goes on at a rung: pure functions of the values recorded there.

Optuna's own pruners keep state in what was asked and tie brackets to the study's name, so a
resumed study differs; these depend on (seed, trial number, recorded values) alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo_lib.checks import check_whole
from hpo_lib.trials import RecordedTrial, TrialOutcome, recorded_trials

RULES = ("asha", "hyperband", "median")

_LEAST_OTHERS = 4
"""Trials that the median rule waits for at a rung, to have a median worth the name."""


def default_rungs(budget: int, reduction_factor: int = 3) -> tuple[int, ...]:
    """1, 3, 9, … epochs, each `reduction_factor` times the one before, all below the budget."""
    check_whole("reduction_factor", reduction_factor, 2)
    rungs = [1]
    while rungs[-1] < budget:
        rungs.append(rungs[-1] * reduction_factor)
    return tuple(rungs[:-1])


def halving_goes_on(
    number: int, values: Mapping[int, float], reduction_factor: int = 3, least: int = 1
) -> bool:
    """Whether the trial is in the best 1 / `reduction_factor` of those that reached the rung.

    Asynchronous successive halving (Li et al., 2020, "A system for massively parallel
    hyperparameter tuning") in the form that stops trials and promotes none later. Of equal values
    the earlier trial's counts as the better; the best one goes on, however few there are.

    Args:
        number: the trial in question.
        values: what each trial of the bracket had at the rung, lower is better.
        reduction_factor: how many trials share one place on the next rung.
        least: trials that must have reached the rung before one goes on.
    """
    mine = (values[number], number)
    better = sum((value, other) < mine for other, value in values.items())
    return len(values) >= least and better < max(1, len(values) // reduction_factor)


def median_goes_on(number: int, values: Mapping[int, float]) -> bool:
    """Whether the trial is no worse than the median of the others that reached the rung.

    After Golovin et al. (2017), "Google Vizier", section 3.1; values are compared at the rung
    itself, since it is the last epoch's that counts in the end.
    """
    others = [value for other, value in values.items() if other != number]
    return len(others) < _LEAST_OTHERS or values[number] <= statistics.median(others)


def bracket(seed: int, number: int, n_rungs: int, reduction_factor: int = 3) -> int:
    """How many of the lowest rungs a trial passes unasked, 0 to `n_rungs`.

    Drawn with the weights of Hyperband's brackets (Li et al., 2018, algorithm 1), in which each
    gets about the same number of epochs.
    """
    left = np.arange(n_rungs, -1, -1)  # the rungs at which the bracket still halves
    weights = np.ceil((n_rungs + 1) / (left + 1) * float(reduction_factor) ** left)
    drawn = np.random.default_rng([seed, number]).random()
    return int(np.searchsorted(np.cumsum(weights) / weights.sum(), drawn, side="right"))


class RungPruner(BasePruner):
    """The rules as a pruner that knows nothing but the record; it works in any Optuna program.

    Args:
        rule: "asha", "hyperband" or "median". With "asha" none passes the lowest rung before
            `reduction_factor` trials were there or an enqueued one was: a first trial that goes
            on unrivalled costs a whole training, a start costs a rung.
        rungs: epochs at which a trial may be stopped; it goes on anywhere else.
        reduction_factor: of successive halving and of Hyperband's brackets.
        seed: of Hyperband's brackets.
    """

    def __init__(
        self, rule: str, rungs: tuple[int, ...], reduction_factor: int = 3, seed: int = 0
    ) -> None:
        if rule not in RULES:
            message = f"pruning must be one of {', '.join(RULES)}, none, got {rule!r}"
            raise ValueError(message)
        default_rungs(1, reduction_factor)  # refuses a wrong factor
        self._rule = rule
        self._rungs = rungs
        self._reduction_factor = reduction_factor
        self._seed = seed

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial stops at the last epoch that it reported.

        Enqueued trials, such as the default configuration, go on: somebody asked for their value.
        Any other whose value there is NaN stops, and is compared with none.
        Trials copied as evidence do not compete: those that completed elsewhere are the
        survivors of another search.
        """
        epoch = trial.last_step
        if epoch not in self._rungs or RecordedTrial.from_trial(trial).is_queued:
            return False
        if math.isnan(trial.intermediate_values[epoch]):
            return True
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        there = [
            one
            for one in recorded_trials(study)
            if not math.isnan(one.intermediate_values.get(epoch, math.nan))
            and one.outcome != TrialOutcome.WAITING
            and one.is_own
        ]
        reached = {one.number: sign * one.intermediate_values[epoch] for one in there}
        reached[trial.number] = sign * trial.intermediate_values[epoch]
        if self._rule == "median":
            return not median_goes_on(trial.number, reached)
        if self._rule == "hyperband":
            mine = self._bracket(trial.number)
            if self._rungs.index(epoch) < mine:
                return False
            reached = {one: v for one, v in reached.items() if self._bracket(one) == mine}
        asked_for = any(one.is_queued for one in there)
        waits = self._rule == "asha" and epoch == self._rungs[0] and not asked_for
        least = self._reduction_factor if waits else 1
        return not halving_goes_on(trial.number, reached, self._reduction_factor, least)

    def _bracket(self, number: int) -> int:
        return bracket(self._seed, number, len(self._rungs), self._reduction_factor)


def make_pruner(
    pruning: str | BasePruner | None, rungs: tuple[int, ...], reduction_factor: int, seed: int
) -> BasePruner:
    """The pruner of a rule's name; one of Optuna's own is returned as it is."""
    if isinstance(pruning, BasePruner):
        return pruning
    if pruning is None or pruning == "none":
        return NopPruner()
    return RungPruner(pruning, rungs, reduction_factor, seed)
