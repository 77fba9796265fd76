"""Seconds per suggestion against the number of recorded trials: ours, stock skopt, Optuna's GP.

One thread; the sides alternate within each repetition, and the medians are printed. Seconds are
of the processor: what else the machine does is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
from optuna.trial import create_trial

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.skopt_space import skopt_dimension


def mixed_space(n_dimensions: int) -> SearchSpace:
    """Floats, logarithmic floats, whole numbers and choices in turn."""
    kinds: list[dict[str, Any]] = [
        {"type": "float", "low": 0.0, "high": 1.0},
        {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        {"type": "int", "low": 1, "high": 32},
        {"type": "choice", "options": ["a", "b", "c"]},
    ]
    return SearchSpace.from_dict({f"p{i}": kinds[i % 4] for i in range(n_dimensions)})


def recorded(space: SearchSpace, n: int, seed: int) -> list[tuple[dict[str, Any], float]]:
    """`n` random configurations with the values of a bowl and a little noise."""
    rng = np.random.default_rng(seed)
    found: list[tuple[dict[str, Any], float]] = []
    for _ in range(n):
        u = rng.random(len(space.searched))
        found.append(
            (space.from_unit(u.tolist()), float(((u - 0.3) ** 2).sum() + rng.normal() / 50))
        )
    return found


def ask_optuna(sampler: Any, space: SearchSpace, trials: list[Any]) -> Callable[[], object]:
    """Return a function that asks a running study, the last of the trials having been told."""
    study = optuna.create_study(sampler=sampler)
    for params, value in trials[:-1]:
        study.add_trial(
            create_trial(params=params, distributions=space.distributions(), value=value)
        )
    last = study.ask()
    space.suggest(last)
    study.tell(last, trials[-1][1])
    return lambda: space.suggest(study.ask())


def ask_skopt(space: SearchSpace, trials: list[Any], seed: int) -> Callable[[], object]:
    """Return a function that tells a stock optimizer the last trial and asks for the next one."""
    from skopt import Optimizer

    optimizer = Optimizer(
        [skopt_dimension(one) for one in space.searched], random_state=seed, n_initial_points=1
    )
    rows = [list(params.values()) for params, _ in trials]
    values = [value for _, value in trials]
    optimizer.tell(rows[:-1], values[:-1], fit=False)

    def ask() -> object:
        optimizer.tell(rows[-1], values[-1])
        return optimizer.ask()

    return ask


def seconds_per_ask(space: SearchSpace, n: int, repeats: int) -> dict[str, float]:
    """Median seconds of each side; skopt and Optuna's GP sit out beyond 200 trials."""
    taken: dict[str, list[float]] = {}
    for seed in range(repeats):
        trials = recorded(space, n, seed)
        sides = {"ours": ask_optuna(BayesSampler(seed, space), space, trials)}
        if n <= 200:
            sides["optuna"] = ask_optuna(optuna.samplers.GPSampler(seed=seed), space, trials)
            sides["skopt"] = ask_skopt(space, trials, seed)
        for side, ask in sides.items():
            began = time.process_time()
            ask()
            taken.setdefault(side, []).append(time.process_time() - began)
    return {side: statistics.median(seconds) for side, seconds in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="25 and 50 trials, 1 repetition")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    sizes = [25, 50] if arguments.quick else [25, 50, 100, 200, 1000]
    repeats = 1 if arguments.quick else arguments.repeats
    result: dict[str, float] = {}
    print("dimensions  trials   ours, ms  optuna / ours  skopt / ours")
    seconds_per_ask(mixed_space(4), 12, 1)  # pays for imports
    for n_dimensions in (4, 12):
        for n in sizes:
            found = seconds_per_ask(mixed_space(n_dimensions), n, repeats)
            ratios = {side: value / found["ours"] for side, value in found.items()}
            print(
                f"{n_dimensions:10d} {n:7d} {1000 * found['ours']:10.1f} "
                f"{ratios.get('optuna', float('nan')):14.1f} "
                f"{ratios.get('skopt', float('nan')):13.1f}"
            )
            key = f"{n}" if n_dimensions == 4 else f"{n}_{n_dimensions}d"
            result[f"ours_ms_{key}"] = round(1000 * found["ours"], 2)
            for side in ("optuna", "skopt"):
                if side in ratios:
                    result[f"{side}_over_ours_{key}"] = round(ratios[side], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
