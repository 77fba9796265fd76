"""Say which configuration is best where some hyperparameters have given values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna

from hpo_lib.samplers.acquisition import optimize_acquisition
from hpo_lib.samplers.encoding import Array
from hpo_lib.samplers.surrogate import fit_surrogate
from hpo_lib.space.values import Configuration, Value
from hpo_lib.trials import RecordedTrial, incumbent, recorded_trials, study_space


class BestGiven(NamedTuple):
    """The best configuration of a slice of the search space.

    Attributes:
        trial: the best recorded trial in the slice; None where there is none.
        configuration: the one with the lowest predicted mean in the slice.
        mean: its predicted value.
        std: the standard deviation of the prediction.
    """

    trial: RecordedTrial | None
    configuration: Configuration
    mean: float
    std: float


def incumbent_given(
    study: optuna.Study,
    **values: Value | None,
) -> RecordedTrial | None:
    """Return the best recorded trial of a study among those with given values, if there is one.

    Args:
        study: a study of `run_study`.
        **values: as in `best_given`.

    Raises:
        SpaceError: a hyperparameter is unknown, or a value lies outside of its range.
    """
    space = study_space(study).fix(**values)
    trials = [trial.as_evidence() for trial in recorded_trials(study)]
    inside = [trial for trial in trials if space.contains(trial.configuration)]
    return incumbent(inside)


def best_given(
    study: optuna.Study,
    **values: Value | None,
) -> BestGiven:
    """Return the best configuration of a study among those with given values.

    The surrogate is fitted to all trials and predicts in the slice alone. `change_space` with
    `space.fix(…)` of the same values searches there.

    Args:
        study: a study of `run_study`.
        **values: a value by the name of its hyperparameter; None for one that the study holds and
            that may vary here.

    Raises:
        SpaceError: a hyperparameter is unknown, or a value lies outside of its range.
        ValueError: there are fewer than three completed trials, or nothing is left to vary.

    Example:
        >>> n = {"type": "int", "low": 1, "high": 9}
        >>> space = SearchSpace.from_dict({"n": n, "x": {"type": "float", "low": 0, "high": 1}})
        >>> options = {"name": "slice", "storage": "memory", "workers": 0}
        >>> study = run_study(lambda c: (c["x"] - 0.1 * c["n"]) ** 2, space, **options)
        >>> abs(best_given(study, n=4).configuration["x"] - 0.4) < 0.1
        True
    """
    space = study_space(study).fix(**values)
    if all(parameter.count == 1 for parameter in space.searched):
        message = f"a hyperparameter must be left to vary, got values for all: {values}"
        raise ValueError(message)

    surrogate = fit_surrogate(study, space)
    encoder = surrogate.encoder

    def negative_mean(points: Array) -> Array:
        return -surrogate.model.predict(encoder.scale(points))

    rng = np.random.default_rng(0)
    best = optimize_acquisition(encoder, negative_mean, surrogate.points, rng)[0]
    configuration = space.complete(encoder.decode(best))
    mean, std = surrogate.predict([configuration])
    observed = incumbent_given(study, **values)
    return BestGiven(
        observed,
        configuration,
        float(mean[0]),
        float(std[0]),
    )
