"""CPU seconds until the result of ten full trainings chosen by hyperopt is reached, by side.

(a) the reference recipe: hyperopt's TPE, ten full trainings by the plain loop of `_plain.py`;
(b) Optuna's TPE with Hyperband over the same plain loop; (c) ours: Bayesian search by expected
improvement per second, stopped at the default rungs, with the engine of `hpo_lib`; replayed also
(d): one epoch for random configurations, then full trainings of the best (arXiv:2307.15422). The
target of a seed is the final validation error of (a) with that seed, and only trainings to the
full budget count. No side begins at a default configuration.

Learning curves are replayed from a record of trainings, whose epochs cost what they cost in CPU
time; an epoch of the plain loop costs more by the ratio that `--costs` measures. `--live` trains
instead, one thread per side, and saves every training: run again, it goes on. `--tables DIR`
replays published learning curves instead, those of `fidelity.py`, where an epoch costs all sides
the same; there, `--peers` adds searches that live in Pythons of their own (`_peer_process.py`).
It takes `pip install -e .[bench]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from _peer_process import search_in_own_python

from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective
from hpo_lib.comparison.training_records import read_record
from hpo_lib.files import atomic_write_text
from hpo_lib.objective import Objective, Segment, SegmentResult
from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import trials_frame
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study

RECIPE_TRIALS = 10
LOOPS = ("plain", "engine")
CAP = 100
"""Trials after which a side that has not reached the target is taken to need that long."""
LIMIT = 0.6
"""Live, (b) is given up after so many times the seconds of (a): its ratio is a bound then."""
N_SCREENED = 30
"""Configurations that side (d) trains for one epoch at a time."""
SECONDS = 100.0
"""An epoch of published curves."""

PEERS = {
    "dehb": "DEHB",
    "neps": "NePS' PriorBand without a prior",
    "openbox": "OpenBox's MFES-HB",
    "smac": "SMAC3's multi-fidelity facade",
}
"""Searches in Pythons of their own that choose how many epochs a configuration is trained."""
PEER_LIMIT = 50
"""Full trainings whose epochs such a search may spend before it is given up."""

Curve = Callable[[Configuration, int], Iterator[tuple[float, float]]]
"""Validation error and CPU seconds of one epoch after the other, of a configuration and a seed."""


@dataclass(frozen=True)
class Search:
    """What one side reached: full trainings' errors, and all seconds until each was known.

    `trained` are those of them in which a network was trained; the last numbers are of the end.
    """

    errors: list[float]
    seconds: list[float]
    trained: list[float]
    total: float
    total_trained: float

    def until(self, target: float) -> float:
        """Seconds until an error of at most `target`; infinite where it was not reached."""
        pairs = zip(self.errors, self.seconds, strict=True)
        return next((spent for error, spent in pairs if error <= target), math.inf)

    def with_epochs_of(self, share: float) -> Search:
        """Return the same search where an epoch costs only so much of what it did."""
        saved = 1 - share
        pairs = zip(self.seconds, self.trained, strict=True)
        return replace(
            self,
            seconds=[spent - saved * trained for spent, trained in pairs],
            total=self.total - saved * self.total_trained,
        )


TABLES: dict[str, PublishedCurves] = {}
"""Filled before the processes are forked, which share it."""


def recipe(space: SearchSpace, curve: Curve, seed: int, n_epochs: int) -> Search:
    """Run side (a): hyperopt's TPE, ten full trainings."""
    from _peers import hyperopt_parameter
    from hyperopt import fmin, hp, tpe

    errors: list[float] = []
    spent: list[float] = []
    trained: list[float] = []
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
        trained.append(training)
        return errors[-1]

    described = {one.name: hyperopt_parameter(hp, one) for one in space.searched}
    rng = np.random.default_rng(seed)
    fmin(function, described, tpe.suggest, RECIPE_TRIALS, rstate=rng, show_progressbar=False)
    return Search(errors, spent, trained, spent[-1], training)


def optuna_hyperband(
    space: SearchSpace,
    curve: Curve,
    seed: int,
    n_epochs: int,
    target: float,
    limit: float = math.inf,
) -> Search:
    """(b) Optuna's TPE with Hyperband, until the target, `CAP` trials or `limit` seconds."""
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(1, n_epochs, 3),
        study_name=f"seed {seed}",  # which Hyperband's brackets depend on
    )
    errors: list[float] = []
    spent: list[float] = []
    trained: list[float] = []
    total = training = 0.0
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
            training += seconds
            if stopped or total > limit:
                break
        if total > limit:
            break
        if stopped or n_reported < n_epochs:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, last)
        errors.append(last)
        spent.append(total)
        trained.append(training)
        if last <= target:
            break
    return Search(errors, spent, trained, total, training)


