"""Estimate the probability that a trial succeeds from which trials failed."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from hpo_lib.samplers.acquisition import AcquisitionFunction
from hpo_lib.samplers.encoding import Array, Encoder
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.samplers.observations import Observations

_MAX_LABELS = 200


class FeasibilityModel:
    """Probability that a trial does not fail.

    A failure has no value; it is an observation of an unknown constraint (Gelbart et al., 2014,
    "Bayesian optimization with unknown constraints"). The model is least-squares classification
    with a Gaussian process (Rasmussen and Williams, 2006, section 6.5): a regression on the labels
    0 and 1. Failures that have nothing to do with the configuration become its noise, and the
    probability is then the same everywhere.

    Args:
        encoder: encoder of the points.
        observations: what was recorded, with one failed trial at least.
    """

    def __init__(self, encoder: Encoder, observations: Observations) -> None:
        # Intermediate values of one trial are one success.
        succeeded = list(dict.fromkeys(observations.points))
        points = [*succeeded, *observations.failed]
        labels = np.repeat([1.0, 0.0], [len(succeeded), len(observations.failed)])

        # Spread evenly over both kinds where they are too many.
        n_kept = min(len(points), _MAX_LABELS)
        evenly = np.linspace(0, len(points) - 1, n_kept)
        kept = evenly.astype(int)
        rows = encoder.scale(points)[kept]
        self._encoder = encoder
        self._model = GaussianProcess(encoder.categories).fit(rows, labels[kept])

    def log_probability(self, points: Array) -> Array:
        """Return logarithms of the probability to succeed at points of shape (n, d)."""
        rows = self._encoder.scale(points)
        mean, std = self._model.predict(rows, return_std=True)
        total_std = np.hypot(std, self._model.noise_)
        return log_ndtr((mean - 0.5) / total_std)

    def weight_by_probability(self, acquisition: AcquisitionFunction) -> AcquisitionFunction:
        """Return the acquisition function with the logarithm of the probability added.

        Args:
            acquisition: logarithm of an acquisition function, or "LCB", for which the probability
                is a penalty in units of the transformed values.
        """
        return lambda points: acquisition(points) + self.log_probability(points)
