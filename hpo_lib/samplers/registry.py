"""How the next configuration is chosen: one table from a strategy's name to its sampler."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo_lib.checks import check_whole
from hpo_lib.samplers.encoding import Codes, Point
from hpo_lib.samplers.history import choice_seed
from hpo_lib.space.search_space import (
    ChoiceParameter,
    Configuration,
    Parameter,
    SearchSpace,
    Value,
)
from hpo_lib.trials import RecordedTrial, TrialOutcome, is_usable_value, recorded_trials

_LINE_POINTS = 201
"""Values at which three_step compares a range."""

SamplerFactory = Callable[[SearchSpace, int, int], BaseSampler]
"""Called with the space, the seed and the number of trials."""


class SpaceSampler(BaseSampler):
    """A sampler that chooses whole configurations of one space."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All searched parameters of the space."""
        return self._space.distributions()

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """The configuration of the trial with this number, with or without fixed values."""
        raise NotImplementedError

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose the whole configuration at once."""
        chosen = self.choose(study, trial.number)
        return {name: value for name, value in chosen.items() if name in search_space}

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


class RandomSampler(SpaceSampler):
    """Independent draws from the priors, one per trial number."""

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Draw one configuration."""
        rng = np.random.default_rng([self._seed, number])
        return self._space.sample(rng, self._seed)


class SobolSampler(SpaceSampler):
    """A scrambled Sobol sequence through the priors; trial n takes its point n.

    It fills the space more evenly than independent draws do. Owen (1998), "Scrambling Sobol' and
    Niederreiter-Xing points", on scipy's implementation.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the point of this trial's number."""
        from scipy.stats import qmc  # takes half a second to import

        n_dimensions = len(self._space.searched)
        sequence = qmc.Sobol(max(n_dimensions, 1), rng=np.random.default_rng(self._seed))
        if number:  # scipy overflows when it is to go forward by nothing
            sequence.fast_forward(number)
        u = sequence.random(1)[0, :n_dimensions]
        return self._space.from_unit(u.tolist(), self._seed)


class GridSampler(SpaceSampler):
    """Every configuration of a grid once, in a seeded random order.

    Numbers with more values get as many points, from 2 to 5, as let the whole grid fit into
    `n_trials`. When not even 2 do, they get 3, so that the middle is on the grid, and the budget
    ends within the random order: an even sample of the grid rather than one of its corners. A
    default that is off the grid, when it is tried first, takes the place of one of them.
    """

    def __init__(self, space: SearchSpace, seed: int, n_trials: int) -> None:
        super().__init__(space, seed)
        fitting = [points for points in (5, 4, 3, 2) if space.grid_size(points) <= n_trials]
        self.points = fitting[0] if fitting else 3
        grid = space.grid(self.points)
        order = np.random.default_rng(seed).permutation(len(grid))
        self._grid = {_key(grid[index]): grid[index] for index in order}

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Take the first configuration that no other trial has, whatever became of that one."""
        recorded = _tried(study, self._space, but=number)
        for key, configuration in self._grid.items():
            if key not in recorded:
                return configuration
        message = (
            f"all {len(self._grid)} configurations of the grid have been tried; "
            "ask is_exhausted(study) first"
        )
        raise RuntimeError(message)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every configuration of the grid was tried or is being tried."""
        return self._grid.keys() <= _tried(study, self._space)


