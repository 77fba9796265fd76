"""The Gaussian process that figures, stopping rules and explorers read from a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import optuna
from numpy.typing import NDArray

from hpo_lib.samplers.encoding import Codes
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.trials import RecordedTrial, recorded_trials


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process fitted to a study, as figures need it."""

    model: GaussianProcess
    codes: Codes

    def predict(
        self, configurations: Sequence[Configuration]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The expected value and its standard deviation, each of shape (n,)."""
        rows = self.codes.scale(self.codes.points(configurations))
        return self.model.predict(rows, return_std=True)


def fit_surrogate(source: optuna.Study | Sequence[RecordedTrial], space: SearchSpace) -> Surrogate:
    """Fit a Gaussian process to the completed trials inside the space; it takes at least four."""
    trials = recorded_trials(source) if isinstance(source, optuna.Study) else source
    codes = Codes(space.distributions(), space)
    evidence = [
        (point, cast("float", trial.value))
        for trial in trials
        if trial.has_usable_value
        if (point := codes.encode(trial.params)) is not None
    ]
    if len(evidence) < 4 or not codes.axes:
        message = (
            "a surrogate needs at least 4 completed trials inside the space, "
            f"got {len(evidence)} of {len(trials)} trials"
        )
        raise ValueError(message)
    points, values = zip(*evidence, strict=True)
    model = GaussianProcess(np.flatnonzero(codes.choice).tolist())
    return Surrogate(model.fit(codes.scale(points), values), codes)
