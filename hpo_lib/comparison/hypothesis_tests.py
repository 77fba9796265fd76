"""Test whether strategies differ: pairs over seeds, and ranks over objectives.

Each function takes frames that `compare` returns, and each row of the result includes
the sample size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hpo_lib.checks import check_member
from hpo_lib.comparison.statistics import Array, Spending, final_values, incumbents
from hpo_lib.comparison.surrogate_benchmark import SurrogateQuality
from hpo_lib.formatting import count

LEVEL = 0.05
_POWER = 0.8
_MOST_PAIRS = 3

MAX_SEEDS = 1000
"""Largest number of seeds that an estimate of the seeds needed names."""


def pairs_of(
    strategies: Iterable[str],
    against: str | None = None,
) -> list[tuple[str, str]]:
    """Return every pair once; with `against`, those in which it is the second.

    Args:
        strategies: their names.
        against: one of them.

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


def superiority(
    frame: pd.DataFrame,
    by: Spending = "trial",
    *,
    against: str | None = None,
) -> pd.DataFrame:
    """Return the probability that A is ahead of B at each budget, a tie counting half.

    From the seeds that both have, paired, with 95 % score intervals (Wilson 1927, Probable
    inference, the law of succession, and statistical inference), which keep their coverage where
    all seeds agree. Pairs without a shared seed are left out.

    Args:
        frame: what `compare` returns.
        by: unit of the budget, "trial" or "seconds".
        against: keep only the pairs in which B is this strategy; None: every pair once.

    Raises:
        ValueError: no pair shares a seed.
    """
    tables = incumbents(frame, by)
    parts: list[pd.DataFrame] = []
    for a, b in pairs_of(tables, against):
        seeds = tables[a].index.intersection(tables[b].index)
        if len(seeds) == 0:
            continue
        columns: dict[str, Any] = {
            "a": a,
            "b": b,
            by: tables[a].columns,
            "n_seeds": len(seeds),
            **_ahead(tables[a].loc[seeds].to_numpy(), tables[b].loc[seeds].to_numpy()),
        }
        parts.append(pd.DataFrame(columns))
    if not parts:
        message = "superiority needs two strategies that were run with the same seeds, got none"
        raise ValueError(message)
    return pd.concat(parts, ignore_index=True)


def _ahead(values_a: Array, values_b: Array) -> dict[str, Array]:
    """Return the probability that A is below B, with Wilson's interval.

    Args:
        values_a: values of A, shape (seeds, ...).
        values_b: those of B, with the same seeds.

    Returns:
        `probability`, `low` and `high`, each of the shape (...).
    """
    n = len(values_a)
    z2 = float(stats.norm.ppf(0.975)) ** 2
    is_ahead = values_a < values_b
    is_tie = values_a == values_b
    p = (is_ahead + 0.5 * is_tie).sum(axis=0) / max(n, 1)

    # Wilson's interval: (centre ± half) / (n + z²); from 0 to 1 without any seed.
    centre = n * p + z2 / 2
    variance = n * p * (1 - p) + z2 / 4
    half = np.sqrt(z2 * variance)
    return {
        "probability": p,
        "low": (centre - half) / (n + z2),
        "high": (centre + half) / (n + z2),
    }