def one_epoch_first(
    space: SearchSpace,
    curve: Curve,
    seed: int,
    n_epochs: int,
    target: float,
) -> Search:
    """(d) Train random configurations for one epoch, then the best tenth to the end (2307.15422).

    Thirty at a time, until the target or `CAP` rounds. An epoch is trained once: a training goes
    on where it stood.
    """
    rng = np.random.default_rng(seed)
    errors: list[float] = []
    trained: list[float] = []
    total = 0.0
    for first in range(0, CAP * N_SCREENED, N_SCREENED):
        curves: list[list[tuple[float, float]]] = []
        for number in range(first, first + N_SCREENED):
            curves.append(list(curve(space.sample(rng), trial_seed(seed, number))))
        curves = [epochs for epochs in curves if epochs]
        total += sum(epochs[0][1] for epochs in curves)

        for epochs in sorted(curves)[: N_SCREENED // 10]:
            total += sum(seconds for _, seconds in epochs[1:])
            if len(epochs) < n_epochs:
                continue
            errors.append(epochs[-1][0])
            trained.append(total)
            if errors[-1] <= target:
                return Search(errors, trained, trained, total, total)
    return Search(errors, trained, trained, total, total)


def ours(
    space: SearchSpace,
    objective: Objective,
    seed: int,
    target: float,
    pruning: str | None,
    storage: Path | str = "memory",
) -> Search:
    """(c) Bayesian search, pruned, until the target or `CAP` trials."""
    study = run_study(
        objective,
        space,
        BayesSampler(seed, space, acq_func="EIps"),
        CAP,
        name=f"seed {seed}",
        storage=storage,
        seed=seed,
        workers=0,
        pruning=pruning,
        default_first=False,
        callback=lambda _, trial: (
            trial.state == optuna.trial.TrialState.COMPLETE and trial.values[0] <= target
        ),
    )
    frame = trials_frame(study)
    spent = (frame["seconds"] + frame["suggest_seconds"]).cumsum()
    trained = frame["seconds"].cumsum()
    full = frame["state"] == "complete"
    return Search(
        frame["value"][full].tolist(),
        spent[full].tolist(),
        trained[full].tolist(),
        float(spent.iloc[-1]),
        float(trained.iloc[-1]),
    )


def replayed(surrogate: SurrogateObjective | PublishedCurves, ratio: float) -> Curve:
    """Curves of the surrogate, dearer by `ratio`."""

    def curve(configuration: Configuration, seed: int) -> Iterator[tuple[float, float]]:
        budget = surrogate.budget
        result = surrogate(configuration, Segment(seed, 0, budget, budget))
        for error, seconds in zip(result.validation_error, result.seconds, strict=True):
            yield error, ratio * seconds

    return curve


def plain_curve(data: Any, config: Any) -> Curve:
    """Curves of the plain loop."""
    from _plain import plain_epochs

    def curve(configuration: Configuration, seed: int) -> Iterator[tuple[float, float]]:
        return plain_epochs(replace(config.with_configuration(configuration), seed=seed), data)

    return curve


def kept(path: Path, curve: Curve, n_epochs: int) -> Curve:
    """Curves as far as they were asked for once, out of a file; more of them is computed."""

    def again(configuration: Configuration, seed: int) -> Iterator[tuple[float, float]]:
        known = json.loads(path.read_text()) if path.exists() else {}
        key = json.dumps([configuration, seed], sort_keys=True)
        epochs = [(error, seconds) for error, seconds in known.get(key, [])]
        yield from epochs
        if len(epochs) == n_epochs:
            return
        for number, epoch in enumerate(curve(configuration, seed)):
            if number >= len(epochs):
                epochs.append(epoch)
                atomic_write_text(path, json.dumps({**known, key: epochs}, indent=0) + "\n")
                yield epoch

    return again


@dataclass(frozen=True)
class PublishedCurves:
    """An objective out of published learning curves; an epoch costs so much that choosing is free.

    Attributes:
        name: the table.
        space: its space.
        budget: epochs of a full training.
        errors: validation errors of a configuration, one per epoch.
    """

    name: str
    space: SearchSpace
    budget: int
    errors: Callable[[Configuration], Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The table."""
        return {"table": self.name}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Read the epochs of a segment."""
        errors = self.errors(configuration)[segment.start : segment.stop]
        values = tuple(float(error) for error in errors)
        return SegmentResult(values, values, values, (SECONDS,) * len(values))


@dataclass(frozen=True)
class CpuSeconds:
    """An objective whose seconds are those of this process's CPU time."""

    objective: Any

    @property
    def budget(self) -> int:
        """Epochs of a full training."""
        return self.objective.budget

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the objective."""
        return {**self.objective.settings, "seconds": "cpu"}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """One segment, its CPU time spread over its epochs."""
        began = time.process_time()
        result = self.objective(configuration, segment)
        share = (time.process_time() - began) / max(1, len(result.seconds))
        return replace(result, seconds=(share,) * len(result.seconds))


def loaded(data: str, epochs: int) -> tuple[Any, Any]:
    """Which images, and how they are trained on; one thread."""
    import torch

    from hpo_lib.training.config import DataConfig, TrainingConfig

    torch.set_num_threads(1)
    sizes = {} if data == "digits" else {"n_train": 5000, "n_validation": 2000, "n_test": 2000}
    return DataConfig(data, **sizes), TrainingConfig(depth=8, epochs=epochs)


def cost(data: str, epochs: int, configuration: Configuration, loop: str) -> float:
    """CPU seconds of one epoch of a training by one of the two loops, in a warm process."""
    from _plain import plain_epochs

    from hpo_lib.training.loaders import load_data
    from hpo_lib.training.trainer import train

    data_config, config = loaded(data, epochs)
    images, chosen = load_data(data_config), config.with_configuration(configuration)
    if loop == "plain":
        return [seconds for _, seconds in islice(plain_epochs(chosen, images), 2)][1]
    train(chosen, images, stop=1)
    began = time.process_time()
    train(chosen, images, stop=1)
    return time.process_time() - began


def measure_costs(space: SearchSpace, data: str, epochs: int, n: int) -> list[dict[str, Any]]:
    """CPU seconds of one epoch of `n` drawn configurations by both loops, in new processes."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for number in range(n):
        configuration = space.sample(rng)
        found = {loop: apart(cost, data, epochs, configuration, loop) for loop in LOOPS}
        rows.append({**configuration, **found})
        print(f"epoch of configuration {number}: {found}", flush=True)
    return rows


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a new process: what one side does to its process is not the other's to share."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def live_plain(
    side: str, data: str, space: SearchSpace, raw: Path, seed: int, *more: Any
) -> Search:
    """Run side (a) or (b) with real trainings."""
    from hpo_lib.training.loaders import load_data

    data_config, config = loaded(data, *more[:1])
    curves = plain_curve(load_data(data_config), config)
    curve = kept(raw / f"live_{side}_{seed}.json", curves, config.epochs)
    return (recipe if side == "a" else optuna_hyperband)(space, curve, seed, *more)


def live_ours(
    data: str, space: SearchSpace, raw: Path, seed: int, epochs: int, target: float, pruning: str
) -> Search:
    """(c) with real trainings."""
    from hpo_lib.training.objective import TrainingObjective

    data_config, config = loaded(data, epochs)
    objective = CpuSeconds(TrainingObjective(config, data_config))
    return ours(space, objective, seed, target, pruning, raw / "live.db")


def row_of(
    seed: int, a: Search, b: Search, c: Search, d: Search | None = None
) -> dict[str, float]:
    """Return one seed's result; live, there is no side (d)."""
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
        "d": math.nan if d is None else d.until(target),
        "d_spent": math.nan if d is None else d.total,
    }


