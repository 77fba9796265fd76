"""Several strategies and seeds, one objective, equal budgets: and what the numbers can bear."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import combinations
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

from hpo_lib.driver import StoppingRule
from hpo_lib.inference import effect_size, friedman, spent
from hpo_lib.objective import Objective
from hpo_lib.replay import SurrogateObjective, Trust
from hpo_lib.space import Configuration, SearchSpace
from hpo_lib.storage import Storage
from hpo_lib.study import run_study, trials_frame
from hpo_lib.workers import Workers, make_workers

COLUMNS = ("strategy", "seed", "trial", "value", "best", "seconds", "deciding_seconds")


def compare(
    objective: Objective | Callable[[Configuration], float],
    space: SearchSpace,
    strategies: Sequence[str] | Mapping[str, str | BaseSampler],
    seeds: Sequence[int],
    n_trials: int,
    *,
    seconds: float | None = None,
    name: str = "comparison",
    storage: Storage | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Run one serial study per strategy and seed; `workers` of them at a time.

    Seeds are paired: with the same seed every strategy starts with the default configuration,
    and its k-th trial trains with the same random numbers. Each study is recorded as
    `<name> <strategy> seed <seed>`, so an interrupted comparison goes on where it stopped.

    With `seconds`, a study ends with the first trial behind that many seconds of training and
    deciding, and `n_trials` should be more than any will need. What ended in time counts: hand
    the same `seconds` to `summary`, `separations` and `verdict`.

    Returns:
        One row per trial. `value` is the validation error (NaN for a failed or pruned
        trial), `best` the incumbent's, `seconds` and `deciding_seconds` are sums since the study's
        start.
    """
    named = strategies if isinstance(strategies, Mapping) else {key: key for key in strategies}
    _check(named, seeds)
    idle: SimpleQueue[Workers] = SimpleQueue()
    pools = [make_workers(min(workers, 1)) for _ in range(max(workers, 1))]
    for pool in pools:
        idle.put(pool)

    def run(cell: tuple[int, str]) -> pd.DataFrame:
        seed, label = cell
        pool = idle.get()
        try:
            study = run_study(
                objective,
                space,
                named[label],
                n_trials,
                name=f"{name} {label} seed {seed}",
                storage=storage,
                seed=seed,
                workers=pool,
                stop=_stop(seconds),
            )
        finally:
            idle.put(pool)
        if progress is not None:
            progress(f"{label}, seed {seed}: best {_best(study):.4f} of {n_trials} trials")
        return tidy(study, label, seed)

    cells = [(seed, label) for seed in seeds for label in named]
    try:
        with ThreadPoolExecutor(len(pools)) as threads:
            return pd.concat(threads.map(run, cells), ignore_index=True)
    finally:
        for pool in pools:
            pool.close()


