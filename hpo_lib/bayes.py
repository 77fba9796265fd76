"""Bayesian search: a Gaussian process over the recorded trials chooses the next configuration.

Both samplers here are Optuna samplers for one objective, in either direction. They keep no state:
what they choose is a function of (seed, trial number, recorded trials). With a `SearchSpace` they
know its conditions, priors and defaults and never repeat a configuration; without one they work in
any Optuna program, on the parameters that all its trials share.
"""

from __future__ import annotations

import math
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from skopt import Optimizer
from skopt.acquisition import gaussian_ei
from skopt.space import Categorical, Integer, Real
from skopt.utils import cook_estimator, normalize_dimensions

from hpo_lib.codes import Axis, Codes, Point
from hpo_lib.space import Configuration, SearchSpace

ACQUISITIONS = ("gp_hedge", "EI", "LCB", "PI")
DESIGNS = ("random", "sobol", "lhs", "halton")
_CANDIDATES = 500


class BayesianSampler(BaseSampler):
    """What the samplers share: history, imputation, initial points, and never a repeat."""

    def __init__(
        self,
        seed: int,
        space: SearchSpace | None,
        n_initial_points: int,
        initial_point_generator: str,
        first: Sequence[Configuration],
        given: Sequence[tuple[Configuration, float]],
    ) -> None:
        _check_member("initial_point_generator", initial_point_generator, DESIGNS)
        if space is None and (first or given):
            message = "first and given need a space, got space=None"
            raise ValueError(message)
        self._seed = seed
        self._space = space
        self._n_initial_points = n_initial_points
        self._design = initial_point_generator
        self._first = [space.check(each) for each in first] if space else []
        self._given = [(space.check(each), value) for each, value in given] if space else []

    @abstractmethod
    def _choose(self, codes: Codes, history: _History, rng: np.random.Generator) -> Point:
        """The point, tried neither before nor now, at which the model expects most."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the space; without one, those that every trial so far had."""
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
        shared = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: found for name, found in shared.items() if not found.single()}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Choose the values of all active parameters."""
        codes = Codes(search_space, self._space)
        if not codes.axes:
            return {}
        if trial.number < len(self._first):
            return codes.active(self._first[trial.number])
        history = self._history(study, codes, trial.number)
        rng = np.random.default_rng([self._seed, trial.number])
        index = trial.number - len(self._first)
        if index >= self._n_initial_points and history.values:
            return codes.decode(self._choose(codes, history, rng))
        point = self._initial_point(codes, index)
        if point is None or point in history.tried:
            point = self._new_points(codes, history, rng)[0]
        return codes.decode(point)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that the model does not cover uniformly from its range."""
        key = [self._seed, trial.number, zlib.crc32(param_name.encode())]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        uniform = optuna.samplers.RandomSampler(seed)
        return uniform.sample_independent(study, trial, param_name, param_distribution)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every configuration of a finite space was tried or is being tried."""
        if self._space is None or self._space.size is None:
            return False
        codes = Codes(self._space.distributions(), self._space)
        return len(self._history(study, codes, None).tried) >= self._space.size

    def _history(self, study: optuna.Study, codes: Codes, number: int | None) -> _History:
        """What the trials but this one say: `given`, then completed, failed and pending ones."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        evidence = [(cast("Point", codes.encode(c)), sign * value) for c, value in self._given]
        failed: list[Point] = []
        pending: list[Point] = []
        pruned: list[Point] = []
        for trial in study.get_trials(deepcopy=False):
            point = None if trial.number == number else codes.encode(_params(trial))
            if point is None:
                continue
            if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0]):
                evidence.append((point, sign * trial.values[0]))
            elif trial.state in (TrialState.RUNNING, TrialState.WAITING):
                pending.append(point)
            # A pruned value is of a lower fidelity, and a lost worker says nothing about its
            # configuration: these are only not tried again.
            elif trial.state == TrialState.PRUNED or trial.user_attrs.get("status") == "lost":
                pruned.append(point)
            else:
                failed.append(point)
        values = [value for _, value in evidence]
        if values:
            # As bad as the worst: the search keeps away, and no invented number bends the scale.
            evidence += [(point, max(values)) for point in failed]
            # The constant liar of Ginsbourger et al. (2010): nothing is expected there any more.
            evidence += [(point, min(values)) for point in pending]
        tried = {point for point, _ in evidence}.union(failed, pending, pruned)
        return _History(tried, [p for p, _ in evidence], [v for _, v in evidence])

    def _initial_point(self, codes: Codes, index: int) -> Point | None:
        if self._space is None or index >= self._n_initial_points:
            return None
        units = _design(
            self._design, self._n_initial_points, len(self._space.searched), self._seed
        )
        return codes.encode(self._space.from_unit(units[index].tolist(), self._seed))

    def _new_points(
        self, codes: Codes, history: _History, rng: np.random.Generator
    ) -> list[Point]:
        """Points not tried so far, in random order; at least one."""
        drawn = codes.every() or codes.draw(_CANDIDATES, rng)
        rng.shuffle(drawn)
        new = [point for point in drawn if point not in history.tried]
        if new:
            return new[:_CANDIDATES]
        if self._space is None:  # other parameters may still make it a new configuration
            return drawn[:_CANDIDATES]
        message = (
            f"all {len(history.tried)} configurations of the space have been tried; "
            "ask is_exhausted(study) first"
        )
        raise RuntimeError(message)


