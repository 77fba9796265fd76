"""Samplers that take no account of values: random, Sobol and grid search; and their base class."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.trials import recorded_trials


class SpaceSampler(BaseSampler):
    """Base class of samplers that choose whole configurations of one space.

    Args:
        space: the search space.
        seed: fixes all choices.
        n_trials: the budget; most strategies do without it.
    """

    def __init__(self, space: SearchSpace, seed: int, n_trials: int = 0) -> None:
        self._space = space
        self._seed = seed

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

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Choose the whole configuration at once.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
            search_space: parameters to choose.
        """
        configuration = self.choose(study, trial.number)
        return {name: value for name, value in configuration.items() if name in search_space}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuse a parameter that the space does not have.

        Args:
            study: study that the trial belongs to.
            trial: trial that a value is chosen for.
            param_name: name of the parameter.
            param_distribution: its range.
        """
        message = (
            f"parameter {param_name!r} as {param_distribution} is not in the space of this "
            f"{type(self).__name__}, which has {list(self._space.names)}"
        )
        raise ValueError(message)


class RandomSampler(SpaceSampler):
    """Draw independently from the priors, once per trial number."""

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Draw one configuration."""
        rng = np.random.default_rng([self._seed, number])
        return self._space.sample(rng, self._seed)


class SobolSampler(SpaceSampler):
    """Take the points of a scrambled Sobol sequence through the priors; trial n has point n.

    It fills the space more evenly than independent draws do: Owen (1998), "Scrambling Sobol' and
    Niederreiter-Xing points", on scipy's implementation.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the point with the number of the trial."""
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

    def __init__(self, space: SearchSpace, seed: int, n_trials: int) -> None:
        super().__init__(space, seed)
        fitting = [points for points in (5, 4, 3, 2) if space.grid_size(points) <= n_trials]
        self.points = fitting[0] if fitting else 3
        grid = space.grid(self.points)
        order = np.random.default_rng(seed).permutation(len(grid))
        self._grid = {configuration_key(grid[index]): grid[index] for index in order}

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the first configuration that no other trial has, whatever became of it."""
        tried = tried_configurations(study, self._space, number)
        for key, configuration in self._grid.items():
            if key not in tried:
                return configuration
        message = (
            f"all {len(self._grid)} configurations of the grid have been tried; "
            "ask is_exhausted(study) first"
        )
        raise RuntimeError(message)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Return whether every configuration of the grid was tried or is being tried."""
        return self._grid.keys() <= tried_configurations(study, self._space)


ConfigurationKey = frozenset[tuple[str, Any]]
"""A configuration as a member of sets."""


def configuration_key(
    configuration: Configuration,
) -> ConfigurationKey:
    """Return what tells a configuration from others."""
    return frozenset(configuration.items())


def tried_configurations(
    study: optuna.Study,
    space: SearchSpace,
    number: int | None = None,
) -> set[ConfigurationKey]:
    """Return the configurations of all trials, running and enqueued ones included.

    Args:
        study: a study.
        space: trials outside of it are left out.
        number: number of a trial to leave out: the one that a configuration is chosen for.
    """
    tried: set[ConfigurationKey] = set()
    for trial in recorded_trials(study):
        if trial.number != number and space.contains(trial.known_params):
            tried.add(configuration_key(space.complete(trial.known_params)))
    return tried