def replay(
    objective: Objective,
    space: SearchSpace,
    strategies: Sequence[str] | Mapping[str, str | BaseSampler],
    seeds: Sequence[int],
    n_trials: int,
    *,
    seconds: float | None = None,
    processes: int = 1,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Do what `compare` does with an objective that costs next to nothing, such as a recorded one.

    Whole studies run in `processes` processes and are kept in memory: there is no record to
    resume from, and the same arguments give the same values. In the frame, `seconds` are the
    recorded ones and `deciding_seconds` those of this run. What rests on a surrogate has its trust
    in `attrs`, and the figures say so.
    """
    named = strategies if isinstance(strategies, Mapping) else {key: key for key in strategies}
    _check(named, seeds)
    if processes < 1:
        message = f"processes must be at least 1, got {processes}"
        raise ValueError(message)
    cells = [(label, named[label], seed, n_trials, seconds) for seed in seeds for label in named]
    trust = objective.trust if isinstance(objective, SurrogateObjective) else None
    if processes == 1:
        frames = (_run_cell(objective, space, cell) for cell in cells)
        return _gather(frames, trust, progress)
    spawn = multiprocessing.get_context("spawn")  # fork would copy the threads' locks
    payload = cloudpickle.dumps((objective, space))
    pool = ProcessPoolExecutor(processes, spawn, _begin_process, (payload, os.getpid()))
    try:
        return _gather(pool.map(_run_cell_here, cells), trust, progress)
    finally:
        pool.shutdown(cancel_futures=True)


_Cell = tuple[str, str | BaseSampler, int, int, float | None]
_here: list[tuple[Objective, SearchSpace]] = []  # in a process of a pool: what it replays


def _begin_process(payload: bytes, parent: int) -> None:
    threadpool_limits(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _here.append(cloudpickle.loads(payload))


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_cell_here(cell: _Cell) -> pd.DataFrame:
    return _run_cell(*_here[0], cell)


def _run_cell(objective: Objective, space: SearchSpace, cell: _Cell) -> pd.DataFrame:
    label, strategy, seed, n_trials, seconds = cell
    study = run_study(
        objective,
        space,
        copy.deepcopy(strategy),  # a sampler keeps what it saw in the study before
        n_trials,
        name=label,
        storage="memory",
        seed=seed,
        workers=0,
        stop=_stop(seconds),
    )
    return tidy(study, label, seed)


def _stop(seconds: float | None) -> list[StoppingRule]:
    from hpo_lib.stopping import MaxSeconds  # takes seconds to import

    return [] if seconds is None else [MaxSeconds(seconds)]


def _gather(
    results: Iterable[pd.DataFrame],
    trust: Trust | None,
    progress: Callable[[str], None] | None,
) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for frame in results:
        frames.append(frame)
        if progress is not None:
            last = frame.iloc[-1]
            progress(f"{last['strategy']}, seed {last['seed']}: best {last['best']:.4f}")
    joined = pd.concat(frames, ignore_index=True)
    if trust is not None:
        joined.attrs["trust"] = trust
    return joined


def tidy(study: optuna.Study, strategy: str, seed: int) -> pd.DataFrame:
    """The trials of one study as rows of a comparison."""
    frame = trials_frame(study)
    return pd.DataFrame(
        {
            "strategy": strategy,
            "seed": seed,
            "trial": np.arange(1, len(frame) + 1),
            "value": frame["value"],
            "best": frame["best"],
            "seconds": frame["seconds"].cumsum(),
            "deciding_seconds": frame["deciding_seconds"].astype(float).fillna(0.0).cumsum(),
        },
        columns=list(COLUMNS),
    )


def final_values(frame: pd.DataFrame, seconds: float | None = None) -> pd.DataFrame:
    """The incumbent's value at the end of each study: a row per seed, a column per strategy.

    With `seconds`, after so many of training and deciding; NaN where no trial had ended by then.
    """
    index = pd.Index(sorted(set(frame["seed"])), name="seed")
    columns = pd.Index(dict.fromkeys(frame["strategy"]), name="strategy")
    last = _within(frame, seconds).groupby(["strategy", "seed"]).tail(1)
    table = last.pivot(index="seed", columns="strategy", values="best")
    return table.reindex(index=index, columns=columns)


def _within(frame: pd.DataFrame, seconds: float | None) -> Any:
    frame = frame.sort_values("trial")
    return frame if seconds is None else frame[spent(frame, "seconds") <= seconds]


def summary(frame: pd.DataFrame, seconds: float | None = None) -> pd.DataFrame:
    """Per strategy: seeds, trials, median and quartiles of the final value, median seconds."""
    finals = final_values(frame, seconds)
    columns = ["trial", "seconds", "deciding_seconds"]
    last = _within(frame, seconds).groupby(["strategy", "seed"])[columns].max()
    medians = last.groupby("strategy").median().reindex(finals.columns)
    return pd.DataFrame(
        {
            "n_seeds": finals.count(),
            "n_trials": medians["trial"].fillna(0).astype(int),
            "median": finals.median(),
            "q25": finals.quantile(0.25),
            "q75": finals.quantile(0.75),
            "training_seconds": medians["seconds"],
            "deciding_seconds": medians["deciding_seconds"],
        }
    )


def separations(
    frame: pd.DataFrame, seconds: float | None = None, against: str | None = None
) -> pd.DataFrame:
    """Every pair of strategies: how often A ends below B, and whether that could be chance.

    `p` is that of Wilcoxon's signed-rank test on the paired final values, two-sided, corrected
    by Holm (1979) for the number of pairs. `effect` is the matched-pairs rank-biserial
    correlation, -1 where A always ends below B and 1 where B does. `smallest_p` is what this many
    seeds could show at best: above 0.05, no result could separate any two. `against` leaves the
    pairs in which B is that strategy.
    """
    finals = final_values(frame, seconds).dropna()
    pairs = list(combinations(finals.columns, 2))
    if against is not None:
        pairs = [(strategy, against) for strategy in finals.columns if strategy != against]
    rows = [
        {
            "a": a,
            "b": b,
            "n_seeds": len(finals),
            "a_wins": int((difference < 0).sum()),
            "ties": int((difference == 0).sum()),
            "median_difference": float(np.median(difference)) if len(difference) else math.nan,
            "effect": effect_size(difference),
            "p": _wilcoxon(difference),
            "smallest_p": min(1.0, len(pairs) * 2.0 ** (1 - len(finals))),
        }
        for a, b in pairs
        for difference in [finals[a].to_numpy(dtype=float) - finals[b].to_numpy(dtype=float)]
    ]
    for row, p in zip(rows, _holm(np.array([row["p"] for row in rows])), strict=True):
        row["p"] = float(p)
    return pd.DataFrame(rows, columns=_PAIR)


_PAIR = ["a", "b", "n_seeds", "a_wins", "ties", "median_difference", "effect", "p", "smallest_p"]


def verdict(frame: pd.DataFrame, seconds: float | None = None, level: float = 0.05) -> str:
    """What the comparison can and cannot say, in words, one line per pair.

    Before them, from three strategies on, Friedman's test that they differ at all.
    """
    lines: list[str] = []
    budget = f"at {int(np.max(frame['trial'].to_numpy()))} trials"
    budget = budget if seconds is None else f"within {seconds:g} s"
    finals = final_values(frame, seconds).dropna()
    p = friedman(finals.to_numpy(dtype=float))
    if math.isfinite(p):
        differ = "differ" if p <= level else "cannot be told apart"
        lines.append(
            f"{len(finals)} seeds, {finals.shape[1]} strategies: they {differ} {budget} "
            f"(Friedman's test, p = {p:.2g})."
        )
    for row in separations(frame, seconds).to_dict("records"):
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


def _best(study: optuna.Study) -> float:
    return float(trials_frame(study)["best"].iloc[-1])


def _check(strategies: Mapping[str, str | BaseSampler], seeds: Sequence[int]) -> None:
    for name, values in (("strategies", list(strategies)), ("seeds", list(seeds))):
        if not values or len(set(values)) < len(values):
            message = f"{name} must be at least one and all different, got {values}"
            raise ValueError(message)