def censored(frame: pd.DataFrame, side: str) -> pd.Series[float]:
    """Seconds to the target; where a side did not get there, all that it spent: a bound."""
    return frame[side].where(np.isfinite(frame[side]), frame[f"{side}_spent"])


def summary(frame: pd.DataFrame, title: str) -> dict[str, float]:
    """Print medians and ranges; the figures of the JSON line."""
    b, c = censored(frame, "b"), censored(frame, "c")
    d = censored(frame, "d") if "d" in frame else pd.Series(math.nan, index=frame.index)
    print(f"\n{title}: {len(frame)} seeds, target {frame['target'].median():.4f} (median)")
    for name, seconds in (
        ("a, until its best training", frame["a"]),
        ("a, all ten trainings", frame["a_whole"]),
        ("b, until the target", b),
        ("c, until the target", c),
        ("d, until the target", d),
    ):
        low, middle, high = seconds.quantile([0.05, 0.5, 0.95])
        print(f"  {name:28} {middle:9.1f} s  (5 % {low:.1f}, 95 % {high:.1f})")
    for side in "bc":
        missed = int((~np.isfinite(frame[side])).sum())
        print(f"  {side} was given up before it reached the target: {missed} of {len(frame)}")
    figures: dict[str, float] = {"n_seeds": len(frame)}
    for name, ratio in (
        ("recipe_over_ours", frame["a_whole"] / c),
        ("recipe_until_best_over_ours", frame["a"] / c),
        ("optuna_over_ours", b / c),
        ("one_epoch_first_over_ours", d / c),
    ):
        low, middle, high = ratio.quantile([0.05, 0.5, 0.95])
        print(f"  {name:28} {middle:6.2f}  (5 % {low:.2f}, 95 % {high:.2f})")
        figures |= {name: middle, f"{name}_5": low, f"{name}_95": high}
    return {key: round(float(value), 3) for key, value in figures.items() if value == value}


