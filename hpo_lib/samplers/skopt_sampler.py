"""The stock scikit-optimize as a sampler and as a fitted model."""

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

from hpo_lib.samplers.bayes import BayesianSampler, History, to_point
from hpo_lib.samplers.encoding import Axis, Codes, Point
from hpo_lib.samplers.gp import GaussianProcess
from hpo_lib.space.search_space import SearchSpace


class SkoptSampler(BayesianSampler):
    """scikit-optimize's Gaussian process and acquisition with its defaults, its traps mended.

    The arguments are those of `BayesianSampler`. The model is fitted anew to all evidence for
    every trial, so the gains of `gp_hedge` start from zero each time.
    """

    def __init__(
        self,
        seed: int | None = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 10,
        acq_func: str = "gp_hedge",
        *,
        initial_point_generator: str = "random",
        xi: float = 0.01,
        **options: Any,
    ) -> None:
        options |= {"initial_point_generator": initial_point_generator, "xi": xi}
        super().__init__(seed, space, n_initial_points, acq_func, **options)

    def _choose(self, codes: Codes, history: History, rng: np.random.Generator) -> Point:
        space = skopt_space(codes.axes)
        optimizer: Any = Optimizer(
            space,
            "GP",
            n_initial_points=0,
            acq_func=self._acq_func,
            acq_func_kwargs={"xi": self._xi, "kappa": self._kappa},
            random_state=int(rng.integers(2**31)),
            model_queue_size=1,
        )
        with _known_warnings():
            # The constant liar of Ginsbourger et al. (2010) for pending trials.
            lies = [min(history.values)] * len(history.pending)
            points = [list(point) for point in (*history.points, *history.pending)]
            optimizer.tell(points, [*history.values, *lies])
            point = to_point(codes.impute(np.array([optimizer.ask()], float))[0])
            new = point not in history.tried
            if new and not codes.conditional:
                return point
            # What was chosen was tried before, or was chosen for values of inactive parameters
            # that the configuration has not: compare it with others as they would be.
            candidates = [*([point] if new else []), *self._new_points(codes, history, rng)]
            model, best = optimizer.models[-1], min(history.values)
            rows = space.transform([list(candidate) for candidate in candidates])
            improvement = gaussian_ei(rows, model, best, self._xi)
        return candidates[int(np.argmax(improvement))]


def fit_process(
    space: Any, rows: Sequence[Sequence[Any]], values: Sequence[float], surrogate: str
) -> Any:
    """Fit the model of "bayes" or "skopt" to points of a normalised skopt space."""
    chosen = [i for i, one in enumerate(space) if isinstance(one, Categorical)]
    model: Any = GaussianProcess(chosen)
    if surrogate == "skopt":
        model = cook_estimator("GP", space=space, random_state=0)
    with _known_warnings():
        return model.fit(space.transform(rows), values)


def skopt_space(axes: Sequence[Axis]) -> Any:
    """The axes as a normalised skopt space; choices are indices, since it mixes up their types."""
    return normalize_dimensions([_dimension(axis) for axis in axes])


def _dimension(axis: Axis) -> Any:
    if axis.choice:
        return Categorical(range(int(axis.high) + 1), name=axis.name)
    prior = "log-uniform" if axis.log else "uniform"
    return (Integer if axis.whole else Real)(axis.low, axis.high, prior, name=axis.name)


@contextmanager
def _known_warnings() -> Generator[None]:
    """Hide what skopt and scikit-learn say of models that fit well enough to go on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The objective has been evaluated")
        warnings.filterwarnings("ignore", "Predicted variances smaller than 0")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
