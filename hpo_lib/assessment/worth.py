"""Answer whether tuning was worth it: tuned against default on test images, and at what cost."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats

from hpo_lib.assessment.evidence import Evidence
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import count, format_number
from hpo_lib.trials import own_trials

FINAL_COLUMNS = (
    "configuration",
    "seed",
    "epochs",
    "validation_error",
    "test_error",
    "seconds",
    "n_test",
)
"""Columns of a frame of final trainings, one row per training."""

_TOPIC = "Was it worth it?"
_MAX_SEEDS = 1000
_POWER = 0.8

_MEASURABLE = 10.0
"""Seconds of a training below which they are mostly those of its start, so that epochs count."""

_SAME_SECONDS = 1.2
"""Ratio of the seconds per training up to which they count as the same."""

_IMAGE_SHARE = 0.5
"""Variance of a difference between two networks on the same images, as a share of what it would be
if they erred independently. Networks err on similar images, whatever their configuration (Mania et
al. 2019, "Model similarity mitigates test set overuse"), so that this share is a cautious one.
"""


class FinalGain(NamedTuple):
    """Test error of the default minus that of the tuned configuration, paired by seed.

    Attributes:
        mean: mean difference, positive where tuning helped.
        low: lower end of the 95 % interval; minus infinity for one seed.
        high: upper end.
        n_seeds: pairs.
        n_test: test images.
        default: mean test error of the default.
        tuned: mean test error of the tuned configuration.
        seeds_needed: pairs that would show a difference of this size in 80 % of the cases; None
            where no number of them would.
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    n_test: int
    default: float
    tuned: float
    seeds_needed: int | None


def final_gain(final: pd.DataFrame) -> FinalGain:
    """Estimate what tuning gained on test images.

    Two things make the difference uncertain: the seeds, whose variance is estimated from the
    pairs, and the finite test set, which all pairs share. The variances are added, and the degrees
    of freedom are Satterthwaite's (1946).

    Args:
        final: as `check_final` returns it.

    Raises:
        ValueError: no seed has both trainings.
    """
    errors = _paired_errors(final)
    differences = (errors["default"] - errors["tuned"]).to_numpy(dtype=float)
    n = len(differences)
    n_test = min(final["n_test"].tolist())
    default = float(errors["default"].mean())
    tuned = float(errors["tuned"].mean())

    # Variance of the mean difference: that of the seeds, and that of the test set.
    seed_variance = float(differences.var(ddof=1)) if n > 1 else math.inf
    independent = default * (1 - default) + tuned * (1 - tuned)
    image_variance = _IMAGE_SHARE * independent / n_test

    mean = float(differences.mean())
    half = _half_width(seed_variance, image_variance, n)
    return FinalGain(
        mean=mean,
        low=mean - half,
        high=mean + half,
        n_seeds=n,
        n_test=n_test,
        default=default,
        tuned=tuned,
        seeds_needed=_seeds_needed(abs(mean), seed_variance, image_variance),
    )


def check_final(final: pd.DataFrame) -> pd.DataFrame:
    """Return final trainings as numbers, without those that have no test error.

    Args:
        final: one row per training.

    Raises:
        ValueError: a column is missing or holds words, an error is no fraction, or there are no
            test images.
    """
    missing = [name for name in FINAL_COLUMNS if name not in final]
    if missing:
        message = f"final must have the columns {', '.join(FINAL_COLUMNS)}, got no "
        message += ", ".join(missing)
        raise ValueError(message)

    checked: Any = final.copy()
    for name in FINAL_COLUMNS[1:]:
        checked[name] = pd.to_numeric(checked[name])
    checked = checked.dropna(subset="test_error")
    for name, low, high in (("test_error", 0, 1), ("n_test", 1, math.inf)):
        is_wrong = ~checked[name].between(low, high)
        if is_wrong.any():
            message = f"{name} of final must lie between {low} and {high}, got "
            message += f"{checked[name][is_wrong].iloc[0]:g}"
            raise ValueError(message)
    return checked


def _paired_errors(final: pd.DataFrame) -> Any:
    """Return the test errors of both configurations, a row per seed that has both."""
    table = final.pivot_table("test_error", "seed", "configuration")
    names = ["default", "tuned"]
    pairs = table.reindex(columns=names).dropna()
    if not len(pairs):
        message = f"final must have trainings of {names} with the same seed, got {list(table)}"
        raise ValueError(message)
    return pairs


def _half_width(
    seed_variance: float,
    image_variance: float,
    n: int,
    power: float = 0.5,
) -> float:
    """Return half the width of the 95 % interval, or the difference that has a certain power."""
    if n < 2:
        return math.inf
    of_seeds = seed_variance / n
    total = of_seeds + image_variance
    if total == 0:
        return 0.0
    degrees = (n - 1) * (total / of_seeds) ** 2 if of_seeds else math.inf
    quantiles: Any = stats.t.ppf([0.975, power], degrees)
    return float(quantiles.sum()) * math.sqrt(total)


def _seeds_needed(
    difference: float,
    seed_variance: float,
    image_variance: float,
) -> int | None:
    if not math.isfinite(seed_variance):
        return None

    def is_enough(n: int) -> bool:
        return _half_width(seed_variance, image_variance, n, _POWER) <= difference

    numbers = range(2, _MAX_SEEDS + 1)
    position = bisect_left(numbers, True, key=is_enough)
    return numbers[position] if position < len(numbers) else None


