"""CPU seconds until the result of ten full trainings chosen by hyperopt is reached: three ways.

(a) the reference recipe: hyperopt's TPE, ten full trainings by the plain loop of `_plain.py`;
(b) Optuna's TPE with Hyperband over the same plain loop; (c) ours: Bayesian search, pruned, with
the engine of `hpo_lib`. The target of a seed is the final validation error of (a) with that seed,
and only trainings to the full budget count. No side begins at a default configuration.

Learning curves are replayed from a record of trainings, whose epochs cost what they cost in CPU
time; an epoch of the plain loop costs more by the ratio that `--costs` holds, measured where that
file does not exist yet. `--live` trains instead, one thread per side. It takes
`pip install -e .[bench]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd

from hpo_lib.driver import trial_seed
from hpo_lib.files import atomic_write_text
from hpo_lib.objective import Objective, Segment
from hpo_lib.records import read_record
from hpo_lib.replay import SurrogateObjective
from hpo_lib.space import Configuration, SearchSpace
from hpo_lib.study import run_study, trials_frame

RECIPE_TRIALS = 10
CAP = 100
"""Trials after which a side that has not reached the target is taken to need that long."""

Curve = Callable[[Configuration, int], Iterator[tuple[float, float]]]
"""Validation error and CPU seconds of one epoch after the other, of a configuration and a seed."""


@dataclass(frozen=True)
class Search:
    """What one side reached: full trainings' errors, and all seconds until each was known."""

    errors: list[float]
    seconds: list[float]
    total: float

    def until(self, target: float) -> float:
        """Seconds until an error of at most `target`; infinite where it was not reached."""
        pairs = zip(self.errors, self.seconds, strict=True)
        return next((spent for error, spent in pairs if error <= target), math.inf)


def recipe(space: SearchSpace, curve: Curve, seed: int, n_epochs: int) -> Search:
    """(a) hyperopt's TPE, ten full trainings."""
    from hyperopt import fmin, hp, tpe
    from sample_efficiency import hyperopt_parameter

    errors: list[float] = []
    spent: list[float] = []
    training = own = 0.0
    began = time.process_time()

    def function(chosen: dict[str, Any]) -> float:
        nonlocal training, own
        here = time.process_time()
        values = {key: type(space[key].default)(value) for key, value in chosen.items()}
        epochs = list(curve(space.complete(values), trial_seed(seed, len(errors))))
        training += sum(seconds for _, seconds in epochs)
        errors.append(epochs[-1][0] if len(epochs) == n_epochs else 1.0)
        own += time.process_time() - here
        spent.append(training + here - began - own + (time.process_time() - here))
        return errors[-1]

    described = {one.name: hyperopt_parameter(hp, one) for one in space.searched}
    rng = np.random.default_rng(seed)
    fmin(function, described, tpe.suggest, RECIPE_TRIALS, rstate=rng, show_progressbar=False)
    return Search(errors, spent, spent[-1])


def optuna_hyperband(
    space: SearchSpace, curve: Curve, seed: int, n_epochs: int, target: float
) -> Search:
    """(b) Optuna's TPE with Hyperband, until the target or `CAP` trials."""
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(1, n_epochs, 3),
        study_name=f"seed {seed}",  # which Hyperband's brackets depend on
    )
    errors: list[float] = []
    spent: list[float] = []
    total = 0.0
    for number in range(CAP):
        began = time.process_time()
        trial = study.ask()
        configuration = space.suggest(trial)
        total += time.process_time() - began
        last, stopped = math.nan, False
        n_reported = 0
        for epoch, (error, seconds) in enumerate(
            curve(configuration, trial_seed(seed, number)), 1
        ):
            began = time.process_time()
            trial.report(error, epoch)
            n_reported, last = epoch, error
            stopped = epoch < n_epochs and trial.should_prune()
            total += seconds + time.process_time() - began
            if stopped:
                break
        if stopped or n_reported < n_epochs:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, last)
        errors.append(last)
        spent.append(total)
        if last <= target:
            break
    return Search(errors, spent, total)


def ours(
    space: SearchSpace, objective: Objective, seed: int, target: float, pruning: str | None
) -> Search:
    """(c) Bayesian search, pruned, until the target or `CAP` trials."""
    study = run_study(
        objective,
        space,
        "bayes",
        CAP,
        name=f"seed {seed}",
        storage="memory",
        seed=seed,
        workers=0,
        pruning=pruning,
        default_first=False,
        callback=lambda _, trial: (
            trial.state == optuna.trial.TrialState.COMPLETE and trial.values[0] <= target
        ),
    )
    frame = trials_frame(study)
    spent = (frame["seconds"] + frame["deciding_seconds"]).cumsum()
    full = frame["state"] == "complete"
    return Search(frame["value"][full].tolist(), spent[full].tolist(), float(spent.iloc[-1]))


def replayed(surrogate: SurrogateObjective, ratio: float) -> Curve:
    """Curves of the surrogate, dearer by `ratio`."""

    def curve(configuration: Configuration, seed: int) -> Iterator[tuple[float, float]]:
        budget = surrogate.budget
        result = surrogate(configuration, Segment(seed, 0, budget, budget))
        for error, seconds in zip(result.validation_error, result.seconds, strict=True):
            yield error, ratio * seconds

    return curve


def live(data: Any, config: Any) -> Curve:
    """Curves of the plain loop."""
    from _plain import plain_epochs

    def curve(configuration: Configuration, seed: int) -> Iterator[tuple[float, float]]:
        return plain_epochs(replace(config.with_configuration(configuration), seed=seed), data)

    return curve


