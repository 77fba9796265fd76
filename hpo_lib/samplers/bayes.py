"""Bayesian search: a Gaussian process over the recorded trials chooses the next configuration.

A Bayesian sampler is an Optuna sampler for one objective, in either direction, without
constraints; a study with several or with constraints is refused. It keeps no state:
what it chooses is a function of (seed, trial number, recorded trials). With a `SearchSpace` it
knows its conditions, priors and defaults and never repeats a configuration; without one it works
in any Optuna program, on the parameters that all its trials share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from hpo_lib.checks import check_member, check_whole
from hpo_lib.samplers.acquisition import ACQUISITIONS, Acquisition, cost_model, trusted
from hpo_lib.samplers.encoding import Codes, Point
from hpo_lib.samplers.gp import AveragedProcess, GaussianProcess, compress, one_thread
from hpo_lib.samplers.history import (
    MOST,
    History,
    choice_seed,
    epoch_seconds,
    gates,
    partial_values,
    plateau_step,
    representatives,
    standing,
)
from hpo_lib.samplers.prior import Prior
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.trials import RecordedTrial, recorded_trials

DESIGNS = ("random", "sobol", "lhs", "halton")
_CANDIDATES = 1024
_BEYOND = 3.0
_HIGHEST = 20
_INCUMBENTS = 5
_ROUNDS = 4
_REFIT_BELOW = 60
_AVERAGE_BELOW = 30
_DRAWS = 8
_PRIOR_WEIGHT = 3.0  # beta of Hvarfner et al.


class BayesianSampler(BaseSampler):
    """What the samplers share: history, imputation, initial points, and never a repeat.

    Args:
        seed: fixes all choices; None is a random one.
        space: the search space; None in an Optuna program of any other origin.
        n_initial_points: trials before the model takes over.
        acq_func: one of `acquisitions`; "gp_hedge" picks one of EI, LCB and PI evenly.
        initial_point_generator: "random", "sobol", "lhs" or "halton".
        xi: the improvement that EI and PI ask for.
        kappa: the weight of the standard deviation in LCB.
        first: configurations tried before the initial points.
        given: configurations with known values that are evidence without being trials.
    """

    acquisitions = ACQUISITIONS

    def __init__(
        self,
        seed: int | None,
        space: SearchSpace | None,
        n_initial_points: int,
        acq_func: str,
        *,
        initial_point_generator: str,
        xi: float,
        kappa: float = 1.96,
        first: Sequence[Configuration] = (),
        given: Sequence[tuple[Configuration, float]] = (),
    ) -> None:
        check_member("acq_func", acq_func, self.acquisitions)
        check_member("initial_point_generator", initial_point_generator, DESIGNS)
        self._n_initial_points = check_whole("n_initial_points", n_initial_points, 0)
        if space is None and (first or given):
            message = "first and given need a space, got space=None"
            raise ValueError(message)
        self._seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self._space = space
        self._acq_func = acq_func
        self._design = initial_point_generator
        self._xi = xi
        self._kappa = kappa
        self._first = [space.check(each) for each in first] if space else []
        self._given = [(space.check(each), value) for each, value in given] if space else []
        self._codes: tuple[dict[str, BaseDistribution], Codes] | None = None

    @abstractmethod
    def _choose(self, codes: Codes, history: History, rng: np.random.Generator) -> Point:
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

    @one_thread
    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose the values of all active parameters."""
        codes = self._codes_of(search_space)
        if not codes.axes:
            return {}
        if self._first:  # enqueued trials and evidence take the place of none of them
            earlier = recorded_trials(study)[: trial.number]
            n_chosen = sum(one.is_chosen for one in earlier)
            if n_chosen < len(self._first):
                return codes.active(self._first[n_chosen])
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
        uniform = optuna.samplers.RandomSampler(choice_seed(self._seed, trial.number, param_name))
        return uniform.sample_independent(study, trial, param_name, param_distribution)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every configuration of a finite space was tried or is being tried."""
        if self._space is None or self._space.size is None:
            return False
        codes = self._codes_of(self._space.distributions())
        return len(self._history(study, codes, None).tried) >= self._space.size

    def _codes_of(self, distributions: dict[str, BaseDistribution]) -> Codes:
        """The last ones while they will do: they remember the points of configurations."""
        if self._codes is None or self._codes[0] != distributions:
            self._codes = distributions, Codes(distributions, self._space)
        return self._codes[1]

    def _history(self, study: optuna.Study, codes: Codes, number: int | None) -> History:
        """What the trials but this one say: `given`, then completed, failed and pending ones."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        whole = (1.0, 1.0)
        evidence = [(cast("Point", codes.encode(c)), whole, sign * v) for c, v in self._given]
        points: dict[str, list[Point]] = {"valued": [], "failed": [], "pending": [], "unknown": []}
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.constraints and trial.number != number:
                message = f"{type(self).__name__} knows no constraints, got {trial.constraints}"
                raise ValueError(message)
        trials = recorded_trials(trials)
        shown = self._shown(trials)
        for trial in trials:
            point = None if trial.number == number else codes.encode(trial.known_params)
            if point is None:
                continue
            own = float(trial.is_own)
            steps = shown.get(trial.number, ())
            evidence += [(point, (share, own), sign * v) for share, v in steps]
            kind = standing(trial)
            points[kind].append(point)
            if kind == "valued":
                evidence.append((point, (1.0, own), sign * cast("float", trial.value)))
        full = [value for _, (share, _), value in evidence if share == 1]
        if full:
            # As bad as the worst: the search keeps away, and no invented number bends the scale.
            evidence += [(point, whole, max(full)) for point in points["failed"]]
        told = [point for point, _, _ in evidence]
        trusts = [trust for _, trust, _ in evidence]
        values = [value for _, _, value in evidence]
        tried = set(told).union(*points.values())
        timed = epoch_seconds(codes, trials) if self._acq_func == "EIps" else []
        stops = gates(trials, sign) if any(share < 1 for share, _ in trusts) else []
        return History(tried, told, trusts, values, points["pending"], timed, stops)

    def _shown(self, trials: Sequence[RecordedTrial]) -> dict[int, list[tuple[float, float]]]:
        """More evidence per trial number: pairs of a fidelity, 1 being full, and a value."""
        return {}

    def _initial_point(self, codes: Codes, index: int) -> Point | None:
        if self._space is None or index >= self._n_initial_points:
            return None
        units = _design(
            self._design, self._n_initial_points, len(self._space.searched), self._seed
        )
        return codes.encode(self._space.from_unit(units[index].tolist(), self._seed))

    def _new_points(self, codes: Codes, history: History, rng: np.random.Generator) -> list[Point]:
        """Points not tried so far, in random order; at least one."""
        drawn = codes.every()
        drawn = codes.draw(rng.random((_CANDIDATES, len(codes.axes)))) if drawn is None else drawn
        points = [*dict.fromkeys(map(to_point, rng.permutation(drawn)))]
        new = [point for point in points if point not in history.tried]
        if self._space is None:  # other parameters may still make it a new configuration
            return (new or points)[:_CANDIDATES]
        if not new and self._space.size is not None:  # few are left: draws seldom meet them
            grid = map(codes.encode, self._space.grid(self._space.size))
            new = [point for point in grid if point and point not in history.tried]
            rng.shuffle(new)
        if new:
            return new[:_CANDIDATES]
        message = (
            f"all {len(history.tried)} configurations of the space have been tried; "
            "ask is_exhausted(study) first"
        )
        raise RuntimeError(message)


