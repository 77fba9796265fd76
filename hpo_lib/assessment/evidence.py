"""Collect what several findings rest on: trials, the surrogate, correlations and words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hpo_lib.assessment.ablation import AblationPath, ablation_path
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.trials import (
    RecordedTrial,
    incumbent,
    own_trials,
    recorded_trials,
    sort_by_value,
)

_N_FOLDS = 10

MIN_CROSS_VALIDATED = 8
"""Different configurations that it takes to hold some back."""

MIN_CORRELATION = 0.1
"""What the interval of a rank correlation has to lie above in order to show something.

With 0, some 5 % of searches of pure noise had a surrogate that passed.
"""


class Correlation(NamedTuple):
    """Rank correlation with its 95 % interval.

    Attributes:
        value: Spearman's or Kendall's coefficient.
        low: lower end of the interval.
        high: upper end.
        n: pairs that it was computed from.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} (95 %: {self.low:.2f} to {self.high:.2f}; {self.n} trials)"


class MeasuredGain(NamedTuple):
    """Mean value of the default minus that of the tuned configuration, of fresh trainings.

    Attributes:
        mean: positive where tuning helped.
        low: lower end of the 95 % interval.
        high: upper end.
        n_default: trainings of the default.
        n_tuned: trainings of the tuned configuration.
    """

    mean: float
    low: float
    high: float
    n_default: int
    n_tuned: int

    def __str__(self) -> str:
        n = f"{self.n_tuned} fresh trainings of it, {self.n_default} of the default"
        return f"{self.mean:.2g} (95 %: {self.low:.2g} to {self.high:.2g}; {n})"


