"""Let pruned trials go on to their end."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from hpo_lib.exceptions import StudyError
from hpo_lib.study.catalog import study_to_write
from hpo_lib.study.steering.versions import begin_version
from hpo_lib.study.storage import Storage
from hpo_lib.trials import TrialOutcome, recorded_trials, study_space
from hpo_lib.trials.copies import reopened


def promote(name: str, *numbers: int, storage: Storage | None = None) -> optuna.Study:
    """Let pruned trials of a study go on: the same `run_study` call trains them to the end.

    Each goes on from its checkpoint, as far as these were kept (`checkpoint_quota` of
    `run_study`), else from its first epoch, under its number and with its seed; no rung stops it
    again. It counted as budget before and costs none now. The study has to be stopped.

    Args:
        name: the study's name.
        *numbers: numbers of the trials; those that were promoted before are left as they are.
        storage: as in `run_study`.

    Returns:
        The study, in a new version.

    Raises:
        StudyHeldError: a driver writes the study: stop it first.
        StudyError: there is no such study, or a trial was not pruned.

    Example:
        >>> import optuna
        >>> from hpo_lib import SearchSpace, promote, run_study
        >>> def train(configuration):
        ...     for epoch in range(4):
        ...         yield configuration["x"] / (epoch + 1)
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> options = {"name": "demo", "storage": optuna.storages.InMemoryStorage()}
        >>> search = {"n_trials": 8, "budget": 4, "pruning": "asha", "workers": 0, **options}
        >>> study = run_study(train, space, "random", **search)
        >>> study.trials[1].state.name
        'PRUNED'
        >>> study = promote("demo", 1, storage=options["storage"])
        >>> run_study(train, space, "random", **search).trials[1].state.name
        'COMPLETE'
    """
    with study_to_write(name, storage) as (study, backend):
        study_space(study)  # refuse one that run_study did not make
        trials = recorded_trials(study)
        promoted = {trial.number for trial in trials if trial.record.promoted}
        pruned = {trial.number for trial in trials if trial.outcome == TrialOutcome.PRUNED}
        others = {*numbers} - pruned - promoted
        if others:
            message = f"trials to promote must be pruned ones, got {sorted(others)}"
            raise StudyError(message)

        chosen = {*numbers} & pruned
        if not chosen:
            return study

        def move(trial: FrozenTrial) -> FrozenTrial:
            return reopened(trial) if trial.number in chosen else trial

        return begin_version(study, backend, move)