def separations(
    frame: pd.DataFrame,
    against: str | None = None,
) -> pd.DataFrame:
    """Return, for every pair of strategies, how often A ends below B, and whether by chance.

    From the seeds that both were run with; a study without any value ends above all others.

    Args:
        frame: what `compare` returns.
        against: keep only the pairs in which B is this strategy.

    Returns:
        A row per pair. `p` is that of Wilcoxon's signed-rank test on the paired final values,
        two-sided, corrected by Holm (1979) for the number of pairs. `effect` is the matched-pairs
        rank-biserial correlation, -1 where A always ends below B and 1 where B does.
        `probability` is that of A ending below B, with the interval of `superiority`. `smallest_p`
        is the least that this many seeds could show: above 0.05, no result separates any two.
        `seeds_needed` would separate the pair in 80 % of comparisons, if its differences stay as
        they are; NaN where that is more than 1,000.
    """
    finals: Any = final_values(frame)
    pairs = pairs_of(finals, against)
    rows: list[dict[str, Any]] = []
    for a, b in pairs:
        shared = finals[[a, b]].dropna()
        n = len(shared)
        # Two infinities are a tie; their difference would be NaN.
        is_tie = shared[a] == shared[b]
        difference = (shared[a] - shared[b]).mask(is_tie, 0.0)
        # Smallest two-sided p: all differences have the same sign. Before Holm's correction.
        least_p = 2.0 ** (1 - n)
        row = {
            "a": a,
            "b": b,
            "n_seeds": n,
            "a_wins": (difference < 0).sum(),
            "ties": is_tie.sum(),
            "median_difference": difference.median(),
            **_ahead(shared[a].to_numpy(), shared[b].to_numpy()),
            "effect": effect_size(difference.to_numpy()),
            "p": _wilcoxon(difference.to_numpy()),
            "smallest_p": min(1.0, len(pairs) * least_p),
            "seeds_needed": seeds_needed(difference.to_numpy(), len(pairs)),
        }
        rows.append(row)

    table = pd.DataFrame(rows)
    corrected = _holm(table["p"].to_numpy())
    return table.assign(p=corrected, seeds_needed=table["seeds_needed"].astype(float))


def effect_size(difference: Array) -> float:
    """Return the matched-pairs rank-biserial correlation: -1 when A is always below B.

    Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).
    """
    values = difference[difference != 0]
    if not len(values):
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    signed = ranks * np.sign(values)
    return float(signed.sum() / ranks.sum())


def _wilcoxon(difference: Array) -> float:
    values = difference[difference != 0]
    if not len(values):
        return 1.0
    result: Any = stats.wilcoxon(values)
    return float(result.pvalue)


def _holm(p: Array) -> Array:
    order = np.argsort(p)
    n_left = np.arange(len(p), 0, -1)
    steps = np.maximum.accumulate(p[order] * n_left)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def seeds_needed(differences: Array, n_pairs: int = 1) -> int | None:
    """Estimate how many seeds would separate two strategies in 80 % of the cases.

    The formula is that of Noether (1987), "Sample size determination for some common
    nonparametric tests", for Wilcoxon's signed-rank test.

    Args:
        differences: of the final values, one per seed, shape (n,).
        n_pairs: pairs of strategies that are tested at once.

    Returns:
        The number; None where it would be more than 1,000, or without any difference.
    """
    values = differences[np.isfinite(differences)]
    if not len(values):
        return None

    # Probability that the mean of two differences is positive, a tie counting half.
    means = values[:, None] + values[None, :]
    walsh = means[np.triu_indices(len(values), 1)] if len(values) > 1 else values
    effect = float(abs(0.5 * np.sign(walsh).mean()))
    quantiles: Any = stats.norm.ppf([1 - LEVEL / (2 * n_pairs), _POWER])
    needed = quantiles.sum() ** 2 / (3 * effect**2) if effect > 0 else math.inf

    # Below this many seeds, no result is significant.
    least = 1 + math.log2(n_pairs / LEVEL)
    needed = max(needed, least)
    return math.ceil(needed) if needed <= MAX_SEEDS else None


