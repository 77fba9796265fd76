"""What a study was recorded with, and whether a call that would continue it asks for the same."""

from __future__ import annotations

import difflib
import json
from typing import Any

import optuna
import pandas as pd

from hpo_lib.exceptions import StudyChangedError
from hpo_lib.objective import Objective
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.trials import StudyRecord


def study_settings(objective: Objective, **others: Any) -> dict[str, Any]:
    """All that the trials of a study depend on besides their number, as JSON."""
    settings = {"budget": objective.budget, "objective": objective.settings, **others}
    try:
        return json.loads(json.dumps(settings))  # what is compared is what is stored
    except TypeError as error:
        message = f"settings of the objective must be JSON, got {objective.settings}: {error}"
        raise TypeError(message) from error


def in_current_form(recorded: dict[str, Any], objective: Objective) -> dict[str, Any]:
    """Return recorded settings as they would be recorded today.

    An objective may have `earlier_settings`: forms in which earlier versions recorded it.

    Args:
        recorded: settings of a study.
        objective: objective that the study is to go on with.
    """
    if recorded.get("objective") in getattr(objective, "earlier_settings", ()):
        return {**recorded, "objective": objective.settings}
    return recorded


def check_comparable(
    name: str, recorded: dict[str, Any], asked: dict[str, Any], objective: Objective
) -> None:
    """Refuse another objective or budget than that of the study of this name."""
    recorded = in_current_form(recorded, objective)
    for key in ("objective", "budget"):
        if recorded.get(key) != asked[key]:
            message = (
                f"the {key} must be that of study {name!r}, or its values do not compare: "
                f"recorded {recorded.get(key)}, asked {asked[key]}"
            )
            raise StudyChangedError(message)


def written(part: object) -> str:
    """A sampler or pruner as the record names it."""
    kind = type(part)
    if isinstance(part, str):
        return part
    # Classes of this package are recorded without their module, which may move.
    is_ours = kind.__module__.split(".")[0] == "hpo_lib"
    return kind.__qualname__ if is_ours else f"{kind.__module__}.{kind.__qualname__}"


def check_unchanged(
    study: optuna.Study, space: SearchSpace, settings: dict[str, Any], objective: Objective
) -> None:
    """Refuse to continue a study that was recorded with another space or other settings."""
    recorded = StudyRecord.of(study)
    if recorded.space is None:
        if study.get_trials(deepcopy=False):
            message = (
                f"study {study.study_name!r} has trials that run_study did not make: it can be "
                "read with open_study, but not continued; choose another name"
            )
            raise StudyChangedError(message)
        return
    recorded_settings = in_current_form(recorded.settings, objective)
    differences = [
        *_difference(_lines(recorded_settings), _lines(settings)),
        *_difference(recorded.space.splitlines(), space.to_yaml(comments=False).splitlines()),
    ]
    if differences:
        listed = "\n  ".join(differences)
        same = all(recorded_settings[key] == settings[key] for key in ("objective", "budget"))
        kept = f", with warm_start_from={study.study_name!r} to keep its trials as evidence"
        message = (
            f"study {study.study_name!r} was recorded with other settings (- recorded, + asked):\n"
            f"  {listed}\nTo go on, choose a new name"
            f"{kept if same else ': the values do not compare'}."
        )
        raise StudyChangedError(message)


def _lines(settings: dict[str, Any]) -> list[str]:
    (flat,) = pd.json_normalize(settings).to_dict("records")
    return [f"{key}: {value}" for key, value in sorted(flat.items(), key=str)]


def _difference(recorded: list[str], asked: list[str]) -> list[str]:
    lines = difflib.ndiff(recorded, asked)
    return [line for line in lines if line.startswith(("- ", "+ "))]