class SkoptSampler(BayesianSampler):
    """scikit-optimize's Gaussian process and acquisition with its defaults, its traps mended.

    The model is fitted anew to all evidence for every trial, so the gains of `gp_hedge` start from
    zero each time: it picks one of its three acquisition functions evenly.

    Args:
        seed: fixes all choices.
        space: the search space; None in an Optuna program of any other origin.
        n_initial_points: trials before the model takes over.
        acq_func: "gp_hedge", "EI", "LCB" or "PI".
        initial_point_generator: "random", "sobol", "lhs" or "halton".
        xi: the improvement that EI and PI ask for.
        kappa: the weight of the standard deviation in LCB.
        first: configurations tried before the initial points.
        given: configurations with known values that are evidence without being trials.
    """

    def __init__(
        self,
        seed: int = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 10,
        acq_func: str = "gp_hedge",
        *,
        initial_point_generator: str = "random",
        xi: float = 0.01,
        kappa: float = 1.96,
        first: Sequence[Configuration] = (),
        given: Sequence[tuple[Configuration, float]] = (),
    ) -> None:
        _check_member("acq_func", acq_func, ACQUISITIONS)
        super().__init__(seed, space, n_initial_points, initial_point_generator, first, given)
        self._acq_func = acq_func
        self._acq_func_kwargs = {"xi": xi, "kappa": kappa}

    def _choose(self, codes: Codes, history: _History, rng: np.random.Generator) -> Point:
        space = skopt_space(codes.axes)
        optimizer: Any = Optimizer(
            space,
            "GP",
            n_initial_points=0,
            acq_func=self._acq_func,
            acq_func_kwargs=self._acq_func_kwargs,
            random_state=int(rng.integers(2**31)),
            model_queue_size=1,
        )
        with _known_warnings():
            optimizer.tell([list(point) for point in history.points], history.values)
            point = codes.impute(optimizer.ask())
            new = point not in history.tried
            if new and not codes.conditional:
                return point
            # What was chosen was tried before, or was chosen for values of inactive parameters
            # that the configuration has not: compare it with others as they would be.
            candidates = [*([point] if new else []), *self._new_points(codes, history, rng)]
            model, best = optimizer.models[-1], min(history.values)
            rows = space.transform([list(candidate) for candidate in candidates])
            improvement = gaussian_ei(rows, model, best, self._acq_func_kwargs["xi"])
        return candidates[int(np.argmax(improvement))]


