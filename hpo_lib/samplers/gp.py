"""Gaussian process regression for few, expensive and mixed observations, on numpy and scipy.

Notation:

n, d: number of observations, and of columns (parameters).
X: observed rows, shape (n, d): numbers scaled to their range, 0 to 1, or indices of categories.
y: observed values, shape (n,), standardised.
numbers, categories: indices of the columns of either kind; there are k numbers.
theta: kernel parameters, all logarithms, shape (2 k + d + 2,):
    the k first shapes of the warp and the k second ones, the d length scales, the variance of the
    signal, the variance of the noise.
K: kernel matrix of X with the noise on its diagonal, shape (n, n); L is its Cholesky factor.
alpha: K^-1 y, shape (n,).
pairs: pairs of rows i < j in the order of scipy's `pdist`, n (n - 1) / 2 of them.

The kernel is the Matérn 5/2 with a length scale per column (Rasmussen and Williams, 2006,
equation 4.17); two categories are at distance one. As errors seldom change equally fast
everywhere in a range, numbers are warped by a distribution function whose shape is fitted: Snoek
et al. (2014, "Input warping for Bayesian optimization of non-stationary functions"), with
Kumaraswamy's distribution for the beta distribution.

All parameters maximise the posterior density. Priors on them regularise fits to few points, as
Hvarfner et al. (2024, "Vanilla Bayesian optimization performs great in high dimensions") show;
our prior of the length scales is tighter and shorter than theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.special import ndtri
from scipy.stats import qmc
from sklearn.base import BaseEstimator, RegressorMixin

from hpo_lib.blas import one_thread
from hpo_lib.samplers.encoding import Array
from hpo_lib.samplers.observations import overflow_scale

_LENGTH_SCALE = 0.6
"""Median of the prior in one dimension; it grows with the square root of d, as distances do."""

MANY_COLUMNS = 10
"""From here on numbers are not warped, as many warps fit chance, and the median of the prior is 1:
longer length scales were worse in 10, 20 and 50 dimensions."""

_NOISE = 0.007
"""Median of the prior of the noise's variance, in units of the variance of y."""

_MIN_NOISE = 1e-6
_MIN_CURVATURE = 0.25
_MIN_VARIANCE = 1e-12
_EDGE = 1e-9  # the warp's derivative is singular at 0 and 1
_BOUND = 4  # standard deviations of the prior: theta is searched within them
_MINIMIZE_OPTIONS = {"maxiter": 60, "ftol": 1e-5, "gtol": 1e-2}
_IN_PLACE: Any = {"lower": True, "overwrite_a": True, "check_finite": False}
_lapack: Any = linalg.lapack


