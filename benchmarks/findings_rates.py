"""How often a finding says PASS or WARN where the simulated truth is another.

Each study has its own truth: whether tuned and default differ on test images, whether the optimum
lies beyond an edge, whether the first rung ranks trials as the end does, whether values can be
predicted at all, whether trials fail. Studies alternate between random and Bayesian search and
train nothing. A status is false where the truth excludes it; the rate is over the studies in which
it is excluded. The first sentence is measured again on many more final trainings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from _kept import run_missing
from optuna.trial import TrialState
from scipy import stats

from hpo_lib.assessment.finding import Status
from hpo_lib.assessment.luck import TOLERATED
from hpo_lib.assessment.run import findings
from hpo_lib.assessment.worth import final_gain
from hpo_lib.samplers.registry import make_sampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import RecordedTrial, recorded_trials, sort_by_value

SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.001}
width: {type: int, low: 4, high: 64, default: 16}
dropout: {type: float, low: 0.1, high: 0.6, default: 0.3}
activation: {type: choice, options: [relu, elu, tanh], default: tanh}
"""
)
N_TRIALS = 30
RUNGS = (3, 9)
NOISE = 0.004
N_TEST = 2000
FACTORS = ("differs", "edge", "ranks", "predictable", "fails", "pruned")


class Toy:
    """Error that depends on lr, width and activation, and not on dropout; or on nothing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.truth = {name: bool(rng.integers(2)) for name in FACTORS}
        inside = rng.uniform(0.25, 0.75, 2)
        self.lr, self.width = (1.2 if self.truth["edge"] else inside[0]), inside[1]
        self.rng = rng

    def mean(self, configuration: Configuration) -> float:
        """Return the error without noise."""
        if not self.truth["predictable"]:
            return 0.15
        lr = np.log10(float(configuration["lr"]) / 1e-4) / 3
        width = (float(configuration["width"]) - 4) / 60
        penalty = {"relu": 0.0, "elu": 0.01, "tanh": 0.02}[str(configuration["activation"])]
        return 0.05 + 0.25 * (lr - self.lr) ** 2 + 0.08 * (width - self.width) ** 2 + penalty

    @property
    def noise(self) -> float:
        """Return the standard deviation of a training."""
        return NOISE if self.truth["predictable"] else 0.03

    def draw(self, configuration: Configuration) -> float:
        """Return the error of one training."""
        return self.mean(configuration) + self.noise * float(self.rng.normal())

    def optimum(self) -> float:
        """Return the lowest error without noise in the space."""
        best = {
            "lr": 1e-4 * 10 ** (3 * min(self.lr, 1.0)),
            "width": 4 + 60 * self.width,
            "activation": "relu",
        }
        return self.mean(best)


def search(toy: Toy, strategy: str, seed: int) -> optuna.Study:
    """Search as `run_study` does, with rungs and failures if the truth has them."""
    study = optuna.create_study(sampler=make_sampler(strategy, SPACE, seed, N_TRIALS))
    study.enqueue_trial(SPACE.default_configuration())
    at_rung: list[float] = []
    for number in range(N_TRIALS):
        trial = study.ask()
        configuration = SPACE.suggest(trial)
        if toy.truth["fails"] and toy.rng.random() < 0.15 and number:
            study.tell(trial, state=TrialState.FAIL)
            continue
        value = toy.draw(configuration)
        if toy.truth["pruned"]:
            related = value if toy.truth["ranks"] else 0.1
            early = 0.2 + related + 0.01 * float(toy.rng.normal())
            trial.report(early, RUNGS[0])
            at_rung.append(early)
            if len(at_rung) > 4 and early > np.median(at_rung):
                study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.report(value, RUNGS[1])
        study.tell(trial, value)
    return study


def train_final(rng: np.random.Generator, n_seeds: int, gain: float) -> pd.DataFrame:
    """Draw final trainings: images differ in difficulty, for each configuration differently."""
    scale = np.sqrt(1 + 1.5 + 0.3)
    difficulty = np.sqrt(1.5) * rng.normal(size=N_TEST)
    rows: list[dict[str, Any]] = []
    for name, error in (("default", 0.1), ("tuned", 0.1 - gain)):
        own = np.sqrt(0.3) * rng.normal(size=N_TEST)
        for seed in range(n_seeds):
            level = scale * stats.norm.ppf(error) + 0.03 * rng.normal()
            wrong = level + difficulty + own + rng.normal(size=N_TEST) > 0
            measured = {"validation_error": error, "test_error": wrong.mean(), "n_test": N_TEST}
            rows.append({"configuration": name, "seed": seed, "epochs": 9, **measured})
    return pd.DataFrame(rows).assign(seconds=9.0)


def retrain(toy: Toy, best: RecordedTrial, default: RecordedTrial) -> pd.DataFrame:
    """Train both configurations three times, as `retrained_frame` has it."""
    rows: list[dict[str, Any]] = []
    for trial in [best] if best == default else [best, default]:
        values = np.array([toy.draw(trial.configuration) for _ in range(3)])
        measured = {
            "trial": trial.number,
            "n": 3,
            "mean": values.mean(),
            "optimism": values.mean() - trial.value,
            "standard_error": values.std(ddof=1) / np.sqrt(3),
        }
        rows.append({**measured, "is_default": trial == default, "values": tuple(values)})
    return pd.DataFrame(rows)


def comparison(rng: np.random.Generator, shift: float) -> pd.DataFrame:
    """Draw final values of three strategies, the first of them better by `shift`."""
    rows = [
        {"strategy": name, "seed": seed, "trial": 1, "best": rng.normal() + shift * (name == "a")}
        for name in ("a", "b", "c")
        for seed in range(12)
    ]
    return pd.DataFrame(rows).assign(value=0.0, seconds=1.0, suggest_seconds=0.0)


def judge(number: int) -> dict[str, Any]:
    """Return by topic the status that was given, and which of PASS and WARN would be true."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng([number, 7])
    toy = Toy(rng)
    study = search(toy, ("random", "bayes")[number % 2], number)
    default = recorded_trials(study)[0]
    best = sort_by_value(recorded_trials(study))[0]
    best_value = float(best.value or 0.0)
    final = train_final(rng, 5, 0.02 if toy.truth["differs"] else 0.0)
    strategies = comparison(rng, -1.5 if toy.truth["differs"] else 0.0)
    found = findings(
        study,
        space=SPACE,
        final=final,
        comparison=strategies,
        retrained=retrain(toy, best, default),
    )

    # What is left to gain, in units of the spread of values, and how lucky the best value was, in
    # units of its distance from the default.
    finals = [trial.value for trial in study.trials if trial.value is not None]
    spread = float(np.quantile(finals, 0.75)) - best_value
    left = (toy.mean(best.configuration) - toy.optimum()) / spread
    luck = toy.mean(best.configuration) - best_value
    default_values = default.configuration
    gain = toy.mean(default_values) - best_value
    has_failed = any(trial.state == TrialState.FAIL for trial in study.trials)
    truth, is_real = toy.truth, toy.truth["predictable"]
    allowed = {
        "Was it worth it?": (truth["differs"], False),
        "What was found?": (is_real, toy.mean(best.configuration) >= toy.mean(default_values)),
        "Was the best value luck?": (luck <= TOLERATED * gain, luck > 0),
        "Is the best at an edge?": (not (is_real and truth["edge"]), is_real and truth["edge"]),
        "Has the search flattened?": (left <= 0.1, is_real and left > 0.02),
        "Does the surrogate predict?": (is_real, not is_real),
        "Do the rungs rank as the end does?": (truth["ranks"], not truth["ranks"]),
        "Which strategies differ?": (truth["differs"], False),
        "What went wrong?": (not has_failed, has_failed),
    }
    judged = {one.topic: [one.status.value, *map(bool, allowed[one.topic])] for one in found}
    needed = found[1].figures.get("needed", [])
    return {"judged": judged, "names_irrelevant": "dropout" in needed if needed else None}


