"""Searches by other packages: from a task and a seed to the values in the order of their trials.

Each runs with its own defaults; where a package has no whole or logarithmic numbers, it gets the
logarithm, or a number that is rounded.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _peer_process import search_in_own_python
from _tasks import Task

from hpo_lib.space.values import Configuration

N_TRIALS = 50

Side = Callable[[Task, int], list[float]]


class Recorded:
    """The task's function of a configuration, which keeps what it returned."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.values: list[float] = []

    def __call__(self, configuration: Configuration) -> float:
        """Read numbers as the space's types."""
        typed = {name: type(self.task.space[name].default)(v) for name, v in configuration.items()}
        self.values.append(self.task.function(typed))
        return self.values[-1]


def in_own_python(search: str) -> Side:
    """Return a side whose package lives in a Python of its own."""

    def run(task: Task, seed: int) -> list[float]:
        values: list[float] = []

        def evaluate(configuration: Configuration, epochs: int | None) -> float | None:
            if len(values) == N_TRIALS:
                return None
            values.append(task.function(configuration))
            return values[-1]

        search_in_own_python(search, task.space, evaluate, seed, N_TRIALS)
        return filled(values)

    return run


def run_skopt(task: Task, seed: int, **options: Any) -> list[float]:
    """scikit-optimize's own `gp_minimize`."""
    import skopt

    from hpo_lib.space.skopt_space import skopt_dimension

    names = [one.name for one in task.space.searched]
    dimensions = [skopt_dimension(one) for one in task.space.searched]
    found = skopt.gp_minimize(
        lambda row: task.function(dict(zip(names, plain(row), strict=True))),
        dimensions,
        n_calls=N_TRIALS,
        random_state=seed,
        **options,
    )
    return [float(value) for value in found.func_vals]


def plain(row: list[Any]) -> list[Any]:
    """Values without numpy's types."""
    return [value.item() if isinstance(value, np.generic) else value for value in row]


def run_hyperopt(task: Task, seed: int) -> list[float]:
    """Hyperopt's tree-structured Parzen estimator."""
    from hyperopt import fmin, hp, tpe

    recorded = Recorded(task)
    space = {one.name: hyperopt_parameter(hp, one) for one in task.space.searched}
    rng = np.random.default_rng(seed)
    fmin(recorded, space, tpe.suggest, N_TRIALS, rstate=rng, show_progressbar=False)
    return recorded.values


def hyperopt_parameter(hp: Any, one: Any) -> Any:
    """Return a parameter as hyperopt writes it."""
    if one.type == "choice":
        return hp.choice(one.name, list(one.options))
    low, high = one.low, one.high
    if one.log:
        low, high = np.log(low), np.log(high)
        return (
            hp.loguniform(one.name, low, high)
            if one.type == "float"
            else hp.qloguniform(one.name, low, high, 1)
        )
    if one.type == "float":
        return hp.uniform(one.name, low, high)
    return low + one.step * hp.uniformint(one.name, 0, (high - low) // one.step)


def run_smac(task: Task, seed: int) -> list[float]:
    """SMAC3's facade for hyperparameter optimisation: a random forest, a Sobol start."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer
    from smac import HyperparameterOptimizationFacade, Scenario

    space = ConfigurationSpace(seed=seed)
    for one in task.space.searched:
        if one.type == "choice":
            space.add(Categorical(one.name, list(one.options)))
        else:
            kind = Integer if one.type == "int" else Float
            space.add(kind(one.name, (one.low, one.high), log=one.log))
    recorded = Recorded(task)
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            output_directory=Path(folder),
            deterministic=True,
            n_trials=N_TRIALS,
            seed=seed,
        )
        HyperparameterOptimizationFacade(
            scenario, lambda config, seed: recorded(dict(config)), logging_level=False
        ).optimize()
    return filled(recorded.values)


def filled(values: list[float]) -> list[float]:
    """As many values as trials: a search that ended early finds nothing more."""
    return [*values, *[max(values)] * (N_TRIALS - len(values))]


def run_bayesian_optimization(task: Task, seed: int) -> list[float]:
    """Run the package bayesian-optimization, five random points first."""
    from bayes_opt import BayesianOptimization

    bounds: dict[str, Any] = {}
    for one in task.space.searched:
        if one.type == "choice":
            bounds[one.name] = tuple(one.options)
        elif one.log:
            bounds[one.name] = (math.log(one.low), math.log(one.high))
        else:
            bounds[one.name] = (one.low, one.high, int if one.type == "int" else float)
    recorded = Recorded(task)

    def function(**point: Any) -> float:
        for one in task.space.searched:
            if one.type != "choice" and one.log:
                number = min(max(math.exp(point[one.name]), one.low), one.high)
                point[one.name] = round(number) if one.type == "int" else number
        return -recorded(point)

    search = BayesianOptimization(
        function, bounds, random_state=seed, verbose=0, allow_duplicate_points=True
    )
    search.maximize(init_points=5, n_iter=N_TRIALS - 5)
    return recorded.values


def run_ax(task: Task, seed: int) -> list[float]:
    """Ax's client, whose Bayesian optimisation is BoTorch's; five Sobol points first."""
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    logging.disable(logging.INFO)  # its loggers have levels of their own
    parameters = [
        ChoiceParameterConfig(one.name, list(one.options), "str", is_ordered=False)
        if one.type == "choice"
        else RangeParameterConfig(
            one.name, (one.low, one.high), one.type, scaling="log" if one.log else "linear"
        )
        for one in task.space.searched
    ]
    client = Client(random_seed=seed)
    client.configure_experiment(parameters)
    client.configure_optimization("-error")
    client.configure_generation_strategy(initialization_random_seed=seed)
    recorded = Recorded(task)
    while len(recorded.values) < N_TRIALS:
        for index, configuration in client.get_next_trials(1).items():
            client.complete_trial(index, {"error": recorded(dict(configuration))})
    return recorded.values
