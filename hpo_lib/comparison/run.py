"""Several strategies and seeds, one objective, equal budgets: and what the numbers can bear."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from scipy import stats
from threadpoolctl import threadpool_limits

from hpo_lib.checks import check_name, check_whole
from hpo_lib.comparison.statistics import effect_size, friedman, pairs_of, quantile, within
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective
from hpo_lib.objective import Objective
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.interrupts import first_interrupt_waits, share_interrupt
from hpo_lib.study.run import run_study, trials_frame
from hpo_lib.study.storage import Storage
from hpo_lib.study.workers.base import Workers
from hpo_lib.study.workers.factory import make_workers
from hpo_lib.study.workers.process_guard import end_with
from hpo_lib.study.workers.worker_process import prepare_process
from hpo_lib.trials import running_best

COLUMNS = ("strategy", "seed", "trial", "value", "best", "seconds", "suggest_seconds")


MakeSampler = Callable[[int], BaseSampler]
Strategies = Sequence[str] | Mapping[str, str | MakeSampler]
"""Names and import paths that `make_sampler` knows; or labels of those or functions of a seed."""

Cell = tuple[str, int]
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
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Run one serial study per strategy and seed; `workers` of them at a time.

    Seeds are paired: with the same seed every strategy starts with the default configuration,
    and its k-th trial trains with the same random numbers. Each study is recorded as
    `<name> <strategy> seed <seed>`, so an interrupted comparison goes on where it stopped.

    With `seconds`, a study ends with the first trial behind that many seconds of training and
    deciding, which does not count; `n_trials` should be more than any will need. `time_limit`,
    `memory_limit` and the `settings` are those of `run_study`, whose errors are raised.

    Returns:
        One row per trial. `value` is the validation error (NaN for a failed or pruned
        trial), `best` the incumbent's, `seconds` and `suggest_seconds` are sums since the study's
        start. What rests on a surrogate has its trust in `attrs`, and the figures say so.
    """
    check_name(name)
    named = _named(strategies, seeds)
    idle: SimpleQueue[Workers] = SimpleQueue()
    limits: dict[str, Any] = {"time_limit": time_limit, "memory_limit": memory_limit}
    pools = [make_workers(min(workers, 1), **limits) for _ in range(max(workers, 1))]
    for pool in pools:
        idle.put(pool)

    def run(cell: Cell) -> pd.DataFrame:
        pool = idle.get()
        try:
            own = f"{name} {cell[0]} seed {cell[1]}"
            place: dict[str, Any] = {"name": own, "storage": storage, "workers": pool}
            frame = _study(objective, space, named, cell, n_trials, seconds, **place, **settings)
        finally:
            idle.put(pool)
        return _told(frame, progress)

    cells = [(label, seed) for seed in seeds for label in named]
    with (
        first_interrupt_waits() as interrupt,
        ThreadPoolExecutor(len(pools), "compare", share_interrupt, (interrupt,)) as threads,
    ):
        studies = [threads.submit(run, cell) for cell in cells]
        try:
            wait(studies, return_when=FIRST_EXCEPTION)
            threads.shutdown(cancel_futures=True)
        finally:
            for pool in pools:
                pool.close()
    return _finished([one.result() for one in studies], objective, seconds)


