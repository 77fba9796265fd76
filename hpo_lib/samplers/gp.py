"""A Gaussian process for few, expensive and mixed observations, on numpy and scipy alone.

Rows are coordinates: a number's place in its range, 0 to 1, or a category's index. The kernel is
the Matérn 5/2 with one length scale per column (Rasmussen and Williams, 2006, equation 4.17);
categories are at distance one from each other, whatever their indices. Errors seldom change as
fast in one part of a range as in another, so numbers are first warped by a distribution function
whose shape is fitted, too: Snoek et al. (2014, "Input warping for Bayesian optimization of
non-stationary functions"), with Kumaraswamy's distribution for the beta distribution. All
parameters maximise the posterior density: priors on them keep a fit to five points sane, as
Hvarfner et al. (2024, "Vanilla Bayesian optimization performs great in high dimensions") show;
ours on the length scales is tighter and shorter than theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.special import erfcx, log_ndtr, ndtri
from scipy.stats import qmc
from sklearn.base import BaseEstimator, RegressorMixin
from threadpoolctl import ThreadpoolController

Array = NDArray[np.float64]

_LENGTH_SCALE = 0.6
"""Median of the prior in one dimension; it grows with the square root of d, as distances do."""

_NOISE = 0.007
"""Median of the prior on the variance of the noise, in units of the variance of y."""

_LEAST_NOISE = 1e-6
_LEAST_CURVATURE = 0.25
_EDGE = 1e-9  # the warp has no slope at 0 and 1
_SQRT5 = math.sqrt(5)
_OPTIONS = {"maxiter": 60, "ftol": 1e-5, "gtol": 1e-2}
_IN_PLACE: Any = {"lower": True, "overwrite_a": True, "check_finite": False}
_lapack: Any = linalg.lapack
_blas = ThreadpoolController()  # those of numpy and scipy, which are loaded by now

_Function = TypeVar("_Function", bound=Callable[..., Any])


def one_thread(function: _Function) -> _Function:
    """Keep its sums from coming out a little different on every number of cores."""
    return _blas.wrap(limits=1, user_api="blas")(function)


class GaussianProcess(RegressorMixin, BaseEstimator):
    """Gaussian process regression as a scikit-learn regressor.

    Args:
        categories: the columns that hold indices of categories.

    Attributes:
        theta_: logarithms of the warp's two shapes (the first of all numbers, then the second),
            the length scales, the signal's variance and the noise's variance.
        noise_: the standard deviation of an observation's noise, in units of y.
    """

    def __init__(self, categories: Sequence[int] = ()) -> None:
        self.categories = categories

    @one_thread
    def fit(self, X: ArrayLike, y: ArrayLike, theta: ArrayLike | None = None) -> GaussianProcess:
        """Fit to rows X of shape (n, d) with values y of shape (n,).

        Args:
            X: coordinates; beyond 0 to 1 numbers are not warped.
            y: values; they may have any scale.
            theta: kernel parameters of an earlier fit, to keep.
        """
        self.X_ = np.asarray(X, float)
        self.numbers_ = np.delete(np.arange(self.X_.shape[1]), self.categories)
        values = np.asarray(y, float)
        self.shift_, self.scale_ = values.mean(), values.std() or 1.0
        self.target_ = (values - self.shift_) / self.scale_
        if theta is None:
            density, mean, std = self._log_posterior(self.target_)
            bounds = list(zip(mean - 4 * std, mean + 4 * std, strict=True))
            theta = minimize(density, mean, jac=True, bounds=bounds, options=_OPTIONS).x
        self.theta_ = np.asarray(theta, float)
        self.noise_ = self.scale_ * np.sqrt(_noise(self.theta_))
        self.scaled_ = self.scaled(self.X_)
        kernel = self.kernel(self.X_)
        np.fill_diagonal(kernel, np.exp(self.theta_[-2]) + _noise(self.theta_))
        self.factor_, _ = cho_factor(kernel.T, **_IN_PLACE)
        self.weights_ = cho_solve((self.factor_, True), self.target_, check_finite=False)
        return self

    @one_thread
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """The expected values at rows X, of shape (n,); with their standard deviations if asked.

        The deviation is that of the function, without the noise of an observation.
        """
        kernel = self.kernel(np.asarray(X, float))
        mean = kernel @ self.weights_ * self.scale_ + self.shift_
        if not return_std:
            return mean
        explained = solve_triangular(
            self.factor_, kernel.T, lower=True, overwrite_b=True, check_finite=False
        ).T
        variance = np.exp(self.theta_[-2]) - np.einsum("ij,ij->i", explained, explained)
        return mean, np.sqrt(np.maximum(variance, 1e-12)) * self.scale_

    @one_thread
    def draw_parameters(self, n: int) -> Array:
        """Kernel parameters of shape (n, len(theta_)), as plausible as the fitted ones are.

        They are drawn from the normal distribution that touches the posterior at its maximum
        (Laplace's approximation; MacKay, 2003, chapter 27), evenly, by a Sobol sequence.
        """
        density, mean, std = self._log_posterior(self.target_)
        at, step = self.theta_, 1e-3 * std
        rise = [density(at + each)[1] - density(at - each)[1] for each in np.diag(step)]
        # In units of the prior's deviations, in which the prior alone curves by one; where the
        # posterior is flat or no maximum (at a bound), draws go no further than twice the prior.
        curvature = np.array(rise) * std / (2 * step[:, None]) * std[:, None]
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        normal = ndtri(qmc.Sobol(len(at), rng=0).random(n))
        drawn = at + normal / np.sqrt(np.maximum(values, _LEAST_CURVATURE)) @ vectors.T * std
        return np.clip(drawn, mean - 4 * std, mean + 4 * std)

    def kernel(self, rows: Array) -> Array:
        """The kernel between rows of shape (m, d) and what was fitted; shape (m, n)."""
        left, right, numbers = self.scaled(rows), self.scaled_, self.numbers_
        squares = cast("Array", cdist(left[:, numbers], right[:, numbers], "sqeuclidean"))
        for index in self.categories:
            weight = np.exp(-2 * self.theta_[index - self.X_.shape[1] - 2])
            squares += weight * (rows[:, index, None] != self.X_[None, :, index])
        return _matern(squares, float(self.theta_[-2]))

    def scaled(self, rows: Array) -> Array:
        """Rows of shape (m, d), warped and in length scales: the kernel knows their distances."""
        n_shapes, found = 2 * len(self.numbers_), rows.copy()
        found[:, self.numbers_] = _warp(rows[:, self.numbers_], self.theta_[:n_shapes])
        return found * np.exp(-self.theta_[n_shapes:-2])

    def _log_posterior(
        self, target: Array
    ) -> tuple[Callable[[Array], tuple[float, Array]], Array, Array]:
        """The negative log posterior density with its gradient, and the prior's mean and std."""
        n, n_columns = self.X_.shape
        numbers, choices = self.numbers_, list(self.categories)
        n_shapes = 2 * len(numbers)
        scale = np.log(_LENGTH_SCALE) + 0.5 * np.log(n_columns)
        mean = np.r_[np.zeros(n_shapes), np.full(n_columns, scale), 0.0, np.log(_NOISE)]
        std = np.r_[np.full(n_shapes, 0.3), np.ones(n_columns + 1), 1.5]
        upper = np.ravel_multi_index(np.triu_indices(n, 1), (n, n))
        rows, unlike = self.X_[:, numbers], np.zeros((len(choices), len(upper)))
        for place, index in enumerate(choices):
            unlike[place] = pdist(self.X_[:, [index]]) > 0

        def density(theta: Array) -> tuple[float, Array]:
            warped, inverse = _warp(rows, theta[:n_shapes]), np.exp(-2 * theta[n_shapes:-2])
            squares = cast("Array", pdist(warped * np.sqrt(inverse[numbers]), "sqeuclidean"))
            pairs, slope = _matern_slope(squares + inverse[choices] @ unlike, theta[-2])
            signal, noise = np.exp(theta[-2]), _noise(theta)
            # Half of a symmetric matrix will do: above the diagonal, below it for LAPACK.
            kernel = np.zeros((n, n))
            kernel.ravel()[upper] = pairs
            np.fill_diagonal(kernel, signal + noise)
            factor, _ = cho_factor(kernel.T, **_IN_PLACE)
            weights = cho_solve((factor, True), target, check_finite=False)
            logarithms = np.log(factor.diagonal()).sum()
            # Rasmussen and Williams (2006), equations 2.30 and 5.9.
            residual = _lapack.dpotri(factor, lower=True, overwrite_c=True)[0].T
            residual -= np.outer(weights, weights)
            trace, by_pairs = 0.5 * np.trace(residual), residual.ravel()[upper]
            gradient = np.zeros_like(theta)
            gradient[-2:] = by_pairs @ pairs + trace * signal, trace * (noise - _LEAST_NOISE)
            # Sums over pairs of rows are products with the Laplacian of the graph of their slopes.
            slope *= by_pairs
            graph = np.zeros((n, n))
            graph.ravel()[upper] = slope
            graph += graph.T
            by_rows = (graph.sum(axis=1)[:, None] * warped - graph @ warped) * inverse[numbers]
            lengths = gradient[n_shapes:-2]
            lengths[numbers] = np.sum(by_rows * warped, axis=0)
            lengths[choices] = inverse[choices] * (unlike @ slope)
            by_shapes = _warp_gradient(rows, theta[:n_shapes])
            gradient[:n_shapes] = -np.sum(by_rows * by_shapes, axis=1).ravel()
            away = (theta - mean) / std
            value = 0.5 * target @ weights + logarithms + 0.5 * away @ away
            return float(value), gradient + away / std

        return density, mean, std


class AveragedProcess:
    """The mixture of the Gaussian processes of several kernel parameters.

    A few observations fit many length scales. To go by one of them is to be too sure, so the
    predictions of all are averaged, as in Snoek et al. (2012, "Practical Bayesian optimization of
    machine learning algorithms", section 3.2); `noise_` is their root mean square.

    Args:
        categories: as of `GaussianProcess`.
        thetas: a row of kernel parameters for each, as `GaussianProcess.theta_` has them.
    """

    def __init__(self, categories: Sequence[int], thetas: Array) -> None:
        self._thetas = thetas
        self._parts = [GaussianProcess(categories) for _ in thetas]

    def fit(self, X: ArrayLike, y: ArrayLike) -> AveragedProcess:
        """Fit to rows X of shape (n, d) with values y of shape (n,)."""
        for part, theta in zip(self._parts, self._thetas, strict=True):
            part.fit(X, y, theta)
        self.X_, self.scale_ = self._parts[0].X_, self._parts[0].scale_
        self.noise_ = self.scale_ * np.sqrt(np.mean([_noise(theta) for theta in self._thetas]))
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Mean and, if asked, standard deviation of the mixture at rows X, each of shape (n,)."""
        means, stds = zip(*(part.predict(X, return_std=True) for part in self._parts), strict=True)
        mean, variance = np.mean(means, axis=0), np.mean(np.square(stds), axis=0)
        return (mean, np.sqrt(variance + np.var(means, axis=0))) if return_std else mean


def _noise(theta: Array) -> float:
    return float(np.exp(theta[-1])) + _LEAST_NOISE


def _matern(squares: Array, log_signal: float) -> Array:
    """The kernel at squared distances, written in their place: new memory costs more than it."""
    squares *= 5
    r = np.sqrt(squares, out=squares)
    factor = r / 3
    factor += 1
    factor *= r
    factor += 1
    kernel = np.exp(np.subtract(log_signal, r, out=r), out=r)
    kernel *= factor
    return kernel


def _matern_slope(squares: Array, log_signal: float) -> tuple[Array, Array]:
    """The kernel at squared distances, and by how much it falls there, twice."""
    r = _SQRT5 * np.sqrt(squares)
    decay = np.exp(log_signal - r)
    return decay * (1 + r + r * r / 3), 5 / 3 * decay * (1 + r)


def _warp(x: Array, log_shapes: Array) -> Array:
    """Kumaraswamy's distribution functions of columns from 0 to 1; beyond, they are kept."""
    a, b = np.exp(log_shapes.reshape(2, -1))
    inside = np.clip(x, _EDGE, 1 - _EDGE)
    return 1 - (1 - inside**a) ** b + (x - inside)


def _warp_gradient(x: Array, log_shapes: Array) -> Array:
    """Of `_warp` by the logarithms of both shapes, of shape (2, n, columns)."""
    a, b = np.exp(log_shapes.reshape(2, -1))
    inside = np.clip(x, _EDGE, 1 - _EDGE)
    below = inside**a
    above = b * (1 - below) ** b
    return np.array([a * above * below / (1 - below) * np.log(inside), -above * np.log1p(-below)])


def log_expected_improvement(mean: Array, std: Array, best: float, noise: float = 0.0) -> Array:
    """Logarithm of the expected improvement below `best`, finite where the latter underflows.

    Ament et al. (2023), "Unexpected improvements to expected improvement", equation 9. Less is
    expected where the standard deviation of the noise outweighs the model's: Huang et al. (2006,
    "Global optimization of stochastic black-box systems via sequential kriging meta-models").
    """
    z = (best - mean) / std
    low = np.minimum(z, -1.0)
    # 1 - |z| Phi(z) / phi(z), by the scaled complementary error function
    tail = np.log1p(-np.minimum(np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2)) * -low, 1 - 1e-15))
    high = np.maximum(z, -1.0)
    near = np.log(np.exp(-0.5 * high**2) / np.sqrt(2 * np.pi) + high * np.exp(log_ndtr(high)))
    far = -0.5 * low**2 - 0.5 * np.log(2 * np.pi) + tail
    return np.where(z > -1, near, far) + np.log(std) + np.log1p(-noise / np.hypot(noise, std))


def compress(values: ArrayLike) -> Array:
    """Bad values nearer together and good ones further apart, in the same order.

    The logarithm of one plus the distance from the best, in units of the median's distance: what
    failed badly then neither sets the scale nor bends the fit around the good values.
    """
    y = np.asarray(values, float)
    spread = np.median(y) - y.min()
    return np.log1p((y - y.min()) / spread) if spread > 1e-300 * np.ptp(y) else y
