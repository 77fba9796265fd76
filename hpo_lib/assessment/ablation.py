"""Find out which changes to the default configuration earn what the best one gains.

The method is ablation analysis on a surrogate: Fawcett and Hoos (2016), "Analysing differences
between algorithm configurations through ablation", and Biedenkapp et al. (2017), "Efficient
parameter importance analysis via ablation with surrogates".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd

from hpo_lib.formatting import format_value
from hpo_lib.samplers.surrogate import Surrogate, fit_surrogate
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.retrain import with_retrained
from hpo_lib.trials import incumbent, recorded_trials, study_space, value_name


@dataclass(frozen=True)
class AblationStep:
    """A configuration on the way from the default to the best one.

    Attributes:
        name: the hyperparameter that was changed last; empty for the default.
        configuration: with this change and those before it.
        mean: the surrogate's mean.
        std: its standard deviation.
    """

    name: str
    configuration: Configuration
    mean: float
    std: float

    @property
    def value(self) -> str:
        """Return the value that was changed to, as text; empty for the default."""
        return format_value(self.configuration.get(self.name, ""))


@dataclass(frozen=True)
class AblationPath:
    """Changes from the default to the best configuration, the most useful one first.

    Attributes:
        steps: the default, then one step per changed hyperparameter.
        value_name: what the predicted values are called.
    """

    steps: tuple[AblationStep, ...]
    value_name: str = "value"

    @property
    def gain(self) -> float:
        """Return by how much the predicted value of the best is below that of the default."""
        return self.steps[0].mean - self.steps[-1].mean

    @property
    def gain_half(self) -> float:
        """Return half the width of the 95 % interval of the gain; errors are independent."""
        return 1.96 * math.hypot(self.steps[0].std, self.steps[-1].std)

    @property
    def n_needed(self) -> int:
        """Return how many changes make a configuration as good as the best within one std."""
        last = self.steps[-1]
        for n, step in enumerate(self.steps):
            if step.mean - last.mean <= math.hypot(step.std, last.std):
                return n
        return len(self.steps) - 1

    @property
    def needed(self) -> list[str]:
        """Return the hyperparameters of the needed changes."""
        return [step.name for step in self.steps[1 : self.n_needed + 1]]

    @property
    def table(self) -> pd.DataFrame:
        """Return a row per step: the change, its value, and the prediction with its std."""
        return pd.DataFrame(
            {
                "change": [step.name or "(default)" for step in self.steps],
                "to": [step.value for step in self.steps],
                "predicted": [step.mean for step in self.steps],
                "std": [step.std for step in self.steps],
            }
        )

    @property
    def share(self) -> float:
        """Return the share of the gain that the needed changes earn, at most 1."""
        if self.gain <= 0:
            return 0.0
        earned = self.steps[0].mean - self.steps[self.n_needed].mean
        return min(earned / self.gain, 1.0)


def ablation_path(
    study: optuna.Study,
    space: SearchSpace | None = None,
    *,
    configuration: Configuration | None = None,
    retrained: pd.DataFrame | None = None,
) -> AblationPath:
    """Change the default into the best configuration, one hyperparameter after the other.

    Each step changes the one that lowers the surrogate's mean most. A hyperparameter that becomes
    active with a change starts at its default and is a step of its own.

    Args:
        study: a study that minimises.
        space: its search space; default: the recorded one.
        configuration: where the path ends; default: the incumbent's.
        retrained: as `retrained_frame` returns it; its trainings tell the surrogate how much a
            value of the same configuration varies.

    Raises:
        StudyError: another program made the study, and no space is given.
        ValueError: fewer than four trials are completed, or the best one is outside the space.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> unit = {"type": "float", "low": 0.0, "high": 1.0, "default": 1.0}
        >>> space = SearchSpace.from_dict({"x": unit, "y": unit})
        >>> options = {"name": "doc", "storage": "memory", "workers": 0}
        >>> study = run_study(lambda c: c["x"] + 9 * c["y"], space, "random", 12, **options)
        >>> [step.name for step in ablation_path(study).steps]
        ['', 'y', 'x']
    """
    space = study_space(study) if space is None else space
    trials = recorded_trials(study)
    surrogate = fit_surrogate(with_retrained(trials, retrained), space)
    if configuration is None:
        best = incumbent(study)
        if best is None:
            message = f"study {study.study_name!r} has no trial that ran to its end"
            raise ValueError(message)
        configuration = best.configuration

    target = space.complete(configuration)
    values: dict[str, Any] = {parameter.name: parameter.default for parameter in space}
    steps = [_predict(surrogate, space, "", values)]
    while True:
        # Only what is active now changes anything.
        current = steps[-1].configuration
        options: list[AblationStep] = []
        for name, value in target.items():
            if name in current and current[name] != value:
                changed = {**values, name: value}
                options.append(_predict(surrogate, space, name, changed))
        if not options:
            return AblationPath(tuple(steps), value_name(trials))

        step = min(options, key=lambda option: option.mean)
        values[step.name] = target[step.name]
        steps.append(step)


def _predict(
    surrogate: Surrogate,
    space: SearchSpace,
    name: str,
    values: dict[str, Any],
) -> AblationStep:
    configuration = space.complete(values)
    mean, std = surrogate.predict([configuration])
    return AblationStep(name, configuration, float(mean[0]), float(std[0]))
