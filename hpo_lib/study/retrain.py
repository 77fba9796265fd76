"""Train the best configurations of a study again, with fresh seeds.

The lowest of many noisy values is low by choice, so it is optimistic about its configuration (the
"winner's curse"). Fresh trainings of the `k` best configurations have no such bias: nobody chose
them for their values. The default configuration is trained along with them, as the gain is
measured from it, and its one value in the search is as noisy as any other. They are a study of
their own beside the search, `<name> finalists`, so they are recorded, resumed and run on workers
as every study is; the search's record is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import optuna
import pandas as pd
from scipy import stats

from hpo_lib.checks import check_whole
from hpo_lib.formatting import format_number, format_uncertain
from hpo_lib.loop import as_objective
from hpo_lib.objective import Objective
from hpo_lib.samplers.simple import SpaceSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import open_study
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from hpo_lib.study.settings import check_comparable, study_settings
from hpo_lib.study.storage import Storage, read_storage
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    own_trials,
    recorded_trials,
    sort_by_value,
    study_space,
)

_COLUMNS = (
    *("trial", "search_value", "mean", "standard_error", "n", "optimism"),
    *("is_default", "values"),
)
_LEVEL = 0.05


def retrain_top_k(
    objective: Objective | Callable[[Configuration], float],
    name: str,
    k: int = 3,
    n_seeds: int = 3,
    *,
    storage: Storage | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train the `k` best configurations of a study and the default, with fresh seeds.

    The default is trained where it is a trial of the study. Candidates are the study's own trials
    that ran to their full budget, never pruned ones. Called again with more seeds, a larger `k` or
    after the search went on, only what is missing is trained.

    Args:
        objective: the one of the search; another has values that do not compare.
        name: name of the study, which has to be in `storage`.
        k: number of configurations beside the default; fewer if the study has fewer.
        n_seeds: trainings of each; a failed one counts.
        storage: as in `run_study`.
        **options: of `run_study`: `workers`, `time_limit`, `memory_limit`, `max_failures`,
            `callback`.

    Returns:
        `retrained_frame` of the study.

    Raises:
        StudyError: there is no such study, or run_study did not make it.
        StudyChangedError: the objective or its budget is not the search's.
        ValueError: no trial ran to its end, or `k` or `n_seeds` is below 1.

    Example:
        >>> import optuna
        >>> from hpo_lib import SearchSpace, run_study
        >>> from hpo_lib.study.retrain import retrain_top_k
        >>> def cost(configuration):
        ...     return (configuration["x"] - 0.3) ** 2
        >>> space = SearchSpace.from_dict({"x": {"type": "float", "low": 0.0, "high": 1.0}})
        >>> storage = optuna.storages.InMemoryStorage()
        >>> study = run_study(cost, space, "random", 5, name="demo", storage=storage, workers=0)
        >>> frame = retrain_top_k(cost, "demo", k=2, n_seeds=3, storage=storage, workers=0)
        >>> frame["n"].tolist()
        [3, 3]
    """
    check_whole("k", k, 1)
    check_whole("n_seeds", n_seeds, 1)
    search = open_study(name, storage)
    space = study_space(search)
    settings = StudyRecord.of(search).settings
    evaluated = as_objective(objective)
    check_comparable(name, settings, study_settings(evaluated), evaluated)

    ranked = _rank_configurations(search)
    default = [trial for trial in ranked[k:] if _is_default(trial, space)]
    sampler = _Repeats(space, [trial.configuration for trial in ranked[:k] + default])
    recorded = _retrained_trials(name, storage)
    missing = [max(0, n_seeds - count) for count in sampler.count(recorded)]
    run_study(
        evaluated,
        space,
        sampler,
        len(recorded) + sum(missing),
        name=_study_name(name),
        storage=storage,
        # no seed of the search: it has one per trial number, counted from 0
        seed=trial_seed(settings["seed"], 2**32 - 1),
        default_first=False,
        change_space=True,  # that of the search may have changed meanwhile
        **options,
    )
    return retrained_frame(name, storage)


def retrained_frame(name: str, storage: Storage | None = None) -> pd.DataFrame:
    """Return one row per configuration that was trained again, the best mean first.

    Args:
        name: name of the study that was searched.
        storage: as in `run_study`.

    Returns:
        Columns `trial`, its number in the search; `search_value`, its value there; `mean` and
        `standard_error` of the `n` fresh values (NaN where there are too few); `optimism` = mean -
        search_value, positive where the search's value was too good; `is_default`; `values`, the
        fresh ones; then one column per hyperparameter, named `param_<name>`.

    Raises:
        StudyError: there is no such study, or run_study did not make it.
        ValueError: no trial ran to its end.
    """
    search = open_study(name, storage)
    candidates = _rank_configurations(search)
    space = study_space(search)
    retrained = _retrained_trials(name, storage)

    rows: list[dict[str, Any]] = []
    for trial in candidates:
        repeats = [t.value for t in retrained if t.configuration == trial.configuration]
        if not repeats:
            continue
        values = pd.Series(repeats, dtype=float)  # NaN for failed ones
        mean = values.mean()
        measured = {
            "trial": trial.number,
            "search_value": trial.value,
            "mean": mean,
            "standard_error": values.sem(),
            "n": values.count(),
            "optimism": mean - trial.final_value,
            "is_default": _is_default(trial, space),
            "values": tuple(values.dropna()),
        }
        parameters = {f"param_{key}": value for key, value in trial.configuration.items()}
        rows.append({**measured, **parameters})

    frame = pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))
    return frame.sort_values("mean", kind="stable", na_position="last", ignore_index=True)