def format_p(p: float) -> str:
    """Return a p-value with its sign, as "p = 0.02"; small ones as "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def friedman(values: Array) -> float:
    """Return the p of Friedman's test that strategies differ at all.

    It is 1 where every block is a tie.

    Args:
        values: shape (blocks, strategies).

    Returns:
        The p; NaN for fewer than 2 blocks or 3 strategies.
    """
    n_blocks, n_strategies = values.shape
    if n_blocks < 2 or n_strategies < 3:
        return math.nan
    if (values == values[:, :1]).all():
        return 1.0
    test: Any = stats.friedmanchisquare(*values.T)
    return float(test.pvalue)


def verdict(frame: pd.DataFrame) -> str:
    """Say in words what the comparison can and cannot tell, one line per pair.

    With more than three pairs it is one line per strategy. From three strategies on, Friedman's
    test that they differ at all comes first. The level of significance is 5 %.

    Args:
        frame: what `compare` returns.
    """
    seconds = frame.attrs.get("seconds")
    trials = f"at {frame['trial'].max()} trials"
    budget = trials if seconds is None else f"within {seconds:g} s"

    lines: list[str] = []
    finals = final_values(frame).dropna()
    p = friedman(finals.to_numpy(dtype=float))
    if math.isfinite(p):
        differ = "differ" if p <= LEVEL else "cannot be told apart"
        lines.append(
            f"{len(finals)} seeds, {finals.shape[1]} strategies: they {differ} {budget} "
            f"(Friedman's test, {format_p(p)})."
        )

    pairs = separations(frame).to_dict("records")
    if len(pairs) <= _MOST_PAIRS:
        lines += [_pair_verdict(pair, budget) for pair in pairs]
    else:
        lines += [_strategy_verdict(name, pairs) for name in finals]
    return "\n".join(lines)


def _strategy_verdict(name: object, pairs: Sequence[Mapping[Any, Any]]) -> str:
    """Return which strategies one of them beats, and which it cannot be told from."""
    beaten: list[str] = []
    unclear: list[str] = []
    for pair in pairs:
        if name not in (pair["a"], pair["b"]):
            continue
        other = pair["b"] if name == pair["a"] else pair["a"]
        is_below = (pair["effect"] < 0) == (name == pair["a"])
        if pair["p"] > LEVEL:
            unclear.append(f"{other} ({format_p(pair['p'])}; {describe_need(pair)})")
        elif is_below:
            beaten.append(f"{other} ({format_p(pair['p'])})")

    text = f"{name} ends below: {', '.join(beaten) or 'none'}"
    if not unclear:
        return text
    return f"{text}; cannot be told from: {', '.join(unclear)}"


def _pair_verdict(pair: Mapping[Any, Any], budget: str) -> str:
    a = pair["a"]
    b = pair["b"]
    p = pair["p"]
    seeds = count(pair["n_seeds"], "seed")
    if p <= LEVEL:
        better, worse = (a, b) if pair["effect"] < 0 else (b, a)
        effect = f"effect size {abs(pair['effect']):.2f}"
        return f"{seeds}: {better} ends below {worse} {budget} ({format_p(p)}, {effect})."

    text = f"{seeds} cannot separate {a} from {b} {budget}"
    if pair["smallest_p"] > LEVEL:
        smallest = f"smallest possible p = {pair['smallest_p']:.2f}"
        text += f", whatever they had shown ({smallest}, here p = {p:.2f})"
    else:
        text += f" (p = {p:.2f})"
    return f"{text}; it would take {describe_need(pair)}."


def describe_need(pair: Mapping[Any, Any]) -> str:
    """Return how many seeds would separate a pair, a row of `separations`."""
    needed = pair["seeds_needed"]
    is_few = math.isfinite(needed)
    return f"about {needed:.0f} seeds" if is_few else f"more than {MAX_SEEDS:,} seeds"


@dataclass(frozen=True)
class Ranks:
    """Strategies ranked over several objectives, each of which counts once.

    Attributes:
        values: median final values, a row per objective, a column per strategy.
        p: Nemenyi's, for each pair; rows and columns are strategies.
        friedman: the p of Friedman's test that the strategies differ at all.
        critical_difference: of mean ranks at the 5 % level.
        n_seeds: behind each median, the fewest.
        quality: of the worst of the surrogates that it rests on; None without any.
        n_surrogates: how many of the objectives are surrogates.
    """

    values: pd.DataFrame
    p: pd.DataFrame
    friedman: float
    critical_difference: float
    n_seeds: int
    quality: SurrogateQuality | None
    n_surrogates: int = 0

    @property
    def mean(self) -> pd.Series:
        """Return the mean rank of each strategy, 1 the best, ties shared; the best comes first."""
        means = self.values.rank(axis=1).mean()
        return means.sort_values(kind="stable")

    @property
    def table(self) -> pd.DataFrame:
        """Return a row per strategy: `mean_rank`, `times_best` and `n_objectives`."""
        ranks = self.values.rank(axis=1, method="min")
        columns = {
            "mean_rank": self.mean,
            "times_best": (ranks == 1).sum(),
            "n_objectives": len(self.values),
        }
        return pd.DataFrame(columns, index=self.mean.index)

    @property
    def inseparable(self) -> list[tuple[float, float]]:
        """Return the lowest and highest mean rank of each largest group without a difference."""
        mean = self.mean
        groups: list[tuple[float, float]] = []
        for name, lowest in mean.items():
            highest = float(mean[self.p[name] > LEVEL].max())
            is_inside = bool(groups) and highest <= groups[-1][1]
            if highest > lowest and not is_inside:
                groups.append((float(lowest), highest))
        return groups

    def __str__(self) -> str:
        n = f"{len(self.values)} objectives"
        friedman = f"(Friedman's test, {format_p(self.friedman)})"
        nemenyi = f"critical difference of mean ranks: {self.critical_difference:.2f} (Nemenyi)"
        if not self.friedman <= LEVEL:
            return f"{n} cannot tell the strategies apart {friedman}\n{nemenyi}"

        lines = [f"{n}: the strategies differ {friedman}"]
        mean = self.mean
        others: list[str] = []
        for a, b in combinations(mean.index, 2):
            p = format_p(self.p.loc[a, b])
            if self.p.loc[a, b] <= LEVEL:
                apart = f"mean ranks {mean[b] - mean[a]:.2f} apart"
                lines.append(f"{n}: {a} ranks before {b} ({p}, {apart})")
            else:
                others.append(f"{a} from {b} ({p})")
        if others:
            lines.append(f"{n}: cannot separate {', '.join(others)}")

        return "\n".join([*lines, nemenyi])


def rank_strategies(frames: Mapping[str, pd.DataFrame]) -> Ranks:
    """Rank the strategies that all objectives share by their median final values.

    Friedman's test and Nemenyi's after it (Demsar 2006, Statistical comparisons of classifiers
    over multiple data sets): with few objectives the critical difference is large.

    Raises:
        ValueError: fewer than 3 shared strategies or 2 objectives, where there is no such test.
    """
    finals = [final_values(frame) for frame in frames.values()]
    medians = [table.median() for table in finals]
    values: Any = pd.DataFrame(medians, index=list(frames))
    values = values.dropna(axis=1).rename_axis(columns=None)
    n, k = values.shape  # objectives, strategies
    if n < 2 or k < 3:
        message = f"ranks need 2 objectives that share 3 strategies, got {n} and {k}"
        raise ValueError(message)

    # Nemenyi's test: the range of the mean ranks, in these units, is a studentized range.
    unit = math.sqrt(k * (k + 1) / (12 * n))
    means = values.rank(axis=1).mean()
    apart = np.abs(np.subtract.outer(means.to_numpy(), means.to_numpy()))
    p = stats.studentized_range.sf(apart / unit, k, np.inf)
    qualities = [
        frame.attrs["surrogate_quality"]
        for frame in frames.values()
        if "surrogate_quality" in frame.attrs
    ]
    return Ranks(
        values=values,
        p=pd.DataFrame(p, index=means.index, columns=means.index),
        friedman=friedman(values.to_numpy()),
        critical_difference=unit * float(stats.studentized_range.isf(LEVEL, k, np.inf)),
        n_seeds=min(int(table.count().min()) for table in finals),
        quality=min(qualities, key=attrgetter("spearman"), default=None),
        n_surrogates=len(qualities),
    )
