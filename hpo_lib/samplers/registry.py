"""Names of strategies, and the samplers that they stand for.

To add a strategy: write an Optuna sampler in a module beside this one (`simple.SpaceSampler` is
the shortest base class), then add a line to `STRATEGIES` with its name and a function of (space,
seed, n_trials) that makes it. Everything else takes the names from that table.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from contextlib import suppress

from optuna.samplers import BaseSampler

from hpo_lib.checks import check_whole
from hpo_lib.samplers.optuna_samplers import CmaEsSampler, make_genetic_sampler, make_tpe_sampler
from hpo_lib.samplers.simple import GridSampler, RandomSampler, SobolSampler
from hpo_lib.samplers.three_step import ThreeStepSampler
from hpo_lib.space.search_space import SearchSpace

SamplerFactory = Callable[[SearchSpace, int, int], BaseSampler]
"""Called with the space, the seed and the number of trials."""


def _imported(path: str) -> SamplerFactory:
    """Return what imports a class, which takes seconds, when it makes a sampler of it."""

    def make(space: SearchSpace, seed: int, n_trials: int) -> BaseSampler:
        return pkgutil.resolve_name(path)(seed, space)

    return make


STRATEGIES: dict[str, SamplerFactory] = {
    "grid": GridSampler,
    "random": RandomSampler,
    "sobol": SobolSampler,
    "bayes": _imported("hpo_lib.samplers.bayes:BayesSampler"),
    "skopt": _imported("hpo_lib.samplers.skopt_sampler:SkoptSampler"),
    "tpe": make_tpe_sampler,
    "genetic": make_genetic_sampler,
    "cmaes": CmaEsSampler,
    "three_step": ThreeStepSampler,
}


def make_sampler(
    strategy: str | BaseSampler,
    space: SearchSpace,
    seed: int,
    n_trials: int,
) -> BaseSampler:
    """Return the sampler of a strategy.

    Args:
        strategy: a name out of `STRATEGIES`, the import path of an Optuna sampler that takes a
            seed ("optuna.samplers.NSGAIISampler", the last dot may be a colon), or a sampler,
            which is returned as it is.
        space: the search space.
        seed: fixes the strategy's choices.
        n_trials: the budget.

    Raises:
        ValueError: there is no such strategy, or the seed is negative.

    Example:
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> type(make_sampler("random", space, seed=0, n_trials=10)).__name__
        'RandomSampler'
    """
    if isinstance(strategy, BaseSampler):
        return strategy

    seed = check_whole("seed", seed, 0)
    return find_strategy(strategy)(space, seed, n_trials)


def find_strategy(strategy: str) -> SamplerFactory:
    """Return what makes the sampler of a strategy.

    Args:
        strategy: a name out of `STRATEGIES` or an import path, as for `make_sampler`.

    Raises:
        ValueError: there is no such strategy.
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    if not inspect.isclass(strategy) and (":" in strategy or "." in strategy):
        sampler_class = _import_sampler(strategy)
        return lambda _space, seed, _n_trials: sampler_class(seed=seed)
    message = (
        f"strategy must be one of {', '.join(sorted(STRATEGIES))}, "
        f'"package.module:ClassName" of an Optuna sampler, or a sampler, got {strategy!r}'
    )
    raise ValueError(message)


def _import_sampler(path: str) -> Callable[..., BaseSampler]:
    """Return the class at an import path; ValueError unless it is a sampler that takes a seed."""
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        message = f'strategy must be "package.module:ClassName", got {path!r}: {error}'
        raise ValueError(message) from error

    if inspect.isclass(found) and issubclass(found, BaseSampler):
        with suppress(TypeError):  # it takes other arguments
            inspect.signature(found).bind(seed=0)
            return found

    message = f"strategy must be an Optuna sampler that takes a seed alone, got {path!r}"
    raise ValueError(message)
