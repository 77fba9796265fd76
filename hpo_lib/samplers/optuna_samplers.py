"""Strategies on other libraries' samplers: Optuna's TPE and NSGA-II, CMA-ES of `cmaes`.

They keep their state in memory there. Here it is rebuilt from the record for every choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from hpo_lib.checks import check_whole
from hpo_lib.samplers.encoding import Encoder, Point
from hpo_lib.samplers.observations import Observations, choice_seed, final_values
from hpo_lib.samplers.simple import SpaceSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration


class StatelessSampler(BaseSampler):
    """Make an Optuna sampler anew for every choice, so that all its state is in the record.

    Args:
        make: makes the sampler; called with `seed`.
        seed: with the trial's number it gives the seed of each choice.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = check_whole("seed", seed, 0)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are chosen together.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
        """
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Choose the values of those parameters.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
            search_space: parameters to choose.
        """
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Choose the value of another parameter, such as one with a condition.

        Args:
            study: study that the trial belongs to.
            trial: trial that a value is chosen for.
            param_name: name of the parameter.
            param_distribution: its range.
        """
        sampler = self._sampler(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        return self._make(seed=choice_seed(self._seed, trial.number, name))


def make_tpe_sampler(
    space: SearchSpace,
    seed: int,
    n_trials: int,
) -> BaseSampler:
    """Return Optuna's tree-structured Parzen estimator over all parameters at once.

    Bergstra et al. (2011), "Algorithms for hyper-parameter optimization"; the multivariate form
    is that of Falkner et al. (2018), "BOHB". Pending trials count among the bad ones, failed ones
    not at all: it may fail in the same place again. Parameters with a condition are modelled one
    by one, from the trials that have them.

    Args:
        space: the search space, which it does not need.
        seed: fixes all choices.
        n_trials: the budget, which it does not need.
    """
    return StatelessSampler(
        partial(TPESampler, multivariate=True, constant_liar=True),
        seed,
    )


def choose_by_tpe(
    encoder: Encoder,
    observations: Observations,
    rng: np.random.Generator,
) -> Point:
    """Return the choice of Optuna's TPE for what a sampler observed; it may have been tried.

    Pruned, failed and pending points count as bad ones.

    Args:
        encoder: encoder of the search space.
        observations: what was recorded, with one full training at least.
        rng: random numbers.
    """
    full = {one.point: one.value for one in observations.full_trainings}
    worst = max(full.values())
    bad = [one.point for one in observations.observed if one.fidelity < one.task == 1]
    bad += [*observations.failed, *observations.pending]
    values = dict.fromkeys(bad, worst) | full

    # A study in memory, without the message about its creation.
    sampler = TPESampler(
        n_startup_trials=0,
        multivariate=True,
        seed=int(rng.integers(2**31)),
    )
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    optuna.logging.set_verbosity(verbosity)

    # Inactive parameters have their defaults in a point.
    distributions = {axis.name: axis.distribution for axis in encoder.axes}
    for point, value in values.items():
        numbers = zip(encoder.axes, point, strict=True)
        params = {axis.name: axis.from_number(number) for axis, number in numbers}
        trial = create_trial(
            params=params,
            distributions=distributions,
            value=value,
        )
        study.add_trial(trial)

    chosen = study.ask(distributions).params
    numbers = [axis.to_number(chosen[axis.name]) for axis in encoder.axes]
    imputed = encoder.impute(np.array([numbers]))
    return tuple(imputed[0].tolist())


def make_genetic_sampler(
    space: SearchSpace,
    seed: int,
    n_trials: int,
) -> BaseSampler:
    """Return Optuna's NSGA-II with one objective: a genetic algorithm with elitism.

    Deb et al. (2002). There are as many generations as individuals, since the usual 50
    individuals are a whole budget here: a study that goes on with a larger budget has larger
    generations from there. Failed trials have no offspring. Parameters with a condition are
    drawn, not inherited. In 50 trials it may do no better than random search.

    Args:
        space: the search space, which it does not need.
        seed: fixes all choices.
        n_trials: the budget.
    """
    size = max(4, math.isqrt(n_trials))
    return StatelessSampler(partial(NSGAIISampler, population_size=size), seed)


class CmaEsSampler(SpaceSampler):
    """Covariance matrix adaptation: draw from a normal distribution that learns its shape.

    Hansen (2016), "The CMA evolution strategy: a tutorial", on the package `cmaes`. The
    distribution is rebuilt from the record, generation after generation in order of trial
    numbers, so nothing is unpickled and resume is exact. Options share a coordinate evenly; an
    inactive parameter counts as the mean, where it moves nothing. Best with numbers and budgets
    well above the 4 + 3 log(d) trials of a generation; it may repeat configurations.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Draw from the distribution after the generations that are complete.

        Args:
            study: the study that the trial belongs to.
            number: number of the trial, from 0.
        """
        from cmaes import CMA

        encoder = Encoder(self._space.distributions(), self._space)
        d = len(encoder.axes)
        if d == 0:
            return {}

        # Initial distribution: Hansen has a standard deviation of 0.3 times the range.
        seed = choice_seed(self._seed, number)
        cma = CMA(
            np.full(d, 0.5),
            0.3,
            bounds=np.tile([0.0, 1.0], (d, 1)),
            seed=seed,
        )

        points: list[Point] = []
        active: list[list[bool]] = []
        values: list[float] = []
        for trial, value in final_values(study):
            point = encoder.encode(trial.params)
            if point is not None:
                points.append(point)
                active.append([axis.name in trial.params for axis in encoder.axes])
                values.append(value)

        # One update per complete generation.
        size = cma.population_size
        for start in range(0, len(points) - size + 1, size):
            generation = slice(start, start + size)
            units = encoder.to_unit_cube(points[generation])
            solutions = np.where(active[generation], units, cma.mean)
            cma.tell(list(zip(solutions, values[generation], strict=True)))

        unit = cma.ask()
        return encoder.decode(encoder.from_unit_cube(unit[None])[0].tolist())
