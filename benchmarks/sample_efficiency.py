"""How good is the best configuration after 10, 20, 30 and 50 trials: ours against its peers.

Every side gets the same tasks (`benchmarks/_tasks.py`), seeds and number of trials. What a side
reached is kept in a file of its own under `--raw`, and only missing runs are made: an interrupted
comparison goes on, and peers need not be run again. It takes `pip install -e .[bench]`; some
peers live in Pythons of their own, `HPO_PEERS`, and speak JSON lines (`_peer_process.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _peers
import numpy as np
import optuna
import pandas as pd
from _development_tasks import load_development_tasks
from _kept import run_missing
from _peer_process import peer_seconds
from _peers import N_TRIALS, Side
from _tasks import Task, load_tasks
from scipy.stats import qmc

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

BUDGETS = (10, 20, 30, 50)
START = 5

TASKS: dict[str, Task] = {}
"""Filled before the processes are forked, which share it."""


def with_sampler(make: Callable[[Task, int], Any], first: int = 0) -> Side:
    """Return a side that is an Optuna sampler, after `first` scrambled Sobol points."""

    def run(task: Task, seed: int) -> list[float]:
        study = optuna.create_study(sampler=make(task, seed))
        for configuration in sobol_points(task.space, seed)[:first]:
            study.enqueue_trial(configuration)
        values: list[float] = []
        for _ in range(N_TRIALS):
            trial = study.ask()
            values.append(task.function(task.space.suggest(trial)))
            study.tell(trial, values[-1])
        return values

    return run


def sobol_points(space: SearchSpace, seed: int) -> list[Configuration]:
    """Scrambled Sobol points of the space's priors."""
    units = qmc.Sobol(len(space.searched), rng=np.random.default_rng(seed)).random_base2(6)
    return [space.from_unit(u) for u in units[:N_TRIALS].tolist()]


def run_sobol(task: Task, seed: int) -> list[float]:
    """Quasi-random search."""
    return [task.function(configuration) for configuration in sobol_points(task.space, seed)]


def run_random(task: Task, seed: int) -> list[float]:
    """Random search."""
    rng = np.random.default_rng(seed)
    return [task.function(task.space.sample(rng)) for _ in range(N_TRIALS)]


SIDES: dict[str, Side] = {
    "ours": with_sampler(lambda task, seed: BayesSampler(seed, task.space)),
    "random": run_random,
    "sobol": run_sobol,
    "optuna tpe": with_sampler(
        lambda task, seed: optuna.samplers.TPESampler(seed=seed, multivariate=True)
    ),
    "optuna gp": with_sampler(lambda task, seed: optuna.samplers.GPSampler(seed=seed)),
    "optuna gp, 5 sobol": with_sampler(
        lambda task, seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=START), START
    ),
    "skopt": _peers.run_skopt,
    "skopt ei": lambda task, seed: _peers.run_skopt(task, seed, acq_func="EI"),
    "hyperopt tpe": _peers.run_hyperopt,
    "smac": _peers.run_smac,
    "bayesian-optimization": _peers.run_bayesian_optimization,
    "ax": _peers.run_ax,
    "ax quality": _peers.in_own_python("ax/quality"),
    "hebo": _peers.in_own_python("hebo"),
    "syne tune cqr": _peers.in_own_python("syne/cqr"),
    "vizier": _peers.in_own_python("vizier"),
}


def run_one(side: str, name: str, seed: int) -> dict[str, Any]:
    """Return the normalised regret after every trial, and seconds of the processor."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, began = TASKS[name], cpu_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = SIDES[side](task, seed)
    return {"regret": task.regrets(values), "seconds": round(cpu_seconds() - began, 2)}


def cpu_seconds() -> float:
    """CPU time of this process and of the peers' Pythons."""
    return time.process_time() + peer_seconds()


def raw_file(folder: Path, side: str) -> Path:
    """Where the runs of a side are kept."""
    return folder / f"{side.replace(', ', '_').replace(' ', '_')}.json"


def regrets(folder: Path, sides: list[str]) -> pd.DataFrame:
    """One row per side, task, seed and budget."""
    rows = [
        (side, *key.split("#"), budget, run["regret"][budget - 1], run["seconds"])
        for side in sides
        if raw_file(folder, side).exists()
        for key, run in json.loads(raw_file(folder, side).read_text()).items()
        for budget in BUDGETS
    ]
    return pd.DataFrame(rows, columns=["side", "task", "seed", "budget", "regret", "seconds"])