class GaussianProcess(RegressorMixin, BaseEstimator):
    """Gaussian process regression as a scikit-learn regressor.

    Args:
        categories: indices of the columns that hold categories.

    Attributes:
        theta_: fitted kernel parameters (see the notation of this module).
        noise_: standard deviation of an observation's noise, in units of y.

    Example:
        >>> model = GaussianProcess().fit([[0.0], [0.5], [1.0]], [1.0, 0.0, 1.0])
        >>> mean, std = model.predict([[0.5], [0.6]], return_std=True)
        >>> bool(mean[0] < mean[1] and std[0] < std[1])
        True
    """

    def __init__(self, categories: Sequence[int] = ()) -> None:
        self.categories = categories

    @one_thread
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        theta: ArrayLike | None = None,
    ) -> GaussianProcess:
        """Fit the kernel parameters and condition the process on the observations.

        Args:
            X: observed rows, shape (n, d); numbers beyond 0 to 1 are not warped.
            y: observed values, shape (n,), on any scale.
            theta: kernel parameters of an earlier fit, to keep.
        """
        self.X_ = np.asarray(X, float)
        self.numbers_ = np.delete(np.arange(self.X_.shape[1]), self.categories)

        # Standardise the values; equal ones have no scale.
        values = np.asarray(y, float)
        unit = overflow_scale(values)
        values = values / unit
        mean = values.mean()
        std = values.std() or 1.0
        self.shift_ = mean * unit
        self.scale_ = std * unit
        self.y_ = (values - mean) / std

        # Maximum a posteriori, from the mean of the prior.
        if theta is None:
            loss = self.negative_log_posterior()
            bounds = list(zip(*loss.bounds, strict=True))
            options = _MINIMIZE_OPTIONS
            found = minimize(loss, loss.prior_mean, jac=True, bounds=bounds, options=options)
            theta = found.x
        self.theta_ = np.asarray(theta, float)
        noise = noise_variance(self.theta_)
        self.noise_ = self.scale_ * np.sqrt(noise)

        # Cholesky factor and alpha.
        self.scaled_ = self.scaled(self.X_)
        K = self.kernel(self.X_)
        signal = np.exp(self.theta_[-2])
        np.fill_diagonal(K, signal + noise)
        self.factor_, _ = cho_factor(K.T, **_IN_PLACE)
        self.alpha_ = cho_solve((self.factor_, True), self.y_, check_finite=False)
        return self

    @one_thread
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean of the process and, if asked for, its standard deviation.

        Args:
            X: rows, shape (m, d).
            return_std: whether to return the deviations of the function, without the noise.

        Returns:
            The means, shape (m,), or a tuple of means and standard deviations.
        """
        k = self.kernel(np.asarray(X, float))
        with np.errstate(over="ignore"):  # values near the largest float
            mean = k @ self.alpha_ * self.scale_ + self.shift_
        if not return_std:
            return mean

        # Rasmussen and Williams (2006), algorithm 2.1.
        options: Any = {"lower": True, "overwrite_b": True, "check_finite": False}
        v = solve_triangular(self.factor_, k.T, **options).T
        signal = np.exp(self.theta_[-2])
        variance = signal - np.einsum("ij,ij->i", v, v)
        variance = np.maximum(variance, _MIN_VARIANCE)
        return mean, np.sqrt(variance) * self.scale_

    @one_thread
    def draw_parameters(self, n: int) -> Array:
        """Draw kernel parameters from the posterior, shape (n, len(theta_)).

        The posterior is approximated by a normal distribution at its mode
        (Laplace's approximation; MacKay, 2003, chapter 27); a Sobol sequence draws from it.
        """
        loss = self.negative_log_posterior()
        std = loss.prior_std

        # Hessian by central differences of the gradient.
        step = 1e-3 * std
        differences: list[Array] = []
        for offset in np.diag(step):
            _, ahead = loss(self.theta_ + offset)
            _, behind = loss(self.theta_ - offset)
            differences.append(ahead - behind)

        # In units of the prior's deviations, the prior alone has a curvature of one. Where the
        # posterior is flat or has no maximum (at a bound), draws go no further than twice as far
        # as those of the prior.
        curvature = np.array(differences) * std / (2 * step[:, None]) * std[:, None]
        symmetric = (curvature + curvature.T) / 2
        eigenvalues, eigenvectors = np.linalg.eigh(symmetric)
        eigenvalues = np.maximum(eigenvalues, _MIN_CURVATURE)
        root_precision = np.sqrt(eigenvalues)

        quantiles = qmc.Sobol(len(std), rng=0).random(n)
        normal = ndtri(quantiles)
        drawn = self.theta_ + normal / root_precision @ eigenvectors.T * std
        return np.clip(drawn, *loss.bounds)

    def kernel(self, rows: Array) -> Array:
        """Return the kernel between rows, shape (m, d), and the observed ones, shape (m, n)."""
        numbers = self.numbers_
        left = self.scaled(rows)[:, numbers]
        right = self.scaled_[:, numbers]
        squares = cast("Array", cdist(left, right, "sqeuclidean"))

        log_length_scales = self.theta_[2 * len(numbers) : -2]
        for column in self.categories:
            weight = np.exp(-2 * log_length_scales[column])
            differ = rows[:, column, None] != self.X_[None, :, column]
            squares += weight * differ
        return _matern(squares, float(self.theta_[-2]))

    def scaled(self, rows: Array) -> Array:
        """Return rows, shape (m, d), warped and in units of the length scales."""
        n_shapes = 2 * len(self.numbers_)
        log_shapes = self.theta_[:n_shapes]
        log_length_scales = self.theta_[n_shapes:-2]

        scaled = rows.copy()
        scaled[:, self.numbers_] = _warp(rows[:, self.numbers_], log_shapes)
        return scaled * np.exp(-log_length_scales)

    def negative_log_posterior(self) -> NegativeLogPosterior:
        """Return the function of theta that the fit minimises."""
        return NegativeLogPosterior(self.X_, self.y_, self.numbers_, self.categories)


class NegativeLogPosterior:
    """Negative log posterior density of theta, and its gradient.

    Args:
        X: observed rows, shape (n, d).
        y: standardised values, shape (n,).
        numbers: indices of the columns that hold numbers.
        categories: indices of the other columns.

    Attributes:
        prior_mean: means of the normal priors, shape (len(theta),).
        prior_std: their standard deviations.
        bounds: lowest and highest theta, each of shape (len(theta),).
    """

    def __init__(
        self,
        X: Array,
        y: Array,
        numbers: NDArray[np.int_],
        categories: Sequence[int],
    ) -> None:
        n, d = X.shape
        self._y = y
        self._x = X[:, numbers]
        self._numbers = numbers
        self._categories = list(categories)
        self._n_shapes = 2 * len(numbers)

        # Positions of the pairs in a flat (n, n) matrix, and which pairs differ in a category.
        above_diagonal = np.triu_indices(n, 1)
        self._upper = np.ravel_multi_index(above_diagonal, (n, n))
        self._differ = np.zeros((len(categories), len(self._upper)))
        for row, column in enumerate(categories):
            self._differ[row] = pdist(X[:, [column]]) > 0

        has_many_columns = d >= MANY_COLUMNS
        growing = np.log(_LENGTH_SCALE) + 0.5 * np.log(d)
        log_length_scale = 0.0 if has_many_columns else growing
        no_warp = np.zeros(self._n_shapes)
        self.prior_mean = np.r_[no_warp, np.full(d, log_length_scale), 0.0, np.log(_NOISE)]
        self.prior_std = np.r_[np.full(self._n_shapes, 0.3), np.ones(d + 1), 1.5]
        reach = _BOUND * self.prior_std
        if has_many_columns:
            reach[: self._n_shapes] = 0.0
        self.bounds = (self.prior_mean - reach, self.prior_mean + reach)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """Return the value and the gradient, shape (len(theta),), at theta."""
        # Kernel of the pairs.
        warped = _warp(self._x, theta[: self._n_shapes])
        inverse_squares = np.exp(-2 * theta[self._n_shapes : -2])  # of the length scales
        weighted = warped * np.sqrt(inverse_squares[self._numbers])
        squares = cast("Array", pdist(weighted, "sqeuclidean"))
        of_categories = inverse_squares[self._categories] @ self._differ
        squares = squares + of_categories
        kernel, slope = _matern_slope(squares, theta[-2])

        # Fill the upper triangle: its transpose is LAPACK's lower one.
        signal = np.exp(theta[-2])
        noise = noise_variance(theta)
        K = self._to_matrix(kernel)
        np.fill_diagonal(K, signal + noise)
        L, _ = cho_factor(K.T, **_IN_PLACE)
        alpha = cho_solve((L, True), self._y, check_finite=False)

        # Rasmussen and Williams (2006), equation 2.30, without its constant; then the prior.
        half_log_determinant = np.log(L.diagonal()).sum()
        z = (theta - self.prior_mean) / self.prior_std
        value = 0.5 * self._y @ alpha + half_log_determinant + 0.5 * z @ z

        # Equation 5.9: half the trace of K^-1 - alpha alpha^T times the derivative of K. Pairs
        # stand for both halves of the matrix.
        k_inv_minus_alpha_alpha = _lapack.dpotri(L, lower=True, overwrite_c=True)[0].T
        k_inv_minus_alpha_alpha -= np.outer(alpha, alpha)
        trace = 0.5 * np.trace(k_inv_minus_alpha_alpha)
        by_pair = k_inv_minus_alpha_alpha.ravel()[self._upper]

        gradient = np.zeros_like(theta)
        gradient[-2] = by_pair @ kernel + trace * signal
        gradient[-1] = trace * (noise - _MIN_NOISE)
        slope *= by_pair
        self._add_input_gradient(gradient, theta, warped, inverse_squares, slope)
        return float(value), gradient + z / self.prior_std

    def _add_input_gradient(
        self,
        gradient: Array,
        theta: Array,
        warped: Array,
        inverse_squares: Array,
        slope: Array,
    ) -> None:
        """Write the derivatives by length scales and shapes of the warp into the gradient.

        Args:
            gradient: gradient at theta, changed in place.
            theta: kernel parameters.
            warped: warped numbers, shape (n, k).
            inverse_squares: of the length scales, shape (d,).
            slope: -2 dk/d(r²) of the pairs, r² being their squared distances.
        """
        # Sums over pairs are products with the Laplacian of the graph that slopes are weights of.
        graph = self._to_matrix(slope)
        graph += graph.T
        degrees = graph.sum(axis=1)
        laplacian = degrees[:, None] * warped - graph @ warped
        by_row = laplacian * inverse_squares[self._numbers]

        by_length_scale = gradient[self._n_shapes : -2]  # a view
        by_length_scale[self._numbers] = np.sum(by_row * warped, axis=0)
        sums = self._differ @ slope
        by_category = inverse_squares[self._categories] * sums
        by_length_scale[self._categories] = by_category

        by_shape = _warp_gradient(self._x, theta[: self._n_shapes])
        summed = np.sum(by_row * by_shape, axis=1)
        gradient[: self._n_shapes] = -summed.ravel()

    def _to_matrix(self, pairs: Array) -> Array:
        """Return values of pairs as the upper half of a matrix, shape (n, n)."""
        n = len(self._y)
        matrix = np.zeros((n, n))
        matrix.ravel()[self._upper] = pairs
        return matrix


class AveragedProcess:
    """Mixture of the Gaussian processes of several kernel parameters.

    A few observations are consistent with many length scales, and any one of them would be too
    sure. Predictions are averaged over all, as in Snoek et al. (2012, "Practical Bayesian
    optimization of machine learning algorithms", section 3.2).

    Args:
        categories: indices of the columns that hold categories.
        thetas: kernel parameters, a row for each process.

    Attributes:
        noise_: root mean square of the standard deviations of the noise, in units of y.
    """

    def __init__(self, categories: Sequence[int], thetas: Array) -> None:
        self._thetas = thetas
        self._processes = [GaussianProcess(categories) for _ in thetas]

    def fit(self, X: ArrayLike, y: ArrayLike) -> AveragedProcess:
        """Condition all processes on observations.

        Args:
            X: observed rows, shape (n, d).
            y: observed values, shape (n,).
        """
        for process, theta in zip(self._processes, self._thetas, strict=True):
            process.fit(X, y, theta)
        self.X_ = self._processes[0].X_
        self.scale_ = self._processes[0].scale_
        variances = [noise_variance(theta) for theta in self._thetas]
        self.noise_ = self.scale_ * np.sqrt(np.mean(variances))
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean of the mixture and, if asked for, its standard deviation.

        Args:
            X: rows, shape (m, d).
            return_std: whether to return the deviations of the function, without the noise.
        """
        predictions = [process.predict(X, return_std=True) for process in self._processes]
        means, stds = zip(*predictions, strict=True)
        mean = np.mean(means, axis=0)
        if not return_std:
            return mean

        # Law of total variance.
        within = np.mean(np.square(stds), axis=0)
        between = np.var(means, axis=0)
        return mean, np.sqrt(within + between)


def noise_variance(theta: Array) -> float:
    """Return the variance of the noise, in units of the variance of y."""
    return float(np.exp(theta[-1])) + _MIN_NOISE


def _matern(squares: Array, log_signal: float) -> Array:
    """Return the kernel at squared distances, written in their place to save new memory."""
    squares *= 5
    r = np.sqrt(squares, out=squares)

    # 1 + r + r^2 / 3
    polynomial = r / 3
    polynomial += 1
    polynomial *= r
    polynomial += 1

    exponent = np.subtract(log_signal, r, out=r)
    kernel = np.exp(exponent, out=r)
    kernel *= polynomial
    return kernel


def _matern_slope(squares: Array, log_signal: float) -> tuple[Array, Array]:
    """Return the kernel at squared distances, and -2 dk/d(r²)."""
    r = np.sqrt(5) * np.sqrt(squares)
    decay = np.exp(log_signal - r)
    polynomial = 1 + r + r * r / 3
    kernel = decay * polynomial
    slope = 5 / 3 * decay * (1 + r)
    return kernel, slope


def _warp(x: Array, log_shapes: Array) -> Array:
    """Return Kumaraswamy's distribution functions of columns; linear outside [0, 1]."""
    a, b = np.exp(log_shapes.reshape(2, -1))
    inside = np.clip(x, _EDGE, 1 - _EDGE)
    outside = x - inside
    return 1 - (1 - inside**a) ** b + outside


def _warp_gradient(x: Array, log_shapes: Array) -> Array:
    """Return the derivatives of `_warp` by the logarithms of both shapes, shape (2, n, k)."""
    a, b = np.exp(log_shapes.reshape(2, -1))
    inside = np.clip(x, _EDGE, 1 - _EDGE)
    below = inside**a
    above = b * (1 - below) ** b
    by_first = a * above * below / (1 - below) * np.log(inside)
    by_second = -above * np.log1p(-below)
    return np.array([by_first, by_second])
