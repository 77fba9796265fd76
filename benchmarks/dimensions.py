"""How good is the best of 40 trials in 10, 20, 50 and 100 dimensions: ours against its peers.

Three functions, each with the optimum 0: a sphere and Levy's function, all of whose parameters
matter, and Rosenbrock's function of four parameters among many that do not. A support vector
machine with a weight for each feature is a real task: its value is the error of cross-validation.
Printed are medians. Finished runs are kept, and only missing ones are made.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from numpy.typing import NDArray

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace

N_TRIALS = 40
N_ROSENBROCK = 4
DIMENSIONS = (10, 20, 50, 100)

Array = NDArray[np.float64]


def sphere(units: Array, optimum: Array) -> float:
    """Return the squared distance from the optimum, within -1 and 1."""
    return float(((2 * (units - optimum)) ** 2).sum())


def levy(units: Array, optimum: Array) -> float:
    """Return Levy's function within -10 and 10, its optimum moved."""
    x = 20 * (units - optimum) + 1
    w = 1 + (x - 1) / 4
    first = np.sin(np.pi * w[0]) ** 2
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return float(first + middle.sum() + last)


def rosenbrock(units: Array, optimum: Array) -> float:
    """Return Rosenbrock's function within -2 and 2 of four parameters, its optimum moved."""
    order = np.argsort(optimum)[:N_ROSENBROCK]  # these matter
    x = 4 * (units[order] - 0.5)
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


@functools.cache
def _features(n: int) -> tuple[Array, NDArray[np.int64]]:
    """Return the rows and labels of a data set of scikit-learn's with n features."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    # Noise fills up what features are missing: weights should find out.
    rows, labels = datasets.load_breast_cancer(return_X_y=True)
    noise = np.random.default_rng(0).normal(size=(len(rows), max(n - rows.shape[1], 0)))
    rows = StandardScaler().fit_transform(np.c_[rows, noise])
    return rows[::2, :n], labels[::2]


def svm(units: Array, optimum: Array) -> float:
    """Return the error of a support vector machine: C, gamma, and a weight for each feature."""
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    del optimum
    rows, labels = _features(len(units) - 2)
    C = 10 ** (4 * units[0] - 1)
    gamma = 10 ** (4 * units[1] - 4)
    scores = cross_val_score(SVC(C=C, gamma=gamma), rows * units[2:], labels, cv=4)
    return float(1 - scores.mean())


FUNCTIONS: dict[str, Callable[[Array, Array], float]] = {
    "sphere": sphere,
    "levy": levy,
    "rosenbrock": rosenbrock,
    "svm": svm,
}

SIDES: dict[str, Callable[[int, SearchSpace], optuna.samplers.BaseSampler]] = {
    "ours": lambda seed, space: BayesSampler(seed, space),
    "optuna gp": lambda seed, space: optuna.samplers.GPSampler(seed=seed),
    "optuna tpe": lambda seed, space: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed, space: optuna.samplers.RandomSampler(seed=seed),
}


def run_one(side: str, name: str, d: int, seed: int) -> float:
    """Return the best value of one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    unit: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}
    space = SearchSpace.from_dict({f"x{i}": unit for i in range(d)})
    optimum = np.random.default_rng([seed, d]).uniform(0.2, 0.8, size=d)

    def objective(trial: optuna.Trial) -> float:
        configuration = space.suggest(trial)
        units = np.array(list(configuration.values()), float)
        return FUNCTIONS[name](units, optimum)

    study = optuna.create_study(sampler=SIDES[side](seed, space))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_trials=N_TRIALS)
    return study.best_value


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default="results/reference/dimensions", type=Path)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--functions", nargs="*", default=list(FUNCTIONS))
    parser.add_argument("--dimensions", nargs="*", default=list(DIMENSIONS), type=int)
    parser.add_argument("--again", action="store_true", help="forget the sides' earlier runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="1 seed, ours and random")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.raw = Path("results/dimensions_quick")
        arguments.seeds, arguments.sides, arguments.dimensions = 1, ["ours", "random"], [10, 20]

    rows: list[tuple[str, str, int, float]] = []
    for side in arguments.sides:
        file = arguments.raw / f"{side.replace(' ', '_')}.json"
        if arguments.again:
            file.unlink(missing_ok=True)
        wanted = {
            f"{name}#{d}#{seed}": (side, name, d, seed)
            for name in arguments.functions
            for d in arguments.dimensions
            for seed in range(arguments.seeds)
        }
        done = run_missing(file, wanted, run_one, arguments.jobs)
        for key, (_, name, d, _) in wanted.items():
            rows.append((side, name, d, done[key]))

    frame = pd.DataFrame(rows, columns=["side", "function", "d", "best"])
    medians = frame.groupby(["function", "d", "side"], sort=False).best.median().unstack("side")
    print(f"median best of {N_TRIALS} trials, {arguments.seeds} seeds")
    print(medians[arguments.sides].to_string(float_format="{:.4f}".format))
    result = {f"{name}_{d}": row.round(5).to_dict() for (name, d), row in medians.iterrows()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
