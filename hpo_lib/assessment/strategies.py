"""Say which strategies a comparison separates, and how many seeds the others would take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hpo_lib.assessment.evidence import count, join
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.comparison.hypothesis_tests import separations
from hpo_lib.comparison.statistics import Array, final_values, strategies_of

_TOPIC = "Which strategies differ?"
_LEVEL = 0.05
_POWER = 0.8
_MAX_SEEDS = 1000


def strategies_finding(comparison: pd.DataFrame) -> Finding:
    """Say which pairs of strategies end apart by Wilcoxon's signed-rank test.

    Args:
        comparison: what `compare` or `replay` returns.
    """
    names = strategies_of(comparison)
    if len(names) < 2:
        sentence = f"A comparison needs at least two strategies, got {count(len(names), 'one')}."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    finals: Any = final_values(comparison)
    table = separations(comparison)
    separated: list[str] = []
    others: list[str] = []
    pairs: list[dict[str, Any]] = []
    for pair in table.to_dict("records"):
        a, b = pair["a"], pair["b"]
        if pair["p"] <= _LEVEL:
            better, worse = (a, b) if pair["effect"] < 0 else (b, a)
            separated.append(f"{better} ends below {worse} ({_p_value(pair['p'])})")
        else:
            shared = finals[[a, b]].dropna()
            needed = seeds_needed((shared[a] - shared[b]).to_numpy(dtype=float), len(table))
            pair["seeds_needed"] = needed
            more = f"more than {_MAX_SEEDS:,}" if needed is None else f"about {needed}"
            others.append(f"{a} and {b} ({_p_value(pair['p'])}; it would take {more})")
        pairs.append({str(key): value for key, value in pair.items()})

    n_seeds = min(pair["n_seeds"] for pair in pairs)
    n = count(n_seeds, "seed")
    figures = {"pairs": pairs, "n_seeds": n_seeds}
    parts: list[str] = []
    if separated:
        parts.append(f"With {n}, {join(separated)}.")
    if others:
        parts.append(f"{n.capitalize()} cannot separate {join(others)}.")
    status = Status.PASS if separated else Status.CANT_SAY
    return Finding(_TOPIC, status, " ".join(parts), figures)


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
    quantiles: Any = stats.norm.ppf([1 - _LEVEL / (2 * n_pairs), _POWER])
    needed = quantiles.sum() ** 2 / (3 * effect**2) if effect > 0 else math.inf

    # Below this many seeds, no result is significant.
    least = 1 + math.log2(n_pairs / _LEVEL)
    needed = max(needed, least)
    return math.ceil(needed) if needed <= _MAX_SEEDS else None


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
