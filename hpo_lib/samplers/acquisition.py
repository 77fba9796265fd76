"""Acquisition functions, and how they are maximised.

`Acquisition` is the function: by default the logarithm of the expected improvement per cost.
`optimize_acquisition` maximises it. `FeasibilityModel` weights it with the probability to succeed,
`DefaultPrior` with a user's belief.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr
from scipy.stats import qmc

from hpo_lib.samplers.encoding import Array, Encoder, Point
from hpo_lib.samplers.gp import AveragedProcess, GaussianProcess
from hpo_lib.samplers.observations import Observations, output_transform
from hpo_lib.space.search_space import SearchSpace

ACQUISITIONS = ("gp_hedge", "EI", "LCB", "PI")

AcquisitionFunction = Callable[[Array], Array]
"""From points, shape (n, d), to values, shape (n,); higher is better."""

_N_CANDIDATES = 1024
_N_LOCAL_STARTS = 20
_N_LOCAL_ROUNDS = 4
_INCUMBENT_STEPS = (0.02, 0.05, 0.1, 0.2)
_LOCAL_STEPS = (0.005, 0.02, 0.1, 0.4)
_BOUNDARY_STRETCH = 3.0
_DIFFERENCE_STEP = 1e-6
_MAX_CLIMB = 30  # steps of L-BFGS-B
_MANY_DIMENSIONS = 10
_MAX_LABELS = 200
_UNIFORM_SHARE = 0.05
"""Weight of the uniform component of the prior, so that a wrong prior excludes nothing."""


def log_expected_improvement(
    mean: Array,
    std: Array,
    best: float,
    noise: float = 0.0,
) -> Array:
    """Return the logarithm of the expected improvement, finite where the latter underflows.

    Ament et al. (2023), "Unexpected improvements to expected improvement", equation 9. With
    noise it is the augmented expected improvement of Huang et al. (2006, "Global optimization of
    stochastic black-box systems via sequential kriging meta-models"), which is lower where the
    noise outweighs the uncertainty of the model.

    Args:
        mean: predicted means, shape (n,).
        std: predicted standard deviations, shape (n,).
        best: value to improve on; lower is better.
        noise: standard deviation of the noise.
    """
    with np.errstate(over="ignore"):  # values near the largest float
        z = np.clip((best - mean) / std, -1e100, 1e100)

    # z > -1: log(phi(z) + z Phi(z))
    high = np.maximum(z, -1.0)
    density = np.exp(-0.5 * high**2) / np.sqrt(2 * np.pi)
    cumulative = np.exp(log_ndtr(high))
    near = np.log(density + high * cumulative)

    # Else: log(phi(z)) + log(1 - |z| Phi(z) / phi(z)), by the scaled complementary error function
    low = np.minimum(z, -1.0)
    scaled_erfc = erfcx(-low / np.sqrt(2))
    ratio = np.sqrt(np.pi / 2) * scaled_erfc * -low
    ratio = np.minimum(ratio, 1 - 1e-15)  # the logarithm stays finite
    log_density = -0.5 * low**2 - 0.5 * np.log(2 * np.pi)
    far = log_density + np.log1p(-ratio)

    # Factor of the augmented expected improvement.
    total_std = np.hypot(noise, std)
    augmentation = np.log1p(-noise / total_std)

    log_improvement = np.where(z > -1, near, far)
    return log_improvement + np.log(std) + augmentation


@dataclass(frozen=True)
class Acquisition:
    """Acquisition function of a fitted model.

    "EI" is the logarithm of the augmented expected improvement, weighted with the probability
    that the trial passes all rungs and divided by the epochs that it is expected to last: an
    improvement per cost as in Snoek et al. (2012, "Practical Bayesian optimization of machine
    learning algorithms", section 3.2). "EIps" is divided by their seconds instead.

    Attributes:
        name: "EI", "EIps", "LCB" or "PI".
        encoder: encoder of the points.
        model: fitted model of the values.
        observations: what was recorded.
        best: value to improve on, in the units of the model.
        kappa: weight of the standard deviation in LCB.
        log_cost: model of the logarithm of an epoch's seconds; None to count epochs.
    """

    name: str
    encoder: Encoder
    model: AveragedProcess
    observations: Observations
    best: float
    kappa: float
    log_cost: GaussianProcess | None

    def __call__(self, points: Array) -> Array:
        """Return the acquisition value of each point, shape (n,)."""
        rows = self.encoder.scale(points)
        full_training = with_task_columns(rows, self.model)
        mean, std = self.model.predict(full_training, return_std=True)
        if self.name == "LCB":
            return self.kappa * std - mean
        if self.name == "PI":
            z = (self.best - mean) / std
            return log_ndtr(z)

        # Expected epochs, as a fraction of the budget: each segment between two rungs counts with
        # the probability that a trial gets there.
        log_passing = self._log_survival_probability(rows)
        thresholds = self.observations.rung_thresholds
        shares = [threshold.share for threshold in thresholds]
        segments = np.diff([*shares, 1.0], prepend=0.0)
        epochs = segments @ np.exp(log_passing)

        # Expected improvement per cost.
        log_ei = log_expected_improvement(
            mean,
            std,
            self.best,
            self.model.noise_,
        )
        log_ei += log_passing[-1] - np.log(epochs)
        if self.log_cost is None:
            return log_ei
        return log_ei - self.log_cost.predict(rows)

    def _log_survival_probability(self, rows: Array) -> Array:
        """Return log probabilities to pass the first k rungs, k = 0, 1, ...: (rungs + 1, n).

        It is the probability of the least likely of the k rungs, as the values of one trial are
        strongly correlated.
        """
        # The model predicts transformed values.
        values = np.sort(self.observations.values)
        transformed = output_transform(values)

        log_passing = [np.zeros(len(rows))]
        for threshold in self.observations.rung_thresholds:
            highest = np.interp(threshold.highest, values, transformed)
            at_rung = with_task_columns(rows, self.model, threshold.fidelity)
            mean, std = self.model.predict(at_rung, return_std=True)

            z = (highest - mean) / std
            least_likely = np.minimum(log_passing[-1], log_ndtr(z))
            log_passing.append(least_likely)

        return np.array(log_passing)


def weighted(
    acquisition: AcquisitionFunction,
    log_weight: AcquisitionFunction,
    exponent: float = 1.0,
) -> AcquisitionFunction:
    """Return an acquisition function times a weight, both given by their logarithms.

    Args:
        acquisition: logarithm of an acquisition function, or "LCB", for which the weight is a
            penalty in units of the transformed values.
        log_weight: logarithm of a probability or a density.
        exponent: of the weight.
    """
    return lambda points: acquisition(points) + exponent * log_weight(points)


def with_task_columns(
    rows: Array,
    model: AveragedProcess,
    fidelity: float = 1.0,
) -> Array:
    """Append the fidelity and the study's own task, as far as they are inputs of the model.

    Args:
        rows: scaled points, shape (n, d).
        model: fitted model.
        fidelity: fidelity of the values to predict; 1 for a full training.
    """
    n_columns = model.X_.shape[1] - rows.shape[1]
    columns = np.ones((len(rows), n_columns))
    columns[:, :1] = fidelity
    return np.c_[rows, columns]


def fit_cost_model(encoder: Encoder, observations: Observations) -> GaussianProcess | None:
    """Fit a model to the logarithm of an epoch's seconds; None where none were recorded.

    Args:
        encoder: encoder of the points.
        observations: what was recorded.
    """
    points: list[Point] = []
    means: list[float] = []
    for point, seconds in observations.epoch_seconds:
        if any(seconds):
            points.append(point)
            means.append(float(np.mean(seconds)))
    if not points:
        return None

    model = GaussianProcess(encoder.categories)
    rows = encoder.scale(points)
    return model.fit(rows, np.log(means))


def optimize_acquisition(
    encoder: Encoder,
    acquisition: AcquisitionFunction,
    incumbents: Array,
    rng: np.random.Generator,
) -> list[Point]:
    """Maximise an acquisition function; return points, the highest value first.

    A small finite space is compared whole. Otherwise candidates are spread over the space and
    around the incumbents, the search goes on around the best of them, and the best one climbs by
    its gradient, as in BoTorch (Balandat et al., 2020, "BoTorch: A framework for efficient
    Monte-Carlo Bayesian optimization").

    Args:
        encoder: encoder of the space.
        acquisition: function to maximise.
        incumbents: best points so far, shape (m, d).
        rng: random numbers.
    """
    points = encoder.all_points()
    if points is not None:
        return _sorted(points, acquisition(points))

    # Candidates over the whole space. Models know least at the bounds, and corners are rarely
    # drawn: every other point is moved away from the middle, so that only one coordinate in three
    # stays inside.
    sobol = qmc.Sobol(len(encoder.axes), rng=rng)
    units = sobol.random(_N_CANDIDATES)
    stretched = _BOUNDARY_STRETCH * (units - 0.5) + 0.5
    clipped = np.clip(stretched, 0, 1)
    outer = np.where(encoder.choice, units, clipped)
    units[::2] = outer[::2]
    spread = encoder.from_unit_cube(units)

    # Candidates around the incumbents.
    near = encoder.neighbours(
        incumbents,
        _N_CANDIDATES // 2,
        _INCUMBENT_STEPS,
        rng,
    )
    points = np.vstack([spread, near])
    values = acquisition(points)

    # Local search around the best candidates.
    for _ in range(_N_LOCAL_ROUNDS):
        order = np.argsort(-values)
        highest = points[order[:_N_LOCAL_STARTS]]
        near = encoder.neighbours(
            highest,
            10 * _N_LOCAL_STARTS,
            _LOCAL_STEPS,
            rng,
        )
        points = np.vstack([points, near])
        values = np.r_[values, acquisition(near)]

    # In many dimensions, random steps stay far below the maximum.
    if encoder.continuous.sum() >= _MANY_DIMENSIONS:
        order = np.argsort(-values)
        top = _climb(encoder, acquisition, points[order[0]])
        points = np.vstack([points, top])
        values = np.r_[values, acquisition(top)]

    return _sorted(points, values)


def _climb(encoder: Encoder, acquisition: AcquisitionFunction, start: Array) -> Array:
    """Return the local maximum by the continuous parameters, shape (1, d), near a point.

    The gradient of L-BFGS-B is a difference quotient: one call evaluates all of its points, and
    any acquisition function will do.
    """
    free = encoder.continuous
    units = encoder.to_unit_cube(start[None])

    def points_at(positions: Array) -> Array:
        """Return the points with these positions of the continuous parameters."""
        moved = np.repeat(units, len(positions), axis=0)
        moved[:, free] = positions
        return encoder.from_unit_cube(moved)

    def loss(x: Array) -> tuple[float, Array]:
        step = np.where(x < 0.5, _DIFFERENCE_STEP, -_DIFFERENCE_STEP)  # stays inside
        positions = np.vstack([x, x + np.diag(step)])
        losses = -acquisition(points_at(positions))
        return losses[0], (losses[1:] - losses[0]) / step

    x0 = units[0, free]
    bounds = [(0, 1)] * len(x0)
    options = {"maxiter": _MAX_CLIMB}
    found = minimize(loss, x0, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return points_at(found.x[None])


def _sorted(points: Array, values: Array) -> list[Point]:
    """Return the rows as points, the highest value first."""
    order = np.argsort(-values)
    return [to_point(row) for row in points[order]]


def to_point(row: Array) -> Point:
    """Return a row as a point."""
    return tuple(row.tolist())


class FeasibilityModel:
    """Probability that a trial does not fail.

    A failure has no value; it is an observation of an unknown constraint (Gelbart et al., 2014,
    "Bayesian optimization with unknown constraints"). The model is least-squares classification
    with a Gaussian process (Rasmussen and Williams, 2006, section 6.5): a regression on the labels
    0 and 1. Failures that have nothing to do with the configuration become its noise, and the
    probability is then the same everywhere.

    Args:
        encoder: encoder of the points.
        observations: what was recorded, with one failed trial at least.
    """

    def __init__(self, encoder: Encoder, observations: Observations) -> None:
        # Intermediate values of one trial are one success.
        succeeded = list(dict.fromkeys(observations.points))
        points = [*succeeded, *observations.failed]
        labels = np.repeat([1.0, 0.0], [len(succeeded), len(observations.failed)])

        # Spread evenly over both kinds where they are too many.
        n_kept = min(len(points), _MAX_LABELS)
        evenly = np.linspace(0, len(points) - 1, n_kept)
        kept = evenly.astype(int)
        rows = encoder.scale(points)[kept]
        self._encoder = encoder
        self._model = GaussianProcess(encoder.categories).fit(rows, labels[kept])

    def log_probability(self, points: Array) -> Array:
        """Return logarithms of the probability to succeed at points of shape (n, d)."""
        rows = self._encoder.scale(points)
        mean, std = self._model.predict(rows, return_std=True)
        total_std = np.hypot(std, self._model.noise_)
        return log_ndtr((mean - 0.5) / total_std)


class DefaultPrior:
    """Belief that good values lie around the defaults: a normal density around each of them.

    Args:
        encoder: encoder of the space.
        space: the search space with the defaults.
        prior_std: standard deviations by parameter, as fractions of the range; two options are
            at distance one. A parameter that is left out has a uniform prior.
    """

    def __init__(
        self,
        encoder: Encoder,
        space: SearchSpace,
        prior_std: Mapping[str, float],
    ) -> None:
        self._encoder = encoder

        stds = [prior_std.get(axis.name, np.inf) for axis in encoder.axes]
        self._std = np.array(stds)

        # The mode is the point of the defaults, shape (1, d).
        mode = [axis.to_number(space[axis.name].default) for axis in encoder.axes]
        self._mode = np.array([mode])

    def log_density(self, points: Array) -> Array:
        """Return the logarithm of the density at points of shape (n, d), 0 at the defaults."""
        # Distance per parameter: one between two options.
        rows = self._encoder.scale(points)
        distance = rows - self._encoder.scale(self._mode)
        distance = np.where(self._encoder.choice, distance != 0, distance)

        # Mixture of a normal and a uniform density.
        z = distance / self._std
        normal = np.exp(-0.5 * z**2)
        density = _UNIFORM_SHARE + (1 - _UNIFORM_SHARE) * normal
        return np.log(density).sum(axis=1)

    def sample(self, rng: np.random.Generator) -> Point:
        """Draw a point from the prior."""
        choice = self._encoder.choice
        shape = self._std.shape

        # Numbers near the default.
        mode = self._encoder.to_unit_cube(self._mode)[0]
        at_most_one = np.minimum(self._std, 1)
        std = np.where(choice, 0, at_most_one)
        step = std * rng.normal(size=shape)
        near = np.clip(mode + step, 0, 1)

        # Any other value, the likelier the wider the prior.
        other_option = np.exp(-0.5 / self._std**2)
        probability = np.where(choice, other_option, np.isinf(self._std))
        probability = np.maximum(probability, _UNIFORM_SHARE)
        is_uniform = rng.random(shape) < probability
        uniform = rng.random(shape)

        units = np.where(is_uniform, uniform, near)
        points = self._encoder.from_unit_cube(units[None])
        return to_point(points[0])
