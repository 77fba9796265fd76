"""Run several strategies with several seeds on one objective, with equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import BaseSampler

from hpo_lib.checks import check_different, check_name, check_whole
from hpo_lib.comparison.hypothesis_tests import pairs_of
from hpo_lib.comparison.statistics import within
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective
from hpo_lib.files import user_path
from hpo_lib.formatting import format_number
from hpo_lib.interrupts import first_interrupt_waits, share_interrupt
from hpo_lib.objective import Objective
from hpo_lib.processes.pool import run_all
from hpo_lib.progress import Progress
from hpo_lib.samplers.registry import find_strategy
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import shown_rows, trials_frame
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import Storage
from hpo_lib.study.workers.base import Workers
from hpo_lib.study.workers.factory import make_workers
from hpo_lib.trials import VALIDATION_ERROR, running_best

MakeSampler = Callable[[int], BaseSampler]
"""Makes a sampler from a seed."""

Strategies = Sequence[str] | Mapping[str, str | MakeSampler]
"""Names and import paths that `make_sampler` knows; or labels of those or functions of a seed."""

_LIMITS = ("time_limit", "memory_limit")  # arguments of `run_study` that go to the workers

_Cell = tuple[str, int]
"""A strategy's label and a seed."""


def compare(
    objective: Objective | Callable[[Configuration], float],
    space: SearchSpace,
    strategies: Strategies,
    seeds: Sequence[int],
    n_trials: int,
    *,
    seconds: float | None = None,
    name: str = "comparison",
    storage: Storage | None = None,
    workers: int = 1,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Run one serial study per strategy and seed; `workers` of them at a time.

    Seeds are paired: with the same seed every strategy starts with the default configuration,
    and its k-th trial trains with the same random numbers. Each study is recorded as
    `<name> <strategy> seed <seed>`, so an interrupted comparison goes on where it stopped.

    Args:
        objective: what is minimised.
        space: the search space.
        strategies: what is compared.
        seeds: of the studies of each strategy.
        n_trials: the budget of each study.
        seconds: a study ends with the first trial after that many seconds of training and
            suggesting, which does not count; `n_trials` should be more than any will need.
        name: begins the names of the studies.
        storage: as for `run_study`.
        workers: studies that run at once; 0 runs them in this process.
        progress: show a bar with the last study and the time left; in a log, a line now and then.
        **settings: other arguments of `run_study`, whose errors are raised.

    Returns:
        One row per trial. `value` is the validation error (NaN for a failed or pruned
        trial), `best` the incumbent's, `seconds` and `suggest_seconds` are sums since the study's
        start. A frame that rests on a surrogate has its `surrogate_quality` in `attrs`, which the
        figures show.

    Example:
        >>> from hpo_lib import SearchSpace
        >>> space = SearchSpace.from_yaml("x: {type: float, low: -1.0, high: 1.0}")
        >>> options = {"storage": "memory", "workers": 0}
        >>> frame = compare(lambda c: c["x"] ** 2, space, ["random"], [0, 1], 3, **options)
        >>> frame.groupby("seed")["trial"].max().tolist()
        [3, 3]
    """
    check_name(name)
    labelled = _labelled(strategies, seeds)
    limits = {key: settings.pop(key, None) for key in _LIMITS}
    studies = _Studies(objective, space, labelled, n_trials, seconds, settings)

    # One slot for each study that runs at once.
    n_slots = min(workers, 1)
    n_studies = max(workers, 1)
    pools = [make_workers(n_slots, **limits) for _ in range(n_studies)]
    idle: SimpleQueue[Workers] = SimpleQueue()
    for pool in pools:
        idle.put(pool)

    def run(cell: _Cell) -> pd.DataFrame:
        label, seed = cell
        pool = idle.get()
        try:
            study_name = f"{name} {label} seed {seed}"
            frame = studies.run(
                cell,
                name=study_name,
                storage=storage,
                workers=pool,
            )
        finally:
            idle.put(pool)

        shown.advance(lambda: _describe_study(frame))
        return frame

    cells = studies.cells(seeds)
    with (
        Progress(len(cells), enabled=progress) as shown,
        first_interrupt_waits() as interrupt,
        ThreadPoolExecutor(
            n_studies,
            thread_name_prefix="compare",
            initializer=share_interrupt,
            initargs=(interrupt,),
        ) as threads,
    ):
        # The first error ends the comparison.
        futures = [threads.submit(run, cell) for cell in cells]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            threads.shutdown(cancel_futures=True)
        finally:
            for pool in pools:
                pool.close()

    return studies.join(future.result() for future in futures)


def replay(
    objective: Objective,
    space: SearchSpace,
    strategies: Strategies,
    seeds: Sequence[int],
    n_trials: int,
    *,
    seconds: float | None = None,
    processes: int = 1,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Do what `compare` does with an objective that costs next to nothing, such as a recorded one.

    Studies are kept in memory: there is no record to resume from, and the same arguments give the
    same values: as many of them, with `seconds`, as suggesting leaves time for.

    Args:
        objective: what is minimised, such as a `SurrogateObjective`.
        space: the search space.
        strategies: what is compared.
        seeds: of the studies of each strategy.
        n_trials: the budget of each study.
        seconds: as for `compare`.
        processes: that whole studies run in; 1 runs them in this process.
        progress: show a bar with the last study and the time left; in a log, a line now and then.
        **settings: other arguments of `run_study`, whose errors are raised.

    Returns:
        A frame as that of `compare`: `seconds` are the recorded ones, `suggest_seconds` those of
        this run.

    Example:
        >>> from hpo_lib import SearchSpace
        >>> from hpo_lib.loop import as_objective
        >>> space = SearchSpace.from_yaml("x: {type: float, low: -1.0, high: 1.0}")
        >>> objective = as_objective(lambda c: c["x"] ** 2)
        >>> frame = replay(objective, space, ["random", "sobol"], range(3), 4)
        >>> len(frame)
        24
    """
    labelled = _labelled(strategies, seeds)
    studies = _Studies(objective, space, labelled, n_trials, seconds, settings)
    check_whole("processes", processes, 1)
    cells = studies.cells(seeds)
    with Progress(len(cells), enabled=progress) as shown:
        frames = dict(run_all(studies.replay, cells, processes, shown))

    return studies.join(frames[cell] for cell in cells)


@dataclass(frozen=True)
class _Studies:
    """Settings that the studies of a comparison share."""

    objective: Objective | Callable[[Configuration], float]
    space: SearchSpace
    strategies: Mapping[str, str | MakeSampler]
    n_trials: int
    seconds: float | None
    settings: Mapping[str, Any]

    def cells(self, seeds: Sequence[int]) -> list[_Cell]:
        return [(label, seed) for seed in seeds for label in self.strategies]

    def run(self, cell: _Cell, **options: Any) -> pd.DataFrame:
        """Run one study, in memory and in this process where the options do not say otherwise."""
        from hpo_lib.study.stopping import MaxSeconds

        label, seed = cell
        strategy = self.strategies[label]
        stop = [] if self.seconds is None else [MaxSeconds(self.seconds)]
        defaults = {"name": label, "storage": "memory", "workers": 0}

        study = run_study(
            self.objective,
            self.space,
            strategy if isinstance(strategy, str) else strategy(seed),
            self.n_trials,
            seed=seed,
            stop=stop,
            progress=False,
            **{**defaults, **options},
            **self.settings,
        )
        return comparison_frame(study, label, seed)

    def replay(self, cell: _Cell, shown: Progress) -> pd.DataFrame:
        """Run one study in memory, and show it."""
        frame = self.run(cell)
        shown.advance(partial(_describe_study, frame))
        return frame

    def join(self, frames: Any) -> pd.DataFrame:
        """Join the frames of all studies."""
        frame = pd.concat(list(frames), ignore_index=True)
        if isinstance(self.objective, SurrogateObjective):
            frame.attrs["surrogate_quality"] = self.objective.quality
            frame.attrs["value_name"] = VALIDATION_ERROR  # it replays trainings
        if self.seconds is not None:
            frame = within(frame, self.seconds)
        return frame


def _describe_study(frame: pd.DataFrame) -> str:
    last: Any = frame.iloc[-1]
    best = format_number(last["best"])
    return f"{last['strategy']}, seed {last['seed']}: best {best} of {last['trial']} trials"


def comparison_frame(study: optuna.Study, strategy: str, seed: int) -> pd.DataFrame:
    """Return the ended trials that figures of a study show as rows (see `shown_rows`).

    Args:
        study: a study that `run_study` recorded.
        strategy: its label.
        seed: its seed.
    """
    recorded = trials_frame(study)
    shown = shown_rows(recorded)
    frame: Any = shown[shown["state"] != "running"].reset_index(drop=True)

    # Costs are sums since the start of the study.
    suggest_seconds = frame["suggest_seconds"].astype(float)
    columns = {
        "strategy": strategy,
        "seed": seed,
        "trial": np.arange(1, len(frame) + 1),
        "value": frame["value"],
        "best": running_best(frame["value"]),
        "seconds": frame["seconds"].cumsum(),
        "suggest_seconds": suggest_seconds.fillna(0.0).cumsum(),
    }
    rows = pd.DataFrame(columns)
    rows.attrs["value_name"] = recorded.attrs["value_name"]
    return rows


def _labelled(
    strategies: Strategies,
    seeds: Sequence[int],
) -> dict[str, str | MakeSampler]:
    """Return the strategies by their labels; refuse what cannot be compared."""
    check_different("strategies", list(strategies))
    if not isinstance(strategies, Mapping):
        strategies = {strategy: strategy for strategy in strategies}
    check_different("seeds", seeds)
    for label, strategy in strategies.items():
        if isinstance(strategy, str):
            find_strategy(strategy)
        elif not callable(strategy):
            message = (
                "strategies must be names, import paths or functions from a seed to a sampler: "
                f"one sampler would search alike with every seed, got {strategy!r} for {label!r}"
            )
            raise ValueError(message)

    return dict(strategies)


def read_comparison(path: str | Path) -> pd.DataFrame | None:
    """Read what `compare` returned from the CSV file that notebook 05 writes.

    Args:
        path: the file; None is returned where there is none.
    """
    path = user_path(path)
    return pd.read_csv(path) if path.exists() else None


def check_strategies(strategies: Sequence[str], baseline: str | None = None) -> None:
    """Refuse strategies that cannot be compared, before anything is spent on them.

    Args:
        strategies: names and import paths, at least two and all different.
        baseline: one of them, which the others are measured against; None: without one.

    Raises:
        ValueError: they are fewer than two or not different, one is unknown, or the baseline is
            not among them.

    Example:
        >>> check_strategies(["random", "bayes"], baseline="random")
    """
    _labelled(strategies, [0])
    pairs_of(strategies, baseline)
