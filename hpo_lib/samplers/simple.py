"""Search at random, along a Sobol sequence or over a grid; and the base classes of samplers.

`ConfigurationSampler` is the base of all samplers of this package that choose a configuration at
once, `SpaceSampler` of those that need a `SearchSpace` for it.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.checks import check_whole
from hpo_lib.exceptions import ExhaustedError
from hpo_lib.samplers.observations import choice_seed
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import RecordedTrial, recorded_trials

_choosing = threading.RLock()
"""Held by the thread that chooses."""


class ConfigurationSampler(BaseSampler):
    """Base class of samplers that choose all parameters of a trial at once.

    Optuna records the parameters of a trial one after the other. So that other threads do not
    choose them meanwhile, threads choose one after the other, and what was chosen for a running
    trial is remembered until it ends.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], dict[str, Any]] = {}

    @abstractmethod
    def _choose_params(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Choose values of the parameters of the search space."""

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Return whether there is no configuration left that was not tried."""
        return False

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Choose all parameters at once.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
            search_space: parameters to choose.

        Raises:
            ExhaustedError: no configuration is left.
            TrialPruned: the same where `study.optimize` runs the study, which is stopped.
        """
        with _choosing:
            try:
                params = self._choose_params(study, trial, search_space)
            except ExhaustedError as error:
                if _stop(study):
                    raise optuna.TrialPruned(str(error)) from error
                raise

            # Optuna stores the parameters one by one, later.
            self._running[study.study_name, trial.number] = params

        return params

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget a trial that ends, and stop `study.optimize` when no configuration is left.

        Args:
            study: study that the trial belongs to.
            trial: trial that ends.
            state: its state from now on.
            values: its values.
        """
        self._running.pop((study.study_name, trial.number), None)

        # Enqueued trials run even when the sampler has nothing left.
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and self.is_exhausted(study):
            _stop(study)

    def _recorded_trials(
        self, study: optuna.Study, number: int | None = None
    ) -> list[RecordedTrial]:
        """Return all trials but one, running ones with all that was chosen for them."""
        trials: list[RecordedTrial] = []
        for trial in recorded_trials(study):
            chosen = self._running.get((study.study_name, trial.number))
            if chosen is not None and not trial.is_finished:
                trial = replace(
                    trial,
                    params={**chosen, **trial.known_params},
                )

            if trial.number != number:
                trials.append(trial)

        return trials


def _stop(study: optuna.Study) -> bool:
    """Stop a study; return False where it is not run by `optimize`, which alone can be stopped."""
    try:
        study.stop()
    except RuntimeError:
        return False
    return True


class SpaceSampler(ConfigurationSampler):
    """Base class of samplers that choose configurations of one space.

    Args:
        space: the search space.
        seed: fixes all choices.
        n_trials: the budget; most strategies do without it.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        n_trials: int = 0,
    ) -> None:
        super().__init__()
        self._space = space
        self._seed = check_whole("seed", seed, 0)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all searched parameters of the space.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
        """
        return self._space.distributions()

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Return the configuration of a trial, with or without fixed values.

        Args:
            study: study that the trial belongs to.
            number: number of the trial.
        """
        raise NotImplementedError

    def _choose_params(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        configuration = self.choose(study, trial.number)
        return {name: value for name, value in configuration.items() if name in search_space}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter from its prior where the configuration lacks it.

        That happens when other values were enqueued, or are fixed by `PartialFixedSampler`, than
        those that the configuration was chosen with.

        Args:
            study: study that the trial belongs to.
            trial: trial that a value is chosen for.
            param_name: name of the parameter.
            param_distribution: its range.

        Raises:
            ValueError: the space has no such parameter.
        """
        if self._space.distributions().get(param_name) != param_distribution:
            message = (
                f"parameter {param_name!r} as {param_distribution} is not in the space of this "
                f"{type(self).__name__}, which has {list(self._space.names)}"
            )
            raise ValueError(message)

        # A seed of its own: the value depends on no other parameter.
        rng = np.random.default_rng(choice_seed(self._seed, trial.number, param_name))
        return self._space[param_name].from_unit(rng.random(), self._seed)


class RandomSampler(SpaceSampler):
    """Draw independently from the priors, once per trial number."""

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Draw one configuration.

        Args:
            study: the study that the trial belongs to.
            number: number of the trial, from 0.
        """
        rng = np.random.default_rng([self._seed, number])
        return self._space.sample(rng, self._seed)


class SobolSampler(SpaceSampler):
    """Take the points of a scrambled Sobol sequence through the priors; trial n has point n.

    It fills the space more evenly than independent draws do: Owen (1998), "Scrambling Sobol' and
    Niederreiter-Xing points", on scipy's implementation.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the point with the number of the trial.

        Args:
            study: the study that the trial belongs to.
            number: number of the trial, from 0.
        """
        from scipy.stats import qmc  # takes half a second to import

        n_dimensions = len(self._space.searched)
        sequence = qmc.Sobol(
            max(n_dimensions, 1),
            rng=np.random.default_rng(self._seed),
        )
        if number > 0:  # scipy cannot go forward by nothing
            sequence.fast_forward(number)

        point = sequence.random(1)[0, :n_dimensions]
        return self._space.from_unit(point.tolist(), self._seed)


class GridSampler(SpaceSampler):
    """Try every configuration of a grid once, in a seeded random order.

    Numbers with more values get as many points, from 2 to 5, as let the whole grid fit into the
    budget. When not even 2 do, they get 3, so that the middle is on the grid, and the budget ends
    within the random order: an even sample of the grid rather than one of its corners. A default
    that is off the grid, when it is tried first, takes the place of one of them.

    Args:
        space: the search space.
        seed: fixes the order.
        n_trials: the budget.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        n_trials: int,
    ) -> None:
        super().__init__(space, seed)

        # The finest grid that fits into the budget.
        fitting = [points for points in (5, 4, 3, 2) if space.grid_size(points) <= n_trials]
        self.points = fitting[0] if fitting else 3

        # Its configurations in random order.
        grid = space.grid(self.points)
        order = np.random.default_rng(seed).permutation(len(grid))
        self._grid = {configuration_key(grid[index]): grid[index] for index in order}

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the first configuration that no other trial has, whatever became of it.

        Args:
            study: the study that the trial belongs to.
            number: number of the trial, from 0.

        Raises:
            ExhaustedError: all configurations of the grid have been tried.
        """
        tried = tried_configurations(self._recorded_trials(study, number), self._space)
        for key, configuration in self._grid.items():
            if key not in tried:
                return configuration

        message = (
            f"all {len(self._grid)} configurations of the grid have been tried; "
            "ask is_exhausted(study) first"
        )
        raise ExhaustedError(message)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Return whether every configuration of the grid was tried or is being tried."""
        tried = tried_configurations(self._recorded_trials(study), self._space)
        return self._grid.keys() <= tried


ConfigurationKey = frozenset[tuple[str, Any]]
"""A configuration as a member of sets."""


def configuration_key(
    configuration: Configuration,
) -> ConfigurationKey:
    """Return what tells a configuration from others."""
    return frozenset(configuration.items())


def tried_configurations(
    trials: Iterable[RecordedTrial], space: SearchSpace
) -> set[ConfigurationKey]:
    """Return the configurations of trials, running and enqueued ones included.

    Args:
        trials: trials of a study.
        space: those outside of it are left out.
    """
    return {
        configuration_key(space.complete(trial.known_params))
        for trial in trials
        if space.contains(trial.known_params)
    }
