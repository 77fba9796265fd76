"""Run a study to its budget, or go on with it where it stopped.

The record is an Optuna study. One process, the driver, writes it and holds its lease.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial
from scipy.stats import t as student

from hpo_lib.checks import check_name, check_whole
from hpo_lib.formatting import format_number
from hpo_lib.loop import as_objective
from hpo_lib.objective import Objective, Segment
from hpo_lib.progress import Progress
from hpo_lib.samplers.pruners import make_pruner
from hpo_lib.samplers.registry import make_sampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import find_study, open_study
from hpo_lib.study.checkpoints import (
    StudyFolder,
    checkpoints_beside,
    ensure_identity,
    temporary_checkpoints,
    tidy,
)
from hpo_lib.study.driver import Callback, Driver, StoppingRule, is_complete, trial_seed
from hpo_lib.study.lease import Lease, hold_lease
from hpo_lib.study.settings import (
    begin_study,
    check_unchanged,
    strategy_settings,
    study_settings,
    usual_rungs,
)
from hpo_lib.study.single_writer import SingleWriterStorage
from hpo_lib.study.steering import versions
from hpo_lib.study.steering.versions import check_newest, open_or_create
from hpo_lib.study.storage import (
    Storage,
    is_read_only,
    open_storage,
    storage_file,
    translate_storage_errors,
)
from hpo_lib.study.workers.base import Workers
from hpo_lib.study.workers.factory import check_sendable, make_workers
from hpo_lib.trials import StudyRecord, incumbent, own_trials, study_name, study_space


def run_study(  # noqa: PLR0913 each is a choice of its own
    objective: Objective | Callable[..., Any],
    space: SearchSpace,
    strategy: str | BaseSampler = "bayes",
    n_trials: int = 20,
    *,
    name: str,
    storage: Storage | None = None,
    seed: int = 0,
    workers: int | str | Workers = 1,
    budget: int | None = None,
    rungs: Sequence[int] = (),
    pruning: str | BasePruner | None = None,
    reduction_factor: int = 3,
    default_first: bool = True,
    warm_start_from: str | None = None,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    max_failures: int = 5,
    checkpoint_quota: int = 200_000_000,
    callback: Callback | Sequence[Callback] | None = None,
    stop: StoppingRule | Sequence[StoppingRule] = (),
    progress: bool = True,
    change_space: bool = False,
) -> optuna.Study:
    """Run a study to its budget, or go on with it where it stopped.

    Args:
        objective: what is minimised; a plain function of a configuration that returns a number
            will do, or a training loop: a generator function that yields the validation error
            after each epoch (`LoopObjective`). A study goes on with an objective of the same
            content, or of the same attribute `version` if it has one.
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
        budget: epochs of a trial that runs to its end, for a training loop; other objectives have
            their own.
        rungs: epochs at which a trial leaves a checkpoint from which it can go on, and may be
            stopped; with `pruning` and none given an eighth, a quarter and half of the budget,
            with "hyperband" and Optuna's pruners 1, 3, 9, … epochs; or those recorded before.
        pruning: "asha" (successive halving), "hyperband" or "median" stop trials at rungs by what
            all trials had there; None or "none" stop none. One of Optuna's pruners will do, but
            those keep state, and resume is then not exact. A pruned trial counts as budget, never
            as incumbent. Checkpoints on disk are those of running trials, at most one per rung,
            and of pruned ones within `checkpoint_quota`.
        reduction_factor: η of successive halving: one of so many trials at a rung goes on.
        default_first: whether the space's default configuration is the first trial.
        warm_start_from: another study of the same storage and objective whose completed trials
            inside the space are copied as warm-start trials; they do not count as budget, and
            "bayes" learns how they correlate with the study's own trials.
        time_limit: seconds per segment; in a new process its loading counts, too.
        memory_limit: bytes of resident memory per worker.
        max_failures: failed trials in a row after which the study stops.
        checkpoint_quota: bytes that checkpoints of pruned trials may take, so that `promote` can
            go on from there; the worst trials' go first. With 0 none are kept.
        callback: called after each trial with the study and the trial, one or several; True ends
            the study. Optuna's callbacks for MLflow, Weights & Biases and others will do.
        stop: rules that end the study before its budget, one or several (see `stopping`).
        progress: show a bar with the incumbent and the time left; in a log, a line now and then.
        change_space: whether a study that was recorded with another space goes on in this one:
            see the function `change_space`.

    Raises:
        TypeError: the objective, or something that it holds, cannot go to worker processes.
        StudyHeldError: another driver writes this study.
        StudyChangedError: the name is taken by a study with another space or settings.
        StudyStoppedError: `max_failures` trials failed in a row.
        StudyError: the record or a checkpoint cannot be read or written; the disk may be full.
        KeyboardInterrupt: after Ctrl-C, once what ran is finished and recorded; the second one at
            once. The same call goes on.

    Example:
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0, high: 1, default: 0.5}")
        >>> study = run_study(
        ...     lambda configuration: abs(configuration["lr"] - 0.3),
        ...     space,
        ...     "random",
        ...     n_trials=4,
        ...     name="example",
        ...     storage="memory",
        ...     workers=0,
        ... )
        >>> len(study.trials)
        4
        >>> study.trials[0].params
        {'lr': 0.5}
    """
    # Check the arguments before anything is spent.
    check_name(name)
    n_trials = check_whole("n_trials", n_trials, 1)
    seed = check_whole("seed", seed, 0)
    check_whole("max_failures", max_failures, 1)
    check_whole("checkpoint_quota", checkpoint_quota, 0)
    callbacks = _as_functions("callback", callback, "study and trial")
    rules = _as_functions("stop", stop, "the study")

    evaluated = as_objective(objective, budget)
    pruning = None if pruning == "none" else pruning
    rungs = _read_rungs(rungs, evaluated.budget)
    if pruning is not None and not rungs:
        rungs = usual_rungs(name, storage, evaluated.budget, pruning, reduction_factor)
    pruner = make_pruner(pruning, tuple(rungs), reduction_factor, seed)

    # The same call must ask for the same settings.
    settings = study_settings(
        evaluated,
        seed=seed,
        rungs=rungs,
        default_first=default_first,
        warm_start_from=warm_start_from,
        **strategy_settings(strategy, pruning, reduction_factor),
    )
    check_sendable(evaluated, workers)

    # Open the study or create it.
    sampler = make_sampler(strategy, space, seed, n_trials)
    finished = _find_complete(name, storage, n_trials)
    if finished is not None:
        check_unchanged(finished, space, settings, evaluated)
        return finished

    backend = open_storage(storage)
    with translate_storage_errors(storage):
        study = _checked(
            open_or_create(name, backend, sampler, pruner),
            backend,
            space,
            settings,
            evaluated,
            change_space=change_space,
        )

    # From here on this driver is the only writer.
    with hold_lease(study, backend) as lease:
        record = check_newest(study, backend)
        if not record.is_ready:
            earlier = None if warm_start_from is None else open_study(warm_start_from, backend)
            begin_study(
                study,
                evaluated,
                space,
                settings,
                n_trials,
                earlier,
            )
        elif record.n_trials != n_trials:
            record.write(study, n_trials=n_trials)  # monitors show the new budget

        with _study_folder(study, backend) as folder:
            if is_complete(study, n_trials):
                # A driver that was killed at the very end has left the last checkpoints.
                tidy(study, folder, checkpoint_quota)
                return study

            n_finished = sum(trial.is_finished for trial in own_trials(study))
            with Progress(n_trials, done=n_finished, enabled=progress) as shown:
                pool = make_workers(workers, time_limit=time_limit, memory_limit=memory_limit)
                driven, driver_storage = _reopen_for_driver(study, backend, lease)
                driver = Driver(
                    study=driven,
                    storage=driver_storage,
                    objective=evaluated,
                    space=space,
                    lease=lease,
                    folder=folder,
                    n_trials=n_trials,
                    seed=seed,
                    rungs=tuple(rungs),
                    max_failures=max_failures,
                    checkpoint_quota=checkpoint_quota,
                    callback=_counted(shown, callbacks),
                    stop=rules,
                )
                driver.run(pool, keep_workers=pool is workers)

    return study


def _checked(
    study: optuna.Study,
    backend: BaseStorage,
    space: SearchSpace,
    settings: dict[str, Any],
    objective: Objective,
    *,
    change_space: bool,
) -> optuna.Study:
    """Return a study in the space and with the settings asked for; else refuse it."""
    if change_space and StudyRecord.of(study).is_ready:
        check_unchanged(study, study_space(study), settings, objective)
        changed = versions.change_space(study_name(study), space, storage=backend)
        study = open_or_create(changed.study_name, backend, study.sampler, study.pruner)
    check_unchanged(study, space, settings, objective)
    return study


def _find_complete(name: str, storage: Storage | None, n_trials: int) -> optuna.Study | None:
    """Return a complete study whose file can only be read; None for any other."""
    study = find_study(name, storage) if is_read_only(storage) else None
    return None if study is None or not is_complete(study, n_trials) else study


@contextmanager
def _study_folder(study: optuna.Study, backend: BaseStorage) -> Generator[StudyFolder]:
    """Yield where the trials write: beside the study's own file, else in a temporary folder."""
    identity = ensure_identity(study)
    file = storage_file(backend)
    if file is not None:
        place = nullcontext(checkpoints_beside(file))
    else:
        is_lasting = not isinstance(backend, InMemoryStorage)
        place = temporary_checkpoints(identity, is_lasting=is_lasting)

    with place as root:
        yield StudyFolder(root, study_name(study), identity)


