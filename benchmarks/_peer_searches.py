"""Searches by packages, to be run by the Python of their environment: see `_peer_process.py`.

It imports nothing but the standard library and the package of the search. Each search runs with
the package's defaults.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

for _name in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"

_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what packages print is no answer

Configuration = dict[str, Any]
Space = list[dict[str, Any]]


class Enough(BaseException):
    """The other side wants no more of this search; no package catches it."""


def evaluate(configuration: Configuration, epochs: int | None = None) -> float:
    """Return the value of a configuration, after so many epochs if there is a choice."""
    answer = exchange({"configuration": dict(configuration), "epochs": epochs})
    if "value" not in answer:
        raise Enough
    return answer["value"]


def exchange(message: dict[str, Any]) -> dict[str, Any]:
    """Write a line, with the CPU seconds so far, and read one; end with the other side."""
    message["seconds"] = time.process_time()
    text = json.dumps(message, default=lambda number: number.item())
    print(text, file=_answers, flush=True)
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    return json.loads(line)


def run_random(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """Random search, in which every Python takes part."""
    rng = random.Random(seed)
    for _ in range(n_trials):
        configuration: Configuration = {}
        for one in space:
            if one["type"] == "choice":
                configuration[one["name"]] = rng.choice(one["options"])
            elif one["log"]:
                low, high = math.log(one["low"]), math.log(one["high"])
                number = math.exp(rng.uniform(low, high))
                configuration[one["name"]] = round(number) if one["type"] == "int" else number
            else:
                draw = rng.randint if one["type"] == "int" else rng.uniform
                configuration[one["name"]] = draw(one["low"], one["high"])
        evaluate(configuration, budget)


def run_syne_cqr(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """Syne Tune's conformal quantile regression."""
    from datetime import datetime

    from syne_tune import config_space
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.baselines import CQR

    described: dict[str, Any] = {}
    for one in space:
        if one["type"] == "choice":
            described[one["name"]] = config_space.choice(one["options"])
        elif one["type"] == "int":
            make = config_space.lograndint if one["log"] else config_space.randint
            described[one["name"]] = make(one["low"], one["high"])
        else:
            make = config_space.loguniform if one["log"] else config_space.uniform
            described[one["name"]] = make(one["low"], one["high"])
    scheduler = CQR(described, "error", random_seed=seed)
    for number in range(n_trials):
        configuration = scheduler.suggest().config
        trial = Trial(number, configuration, datetime.now())
        result = {"error": evaluate(configuration)}
        scheduler.on_trial_result(trial, result)
        scheduler.on_trial_complete(trial, result)


