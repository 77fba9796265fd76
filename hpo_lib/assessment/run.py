"""Make the findings of a study."""

from __future__ import annotations

import optuna
import pandas as pd
from optuna.study import StudyDirection

from hpo_lib.assessment.edges import edge_finding
from hpo_lib.assessment.evidence import Evidence
from hpo_lib.assessment.failures import failures_finding
from hpo_lib.assessment.finding import Findings
from hpo_lib.assessment.found import found_finding
from hpo_lib.assessment.luck import luck_finding
from hpo_lib.assessment.search import (
    flat_finding,
    rung_finding,
    surrogate_finding,
)
from hpo_lib.assessment.strategies import strategies_finding
from hpo_lib.assessment.worth import check_final, worth_finding
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.trials import study_space


def findings(
    study: optuna.Study,
    *,
    space: SearchSpace | None = None,
    final: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    retrained: pd.DataFrame | None = None,
) -> Findings:
    """Say what a study found, in sentences with figures, n and intervals; nothing is written.

    Each finding is PASS, WARN or CAN'T SAY by what the data show. Findings that do not apply are
    left out: rungs without pruning, strategies without a comparison, edges without a range.

    Args:
        study: a study that minimises; see `open_study`.
        space: its search space; default: the recorded one.
        final: trainings on test images, one row each, `configuration` being "default" or "tuned",
            both with the same seeds; columns `configuration`, `seed`, `epochs`,
            `validation_error`, `test_error` (fractions), `seconds` and `n_test`.
        comparison: what `compare` or `replay` returns.
        retrained: what `retrained_frame` returns.

    Returns:
        A tuple of findings, which prints as text and shows as HTML in a notebook.

    Raises:
        StudyError: another program made the study, and no space is given.
        ValueError: the study maximises or has several objectives, or `final` lacks a column.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0, high: 1, default: 1}")
        >>> options = {"name": "doc", "storage": "memory", "workers": 0}
        >>> study = run_study(lambda c: (c["x"] - 0.3) ** 2, space, "random", 12, **options)
        >>> [str(finding.status) for finding in findings(study)][:2]
        ["CAN'T SAY", 'PASS']
    """
    if study.directions != [StudyDirection.MINIMIZE]:
        directions = [direction.name.lower() for direction in study.directions]
        message = f"study must minimise one value, got {directions}"
        raise ValueError(message)

    final = None if final is None else check_final(final)
    space = study_space(study) if space is None else space
    evidence = Evidence(
        study=study,
        space=space,
        retrained=retrained,
        final=final,
    )
    found = [
        worth_finding(evidence),
        found_finding(evidence),
        luck_finding(evidence),
        edge_finding(evidence),
        flat_finding(evidence),
        surrogate_finding(evidence),
        rung_finding(evidence),
        None if comparison is None else strategies_finding(comparison),
        failures_finding(evidence.trials),
    ]
    return Findings([finding for finding in found if finding is not None])