def worth_finding(evidence: Evidence) -> Finding:
    """Say whether tuning lowered the test error, and what the search cost.

    Args:
        evidence: the study.
    """
    final = evidence.final
    cost, figures = _describe_cost(evidence)
    if final is None:
        sentence = (
            "Nobody knows yet: train the default and the best configuration with the same fresh "
            "seeds, at least 3, measure them on test images and hand the frame over as `final`. "
        )
        return Finding(_TOPIC, Status.CANT_SAY, sentence + cost, figures)

    gain = final_gain(final)
    figures = {**gain._asdict(), **figures}
    if gain.low > 0:
        status = Status.PASS
        verb = "lowered"
    elif gain.high < 0:
        status = Status.WARN
        verb = "raised"
    else:
        return Finding(_TOPIC, Status.CANT_SAY, f"{_describe_doubt(gain)} {cost}", figures)

    sentence = (
        f"Tuning {verb} the test error by {_points(abs(gain.mean))} points ({_interval(gain)}): "
        f"{_percent(gain.tuned)} instead of {_percent(gain.default)}. {cost}"
    )
    return Finding(_TOPIC, status, sentence, figures)


def _describe_doubt(gain: FinalGain) -> str:
    """Say what was measured, and what it would take to show a difference of this size."""
    if gain.n_seeds < 2:
        return (
            f"One seed shows nothing ({_percent(gain.tuned)} tuned, {_percent(gain.default)} by "
            "default): train both with at least 3 seeds."
        )

    text = (
        f"No gain can be shown: {_percent(gain.tuned)} test error tuned, "
        f"{_percent(gain.default)} by default; the gain is {_points(gain.mean)} points "
        f"({_interval(gain)})."
    )
    if gain.seeds_needed is None:
        return f"{text} More seeds alone would not show so small a difference."
    return f"{text} To show a difference of this size would take about {gain.seeds_needed} seeds."


def _interval(gain: FinalGain) -> str:
    ends = sorted(end if gain.high >= 0 else -end for end in (gain.low, gain.high))
    low, high = map(_points, ends)
    return f"95 %: {low} to {high}; {gain.n_seeds} seeds, {gain.n_test:,} images"


def _points(difference: float) -> str:
    """Return percentage points, with one decimal place unless the number is small."""
    points = 100 * difference
    return f"{points:.1f}" if abs(points) >= 0.995 or not points else f"{points:.2g}"


def _percent(error: float) -> str:
    decimals = 1 if error >= 0.02 else 2
    return f"{100 * error:.{decimals}f} %"


def _describe_cost(evidence: Evidence) -> tuple[str, dict[str, Any]]:
    """Return what search and retraining cost, and how many untuned trainings take as long."""
    # Trials outside the present space were paid for, too.
    trials = own_trials(evidence.study)
    final = evidence.final
    seconds = sum(trial.spent_seconds for trial in trials)
    epochs = sum(len(trial.record.validation_error) for trial in trials)
    retrainings = _count_retrainings(evidence)
    for trial in trials:
        n = retrainings.get(trial.number, 0)
        seconds += n * trial.training_seconds
        epochs += n * len(trial.record.validation_error)

    n_again = sum(retrainings.values())
    figures: dict[str, Any] = {
        "search_trainings": len(trials),
        "retrainings": n_again,
        "search_epochs": epochs,
        "search_seconds": seconds,
    }
    # A plain function has no epochs.
    has_epochs = epochs > len(trials) + n_again
    noun = "training" if has_epochs else "evaluation"
    text = f"The search cost {count(len(trials), noun)}"
    if n_again:
        text += f" and {count(n_again, 're' + noun)}"
    if not epochs or not seconds:
        return f"{text}.", figures

    if has_epochs:
        text += f", {count(epochs, 'epoch')}"
    text += f" and {seconds:,.0f} s"
    if final is None:
        return f"{text}.", figures

    # Medians, as the first training of a process also loads libraries and images.
    medians = final.groupby("configuration")["seconds"].median().to_dict()
    default_seconds = medians.get("default", 0.0)
    if not default_seconds:
        return f"{text}.", figures
    if default_seconds < _MEASURABLE:
        ratio = epochs / max(final["epochs"].tolist())
        figures["default_trainings"] = ratio
        text += f", as many epochs as {format_number(ratio, 2)} trainings of the default."
        return text, figures
    ratio = seconds / default_seconds
    figures["default_trainings"] = ratio
    text += f", as long as {format_number(ratio, 2)} trainings of the default."

    tuned_seconds = medians.get("tuned", default_seconds)
    shorter, longer = sorted([tuned_seconds, default_seconds])
    if longer > _SAME_SECONDS * shorter:
        text += (
            f" A training takes {format_number(tuned_seconds, 2)} s tuned and "
            f"{format_number(default_seconds, 2)} s by default."
        )
    return text, figures


def _count_retrainings(evidence: Evidence) -> dict[int, int]:
    """Return the number of retrainings by the trial whose configuration was trained again."""
    if evidence.retrained is None:
        return {}
    rows = evidence.retrained.to_dict("records")
    return {int(row["trial"]): int(row["n"]) for row in rows}
