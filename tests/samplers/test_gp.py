from __future__ import annotations

import numpy as np
import pytest
import skopt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import norm
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.samplers.gp import AveragedProcess, GaussianProcess, NegativeLogPosterior
from hpo_lib.samplers.observations import output_transform


def observations(n=30, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.random((n, 3))
    rows[:, 2] = rng.integers(3, size=n)
    return rows, np.sin(4 * rows[:, 0]) + 0.1 * rows[:, 1] + np.array([0, 3, 1])[
        rows[:, 2].astype(int)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_density(seed):
    rows, y = observations(12, seed)
    density = NegativeLogPosterior(rows, y - y.mean(), np.array([0, 1]), [2])
    theta = density.prior_mean + density.prior_std * np.random.default_rng(seed).normal(size=9)
    error = check_grad(lambda t: density(t)[0], lambda t: density(t)[1], theta)
    assert error < 1e-4 * max(1, np.linalg.norm(density(theta)[1]))


def test_it_predicts_what_it_has_not_seen_and_knows_what_it_does_not_know():
    rows, y = observations()
    unseen, truth = observations(200, 1)
    model = GaussianProcess([2]).fit(rows, y)
    mean, std = model.predict(unseen, return_std=True)
    assert np.corrcoef(mean, truth)[0, 1] > 0.98
    assert np.mean(np.abs(mean - truth) < 3 * std) > 0.9
    assert model.predict(rows, return_std=True)[1].mean() < std.mean()
    assert model.score(unseen, truth) > 0.95


@pytest.mark.parametrize("n", [17, 60])
def test_the_number_of_threads_does_not_matter(n):
    """Sums that threads share are rounded differently, and a search would soon be another."""

    def found(threads):
        with threadpool_limits(threads, "blas"):
            model = GaussianProcess([2]).fit(*observations(n))
            predicted = model.predict(observations(200, 1)[0], return_std=True)
            return [model.theta_, model.draw_parameters(4), *predicted]

    for alone, together in zip(found(1), found(2), strict=True):
        np.testing.assert_array_equal(alone, together)


def test_the_order_of_categories_does_not_matter():
    rows, y = observations()
    renamed = rows.copy()
    renamed[:, 2] = np.array([7, 2, 5])[rows[:, 2].astype(int)]
    first = GaussianProcess([2]).fit(rows, y).predict(rows)
    second = GaussianProcess([2]).fit(renamed, y).predict(renamed)
    assert np.allclose(first, second)


def test_the_scale_of_y_does_not_matter():
    rows, y = observations()
    model = GaussianProcess([2])
    first = clone(model).fit(rows, y).predict(rows, return_std=True)
    second = model.fit(rows, 1e6 * y + 5).predict(rows, return_std=True)
    assert np.allclose(1e6 * first[0] + 5, second[0])
    assert np.allclose(1e6 * first[1], second[1])


def test_kernel_parameters_can_be_kept():
    rows, y = observations()
    fitted = GaussianProcess([2]).fit(rows, y)
    kept = GaussianProcess([2]).fit(rows[:10], y[:10], fitted.theta_)
    assert np.array_equal(kept.theta_, fitted.theta_)


def test_it_finds_out_where_a_function_changes_fast():
    x = np.linspace(0, 1, 16)[:, None]
    unseen = np.linspace(0, 1, 200)[:, None]
    model = GaussianProcess().fit(x, np.sin(9 * x[:, 0] ** 4))
    slow, fast = np.diff(model.scaled(np.array([[0.0], [0.1], [0.9], [1.0]]))[:, 0])[[0, 2]]
    assert fast > 5 * slow
    straight = np.r_[0.0, 0.0, model.theta_[2:]]
    truth = np.sin(9 * unseen[:, 0] ** 4)
    warped = np.abs(model.predict(unseen) - truth).mean()
    model.fit(x, np.sin(9 * x[:, 0] ** 4), straight)
    assert warped < 0.8 * np.abs(model.predict(unseen) - truth).mean()


@settings(max_examples=50)
@given(st.integers(0, 1000))
def test_the_warp_keeps_the_order_of_numbers_even_beyond_their_range(seed):
    rows, y = observations(8, seed)
    numbers = np.repeat(np.linspace(-1, 2, 301)[:, None], 2, axis=1)
    scaled = GaussianProcess().fit(rows[:, :2], y).scaled(numbers)
    assert (np.diff(scaled, axis=0) >= 0).all()


@pytest.mark.parametrize("y", [[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
def test_equal_values_and_repeated_rows_are_no_trouble(y):
    rows = np.array([[0.2], [0.2], [0.2], [0.2]])
    mean, std = GaussianProcess().fit(rows, y).predict([[0.2], [0.9]], return_std=True)
    assert mean[0] == pytest.approx(np.mean(y), abs=0.1)
    assert np.isfinite(std).all()


def test_log_expected_improvement_is_the_logarithm_of_what_it_says():
    mean, std, best = np.linspace(-3, 5, 50), np.full(50, 0.8), 0.5
    z = (best - mean) / std
    plain = std * (z * norm.cdf(z) + norm.pdf(z))
    assert np.allclose(log_expected_improvement(mean, std, best), np.log(plain))
    augmented = plain * (1 - 0.6 / np.hypot(0.6, std))
    assert np.allclose(log_expected_improvement(mean, std, best, 0.6), np.log(augmented))
    far = log_expected_improvement(np.array([50.0, 100.0, 1e6]), np.ones(3), 0.0)
    assert np.isfinite(far).all()
    assert (np.diff(far) < 0).all()


def test_scikit_optimize_takes_it_as_its_model():
    optimizer = skopt.Optimizer(
        [(0.0, 1.0)],
        GaussianProcess(),
        n_initial_points=3,
        acq_optimizer="sampling",
        random_state=0,
    )
    result = optimizer.run(lambda x: (x[0] - 0.3) ** 2, 8)
    assert abs(result.x[0] - 0.3) < 0.05
    assert result.models[-1].theta_.shape == (5,)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
    | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30)
)
@example([0.0, 1.0, 2.225073858507203e-309])
@example([-1.7e308, 1.7e308, 1.6e308])
@example([1e-5, 2e-5, 1e308, -1e-5, 0.0])
def test_compression_keeps_the_order(values):
    y = np.asarray(values)
    order = np.argsort(y, kind="stable")
    assert (np.diff(output_transform(y)[order]) >= 0).all()
    assert np.isfinite(output_transform(y)).all()


def test_drawn_parameters_are_as_uncertain_as_the_observations_leave_them():
    rows, y = observations(40)
    few = GaussianProcess([2]).fit(rows[:6], y[:6])
    many = GaussianProcess([2]).fit(rows, y)
    assert few.draw_parameters(8).shape == (8, 9)
    assert np.array_equal(few.draw_parameters(8), few.draw_parameters(8))
    middle = many.draw_parameters(64).mean(axis=0)
    inside = [0, 1, 2, 3, 4, 6, 7]  # the second length scale and the noise end at their bounds
    assert np.allclose(middle[inside], many.theta_[inside], atol=0.1)
    length_scale = [model.draw_parameters(64)[:, -5].std() for model in (few, many)]
    assert length_scale[1] < 0.7 * length_scale[0]


def test_the_average_is_the_mixture_of_its_parts():
    rows, y = observations(12)
    unseen, _ = observations(20, 1)
    fitted = GaussianProcess([2]).fit(rows, y)
    alone = AveragedProcess([2], fitted.theta_[None]).fit(rows, y)
    assert np.allclose(alone.predict(unseen, True), fitted.predict(unseen, True))
    thetas = fitted.draw_parameters(4)
    parts = [GaussianProcess([2]).fit(rows, y, theta) for theta in thetas]
    means, stds = np.swapaxes([part.predict(unseen, True) for part in parts], 0, 1)
    mean, std = AveragedProcess([2], thetas).fit(rows, y).predict(unseen, True)
    assert np.allclose(mean, means.mean(axis=0))
    assert np.allclose(std**2 + mean**2, (stds**2 + means**2).mean(axis=0))
