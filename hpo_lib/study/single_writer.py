"""Storage of a study while its driver runs: the trials are kept in memory.

Optuna reads every unfinished trial again whenever it looks at a study, several times per trial.
With 256 workers this took longer than the trials.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.trials.copies import drop_pickles

_WAITING = (TrialState.WAITING,)


class SingleWriterStorage(BaseStorage):
    """A storage of one study whose trials no other process changes.

    Everything is written to the storage below at once, but for parameters: these follow before
    anything else is written or read, so that the time of suggesting them holds no time of the
    disk. A trial is read again only after it was written. Trials that other processes enqueue or
    withdraw are noticed by each look for waiting trials, with which `Study.ask` begins. Pickles in
    the trials that were there at the start are hidden from the sampler.

    Args:
        backend: the storage below.
        study_id: the study; all others are left to the storage below.
        check_write: called before each write; raises where it is not allowed any more.
    """

    def __init__(
        self,
        backend: BaseStorage,
        study_id: int,
        check_write: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._study_id = study_id
        self._check_write = check_write
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}  # by the trial's id in the storage
        self._changed: set[int] = set()  # ids of trials to be read again
        self._unwritten: list[tuple[int, str, float, BaseDistribution]] = []

        # What was there before may come from anybody.
        self._n_received = len(backend.get_all_trials(study_id, deepcopy=False))
        self._read_all_trials()

    # ------------------------------------------------------------------ the trials, in memory

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial."""
        if trial_id not in self._numbers:
            self._changed.add(trial_id)
        self._read_changed_trials()

        number = self._numbers[trial_id]
        return copy.deepcopy(self._trials[number])

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials by number.

        Args:
            study_id: the study.
            deepcopy: whether to return copies; else the trials must not be changed.
            states: return trials in these states only; None for all.
        """
        if study_id != self._study_id:
            return self._backend.get_all_trials(study_id, deepcopy, states)

        self._read_changed_trials()
        if states == _WAITING:
            self._notice_enqueued_trials()

        trials = self._trials[:]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _read_changed_trials(self) -> None:
        self._write_parameters()
        for trial_id in sorted(self._changed):
            trial = self._backend.get_trial(trial_id)
            if trial.number > len(self._trials):
                # Another process has enqueued a trial before this one.
                self._read_all_trials()
                trial = self._trials[trial.number]

            if trial.number < self._n_received:
                drop_pickles(trial)
            # Replaces the trial, or appends one that is new.
            self._trials[trial.number : trial.number + 1] = [trial]
            self._numbers[trial_id] = trial.number

        self._changed.clear()

    def _notice_enqueued_trials(self) -> None:
        waiting = self._backend.get_all_trials(
            self._study_id,
            deepcopy=False,
            states=_WAITING,
        )
        in_storage = [trial.number for trial in waiting]
        in_memory = [trial.number for trial in self._trials if trial.state == TrialState.WAITING]
        if in_storage != in_memory:
            self._read_all_trials()

    def _read_all_trials(self) -> None:
        self._trials = self._backend.get_all_trials(self._study_id)
        for trial in self._trials[: self._n_received]:
            drop_pickles(trial)

    # ------------------------------------------------------------------ writes to trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial.

        Args:
            study_id: the study.
            template_trial: trial to copy; None for a new one that runs.

        Returns:
            The id of the trial.
        """
        self._check_write()
        trial_id = self._backend.create_new_trial(study_id, template_trial)
        if study_id == self._study_id:
            self._changed.add(trial_id)
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Keep the value of a parameter for the next look or write.

        Args:
            trial_id: id of the trial.
            param_name: name of the parameter.
            param_value_internal: its value in Optuna's internal representation.
            distribution: its distribution.
        """
        parameter = (trial_id, param_name, param_value_internal, distribution)
        self._unwritten.append(parameter)

    def _write_parameters(self) -> None:
        for trial_id, name, value, distribution in self._unwritten:
            self._check_write()
            self._backend.set_trial_param(trial_id, name, value, distribution)
            self._changed.add(trial_id)
        self._unwritten.clear()

    def set_trial_state_values(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None = None,
    ) -> bool:
        """Write a state and values.

        Args:
            trial_id: id of the trial.
            state: its new state.
            values: its final values, for a completed trial.

        Returns:
            False where a trial that is to be run is not waiting any more.
        """
        self._write_parameters()
        self._check_write()
        self._changed.add(trial_id)
        return self._backend.set_trial_state_values(
            trial_id,
            state,
            values,
        )

    def set_trial_intermediate_value(
        self,
        trial_id: int,
        step: int,
        intermediate_value: float,
    ) -> None:
        """Write the value of a step.

        Args:
            trial_id: id of the trial.
            step: epoch, counted from 1.
            intermediate_value: validation error after it.
        """
        self._write_parameters()
        self._check_write()
        self._changed.add(trial_id)
        self._backend.set_trial_intermediate_value(
            trial_id,
            step,
            intermediate_value,
        )

    def set_trial_user_attr(
        self,
        trial_id: int,
        key: str,
        value: Any,
    ) -> None:
        """Write a user attribute of a trial.

        Args:
            trial_id: id of the trial.
            key: name of the attribute.
            value: what to store as JSON.
        """
        self._write_parameters()
        self._check_write()
        self._changed.add(trial_id)
        self._backend.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(
        self,
        trial_id: int,
        key: str,
        value: Any,
    ) -> None:
        """Write a system attribute of a trial.

        Args:
            trial_id: id of the trial.
            key: name of the attribute.
            value: what to store as JSON.
        """
        self._write_parameters()
        self._check_write()
        self._changed.add(trial_id)
        self._backend.set_trial_system_attr(trial_id, key, value)

    # ------------------------------------------------------------------ studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Create a study and return its id.

        Args:
            directions: one per objective.
            study_name: name; None for one that the storage makes up.
        """
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        self._backend.delete_study(study_id)

    def set_study_user_attr(
        self,
        study_id: int,
        key: str,
        value: Any,
    ) -> None:
        """Write a user attribute of a study.

        Args:
            study_id: the study.
            key: name of the attribute.
            value: what to store as JSON.
        """
        self._check_write()
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(
        self,
        study_id: int,
        key: str,
        value: Any,
    ) -> None:
        """Write a system attribute of a study.

        Args:
            study_id: the study.
            key: name of the attribute.
            value: what to store as JSON.
        """
        self._check_write()
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of a study."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of a study."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of a study."""
        return self._backend.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the user attributes of a study."""
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the system attributes of a study."""
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        """Return all studies of the storage."""
        return self._backend.get_all_studies()
