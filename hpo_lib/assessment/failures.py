"""Say what went wrong: trials without a value, and why."""

from __future__ import annotations

from collections import Counter

from scipy import stats

from hpo_lib.assessment.evidence import count
from hpo_lib.assessment.finding import Finding, Status
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
    outcomes = Counter(trial.outcome for trial in failed)
    figures = {
        "n_finished": len(finished),
        "n_failed": len(failed),
        "outcomes": {str(outcome): n for outcome, n in outcomes.items()},
    }
    if not finished:
        return Finding(_TOPIC, Status.CANT_SAY, "No trial has ended yet.", figures)
    if not failed:
        sentence = (
            f"Nothing: of {count(len(finished), 'trial')} none failed, ran over or was lost."
        )
        return Finding(_TOPIC, Status.PASS, sentence, figures)

    interval = stats.binomtest(len(failed), len(finished)).proportion_ci(method="wilson")
    low, high = (f"{100 * end:.0f}" for end in interval)
    kinds = ", ".join(f"{n} {_WORDS[outcome]}" for outcome, n in outcomes.most_common())
    reasons = Counter(_reason(trial) for trial in failed)
    listed = "; ".join(f"{n} × {reason}" for reason, n in reasons.most_common(_N_REASONS))
    sentence = (
        f"{len(failed)} of {count(len(finished), 'trial')} have no value ({kinds}), "
        f"{100 * len(failed) / len(finished):.0f} % (95 %: {low} to {high}). "
        f"Most frequent: {listed}."
    )
    figures |= {"low": interval.low, "high": interval.high, "reasons": dict(reasons)}
    return Finding(_TOPIC, Status.WARN, sentence, figures)


def _reason(trial: RecordedTrial) -> str:
    """Return the first line of the recorded reason, shortened."""
    lines = (trial.record.reason or "no reason was recorded").strip().splitlines() or [""]
    reason = lines[0].rstrip(".")
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}…"