def main() -> None:
    """Measure the cost of an epoch where that is missing, replay, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--record", type=Path, default=Path("results/reference/resnet8_record.csv")
    )
    parser.add_argument("--raw", type=Path, default=Path("results/reference/time_to_quality"))
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--costs", action="store_true", help="measure them anew")
    parser.add_argument("--scratch", type=Path, default=Path("results/time_to_quality"))
    parser.add_argument("--pruning", default="asha", help='of ours; "none" trains to the end')
    parser.add_argument("--live", type=int, default=0, metavar="N", help="train N seeds")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="holds opda/ and lcbench/")
    parser.add_argument(
        "--peers", nargs="*", default=[], choices=list(PEERS), help="on tables alone"
    )
    parser.add_argument("--quick", action="store_true", help="3 seeds, costs as kept")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = range(3 if arguments.quick else arguments.seeds)
    pruning = None if arguments.pruning == "none" else arguments.pruning
    if arguments.tables is not None:
        n_seeds = len(seeds)
        figures = replay_tables(arguments.tables, arguments.raw, n_seeds, pruning, arguments.peers)
        print(json.dumps(figures))
        return
    surrogate = SurrogateObjective(read_record(arguments.record))
    print(surrogate.quality)
    space, budget = surrogate.space, surrogate.budget
    costs_file = arguments.raw / "costs.json"
    arguments.raw.mkdir(parents=True, exist_ok=True)
    if arguments.costs or not costs_file.exists():
        costs = measure_costs(space, arguments.data, budget, 8)
        atomic_write_text(costs_file, json.dumps(costs, indent=1) + "\n")
    costs = json.loads(costs_file.read_text())
    ratios = [row["plain"] / row["engine"] for row in costs]
    ratio = float(np.median(ratios))
    print(
        f"an epoch of the plain loop costs {ratio:.2f} times the engine's "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} configurations)"
    )
    pairs = [replay_seed(surrogate, ratio, seed, pruning) for seed in seeds]
    alone, both = (pd.DataFrame(rows) for rows in zip(*pairs, strict=True))
    figures: dict[str, Any] = summary(both, "replayed, search and engine")
    figures["search_alone"] = summary(alone, "replayed, search alone: equal seconds per epoch")
    figures["plain_over_engine"] = round(ratio, 3)
    live_file = arguments.raw / "live.json"
    done = json.loads(live_file.read_text()) if live_file.exists() else []
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    for seed in range(len(done), arguments.live):
        shared = (arguments.data, space, arguments.scratch, seed, budget)
        a = apart(live_plain, "a", *shared)
        target = min(a.errors)
        c = apart(live_ours, *shared, target, pruning)
        b = apart(live_plain, "b", *shared, target, LIMIT * a.total)
        done.append(row_of(seed, a, b, c))
        table = pd.DataFrame(done, dtype=float)
        atomic_write_text(live_file, table.to_json(orient="records", indent=1) + "\n")
    if done:
        figures["live"] = summary(pd.DataFrame(done, dtype=float), "live")
    print(json.dumps(figures))


def replay_tables(
    data_dir: Path, raw: Path, n_seeds: int, pruning: str | None, peers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Run all sides on published curves, search alone; return the figures of each table."""
    import fidelity

    fidelity.load_tasks(data_dir, fidelity.REFERENCE / "tasks.json", n_lcbench=4)
    for name, task in fidelity.TASKS.items():
        TABLES[name] = PublishedCurves(name, task.space, task.budget, task.errors)
    wanted = {
        f"{name}#{seed}": (name, seed, pruning) for name in TABLES for seed in range(n_seeds)
    }
    kept = run_missing(raw / f"tables_{pruning}.json", wanted, replay_table, 1)

    figures = compare_peers(peers, kept, raw, n_seeds)
    for name in TABLES:
        rows = [kept[f"{name}#{seed}"] for seed in range(n_seeds)]
        figures.setdefault(name, {}).update(summary(pd.DataFrame(rows, dtype=float), name))
    return figures


