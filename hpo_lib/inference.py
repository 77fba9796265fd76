"""What a comparison can bear: intervals, odds, budgets to a target and ranks over objectives.

Each function takes the frame that `compare` returns, and each row it gives back says its n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_RESAMPLES = 1000


def incumbents(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Per strategy the incumbent's value: a row per seed, a column per trial, up to all's last.

    A study that ended early, its grid exhausted, keeps its incumbent; before the first trial that
    did not fail, there is none (infinity).
    """
    last = int(np.max(frame["trial"].to_numpy()))
    tables: dict[str, pd.DataFrame] = {}
    for strategy in dict.fromkeys(frame["strategy"]):
        own = frame[frame["strategy"] == strategy]
        table = own.pivot(index="seed", columns="trial", values="best")
        table = table.reindex(columns=range(1, last + 1)).ffill(axis=1).fillna(math.inf)
        tables[str(strategy)] = table
    return tables


def any_time(
    frame: pd.DataFrame, *, best_known: float = 0.0, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Median and interquartile mean of the regret after each trial, with bootstrap intervals.

    The interquartile mean drops the lower and upper quarter of the seeds (Agarwal et al. 2021,
    Deep reinforcement learning at the edge of the statistical precipice). Intervals are
    percentiles over resampled seeds; below 10 seeds they are too narrow.

    Args:
        frame: what `compare` returns.
        best_known: what the regret is measured from; 0 leaves the values as they are.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        One row per strategy and trial: `n_seeds`, `median`, `iqm`, each with `_low` and `_high`.
    """
    rng = np.random.default_rng(seed)
    tail = (1 - level) / 2
    parts: list[pd.DataFrame] = []
    for strategy, table in incumbents(frame).items():
        regret = table.to_numpy(dtype=float) - best_known
        drawn = rng.integers(len(regret), size=(_RESAMPLES, len(regret)))
        columns: dict[str, Any] = {
            "strategy": strategy,
            "trial": np.arange(1, regret.shape[1] + 1),
            "n_seeds": len(regret),
        }
        for name, centre in (("median", _median), ("iqm", _interquartile_mean)):
            resampled = np.array([centre(regret[rows]) for rows in drawn])
            columns[name] = centre(regret)
            columns[f"{name}_low"] = np.quantile(resampled, tail, axis=0, method="lower")
            columns[f"{name}_high"] = np.quantile(resampled, 1 - tail, axis=0, method="higher")
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _median(values: Array) -> Array:
    ordered = np.sort(values, axis=0)
    middle = ordered[[(len(values) - 1) // 2, len(values) // 2]]
    return middle.mean(axis=0)


def _interquartile_mean(values: Array) -> Array:
    cut = len(values) // 4
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def superiority(frame: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """The probability that A is ahead of B after each trial, a tie counting half.

    From the pairs with the same seed, with bootstrap percentiles over these.

    Returns:
        One row per pair and trial: `a`, `b`, `trial`, `n_seeds`, `probability`, `low`, `high`.
    """
    rng = np.random.default_rng(seed)
    tail = (1 - level) / 2
    tables = incumbents(frame)
    parts: list[pd.DataFrame] = []
    for a, b in combinations(tables, 2):
        shared = tables[a].index.intersection(tables[b].index)
        left, right = tables[a].loc[shared].to_numpy(), tables[b].loc[shared].to_numpy()
        ahead = (left < right) + 0.5 * (left == right)
        drawn = rng.integers(len(ahead), size=(_RESAMPLES, len(ahead)))
        resampled = ahead[drawn].mean(axis=1)
        columns = {
            "a": a,
            "b": b,
            "trial": np.arange(1, ahead.shape[1] + 1),
            "n_seeds": len(ahead),
            "probability": ahead.mean(axis=0),
            "low": np.quantile(resampled, tail, axis=0),
            "high": np.quantile(resampled, 1 - tail, axis=0),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def budget_to_target(
    frame: pd.DataFrame, target: float, *, baseline: str = "random"
) -> pd.DataFrame:
    """Trials until the incumbent is at or below `target`, and the speed-up over a baseline.

    The median over all seeds, those that never got there counting as later than any: infinity
    where fewer than half did. `speed_up` is the baseline's median divided by the strategy's; NaN
    where that is not known.
    """
    tables = incumbents(frame)
    if baseline not in tables:
        message = f"baseline must be one of {', '.join(tables)}, got {baseline!r}"
        raise ValueError(message)
    rows: list[dict[str, Any]] = []
    for strategy, table in tables.items():
        there = table.to_numpy(dtype=float) <= target
        first = np.where(there.any(axis=1), there.argmax(axis=1) + 1.0, math.inf)
        median = float(_median(first[:, None])[0])
        rows.append(
            {
                "strategy": strategy,
                "n_seeds": len(first),
                "reached": int(np.isfinite(first).sum()),
                "median_trials": median,
            }
        )
    medians = {row["strategy"]: row["median_trials"] for row in rows}
    for row in rows:
        known = math.isfinite(medians[baseline]) and math.isfinite(row["median_trials"])
        row["speed_up"] = medians[baseline] / row["median_trials"] if known else math.nan
    return pd.DataFrame(rows).set_index("strategy")


def effect_size(difference: Array) -> float:
    """Matched-pairs rank-biserial correlation: -1 when A is always below B, 1 when never.

    Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).
    """
    values = difference[difference != 0]
    if not len(values):
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def rank_strategies(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean ranks of the strategies over several objectives, and Friedman's test of them.

    An objective counts once, with the median over its seeds (Demsar 2006, Statistical comparisons
    of classifiers over multiple data sets).

    Returns:
        One row per strategy, best first: `mean_rank`, `n_objectives`, and Friedman's `p`, the same
        in all rows; NaN below 3 strategies or 2 objectives, where there is no such test.
    """
    finals = pd.DataFrame(
        {
            name: {
                s: float(_median(t.to_numpy()[:, -1:])[0]) for s, t in incumbents(frame).items()
            }
            for name, frame in frames.items()
        }
    ).dropna()
    if finals.empty:
        message = f"frames must share a strategy, got {list(frames)}"
        raise ValueError(message)
    possible = finals.shape[0] >= 3 and finals.shape[1] >= 2
    test: Any = stats.friedmanchisquare(*finals.to_numpy()) if possible else None
    table = pd.DataFrame(
        {
            "mean_rank": finals.rank(axis=0).mean(axis=1),
            "n_objectives": finals.shape[1],
            "p": math.nan if test is None else float(test.pvalue),
        }
    )
    return table.sort_values("mean_rank")
