"""Say which strategies a comparison separates, and how many seeds the others would take."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpo_lib.assessment.evidence import join
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.comparison.hypothesis_tests import LEVEL, describe_need, format_p, separations
from hpo_lib.formatting import count

_TOPIC = "Which strategies differ?"


def strategies_finding(comparison: pd.DataFrame) -> Finding:
    """Say which pairs of strategies end apart by Wilcoxon's signed-rank test.

    Args:
        comparison: what `compare` or `replay` returns.
    """
    names = comparison["strategy"].unique().tolist()
    if len(names) < 2:
        sentence = f"A comparison needs at least two strategies, got {count(len(names), 'one')}."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    table = separations(comparison)
    separated: list[str] = []
    others: list[str] = []
    pairs: list[dict[str, Any]] = []
    for pair in table.to_dict("records"):
        a, b = pair["a"], pair["b"]
        if pair["p"] <= LEVEL:
            better, worse = (a, b) if pair["effect"] < 0 else (b, a)
            separated.append(f"{better} ends below {worse} ({format_p(pair['p'])})")
        else:
            need = describe_need(pair)
            others.append(f"{a} and {b} ({format_p(pair['p'])}; it would take {need})")
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
