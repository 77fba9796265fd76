"""Settings that a study was begun with, and the trials that it begins with.

A call that would continue a study must ask for the same settings and the same space.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import optuna
import pandas as pd
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo_lib.exceptions import StudyChangedError
from hpo_lib.formatting import line_differences
from hpo_lib.identity import read_options
from hpo_lib.objective import FunctionObjective, Objective
from hpo_lib.samplers.pruners import default_rungs
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import find_study
from hpo_lib.study.storage import Storage
from hpo_lib.trials import RecordedTrial, StudyRecord, recorded_trials, study_name
from hpo_lib.trials.copies import copy_for_warm_start


def study_settings(objective: Objective, **others: Any) -> dict[str, Any]:
    """Return all that the trials of a study depend on besides their number, as JSON.

    Args:
        objective: names its own settings and its budget.
        **others: further settings, by name.

    Raises:
        TypeError: a setting is not JSON.
    """
    settings = {
        "budget": objective.budget,
        "objective": objective.settings,
        **others,
    }
    try:
        return json.loads(json.dumps(settings))  # what is compared is what is stored
    except TypeError as error:
        message = f"settings of the objective must be JSON, got {objective.settings}: {error}"
        raise TypeError(message) from error


def strategy_settings(
    strategy: str | BaseSampler,
    pruning: str | BasePruner | None,
    reduction_factor: int,
) -> dict[str, Any]:
    """Return the settings that a sampler and a pruner stand for.

    Args:
        strategy: name of a sampler, or a sampler.
        pruning: name of a rule, or a pruner; None for none.
        reduction_factor: of successive halving.
    """
    settings: dict[str, Any] = {"strategy": _qualified_name(strategy)}
    if pruning is not None:  # studies from before there was pruning have no such setting
        settings["pruning"] = _qualified_name(pruning)
        settings["reduction_factor"] = reduction_factor

    for key, part in (("sampler", strategy), ("pruner", pruning)):
        options = _recorded_options(part)
        if options is not None:
            settings[key] = options
    return settings


def usual_rungs(
    name: str,
    storage: Storage | None,
    budget: int,
    pruning: str | BasePruner,
    reduction_factor: int,
) -> list[int]:
    """Return the rungs that a study has recorded; the default ones of a new study.

    Args:
        name: the study's name.
        storage: as in `run_study`.
        budget: epochs of a full training.
        pruning: name of a rule, or a pruner.
        reduction_factor: of successive halving.

    Raises:
        ValueError: the budget is a single epoch.
    """
    study = find_study(name, storage)
    recorded = {} if study is None else StudyRecord.of(study).settings
    rungs = recorded.get("rungs") or [*default_rungs(budget, pruning, reduction_factor)]
    if not rungs:
        message = f"pruning needs a budget of at least 2 epochs, got {budget}"
        raise ValueError(message)
    return rungs


def imported_settings(**origin: Any) -> dict[str, Any]:
    """Return the settings of a study whose trials another program has made.

    Args:
        **origin: where they come from and what was left out, as JSON.
    """
    return {"budget": 1, "objective": {"imported": origin}}


def _is_imported(recorded: dict[str, Any]) -> bool:
    return "imported" in recorded.get("objective", {})


def _qualified_name(part: object) -> str:
    """Return the name under which a sampler or pruner is recorded."""
    cls = type(part)
    if isinstance(part, str):
        return part

    # Classes of this package are recorded without their module, which may move.
    return cls.__qualname__ if _is_ours(part) else f"{cls.__module__}.{cls.__qualname__}"


def _recorded_options(part: object) -> dict[str, Any] | None:
    """Return the options of a sampler or pruner that was handed in; None for a name.

    Samplers of this package say themselves what they are beside space and seed. Others stand for
    their attributes (see `identity.read_options`), in one version of the packages that they come
    from. What cannot be identified is left out, with a warning.
    """
    if part is None or isinstance(part, str):
        return None
    if _is_ours(part) and isinstance(part, BaseSampler):
        return getattr(part, "settings", None)

    options, unknown = read_options(part)
    if unknown:
        message = (
            f"{', '.join(unknown)} of {type(part).__name__} cannot be identified by content: a "
            "study would not notice a change there; choose another name for it then"
        )
        warnings.warn(message, stacklevel=4)  # the caller of run_study
    versions = _package_versions(type(part))
    return {"versions": versions, **options}


def _package_versions(cls: type) -> dict[str, str]:
    names = {base.__module__.split(".")[0] for base in cls.__mro__}
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(names)}
    return {name: str(version) for name, version in found.items() if version is not None}


def _is_ours(part: object) -> bool:
    return type(part).__module__.split(".")[0] == "hpo_lib"


def _in_current_form(recorded: dict[str, Any], objective: Objective) -> dict[str, Any]:
    """Return recorded settings as they would be recorded today.

    An objective may have `earlier_settings`: forms in which earlier versions recorded it.
    """
    if isinstance(objective, FunctionObjective) and "objective" in recorded:
        return {**recorded, "objective": objective.in_current_form(recorded["objective"])}
    if recorded.get("objective") in getattr(objective, "earlier_settings", ()):
        return {**recorded, "objective": objective.settings}
    return recorded


def check_comparable(
    name: str,
    recorded: dict[str, Any],
    asked: dict[str, Any],
    objective: Objective,
) -> None:
    """Refuse another objective or budget than that of an earlier study.

    Imported trials pass: nothing can be known of the program that made them, and who imported
    them by name says that they are evidence.

    Args:
        name: of the earlier study.
        recorded: its settings.
        asked: settings of the new study.
        objective: the objective of the new study.

    Raises:
        StudyChangedError: the values of the two do not compare.
    """
    if _is_imported(recorded):
        return
    recorded = _in_current_form(recorded, objective)
    for key in ("objective", "budget"):
        if recorded.get(key) != asked[key]:
            message = (
                f"the {key} must be that of study {name!r}, or its values do not compare: "
                f"recorded {recorded.get(key)}, asked {asked[key]}"
                f"{_version_advice(recorded, asked)}"
            )
            raise StudyChangedError(message)


def check_unchanged(
    study: optuna.Study,
    space: SearchSpace,
    settings: dict[str, Any],
    objective: Objective,
) -> None:
    """Refuse to continue a study that was recorded with another space or other settings.

    Args:
        study: the study to continue; a new one is never refused.
        space: the search space asked for.
        settings: the settings asked for.
        objective: the objective asked for.

    Raises:
        StudyChangedError: they differ, line by line, or another program made the trials.
    """
    recorded = StudyRecord.of(study)
    if recorded.space is None:
        if study.get_trials(deepcopy=False):
            message = (
                f"study {study.study_name!r} has trials that run_study did not make: it can be "
                "read with open_study, but not continued; choose another name"
            )
            raise StudyChangedError(message)
        return

    # Compare line by line.
    recorded_settings = _in_current_form(recorded.settings, objective)
    settings = _without_unknown_options(recorded_settings, settings)
    differences = [
        *line_differences(_lines(recorded_settings), _lines(settings)),
        *line_differences(recorded.space, space.to_yaml(comments=False)),
    ]
    if not differences:
        return

    # With the same objective and budget a new study can take the trials over; imported ones, too.
    listed = "\n  ".join(differences)
    name = study_name(study)
    advice = ": the values do not compare"
    is_same = all(recorded_settings.get(key) == settings[key] for key in ("objective", "budget"))
    if is_same or _is_imported(recorded_settings):
        advice = f", with warm_start_from={name!r} to take over its trials"
    if recorded_settings == settings:
        advice += f", or go on as {name!r} in the space asked for: run_study(…, change_space=True)"
    message = (
        f"study {name!r} was recorded with other settings (- recorded, + asked):\n"
        f"  {listed}\nTo go on, choose a new name{advice}."
        f"{_version_advice(recorded_settings, settings)}"
    )
    raise StudyChangedError(message)


def _without_unknown_options(recorded: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the recorded options in place of those that do not compare.

    Earlier versions recorded no options, and other versions of a package may call them otherwise.
    """
    changed = dict(asked)
    for key in ("sampler", "pruner"):
        options = recorded.get(key)
        if not isinstance(options, dict):
            changed.pop(key, None)
        elif key in asked and options.get("versions") != asked[key].get("versions"):
            changed[key] = options
    return changed


