"""Use stock scikit-optimize as a sampler and as a fitted model."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from skopt import Optimizer
from skopt.acquisition import gaussian_ei
from skopt.space import Categorical, Integer, Real
from skopt.utils import cook_estimator, normalize_dimensions

from hpo_lib.samplers.acquisition import to_point
from hpo_lib.samplers.encoding import Axis, Encoder, Point
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.samplers.gp_sampler_base import GPSamplerBase
from hpo_lib.samplers.observations import Observations, overflow_scale


class SkoptSampler(GPSamplerBase):
    """scikit-optimize's Gaussian process and acquisition, with its defaults.

    Conditions are respected, and no configuration is repeated. The model is fitted anew to all
    observations for every trial, so the gains of `gp_hedge` start from zero each time.

    Args:
        seed: fixes all choices; None is a random one.
        space: the search space; None in any other Optuna program.
        n_initial_points: trials before the model takes over.
        acq_func: "gp_hedge", "EI", "LCB" or "PI".
        initial_point_generator: "random", "sobol", "lhs" or "halton".
        xi: improvement that EI and PI ask for.
        kappa: weight of the standard deviation in LCB.
        x0: configurations that are tried before the initial points.
        y0: their known values, one each: x0 are then observations, and not tried.
    """

    def _choose(
        self,
        encoder: Encoder,
        observations: Observations,
        rng: np.random.Generator,
    ) -> Point:
        space = skopt_space(encoder.axes)
        optimizer: Any = Optimizer(
            space,
            "GP",
            n_initial_points=0,
            acq_func=self._acq_func,
            acq_func_kwargs={"xi": self._xi, "kappa": self._kappa},
            random_state=int(rng.integers(2**31)),
            model_queue_size=1,
        )

        # Failed trials are as bad as the worst value so far: the search keeps away from them, and
        # no arbitrary penalty distorts the scale.
        values = np.array(observations.values)
        worst = np.full(len(observations.failed), values.max())
        values = np.r_[values, worst]
        values = values / overflow_scale(values)

        # Constant liar of Ginsbourger et al. (2010) for pending trials.
        observed = observations.points + observations.failed
        points = [list(point) for point in observed + observations.pending]
        best = float(values.min())
        lies = [best] * len(observations.pending)

        with _hide_fit_warnings():
            optimizer.tell(points, [*values.tolist(), *lies])
            row = np.array([optimizer.ask()], float)
            point = to_point(encoder.impute(row)[0])
            is_new = point not in observations.tried
            if is_new and not encoder.conditional:
                return point

            # It was tried before, or was chosen for values of parameters that are inactive:
            # compare it with others as they would really be.
            candidates = self._untried_points(encoder, observations, rng)
            if is_new:
                candidates = [point, *candidates]
            rows = space.transform(list(map(list, candidates)))
            improvement = gaussian_ei(rows, optimizer.models[-1], best, self._xi)

        return candidates[int(np.argmax(improvement))]


def fit_process(
    space: Any,
    rows: Sequence[Sequence[Any]],
    values: Sequence[float],
    surrogate: str,
) -> Any:
    """Fit the model of a surrogate to points of a skopt space.

    Args:
        space: normalised skopt space.
        rows: points in the units of the space.
        values: their values.
        surrogate: "bayes" or "skopt".
    """
    if surrogate == "skopt":
        if overflow_scale(np.array(values)) > 1:
            message = "skopt's model may predict NaN after values beyond 1e100: it squares them"
            warnings.warn(message, stacklevel=2)
        model: Any = cook_estimator("GP", space=space, random_state=0)
    else:
        dimensions = enumerate(space)
        categories = [i for i, one in dimensions if isinstance(one, Categorical)]
        model = GaussianProcess(categories)

    with _hide_fit_warnings():
        return model.fit(space.transform(rows), values)


def skopt_space(axes: Sequence[Axis]) -> Any:
    """Return axes as a normalised skopt space; options are indices, as it mixes up their types."""
    return normalize_dimensions([_dimension(axis) for axis in axes])


def _dimension(axis: Axis) -> Any:
    if axis.choice:
        return Categorical(range(int(axis.high) + 1), name=axis.name)
    dimension = Integer if axis.whole else Real
    prior = "log-uniform" if axis.log else "uniform"
    return dimension(axis.low, axis.high, prior, name=axis.name)


@contextmanager
def _hide_fit_warnings() -> Generator[None]:
    """Hide the warnings of skopt and scikit-learn about models that fit well enough."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The objective has been evaluated")
        warnings.filterwarnings("ignore", "Predicted variances smaller than 0")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
