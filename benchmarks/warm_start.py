"""Measure what warm-start trials and a user's prior are worth, right and wrong ones.

The warm-start trials are 30 random ones of an earlier study: the true ones, wrong ones in which
the worst configurations have the best values, or irrelevant ones with shuffled values. A prior has
the standard deviation 0.2 for every parameter, around the best of 1,000 random configurations or
around the worst. Printed is the mean normalised regret (0 best known, 1 median) after so many
trials of the study's own. It takes `pip install -e .[bench]`. Ax's transfer learning, which is run
with `--ax-seeds`, lives in a Python of its own (`_peer_process.py`).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo_lib.trials import RECORD_KEY

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from _peer_process import search_in_own_python
from _tasks import Task, load_tasks

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

N_TRIALS = 20
BUDGETS = (5, 10, 20)
WIDTH = 0.2
Trials = list[tuple[dict[str, Any], float]]


def drawn(task: Task, n: int, seed: int) -> Trials:
    """Random configurations with their values."""
    rng = np.random.default_rng([seed, n])
    configurations = [task.space.sample(rng) for _ in range(n)]
    return [(one, task.function(one)) for one in configurations]


def search(task: Task, sampler: BayesSampler, earlier: Trials) -> list[float]:
    """Return the regret after each trial of the study's own."""
    study = optuna.create_study(sampler=sampler)
    for number, (configuration, value) in enumerate(earlier):
        trial = optuna.trial.create_trial(
            params=configuration,
            distributions=task.space.distributions(),
            value=value,
            user_attrs={RECORD_KEY: {"warm_start": f"earlier#{number}"}},
        )
        study.add_trial(trial)
    values: list[float] = []
    for _ in range(N_TRIALS):
        trial = study.ask()
        values.append(task.function(task.space.suggest(trial)))
        study.tell(trial, values[-1])
    return task.regrets(values)


def search_with_ax(task: Task, seed: int, earlier: Trials) -> list[float]:
    """Return the regret after each trial of Ax, which transfers from earlier ones."""
    values: list[float] = []

    def evaluate(configuration: Configuration, epochs: int | None) -> float:
        values.append(task.function(configuration))
        return values[-1]

    search_in_own_python(
        "ax/transfer",
        task.space,
        evaluate,
        seed,
        N_TRIALS,
        earlier=earlier,
    )
    return task.regrets(values)


def reverse(values: list[float], seed: int) -> list[float]:
    """Give the best configuration the worst value, and so on."""
    worst_first = sorted(values, reverse=True)
    ranks = np.argsort(np.argsort(values, kind="stable"))
    return [worst_first[rank] for rank in ranks]


def shuffle(values: list[float], seed: int) -> list[float]:
    """Give values to other configurations at random."""
    return np.random.default_rng(seed).permutation(values).tolist()


def with_warm_start(
    change: Callable[[list[float], int], list[float]] | None = None,
    *,
    by_ax: bool = False,
) -> Callable[[Task, int], list[float]]:
    """Return a side that takes 30 earlier trials, whose values may be changed."""

    def run(task: Task, seed: int) -> list[float]:
        trials = drawn(task, 30, seed)
        if change is not None:
            changed = change([value for _, value in trials], seed)
            trials = [(one, value) for (one, _), value in zip(trials, changed, strict=True)]
        if by_ax:
            return search_with_ax(task, seed, trials)
        return search(task, BayesSampler(seed, task.space), trials)

    return run


def with_prior(pick: Callable[..., Any]) -> Callable[[Task, int], list[float]]:
    """Return a side whose defaults are the best or the worst of many configurations."""

    def run(task: Task, seed: int) -> list[float]:
        centre, _ = pick(drawn(task, 1000, seed), key=lambda trial: trial[1])
        described = {one.name: one.to_dict() for one in task.space.searched}
        space = SearchSpace.from_dict(
            {name: {**one, "default": centre[name]} for name, one in described.items()}
        )
        prior_std = dict.fromkeys(described, WIDTH)
        return search(task, BayesSampler(seed, space, prior_std=prior_std), [])

    return run


SIDES: dict[str, Callable[[Task, int], list[float]]] = {
    "nothing": lambda task, seed: search(task, BayesSampler(seed, task.space), []),
    "right evidence": with_warm_start(),
    "wrong evidence": with_warm_start(reverse),
    "irrelevant evidence": with_warm_start(shuffle),
    "right prior": with_prior(min),
    "wrong prior": with_prior(max),
}
AX_SIDES = {
    "Ax, right evidence": with_warm_start(by_ax=True),
    "Ax, wrong evidence": with_warm_start(reverse, by_ax=True),
    "Ax, irrelevant evidence": with_warm_start(shuffle, by_ax=True),
}


TASKS: dict[str, Task] = {}
"""Filled before the processes are forked, which share it."""


def run_one(side: str, name: str, seed: int) -> list[float]:
    """Return the regret after each trial."""
    return (SIDES | AX_SIDES)[side](TASKS[name], seed)


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with lcbench/")
    parser.add_argument("--raw", default="results/reference/warm_start.json", type=Path)
    parser.add_argument("--known", default="results/reference/sample_efficiency/tasks.json")
    parser.add_argument("--tasks", nargs="*", default=["HPOLib", "NASBench201", "tree"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--ax-seeds", type=int, default=0, help="of Ax's transfer learning")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget earlier runs")
    parser.add_argument("--quick", action="store_true", help="one task, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.raw = Path("results/warm_start_quick.json")
        arguments.tasks, arguments.seeds = ["NASBench201/cifar100"], 1
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.again:
        arguments.raw.unlink(missing_ok=True)
    found = load_tasks(arguments.data_dir, Path(arguments.known))
    tasks = [task for task in found if any(part in task.name for part in arguments.tasks)]
    TASKS.update({task.name: task for task in tasks})
    wanted = {
        f"{side}#{name}#{seed}": (side, name, seed)
        for seed in range(arguments.seeds)
        for name in TASKS
        for side in SIDES
    }
    wanted |= {
        f"{side}#{name}#{seed}": (side, name, seed)
        for seed in range(arguments.ax_seeds)
        for name in TASKS
        for side in AX_SIDES
    }
    done = run_missing(arguments.raw, wanted, run_one, arguments.jobs)
    rows = [(*key.split("#"), *(curve[n - 1] for n in BUDGETS)) for key, curve in done.items()]
    frame = pd.DataFrame(rows, columns=["side", "task", "seed", *map(str, BUDGETS)])
    sides = [side for side in (*SIDES, *AX_SIDES) if side in set(frame["side"])]
    means = frame.groupby("side")[[*map(str, BUDGETS)]].mean().reindex(sides)
    print(means.assign(runs=frame.groupby("side").size()).round(4).to_string())
    print(json.dumps({str(side): row.round(5).to_dict() for side, row in means.iterrows()}))


if __name__ == "__main__":
    main()