def _version_advice(recorded: dict[str, Any], asked: dict[str, Any]) -> str:
    """Say how to go on with a function that has changed without changing its values."""
    versions = [settings["objective"].get("version") for settings in (recorded, asked)]
    if None in versions or versions[0] == versions[1]:
        return ""
    return (
        "\nIf the changed objective returns the same values as before, say so with an attribute: "
        f"objective.version = {versions[0]!r}"
    )


def _lines(settings: dict[str, Any]) -> str:
    (flat,) = pd.json_normalize(settings).to_dict("records")
    return "\n".join(f"{key}: {value}" for key, value in sorted(flat.items(), key=str))


def begin_study(
    study: optuna.Study,
    objective: Objective,
    space: SearchSpace,
    settings: dict[str, Any],
    n_trials: int,
    earlier: optuna.Study | None,
) -> None:
    """Write the settings of a study and the trials that it begins with.

    A driver that is killed in here begins again, and repeats nothing.

    Args:
        study: the study, of which nothing or a part of this is written.
        objective: its objective.
        space: its search space.
        settings: of `study_settings`.
        n_trials: its budget.
        earlier: the study to take warm-start trials from.

    Raises:
        StudyChangedError: no trial of the earlier study can be taken over. The name is not bound
            to these settings then.
    """
    warm_start_trials: list[FrozenTrial] = []
    if earlier is not None:
        check_comparable(earlier.study_name, StudyRecord.of(earlier).settings, settings, objective)
        warm_start_trials = _warm_start_trials(earlier, space)

    record = StudyRecord.of(study).write(
        study,
        space=space.to_yaml(comments=False),
        settings=settings,
        n_trials=n_trials,
    )

    # The default trial.
    recorded = recorded_trials(study)
    if settings["default_first"] and not recorded:
        default = space.default_configuration()
        searched = [parameter.name for parameter in space.searched]
        queued = {name: default[name] for name in searched if name in default}
        study.enqueue_trial(queued)

    # The warm-start trials that are not there yet.
    copied = {trial.record.warm_start for trial in recorded}
    for trial in warm_start_trials:
        if RecordedTrial.from_trial(trial).record.warm_start not in copied:
            study.add_trial(trial)
    record.write(study, is_ready=True)


def _warm_start_trials(earlier: optuna.Study, space: SearchSpace) -> list[FrozenTrial]:
    """Return the completed trials of a study that lie in a space, completed by its values."""
    name = earlier.study_name
    n_completed = 0
    copies: list[FrozenTrial] = []
    for trial in earlier.get_trials(deepcopy=False):
        # Those outside of the earlier study's present space may be inside this one.
        recorded = RecordedTrial.from_trial(trial).as_evidence()
        n_completed += recorded.is_completed
        if recorded.is_completed and space.contains(recorded.configuration):
            source = recorded.record.warm_start or f"{name}#{trial.number}"
            configuration = space.complete(recorded.configuration)
            copies.append(copy_for_warm_start(trial, source, configuration, space))

    if n_completed and not copies:
        message = (
            f"warm_start_from={name!r} must have a trial inside the space, got {n_completed} "
            "outside: where a parameter is new, its value in them is not known"
        )
        raise StudyChangedError(message)

    return copies
