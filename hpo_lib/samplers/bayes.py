"""Bayesian optimization with a Gaussian process: the workbench's own sampler.

The model is in `gp`, the acquisition function and its optimisation in `acquisition`, and what the
model is fitted to in `observations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpo_lib.checks import check_member
from hpo_lib.samplers.acquisition import (
    ACQUISITIONS,
    Acquisition,
    AcquisitionFunction,
    DefaultPrior,
    FeasibilityModel,
    fit_cost_model,
    optimize_acquisition,
    weighted,
    with_task_columns,
)
from hpo_lib.samplers.encoding import Array, Encoder, Point
from hpo_lib.samplers.gp import MANY_COLUMNS, AveragedProcess, GaussianProcess
from hpo_lib.samplers.gp_sampler_base import GPSamplerBase
from hpo_lib.samplers.observations import (
    MAX_TRAINING_SIZE,
    Observations,
    output_transform,
    subsample_training_set,
    tie_break_margin,
)
from hpo_lib.samplers.optuna_samplers import choose_by_tpe
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

_N_INCUMBENTS = 5
_REFIT_UP_TO = 60
_AVERAGE_UP_TO = 30
_N_DRAWS = 8
_MIN_FOR_TPE = 10
_PRIOR_WEIGHT = 3.0
"""Beta of Hvarfner et al. (2022)."""


class TrainingSet(NamedTuple):
    """Observations that the model was fitted to, then pending trials with predicted means.

    Attributes:
        points: shape (n, d).
        values: transformed values, shape (n,).
        full: mask of full trainings of the study's own, shape (n,).
        warm_start: mask of full trainings of an earlier study, shape (n,).
        margin: minimum improvement on the best value.
    """

    points: Array
    values: Array
    full: NDArray[np.bool_]
    warm_start: NDArray[np.bool_]
    margin: float

    def best_first(self, mask: NDArray[np.bool_]) -> Array:
        """Return the points that a mask selects, the lowest value first."""
        order = np.argsort(self.values, kind="stable")
        return self.points[order[mask[order]]]


class BayesSampler(GPSamplerBase):
    """Bayesian optimization with a Gaussian process and log expected improvement.

    While there are at most 30 observations of fewer than ten columns, predictions are averaged
    over kernel parameters drawn from their posterior.

    Pending trials get their predicted means (the "kriging believer" of Ginsbourger et al., 2010),
    at full fidelity; with 8 and 32 workers that lost less than to take them for as good as the
    best, the median or the worst value.

    As soon as trials are pruned, the fidelity is one more input of the model, after Klein et al.
    (2017, "Fast Bayesian optimization of machine learning hyperparameters on large datasets"):
    it is fitted to intermediate values, too, and predicts full trainings alone; in a study of
    `run_study`, whose budget is recorded, also before the first of them has ended.

    Where the last value is exactly that of an earlier trial, as on the plateaus of a decision
    tree, about every other choice is that of Optuna's TPE.

    Failed trials have no value. A model of the probability to succeed is fitted to which trials
    failed, and multiplied into the acquisition function: see `FeasibilityModel`.

    Whether a trial was a warm-start trial is another input, so that the fit finds out how much an
    earlier study says of this one, as in Swersky et al. (2013, "Multi-task Bayesian
    optimization"). They are left out, and so is a prior, where they rank the study's own trials no
    better than chance would: evidence that is wrong costs a few trials. With evidence, every other
    initial point is the model's choice.

    Args:
        seed: fixes all choices; None is a random one.
        space: the search space; None in any other Optuna program.
        n_initial_points: trials before the model takes over.
        acq_func: "EI" (see `Acquisition`), "EIps" (per second), "PI", "LCB" or "gp_hedge", which
            picks one of EI, LCB and PI evenly.
        initial_point_generator: "random", "sobol", "lhs" or "halton".
        xi: improvement that EI and PI ask for, in standard deviations of the values.
        kappa: weight of the standard deviation in LCB.
        x0: configurations that are tried before the initial points.
        y0: their known values, one each: x0 are then observations, and not tried.
        prior_std: by parameter, how far from its default good values are believed to lie (see
            `DefaultPrior`). Every other initial point is then drawn from this prior, and it
            weighs on the acquisition function less with every trial, as in Hvarfner et al.
            (2022, "πBO: Augmenting acquisition functions with user beliefs").

    Example:
        >>> import optuna
        >>> study = optuna.create_study(sampler=BayesSampler(seed=0))
        >>> study.optimize(lambda trial: (trial.suggest_float("x", 0, 1) - 0.3) ** 2, n_trials=12)
        >>> abs(study.best_params["x"] - 0.3) < 0.1
        True
    """

    acquisitions = (*ACQUISITIONS, "EIps")
    is_multi_fidelity = True

    def __init__(
        self,
        seed: int | None = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 5,
        acq_func: str = "EI",
        *,
        initial_point_generator: str = "sobol",
        xi: float = 0.0,
        kappa: float = 1.96,
        x0: Sequence[Configuration] = (),
        y0: Sequence[float] | None = None,
        prior_std: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            seed,
            space,
            n_initial_points,
            acq_func,
            initial_point_generator=initial_point_generator,
            xi=xi,
            kappa=kappa,
            x0=x0,
            y0=y0,
        )
        self._prior_std = dict(prior_std or {})
        _check_prior(self._prior_std, space, acq_func)
        self._thetas: dict[tuple[Any, ...], Array] = {}
        self._evidence: tuple[Any, GaussianProcess] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the options that choices depend on, as JSON for the record of a study."""
        return {**super().settings, "prior_std": self._prior_std}

    def _select_evidence(self, encoder: Encoder, observations: Observations) -> Observations:
        """Leave out the warm-start trials where the study's own trials contradict them."""
        is_warm_start = observations.is_warm_start
        if not is_warm_start.any() or is_warm_start.all():
            return observations

        predicted = self._predict_from_evidence(encoder, observations)
        if _is_contradicted(observations, predicted):
            return observations.without_warm_start()
        return observations

    def _predict_from_evidence(self, encoder: Encoder, observations: Observations) -> Array:
        """Predict all values from the warm-start trials alone, shape (n,)."""
        is_warm_start = observations.is_warm_start
        fidelities = observations.task_columns[:, :1]
        rows = np.c_[encoder.scale(observations.points), fidelities]
        values = np.array(observations.values)[is_warm_start]
        earlier = rows[is_warm_start][:MAX_TRAINING_SIZE]
        values = values[:MAX_TRAINING_SIZE]

        key = (earlier.tobytes(), values.tobytes())
        if self._evidence is None or self._evidence[0] != key:
            model = GaussianProcess(encoder.categories)
            self._evidence = (key, model.fit(earlier, output_transform(values)))
        return self._evidence[1].predict(rows)

    def _is_model_turn(self, index: int, observations: Observations) -> bool:
        """Return whether the model chooses: from the first trial if warm-start trials help it.

        Every other of the first trials is an initial point then, which tests them.
        """
        own_index = index - observations.n_warm_start
        if own_index >= self._n_initial_points:
            return True

        has_evidence = observations.is_warm_start.any()
        is_test = own_index % 2 == 0
        return bool(index >= self._n_initial_points and has_evidence and not is_test)

    def _choose(
        self,
        encoder: Encoder,
        observations: Observations,
        rng: np.random.Generator,
    ) -> Point:
        # On a plateau the model has no slope to follow: it takes turns with TPE.
        if _is_on_plateau(observations) and rng.random() < 0.5:
            point = choose_by_tpe(encoder, observations, rng)
            if point not in observations.tried:
                return point

        model, training_set = self._fit(encoder, observations)

        # Value to improve on: the lowest mean of a full training.
        full = training_set.full
        is_leader = full if full.any() else np.ones_like(full)
        leaders = encoder.impute(training_set.best_first(is_leader))
        rows = with_task_columns(encoder.scale(leaders), model)
        mean = model.predict(rows)
        best = float(mean.min()) - self._xi * model.scale_ - training_set.margin

        # Acquisition function.
        name = self._acq_func
        if name == "gp_hedge":
            name = str(rng.choice(ACQUISITIONS[1:]))
        log_cost = fit_cost_model(encoder, observations) if name == "EIps" else None
        acquisition: AcquisitionFunction = Acquisition(
            name,
            encoder,
            model,
            observations,
            best,
            self._kappa,
            log_cost,
        )
        if observations.failed:
            feasibility = FeasibilityModel(encoder, observations)
            acquisition = weighted(acquisition, feasibility.log_probability)
        prior = self._usable_prior(encoder, observations)
        if prior is not None:
            n_full = len(observations.full_trainings)
            weight = _PRIOR_WEIGHT / max(n_full, 1)
            acquisition = weighted(acquisition, prior.log_density, weight)

        # The best point that was not tried. Without a space, parameters that are not shared may
        # make a repeated point a new configuration.
        warm_start = training_set.best_first(training_set.warm_start)
        incumbents = np.vstack([leaders[:_N_INCUMBENTS], warm_start[:_N_INCUMBENTS]])
        ranked = optimize_acquisition(encoder, acquisition, incumbents, rng)
        untried = observations.untried(ranked)
        if not untried and self._space is None:
            return ranked[0]
        untried = untried or self._untried_points(encoder, observations, rng)
        return untried[0]

    def _fit(
        self, encoder: Encoder, observations: Observations
    ) -> tuple[AveragedProcess, TrainingSet]:
        """Fit the model to a limited number of observations, and to pending trials."""
        values = output_transform(observations.values)
        task_columns = observations.task_columns
        full = (task_columns == 1).all(axis=1)

        # A column that is the same everywhere is no input: see `with_task_columns`.
        varies = (task_columns != 1).any(axis=0)
        rows = np.c_[
            encoder.scale(observations.points),
            task_columns[:, varies],
        ]
        categories = encoder.categories
        thetas = self._kernel_parameters(categories, rows, observations.values, full)
        model = AveragedProcess(categories, thetas)

        # Condition the model on a part of the observations.
        kept = subsample_training_set(values, full)
        rows = rows[kept]
        values = values[kept]
        full = full[kept]
        points = np.array(observations.points)[kept]
        warm_start = (task_columns[kept] == (1, 0)).all(axis=1)
        model.fit(rows, values)
        margin = tie_break_margin(values[full])

        # Kriging believer.
        if observations.pending:
            pending = with_task_columns(encoder.scale(observations.pending), model)
            is_pending = np.ones(len(pending), bool)

            points = np.vstack([points, observations.pending])
            values = np.r_[values, model.predict(pending)]
            full = np.r_[full, is_pending]
            warm_start = np.r_[warm_start, ~is_pending]
            model.fit(np.vstack([rows, pending]), values)

        return model, TrainingSet(
            points,
            values,
            full,
            warm_start,
            margin,
        )

    def _kernel_parameters(
        self,
        categories: Sequence[int],
        rows: Array,
        values: Sequence[float],
        full: NDArray[np.bool_],
    ) -> Array:
        """Fit kernel parameters to the observations, or return those of the last fit.

        With many observations they hardly change from one trial to the next, and are fitted to
        the first 60, 70, ... of them (50 at a time beyond 500).

        Returns:
            Several rows drawn from the posterior while there are few observations, else one.
        """
        # Number of observations to fit to.
        n = len(rows)
        if n > MAX_TRAINING_SIZE:
            n -= n % 50
        elif n > _REFIT_UP_TO:
            n -= n % 10

        key = (rows[:n].tobytes(), *values[:n])
        if key not in self._thetas:
            transformed = output_transform(values[:n])
            kept = subsample_training_set(transformed, full[:n])
            model = GaussianProcess(categories)
            model.fit(rows[:n][kept], transformed[kept])

            # Only the last fit is kept.
            is_few = n <= _AVERAGE_UP_TO and rows.shape[1] < MANY_COLUMNS
            thetas = model.draw_parameters(_N_DRAWS) if is_few else model.theta_[None]
            self._thetas = {key: thetas}

        return self._thetas[key]

    def _usable_prior(self, encoder: Encoder, observations: Observations) -> DefaultPrior | None:
        """Return the prior; None where there is none, or the study's own trials contradict it."""
        if self._space is None or not self._prior_std:
            return None

        prior = DefaultPrior(encoder, self._space, self._prior_std)
        if observations.observed:
            points = np.array(observations.points)
            if _is_contradicted(observations, -prior.log_density(points)):
                return None
        return prior

    def _initial_point(
        self,
        encoder: Encoder,
        index: int,
        observations: Observations,
    ) -> Point | None:
        # Every other initial point comes from the prior.
        prior = self._usable_prior(encoder, observations) if index % 2 == 1 else None
        if prior is None:
            return super()._initial_point(encoder, index, observations)
        rng = np.random.default_rng([self._seed, index])
        return prior.sample(rng)


def _is_on_plateau(observations: Observations) -> bool:
    """Return whether the last full training has exactly the value of an earlier one."""
    values = [one.value for one in observations.full_trainings]
    return len(values) >= _MIN_FOR_TPE and values[-1] in values[:-1]


def _is_contradicted(observations: Observations, predicted: Array) -> bool:
    """Return whether predictions rank the study's own values no better than chance would.

    It is a one-sided test by Kendall's rank correlation, at half a standard deviation of its
    distribution for independent rankings, as soon as there are two values.

    Args:
        observations: what was recorded, n values.
        predicted: predictions of all values, in any unit, shape (n,).
    """
    is_own = ~observations.is_warm_start
    values = np.array(observations.values)[is_own]
    predicted = predicted[is_own]

    # Values of different fidelities are not compared.
    fidelities = observations.task_columns[is_own, 0]
    _, counts = np.unique(fidelities, return_counts=True)
    if not (counts > 1).any():
        return False

    # Kendall's S: pairs that are ranked rightly minus pairs that are ranked wrongly.
    is_comparable = fidelities[:, None] == fidelities
    concordance = np.sign(values[:, None] - values) * np.sign(predicted[:, None] - predicted)
    score = concordance[is_comparable].sum() / 2

    variance = np.sum(counts * (counts - 1) * (2 * counts + 5)) / 18
    return bool(score <= 0.5 * np.sqrt(variance))


def _check_prior(
    prior_std: Mapping[str, float],
    space: SearchSpace | None,
    acq_func: str,
) -> None:
    """Refuse a prior of parameters that are not searched, or that acq_func cannot use."""
    names = [] if space is None else [parameter.name for parameter in space.searched]
    for name, std in prior_std.items():
        if name not in names or not std > 0:
            message = f"prior_std must be positive, for parameters of {names}, got {name}: {std!r}"
            raise ValueError(message)
    if prior_std:
        check_member("acq_func with prior_std", acq_func, ("EI", "PI"))
