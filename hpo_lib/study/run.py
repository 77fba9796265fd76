"""The loop that asks, sends out, records, stops and resumes; and the studies that it left behind.

The record is an Optuna study. One process, the driver, writes it and holds its lease.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.checks import check_name, check_whole
from hpo_lib.exceptions import StudyChangedError, StudyError
from hpo_lib.objective import Objective, Segment, as_objective
from hpo_lib.samplers.pruners import default_rungs, make_pruner
from hpo_lib.samplers.registry import make_sampler
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.checkpoints import (
    StudyFolder,
    checkpoints_beside,
    ensure_identity,
    study_identity,
)
from hpo_lib.study.driver import (
    Callback,
    Driver,
    StoppingRule,
    trial_seed,
)
from hpo_lib.study.settings import check_comparable, check_unchanged, study_settings, written
from hpo_lib.study.storage import (
    Storage,
    explained,
    fold_record,
    holding,
    lease_holder,
    open_storage,
    storage_file,
    storage_lock,
)
from hpo_lib.study.study_file import StudyFile, written_here
from hpo_lib.study.workers.base import Workers
from hpo_lib.study.workers.factory import make_workers
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    incumbent,
    own_trials,
    recorded_trials,
    running_best,
)


def run_study(
    objective: Objective | Callable[[Configuration], float],
    space: SearchSpace,
    strategy: str | BaseSampler = "bayes",
    n_trials: int = 20,
    *,
    name: str,
    storage: Storage | None = None,
    seed: int = 0,
    workers: int | str | Workers = 1,
    rungs: Sequence[int] = (),
    pruning: str | BasePruner | None = None,
    reduction_factor: int = 3,
    default_first: bool = True,
    warm_start_from: str | None = None,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    max_failures: int = 5,
    callback: Callback | None = None,
    stop: Sequence[StoppingRule] = (),
) -> optuna.Study:
    """Run a study to its budget, or go on with it where it stopped.

    Args:
        objective: what is minimised; a plain function of a configuration will do.
        space: the search space.
        strategy: a name out of `STRATEGIES`, or any Optuna sampler.
        n_trials: the budget; failed trials and the default configuration count. A finished
            study goes on when this is larger than before.
        name: the study's name; the same name with the same space and settings continues.
        storage: an SQLite file, an Optuna URL, a storage, or "memory"; default
            `results/studies.db`.
        seed: fixes the strategy's choices and, with the trial's number, each trial's training.
        workers: 0 runs in this process, N in N local processes, `tcp://host:port` on a running
            Dask cluster; or a `Workers` object.
        rungs: epochs at which a trial leaves a checkpoint from which it can go on, and may be
            stopped; with `pruning` and none given they are 1, 3, 9, … epochs below the budget.
        pruning: "asha" (successive halving), "hyperband" or "median" stop trials at rungs by what
            all trials had there; None or "none" stop none. One of Optuna's pruners will do, but
            those keep state, and resume is then not exact. A pruned trial counts as budget, never
            as incumbent. Only running trials keep checkpoints on disk, at most one per rung.
        reduction_factor: of the rungs, and of the trials that reach each next one.
        default_first: whether the space's default configuration is the first trial.
        warm_start_from: another study of the same storage and objective whose completed trials
            inside the space are copied in as evidence; they do not count as budget, and "bayes"
            trusts them as far as the study's own trials bear them out.
        time_limit: seconds per segment; in a new process its loading counts, too.
        memory_limit: bytes of resident memory per worker.
        max_failures: failed trials in a row after which the study stops.
        callback: called after each trial with the study and the trial; True ends the study.
        stop: rules that end the study before its budget (see `stopping`).

    Raises:
        StudyHeldError: another driver writes this study.
        StudyChangedError: the name is taken by a study with another space or settings.
        StudyStoppedError: `max_failures` trials failed in a row.
        StudyError: the record or a checkpoint cannot be read or written; the disk may be full.
        KeyboardInterrupt: after Ctrl-C, once what ran is finished and recorded; the second one at
            once. The same call goes on.
    """
    check_name(name)
    n_trials, seed = check_whole("n_trials", n_trials, 1), check_whole("seed", seed, 0)
    check_whole("max_failures", max_failures, 1)
    evaluated = as_objective(objective)
    pruning = None if pruning == "none" else pruning
    if pruning is not None and not rungs:
        rungs = default_rungs(evaluated.budget, reduction_factor)
    pruner = make_pruner(pruning, tuple(rungs), reduction_factor, seed)
    settings = study_settings(
        evaluated,
        strategy=written(strategy),
        seed=seed,
        rungs=list(rungs),
        default_first=default_first,
        warm_start_from=warm_start_from,
    )
    if pruning is not None:  # studies from before there was pruning have no such setting
        settings["pruning"] = written(pruning)
        settings["reduction_factor"] = reduction_factor
    _check_rungs(rungs, evaluated.budget, needed=pruning is not None)
    backend = open_storage(storage)
    sampler = make_sampler(strategy, space, seed, n_trials)
    with explained(storage):
        study = optuna.create_study(
            storage=backend, sampler=sampler, pruner=pruner, study_name=name, load_if_exists=True
        )
        check_unchanged(study, space, settings, evaluated)
    with holding(study, storage, backend) as lease:
        if study.user_attrs.get("n_trials") != n_trials:  # for those who watch
            study.set_user_attr("n_trials", n_trials)
        if "ready" not in study.user_attrs:
            _begin_study(study, backend, space, settings, evaluated, warm_start_from)
        driver = Driver(
            study=study,
            backend=backend,
            objective=evaluated,
            space=space,
            lease=lease,
            n_trials=n_trials,
            seed=seed,
            rungs=tuple(rungs),
            max_failures=max_failures,
            callback=callback,
            stop=stop,
        )
        if not driver.is_complete():
            file, identity = storage_file(storage), ensure_identity(study)
            with tempfile.TemporaryDirectory(prefix="hpo_lib_") as temporary:
                root = checkpoints_beside(file) if file else Path(temporary)
                pool = make_workers(workers, time_limit=time_limit, memory_limit=memory_limit)
                with written_here(backend, name):
                    folder = StudyFolder(root, name, identity)
                    driver.run(pool, folder, keep_workers=pool is workers)
    return study


def _check_rungs(rungs: Sequence[int], budget: int, *, needed: bool) -> None:
    if list(rungs) != sorted({rung for rung in rungs if 0 < rung < budget}):
        message = f"rungs must rise within 1 to {budget - 1} epochs, got {list(rungs)}"
        raise ValueError(message)
    if needed and not rungs:
        message = f"pruning needs a budget of at least 2 epochs, got {budget}"
        raise ValueError(message)


def _begin_study(
    study: optuna.Study,
    backend: BaseStorage,
    space: SearchSpace,
    settings: dict[str, Any],
    objective: Objective,
    warm_start_from: str | None,
) -> None:
    """Write what the study stands on; a driver killed in here begins again, without repeats."""
    # before the name is bound to these settings: it may be mistyped
    evidence: list[FrozenTrial] = []
    if warm_start_from is not None:
        evidence = _evidence(backend, warm_start_from, space, settings, objective)
    study.set_user_attr("space", space.to_yaml(comments=False))
    study.set_user_attr("settings", settings)
    trials = study.get_trials(deepcopy=False)
    if settings["default_first"] and not trials:
        default = space.default_configuration()
        searched = {p.name: default[p.name] for p in space.searched if p.name in default}
        study.enqueue_trial(searched)
    copied = {trial.user_attrs.get("evidence") for trial in trials}
    for trial in evidence:
        if trial.user_attrs["evidence"] not in copied:
            study.add_trial(trial)
    study.set_user_attr("ready", True)


def _evidence(
    backend: BaseStorage,
    name: str,
    space: SearchSpace,
    settings: dict[str, Any],
    objective: Objective,
) -> list[FrozenTrial]:
    earlier = open_study(name, backend)
    check_comparable(name, earlier.user_attrs.get("settings", {}), settings, objective)
    completed = earlier.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    inside = [trial for trial in completed if space.contains(trial.user_attrs["configuration"])]
    if completed and not inside:
        message = (
            f"warm_start_from={name!r} must have a trial inside the space, got {len(completed)} "
            "outside: where a parameter is new, its value in them is not known"
        )
        raise StudyChangedError(message)
    return [_as_evidence(trial, name, space) for trial in inside]


def _as_evidence(trial: FrozenTrial, name: str, space: SearchSpace) -> FrozenTrial:
    configuration = space.complete(trial.user_attrs["configuration"])
    distributions = space.distributions()
    params = {key: value for key, value in configuration.items() if key in distributions}
    source = trial.user_attrs.get("evidence", f"{name}#{trial.number}")
    return optuna.trial.create_trial(
        value=trial.value,
        params=params,
        distributions={key: distributions[key] for key in params},
        user_attrs={**trial.user_attrs, "configuration": configuration, "evidence": source},
        intermediate_values=trial.intermediate_values,
    )


def open_study(name: str, storage: Storage | None = None) -> optuna.Study:
    """Open a study to read it.

    Raises:
        StudyError: there is none of that name; the message lists those there are.
    """
    check_name(name)
    backend = open_storage(storage)
    with explained(storage):
        known = optuna.get_all_study_names(backend)
        if name not in known:
            message = f"no study {name!r} in {storage or 'default storage'}; there are: {known}"
            raise StudyError(message)
        study = optuna.load_study(study_name=name, storage=backend)
        if study.directions != [StudyDirection.MINIMIZE]:
            directions = [direction.name.lower() for direction in study.directions]
            message = f"study {name!r} must minimize one value to be read here, got {directions}"
            raise StudyError(message)
        return study


def delete_study(name: str, storage: Storage | None = None) -> None:
    """Delete a study and what its trials wrote into the study's own folder.

    Raises:
        StudyError: it is being written, or there is none of that name.
    """
    study = open_study(name, storage)
    backend = open_storage(storage)
    with explained(storage), storage_lock(storage):  # nobody takes the lease meanwhile
        holder = lease_holder(study)
        if holder is not None:
            message = f"study {name!r} is being written by {holder}: stop that first"
            raise StudyError(message)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
        identity = study_identity(study)
        optuna.delete_study(study_name=name, storage=backend)
    if isinstance(backend, StudyFile):
        fold_record(backend.watch)
    file = storage_file(storage)
    if file is not None and identity is not None:
        StudyFolder(checkpoints_beside(file), name, identity).remove(numbers)


def list_studies(storage: Storage | None = None) -> pd.DataFrame:
    """One row per study: its strategy, how many trials it has, its best value, who writes it."""
    backend = open_storage(storage)
    with explained(storage):
        names = optuna.get_all_study_names(backend)
        studies = [optuna.load_study(study_name=name, storage=backend) for name in names]
        rows = [_study_row(study) for study in studies]
    columns = ["name", "strategy", "trials", "completed", "pruned", "failed", "best"]
    return pd.DataFrame(rows, columns=[*columns, "stopped", "held_by"])


def _study_row(study: optuna.Study) -> list[Any]:
    trials = own_trials(study)
    record = StudyRecord.of(study)
    best = incumbent(trials) if study.directions == [StudyDirection.MINIMIZE] else None
    return [
        study.study_name,
        record.settings.get("strategy"),
        len(trials),
        sum(trial.is_completed for trial in trials),
        sum(trial.outcome == TrialOutcome.PRUNED for trial in trials),
        sum(trial.is_failed for trial in trials),
        math.nan if best is None else best.value,
        record.stopped,
        lease_holder(study),
    ]


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """One row per trial, its record first, then one column per hyperparameter.

    `value` is that of a whole training alone, NaN for failed and pruned trials; `best` is the
    incumbent's after the trial; `seconds` are those of training. `warm_start` names the trial of
    another study that a row was copied from; such rows count neither as budget nor in `best`.
    """
    rows = [
        {
            "number": trial.number,
            "state": _STATES.get(trial.outcome, "fail"),
            "status": trial.record.status,
            "value": math.nan if trial.value is None else trial.value,
            "best": math.nan,
            "seconds": trial.training_seconds,
            **{key: getattr(trial.record, key) for key in _COLUMNS},
            **_free_names(trial.configuration),
        }
        for trial in recorded_trials(study)
        if trial.outcome != TrialOutcome.WAITING
    ]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=_RECORD)
    frame["best"] = running_best(frame["value"].where(frame["warm_start"].isna()))
    return frame


_COLUMNS = ("suggest_seconds", "started", "finished", "reason", "worker", "warm_start")
_STATES = {
    TrialOutcome.RUNNING: "running",
    TrialOutcome.COMPLETED: "complete",
    TrialOutcome.PRUNED: "pruned",
}
_RECORD = ["number", "state", "status", "value", "best", "seconds", *_COLUMNS]


def _free_names(configuration: Configuration) -> Configuration:
    """A hyperparameter called like a column of the record becomes `param_<name>`."""
    return {f"param_{k}" if k in _RECORD else k: v for k, v in configuration.items()}


class CostEstimate(NamedTuple):
    """Seconds that a study will take, from `n` measured configurations."""

    seconds: float
    lowest: float
    highest: float
    n: int


def estimate_cost(
    objective: Objective | Callable[[Configuration], float],
    space: SearchSpace,
    n_trials: int,
    *,
    workers: int = 1,
    n_samples: int = 3,
    seed: int = 0,
) -> CostEstimate:
    """Train the default and a few drawn configurations for one epoch each, and multiply.

    `lowest` and `highest` are what the study would take if every trial cost as the cheapest or
    the dearest of them. Deciding is not counted.
    """
    evaluated = as_objective(objective)
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng, prior_seed=seed) for _ in range(n_samples - 1)]
    costs: list[float] = []
    with tempfile.TemporaryDirectory(prefix="hpo_lib_") as folder:
        segment = Segment(trial_seed(seed, 0), 0, 1, evaluated.budget, None, folder)
        # the first epoch of a process pays for loading the data and warming up
        for configuration in [space.default_configuration()] * 2 + drawn:
            began = time.perf_counter()
            result = evaluated(configuration, segment)
            # a training that diverged has no epochs, but took its time
            seconds = sum(result.seconds) or time.perf_counter() - began
            costs.append(seconds * evaluated.budget)
    trials = math.ceil(n_trials / max(workers, 1))
    costs = costs[1:]
    mean = sum(costs) / len(costs)
    return CostEstimate(mean * trials, min(costs) * trials, max(costs) * trials, len(costs))


def print_progress(study: optuna.Study, trial: FrozenTrial) -> None:
    """A callback that prints one line per trial."""
    best = incumbent(study)
    best_value = math.nan if best is None else best.value
    recorded = RecordedTrial.from_trial(trial)
    ended = recorded.record.reason if recorded.value is None else f"error {recorded.value:.4f}"
    seconds = recorded.training_seconds
    print(f"trial {trial.number:3d}  {ended}  best {best_value:.4f}  {seconds:.1f} s", flush=True)
