"""Describe a comparison: final values, incumbents over budgets, and budgets to a target.

Each function takes the frame that `compare` returns, and each row that it returns says its n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hpo_lib.checks import check_member

Array = NDArray[np.float64]

Spending = Literal["trial", "seconds"]
"""What a budget is: trials, or seconds of training and suggesting."""

STUDY = ["strategy", "seed"]
"""The columns that name a study of a comparison."""

_N_RESAMPLES = 1000
_N_STEPS = 50


def final_values(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the incumbent's value at the end of each study: rows are seeds, columns strategies.

    Infinity where no trial had a value; NaN where the strategy was not run with that seed.
    """
    last: Any = frame.sort_values("trial").groupby(STUDY).tail(1)
    last = last.fillna({"best": math.inf})
    table = last.pivot(index="seed", columns="strategy", values="best").sort_index()
    return table[strategies_of(frame)]


def strategies_of(frame: pd.DataFrame) -> list[str]:
    """Return the strategies of a comparison in their order."""
    return list(dict.fromkeys(frame["strategy"]))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per strategy: seeds, trials, quartiles of the final value, median seconds."""
    finals = final_values(frame)
    last: Any = frame.groupby(STUDY)[["trial", "seconds", "suggest_seconds"]].max()
    medians = last.groupby("strategy").median().loc[list(finals)]
    quartiles = [
        quantile(values.dropna().to_numpy(), (0.25, 0.5, 0.75)) for _, values in finals.items()
    ]
    q25, median, q75 = np.array(quartiles).T
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


def spent(frame: pd.DataFrame, by: Spending = "trial") -> Any:
    """Return what a study had spent when each trial ended.

    Args:
        frame: what `compare` returns.
        by: trials, or seconds of training and suggesting.
    """
    check_member("by", by, get_args(Spending))
    if by == "trial":
        return frame["trial"]
    return frame["seconds"] + frame["suggest_seconds"]


def within(frame: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """Return the comparison as it stood after so many seconds in each study.

    A study without a trial by then keeps one row: trial 0, which has no value.

    Args:
        frame: what `compare` returns.
        seconds: of training and suggesting.
    """
    first: Any = frame.sort_values("trial").drop_duplicates(STUDY)
    late = first[spent(first, "seconds") > seconds]
    empty = late.assign(
        trial=0, value=math.nan, best=math.nan, seconds=seconds, suggest_seconds=0.0
    )
    early: Any = frame[spent(frame, "seconds") <= seconds]
    cut = pd.concat([empty, early]).sort_index()
    cut.attrs = {**frame.attrs, "seconds": seconds}
    return cut


def incumbents(frame: pd.DataFrame, by: Spending = "trial") -> dict[str, pd.DataFrame]:
    """Return the incumbent's values of each strategy: a row per seed, a column per budget.

    A study that ended early, its grid exhausted, keeps its incumbent; before the first trial that
    did not fail, there is none (infinity). The seconds are even steps from where each study has
    finished a trial to the limit in seconds or, without one, to where the first study ends.

    Args:
        frame: what `compare` returns.
        by: what a budget is.
    """
    studies: Any = frame.assign(spent=spent(frame, by).astype(float)).sort_values("trial")
    budgets = _budgets(studies, by)
    tables: dict[str, pd.DataFrame] = {}
    for strategy in strategies_of(frame):
        rows: dict[int, Array] = {}
        for seed, run in studies[studies["strategy"] == strategy].groupby("seed"):
            best = run["best"].astype(float).fillna(math.inf)
            before_each = np.r_[math.inf, best]
            rows[seed] = before_each[np.searchsorted(run["spent"], budgets, side="right")]
        tables[str(strategy)] = pd.DataFrame.from_dict(rows, "index", columns=budgets)
    return tables


def _budgets(studies: Any, by: Spending) -> Array:
    ends = studies.groupby(STUDY)["spent"].agg(["min", "max"])
    if by == "trial":
        return np.arange(1.0, ends["max"].max() + 1)
    last = studies.attrs.get("seconds", ends["max"].min())
    first = studies[studies["trial"] > 0].groupby(STUDY)["spent"].min().max()
    return np.unique(np.linspace(np.fmin(first, last), last, _N_STEPS))


def any_time(
    frame: pd.DataFrame,
    by: Spending = "trial",
    *,
    best_known: float = 0.0,
    seed: int = 0,
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
        # Resamples in 20 parts: all at once would take much memory.
        samples = np.array_split(rng.integers(n_seeds, size=(_N_RESAMPLES, n_seeds)), 20)
        for name, average in (("median", np.median), ("iqm", _interquartile_mean)):
            averages = np.concatenate([average(regret[rows], axis=1) for rows in samples])
            columns[name] = average(regret, axis=0)
            columns[f"{name}_low"] = np.quantile(averages, 0.025, axis=0, method="lower")
            columns[f"{name}_high"] = np.quantile(averages, 0.975, axis=0, method="higher")
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _interquartile_mean(values: Array, axis: int) -> Any:
    return stats.trim_mean(values, 0.25, axis)


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
    frame: pd.DataFrame, target: float, by: Spending = "trial", *, baseline: str = "random"
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
    strategies = strategies_of(frame)
    check_member("baseline", baseline, strategies)
    studies: Any = frame.assign(spent=spent(frame, by).astype(float))
    reached = studies[studies["best"] <= target].groupby(STUDY)["spent"].min()
    every_study = studies.groupby(STUDY).size().index
    table = reached.reindex(every_study, fill_value=math.inf).unstack("strategy")[strategies]

    medians = table.median()
    is_known = np.isfinite(medians) & np.isfinite(medians[baseline])
    columns = {
        "n_seeds": table.count(),
        "reached": np.isfinite(table).sum(),
        "median_trials" if by == "trial" else "median_seconds": medians,
        "speed_up": (medians[baseline] / medians).where(is_known),
    }
    return pd.DataFrame(columns)
