"""Studies and final trainings whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import RECORD_KEY, StudyRecord

SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.0005}
width: {type: int, low: 4, high: 64, default: 16}
dropout: {type: float, low: 0.1, high: 0.6, default: 0.3}
activation: {type: choice, options: [relu, elu, tanh], default: relu}
"""
)


def lr_bowl(configuration: Configuration, optimum: float = -2.0) -> float:
    """Only lr matters."""
    return 0.05 + 0.1 * (np.log10(float(configuration["lr"])) - optimum) ** 2


def new_study(space: SearchSpace = SPACE) -> optuna.Study:
    study = optuna.create_study()
    StudyRecord(space=space.to_yaml()).write(study)
    return study


def add(
    study: optuna.Study,
    configuration: Configuration,
    value: float | None,
    *,
    space: SearchSpace = SPACE,
    at_rung: float | None = None,
    **record: Any,
) -> None:
    """Add a trial; without a value it failed or, with one at rung 3, was pruned."""
    distributions = space.distributions()
    params = {name: each for name, each in configuration.items() if name in distributions}
    unfinished = TrialState.FAIL if at_rung is None else TrialState.PRUNED
    steps = {} if at_rung is None else {3: at_rung}
    study.add_trial(
        create_trial(
            state=unfinished if value is None else TrialState.COMPLETE,
            value=value,
            params=params,
            distributions={name: distributions[name] for name in params},
            intermediate_values=steps if value is None or not steps else {**steps, 9: value},
            user_attrs={RECORD_KEY: {"configuration": configuration, **record}},
        )
    )


def searched(
    objective: Callable[[Configuration], float],
    n_trials: int = 20,
    *,
    space: SearchSpace = SPACE,
    seed: int = 0,
    **record: Any,
) -> optuna.Study:
    """The default, then random configurations."""
    rng = np.random.default_rng(seed)
    study = new_study(space)
    for number in range(n_trials):
        configuration = space.sample(rng) if number else space.default_configuration()
        add(study, configuration, objective(configuration), space=space, **record)
    return study


def noise(seed: int = 0) -> Callable[[Configuration], float]:
    rng = np.random.default_rng(seed)
    return lambda configuration: 0.2 + 0.03 * float(rng.normal())


def final_frame(
    default: Sequence[float],
    tuned: Sequence[float],
    n_test: int = 10_000,
) -> pd.DataFrame:
    rows = [
        {"configuration": name, "seed": seed, "validation_error": 0.1, "test_error": error}
        for name, errors in (("default", default), ("tuned", tuned))
        for seed, error in enumerate(errors)
    ]
    return pd.DataFrame(rows).assign(epochs=10, seconds=20.0, n_test=n_test)
