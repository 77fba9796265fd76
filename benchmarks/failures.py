"""How good is the best of 40 trials when some fail: at random, or in a region of the space.

A sphere in two dimensions, with the optimum of each seed at random. Trials fail with a probability
that has nothing to do with their configuration, or wherever the first parameter is lower than at
the optimum, which then lies on the border of what fails, or for both reasons. A failed trial
counts. Printed is the median of the best values, 0 being the optimum. Finished runs are kept, and
only missing ones are made.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from optuna.trial import TrialState

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.space.search_space import SearchSpace

N_TRIALS = 40
BOUND = 5.0
SPACE = SearchSpace.from_dict(
    {name: {"type": "float", "low": -BOUND, "high": BOUND} for name in ("x", "y")}
)


class Case(NamedTuple):
    """When a trial fails.

    Attributes:
        share: probability to fail, whatever the configuration.
        has_region: whether all trials fail where x is lower than at the optimum.
    """

    share: float
    has_region: bool = False


CASES = {
    "none": Case(0.0),
    "10 %": Case(0.1),
    "25 %": Case(0.25),
    "50 %": Case(0.5),
    "region": Case(0.0, has_region=True),
    "region, 25 %": Case(0.25, has_region=True),
}

SIDES: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "ours": lambda seed: BayesSampler(seed, SPACE),
    "optuna gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "optuna tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def run_one(side: str, case: str, seed: int) -> float | None:
    """Return the best value of one search; None where all trials failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    share, has_region = CASES[case]
    rng = np.random.default_rng([seed, 1])
    optimum = rng.uniform(-0.8 * BOUND, 0.8 * BOUND, size=2)
    is_unlucky = rng.random(N_TRIALS) < share

    study = optuna.create_study(sampler=SIDES[side](seed))
    for number in range(N_TRIALS):
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            configuration: dict[str, Any] = SPACE.suggest(trial)
        point = np.array([configuration["x"], configuration["y"]])
        if is_unlucky[number] or (has_region and point[0] < optimum[0]):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, float(((point - optimum) ** 2).sum()))

    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min((trial.value or 0.0 for trial in completed), default=None)


def main() -> None:
    """Run what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default="results/reference/failures", type=Path)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--again", action="store_true", help="forget the sides' earlier runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 seeds, ours and random")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.raw = Path("results/failures_quick")
        arguments.seeds, arguments.sides = 2, ["ours", "random"]

    rows: list[tuple[str, str, float]] = []
    for side in arguments.sides:
        file = arguments.raw / f"{side.replace(' ', '_')}.json"
        if arguments.again:
            file.unlink(missing_ok=True)
        wanted = {
            f"{case}#{seed}": (side, case, seed)
            for case in CASES
            for seed in range(arguments.seeds)
        }
        done = run_missing(file, wanted, run_one, arguments.jobs)
        for key, (_, case, _) in wanted.items():
            best = done[key]
            rows.append((side, case, float("inf") if best is None else best))

    frame = pd.DataFrame(rows, columns=["side", "case", "best"])
    medians = frame.groupby(["side", "case"]).best.median().unstack("case")
    medians = medians.reindex(index=arguments.sides, columns=list(CASES))
    print(f"median best of {N_TRIALS} trials, {arguments.seeds} seeds")
    print(medians.to_string(float_format="{:.5f}".format))
    print(json.dumps({str(side): row.round(6).to_dict() for side, row in medians.iterrows()}))


if __name__ == "__main__":
    main()