def compare_peers(
    peers: Sequence[str], kept: Mapping[str, Mapping[str, float]], raw: Path, n_seeds: int
) -> dict[str, dict[str, float]]:
    """Run searches in Pythons of their own; return their seconds over ours, by table.

    Args:
        peers: out of `PEERS`.
        kept: results of the other sides by table and seed, which hold target and ours.
        raw: folder with a file of raw results per peer.
        n_seeds: of each table.
    """
    figures: dict[str, dict[str, float]] = {}
    for peer in peers:
        wanted = {
            f"{name}#{seed}": (peer, name, seed, kept[f"{name}#{seed}"]["target"])
            for name in TABLES
            for seed in range(n_seeds)
        }
        reached = run_missing(raw / f"tables_{peer}.json", wanted, replay_peer, 1)
        for name in TABLES:
            keys = [f"{name}#{seed}" for seed in range(n_seeds)]
            rows = pd.DataFrame([{**kept[key], **reached[key]} for key in keys], dtype=float)
            ratio = censored(rows, "peer") / censored(rows, "c")
            low, middle, high = ratio.quantile([0.05, 0.5, 0.95])
            missed = int((~np.isfinite(rows["peer"])).sum())
            print(
                f"{name}: {PEERS[peer]} over ours {middle:.2f} (5 % {low:.2f}, 95 % {high:.2f}), "
                f"{missed} of {n_seeds} given up"
            )
            figures.setdefault(name, {})[f"{peer}_over_ours"] = round(float(middle), 3)
    return figures


def replay_peer(peer: str, name: str, seed: int, target: float) -> dict[str, float]:
    """Run a search in a Python of its own on a table, until the target or the limit.

    A configuration that is asked for with more epochs goes on where its training stood.
    """
    table = TABLES[name]
    trained: dict[str, int] = {}
    total, reached = 0, math.inf

    def evaluate(chosen: Configuration, epochs: int | None) -> float | None:
        nonlocal total, reached
        if math.isfinite(reached) or total >= PEER_LIMIT * table.budget:
            return None
        configuration = table.space.complete(chosen)
        key, epochs = json.dumps(configuration, sort_keys=True), epochs or table.budget
        before = trained.get(key, 0)
        total += epochs - before if before < epochs else epochs
        trained[key] = max(before, epochs)

        error = float(table.errors(configuration)[epochs - 1])
        if epochs == table.budget and error <= target:
            reached = SECONDS * total
        return error

    search_in_own_python(peer, table.space, evaluate, seed, PEER_LIMIT, table.budget)
    return {"peer": reached, "peer_spent": SECONDS * total}


def replay_table(name: str, seed: int, pruning: str | None) -> dict[str, float]:
    """Run the four sides with one seed on a table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    alone, _ = replay_seed(TABLES[name], 1.0, seed, pruning)
    return alone


def replay_seed(
    surrogate: SurrogateObjective | PublishedCurves,
    ratio: float,
    seed: int,
    pruning: str | None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Run the three sides with one seed on recorded curves; return both results.

    The first is that of the searches alone, whose epochs cost all sides the same.
    """
    space, budget, curve = surrogate.space, surrogate.budget, replayed(surrogate, ratio)
    a = recipe(space, curve, seed, budget)
    target = min(a.errors)
    b = optuna_hyperband(space, curve, seed, budget, target)
    c = ours(space, surrogate, seed, target, pruning)
    d = one_epoch_first(space, curve, seed, budget, target)
    cheap_a, cheap_b, cheap_d = (side.with_epochs_of(1 / ratio) for side in (a, b, d))
    return row_of(seed, cheap_a, cheap_b, c, cheap_d), row_of(seed, a, b, c, d)


if __name__ == "__main__":
    main()
