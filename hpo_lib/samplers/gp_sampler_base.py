"""Base class of the samplers that fit a Gaussian process to the recorded trials.

Such a sampler is an Optuna sampler for one objective, in either direction, without constraints; a
study with several or with constraints is refused. It keeps no state: its choice is a function of
(seed, trial number, recorded trials). With a `SearchSpace` it takes account of conditions, priors
and defaults and never repeats a configuration. Without one it works in any Optuna program, on the
parameters that all trials share.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from hpo_lib.blas import one_thread
from hpo_lib.checks import check_member, check_whole
from hpo_lib.exceptions import ExhaustedError
from hpo_lib.samplers.acquisition import ACQUISITIONS, to_point
from hpo_lib.samplers.encoding import Array, Encoder, Point
from hpo_lib.samplers.observations import (
    Observation,
    Observations,
    choice_seed,
    collect_observations,
    direction_sign,
    varied_parameters,
)
from hpo_lib.samplers.simple import ConfigurationSampler
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import StudyRecord, recorded_trials

INITIAL_POINT_GENERATORS = ("random", "sobol", "lhs", "halton")

_MAX_CANDIDATES = 1024


class GPSamplerBase(ConfigurationSampler):
    """Observations, initial points and the promise never to repeat a configuration.

    The defaults are those of scikit-optimize.

    Args:
        seed: fixes all choices; None is a random one.
        space: the search space; None in any other Optuna program.
        n_initial_points: trials before the model takes over.
        acq_func: one of `acquisitions`; "gp_hedge" picks one of EI, LCB and PI evenly.
        initial_point_generator: "random", "sobol", "lhs" or "halton".
        xi: improvement that EI and PI ask for.
        kappa: weight of the standard deviation in LCB.
        x0: configurations that are tried before the initial points.
        y0: their known values, one each: x0 are then observations, and not tried.

    Raises:
        ValueError: an argument is out of its range, or x0 does not lie in the space.
    """

    acquisitions: tuple[str, ...] = ACQUISITIONS
    is_multi_fidelity = False
    """Whether the model is fitted to intermediate values, too."""

    def __init__(
        self,
        seed: int | None = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 10,
        acq_func: str = "gp_hedge",
        *,
        initial_point_generator: str = "random",
        xi: float = 0.01,
        kappa: float = 1.96,
        x0: Sequence[Configuration] = (),
        y0: Sequence[float] | None = None,
    ) -> None:
        super().__init__()

        # Check the arguments.
        check_member("acq_func", acq_func, self.acquisitions)
        check_member(
            "initial_point_generator",
            initial_point_generator,
            INITIAL_POINT_GENERATORS,
        )
        _check_known_values(x0, y0, space)

        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))

        self._seed = check_whole("seed", seed, 0)
        self._space = space
        self._n_initial_points = check_whole("n_initial_points", n_initial_points, 0)
        self._initial_point_generator = initial_point_generator
        self._acq_func = acq_func
        self._xi = xi
        self._kappa = kappa

        # With y0, x0 are observations; without, they are tried first.
        x0 = [] if space is None else [space.check(configuration) for configuration in x0]
        self._x0 = x0 if y0 is None else []
        self._known = [] if y0 is None else list(zip(x0, y0, strict=True))
        self._encoder: Encoder | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the options that choices depend on, as JSON for the record of a study."""
        return {
            "n_initial_points": self._n_initial_points,
            "acq_func": self._acq_func,
            "initial_point_generator": self._initial_point_generator,
            "xi": self._xi,
            "kappa": self._kappa,
        }

    @abstractmethod
    def _choose(
        self,
        encoder: Encoder,
        observations: Observations,
        rng: np.random.Generator,
    ) -> Point:
        """Return the point that the model expects most of; none that was tried."""

    def _select_evidence(self, encoder: Encoder, observations: Observations) -> Observations:
        """Return the observations that the model is to be fitted to: all of them."""
        return observations

    def _is_model_turn(self, index: int, observations: Observations) -> bool:
        """Return whether the model chooses the trial with this index, and not the design."""
        return index >= self._n_initial_points

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all parameters of the space; without one, those that every trial so far had.

        Args:
            study: study that the trial belongs to.
            trial: trial that values are chosen for.
        """
        if len(study.directions) > 1:
            message = (
                f"{type(self).__name__} optimises one objective, "
                f"got a study with {len(study.directions)}"
            )
            raise ValueError(message)

        if self._space is not None:
            return self._space.distributions()
        if trial.number < self._n_initial_points:
            return {}

        # Parameters with one value are nothing to model.
        shared = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: found for name, found in shared.items() if not found.single()}

    @one_thread
    def _choose_params(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        encoder = self._encoder_of(study, search_space)
        if len(encoder.axes) == len(encoder.held):
            return {}

        # x0 first. Enqueued and warm-start trials do not take the place of any of them.
        if self._x0:
            earlier = recorded_trials(study)[: trial.number]
            n_chosen = sum(one.is_chosen for one in earlier)
            if n_chosen < len(self._x0):
                return encoder.active(self._x0[n_chosen])

        # Then the model, as soon as there are enough trials and any value.
        observations = self._observe(study, encoder, trial.number)
        observations = self._select_evidence(encoder, observations)
        rng = np.random.default_rng([self._seed, trial.number])
        index = trial.number - len(self._x0)
        if observations.observed and self._is_model_turn(index, observations):
            return encoder.decode(self._choose(encoder, observations, rng))

        # Else an initial point, or any other if it was tried.
        point = self._initial_point(
            encoder,
            index - observations.n_warm_start,
            observations,
        )
        if point is None or point in observations.tried:
            point = self._untried_points(encoder, observations, rng)[0]
        return encoder.decode(point)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that the model does not cover uniformly from its range.

        Args:
            study: study that the trial belongs to.
            trial: trial that a value is chosen for.
            param_name: name of the parameter.
            param_distribution: its range.
        """
        uniform = optuna.samplers.RandomSampler(choice_seed(self._seed, trial.number, param_name))
        return uniform.sample_independent(study, trial, param_name, param_distribution)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Return whether every configuration of a finite space was tried or is being tried."""
        if self._space is None or self._space.size is None:
            return False
        encoder = self._encoder_of(study, self._space.distributions())
        reached = filter(encoder.is_reachable, self._observe(study, encoder).tried)
        return len(list(reached)) >= self._space.size

    def _encoder_of(
        self, study: optuna.Study, distributions: dict[str, BaseDistribution]
    ) -> Encoder:
        """Return the last encoder while it fits: it remembers the points of configurations."""
        held: tuple[str, ...] = ()
        if self._space is not None and self._space.held:
            held = varied_parameters(recorded_trials(study), self._space)

        asked_for = (distributions, held)
        if self._encoder is None or asked_for != (self._encoder.distributions, self._encoder.held):
            self._encoder = Encoder(distributions, self._space, held)
        return self._encoder

    def _observe(
        self,
        study: optuna.Study,
        encoder: Encoder,
        number: int | None = None,
    ) -> Observations:
        """Collect the observations of all trials but the one with this number."""
        for trial in study.get_trials(deepcopy=False):
            if trial.constraints and trial.number != number:
                message = f"{type(self).__name__} knows no constraints, got {trial.constraints}"
                raise ValueError(message)

        # Known values of x0.
        sign = direction_sign(study)
        known: list[Observation] = []
        for configuration, value in self._known:
            point = cast("Point", encoder.encode(configuration))
            known.append(Observation(point, sign * value))

        trials = [trial.as_evidence() for trial in self._recorded_trials(study, number)]
        return collect_observations(
            trials,
            encoder,
            sign,
            known,
            with_intermediate_values=self.is_multi_fidelity,
            budget=StudyRecord.of(study).settings.get("budget"),
        )

    def _initial_point(
        self,
        encoder: Encoder,
        index: int,
        observations: Observations,
    ) -> Point | None:
        """Return an initial point, drawn from the priors of the space; None after the last."""
        if self._space is None or index >= self._n_initial_points:
            return None

        n_dimensions = len(self._space.searched)
        design = _initial_design(
            self._initial_point_generator,
            self._n_initial_points,
            n_dimensions,
            self._seed,
        )
        configuration = self._space.from_unit(design[index].tolist(), self._seed)
        return encoder.encode(configuration)

    def _untried_points(
        self,
        encoder: Encoder,
        observations: Observations,
        rng: np.random.Generator,
    ) -> list[Point]:
        """Return points that were not tried so far, in random order; at least one."""
        drawn = encoder.all_points()
        if drawn is None:
            units = rng.random((_MAX_CANDIDATES, len(encoder.axes)))
            drawn = encoder.from_unit_cube(units)

        shuffled = map(to_point, rng.permutation(drawn))
        points = list(dict.fromkeys(shuffled))
        untried = observations.untried(points)

        # Parameters that are not shared may still make it a new configuration.
        if self._space is None:
            return (untried or points)[:_MAX_CANDIDATES]

        # Draws seldom meet the last ones of a large finite space.
        if not untried and self._space.size is not None:
            grid = self._space.grid(self._space.size)
            untried = observations.untried(map(encoder.encode, grid))
            rng.shuffle(untried)

        if not untried:
            message = (
                f"all {len(observations.tried)} configurations of the space have been tried; "
                "ask is_exhausted(study) first"
            )
            raise ExhaustedError(message)

        return untried[:_MAX_CANDIDATES]


def _check_known_values(
    x0: Sequence[Configuration],
    y0: Sequence[float] | None,
    space: SearchSpace | None,
) -> None:
    """Refuse x0 without a space, and y0 that are not one finite value for each of x0."""
    if space is None and len(x0):
        message = f"x0 and y0 need a space, got space=None and x0={x0!r}"
        raise ValueError(message)

    if y0 is None:
        return
    if len(y0) != len(x0) or not all(map(math.isfinite, y0)):
        message = f"y0 must be finite for each of {len(x0)} points x0, got {y0!r}"
        raise ValueError(message)


def _initial_design(
    generator: str,
    n: int,
    n_dimensions: int,
    seed: int,
) -> Array:
    """Return n points of the unit cube, shape (n, n_dimensions)."""
    rng = np.random.default_rng(seed)
    if generator == "random":
        return rng.random((n, n_dimensions))
    if generator == "sobol":  # balanced for powers of two
        exponent = max(n - 1, 0).bit_length()
        return qmc.Sobol(n_dimensions, rng=rng).random_base2(exponent)[:n]

    design = qmc.Halton if generator == "halton" else qmc.LatinHypercube
    return design(n_dimensions, rng=rng).random(n)