def worth_rates(n: int) -> dict[str, Any]:
    """Count verdicts of many final trainings, by seeds and true gain."""
    rng = np.random.default_rng(0)
    counts: dict[str, Any] = {}
    for n_seeds in (3, 5):
        for gain in (0.0, 0.02):
            gains = [final_gain(train_final(rng, n_seeds, gain)) for _ in range(n)]
            passed = sum(one.low > 0 for one in gains)
            warned = sum(one.high < 0 for one in gains)
            counts[f"{n_seeds} seeds, gain {gain:g}"] = {"PASS": passed, "WARN": warned, "n": n}
    return counts


def rate(count: int, n: int) -> str:
    """Return a share with its 95 % interval (Wilson)."""
    if not n:
        return f"{'-':>26}"
    low, high = stats.binomtest(count, n).proportion_ci(method="wilson")
    text = f"{count}/{n} {count / n:.1%} ({low:.1%} to {high:.1%})"
    return f"{text:>26}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", default="results/reference/findings_rates.json", type=Path)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--finals", type=int, default=1000, help="of each kind")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget earlier runs")
    parser.add_argument("--quick", action="store_true", help="8 studies")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.raw = Path("results/findings_rates_quick.json")
        chosen.studies, chosen.finals = 8, 50
    if chosen.again:
        chosen.raw.unlink(missing_ok=True)

    wanted = {f"{number:04d}": (number,) for number in range(chosen.studies)}
    done = run_missing(chosen.raw, wanted, judge, chosen.jobs)
    studies = [done[key] for key in wanted]
    topics = dict.fromkeys(topic for study in studies for topic in study["judged"])
    table: dict[str, Any] = {}
    print(f"{'false':35}{'PASS':>30}{'WARN':>30}{'PASS where true':>30}{'WARN where true':>30}")
    for topic in topics:
        rows = [study["judged"][topic] for study in studies if topic in study["judged"]]
        table[topic] = {}
        for kind, position in (("PASS", 1), ("WARN", 2)):
            for truth in (False, True):
                given = [row[0] == Status(kind).value for row in rows if row[position] is truth]
                table[topic][f"{kind} {'true' if truth else 'false'}"] = [sum(given), len(given)]
        order = ("PASS false", "WARN false", "PASS true", "WARN true")
        cells = [f"{rate(*table[topic][kind]):>30}" for kind in order]
        print(f"{topic:35}{''.join(cells)}")

    named = [study["names_irrelevant"] for study in studies]
    named = [one for one in named if one is not None]
    print(f"an irrelevant hyperparameter is said to matter: {rate(sum(named), len(named))}")
    worth = worth_rates(chosen.finals)
    for case, counts in worth.items():
        passed, warned = (rate(counts[kind], counts["n"]) for kind in ("PASS", "WARN"))
        print(f"worth it, {case:22} PASS {passed}   WARN {warned}")
    figures = {"studies": len(studies), "topics": table, "worth": worth}
    print(json.dumps({**figures, "names_irrelevant": [sum(named), len(named)]}))


if __name__ == "__main__":
    main()
