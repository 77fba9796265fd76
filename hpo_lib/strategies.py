"""How the next configuration is chosen: one table from a strategy's name to its sampler."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo_lib.space import Configuration, SearchSpace

SamplerFactory = Callable[[SearchSpace, int, int], BaseSampler]
"""Called with the space, the seed and the number of trials."""


class _SpaceSampler(BaseSampler):
    """A sampler that chooses whole configurations of one space."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All searched parameters of the space."""
        return self._space.distributions()

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuse a parameter that the space does not have."""
        message = (
            f"parameter {param_name!r} as {param_distribution} is not in the space of this "
            f"{type(self).__name__}, which has {list(self._space.names)}"
        )
        raise ValueError(message)


class RandomSampler(_SpaceSampler):
    """Independent draws from the priors, one per trial number."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw one configuration."""
        rng = np.random.default_rng([self._seed, trial.number])
        return _searched(self._space.sample(rng, self._seed), search_space)


class GridSampler(_SpaceSampler):
    """Every configuration of a grid once, in a seeded random order.

    Numbers with more values get as many points, from 2 to 5, as let the whole grid fit into
    `n_trials`. When not even 2 do, they get 3, so that the middle is on the grid, and the budget
    ends within the random order: an even sample of the grid rather than one of its corners.
    """

    def __init__(self, space: SearchSpace, seed: int, n_trials: int) -> None:
        super().__init__(space, seed)
        fitting = [points for points in (5, 4, 3, 2) if space.grid_size(points) <= n_trials]
        self.points = fitting[0] if fitting else 3
        grid = space.grid(self.points)
        order = np.random.default_rng(seed).permutation(len(grid))
        self._grid = {_key(grid[index]): grid[index] for index in order}

    def __len__(self) -> int:
        """The number of configurations on the grid."""
        return len(self._grid)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Take the first configuration that no other trial has, whatever became of that one."""
        recorded = self._recorded(study, but=trial.number)
        for key, configuration in self._grid.items():
            if key not in recorded:
                return _searched(configuration, search_space)
        message = (
            f"all {len(self)} configurations of the grid have been tried; "
            "ask is_exhausted(study) first"
        )
        raise RuntimeError(message)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every configuration of the grid was tried or is being tried."""
        return self._grid.keys() <= self._recorded(study)

    def _recorded(self, study: optuna.Study, but: int | None = None) -> set[_Key]:
        """The configurations of all trials, running and enqueued ones included."""
        trials = (t for t in study.get_trials(deepcopy=False) if t.number != but)
        params = [{**t.system_attrs.get("fixed_params", {}), **t.params} for t in trials]
        inside = (values for values in params if self._space.contains(values))
        return {_key(self._space.complete(values)) for values in inside}


_Key = frozenset[tuple[str, Any]]


def _key(configuration: Configuration) -> _Key:
    return frozenset(configuration.items())


def _searched(configuration: Configuration, search_space: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in configuration.items() if name in search_space}


def _bayes(space: SearchSpace, seed: int, n_trials: int) -> BaseSampler:
    from hpo_lib.bayes import BayesSampler  # takes seconds to import

    return BayesSampler(seed, space)


def _skopt(space: SearchSpace, seed: int, n_trials: int) -> BaseSampler:
    from hpo_lib.skopt_sampler import SkoptSampler

    return SkoptSampler(seed, space)


STRATEGIES: dict[str, SamplerFactory] = {
    "grid": GridSampler,
    "random": lambda space, seed, n_trials: RandomSampler(space, seed),
    "bayes": _bayes,
    "skopt": _skopt,
}


def make_sampler(
    strategy: str | BaseSampler, space: SearchSpace, seed: int, n_trials: int
) -> BaseSampler:
    """The sampler of a strategy.

    Args:
        strategy: a name out of `STRATEGIES`, "package.module:ClassName" of an Optuna sampler that
            takes a seed, or a sampler, which is returned as it is.
        space: the search space.
        seed: fixes the strategy's choices.
        n_trials: the budget.
    """
    if isinstance(strategy, BaseSampler):
        return strategy
    if seed < 0:
        message = f"seed must not be negative, got {seed}"
        raise ValueError(message)
    if strategy in STRATEGIES:
        return STRATEGIES[strategy](space, seed, n_trials)
    if ":" in strategy:
        return _imported(strategy)(seed=seed)
    message = (
        f"strategy must be one of {', '.join(sorted(STRATEGIES))}, "
        f'"package.module:ClassName" of an Optuna sampler, or a sampler, got {strategy!r}'
    )
    raise ValueError(message)


def _imported(path: str) -> Callable[..., BaseSampler]:
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f'strategy must be "package.module:ClassName", got {path!r}: {error}'
        raise ValueError(message) from error
    is_sampler = inspect.isclass(found) and issubclass(found, BaseSampler)
    if is_sampler and "seed" in inspect.signature(found).parameters:
        return cast("Callable[..., BaseSampler]", found)
    message = f"strategy must be an Optuna sampler that takes a seed, got {path!r}"
    raise ValueError(message)
