"""What workers bring on real training, and what 256 of them would keep the driver busy with.

Measured: one study on one and on two warm workers, and the same trainings in one and in two
processes without any study, alternating; the speed-ups are compared, and each study's seconds with
those of its simulation. Simulated: 256 workers with trials of 60 seconds, the driver and its
record on disk costing the seconds that really pass; where the machine is busy or its disk slow, so
is the driver, and its processor time is printed beside. Optuna's own parallel optimisation has no
driver: each process asks and tells by itself. So four processes do that at once, as fast as they
can, on one SQLite file with 256 running trials: the rate that they reach bounds the utilisation.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.toys import record_of

os.environ["OMP_NUM_THREADS"] = "1"

import optuna

from hpo_lib.comparison.simulation import RecordedObjective, SimulatedWorkers, simulate
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study, trials_frame
from hpo_lib.study.storage import open_storage
from hpo_lib.study.workers.local import LocalWorkers
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.objective import TrainingObjective

# Nothing in here changes what a training costs.
SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}
weight_decay: {type: float, low: 0.0, high: 0.001, default: 0.0}
"""
)
TRIAL_SECONDS = 60.0
PROCESSES = 4


def objective(epochs: int) -> TrainingObjective:
    """A ResNet-8 on the digits."""
    return TrainingObjective(
        TrainingConfig(depth=8, epochs=epochs, flip=False), DataConfig("digits")
    )


def train_all(epochs: int, trials: list[tuple[int, dict[str, Any]]]) -> None:
    """Train each of the trials, without any study."""
    train = objective(epochs)
    for number, configuration in trials:
        train(configuration, Segment(trial_seed(0, number), 0, epochs, epochs))


