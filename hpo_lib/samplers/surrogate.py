"""Fit the Gaussian process that figures, stopping rules and explorers read from a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna

from hpo_lib.samplers.encoding import Array, Encoder
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.samplers.observations import collect_observations, varied_parameters
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import RecordedTrial, recorded_trials


@dataclass(frozen=True)
class Surrogate:
    """Gaussian process fitted to the completed trials of a study.

    Attributes:
        model: fitted to scaled points.
        encoder: encoder of the study's space.
        points: of the completed trials, shape (n, d).
    """

    model: GaussianProcess
    encoder: Encoder
    points: Array

    def predict(self, configurations: Sequence[Configuration]) -> tuple[Array, Array]:
        """Return the mean and the standard deviation at configurations, each of shape (n,)."""
        rows = self.encoder.scale(self.encoder.points(configurations))
        return self.model.predict(rows, return_std=True)


def fit_surrogate(
    source: optuna.Study | Sequence[RecordedTrial],
    space: SearchSpace,
) -> Surrogate:
    """Fit a Gaussian process to the completed trials inside a space.

    Args:
        source: a study, or its trials.
        space: the search space.

    Raises:
        ValueError: there are fewer than three such trials.

    Example:
        >>> import optuna
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(lambda trial: space.suggest(trial)["x"], n_trials=5)
        >>> mean, std = fit_surrogate(study, space).predict([{"x": 0.2}, {"x": 0.9}])
        >>> bool(mean[0] < mean[1])
        True
    """
    recorded = recorded_trials(source) if isinstance(source, optuna.Study) else source
    trials = [replace(trial.as_evidence(), params=trial.configuration) for trial in recorded]
    encoder = Encoder(space.distributions(), space, varied_parameters(recorded, space))
    observations = collect_observations(trials, encoder, sign=1.0)
    points = observations.points
    if len(points) < 3 or not encoder.axes:
        message = (
            "a surrogate needs at least 3 completed trials inside the space, "
            f"got {len(points)} of {len(trials)} trials"
        )
        raise ValueError(message)

    model = GaussianProcess(encoder.categories)
    model.fit(encoder.scale(points), observations.values)
    return Surrogate(model, encoder, np.array(points))