def replay(
    objective: Objective,
    space: SearchSpace,
    strategies: Strategies,
    seeds: Sequence[int],
    n_trials: int,
    *,
    seconds: float | None = None,
    processes: int = 1,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Do what `compare` does with an objective that costs next to nothing, such as a recorded one.

    Whole studies run in `processes` processes and are kept in memory: there is no record to
    resume from, and the same arguments give the same values: as many of them, with `seconds`, as
    deciding leaves time for. In the frame, `seconds` are the recorded ones and `suggest_seconds`
    those of this run.
    """
    named = _named(strategies, seeds)
    check_whole("processes", processes, 1)
    cells = [(label, seed) for seed in seeds for label in named]

    def run(cell: Cell) -> pd.DataFrame:
        place: dict[str, Any] = {"name": cell[0], "storage": "memory", "workers": 0}
        return _study(objective, space, named, cell, n_trials, seconds, **place, **settings)

    if processes == 1:
        return _finished([_told(run(cell), progress) for cell in cells], objective, seconds)
    spawn = multiprocessing.get_context("spawn")  # fork would copy the threads' locks
    begun_with = (cloudpickle.dumps(run), os.getpid())
    pool = ProcessPoolExecutor(processes, spawn, _begin_process, begun_with)
    try:
        done = pool.map(_run_here, cells)
        return _finished([_told(one, progress) for one in done], objective, seconds)
    finally:
        pool.shutdown(cancel_futures=True)


_here: list[Callable[[Cell], pd.DataFrame]] = []  # in a process of a pool: what it runs


def _begin_process(run: bytes, parent: int) -> None:
    prepare_process()
    end_with(parent)
    threadpool_limits(1)  # its libraries are loaded already
    _here.append(cloudpickle.loads(run))


def _run_here(cell: Cell) -> pd.DataFrame:
    return _here[0](cell)


def _study(
    objective: Objective | Callable[[Configuration], float],
    space: SearchSpace,
    strategies: Mapping[str, str | MakeSampler],
    cell: Cell,
    n_trials: int,
    seconds: float | None,
    **settings: Any,
) -> pd.DataFrame:
    from hpo_lib.study.stopping import MaxSeconds  # takes seconds to import

    label, seed = cell
    strategy = strategies[label]
    made = strategy if isinstance(strategy, str) else strategy(seed)
    stop = [] if seconds is None else [MaxSeconds(seconds)]
    study = run_study(objective, space, made, n_trials, seed=seed, stop=stop, **settings)
    return tidy(study, label, seed)


def _told(frame: pd.DataFrame, progress: Callable[[str], None] | None) -> pd.DataFrame:
    if progress is not None:
        last = frame.iloc[-1].to_dict()
        progress("{strategy}, seed {seed}: best {best:.4f} of {trial} trials".format(**last))
    return frame


def _finished(runs: list[pd.DataFrame], objective: Any, seconds: float | None) -> pd.DataFrame:
    frame = pd.concat(runs, ignore_index=True)
    if isinstance(objective, SurrogateObjective):
        frame.attrs["trust"] = objective.trust
    return frame if seconds is None else within(frame, seconds)


def tidy(study: optuna.Study, strategy: str, seed: int) -> pd.DataFrame:
    """The study's own trials as rows of a comparison; what it took as evidence cost it nothing."""
    recorded = trials_frame(study)
    frame: Any = recorded[recorded["warm_start"].isna()].reset_index(drop=True)
    return pd.DataFrame(
        {
            "strategy": strategy,
            "seed": seed,
            "trial": np.arange(1, len(frame) + 1),
            "value": frame["value"],
            "best": running_best(frame["value"]),
            "seconds": frame["seconds"].cumsum(),
            "suggest_seconds": frame["suggest_seconds"].astype(float).fillna(0.0).cumsum(),
        },
        columns=list(COLUMNS),
    )


def final_values(frame: pd.DataFrame) -> pd.DataFrame:
    """The incumbent's value at the end of each study: a row per seed, a column per strategy.

    Infinity where no trial had a value; NaN where the strategy was not run with that seed.
    """
    last: Any = frame.sort_values("trial").groupby(["strategy", "seed"]).tail(1)
    last = last.fillna({"best": math.inf})
    table = last.pivot(index="seed", columns="strategy", values="best").sort_index()
    return table[list(dict.fromkeys(frame["strategy"]))]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per strategy: seeds, trials, median and quartiles of the final value, median seconds."""
    finals = final_values(frame)
    columns = ["trial", "seconds", "suggest_seconds"]
    last: Any = frame.groupby(["strategy", "seed"])[columns].max()
    medians = last.groupby("strategy").median().loc[list(finals)]
    quartiles = [quantile(one.dropna().to_numpy(), (0.25, 0.5, 0.75)) for _, one in finals.items()]
    low, median, high = np.array(quartiles).T
    return pd.DataFrame(
        {
            "n_seeds": finals.count(),
            "n_trials": medians["trial"].astype(int),
            "median": median,
            "q25": low,
            "q75": high,
            "training_seconds": medians["seconds"],
            "suggest_seconds": medians["suggest_seconds"],
        }
    )


def separations(frame: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """Every pair of strategies: how often A ends below B, and whether that could be chance.

    From the seeds that both were run with; a study without any value ends above all others. `p` is
    that of Wilcoxon's signed-rank test on the paired final values, two-sided, corrected by Holm
    (1979) for the number of pairs. `effect` is the matched-pairs rank-biserial correlation, -1
    where A always ends below B and 1 where B does. `smallest_p` is what this many seeds could show
    at best: above 0.05, no result could separate any two. `against` leaves the pairs in which B is
    that strategy.
    """
    finals: Any = final_values(frame)
    pairs = pairs_of(finals, against)
    rows = [
        {
            "a": a,
            "b": b,
            "n_seeds": len(difference),
            "a_wins": int((difference < 0).sum()),
            "ties": int((difference == 0).sum()),
            "median_difference": float(np.median(difference)) if len(difference) else math.nan,
            "effect": effect_size(difference),
            "p": _wilcoxon(difference),
            "smallest_p": min(1.0, len(pairs) * 2.0 ** (1 - len(difference))),
        }
        for a, b in pairs
        for difference in [_difference(finals[[a, b]].dropna().to_numpy())]
    ]
    table = pd.DataFrame(rows, columns=_PAIR)
    return table.assign(p=_holm(table["p"].to_numpy()))


_PAIR = ["a", "b", "n_seeds", "a_wins", "ties", "median_difference", "effect", "p", "smallest_p"]


def _difference(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    left, right = pairs.T
    with np.errstate(invalid="ignore"):
        return np.where(left == right, 0.0, left - right)  # two infinities are a tie


def verdict(frame: pd.DataFrame, level: float = 0.05) -> str:
    """What the comparison can and cannot say, in words, one line per pair.

    Before them, from three strategies on, Friedman's test that they differ at all.
    """
    lines: list[str] = []
    seconds = frame.attrs.get("seconds")
    budget = f"at {frame['trial'].max()} trials" if seconds is None else f"within {seconds:g} s"
    finals = final_values(frame).dropna()
    p = friedman(finals.to_numpy(dtype=float))
    if math.isfinite(p):
        differ = "differ" if p <= level else "cannot be told apart"
        lines.append(
            f"{len(finals)} seeds, {finals.shape[1]} strategies: they {differ} {budget} "
            f"(Friedman's test, p = {p:.2g})."
        )
    for row in separations(frame).to_dict("records"):
        a, b, p, smallest = row["a"], row["b"], row["p"], row["smallest_p"]
        seeds = f"{row['n_seeds']} seeds"
        better, worse = (a, b) if row["effect"] < 0 else (b, a)
        if p <= level:
            effect = f"effect size {abs(row['effect']):.2f}"
            lines.append(f"{seeds}: {better} ends below {worse} {budget} (p = {p:.2g}, {effect}).")
        elif smallest > level:
            lines.append(
                f"{seeds} cannot separate {a} from {b} {budget}, whatever they had shown "
                f"(smallest possible p = {smallest:.2f}, here p = {p:.2f})."
            )
        else:
            lines.append(f"{seeds} cannot separate {a} from {b} {budget} (p = {p:.2f}).")
    return "\n".join(lines)


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    values = difference[difference != 0]
    result: Any = stats.wilcoxon(values) if len(values) else None
    return 1.0 if result is None else float(result.pvalue)


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _named(strategies: Strategies, seeds: Sequence[int]) -> dict[str, str | MakeSampler]:
    named = strategies if isinstance(strategies, Mapping) else {key: key for key in strategies}
    for name, values in (("strategies", list(named)), ("seeds", list(seeds))):
        if not values or len(set(values)) < len(values):
            message = f"{name} must be at least one and all different, got {values}"
            raise ValueError(message)
    for label, strategy in named.items():
        if not isinstance(strategy, str) and not callable(strategy):
            message = (
                "strategies must be names, import paths or functions from a seed to a sampler: "
                f"one sampler would search alike with every seed, got {strategy!r} for {label!r}"
            )
            raise ValueError(message)
    return dict(named)