class RebuiltSampler(BaseSampler):
    """A sampler of Optuna's made anew for every choice, so that all its state is in the record.

    Args:
        make: the sampler of a seed.
        seed: with the trial's number it gives the seed of each choice.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are chosen together."""
        return self._fresh(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose them."""
        return self._fresh(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Choose one of the others, those with conditions among them."""
        sampler = self._fresh(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _fresh(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        return self._make(choice_seed(self._seed, trial.number, name))


def _tpe(space: SearchSpace, seed: int, n_trials: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator over all parameters at once.

    Bergstra et al. (2011), "Algorithms for hyper-parameter optimization"; the multivariate form
    is that of Falkner et al. (2018), "BOHB". Pending trials count among the bad ones, failed ones
    not at all: it may fail in the same place again. Parameters with a condition are modelled one
    by one, from the trials that have them.
    """
    return RebuiltSampler(
        lambda one: optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=one),
        seed,
    )


def _genetic(space: SearchSpace, seed: int, n_trials: int) -> BaseSampler:
    """Optuna's NSGA-II (Deb et al., 2002) with one objective: a genetic algorithm with elitism.

    As many generations as individuals, since the usual 50 individuals are a whole budget here: a
    study that goes on with a larger budget has larger generations from there. Failed trials have
    no offspring. Parameters with a condition are drawn, not inherited. In 50 trials it may do no
    better than random search.
    """
    size = max(4, math.isqrt(n_trials))
    return RebuiltSampler(
        lambda one: optuna.samplers.NSGAIISampler(population_size=size, seed=one), seed
    )


class CmaEsSampler(SpaceSampler):
    """Covariance matrix adaptation: draws from a normal distribution that learns its shape.

    Hansen (2016), "The CMA evolution strategy: a tutorial", on the package `cmaes`. The
    distribution is built anew from the record, one generation after the other in order of trial
    numbers, so nothing is unpickled and resume is exact. Options share a coordinate evenly; an
    inactive parameter is told at the mean, where it moves nothing. Best with numbers and budgets
    well above the 4 + 3 log(d) trials of a generation; it may repeat configurations.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Draw from the distribution after the generations that are complete."""
        from cmaes import CMA

        codes = Codes(self._space.distributions(), self._space)
        n_dimensions = len(codes.axes)
        if not n_dimensions:
            return {}
        bounds = np.tile([0.0, 1.0], (n_dimensions, 1))
        number_seed = choice_seed(self._seed, number)
        # Hansen: a standard deviation of 0.3 times the range.
        cma = CMA(np.full(n_dimensions, 0.5), 0.3, bounds=bounds, seed=number_seed)
        told = [
            (point, [axis.name in one.params for axis in codes.axes], value)
            for one, value in _outcomes(study)
            if (point := codes.encode(one.params)) is not None
        ]
        size = cma.population_size
        for start in range(0, len(told) - size + 1, size):
            points, active, values = zip(*told[start : start + size], strict=True)
            cma.tell([*zip(np.where(active, codes.units(points), cma.mean), values, strict=True)])
        return codes.decode(codes.draw(cma.ask()[None])[0].tolist())


class ThreeStepSampler(SpaceSampler):
    """The reference recipe's strategy: a random point, its learning rate, then line by line.

    (1) One trial with random values for all. (2) Three at that point, `lr` in each third of its
    range: at the three points of its prior where that is segmented, else drawn evenly. (3) Blocks
    of three trials per hyperparameter, in the order of the space and cycling, each a
    one-dimensional Gaussian-process search (expected improvement, fitted to the trials on that
    line) with the others at the incumbent. Enqueued trials and evidence come before and are not
    counted.

    Where the recipe is silent: without an active `lr` the first active number takes its place,
    and without any, step 2 is left out; a block goes on to the next hyperparameter when its own
    is inactive at the incumbent or has nothing new on its line; a draw from the priors fills in
    when no line has, or no trial has a value.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Choose by the step that this trial belongs to."""
        earlier = recorded_trials(study)[:number]
        index = sum(trial.is_chosen for trial in earlier)
        start = self._space.sample(np.random.default_rng(self._seed), self._seed)
        lr = self._learning_rate(start)
        first_block = 1 if lr is None else 4
        rng = np.random.default_rng([self._seed, number])
        configuration = start
        if lr is not None and 1 <= index <= 3:
            u = (index - 1) / 2 if lr.prior == "segmented" else (index - 1 + rng.random()) / 3
            configuration = self._moved(start, lr.name, lr.from_unit(u, self._seed))
        elif index >= first_block:
            found = self._on_a_line(study, number, (index - first_block) // 3)
            configuration = found or self._space.sample(rng, self._seed)
        return configuration

    def _learning_rate(self, start: Configuration) -> Any:
        """The parameter of step 2."""
        several = [one for one in self._space.searched if one.count != 1 and one.name in start]
        ranges = [one for one in several if not isinstance(one, ChoiceParameter)]
        return min(ranges, key=lambda one: one.name != "lr", default=None)

    def _on_a_line(self, study: optuna.Study, number: int, block: int) -> Configuration | None:
        """The most promising new point on the first line from this block's on that has any."""
        outcomes = [
            (self._space.complete(one.params), value)
            for one, value in _outcomes(study)
            if self._space.contains(one.params)
        ]
        if not outcomes:
            return None
        incumbent = min(outcomes, key=lambda outcome: outcome[1])[0]
        tried = _tried(study, self._space, but=number)
        searched = [one for one in self._space.searched if one.count != 1]
        for shift in range(len(searched)):
            one = searched[(block + shift) % len(searched)]
            if one.name not in incumbent:
                continue
            line = [self._moved(incumbent, one.name, v) for v in one.grid_values(_LINE_POINTS)]
            new = [c[one.name] for c in line if _key(c) not in tried]
            if new:
                known = [
                    (c[one.name], value)
                    for c, value in outcomes
                    if one.name in c and c == self._moved(incumbent, one.name, c[one.name])
                ]
                return self._moved(incumbent, one.name, _most_promising(one, known, new))
        return None

    def _moved(self, incumbent: Configuration, name: str, value: Value) -> Configuration:
        """The incumbent with one other value; what that makes active has its default."""
        defaults = {one.name: one.default for one in self._space.searched}
        return self._space.complete({**defaults, **incumbent, name: value})


def _most_promising(
    one: Parameter, known: Sequence[tuple[Value, float]], new: Sequence[Value]
) -> Value:
    """The new value with the highest expected improvement, given known ones on the same line."""
    from hpo_lib.samplers.gp import (  # takes seconds
        GaussianProcess,
        compress,
        log_expected_improvement,
    )

    codes = Codes({one.name: one.distribution()})

    def rows(values: Iterable[Value]) -> Any:
        return codes.scale([cast("Point", codes.encode({one.name: value})) for value in values])

    places = rows(value for value, _ in known)
    model = GaussianProcess([0] if isinstance(one, ChoiceParameter) else [])
    model.fit(places, compress([value for _, value in known]))
    mean, std = model.predict(rows(new), return_std=True)
    best = float(model.predict(places).min())
    return new[int(np.argmax(log_expected_improvement(mean, std, best)))]


def _outcomes(study: optuna.Study) -> list[tuple[RecordedTrial, float]]:
    """Trials with what they came to, lower is better: failed ones to the worst of the others.

    A pruned value is of a lower fidelity and a lost trial says nothing: they are left out.
    """
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    found = [
        (trial, math.inf if trial.value is None else sign * trial.value)
        for trial in recorded_trials(study)
        if trial.is_finished and trial.outcome not in (TrialOutcome.PRUNED, TrialOutcome.LOST)
    ]
    worst = max((value for _, value in found if is_usable_value(value)), default=math.inf)
    return [
        (one, v if is_usable_value(v) else worst) for one, v in found if is_usable_value(worst)
    ]


def _tried(study: optuna.Study, space: SearchSpace, but: int | None = None) -> set[_Key]:
    """The configurations of all trials but one, running and enqueued ones included."""
    trials = (t for t in recorded_trials(study) if t.number != but)
    params = [t.known_params for t in trials]
    return {_key(space.complete(values)) for values in params if space.contains(values)}


_Key = frozenset[tuple[str, Any]]


def _key(configuration: Configuration) -> _Key:
    return frozenset(configuration.items())


STRATEGIES: dict[str, SamplerFactory] = {
    "grid": GridSampler,
    "random": lambda space, seed, n_trials: RandomSampler(space, seed),
    "sobol": lambda space, seed, n_trials: SobolSampler(space, seed),
    # imported when they are asked for: that takes seconds
    "bayes": lambda space, seed, _: _imported("hpo_lib.samplers.bayes.BayesSampler")(seed, space),
    "skopt": lambda space, seed, _: _imported("hpo_lib.samplers.skopt_sampler.SkoptSampler")(
        seed, space
    ),
    "tpe": _tpe,
    "genetic": _genetic,
    "cmaes": lambda space, seed, n_trials: CmaEsSampler(space, seed),
    "three_step": lambda space, seed, n_trials: ThreeStepSampler(space, seed),
}


def make_sampler(
    strategy: str | BaseSampler, space: SearchSpace, seed: int, n_trials: int
) -> BaseSampler:
    """The sampler of a strategy.

    Args:
        strategy: a name out of `STRATEGIES`, the import path of an Optuna sampler that takes a
            seed ("optuna.samplers.NSGAIISampler", the last dot may be a colon), or a sampler,
            which is returned as it is.
        space: the search space.
        seed: fixes the strategy's choices.
        n_trials: the budget.
    """
    if isinstance(strategy, BaseSampler):
        return strategy
    seed = check_whole("seed", seed, 0)
    if strategy in STRATEGIES:
        return STRATEGIES[strategy](space, seed, n_trials)
    if not inspect.isclass(strategy) and (":" in strategy or "." in strategy):
        return _imported(strategy)(seed=seed)
    message = (
        f"strategy must be one of {', '.join(sorted(STRATEGIES))}, "
        f'"package.module:ClassName" of an Optuna sampler, or a sampler, got {strategy!r}'
    )
    raise ValueError(message)


def _imported(path: str) -> Callable[..., BaseSampler]:
    module_name, _, class_name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f'strategy must be "package.module:ClassName", got {path!r}: {error}'
        raise ValueError(message) from error
    if inspect.isclass(found) and issubclass(found, BaseSampler):
        with suppress(TypeError):  # it wants more
            inspect.signature(found).bind(seed=0)
            return found
    message = f"strategy must be an Optuna sampler that takes a seed alone, got {path!r}"
    raise ValueError(message)