class BayesSampler(SkoptSampler):
    """The workbench's sampler: fewer and better spread initial points, expected improvement.

    The values are standardised before the model sees them, so that `xi` is a share of their
    standard deviation and means the same for errors below one and losses in thousands.
    """

    def __init__(
        self,
        seed: int = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 5,
        acq_func: str = "EI",
        *,
        initial_point_generator: str = "sobol",
        xi: float = 0.001,
        **options: Any,
    ) -> None:
        options |= {"initial_point_generator": initial_point_generator, "xi": xi}
        super().__init__(seed, space, n_initial_points, acq_func, **options)

    def _choose(self, codes: Codes, history: _History, rng: np.random.Generator) -> Point:
        values = np.asarray(history.values)
        scaled = (values - values.mean()) / (values.std() or 1.0)
        return super()._choose(codes, history._replace(values=scaled.tolist()), rng)


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process fitted to a study, as figures need it."""

    model: Any
    codes: Codes
    space: Any

    def predict(
        self, configurations: Sequence[Configuration]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The expected value and its standard deviation, each of shape (n,)."""
        points = [self.codes.encode(configuration) for configuration in configurations]
        outside = [c for c, point in zip(configurations, points, strict=True) if point is None]
        if outside:
            message = f"configurations must lie inside the space, got {outside[0]}"
            raise ValueError(message)
        rows = [list(cast("Point", point)) for point in points]
        with _known_warnings():
            return self.model.predict(self.space.transform(rows), return_std=True)


def fit_surrogate(trials: Sequence[FrozenTrial], space: SearchSpace) -> Surrogate:
    """Fit a Gaussian process to the completed trials inside the space; it takes at least four."""
    codes = Codes(space.distributions(), space)
    evidence = [
        (point, trial.values[0])
        for trial in trials
        if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])
        if (point := codes.encode(trial.params)) is not None
    ]
    if len(evidence) < 4 or not codes.axes:
        message = (
            "a surrogate needs at least 4 completed trials inside the space, "
            f"got {len(evidence)} of {len(trials)} trials"
        )
        raise ValueError(message)
    points, values = zip(*evidence, strict=True)
    drawn = skopt_space(codes.axes)
    return Surrogate(fit_process(drawn, [list(point) for point in points], values), codes, drawn)


def fit_process(space: Any, rows: Sequence[Sequence[Any]], values: Sequence[float]) -> Any:
    """Fit skopt's Gaussian process to points of a normalised skopt space."""
    model: Any = cook_estimator("GP", space=space, random_state=0)
    with _known_warnings():
        return model.fit(space.transform(rows), values)


class _History(NamedTuple):
    """`points` with their `values` are the evidence, lower is better; none of `tried` repeats."""

    tried: set[Point]
    points: list[Point]
    values: list[float]


def skopt_space(axes: Sequence[Axis]) -> Any:
    """The axes as a normalised skopt space; choices are indices, since it mixes up their types."""
    return normalize_dimensions([_dimension(axis) for axis in axes])


def _dimension(axis: Axis) -> Any:
    if axis.choice:
        return Categorical(range(int(axis.high) + 1), name=axis.name)
    prior = "log-uniform" if axis.log else "uniform"
    return (Integer if axis.whole else Real)(axis.low, axis.high, prior, name=axis.name)


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """What was suggested, and what an enqueued trial will be."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _design(name: str, n: int, n_dimensions: int, seed: int) -> NDArray[np.float64]:
    """`n` points of the unit cube, shape (n, n_dimensions)."""
    rng = np.random.default_rng(seed)
    if name == "random":
        return rng.random((n, n_dimensions))
    if name == "sobol":  # its balance needs a power of two
        sobol: Any = qmc.Sobol
        return sobol(n_dimensions, seed=rng).random_base2(max(n - 1, 0).bit_length())[:n]
    kind: Any = qmc.Halton if name == "halton" else qmc.LatinHypercube
    return kind(n_dimensions, seed=rng).random(n)


def _check_member(argument: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        message = f"{argument} must be one of {', '.join(allowed)}, got {value!r}"
        raise ValueError(message)


@contextmanager
def _known_warnings() -> Generator[None]:
    """Hide what skopt and scikit-learn say of models that fit well enough to go on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The objective has been evaluated")
        warnings.filterwarnings("ignore", "Predicted variances smaller than 0")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
