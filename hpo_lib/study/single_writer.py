"""Storage of a study while its driver runs: the trials are kept in memory.

Optuna reads every unfinished trial again whenever it looks at a study, several times per trial.
With 256 workers this took longer than the trials.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.trials.copies import drop_pickles

_WAITING = (TrialState.WAITING,)


def _delegated(name: str) -> Any:
    """Return a method that the storage below answers."""

    def call(storage: SingleWriterStorage, *args: Any, **kwargs: Any) -> Any:
        return getattr(storage.backend, name)(*args, **kwargs)

    return call


def _study_write(name: str) -> Any:
    """Return a method that writes to a study, where that is still allowed."""

    def write(storage: SingleWriterStorage, *args: Any, **kwargs: Any) -> None:
        storage.check_write()
        getattr(storage.backend, name)(*args, **kwargs)

    return write


def _trial_write(name: str) -> Any:
    """Return a method that writes to a trial, which is read again when it is looked at."""

    def write(storage: SingleWriterStorage, trial_id: int, *args: Any, **kwargs: Any) -> Any:
        storage.write_parameters()
        storage.check_write()
        storage.changed.add(trial_id)
        return getattr(storage.backend, name)(trial_id, *args, **kwargs)

    return write


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
        self.backend = backend
        self._study_id = study_id
        self.check_write = check_write
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}  # by the trial's id in the storage
        self.changed: set[int] = set()  # ids of trials to be read again
        self._unwritten: list[tuple[int, str, float, BaseDistribution]] = []

        # What was there before may come from anybody.
        self._n_received = len(backend.get_all_trials(study_id, deepcopy=False))
        self._read_all_trials()

    # ------------------------------------------------------------------ the trials, in memory

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial."""
        if trial_id not in self._numbers:
            self.changed.add(trial_id)
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
            return self.backend.get_all_trials(study_id, deepcopy, states)

        self._read_changed_trials()
        if states == _WAITING:
            self._notice_enqueued_trials()

        trials = self._trials[:]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _read_changed_trials(self) -> None:
        self.write_parameters()
        for trial_id in sorted(self.changed):
            trial = self.backend.get_trial(trial_id)
            if trial.number > len(self._trials):
                # Another process has enqueued a trial before this one.
                self._read_all_trials()
                trial = self._trials[trial.number]

            if trial.number < self._n_received:
                drop_pickles(trial)
            # Replaces the trial, or appends one that is new.
            self._trials[trial.number : trial.number + 1] = [trial]
            self._numbers[trial_id] = trial.number

        self.changed.clear()

    def _notice_enqueued_trials(self) -> None:
        waiting = self.backend.get_all_trials(
            self._study_id,
            deepcopy=False,
            states=_WAITING,
        )
        in_storage = [trial.number for trial in waiting]
        in_memory = [trial.number for trial in self._trials if trial.state == TrialState.WAITING]
        if in_storage != in_memory:
            self._read_all_trials()

    def _read_all_trials(self) -> None:
        self._trials = self.backend.get_all_trials(self._study_id)
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
        self.check_write()
        trial_id = self.backend.create_new_trial(study_id, template_trial)
        if study_id == self._study_id:
            self.changed.add(trial_id)
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

    def write_parameters(self) -> None:
        """Write the parameters that were kept."""
        for trial_id, name, value, distribution in self._unwritten:
            self.check_write()
            self.backend.set_trial_param(trial_id, name, value, distribution)
            self.changed.add(trial_id)
        self._unwritten.clear()

    set_trial_state_values = _trial_write("set_trial_state_values")
    set_trial_intermediate_value = _trial_write("set_trial_intermediate_value")
    set_trial_user_attr = _trial_write("set_trial_user_attr")
    set_trial_system_attr = _trial_write("set_trial_system_attr")

    # ------------------------------------------------------------------ studies

    create_new_study = _delegated("create_new_study")
    delete_study = _delegated("delete_study")
    set_study_user_attr = _study_write("set_study_user_attr")
    set_study_system_attr = _study_write("set_study_system_attr")
    get_study_id_from_name = _delegated("get_study_id_from_name")
    get_study_name_from_id = _delegated("get_study_name_from_id")
    get_study_directions = _delegated("get_study_directions")
    get_study_user_attrs = _delegated("get_study_user_attrs")
    get_study_system_attrs = _delegated("get_study_system_attrs")
    get_all_studies = _delegated("get_all_studies")