def _reopen_for_driver(
    study: optuna.Study,
    backend: BaseStorage,
    lease: Lease,
) -> tuple[optuna.Study, BaseStorage]:
    """Open a study once more through a storage that checks writes and reads little again."""
    if isinstance(backend, InMemoryStorage):
        return study, backend

    study_id = backend.get_study_id_from_name(study.study_name)
    storage = SingleWriterStorage(backend, study_id, lease.check_write)
    driven = optuna.load_study(
        study_name=study.study_name,
        storage=storage,
        sampler=study.sampler,
        pruner=study.pruner,
    )
    return driven, storage


def _read_rungs(rungs: Any, budget: int) -> list[int]:
    """Return the rungs as whole numbers, which must rise within the budget."""
    if not isinstance(rungs, Sequence) or isinstance(rungs, str):
        message = f"rungs must be a sequence of epochs, got {rungs!r}"
        raise TypeError(message)

    epochs = [check_whole("each of rungs", rung) for rung in rungs]
    if epochs != sorted({epoch for epoch in epochs if 0 < epoch < budget}):
        message = f"rungs must rise within 1 to {budget - 1} epochs, got {epochs}"
        raise ValueError(message)
    return epochs


def _as_functions(name: str, given: Any, arguments: str) -> list[Any]:
    """Return one function or several as a list; anything else is refused."""
    if given is None:
        return []
    functions = list(given) if isinstance(given, Sequence) else [given]
    for function in functions:
        if not callable(function):
            message = f"{name} must be a function of {arguments}, or several, got {function!r}"
            raise TypeError(message)
    return functions


