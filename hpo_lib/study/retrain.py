"""The best trials of a study, trained again: the best of many noisy values was partly lucky.

The lowest of many noisy values is low by choice, so it flatters its configuration (the "winner's
curse"). Fresh trainings of the `k` best are free of that: nobody chose them for their values.
They are a study of their own beside the search, `<name> finalists`, so they are recorded,
resumed and run on workers as every study is; the search's record is only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd

from hpo_lib.checks import check_whole
from hpo_lib.objective import Objective, as_objective
from hpo_lib.samplers.simple import SpaceSampler
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.catalog import open_study
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from hpo_lib.study.settings import check_comparable, study_settings
from hpo_lib.study.storage import Storage, open_storage
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    own_trials,
    recorded_trials,
    sort_by_value,
    study_space,
)


def retrain_best(
    objective: Objective | Callable[[Configuration], float],
    name: str,
    k: int = 3,
    n_seeds: int = 3,
    *,
    storage: Storage | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train the `k` best configurations of study `name` with `n_seeds` fresh seeds each.

    Only trials that ran to their full budget stand for election, pruned ones never. Called again
    with more seeds, a larger `k` or after the search went on, only what is missing is trained.

    Args:
        objective: the one of the search; another has values that do not compare.
        name: of the study, which has to be in `storage`.
        k: how many configurations; fewer if the study has fewer.
        n_seeds: trainings of each; a failed one counts.
        storage: as in `run_study`.
        **options: of `run_study`: `workers`, `time_limit`, `memory_limit`, `max_failures`,
            `callback`.

    Returns:
        `finalists_frame` of the study.

    Raises:
        StudyError: there is no such study, or run_study did not make it.
        StudyChangedError: the objective or its budget is not the search's.
        ValueError: no trial ran to its end, or `k` or `n_seeds` is below 1.
    """
    check_whole("k", k, 1)
    check_whole("n_seeds", n_seeds, 1)
    search = open_study(name, storage)
    space, settings = study_space(search), StudyRecord.of(search).settings
    evaluated = as_objective(objective)
    check_comparable(name, settings, study_settings(evaluated), evaluated)
    sampler = _Repeats(space, [trial.configuration for trial in _best(search, k)])
    again = _retrained(name, storage)
    recorded = [] if again is None else own_trials(again)
    n_trials = len(recorded) + sum(max(0, n_seeds - count) for count in sampler.counts(recorded))
    run_study(
        evaluated,
        space,
        sampler,
        n_trials,
        name=_name(name),
        storage=storage,
        # no seed of the search: it has one per trial number, counted from 0
        seed=trial_seed(settings["seed"], 2**32 - 1),
        default_first=False,
        **options,
    )
    return finalists_frame(name, storage)


def finalists_frame(name: str, storage: Storage | None = None) -> pd.DataFrame:
    """One row per configuration that was trained again, the best mean first.

    `first` is the value of `trial` in the search; `mean` and `standard_error` are of the `n`
    fresh ones (NaN where there are too few); `flattered_by` = mean - first, positive where the
    first value was too good. A column per hyperparameter follows, named `param_<name>`.
    """
    search, again = open_study(name, storage), _retrained(name, storage)
    recorded = [] if again is None else own_trials(again)
    rows: list[dict[str, Any]] = []
    for trial in _best(search, None):
        configuration = trial.configuration
        mine = [t for t in recorded if t.configuration == configuration]
        values = [t.value for t in mine if t.value is not None]
        if mine:
            n, mean = len(values), float(np.mean(values)) if values else math.nan
            error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
            record = dict(zip(_COLUMNS, (trial.number, trial.value, mean, error), strict=True))
            record |= {"n": n, "flattered_by": mean - cast("float", trial.value)}
            rows.append(record | {f"param_{key}": v for key, v in configuration.items()})
    frame = pd.DataFrame(rows, columns=None if rows else [*_COLUMNS, "n", "flattered_by"])
    return frame.sort_values("mean", kind="stable", na_position="last", ignore_index=True)


_COLUMNS = ("trial", "first", "mean", "standard_error")


def best_configuration(name: str, storage: Storage | None = None) -> Configuration:
    """The configuration to go on with: the best mean of fresh trainings, else the best trial."""
    search = open_study(name, storage)
    fresh = [row for row in _rows(finalists_frame(name, storage)) if row["n"]]
    best = recorded_trials(search)[fresh[0]["trial"]] if fresh else _best(search, 1)[0]
    return best.configuration


def describe_finalists(frame: pd.DataFrame) -> str:
    """Say how much the search's best value had flattered, and which configuration is best."""
    fresh = [row for row in _rows(frame) if row["n"]]
    if not fresh:
        return "no configuration has a fresh training"
    lucky = min(fresh, key=lambda row: row["first"])
    average = sum(row["flattered_by"] for row in fresh) / len(fresh)
    return (
        f"the search's best value was {lucky['first']:.4g} (trial {lucky['trial']}); trained "
        f"again it is {_mean(lucky)} (n = {lucky['n']}): the first value flattered by "
        f"{lucky['flattered_by']:.2g}, those of all {len(fresh)} finalists by {average:.2g} on "
        f"average; best by mean is trial {fresh[0]['trial']} with {_mean(fresh[0])}"
    )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", frame.to_dict("records"))


def _mean(row: dict[str, Any]) -> str:
    spread = f" ± {row['standard_error']:.2g}" if row["n"] > 1 else ""
    return f"{row['mean']:.4g}{spread}"


class _Repeats(SpaceSampler):
    """The finalist with the fewest trials so far; of several, the one whose value was best."""

    def __init__(self, space: SearchSpace, finalists: list[Configuration]) -> None:
        super().__init__(space, seed=0)
        self.finalists = finalists

    def counts(self, trials: list[RecordedTrial]) -> list[int]:
        """How many trials each finalist has."""
        found = [trial.configuration for trial in trials]
        return [found.count(configuration) for configuration in self.finalists]

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        counts = self.counts([t for t in own_trials(study) if t.number < number])
        return self.finalists[counts.index(min(counts))]


def _name(name: str) -> str:
    return f"{name} finalists"


def _retrained(name: str, storage: Storage | None) -> optuna.Study | None:
    known = optuna.get_all_study_names(open_storage(storage))
    return open_study(_name(name), storage) if _name(name) in known else None


def _best(search: optuna.Study, k: int | None) -> list[RecordedTrial]:
    """The trials of the `k` best configurations; of a repeated one, the best of its trials."""
    study_space(search)  # a study that run_study did not make has no configurations
    found: list[RecordedTrial] = []
    for trial in sort_by_value(recorded_trials(search)):
        if all(trial.configuration != earlier.configuration for earlier in found):
            found.append(trial)
    if not found:
        message = f"study {search.study_name!r} has no trial that ran to its end"
        raise ValueError(message)
    return found[:k]
