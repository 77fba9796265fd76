"""What trying a configuration promises, by the models of what was recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from hpo_lib.samplers.encoding import Array, Codes
from hpo_lib.samplers.gp import (
    AveragedProcess,
    GaussianProcess,
    compress,
    log_expected_improvement,
)
from hpo_lib.samplers.history import History

ACQUISITIONS = ("gp_hedge", "EI", "LCB", "PI")


@dataclass(frozen=True)
class Acquisition:
    """The acquisition function `name`: points, shape (n, axes), to values (n,), higher is better.

    `best` is to be improved on, in the units of `model`. EI is the logarithm of the augmented
    expected improvement (see `log_expected_improvement`). It counts only in a trial that passes
    every gate, and it is divided by the epochs until the trial is expected to end: as many as the
    budget's where none is pruned. "EIps" divides by their seconds.
    """

    name: str
    codes: Codes
    model: AveragedProcess
    history: History
    best: float
    kappa: float
    log_cost: GaussianProcess | None

    def __call__(self, points: Array) -> Array:
        """What each point promises."""
        rows = self.codes.scale(points)
        mean, std = self.model.predict(trusted(rows, self.model), return_std=True)
        if self.name == "LCB":
            return self.kappa * std - mean
        if self.name == "PI":
            return log_ndtr((self.best - mean) / std)
        passing = self._log_passing(rows)
        ends = [*(gate.share for gate in self.history.gates), 1.0]
        epochs = np.diff(ends, prepend=0.0) @ np.exp(passing)
        gain = log_expected_improvement(mean, std, self.best, self.model.noise_)
        gain += passing[-1] - np.log(epochs)
        return gain if self.log_cost is None else gain - self.log_cost.predict(rows)

    def _log_passing(self, rows: Array) -> Array:
        """Of getting behind none of the gates, one, …: shape (gates + 1, n).

        The least likely gate's, as the values of one trial are much alike.
        """
        values = np.sort(self.history.values)
        compressed = compress(values)
        passing = [np.zeros(len(rows))]
        for gate in self.history.gates:
            highest = np.interp(gate.highest, values, compressed)
            there = trusted(rows, self.model, gate.fidelity)
            mean, std = self.model.predict(there, return_std=True)
            passing.append(np.minimum(passing[-1], log_ndtr((highest - mean) / std)))
        return np.array(passing)


def cost_model(codes: Codes, history: History) -> GaussianProcess | None:
    """The logarithm of an epoch's seconds; None where none were recorded."""
    if not history.seconds:
        return None
    points, seconds = zip(*history.seconds, strict=True)
    model = GaussianProcess(np.flatnonzero(codes.choice).tolist())
    return model.fit(codes.scale(points), np.log(seconds))


def trusted(rows: Array, model: AveragedProcess, fidelity: float = 1.0) -> Array:
    """The rows as the model takes them: with what it knows of fidelity and origin (our own)."""
    added = np.ones((len(rows), model.X_.shape[1] - rows.shape[1]))
    added[:, :1] = fidelity
    return np.c_[rows, added]
