"""Summarise a study that may be running: its state in a line, its progress, its failures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import optuna
from jinja2 import Template

from hpo_lib.assessment.run import findings
from hpo_lib.plots.study import any_time_data, plot_any_time
from hpo_lib.plots.style import AxesArray, panels
from hpo_lib.plots.trials import plot_trial_curves, trial_curves_data
from hpo_lib.study.lease import lease_holder
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    incumbent,
    own_trials,
    recorded_trials,
)

_FAILURES = Template(
    """<style>
.hpo-failed {max-height: 130px; overflow: auto; font-size: 12px}
.hpo-failed td, .hpo-failed th {padding: 0 10px 2px 0; text-align: left;
  vertical-align: top; line-height: 1.35}
.hpo-failed td {overflow-wrap: anywhere}
</style>
<b>Failed trials: {{ trials | length }}</b>
<div class='hpo-failed' tabindex='0'><table>
{% if trials %}<tr><th>trial</th><th>reason</th><th>configuration</th></tr>{% endif %}
{% for trial in trials | reverse %}
<tr><td>{{ trial.number }}</td><td>{{ trial.record.reason or "" }}</td>
<td>{{ trial.configuration }}</td></tr>
{% endfor %}
</table></div>""",
    autoescape=True,
)


def seconds_left(study: optuna.Study) -> float | None:
    """Return the seconds that the rest of the budget takes, at the mean of the finished trials.

    They are shared by as many workers as have a trial now. None without any finished trial.
    """
    trials = own_trials(study)
    budget = StudyRecord.of(study).n_trials
    finished = [trial.spent_seconds for trial in trials if trial.is_finished]
    if not finished or budget is None:
        return None

    # Seconds already spent on the trials under way are no longer left.
    unfinished = [trial.spent_seconds for trial in trials if not trial.is_finished]
    total = float(np.mean(finished)) * (budget - len(finished))
    return max(total - sum(unfinished), 0.0) / max(len(unfinished), 1)


def describe_study(study: optuna.Study) -> str:
    """Return one line: own trials in each state, the incumbent, and the seconds left."""
    # Queued trials too, which are no budget yet.
    trials = [trial for trial in recorded_trials(study) if trial.is_own]
    n_finished = sum(trial.is_finished for trial in trials)
    record = StudyRecord.of(study)
    is_held = lease_holder(study) is not None
    # Other programs hold no lease while they run a study.
    is_interrupted = not is_held and bool(record.settings)
    states = Counter(_state(trial, is_interrupted) for trial in trials)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())

    text = str(n_finished)
    if record.n_trials:
        # A study may have ended more trials than it was asked for last.
        text += f" of {max(record.n_trials, n_finished)}"
    text += f" trials have ended ({counts or 'none yet'})."

    best = incumbent(trials)
    if best is not None:
        text += f" Best: {best.value:.4f}, trial {best.number}."

    seconds = seconds_left(study) if is_held else None
    if seconds:
        text += f" About {max(seconds, 1):,.0f} s left."
    return text


def _state(trial: RecordedTrial, is_interrupted: bool) -> str:
    """Name the state of a trial, with one word for all kinds of failure.

    Args:
        trial: a trial of a study's own.
        is_interrupted: whether nobody writes the study, so that no trial can be running.
    """
    if trial.is_failed:
        return "failed"
    if trial.outcome == TrialOutcome.WAITING:
        return "queued"
    if trial.outcome == TrialOutcome.RUNNING and is_interrupted:
        return "interrupted"
    return str(trial.outcome)


def plot_progress(study: optuna.Study) -> AxesArray:
    """Draw the any-time curve and the learning curves of running and finished trials."""
    # Reading the record may fail: no figure is begun before.
    any_time = any_time_data(study)
    curves = trial_curves_data(study)
    axes = panels(2, 2, 4.6, 3.1)
    plot_any_time(any_time, ax=axes[0])
    plot_trial_curves(curves, ax=axes[1])
    for ax in axes:
        # The label is longer than these axes are high.
        ax.set_ylabel(any_time.value_name, size="small")
    return axes


def findings_summary(study: optuna.Study) -> str:
    """Return HTML: the most important findings of a study that has ended, else nothing."""
    record = StudyRecord.of(study)
    is_running = any(not trial.is_finished for trial in own_trials(study))
    if record.space is None or is_running or record.stopped in (None, "interrupted"):
        return ""
    return findings(study).most_important().to_html()


def failures_table(study: optuna.Study) -> str:
    """Return HTML: each failed trial, the newest first, with its reason and configuration."""
    trials = [trial for trial in recorded_trials(study) if trial.is_failed]
    return _FAILURES.render(trials=trials)