def best_configuration(name: str, storage: Storage | None = None) -> Configuration:
    """Return the configuration with the best mean of fresh trainings, else that of the best trial.

    Args:
        name: name of the study that was searched.
        storage: as in `run_study`.
    """
    rows = _measured_rows(retrained_frame(name, storage))
    search = open_study(name, storage)
    if rows:
        return recorded_trials(search)[rows[0]["trial"]].configuration
    return _rank_configurations(search)[0].configuration


def with_retrained(
    trials: Sequence[RecordedTrial],
    frame: pd.DataFrame | None,
) -> list[RecordedTrial]:
    """Return trials of a search, and one more for each fresh training, for a model of both.

    Args:
        trials: all trials of the search.
        frame: as `retrained_frame` returns it; None where nothing was trained again.
    """
    together = list(trials)
    if frame is None or "values" not in frame:
        return together

    by_number = {trial.number: trial for trial in trials}
    for number, values in zip(frame["trial"], frame["values"], strict=True):
        for value in values:
            fresh = replace(by_number[number], value=value)
            together.append(fresh)
    return together


def half_width(standard_error: float, n: int) -> float:
    """Return half the width of the 95 % interval of a mean, by Student's distribution.

    Args:
        standard_error: of the mean.
        n: number of values, at least 2.
    """
    return float(stats.t.ppf(0.975, n - 1)) * standard_error


def describe_retrained(frame: pd.DataFrame) -> str:
    """Say how optimistic the search's best value was, and which configuration is best.

    Args:
        frame: as `retrained_frame` returns it.
    """
    rows = _measured_rows(frame)
    if not rows:
        return "no configuration has a fresh training"

    candidates = [row for row in rows if not row["is_default"]] or rows
    searched = min(candidates, key=lambda row: row["search_value"])
    n = len(candidates)
    average = sum(row["optimism"] for row in candidates) / n
    lines = [
        f"best value in the search: {format_number(searched['search_value'])} (trial "
        f"{searched['trial']}); trained again: {_format_mean(searched)}",
        f"mean of all {n} configurations that were trained again: {_format_change(average)}",
        f"best by mean: trial {rows[0]['trial']} with {_format_mean(rows[0])}",
    ]
    for row in rows:
        if row["is_default"]:
            lines.append(f"default: {_format_mean(row)}")
    if n > 1:
        lines.append(_describe_order(candidates))
    return "\n".join(lines)


def _describe_order(rows: list[dict[str, Any]]) -> str:
    """Say whether some configurations differ by more than their seeds (analysis of variance)."""
    values = [row["values"] for row in rows]
    p = float(stats.f_oneway(*values).pvalue)
    best = f"the best {len(rows)}"
    if p < _LEVEL:
        return f"{best} differ by more than their seeds do (p = {p:.2g})"
    return f"{best} differ by no more than their seeds do: their order may be luck"


def _measured_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with a fresh value, the best mean first."""
    rows = cast("list[dict[str, Any]]", frame.to_dict("records"))
    return [row for row in rows if row["n"] > 0]


def _format_mean(row: dict[str, Any]) -> str:
    if row["n"] < 2:
        return f"{format_number(row['mean'])} (n = 1)"
    mean = format_uncertain(row["mean"], half_width(row["standard_error"], row["n"]))
    return f"{mean} (95 %, n = {row['n']})"


def _format_change(optimism: float) -> str:
    """Say how a mean of fresh trainings differs from the value in the search."""
    if optimism > 0:
        return f"{optimism:.1g} higher than in the search, which was partly luck"
    return f"{abs(optimism):.1g} lower than in the search: no sign of luck"


class _Repeats(SpaceSampler):
    """Chooses the configuration with the fewest trainings so far, the best ranked of equals.

    The name of this class stands in the records of these studies.
    """

    def __init__(self, space: SearchSpace, configurations: list[Configuration]) -> None:
        super().__init__(space, seed=0)
        self.configurations = configurations

    def count(self, trials: Sequence[RecordedTrial]) -> list[int]:
        """Return how many of the trials each configuration has."""
        trained = [trial.configuration for trial in trials]
        return [trained.count(configuration) for configuration in self.configurations]

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        counts = self.count([trial for trial in own_trials(study) if trial.number < number])
        return self.configurations[counts.index(min(counts))]


def _study_name(name: str) -> str:
    return f"{name} finalists"


def _retrained_trials(name: str, storage: Storage | None) -> list[RecordedTrial]:
    if _study_name(name) not in optuna.get_all_study_names(read_storage(storage)):
        return []
    return own_trials(open_study(_study_name(name), storage))


def _is_default(trial: RecordedTrial, space: SearchSpace) -> bool:
    return trial.configuration == space.default_configuration()


def _rank_configurations(search: optuna.Study) -> list[RecordedTrial]:
    """Return the best trial of each configuration, the lowest value first."""
    study_space(search)  # a study that run_study did not make has no configurations
    ranked: list[RecordedTrial] = []
    for trial in sort_by_value(recorded_trials(search)):
        if all(trial.configuration != better.configuration for better in ranked):
            ranked.append(trial)
    if not ranked:
        message = f"study {search.study_name!r} has no trial that ran to its end"
        raise ValueError(message)
    return ranked
