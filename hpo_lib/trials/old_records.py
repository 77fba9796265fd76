"""Read records of version 0.1.0, which wrote each field as an attribute of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_OLD_NAMES = {"suggest_seconds": "deciding_seconds", "warm_start": "evidence"}


def read_old_record(attributes: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a trial's record; none where there is no such record.

    Args:
        attributes: user attributes of the trial.
        names: the fields that a record has today.
    """
    is_old_record = "configuration" in attributes and (
        "deciding_seconds" in attributes or "evidence" in attributes
    )
    if not is_old_record:
        return {}
    old_names = {name: _OLD_NAMES.get(name, name) for name in names}
    return {new: attributes[old] for new, old in old_names.items() if old in attributes}


def read_old_study_record(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a study's record; none where there is no such record."""
    if "settings" not in attributes:
        return {}

    # Names of that version; samplers of ours had that of their module, too.
    settings = dict(attributes["settings"])
    if "evidence_from" in settings:
        settings["warm_start_from"] = settings.pop("evidence_from")
    if "strategy" in settings:
        settings["strategy"] = re.sub(r"^hpo_lib\..*\.", "", str(settings["strategy"]))
    return {**attributes, "settings": settings, "is_ready": attributes.get("ready", False)}
