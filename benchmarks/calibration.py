"""How often two identical strategies are called different: it should be about one time in twenty.

Random search under two names, with seeds of their own, on a smooth function of three
hyperparameters; each comparison has its own seeds. Printed are the shares of comparisons in which
Wilcoxon's test calls them different (`separations`), in which Friedman's calls one of three
identical strategies different, and in which the interval of the odds excludes 0.5. The interval of
lopsided odds is asked, too: of a strategy that is ahead nine times in ten, it should exclude that
as rarely.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import optuna
import pandas as pd
from scipy import stats

from hpo_lib.comparison.hypothesis_tests import friedman, separations, superiority
from hpo_lib.comparison.run import replay
from hpo_lib.comparison.statistics import final_values
from hpo_lib.loop import as_objective
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.0001, high: 1.0, log: true, default: 0.5}
width: {type: int, low: 4, high: 64, default: 8}
dropout: {type: float, low: 0.0, high: 0.5, default: 0.0}
"""
)


def bowl(configuration: Configuration) -> float:
    """Lowest at lr 0.01, width 48, dropout 0.2."""
    lr, width, dropout = (float(configuration[name]) for name in ("lr", "width", "dropout"))
    return (math.log10(lr) + 2) ** 2 + ((width - 48) / 30) ** 2 + (dropout - 0.2) ** 2


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=12, help="of each strategy")
    parser.add_argument("--trials", type=int, default=6, help="of each study")
    parser.add_argument("--quick", action="store_true", help="20 comparisons")
    chosen = parser.parse_args()
    n, n_seeds = (20 if chosen.quick else chosen.comparisons), chosen.seeds
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    every = replay(as_objective(bowl), SPACE, ["random"], range(3 * n * n_seeds), chosen.trials)
    parts = np.array_split(np.arange(3 * n * n_seeds), 3 * n)
    called = {"wilcoxon": 0, "friedman": 0, "odds": 0, "odds 0.9": 0}
    rng = np.random.default_rng(0)
    for number in range(n):
        frame = pd.concat(
            every[every["seed"].isin(seeds)].assign(
                strategy=name, seed=lambda one, first=seeds[0]: one["seed"] - first
            )
            for name, seeds in zip("abc", parts[3 * number : 3 * number + 3], strict=True)
        )
        pair = frame[frame["strategy"] != "c"]
        odds = superiority(pair).iloc[-1]
        called["wilcoxon"] += bool(separations(pair)["p"].iloc[0] <= 0.05)
        called["friedman"] += bool(friedman(final_values(frame).to_numpy(dtype=float)) <= 0.05)
        called["odds"] += not odds["low"] <= 0.5 <= odds["high"]
        ahead = pair.assign(best=np.where(pair["strategy"] == "a", 0.5, 0.0))
        ahead.loc[
            (ahead["strategy"] == "b") & ahead["seed"].isin(_tenth(rng, n_seeds)), "best"
        ] = 1
        odds = superiority(ahead, against="a").iloc[-1]
        called["odds 0.9"] += not odds["low"] <= 0.9 <= odds["high"]
    print(f"{n} comparisons of identical strategies, {n_seeds} seeds, {chosen.trials} trials each")
    for name, count in called.items():
        low, high = stats.binomtest(count, n).proportion_ci()
        print(f"{name:10} {count:4d}  {count / n:6.1%}  (95 % interval {low:.1%} to {high:.1%})")
    print(json.dumps({"comparisons": n, "seeds": n_seeds, "called_different": called}))


def _tenth(rng: np.random.Generator, n: int) -> list[int]:
    return np.flatnonzero(rng.random(n) < 0.1).tolist()


if __name__ == "__main__":
    main()