def on_common_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the tasks that a side has not reached yet: means over others do not compare.

    Sides that have reached less than half of the tasks are left out, instead.
    """
    reached = frame.groupby("side").task.nunique()
    frame = frame[frame.side.map(reached) >= reached.max() / 2]
    sides = frame.groupby("task").side.nunique()
    return frame[frame.task.isin(sides.index[sides == frame.side.nunique()])]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of each task, then over the tasks; the rank is at the last budget."""
    by_task = frame.groupby(["side", "budget", "task"]).regret.mean().unstack("budget")
    table = by_task.groupby("side").mean().add_prefix("mean at ")
    medians = by_task.groupby("side").median().add_prefix("median at ")
    ranks = by_task[BUDGETS[-1]].unstack("side").rank(axis=1).mean()
    runs = frame[frame.budget == BUDGETS[-1]].groupby("side")
    return table.join(medians).assign(
        rank=ranks, runs=runs.size(), seconds=runs.seconds.mean().round(2)
    )


def difference(frame: pd.DataFrame, peer: str, budget: int) -> dict[str, float]:
    """Ours minus the peer's mean regret over common tasks and seeds, with its 95 % interval.

    The bootstrap draws tasks, then seeds within each: tasks differ more than seeds do.
    """
    at = frame[frame.budget == budget].pivot(
        index=["task", "seed"], columns="side", values="regret"
    )
    pairs = (at["ours"] - at[peer]).dropna()
    by_task = [one.to_numpy() for _, one in pairs.groupby("task")]
    rng, n = np.random.default_rng(0), len(by_task)
    means = [
        np.mean([rng.choice(by_task[i], len(by_task[i])).mean() for i in rng.integers(n, size=n)])
        for _ in range(2000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    middle = float(np.mean([one.mean() for one in by_task]))
    ours = float(at["ours"][pairs.index].groupby("task").mean().mean())
    return {
        "difference": middle,
        "low": low,
        "high": high,
        "ours": ours,
        "tasks": n,
        "n": len(pairs),
    }


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, help="folder with lcbench/ (tasks are left out without it)"
    )
    parser.add_argument("--raw", default="results/reference/sample_efficiency", type=Path)
    parser.add_argument(
        "--development",
        action="store_true",
        help="the tasks that the sampler is tuned on, with raw results in a folder of their own",
    )
    parser.add_argument(
        "--sides", nargs="*", default=["ours"], help=f"default ours; out of {', '.join(SIDES)}"
    )
    parser.add_argument("--peers", action="store_true", help="make missing runs of all sides")
    parser.add_argument("--again", action="store_true", help="forget the sides' earlier runs")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 tasks, 1 seed, ours and random")
    arguments = parser.parse_args()
    seeds, limit = range(arguments.seeds), None
    if arguments.development:
        arguments.raw /= "development"
    known = arguments.raw / "tasks.json"
    if arguments.quick:
        arguments.raw = Path("results/sample_efficiency_quick")
        seeds, limit, arguments.sides = range(1), 2, ["ours", "random"]
    if arguments.peers:
        arguments.sides = list(SIDES)
    arguments.raw.mkdir(parents=True, exist_ok=True)
    if arguments.again:
        for side in arguments.sides:
            raw_file(arguments.raw, side).unlink(missing_ok=True)
    if arguments.sides:
        if arguments.development:
            found = load_development_tasks(known, limit)
        else:
            found = load_tasks(arguments.data_dir, known, limit)
        TASKS.update({task.name: task for task in found})
    for side in arguments.sides:
        wanted = {f"{name}#{seed}": (side, name, seed) for seed in seeds for name in TASKS}
        run_missing(raw_file(arguments.raw, side), wanted, run_one, arguments.jobs)
    everything = regrets(arguments.raw, list(SIDES))
    frame = on_common_tasks(everything)
    print(f"{frame.task.nunique()} tasks that all sides have run")
    table = summary(frame).sort_values(f"mean at {BUDGETS[-1]}")
    print(table.round(4).to_string())
    peers = [side for side in everything.side.unique() if side != "ours"]
    result: dict[str, Any] = {"mean": table.filter(like="mean at").round(4).T.to_dict()}
    print("ours minus a peer, with 95 % intervals")
    for budget in (20, 50):
        means = table.drop("ours")[f"mean at {budget}"]
        best = None if means.empty else means.idxmin()
        for peer in sorted(peers, key=lambda side: side != best):
            frames = (frame, everything) if peer in table.index else (everything,)
            found = [difference(one, peer, budget) for one in frames]
            result.setdefault(f"against_{peer}", {})[budget] = found[-1]
            name = f"{peer} (the best)" if peer == best else peer
            for against in found if found[0] != found[-1] else found[-1:]:
                print(
                    f"at {budget}: {name:30} {against['difference']:+.4f} ({against['low']:+.4f} "
                    f"to {against['high']:+.4f}; {against['tasks']} tasks, {against['n']} pairs; "
                    f"ours {against['ours']:.4f})"
                )
        result[f"best_at_{budget}"] = best
    print(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
