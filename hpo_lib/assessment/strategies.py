"""Say which strategies a comparison separates, and how many seeds the others would take."""

from __future__ import annotations

import pandas as pd

from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.comparison.hypothesis_tests import LEVEL, separations, verdict

_TOPIC = "Which strategies differ?"


def strategies_finding(comparison: pd.DataFrame) -> Finding:
    """Say which strategies end apart by Wilcoxon's signed-rank test.

    Args:
        comparison: what `compare` or `replay` returns.
    """
    names = comparison["strategy"].unique().tolist()
    if len(names) < 2:
        sentence = f"A comparison needs at least two strategies, got {names}."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    pairs = separations(comparison).to_dict("records")
    figures = {"pairs": pairs, "n_seeds": min(pair["n_seeds"] for pair in pairs)}
    is_separated = any(pair["p"] <= LEVEL for pair in pairs)
    status = Status.PASS if is_separated else Status.CANT_SAY
    return Finding(_TOPIC, status, " ".join(verdict(comparison).splitlines()), figures)
