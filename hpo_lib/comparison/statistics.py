"""What a comparison can bear: intervals, odds, budgets to a target and ranks over objectives.

Each function takes the frame that `compare` returns, and each row it gives back says its n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hpo_lib.checks import check_member
from hpo_lib.comparison.surrogate_benchmark import Trust

Array = NDArray[np.float64]

Spending = Literal["trial", "seconds"]

_RESAMPLES = 1000
_STEPS = 50


def spent(frame: pd.DataFrame, by: Spending = "trial") -> Any:
    """What a study had spent when each trial ended: trials, or seconds training and deciding."""
    check_member("by", by, get_args(Spending))
    return frame["trial"] if by == "trial" else frame["seconds"] + frame["suggest_seconds"]


def within(frame: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """The comparison as it stood after so many seconds of training and deciding in each study.

    A study without a trial by then keeps one row: trial 0, which has no value.
    """
    first: Any = frame.sort_values("trial").drop_duplicates(["strategy", "seed"])
    first = first[spent(first, "seconds") > seconds]
    nothing = {"trial": 0, "value": math.nan, "best": math.nan, "suggest_seconds": 0.0}
    early: Any = frame[spent(frame, "seconds") <= seconds]
    cut = pd.concat([first.assign(**nothing, seconds=seconds), early]).sort_index()
    cut.attrs = {**frame.attrs, "seconds": seconds}
    return cut


def incumbents(frame: pd.DataFrame, by: Spending = "trial") -> dict[str, pd.DataFrame]:
    """Per strategy the incumbent's value: a row per seed, a column per trial or budget in seconds.

    A study that ended early, its grid exhausted, keeps its incumbent; before the first trial that
    did not fail, there is none (infinity). The seconds are even steps from where each study has
    finished a trial to the limit in seconds or, without one, to where the first study ends.
    """
    studies: Any = frame.assign(spent=spent(frame, by).astype(float)).sort_values("trial")
    ends = studies.groupby(["strategy", "seed"])["spent"].agg(["min", "max"])
    budgets = np.arange(1.0, ends["max"].max() + 1)
    if by == "seconds":
        last = frame.attrs.get("seconds", ends["max"].min())
        first = studies[studies["trial"] > 0].groupby(["strategy", "seed"])["spent"].min().max()
        budgets = np.unique(np.linspace(np.fmin(first, last), last, _STEPS))
    tables: dict[str, pd.DataFrame] = {}
    for strategy in dict.fromkeys(frame["strategy"]):
        rows = {
            seed: _standing(run["spent"].to_numpy(), run["best"].to_numpy(dtype=float), budgets)
            for seed, run in studies[studies["strategy"] == strategy].groupby("seed")
        }
        tables[str(strategy)] = pd.DataFrame.from_dict(rows, "index", columns=budgets)
    return tables


def _standing(ended: Array, best: Array, budgets: Array) -> Array:
    """The incumbent after each budget; infinity before there is one."""
    known = np.r_[math.inf, np.where(np.isnan(best), math.inf, best)]
    return known[np.searchsorted(ended, budgets, side="right")]


def any_time(
    frame: pd.DataFrame,
    by: Spending = "trial",
    *,
    best_known: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Median, quartiles and interquartile mean of the regret at each budget, with intervals.

    The interquartile mean drops the lower and upper quarter of the seeds (Agarwal et al. 2021,
    Deep reinforcement learning at the edge of the statistical precipice). Intervals are
    95 % percentiles over resampled seeds; below 10 seeds they are too narrow.

    Args:
        frame: what `compare` returns.
        by: what a budget is: trials, or seconds of training and deciding.
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
        drawn = np.array_split(rng.integers(len(regret), size=(_RESAMPLES, len(regret))), 20)
        columns: dict[str, Any] = {
            "strategy": strategy,
            by: table.columns,
            "n_seeds": len(regret),
            "q25": quantile(regret, 0.25),
            "q75": quantile(regret, 0.75),
        }
        for name, centre in (("median", np.median), ("iqm", _interquartile_mean)):
            resampled = np.concatenate([centre(regret[rows], axis=1) for rows in drawn])
            columns[name] = centre(regret, axis=0)
            columns[f"{name}_low"] = np.quantile(resampled, 0.025, axis=0, method="lower")
            columns[f"{name}_high"] = np.quantile(resampled, 0.975, axis=0, method="higher")
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def quantile(values: Array, q: float | Sequence[float]) -> Array:
    """Along the first axis, interpolated; infinite where there is something infinite to reach."""
    with np.errstate(invalid="ignore"):
        between = np.quantile(values, q, axis=0)
    return np.where(np.isnan(between), np.quantile(values, q, axis=0, method="lower"), between)


def _interquartile_mean(values: Array, axis: int) -> Any:
    return stats.trim_mean(values, 0.25, axis)


def superiority(
    frame: pd.DataFrame,
    by: Spending = "trial",
    *,
    against: str | None = None,
) -> pd.DataFrame:
    """The probability that A is ahead of B at each budget, a tie counting half.

    From the seeds that both have, paired, with 95 % score intervals (Wilson 1927, Probable
    inference, the law of succession, and statistical inference), which stay honest where all seeds
    agree. `against` leaves the pairs in which B is that strategy; else there are all, each once;
    pairs without a shared seed are left out.

    Raises:
        ValueError: no pair shares a seed.
    """
    tables = incumbents(frame, by)
    z2 = float(stats.norm.ppf(0.975)) ** 2
    parts: list[pd.DataFrame] = []
    for a, b in pairs_of(tables, against):
        shared = tables[a].index.intersection(tables[b].index)
        if not (n := len(shared)):
            continue
        left, right = tables[a].loc[shared].to_numpy(), tables[b].loc[shared].to_numpy()
        p = ((left < right) + 0.5 * (left == right)).mean(axis=0)
        middle, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) + z2 / (4 * n)) / n)
        columns: dict[str, Any] = {
            "a": a,
            "b": b,
            by: tables[a].columns,
            "n_seeds": n,
            "probability": p,
            "low": (middle - half) / (1 + z2 / n),
            "high": (middle + half) / (1 + z2 / n),
        }
        parts.append(pd.DataFrame(columns))
    if not parts:
        message = "superiority needs two strategies that were run with the same seeds, got none"
        raise ValueError(message)
    return pd.concat(parts, ignore_index=True)


def pairs_of(strategies: Iterable[str], against: str | None = None) -> list[tuple[str, str]]:
    """Every pair once; with `against`, those in which it is the second.

    Raises:
        ValueError: there is no pair, or no such strategy.
    """
    names = list(strategies)
    if len(names) < 2:
        message = f"a comparison needs at least two strategies, got {names}"
        raise ValueError(message)
    if against is None:
        return list(combinations(names, 2))
    check_member("against", against, names)
    return [(name, against) for name in names if name != against]


def budget_to_target(
    frame: pd.DataFrame, target: float, by: Spending = "trial", *, baseline: str = "random"
) -> pd.DataFrame:
    """Trials or seconds until the incumbent is at or below `target`, and the speed-up.

    The median over all seeds, those that never got there counting as later than any: infinity
    unless more than half did. `speed_up` is the baseline's median divided by the strategy's; NaN
    where that is not known.
    """
    studies: Any = frame.assign(spent=spent(frame, by).astype(float))
    names = list(dict.fromkeys(frame["strategy"]))
    check_member("baseline", baseline, names)
    there = studies[studies["best"] <= target]
    first = there.groupby(["strategy", "seed"])["spent"].min()
    index = studies.groupby(["strategy", "seed"]).size().index
    table = first.reindex(index, fill_value=math.inf).unstack("strategy")
    medians = {name: np.median(table[name].dropna()) for name in names}
    speed_ups = [
        float(medians[baseline] / medians[name])
        if math.isfinite(medians[baseline]) and math.isfinite(medians[name])
        else math.nan
        for name in names
    ]
    columns = {
        "n_seeds": table.count().reindex(names),
        "reached": np.isfinite(table).sum().reindex(names),
        "median_trials" if by == "trial" else "median_seconds": pd.Series(medians, dtype=float),
        "speed_up": pd.Series(speed_ups, names),
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="strategy"))


def effect_size(difference: Array) -> float:
    """Matched-pairs rank-biserial correlation: -1 when A is always below B, 1 when never.

    Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).
    """
    values = difference[difference != 0]
    if not len(values):
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def friedman(values: Array) -> float:
    """The p of Friedman's test: blocks in rows, strategies in columns; NaN below 3 or 2 of them.

    That the strategies differ at all; where every block is a tie, they do not.
    """
    if values.shape[0] < 2 or values.shape[1] < 3:
        return math.nan
    if (values == values[:, :1]).all():
        return 1.0
    test: Any = stats.friedmanchisquare(*values.T)
    return float(test.pvalue)


@dataclass(frozen=True)
class Ranks:
    """Strategies ranked over several objectives, each of which counts once.

    Attributes:
        values: median final values, a row per objective, a column per strategy.
        p: Nemenyi's, for each pair; rows and columns are strategies.
        friedman: the p of Friedman's test that the strategies differ at all.
        critical_difference: of mean ranks at the 5 % level.
        n_seeds: behind each median, the fewest.
        trust: in the worst of the surrogates that it rests on; None without any.
    """

    values: pd.DataFrame
    p: pd.DataFrame
    friedman: float
    critical_difference: float
    n_seeds: int
    trust: Trust | None

    @property
    def mean(self) -> pd.Series:
        """The mean rank of each strategy, 1 the best, ties shared; the best comes first."""
        return self.values.rank(axis=1).mean().sort_values(kind="stable")

    @property
    def table(self) -> pd.DataFrame:
        """A row per strategy: `mean_rank`, `n_objectives`, and how often it was the best."""
        best = (self.values.rank(axis=1, method="min") == 1).sum()
        columns = {"mean_rank": self.mean, "times_best": best, "n_objectives": len(self.values)}
        return pd.DataFrame(columns, index=self.mean.index)

    def __str__(self) -> str:
        n, mean, lines = f"{len(self.values)} objectives", self.mean, list[str]()
        if not self.friedman <= 0.05:
            lines.append(
                f"{n} cannot tell the strategies apart (Friedman's p = {self.friedman:.2g})"
            )
        else:
            lines.append(f"{n}: the strategies differ (Friedman's p = {self.friedman:.2g})")
            for a, b in combinations(mean.index, 2):
                p, apart = self.p.loc[a, b], mean[b] - mean[a]
                said = f"{a} ranks before {b}" if p <= 0.05 else f"cannot separate {a} from {b}"
                lines.append(f"{n}: {said} (p = {p:.2g}, mean ranks {apart:.2f} apart)")
        lines.append(
            f"critical difference of mean ranks: {self.critical_difference:.2f} (Nemenyi)"
        )
        return "\n".join(lines)


def rank_strategies(frames: Mapping[str, pd.DataFrame]) -> Ranks:
    """Rank the strategies that all objectives share by their median final values.

    Friedman's test and Nemenyi's after it (Demsar 2006, Statistical comparisons of classifiers
    over multiple data sets): with few objectives the critical difference is large.

    Raises:
        ValueError: fewer than 3 shared strategies or 2 objectives, where there is no such test.
    """
    from scikit_posthocs import posthoc_nemenyi_friedman  # takes seconds to import

    tables = {name: incumbents(frame) for name, frame in frames.items()}
    medians = {
        name: {s: float(np.median(t.to_numpy()[:, -1])) for s, t in table.items()}
        for name, table in tables.items()
    }
    values: Any = pd.DataFrame.from_dict(medians, "index").dropna(axis=1)
    n, k = values.shape
    if n < 2 or k < 3:
        message = f"ranks need 2 objectives that share 3 strategies, got {n} and {k}"
        raise ValueError(message)
    p = posthoc_nemenyi_friedman(values.reset_index(drop=True))
    quantile = float(stats.studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2)
    trusts = [one for frame in frames.values() if (one := frame.attrs.get("trust")) is not None]
    return Ranks(
        values,
        p,
        friedman(values.to_numpy()),
        quantile * math.sqrt(k * (k + 1) / (6 * n)),
        min(len(one) for table in tables.values() for one in table.values()),
        min(trusts, key=lambda one: one.spearman, default=None),
    )