@dataclass(frozen=True)
class Evidence:
    """A study as the findings see it; the surrogate is fitted when first asked for.

    Attributes:
        study: the study.
        space: its search space.
        retrained: as `retrained_frame` returns it, if its best were trained again.
        final: final trainings, checked, if there are any.
    """

    study: optuna.Study
    space: SearchSpace
    retrained: pd.DataFrame | None = None
    final: pd.DataFrame | None = None

    @cached_property
    def trials(self) -> list[RecordedTrial]:
        """Return the study's own trials that were started, in its present search space."""
        return [trial for trial in own_trials(self.study) if trial.is_inside]

    @cached_property
    def ranked(self) -> list[RecordedTrial]:
        """Return its trials with a final value, the lowest value first."""
        return [trial for trial in sort_by_value(self.trials) if trial.has_usable_value]

    @cached_property
    def best(self) -> RecordedTrial | None:
        """Return the incumbent."""
        return incumbent(self.ranked)

    @cached_property
    def tuned(self) -> RecordedTrial | None:
        """Return the trial with the lowest mean of fresh trainings, else the incumbent."""
        means = self.fresh_means
        if not means:
            return self.best
        lowest = min(means, key=means.__getitem__)
        return next(trial for trial in self.ranked if trial.number == lowest)

    @cached_property
    def fresh_means(self) -> dict[int, float]:
        """Return the means of fresh trainings by the number of the trial."""
        if self.retrained is None:
            return {}
        return self.retrained.set_index("trial")["mean"].dropna().to_dict()

    def fresh_values(self, trial: RecordedTrial) -> list[float]:
        """Return the values of a trial's fresh trainings."""
        if self.retrained is None or "values" not in self.retrained:
            return []
        rows = self.retrained[self.retrained["trial"] == trial.number]
        return [value for values in rows["values"] for value in values]

    def final_values(self, label: str) -> list[float]:
        """Return the validation errors of final trainings that were as long as the best trial.

        Args:
            label: "default" or "tuned".
        """
        if self.final is None or self.best is None:
            return []
        budget = len(self.best.record.validation_error)
        is_same = (self.final["configuration"] == label) & (self.final["epochs"] == budget)
        errors = self.final["validation_error"][is_same].tolist()
        return [error for error in errors if math.isfinite(error)]

    @cached_property
    def default(self) -> RecordedTrial | None:
        """Return the trial of the default configuration."""
        default = self.space.default_configuration()
        return next((one for one in self.ranked if one.configuration == default), None)

    @cached_property
    def measured_gain(self) -> MeasuredGain | None:
        """Return what fresh trainings gain over those of the default (Welch's interval)."""
        if self.default is None or self.tuned is None or self.default is self.tuned:
            return None

        # Retrainings chose the tuned configuration, so that they may flatter it.
        default = self.fresh_values(self.default) + self.final_values("default")
        tuned = self.final_values("tuned") or self.fresh_values(self.tuned)
        if min(len(default), len(tuned)) < 2:
            return None
        mean = float(np.mean(default) - np.mean(tuned))
        low = high = mean
        if np.ptp(default) > 0 or np.ptp(tuned) > 0:
            with warnings.catch_warnings():
                # One side may well be constant.
                warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
                test: Any = stats.ttest_ind(default, tuned, equal_var=False)
            low, high = test.confidence_interval()
        return MeasuredGain(
            mean=mean,
            low=float(low),
            high=float(high),
            n_default=len(default),
            n_tuned=len(tuned),
        )

    @cached_property
    def spread(self) -> float:
        """Return the distance from the best value to the upper quartile of the completed trials.

        A search that has converged has its median close to its best value.
        """
        values = np.array([trial.value for trial in self.ranked], float)
        return float(np.quantile(values, 0.75) - values.min()) if len(values) else 0.0

    @cached_property
    def surrogate(self) -> Surrogate | None:
        """Return the Gaussian process of the trials; None where they are too few."""
        try:
            return fit_surrogate(recorded_trials(self.study), self.space)
        except ValueError:  # fewer than four completed trials, or nothing to search
            return None

    @cached_property
    def path(self) -> AblationPath | None:
        """Return the path from the default to the tuned configuration, if there is one."""
        if self.surrogate is None or self.tuned is None:
            return None
        try:
            return ablation_path(
                self.study,
                self.space,
                configuration=self.tuned.configuration,
                retrained=self.retrained,
            )
        except ValueError:  # the tuned configuration lies outside the space
            return None

    @cached_property
    def quality(self) -> Correlation | None:
        """Return how the surrogate ranks trials that it was not fitted to; None for too few."""
        from sklearn.model_selection import GroupKFold, cross_val_predict  # slow to import

        if self.surrogate is None:
            return None
        model = self.surrogate.model
        values = model.y_ * model.scale_ + model.shift_

        # Repeats of a configuration are in the same fold.
        configurations, groups = np.unique(model.X_, axis=0, return_inverse=True)
        if len(configurations) < MIN_CROSS_VALIDATED:
            return None
        folds = GroupKFold(min(_N_FOLDS, len(configurations)))
        unfitted = GaussianProcess(model.categories)
        predicted: Any = cross_val_predict(unfitted, model.X_, values, groups=groups, cv=folds)
        return rank_correlation(predicted, values, "spearman")

    @property
    def is_predictable(self) -> bool:
        """Return whether the surrogate predicts held-out trials better than their mean."""
        return self.quality is not None and self.quality.low > MIN_CORRELATION


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    kind: Literal["spearman", "kendall"],
) -> Correlation:
    """Return a rank correlation with an interval that is symmetric on Fisher's scale.

    Its variance is that of Bonett and Wright (2000), "Sample size requirements for estimating
    Pearson, Kendall and Spearman correlations".

    Args:
        x: values, shape (n,).
        y: values, shape (n,).
        kind: "spearman" for ρ or "kendall" for τ, which corrects for ties.
    """
    n = len(np.asarray(x))
    is_defined = np.ptp(x) > 0 and np.ptp(y) > 0
    correlate: Any = stats.spearmanr if kind == "spearman" else stats.kendalltau
    value = float(correlate(x, y).statistic) if is_defined else 0.0

    if kind == "spearman":
        variance = (1 + value**2 / 2) / max(n - 3, 1)
    else:
        variance = 0.437 / max(n - 4, 1)
    z = math.atanh(min(max(value, -0.999), 0.999))
    half = 1.96 * math.sqrt(variance)
    return Correlation(value, math.tanh(z - half), math.tanh(z + half), n)


def join(names: Iterable[str]) -> str:
    """Return names as a sentence has them: "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
