"""Say which strategies a comparison separates, and how many seeds the others would take."""

from __future__ import annotations

import pandas as pd

from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.comparison.hypothesis_tests import LEVEL, separations, verdict
from hpo_lib.formatting import count

_TOPIC = "Which strategies differ?"


def strategies_finding(comparison: pd.DataFrame) -> Finding:
    """Say which strategies end apart by Wilcoxon's signed-rank test.

    Args:
        comparison: what `compare` or `replay` returns.
    """
    n_strategies = comparison["strategy"].nunique()
    if n_strategies < 2:
        sentence = f"A comparison needs at least two strategies, got {count(n_strategies, 'one')}."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    pairs = separations(comparison)
    figures = {"pairs": pairs.to_dict("records"), "n_seeds": pairs["n_seeds"].min()}
    status = Status.PASS if (pairs["p"] <= LEVEL).any() else Status.CANT_SAY
    return Finding(_TOPIC, status, " ".join(verdict(comparison).splitlines()), figures)
