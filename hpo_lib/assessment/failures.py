"""Say what went wrong: trials without a value, and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

from scipy import stats

from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import count
from hpo_lib.trials import RecordedTrial, TrialOutcome

_TOPIC = "What went wrong?"
_N_REASONS = 3
_MAX_REASON = 80
_WORDS = {
    TrialOutcome.FAILED: "failed",
    TrialOutcome.DIVERGED: "diverged",
    TrialOutcome.TIMED_OUT: "ran over the time limit",
    TrialOutcome.OUT_OF_MEMORY: "ran out of memory",
    TrialOutcome.LOST: "lost with their worker",
}


def failures_finding(trials: list[RecordedTrial]) -> Finding:
    """Count the trials that ended without a value, with the most frequent reasons.

    Args:
        trials: the study's own trials that were started.
    """
    finished = [trial for trial in trials if trial.is_finished]
    failed = [trial for trial in finished if trial.is_failed]
    figures: dict[str, Any] = {"n_finished": len(finished), "n_failed": len(failed)}
    if not finished:
        return Finding(_TOPIC, Status.CANT_SAY, "No trial has ended yet.", figures)
    n = count(len(finished), "trial")
    if not failed:
        sentence = f"Nothing: of {n} none failed, ran over or was lost."
        return Finding(_TOPIC, Status.PASS, sentence, figures)

    outcomes = Counter(trial.outcome for trial in failed)
    reasons = Counter(map(_reason, failed))
    kinds = ", ".join(f"{m} {_WORDS[outcome]}" for outcome, m in outcomes.most_common())
    listed = "; ".join(f"{m} × {reason}" for reason, m in reasons.most_common(_N_REASONS))

    share = len(failed) / len(finished)
    interval = stats.binomtest(len(failed), len(finished)).proportion_ci(method="wilson")
    sentence = (
        f"{len(failed)} of {n} have no value ({kinds}), {100 * share:.0f} % "
        f"(95 %: {100 * interval.low:.0f} to {100 * interval.high:.0f}). Most frequent: {listed}."
    )
    figures |= {"low": interval.low, "high": interval.high, "reasons": dict(reasons)}
    return Finding(_TOPIC, Status.WARN, sentence, figures)


def _reason(trial: RecordedTrial) -> str:
    """Return the first line of the recorded reason, shortened."""
    lines = (trial.record.reason or "no reason was recorded").strip().splitlines() or [""]
    reason = lines[0].rstrip(".")
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}…"
