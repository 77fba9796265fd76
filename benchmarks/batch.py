"""What parallel workers cost in quality: regret after 64 trials with 1, 8 and 32 of them.

Workers are simulated: a trial takes a random time, a finished one is replaced at once, and the
sampler sees the others as running. Tasks and regret are those of `sample_efficiency.py`. Runs are
kept in a file per side, and only missing ones are made. It takes `pip install -e .[bench]`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from _tasks import Task, load_tasks
from optuna.samplers import GPSampler, TPESampler

from hpo_lib.samplers.bayes import BayesSampler

N_TRIALS = 64
WORKERS = (1, 8, 32)
SIDES = {
    "ours": lambda task, seed: BayesSampler(seed, task.space),
    "optuna gp": lambda task, seed: GPSampler(seed=seed),
    "optuna tpe": lambda task, seed: TPESampler(seed=seed, multivariate=True, constant_liar=True),
}
TASKS: dict[str, Task] = {}
"""Filled before the processes are forked, which share it."""


def run(side: str, name: str, seed: int, n_workers: int) -> float:
    """Return the normalised regret of the best of all trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = TASKS[name]
    durations = np.random.default_rng(seed).lognormal(sigma=0.5, size=N_TRIALS)
    running: list[tuple[float, int, optuna.Trial, float]] = []
    values: list[float] = []
    clock = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=SIDES[side](task, seed))
        for number, duration in enumerate(durations):
            if number >= n_workers:
                clock, _, trial, value = heapq.heappop(running)
                study.tell(trial, value)
            trial = study.ask()
            values.append(task.function(task.space.suggest(trial)))
            heapq.heappush(running, (clock + duration, number, trial, values[-1]))
    return round(task.regret(min(values)), 5)


def summary(runs: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Mean regret over the tasks and seeds that all sides have run, a column per worker count."""
    rows = [
        (side, name, seed, int(workers), regret)
        for side, kept in runs.items()
        for key, regret in kept.items()
        for name, seed, workers in [key.split("#")]
    ]
    frame = pd.DataFrame(rows, columns=["side", "task", "seed", "workers", "regret"])
    table = frame.pivot(index=["task", "seed"], columns=["side", "workers"], values="regret")
    table = table.dropna()
    means = table.mean().unstack("workers")
    losses = means.sub(means[1], axis=0).drop(columns=1).add_prefix("lost with ")
    return means.join(losses).assign(n=len(table)).sort_values(WORKERS[-1])


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with lcbench/")
    parser.add_argument("--raw", default="results/reference/batch", type=Path)
    parser.add_argument("--tasks", default="results/reference/sample_efficiency/tasks.json")
    parser.add_argument("--sides", nargs="*", default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget the sides' earlier runs")
    parser.add_argument("--quick", action="store_true", help="2 tasks, 1 seed, ours and TPE")
    arguments = parser.parse_args()
    limit = None
    if arguments.quick:
        arguments.raw, arguments.seeds, limit = Path("results/batch_quick"), 1, 2
        arguments.sides = ["ours", "optuna tpe"]
    found = load_tasks(arguments.data_dir, Path(arguments.tasks), limit)
    TASKS.update({task.name: task for task in found})
    runs: dict[str, dict[str, Any]] = {}
    for side in arguments.sides:
        file = arguments.raw / f"{side.replace(' ', '_')}.json"
        if arguments.again:
            file.unlink(missing_ok=True)
        wanted = {
            f"{name}#{seed}#{n}": (side, name, seed, n)
            for seed in range(arguments.seeds)
            for n in WORKERS
            for name in TASKS
        }
        runs[side] = run_missing(file, wanted, run, arguments.jobs)
    table = summary(runs)
    print(table.round(4).to_string())
    result = {side: {str(k): float(v) for k, v in row.items()} for side, row in table.iterrows()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