def run_vizier(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """Google Vizier's Gaussian process bandit."""
    # it compiles for each number of trials: keep that for the next tasks
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/vizier-compiled")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from vizier import algorithms, pyvizier
    from vizier.algorithms.designers import VizierGPBandit

    problem = pyvizier.ProblemStatement()
    root = problem.search_space.root
    for one in space:
        if one["type"] == "choice":
            root.add_categorical_param(one["name"], one["options"])
            continue
        scale = pyvizier.ScaleType.LOG if one["log"] else pyvizier.ScaleType.LINEAR
        add = root.add_int_param if one["type"] == "int" else root.add_float_param
        add(one["name"], one["low"], one["high"], scale_type=scale)
    goal = pyvizier.ObjectiveMetricGoal.MINIMIZE
    problem.metric_information.append(pyvizier.MetricInformation("error", goal=goal))
    designer = VizierGPBandit.from_problem(problem, seed)
    for number in range(1, n_trials + 1):
        trial = designer.suggest(1)[0].to_trial(number)
        value = evaluate(trial.parameters.as_dict())
        trial.complete(pyvizier.Measurement({"error": value}))
        completed = algorithms.CompletedTrials([trial])
        designer.update(completed, algorithms.ActiveTrials())


def run_hebo(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """HEBO: heteroscedastic evolutionary Bayesian optimisation."""
    import numpy as np
    import torch
    from hebo.design_space.design_space import DesignSpace
    from hebo.optimizers.hebo import HEBO

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 what the package draws from
    kinds = {"float": ("num", "pow"), "int": ("int", "pow_int")}
    described: list[dict[str, Any]] = []
    for one in space:
        if one["type"] == "choice":
            described.append({"name": one["name"], "type": "cat", "categories": one["options"]})
        else:
            kind = kinds[one["type"]][one["log"]]
            described.append(
                {"name": one["name"], "type": kind, "lb": one["low"], "ub": one["high"]}
            )
    optimizer = HEBO(DesignSpace().parse(described), scramble_seed=seed)
    for _ in range(n_trials):
        suggested = optimizer.suggest()
        value = evaluate(suggested.iloc[0].to_dict())
        optimizer.observe(suggested, np.array([[value]]))


def run_ax_quality(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """Ax's client with its method "quality": a fully Bayesian model with sparse axes."""
    import logging

    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    logging.disable(logging.INFO)  # its loggers have levels of their own
    parameters: list[Any] = []
    for one in space:
        if one["type"] == "choice":
            parameters.append(
                ChoiceParameterConfig(one["name"], one["options"], "str", is_ordered=False)
            )
        else:
            bounds = (one["low"], one["high"])
            scaling = "log" if one["log"] else "linear"
            parameters.append(
                RangeParameterConfig(one["name"], bounds, one["type"], scaling=scaling)
            )
    client = Client(random_seed=seed)
    client.configure_experiment(parameters)
    client.configure_optimization("-error")
    client.configure_generation_strategy(method="quality", initialization_random_seed=seed)
    for _ in range(n_trials):
        for index, configuration in client.get_next_trials(1).items():
            client.complete_trial(index, {"error": evaluate(configuration)})


def run_ax_transfer(
    space: Space,
    seed: int,
    n_trials: int,
    budget: int | None,
    earlier: list[tuple[Configuration, float]],
) -> None:
    """Ax's transfer learning: one model of an earlier experiment and of this one.

    The model needs a trial of this one, for which a Sobol point is taken.
    """
    import logging

    import torch
    from ax.adapter.registry import Generators
    from ax.adapter.transfer_learning.adapter import TL_EXP  # which makes `BOTL` known
    from ax.core.auxiliary_source import AuxiliarySource
    from ax.service.ax_client import AxClient, ObjectiveProperties

    logging.disable(logging.WARNING)  # its loggers have levels of their own
    torch.set_num_threads(1)
    parameters: list[dict[str, Any]] = []
    for one in space:
        if one["type"] == "choice":
            values = {"values": one["options"], "is_ordered": False, "sort_values": False}
            kind = {"type": "choice", "value_type": "str", **values}
        else:
            bounds = [one["low"], one["high"]]
            kind = {"type": "range", "value_type": one["type"], "bounds": bounds}
            kind["log_scale"] = one["log"]
        parameters.append({"name": one["name"], **kind})

    def client_of(name: str) -> AxClient:
        client = AxClient(random_seed=seed, verbose_logging=False)
        objectives = {"error": ObjectiveProperties(minimize=True)}
        client.create_experiment(name=name, parameters=parameters, objectives=objectives)
        return client

    source = client_of("earlier")
    for configuration, value in earlier:
        _, index = source.attach_trial(configuration)
        source.complete_trial(index, {"error": (value, 0.0)})

    client = client_of("own")
    experiment = client.experiment
    experiment.add_auxiliary_experiment(TL_EXP, AuxiliarySource(source.experiment))
    for number in range(n_trials):
        if number == 0:
            generator = Generators.SOBOL(experiment=experiment, seed=seed)
        else:
            generator = Generators.BOTL(experiment=experiment, data=experiment.lookup_data())
        configuration = generator.gen(1).arms[0].parameters
        _, index = client.attach_trial(configuration)
        client.complete_trial(index, {"error": (evaluate(configuration), 0.0)})


def config_space(space: Space, seed: int) -> Any:
    """Return the space as ConfigSpace writes it."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer

    described = ConfigurationSpace(seed=seed)
    for one in space:
        if one["type"] == "choice":
            described.add(Categorical(one["name"], one["options"]))
        else:
            kind = Integer if one["type"] == "int" else Float
            described.add(kind(one["name"], (one["low"], one["high"]), log=one["log"]))
    return described


def run_smac(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """SMAC3's facade for several fidelities: Hyperband with a random forest."""
    from smac import MultiFidelityFacade, Scenario

    scenario = Scenario(
        config_space(space, seed),
        deterministic=True,
        n_trials=1000,
        seed=seed,
        min_budget=1,
        max_budget=budget,
    )

    def train(config: Any, seed: int, budget: float) -> float:
        return evaluate(dict(config), round(budget))

    MultiFidelityFacade(scenario, train, logging_level=False).optimize()


def run_dehb(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """DEHB: differential evolution with Hyperband."""
    from dehb import DEHB

    optimizer = DEHB(
        cs=config_space(space, seed),
        min_fidelity=1,
        max_fidelity=budget,
        seed=seed,
        n_workers=1,
        save_freq="end",
    )
    while True:
        job = optimizer.ask()
        epochs = round(job["fidelity"])
        error = evaluate(dict(job["config"]), epochs)
        optimizer.tell(job, {"fitness": error, "cost": epochs})


def run_neps(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """NePS' PriorBand; without a prior it draws uniformly and around the incumbent."""
    import neps
    import numpy as np
    import torch

    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 what the package draws from
    torch.manual_seed(seed)
    described: dict[str, Any] = {}
    for one in space:
        if one["type"] == "choice":
            described[one["name"]] = neps.HPOCategorical(one["options"])
        elif one["type"] == "int" and not one["log"]:
            described[one["name"]] = neps.HPOInteger(one["low"], one["high"])
        else:
            # of a logarithmic whole number it tries a handful of values only
            described[one["name"]] = neps.HPOFloat(one["low"], one["high"], log=one["log"])
    whole = [one["name"] for one in space if one["type"] == "int"]
    described["trained epochs"] = neps.HPOInteger(1, budget, is_fidelity=True)
    optimizer = neps.AskAndTell(neps.algorithms.priorband(neps.SearchSpace(described)))
    while True:
        trial = optimizer.ask()
        configuration = dict(trial.config)
        epochs = configuration.pop("trained epochs")
        configuration |= {name: round(configuration[name]) for name in whole}
        optimizer.tell(trial, evaluate(configuration, epochs))


def run_openbox(space: Space, seed: int, n_trials: int, budget: int | None) -> None:
    """OpenBox's MFES-HB: Hyperband with an ensemble of surrogates, one per fidelity."""
    from openbox import Optimizer
    from openbox import space as openbox_space

    kinds = {"float": openbox_space.Real, "int": openbox_space.Int}
    described = openbox_space.Space(seed=seed)
    for one in space:
        if one["type"] == "choice":
            described.add_variable(openbox_space.Categorical(one["name"], one["options"]))
        else:
            kind = kinds[one["type"]]
            described.add_variable(kind(one["name"], one["low"], one["high"], log=one["log"]))

    def train(config: Any, resource_ratio: float = 1.0) -> dict[str, Any]:
        epochs = max(1, round(resource_ratio * budget))
        return {"objectives": [evaluate(dict(config), epochs)]}

    optimizer = Optimizer(
        train,
        described,
        max_runs=1000,
        random_state=seed,
        scheduler_type="mfes",
        scheduler_kwargs={"R": 27},
    )
    optimizer.run()


SEARCHES: dict[str, Callable[..., None]] = {
    "ax/quality": run_ax_quality,
    "ax/transfer": run_ax_transfer,
    "dehb": run_dehb,
    "hebo": run_hebo,
    "neps": run_neps,
    "openbox": run_openbox,
    "random": run_random,
    "smac": run_smac,
    "syne/cqr": run_syne_cqr,
    "vizier": run_vizier,
}


def main() -> None:
    """Search for one task after the other."""
    while True:
        task = exchange({})
        search = SEARCHES[task.pop("search")]
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
            os.chdir(folder)  # for packages that write files
            search(**task)
        os.chdir("/")


if __name__ == "__main__":
    main()