class Plain:
    """Warm training processes, each with a share of the trials that is fixed beforehand."""

    def __init__(self, n: int, epochs: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pools = [ProcessPoolExecutor(1, spawn) for _ in range(n)]
        self.epochs = epochs

    def seconds(self, trials: list[tuple[int, dict[str, Any]]]) -> float:
        """From the first order to the last answer."""
        began, n = time.perf_counter(), len(self.pools)
        shares = (trials[i::n] for i in range(n))
        jobs = [
            pool.submit(train_all, self.epochs, share)
            for pool, share in zip(self.pools, shares, strict=True)
        ]
        for job in jobs:
            job.result()
        return time.perf_counter() - began

    def close(self) -> None:
        """End the processes."""
        for pool in self.pools:
            pool.shutdown()


def measure(n_trials: int, epochs: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of the four sides, each repetition in turn; all processes are warm before."""
    train = objective(epochs)
    storage = folder / "measured.db"
    pools = {n: LocalWorkers(n) for n in (1, 2)}
    plain = {n: Plain(n, epochs) for n in (1, 2)}
    taken: dict[str, list[float]] = {}
    driver: list[float] = []
    simulated: dict[int, list[tuple[float, float]]] = {1: [], 2: []}

    def study(name: str, n: int, trials: int) -> optuna.Study:
        return run_study(
            train, SPACE, "random", trials, name=name, storage=storage, workers=pools[n]
        )

    for n in pools:
        study(f"warm {n}", n, 2 * n)
    warm = [(i, SPACE.default_configuration()) for i in range(2)]
    for one in plain.values():
        one.seconds(warm)
    for repeat in range(repeats):
        for n in (1, 2):
            began = time.perf_counter()
            done = study(f"{n} workers, {repeat}", n, n_trials)
            seconds = time.perf_counter() - began
            taken.setdefault(f"study_{n}", []).append(seconds)
            frame = trials_frame(done)
            span = frame["finished"].max() - frame["started"].min()
            again = {"name": f"replay {n}, {repeat}", "storage": storage}
            replay = simulate(RecordedObjective(done), SPACE, "random", n_trials, n, **again)
            simulated[n].append((replay.seconds, span))
            if n == 1:
                driver.append((seconds - (frame["finished"] - frame["started"]).sum()) / n_trials)
            trials = [(t.number, record_of(t).configuration) for t in done.trials]
            taken.setdefault(f"plain_{n}", []).append(plain[n].seconds(trials))
    for pool in pools.values():
        pool.close()
    for one in plain.values():
        one.close()
    speed_ups = {
        side: [a / b for a, b in zip(taken[f"{side}_1"], taken[f"{side}_2"], strict=True)]
        for side in ("study", "plain")
    }
    ratios = [a / b for a, b in zip(speed_ups["study"], speed_ups["plain"], strict=True)]
    return {
        **{f"{side}_seconds": round(statistics.median(s), 3) for side, s in taken.items()},
        "study_speed_up": round(statistics.median(speed_ups["study"]), 3),
        "plain_speed_up": round(statistics.median(speed_ups["plain"]), 3),
        "speed_up_of_plain": round(statistics.median(ratios), 3),
        "driver_seconds_per_trial": round(statistics.median(driver), 4),
        **{
            f"simulated_of_measured_{n}": round(statistics.median(a / b for a, b in pairs), 3)
            for n, pairs in simulated.items()
        },
        **{
            f"simulated_seconds_{n}": round(statistics.median(a for a, _ in pairs), 3)
            for n, pairs in simulated.items()
        },
    }


@dataclass(frozen=True)
class Minute:
    """A trial of 60 seconds, a bowl around the default."""

    budget: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing to tell apart."""
        return {}

    def __call__(self, configuration: dict[str, Any], segment: Segment) -> SegmentResult:
        """Its value and its seconds, at once."""
        value = (abs(float(configuration["lr"]) - 0.003) + 0.1,)
        return SegmentResult(value, value, value, (TRIAL_SECONDS,))


def simulated(strategy: str, workers: int, n_trials: int, folder: Path) -> dict[str, Any]:
    """Utilisation and what the driver costs, with the record in an SQLite file."""
    pool = SimulatedWorkers(workers)
    storage = folder / f"{strategy}.db"
    began = time.process_time()
    found = simulate(Minute(), SPACE, strategy, n_trials, pool, storage=storage)
    cost = pool.driver_busy / n_trials
    return {
        "utilisation": round(found.utilisation, 4),
        "driver_seconds_per_trial": round(cost, 4),
        "cpu_seconds_per_trial": round((time.process_time() - began) / n_trials, 4),
        "driver_is_busy_at_workers": round(TRIAL_SECONDS / cost),
    }


def ask_and_tell(storage: str, sampler: Any, seconds: float) -> float:
    """One process of Optuna's own: how many trials of no length it gets done per second."""
    study = optuna.load_study(study_name="shared", storage=open_storage(storage), sampler=sampler)
    began = time.monotonic()
    done = 0
    while time.monotonic() < began + seconds:
        trial = study.ask()
        SPACE.suggest(trial)
        study.tell(trial, abs(trial.params["lr"] - 0.003) + 0.1)
        done += 1
    return done / (time.monotonic() - began)


def optuna_alone(sampler: Any, workers: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The rate at which processes that share a record get trials, with `workers` running ones."""
    storage = str(folder / f"optuna_{type(sampler).__name__}.db")
    random = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name="shared", storage=open_storage(storage), sampler=random)
    for number in range(2 * workers):
        trial = study.ask()
        SPACE.suggest(trial)
        if number < workers:
            study.tell(trial, abs(trial.params["lr"] - 0.003) + 0.1)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        orders = [(storage, sampler, seconds)] * PROCESSES
        rate = sum(pool.starmap(ask_and_tell, orders))
    return {
        "trials_per_second": round(rate, 3),
        "utilisation_at_most": round(min(1.0, rate * TRIAL_SECONDS / workers), 4),
    }


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 trials, once; 32 workers")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    repeats, n_trials, epochs = (1, 4, 1) if arguments.quick else (arguments.repeats, 16, 4)
    workers = 32 if arguments.quick else 256
    per_study = 8 * workers  # in the first round the driver sends out all of them at once
    with tempfile.TemporaryDirectory(prefix="hpo_lib_scaling_", dir=".") as name:
        folder = Path(name)
        result: dict[str, Any] = measure(n_trials, epochs, repeats, folder)
        print(f"real training, {n_trials} trials of {epochs} epochs, median of {repeats}")
        for key, value in result.items():
            print(f"  {key:28s} {value:8.3f}")
        print(f"simulated: {workers} workers, {per_study} trials of {TRIAL_SECONDS:g} s")
        for strategy in ("random", "bayes"):
            result[f"simulated_{strategy}"] = simulated(strategy, workers, per_study, folder)
            print(f"  {strategy:12s} {result[f'simulated_{strategy}']}", flush=True)
        for label, sampler in (
            ("tpe", optuna.samplers.TPESampler(seed=0, constant_liar=True)),
            ("gp", optuna.samplers.GPSampler(seed=0)),
        ):
            found = optuna_alone(sampler, workers, 5.0 if arguments.quick else 30.0, folder)
            result[f"optuna_{label}"] = found
            print(f"  Optuna {label:5s} {found}", flush=True)
    print(json.dumps({"workers": workers, **result}))


if __name__ == "__main__":
    main()