def measure_costs(space: SearchSpace, data: Any, config: Any, n: int) -> list[dict[str, Any]]:
    """CPU seconds of one epoch of `n` drawn configurations by both loops, one after the other."""
    import torch
    from _plain import plain_epochs

    from hpo_lib.training import train

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for number in range(n + 1):
        configuration = space.sample(rng)
        chosen = config.with_configuration(configuration)
        began = time.process_time()
        train(chosen, data, stop=1)
        engine = time.process_time() - began
        plain = next(plain_epochs(chosen, data))[1]
        if number:  # the first one warms up
            rows.append({**configuration, "plain": plain, "engine": engine})
            print(f"epoch {number}: plain {plain:.1f} s, engine {engine:.1f} s", flush=True)
    return rows


def row_of(seed: int, a: Search, b: Search, c: Search) -> dict[str, float]:
    """One seed's result."""
    target = min(a.errors)
    return {
        "seed": seed,
        "target": target,
        "a": a.until(target),
        "a_whole": a.total,
        "b": b.until(target),
        "b_spent": b.total,
        "c": c.until(target),
        "c_spent": c.total,
    }


def censored(frame: pd.DataFrame, side: str) -> pd.Series[float]:
    """Seconds to the target; where a side did not get there, all that it spent: a bound."""
    return frame[side].where(np.isfinite(frame[side]), frame[f"{side}_spent"])


def summary(frame: pd.DataFrame, title: str) -> dict[str, float]:
    """Print medians and ranges; the figures of the JSON line."""
    b, c = censored(frame, "b"), censored(frame, "c")
    print(f"\n{title}: {len(frame)} seeds, target {frame['target'].median():.4f} (median)")
    for name, seconds in (
        ("a, until its best training", frame["a"]),
        ("a, all ten trainings", frame["a_whole"]),
        ("b, until the target", b),
        ("c, until the target", c),
    ):
        low, middle, high = seconds.quantile([0.05, 0.5, 0.95])
        print(f"  {name:28} {middle:9.1f} s  (5 % {low:.1f}, 95 % {high:.1f})")
    for side in "bc":
        missed = int((~np.isfinite(frame[side])).sum())
        print(f"  {side} did not reach the target within {CAP} trials: {missed} of {len(frame)}")
    figures: dict[str, float] = {"n_seeds": len(frame)}
    for name, ratio in (
        ("recipe_over_ours", frame["a_whole"] / c),
        ("recipe_until_best_over_ours", frame["a"] / c),
        ("optuna_over_ours", b / c),
    ):
        low, middle, high = ratio.quantile([0.05, 0.5, 0.95])
        print(f"  {name:28} {middle:6.2f}  (5 % {low:.2f}, 95 % {high:.2f})")
        figures |= {name: middle, f"{name}_5": low, f"{name}_95": high}
    return {key: round(float(value), 3) for key, value in figures.items()}


def main() -> None:
    """Measure the cost of an epoch where that is missing, replay, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--record", type=Path, default=Path("results/reference/resnet8_record.csv")
    )
    parser.add_argument("--raw", type=Path, default=Path("results/reference/time_to_quality"))
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--pruning", default="asha", help='of ours; "none" trains to the end')
    parser.add_argument("--live", type=int, default=0, metavar="N", help="train N seeds")
    parser.add_argument("--quick", action="store_true", help="3 seeds, costs as kept")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = range(3 if arguments.quick else arguments.seeds)
    pruning = None if arguments.pruning == "none" else arguments.pruning
    surrogate = SurrogateObjective(read_record(arguments.record))
    print(surrogate.trust)
    costs_file = arguments.raw / "costs.json"
    if arguments.live or not costs_file.exists():
        from hpo_lib.data import DataConfig, load_data
        from hpo_lib.training import TrainingConfig, TrainingObjective

        sizes = {"n_train": 5000, "n_validation": 2000, "n_test": 2000}
        data_config = DataConfig(arguments.data, **({} if arguments.data == "digits" else sizes))
        data = load_data(data_config)
        config = TrainingConfig(depth=8, epochs=surrogate.budget)
    arguments.raw.mkdir(parents=True, exist_ok=True)
    if not costs_file.exists():
        costs = measure_costs(surrogate.space, data, config, 8)
        atomic_write_text(costs_file, json.dumps(costs, indent=1) + "\n")
    costs = json.loads(costs_file.read_text())
    ratios = [row["plain"] / row["engine"] for row in costs]
    ratio = float(np.median(ratios))
    print(
        f"an epoch of the plain loop costs {ratio:.2f} times the engine's "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} configurations)"
    )
    space, budget = surrogate.space, surrogate.budget

    def run(seed: int, curve: Curve, objective: Objective) -> dict[str, float]:
        a = recipe(space, curve, seed, budget)
        target = min(a.errors)
        b = optuna_hyperband(space, curve, seed, budget, target)
        return row_of(seed, a, b, ours(space, objective, seed, target, pruning))

    rows = [run(seed, replayed(surrogate, ratio), surrogate) for seed in seeds]
    figures: dict[str, Any] = summary(pd.DataFrame(rows), "replayed")
    figures["plain_over_engine"] = round(ratio, 3)
    live_file = arguments.raw / "live.json"
    kept = json.loads(live_file.read_text()) if live_file.exists() else []
    for seed in range(len(kept), arguments.live):
        kept.append(run(seed, live(data, config), TrainingObjective(config, data_config)))
        atomic_write_text(live_file, json.dumps(kept, indent=1) + "\n")
    if kept:
        figures["live"] = summary(pd.DataFrame(kept), "live")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
