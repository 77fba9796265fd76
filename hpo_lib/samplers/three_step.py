"""Three-step strategy: random values, the learning rate, then one parameter at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna

from hpo_lib.samplers.encoding import Array, Encoder
from hpo_lib.samplers.observations import final_values, output_transform
from hpo_lib.samplers.simple import (
    ConfigurationKey,
    SpaceSampler,
    configuration_key,
    tried_configurations,
)
from hpo_lib.space.parameters import ChoiceParameter, FloatParameter, IntParameter, Parameter
from hpo_lib.space.values import Configuration, Value
from hpo_lib.trials import recorded_trials

_BLOCK = 3
_N_WARM_UP = 3
_LINE_POINTS = 201
"""Values at which a range is compared."""


class ThreeStepSampler(SpaceSampler):
    """A random point, then its learning rate, then one hyperparameter after the other.

    (1) One trial with random values for all. (2) Three at that point, `lr` in each third of its
    range: at the three points of its prior where that is segmented, else drawn evenly. (3) Blocks
    of three trials per hyperparameter, in the order of the space and cycling, each a
    one-dimensional Gaussian-process search (expected improvement, fitted to the trials on that
    line) with the others at the incumbent. Enqueued and warm-start trials come before and are not
    counted.

    Where the recipe is silent: without an active `lr` the first active number takes its place,
    and without any, step 2 is left out; a block goes on to the next hyperparameter when its own
    is inactive at the incumbent or has nothing new on its line; a draw from the priors fills in
    when no line has, or no trial has a value.
    """

    def choose(self, study: optuna.Study, number: int) -> Configuration:
        """Choose by the step that this trial belongs to.

        Args:
            study: the study that the trial belongs to.
            number: number of the trial, from 0.
        """
        earlier = recorded_trials(study)[:number]
        index = sum(trial.is_chosen for trial in earlier)
        rng = np.random.default_rng([self._seed, number])

        # Step 1: random values.
        start = self._space.sample(np.random.default_rng(self._seed), self._seed)
        if index == 0:
            return start

        # Step 2: the learning rate.
        lr = self._learning_rate(start)
        n_warm_up = 0 if lr is None else _N_WARM_UP
        if lr is not None and index <= n_warm_up:
            third = (index - 1 + rng.random()) / 3
            u = (index - 1) / 2 if lr.prior == "segmented" else third
            return self._replace(start, lr.name, lr.from_unit(u, self._seed))

        # Step 3: line by line.
        block = (index - 1 - n_warm_up) // _BLOCK
        found = self._search_lines(study, number, block)
        return found or self._space.sample(rng, self._seed)

    def _learning_rate(self, start: Configuration) -> FloatParameter | IntParameter | None:
        """Return the parameter of step 2."""
        active = [one for one in self._space.searched if one.name in start and one.count != 1]
        ranges = [one for one in active if not isinstance(one, ChoiceParameter)]
        return min(ranges, key=lambda parameter: parameter.name != "lr", default=None)

    def _search_lines(
        self,
        study: optuna.Study,
        number: int,
        block: int,
    ) -> Configuration | None:
        """Return the most promising new point on the line of a block.

        A line varies one hyperparameter of the incumbent. Where it has no new point, the lines of
        the next blocks are searched; None where none has.
        """
        observed = [
            (self._space.complete(trial.params), value)
            for trial, value in final_values(study)
            if self._space.contains(trial.params)
        ]
        if not observed:
            return None

        incumbent, _ = min(observed, key=lambda pair: pair[1])
        tried = tried_configurations(self._recorded_trials(study, number), self._space)
        searched = [parameter for parameter in self._space.searched if parameter.count != 1]
        for offset in range(len(searched)):
            parameter = searched[(block + offset) % len(searched)]
            if parameter.name not in incumbent:
                continue
            untried = self._untried_on_line(incumbent, parameter, tried)
            if untried:
                values, targets = self._observed_on_line(incumbent, parameter.name, observed)
                best = _most_promising(parameter, values, targets, untried)
                return self._replace(incumbent, parameter.name, best)

        return None

    def _untried_on_line(
        self,
        incumbent: Configuration,
        parameter: Parameter,
        tried: set[ConfigurationKey],
    ) -> list[Value]:
        """Return the values of a parameter that were not tried with the incumbent's others."""
        untried: list[Value] = []
        for value in parameter.grid_values(_LINE_POINTS):
            configuration = self._replace(incumbent, parameter.name, value)
            if configuration_key(configuration) not in tried:
                untried.append(configuration[parameter.name])
        return untried

    def _observed_on_line(
        self,
        incumbent: Configuration,
        name: str,
        observed: Sequence[tuple[Configuration, float]],
    ) -> tuple[list[Value], list[float]]:
        """Return the values of a parameter that were tried with the incumbent's others.

        Returns:
            The values of the parameter, and those of the objective.
        """
        values: list[Value] = []
        targets: list[float] = []
        for configuration, target in observed:
            if name not in configuration:
                continue
            if configuration == self._replace(incumbent, name, configuration[name]):
                values.append(configuration[name])
                targets.append(target)

        return values, targets

    def _replace(
        self,
        configuration: Configuration,
        name: str,
        value: Value,
    ) -> Configuration:
        """Return a configuration with another value; what that makes active has its default."""
        defaults = {parameter.name: parameter.default for parameter in self._space.searched}
        return self._space.complete({**defaults, **configuration, name: value})


def _most_promising(
    parameter: Parameter,
    values: Sequence[Value],
    targets: Sequence[float],
    untried: Sequence[Value],
) -> Value:
    """Return the untried value with the highest expected improvement, given tried ones."""
    # These imports take seconds.
    from hpo_lib.samplers.acquisition import log_expected_improvement
    from hpo_lib.samplers.gp import GaussianProcess

    encoder = Encoder({parameter.name: parameter.distribution()})

    def to_rows(values: Sequence[Value]) -> Array:
        return encoder.scale(encoder.points([{parameter.name: value} for value in values]))

    observed = to_rows(values)
    is_choice = isinstance(parameter, ChoiceParameter)
    model = GaussianProcess([0] if is_choice else [])
    model.fit(observed, output_transform(targets))
    best = float(model.predict(observed).min())

    mean, std = model.predict(to_rows(untried), return_std=True)
    log_ei = log_expected_improvement(mean, std, best)
    return untried[int(np.argmax(log_ei))]
