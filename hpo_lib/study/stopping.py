"""Stop a search by rules that read its record, for `run_study(stop=...)`.

A rule is any function of a study that returns the reason to stop, or None. The rules of this
module depend on the recorded trials alone, so a study that was killed and resumed stops at the
same trial as one that was not. Rules are asked before each new trial; trials that are running end
first. They are no part of a study's settings: called with later rules or none, a stopped study
goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from hpo_lib.checks import check_positive, check_whole
from hpo_lib.samplers.acquisition import log_expected_improvement, optimize_acquisition
from hpo_lib.samplers.encoding import Array
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.study.driver import StoppingRule
from hpo_lib.trials import (
    RecordedTrial,
    incumbent,
    own_trials,
    recorded_trials,
    sort_by_value,
    study_space,
)

_N_STARTS = 5
"""Best trials around which the largest improvement is looked for, too."""


@dataclass(frozen=True)
class MaxSeconds:
    """Stop after a time of training and suggesting, summed over all workers.

    Attributes:
        seconds: as recorded, in this run and in those before it.
    """

    seconds: float

    def __post_init__(self) -> None:
        check_positive(seconds=self.seconds)

    def __call__(self, study: optuna.Study) -> str | None:
        """Return the reason to stop, or None."""
        spent = sum(trial.spent_seconds for trial in own_trials(study))
        if spent < self.seconds:
            return None
        return f"{spent:.1f} s of training and suggesting, the limit is {self.seconds:g} s"


@dataclass(frozen=True)
class TargetValue:
    """Stop when a trial that ran to its end is at the target or below.

    Attributes:
        target: value of the objective.
    """

    target: float

    def __call__(self, study: optuna.Study) -> str | None:
        """Return the reason to stop, or None."""
        best = incumbent(study)
        if best is None or best.final_value > self.target:
            return None
        return f"{best.final_value:.4g} reached the target {self.target:g}"


@dataclass(frozen=True)
class NoImprovement:
    """Stop when none of the last finished trials was better than all before them.

    Attributes:
        n_trials: how many; pruned and failed trials count, warm-start trials and those outside of
            the present search space do not.
    """

    n_trials: int

    def __post_init__(self) -> None:
        check_positive(n_trials=self.n_trials)

    def __call__(self, study: optuna.Study) -> str | None:
        """Return the reason to stop, or None."""
        inside = [trial for trial in own_trials(study) if trial.is_inside]
        finished = [trial for trial in inside if trial.is_finished]
        best = incumbent(finished)
        n_until_best = 0 if best is None else finished.index(best) + 1
        if len(finished) - n_until_best < self.n_trials:
            return None
        return f"no improvement in the last {self.n_trials} trials"


@dataclass(frozen=True)
class SmallImprovement:
    """Stop when a Gaussian process expects less improvement than `threshold` everywhere.

    The model is that of `fit_surrogate`, whatever strategy chose the trials; warm-start trials are
    evidence for it. The improvement is measured from the lowest mean at a point that the study
    itself has tried.

    Attributes:
        threshold: in units of the objective.
        min_trials: completed trials of the study's own from which on the model is asked; a model
            of few points may be overconfident.
    """

    threshold: float
    min_trials: int = 10

    def __post_init__(self) -> None:
        check_positive(threshold=self.threshold)
        check_whole("min_trials", self.min_trials, 4)

    def __call__(self, study: optuna.Study) -> str | None:
        """Return the reason to stop, or None."""
        space = study_space(study)
        completed = [trial for trial in recorded_trials(study) if trial.has_usable_value]
        has_choices = any(parameter.count != 1 for parameter in space.searched)
        if len(sort_by_value(completed)) < self.min_trials or not has_choices:
            return None

        expected = largest_expected_improvement(fit_surrogate(completed, space), completed)
        if not expected < self.threshold:
            return None
        return f"expected improvement {expected:.2g}, the threshold is {self.threshold:g}"


RULES = (MaxSeconds, TargetValue, NoImprovement, SmallImprovement)


def stopping_rules(
    *,
    seconds: float = 0,
    error: float = 0,
    patience: int = 0,
    improvement: float = 0,
) -> list[StoppingRule]:
    """Return the rules whose limit is not 0, as the parameters of a notebook give them.

    Args:
        seconds: limit of `MaxSeconds`.
        error: limit of `TargetValue`.
        patience: limit of `NoImprovement`.
        improvement: limit of `SmallImprovement`.

    Example:
        >>> from hpo_lib.study.stopping import stopping_rules
        >>> stopping_rules(seconds=60, patience=5)
        [MaxSeconds(seconds=60), NoImprovement(n_trials=5)]
    """
    limits: tuple[Any, ...] = (seconds, error, patience, improvement)
    return [rule(limit) for rule, limit in zip(RULES, limits, strict=True) if limit]


def largest_expected_improvement(
    surrogate: Surrogate,
    trials: Sequence[RecordedTrial],
) -> float:
    """Return the maximum of the expected improvement over the search space.

    Args:
        surrogate: fitted to the trials.
        trials: of the study; those of its own that are completed are what is to be improved on.
    """
    encoder = surrogate.encoder
    model = surrogate.model
    encoded = [encoder.encode(trial.params) for trial in sort_by_value(trials)]
    tried = np.array([point for point in encoded if point is not None])
    best = float(model.predict(encoder.scale(tried)).min())

    def log_improvement(points: Array) -> Array:
        mean, std = model.predict(encoder.scale(points), return_std=True)
        return log_expected_improvement(mean, std, best)

    rng = np.random.default_rng(len(trials))
    highest = optimize_acquisition(encoder, log_improvement, tried[:_N_STARTS], rng)[0]
    return float(np.exp(log_improvement(np.array([highest]))[0]))
