"""Say whether the search may end, and whether surrogate and rungs are to be relied on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hpo_lib.assessment.evidence import (
    MIN_CORRELATION,
    MIN_CROSS_VALIDATED,
    Correlation,
    Evidence,
    rank_correlation,
)
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import count
from hpo_lib.study.stopping import largest_expected_improvement
from hpo_lib.trials import TrialOutcome

_MIN_TRIALS = 10
_MIN_SURVIVORS = 5

_FLAT = 0.05
_STEEP = 0.2
"""Expected improvement as a share of the spread of values, below which a search has flattened and
above which it has not; `benchmarks/findings_rates.py` measures what they lead to.
"""

_WEAK = 0.5
"""Rank correlation below which a ranking is of little use."""


def flat_finding(evidence: Evidence) -> Finding:
    """Say how much improvement is left by the surrogate, and when the last one was.

    Args:
        evidence: the study.
    """
    topic = "Has the search flattened?"
    surrogate = evidence.surrogate
    best = evidence.best
    if len(evidence.ranked) < _MIN_TRIALS or surrogate is None or best is None:
        n = count(len(evidence.ranked), "completed trial")
        sentence = f"{n} are too few to tell; it takes {_MIN_TRIALS}."
        return Finding(topic, Status.CANT_SAY, sentence)

    expected = largest_expected_improvement(surrogate, evidence.ranked)
    ratio = expected / evidence.spread if evidence.spread > 0 else 0.0
    n_trials = len(evidence.trials)
    since = n_trials - 1 - evidence.trials.index(best)
    figures = {
        "expected_improvement": expected,
        "share_of_spread": ratio,
        "trials_since_gain": since,
        "n_trials": n_trials,
    }
    text = (
        f"the surrogate expects one more trial to gain about {expected:.1g}; the last gain was "
        f"{count(since, 'trial')} ago, of {n_trials}."
    )
    if not evidence.is_predictable:
        sentence = f"The surrogate does not predict well enough to tell: {text}"
        return Finding(topic, Status.CANT_SAY, sentence, figures)
    if ratio <= _FLAT:
        return Finding(topic, Status.PASS, f"Yes: {text}", figures)
    if ratio >= _STEEP:
        return Finding(topic, Status.WARN, f"No, more trials should help: {text}", figures)
    return Finding(topic, Status.CANT_SAY, f"Not clear: {text}", figures)


def surrogate_finding(evidence: Evidence) -> Finding:
    """Say whether the surrogate ranks trials that it was not fitted to.

    Args:
        evidence: the study.
    """
    topic = "Does the surrogate predict?"
    quality = evidence.quality
    if quality is None:
        sentence = (
            "Too few different configurations to hold some back; it takes "
            f"{MIN_CROSS_VALIDATED} with a final value."
        )
        return Finding(topic, Status.CANT_SAY, sentence)

    text = f"the rank correlation of predicted and measured values is {quality}, cross-validated."
    return _judge(topic, quality, text, "No, so do not rely on figures of it")


def rung_finding(evidence: Evidence) -> Finding | None:
    """Say whether the first rung ranks trials as the end does; None where none was pruned.

    Args:
        evidence: the study.
    """
    topic = "Do the rungs rank as the end does?"
    pruned_at: Counter[int] = Counter()
    for trial in evidence.trials:
        if trial.outcome == TrialOutcome.PRUNED and trial.intermediate_values:
            pruned_at[max(trial.intermediate_values)] += 1
    if not pruned_at:
        return None

    rung = min(pruned_at)
    survivors = [trial for trial in evidence.ranked if rung in trial.intermediate_values]
    if len(survivors) < _MIN_SURVIVORS:
        n = count(len(survivors), "trial")
        sentence = f"Only {n} went from rung {rung} to the end; it takes {_MIN_SURVIVORS}."
        return Finding(topic, Status.CANT_SAY, sentence)

    at_rung = [trial.intermediate_values[rung] for trial in survivors]
    at_end = np.array([trial.value for trial in survivors], float)
    tau = rank_correlation(at_rung, at_end, "kendall")
    text = (
        f"Kendall's τ of the values after epoch {rung} and at the end is {tau}. Only survivors of "
        "the pruning are in it; the τ of all trials is probably higher."
    )
    return _judge(topic, tau, text, "Hardly, so prune later or not at all")


def _judge(topic: str, correlation: Correlation, text: str, warning: str) -> Finding:
    """Return a finding on a correlation that should be high.

    Args:
        topic: the question.
        correlation: measured.
        text: what was measured.
        warning: what to do where it is low.
    """
    figures = correlation._asdict()
    if correlation.low > MIN_CORRELATION:
        return Finding(topic, Status.PASS, f"Yes: {text}", figures)
    if correlation.high < _WEAK:
        return Finding(topic, Status.WARN, f"{warning}: {text}", figures)
    return Finding(topic, Status.CANT_SAY, f"Too few trials to tell: {text}", figures)
