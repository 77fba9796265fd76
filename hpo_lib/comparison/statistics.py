"""Describe a comparison: final values, incumbents over budgets, and budgets to a target.

Each function takes the frame that `compare` returns, and each row that it returns says its n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hpo_lib.checks import check_member

Array = NDArray[np.float64]

Spending = Literal["trial", "seconds"]
"""Units of a budget: trials, or seconds of training and suggesting."""

STUDY = ["strategy", "seed"]
"""Columns that name a study of a comparison."""

_N_BLOCKS = 20
_N_STEPS = 50


def final_values(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the incumbent's value at the end of each study: rows are seeds, columns strategies.

    Infinity where no trial had a value; NaN where the strategy was not run with that seed.
    """
    studies = frame.sort_values("trial").groupby(STUDY)
    finals: Any = studies["best"].last().fillna(math.inf)
    return finals.unstack("strategy")[frame["strategy"].unique()]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per strategy: seeds, trials, quartiles of the final value, median seconds."""
    finals = final_values(frame)
    quartiles: list[Array] = []
    for strategy in finals:
        values = finals[strategy].dropna().to_numpy()
        quartiles.append(quantile(values, (0.25, 0.5, 0.75)))
    q25, median, q75 = np.array(quartiles).T

    # Sums since the start of each study: the largest is that of its end.
    columns = ["trial", "seconds", "suggest_seconds"]
    totals: Any = frame.groupby(STUDY)[columns].max()
    medians = totals.groupby("strategy").median().loc[list(finals)]
    return pd.DataFrame(
        {
            "n_seeds": finals.count(),
            "n_trials": medians["trial"].astype(int),
            "median": median,
            "q25": q25,
            "q75": q75,
            "training_seconds": medians["seconds"],
            "suggest_seconds": medians["suggest_seconds"],
        }
    )


def _with_spent(frame: pd.DataFrame, by: Spending) -> Any:
    """Add the column `spent`: what the study had spent when the trial ended."""
    check_member("by", by, get_args(Spending))
    seconds = frame["seconds"] + frame["suggest_seconds"]
    spent = frame["trial"] if by == "trial" else seconds
    return frame.assign(spent=spent.astype(float))


def within(frame: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """Return the comparison as it stood after so many seconds in each study.

    A study without a trial by then keeps one row: trial 0, which has no value.

    Args:
        frame: what `compare` returns.
        seconds: of training and suggesting.
    """
    trials = _with_spent(frame, "seconds")
    first = trials.sort_values("trial").drop_duplicates(STUDY)
    empty = first[first["spent"] > seconds].assign(
        trial=0,
        value=math.nan,
        best=math.nan,
        seconds=seconds,
        suggest_seconds=0.0,
    )

    early = trials[trials["spent"] <= seconds]

    cut: Any = pd.concat([empty, early]).sort_index()
    cut = cut.drop(columns="spent")
    cut.attrs = {**frame.attrs, "seconds": seconds}
    return cut


def equal_budgets(frame: pd.DataFrame, by: Spending = "trial") -> pd.DataFrame:
    """Return the comparison up to the largest budget that every study has spent.

    Args:
        frame: what `compare` returns.
        by: what a budget is: trials, or seconds of training and suggesting.
    """
    spent = _with_spent(frame, by)
    budget = float(spent.groupby(STUDY)["spent"].max().min())
    if by == "seconds":
        return within(frame, budget)
    cut: Any = frame[frame["trial"] <= budget]
    return cut


def incumbents(
    frame: pd.DataFrame,
    by: Spending = "trial",
) -> dict[str, pd.DataFrame]:
    """Return the incumbent's values of each strategy: a row per seed, a column per budget.

    A study that ended early, its grid exhausted, keeps its incumbent; before the first trial that
    did not fail, there is none (infinity). The seconds are even steps from where each study has
    finished a trial to the limit in seconds or, without one, to where the first study ends.

    Args:
        frame: what `compare` returns.
        by: what a budget is.
    """
    # The same budgets for all studies.
    trials = _with_spent(frame, by).sort_values("trial")
    budgets = _budgets(trials, by)
    tables: dict[str, pd.DataFrame] = {}
    for strategy in frame["strategy"].unique():
        own_trials = trials[trials["strategy"] == strategy]
        rows: dict[int, Array] = {}
        for seed, run in own_trials.groupby("seed"):
            # Before the n-th trial ends, the incumbent is that of the trials before it.
            best = run["best"].astype(float).fillna(math.inf)
            before = np.r_[math.inf, best]
            n_ended = np.searchsorted(run["spent"], budgets, side="right")
            rows[seed] = before[n_ended]

        table = pd.DataFrame.from_dict(rows, "index", columns=budgets)
        tables[str(strategy)] = table

    return tables


def _budgets(trials: Any, by: Spending) -> Array:
    ends = trials.groupby(STUDY)["spent"].max()
    if by == "trial":
        return np.arange(1.0, ends.max() + 1)

    # From where each study has a trial to where the first one ends.
    started = trials[trials["trial"] > 0]
    first = started.groupby(STUDY)["spent"].min().max()
    last = trials.attrs.get("seconds", ends.min())
    steps = np.linspace(np.fmin(first, last), last, _N_STEPS)
    return np.unique(steps)


def any_time(
    frame: pd.DataFrame,
    by: Spending = "trial",
    *,
    best_known: float = 0.0,
    seed: int = 0,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """Return median, quartiles and interquartile mean of the regret at each budget.

    The interquartile mean drops the lower and upper quarter of the seeds (Agarwal et al. 2021,
    Deep reinforcement learning at the edge of the statistical precipice). Intervals are
    95 % percentiles over resampled seeds; below 10 seeds they are too narrow.

    Args:
        frame: what `compare` returns.
        by: what a budget is: trials, or seconds of training and suggesting.
        best_known: what the regret is measured from; 0 leaves the values as they are.
        seed: of the resampling.
        n_resamples: behind each interval; 0 leaves the intervals out.

    Returns:
        One row per strategy and budget (`trial` or `seconds`): `n_seeds`, `q25`, `q75`, `median`
        and `iqm`, the last two with `_low` and `_high`.
    """
    rng = np.random.default_rng(seed)
    parts: list[pd.DataFrame] = []
    for strategy, table in incumbents(frame, by).items():
        regret = table.to_numpy(dtype=float) - best_known
        n_seeds = len(regret)
        columns: dict[str, Any] = {
            "strategy": strategy,
            by: table.columns,
            "n_seeds": n_seeds,
            "q25": quantile(regret, 0.25),
            "q75": quantile(regret, 0.75),
        }

        # A percentile bootstrap.
        resamples = rng.integers(n_seeds, size=(n_resamples, n_seeds))
        for name, average in _AVERAGES.items():
            columns[name] = average(regret, axis=0)
            if not n_resamples:
                continue
            # In blocks, which fit into memory.
            blocks = np.array_split(resamples, _N_BLOCKS)
            resampled = np.concatenate([average(regret[rows], axis=1) for rows in blocks])
            columns |= {
                f"{name}_low": np.quantile(resampled, 0.025, axis=0, method="lower"),
                f"{name}_high": np.quantile(resampled, 0.975, axis=0, method="higher"),
            }
        parts.append(pd.DataFrame(columns))

    return pd.concat(parts, ignore_index=True)


_AVERAGES: dict[str, Callable[..., Any]] = {
    "median": np.median,
    "iqm": partial(stats.trim_mean, proportiontocut=0.25),
}


def quantile(values: Array, q: float | Sequence[float]) -> Array:
    """Interpolate quantiles along the first axis; infinite where the value above one is.

    Args:
        values: shape (n, ...).
        q: shares of the values that lie below.
    """
    with np.errstate(invalid="ignore"):
        interpolated = np.quantile(values, q, axis=0)
    lower = np.quantile(values, q, axis=0, method="lower")
    return np.where(np.isnan(interpolated), lower, interpolated)


def budget_to_target(
    frame: pd.DataFrame,
    target: float,
    by: Spending = "trial",
    *,
    baseline: str = "random",
) -> pd.DataFrame:
    """Return trials or seconds until the incumbent is at or below `target`, and the speed-up.

    The median over all seeds, those that never reached it counting as later than any: infinity
    unless more than half did. `speed_up` is the baseline's median divided by the strategy's; NaN
    where that is not known.

    Args:
        frame: what `compare` returns.
        target: a value of the objective.
        by: what a budget is.
        baseline: the strategy that the others are compared with.
    """
    strategies = frame["strategy"].unique()
    check_member("baseline", baseline, strategies)

    # What each study had spent at its first trial that is good enough.
    trials = _with_spent(frame, by)
    reached = trials[trials["best"] <= target]
    first_reached = reached.groupby(STUDY)["spent"].min()
    studies = trials.groupby(STUDY).size().index
    table = first_reached.reindex(studies, fill_value=math.inf)
    table = table.unstack("strategy")[strategies]

    medians = table.median()
    speed_ups = medians[baseline] / medians
    is_known = np.isfinite(medians) & np.isfinite(medians[baseline])
    columns = {
        "n_seeds": table.count(),
        "reached": np.isfinite(table).sum(),
        "median_trials" if by == "trial" else "median_seconds": medians,
        "speed_up": speed_ups.where(is_known),
    }
    return pd.DataFrame(columns)
