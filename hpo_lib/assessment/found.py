"""Say what the search found: the best configuration, and which of its changes earn the gain."""

from __future__ import annotations

from typing import Any

from hpo_lib.assessment.ablation import AblationPath
from hpo_lib.assessment.evidence import Evidence, join
from hpo_lib.assessment.finding import Finding, Status
from hpo_lib.formatting import count, format_uncertain, format_value
from hpo_lib.space.values import Configuration

_TOPIC = "What was found?"


def found_finding(evidence: Evidence) -> Finding:
    """Say how the best configuration differs from the default, and which changes matter.

    Args:
        evidence: the study.
    """
    best = evidence.tuned
    if best is None:
        sentence = "Nothing: no trial ran to its end with a usable value."
        return Finding(_TOPIC, Status.CANT_SAY, sentence)

    default = evidence.space.default_configuration()
    n = count(len(evidence.ranked), "completed trial")
    figures: dict[str, Any] = {
        "trial": best.number,
        "value": best.final_value,
        "n_completed": len(evidence.ranked),
        "best": best.configuration,
        "default": default,
    }
    changes = _describe_changes(best.configuration, default)
    if not changes:
        value = evidence.fresh_means.get(best.number, best.final_value)
        sentence = (
            f"Nothing better than the default configuration ({format_value(value)}; {n}): search "
            "longer, or widen the space."
        )
        return Finding(_TOPIC, Status.WARN, sentence, figures)

    text = f"The best of {n} is trial {best.number} with {format_value(best.value)}: {changes}."
    if best is not evidence.best:
        text = (
            f"Of {n}, trial {best.number} ({format_value(best.value)} in the search) is ahead "
            f"when the best are trained again: {changes}."
        )
    path = evidence.path
    measured = evidence.measured_gain
    if path is None or not evidence.is_predictable:
        if measured is not None:
            text += f" It has a gain over the default of {measured}."
        reason = "the surrogate does not predict this study's trials well enough"
        sentence = f"{text} Which of the changes earn it cannot be said: {reason}."
        return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)

    figures["path"] = [
        {"name": step.name, "mean": step.mean, "std": step.std} for step in path.steps
    ]
    half = path.gain_half
    predicted = f"{format_uncertain(path.gain, half)} (95 %, by the surrogate)"
    gain = f"a gain over the default of {measured or predicted}"
    is_shown = path.gain > half and (measured is None or measured.low > 0)
    if not is_shown:
        sentence = f"{text} It has {gain}, which may be chance."
        return Finding(_TOPIC, Status.CANT_SAY, sentence, figures)

    needed = path.needed
    figures |= {
        "needed": needed,
        "share": path.share,
        "gain": path.gain,
        "gain_half": half,
    }
    sentence = f"{text} It has {gain}. {_describe_path(path, needed)}"
    return Finding(_TOPIC, Status.PASS, sentence, figures)


def _describe_changes(best: Configuration, default: Configuration) -> str:
    """Return the values that differ from the default, with the default's in brackets."""
    parts: list[str] = []
    for name, value in best.items():
        if name not in default:
            parts.append(f"{name} {format_value(value)}")
        elif default[name] != value:
            parts.append(f"{name} {format_value(value)} (default {format_value(default[name])})")
    return ", ".join(parts)


def _describe_path(path: AblationPath, needed: list[str]) -> str:
    """Say which changes earn the gain, and which may stay at the default.

    Args:
        path: from the default to the best.
        needed: hyperparameters of the simplest configuration that is as good.
    """
    n_others = len(path.steps) - 1 - len(needed)
    verb = "earns" if len(needed) == 1 else "earn"
    text = f"By the surrogate, {join(needed)} {verb} {100 * path.share:.0f} % of it"
    if not n_others:
        return f"{text}."
    others = "the other one" if n_others == 1 else f"the other {n_others}"
    return f"{text}; {others} could stay at the default: the difference is within noise."
