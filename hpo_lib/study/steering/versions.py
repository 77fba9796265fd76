"""Let a study go on in another search space, under the same name.

Optuna refuses changed options of a parameter, and changes of a trial that has ended. So a study
has versions, each an Optuna study of its own: `demo`, `demo (version 2)`, … A version begins with
a copy of all trials of the one before, under the same numbers. It takes the place of that one by a
single write at the end; what a process that was killed before has left is removed by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from hpo_lib.exceptions import SpaceError, StudyChangedError, StudyError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Value
from hpo_lib.space.yaml_io import label
from hpo_lib.study.catalog import (
    load_version,
    newest_version,
    study_to_write,
    version_name,
)
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.storage import Storage
from hpo_lib.trials import LEASE_KEY, RECORD_KEY, StudyRecord, study_name, study_space
from hpo_lib.trials.copies import copy_for_version

TrialCopy = Callable[[FrozenTrial], FrozenTrial]


def change_space(
    name: str,
    space: SearchSpace,
    *,
    storage: Storage | None = None,
    assumed: Mapping[str, Value] | None = None,
) -> optuna.Study:
    """Let a study go on in another search space, under the same name.

    Narrow or widen a range, add or drop an option or a hyperparameter, hold one at a value
    (`SearchSpace.fix`) or search it again; then the same `run_study` call goes on with the new
    space. All trials keep their numbers and count as budget. Those inside the new space are its
    trials: evidence, rivals at rungs, and possibly the incumbent. Those outside are "outside" in
    tables and left out of figures; only where a held value alone tells them apart do `bayes` and
    `skopt` learn from them. A trial under way goes on if it lies inside. What was recorded stays
    as it was, in the version before; the same space again changes nothing.

    Args:
        name: the study's name.
        space: the search space to go on in.
        storage: as in `run_study`.
        assumed: by name, the value that the objective uses for a hyperparameter where it is not
            in the space. Trials without a new hyperparameter count as trials with that value, and
            those with this value of a dropped one as trials without it; others lie outside.

    Returns:
        The study in its new version.

    Raises:
        StudyHeldError: a driver writes the study: stop it first.
        StudyError: there is no such study, or run_study did not make it.
        SpaceError: an assumed value is that of no hyperparameter which was added or dropped.

    Example:
        >>> import optuna
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> options = {"name": "demo", "storage": optuna.storages.InMemoryStorage()}
        >>> study = run_study(lambda c: c["x"], space, "random", 3, workers=0, **options)
        >>> narrow = SearchSpace.from_yaml("x: {type: float, low: 0.4, high: 0.6}")
        >>> study = change_space("demo", narrow, storage=options["storage"])
        >>> trials_frame(study)["state"].tolist()
        ['complete', 'outside', 'outside']
    """
    assumed = assumed or {}
    with study_to_write(name, storage) as (study, backend):
        before = study_space(study)
        _check_assumed(assumed, before, space)
        if before == space:
            return study

        changed = {"space": space.to_yaml(comments=False)}
        move = partial(copy_for_version, space=space, assumed=assumed)
        return begin_version(study, backend, move, **changed)


def begin_version(
    study: optuna.Study,
    backend: BaseStorage,
    move: TrialCopy,
    **changes: Any,
) -> optuna.Study:
    """Return a study in a new version, which takes the place of its last one.

    Args:
        study: the last version.
        backend: its storage.
        move: makes a trial of the new version out of one of the last.
        **changes: fields of the study's record.
    """
    with hold_lease(study, backend):
        record = check_newest(study, backend)
        name = study_name(study)
        following = record.version + 1
        _remove_leftover(version_name(name, following), name, backend)

        trials = study.get_trials(deepcopy=False)
        left = {"space": record.space, "n_trials": len(trials)}
        begun = optuna.create_study(storage=backend, study_name=version_name(name, following))
        changes |= {"name": name, "version": following, "stopped": None}
        record.write(begun, earlier=[*record.earlier, left], **changes)
        for key, value in study.user_attrs.items():
            if key not in (RECORD_KEY, LEASE_KEY):
                begun.set_user_attr(key, value)
        begun.add_trials([move(trial) for trial in trials])

        # From here on the name stands for the new version.
        record.write(study, next_version=following)
    return load_version(begun.study_name, backend)


def open_or_create(
    name: str,
    backend: BaseStorage,
    sampler: BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Return a study to be driven: the last version of one that is there, or a new one.

    Args:
        name: the study's name.
        backend: its storage.
        sampler: chooses its trials.
        pruner: stops them.
    """
    study = optuna.create_study(storage=backend, study_name=name, load_if_exists=True)
    study = newest_version(study.study_name, backend)
    study.sampler = sampler
    study.pruner = pruner
    return study


def check_newest(study: optuna.Study, backend: BaseStorage) -> StudyRecord:
    """Return the record of a study that is to be written; refuse one that went on meanwhile.

    Args:
        study: the study, whose lease is held.
        backend: its storage.

    Raises:
        StudyChangedError: another process has begun the next version.
    """
    if newest_version(study.study_name, backend).study_name != study.study_name:
        name = study_name(study)
        message = f"study {name!r} has gone on in another version meanwhile: call again"
        raise StudyChangedError(message)
    return StudyRecord.of(study)


def _remove_leftover(stored: str, name: str, backend: BaseStorage) -> None:
    """Remove the beginning of a version that a process has left which was killed."""
    if stored not in optuna.get_all_study_names(backend):
        return
    found = optuna.load_study(study_name=stored, storage=backend)
    is_empty = not found.user_attrs and not found.get_trials(deepcopy=False)
    if not is_empty and StudyRecord.of(found).name != name:
        message = f"a version of study {name!r} needs the name {stored!r}, which another one has"
        raise StudyError(message)
    optuna.delete_study(study_name=stored, storage=backend)


def _check_assumed(assumed: Mapping[str, Value], before: SearchSpace, after: SearchSpace) -> None:
    problems: list[str] = []
    for name, value in assumed.items():
        if (name in before) == (name in after):
            rule = "assumed must be of a hyperparameter that was added or dropped"
            problems.append(f"{label(name)}: {rule}, got {value!r}")
            continue
        try:
            (before if name in before else after)[name].convert(value)
        except ValueError as error:
            problems.append(f"{label(name)}: assumed {error}")
    if problems:
        raise SpaceError(problems)