def _counted(progress: Progress, callbacks: Sequence[Callback]) -> Callback:
    """Return a callback that counts the trials that have ended, then calls the others.

    Args:
        progress: what counts them.
        callbacks: called with the same arguments, all of them; True of any is returned.
    """

    def count(study: optuna.Study, trial: FrozenTrial) -> bool:
        progress.advance(lambda: describe_best(study))
        answers = [callback(study, trial) for callback in callbacks]
        return any(answer is True for answer in answers)

    return count


def describe_best(study: optuna.Study) -> str:
    """Return the incumbent's value, and how many trials have failed, in a few words."""
    trials = own_trials(study)
    best = incumbent(trials)
    text = "no value yet" if best is None else f"best {format_number(best.final_value)}"

    n_failed = sum(trial.is_failed for trial in trials)
    return f"{text}, {n_failed} failed" if n_failed else text


class CostEstimate(NamedTuple):
    """How long a study will take.

    Attributes:
        seconds: at the mean cost of the measured configurations.
        lowest: lower end of the range in which about nine in ten studies lie.
        highest: upper end of this range.
        n: the number of measured configurations.
    """

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
    n_samples: int = 6,
    seed: int = 0,
) -> CostEstimate:
    """Train the default and a few drawn configurations for two epochs each, and multiply.

    The first epoch of a network takes longer than the others. The range allows for two things:
    trials differ, which evens out over a study, and the mean is that of a few. The time that the
    strategy takes to suggest configurations is not counted.

    Args:
        objective: what is minimised.
        space: the search space.
        n_trials: the budget.
        workers: how many trials run at once.
        n_samples: configurations to measure, the default included.
        seed: fixes the drawn configurations.
    """
    evaluated = as_objective(objective)
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng, prior_seed=seed) for _ in range(n_samples - 1)]
    # The first epoch of a process pays for loading the data and warming up: it is not counted.
    configurations = [space.default_configuration()] * 2 + drawn

    costs: list[float] = []
    with temporary_checkpoints(uuid.uuid4().hex, is_lasting=False) as folder:
        segment = Segment(
            trial_seed(seed, 0),
            0,
            min(2, evaluated.budget),
            evaluated.budget,
            None,
            str(folder),
        )
        for configuration in configurations:
            began = time.perf_counter()
            result = evaluated(configuration, segment)
            # A training that diverged has no epochs, but took its time.
            seconds = result.seconds or (time.perf_counter() - began,)
            costs.append(seconds[0] + seconds[-1] * (evaluated.budget - 1))

    # Prediction interval of a sum of n costs, whose mean was estimated from k of them (Student).
    costs = costs[1:]
    k = len(costs)
    mean = sum(costs) / k
    n_deviations = float(student.ppf(0.975, max(1, k - 1)))
    deviation = float(np.std(costs, ddof=min(1, k - 1)))
    margin = n_deviations * deviation * math.sqrt(n_trials + n_trials**2 / k)
    lowest = max(n_trials * mean - margin, n_trials * min(costs))
    highest = min(n_trials * mean + margin, n_trials * max(costs))

    # Trials run side by side on the workers, in rounds.
    n_rounds = math.ceil(n_trials / max(workers, 1))
    scale = n_rounds / n_trials
    return CostEstimate(mean * n_rounds, lowest * scale, highest * scale, k)