class _Told(NamedTuple):
    """What the model was fitted to: a part of the evidence, then pending trials as expected.

    `full` are full trainings of the study's own, `earlier` those of an earlier study. The best is
    to be improved on by `step` at least.
    """

    points: NDArray[np.float64]
    values: NDArray[np.float64]
    full: NDArray[np.bool_]
    earlier: NDArray[np.bool_]
    step: float

    def best_first(self, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The points of a part of the trials, the lowest value first."""
        order = np.argsort(self.values, kind="stable")
        return self.points[order[which[order]]]


class BayesSampler(BayesianSampler):
    """The workbench's sampler: a Gaussian process with expected improvement, searched closely.

    The acquisition function is compared over points spread over the space and over neighbours of
    the best trials, then around the best of those; a small finite space is compared whole. While
    there are at most 30 values, predictions are averaged over plausible kernel parameters.
    Pending trials are believed to turn out as the model expects (the "kriging believer" of
    Ginsbourger et al., 2010), at full fidelity; with 8 and 32 workers that lost less than to take
    them for as good as the best, the median or the worst value.

    As soon as trials are pruned, the fidelity is one more input of the model, after Klein et al.
    (2017, "Fast Bayesian optimization of machine learning hyperparameters on large datasets"):
    it is fitted to what completed and pruned trials showed on the way too, and asked about full
    trainings alone, which the incumbent is one of.

    Trials that the study took over from an earlier one are of lower trust: their origin is one
    more input, too, and how much they say of the study's own is fitted, as in Swersky et al.
    (2013, "Multi-task Bayesian optimization").

    The arguments are those of `BayesianSampler`; EI is augmented (see `Acquisition`), and `xi` is
    in standard deviations of the values. `widths` says by parameter how far from its default good
    values are believed to lie (see `Prior`). Every other initial point is then drawn from that
    belief, and it weighs on the acquisition function less with every trial, as in Hvarfner et al.
    (2022, "πBO: Augmenting acquisition functions with user beliefs").

    EI is weighed with the probability that the trial survives the rungs, taking for granted that
    what survived so far would survive again, and divided by the epochs that it will then last:
    the improvement per cost of Snoek et al. (2012, "Practical Bayesian optimization of machine
    learning algorithms", section 3.2). "EIps" is per second, by a second model of an epoch's
    seconds.
    """

    acquisitions = (*ACQUISITIONS, "EIps")

    def __init__(
        self,
        seed: int | None = 0,
        space: SearchSpace | None = None,
        n_initial_points: int = 5,
        acq_func: str = "EI",
        *,
        initial_point_generator: str = "sobol",
        xi: float = 0.0,
        widths: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        options |= {"initial_point_generator": initial_point_generator, "xi": xi}
        super().__init__(seed, space, n_initial_points, acq_func, **options)
        self._widths = check_widths(widths or {}, space, acq_func)
        self._fitted: dict[tuple[Any, ...], NDArray[np.float64]] = {}

    def _choose(self, codes: Codes, history: History, rng: np.random.Generator) -> Point:
        model, told = self._fit(codes, history)
        leaders = told.best_first(told.full if told.full.any() else np.ones_like(told.full))
        compared = model.predict(trusted(codes.scale(leaders), model))
        best = float(compared.min()) - self._xi * model.scale_ - told.step
        name = self._acq_func
        name = str(rng.choice(ACQUISITIONS[1:])) if name == "gp_hedge" else name
        cost = cost_model(codes, history)
        acquisition = Acquisition(name, codes, model, history, best, self._kappa, cost)
        if self._space is not None and self._widths:
            prior = Prior(codes, self._space, self._widths)
            n_full = max(history.trusts.count((1.0, 1.0)), 1)
            acquisition = prior.steer(acquisition, _PRIOR_WEIGHT / n_full)
        earlier = told.best_first(told.earlier)
        incumbents = np.vstack([leaders[:_INCUMBENTS], earlier[:_INCUMBENTS]])
        ranked = _best_first(codes, acquisition, incumbents, rng)
        # Without a space, parameters that are not shared may make a repeated point a new one.
        repeat = ranked[0] if self._space is None else None
        chosen = next((point for point in ranked if point not in history.tried), repeat)
        return chosen or self._new_points(codes, history, rng)[0]

    def _fit(self, codes: Codes, history: History) -> tuple[AveragedProcess, _Told]:
        """Fit the model to a part of the evidence that it can bear, and to pending trials."""
        values, trusts = compress(history.values), np.array(history.trusts)
        full = (trusts == 1).all(axis=1)
        # What is the same everywhere is no input: see `trusted` for the way back.
        rows = np.c_[codes.scale(history.points), trusts[:, (trusts != 1).any(axis=0)]]
        categories = np.flatnonzero(codes.choice).tolist()
        thetas = self._kernel_parameters(categories, rows, history.values, full)
        model = AveragedProcess(categories, thetas)
        kept = representatives(values, full)
        rows, values, full = rows[kept], values[kept], full[kept]
        points, earlier = np.array(history.points)[kept], (trusts[kept] == (1, 0)).all(axis=1)
        model.fit(rows, values)
        step = plateau_step(values[full])
        if history.pending:
            pending = trusted(codes.scale(history.pending), model)
            points = np.vstack([points, history.pending])
            values, new = np.r_[values, model.predict(pending)], np.ones(len(pending), bool)
            full, earlier = np.r_[full, new], np.r_[earlier, ~new]
            model.fit(np.vstack([rows, pending]), values)
        return model, _Told(points, values, full, earlier, step)

    def _initial_point(self, codes: Codes, index: int) -> Point | None:
        if self._space is None or not self._widths or index % 2 == 0:
            return super()._initial_point(codes, index)
        rng = np.random.default_rng([self._seed, index])
        return Prior(codes, self._space, self._widths).draw(rng)

    def _shown(self, trials: Sequence[RecordedTrial]) -> dict[int, list[tuple[float, float]]]:
        """See `partial_values`."""
        return partial_values(trials)

    def _kernel_parameters(
        self,
        categories: Sequence[int],
        rows: NDArray[np.float64],
        values: Sequence[float],
        full: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Fitted to all evidence; of much evidence, to as many tens of it as there are.

        They hardly change from one trial to the next by then, and what was fitted once is kept.
        Of little evidence several draws, of shape (k, 2 * numbers + d + 2).
        """
        n = len(rows)
        n -= n % (1 if n <= _REFIT_BELOW else 10 if n <= MOST else 50)
        key = (rows[:n].tobytes(), *values[:n])
        if key not in self._fitted:
            compressed = compress(values[:n])
            kept = representatives(compressed, full[:n])
            model = GaussianProcess(categories).fit(rows[:n][kept], compressed[kept])
            few = n <= _AVERAGE_BELOW
            thetas = model.draw_parameters(_DRAWS) if few else model.theta_[None]
            self._fitted = {key: thetas}
        return self._fitted[key]


def _best_first(
    codes: Codes,
    acquisition: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    incumbents: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[Point]:
    """Points of high acquisition, the highest first."""
    found = codes.every()
    if found is None:
        units = qmc.Sobol(len(codes.axes), rng=rng).random(_CANDIDATES)
        # Least is known at the bounds, and corners are rarely drawn: every other point is moved
        # away from the middle, which leaves one coordinate in _BEYOND inside.
        inside = np.clip(_BEYOND * (units - 0.5) + 0.5, 0, 1)
        units[::2] = np.where(codes.choice, units, inside)[::2]
        spread = codes.draw(units)
        near = codes.neighbours(incumbents, _CANDIDATES // 2, (0.02, 0.05, 0.1, 0.2), rng)
        found = np.vstack([spread, near])
        values = acquisition(found)
        for _ in range(_ROUNDS):
            highest = found[np.argsort(-values)[:_HIGHEST]]
            near = codes.neighbours(highest, 10 * _HIGHEST, (0.005, 0.02, 0.1, 0.4), rng)
            found, values = np.vstack([found, near]), np.r_[values, acquisition(near)]
    else:
        values = acquisition(found)
    return [*map(to_point, found[np.argsort(-values)])]


def to_point(row: NDArray[np.float64]) -> Point:
    """A row as a point."""
    return tuple(row.tolist())


def _design(name: str, n: int, n_dimensions: int, seed: int) -> NDArray[np.float64]:
    """`n` points of the unit cube, shape (n, n_dimensions)."""
    rng = np.random.default_rng(seed)
    if name == "random":
        return rng.random((n, n_dimensions))
    if name == "sobol":  # its balance needs a power of two
        return qmc.Sobol(n_dimensions, rng=rng).random_base2(max(n - 1, 0).bit_length())[:n]
    kind = qmc.Halton if name == "halton" else qmc.LatinHypercube
    return kind(n_dimensions, rng=rng).random(n)


def check_widths(
    widths: Mapping[str, float], space: SearchSpace | None, acq_func: str
) -> dict[str, float]:
    """Refuse widths of what is not searched, or that no acquisition function can use."""
    names = [] if space is None else [one.name for one in space.searched]
    for name, width in widths.items():
        if name not in names or not width > 0:
            message = f"widths must be positive, for parameters of {names}, got {name}: {width!r}"
            raise ValueError(message)
    if widths:
        check_member("acq_func with widths", acq_func, ("EI", "PI"))
    return dict(widths)
