"""Run scikit-optimize's `gp_minimize` with a durable, parallel study underneath."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
import skopt
from scipy.optimize import OptimizeResult
from sklearn.utils import check_random_state
from skopt.callbacks import VerboseCallback, check_callback
from skopt.utils import create_result, eval_callbacks

from hpo_lib.checks import check_member, check_name, check_whole
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import FunctionObjective, Segment, SegmentResult
from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.samplers.skopt_sampler import SkoptSampler, fit_process
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.skopt_space import SkoptSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.run import run_study
from hpo_lib.study.stopping import RULES
from hpo_lib.study.storage import Storage, storage_name
from hpo_lib.study.workers.base import Workers
from hpo_lib.trials import own_trials

SURROGATES = {"bayes": BayesSampler, "skopt": SkoptSampler}

_IGNORED = ("acq_optimizer", "n_points", "n_restarts_optimizer", "model_queue_size", "noise")
"""Arguments of skopt that say how it fits and searches its model: ours does so in its own way."""

_ALTERNATIVES = {
    "base_estimator": 'choose surrogate="bayes" or "skopt"',
    "space_constraint": "give a SearchSpace with conditions (when)",
}


def gp_minimize(  # noqa: PLR0913 those of skopt
    func: Callable[[Any], Any],
    dimensions: SearchSpace | Sequence[Any],
    n_calls: int = 100,
    *,
    n_initial_points: int = 10,
    initial_point_generator: str | None = None,
    acq_func: str | None = None,
    x0: Sequence[Any] | Configuration | None = None,
    y0: Sequence[float] | float | None = None,
    random_state: Any = None,
    verbose: bool = False,
    callback: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    xi: float | None = None,
    kappa: float | None = None,
    n_jobs: int = 1,
    n_random_starts: int | None = None,
    name: str | None = None,
    storage: Storage | None = None,
    workers: int | Workers = 0,
    surrogate: str = "bayes",
    **skopt_arguments: Any,
) -> OptimizeResult:
    """Minimise `func` as `skopt.gp_minimize` does, by the same arguments.

    A call that raises or returns no finite number is recorded, avoided from then on, and left out
    of the result with a warning; five failures in a row end the search.

    Args:
        func: gets a list of values; with a `SearchSpace` a configuration (dict). Returns a
            number; with "EIps" also a pair of a number and the seconds that it cost.
        dimensions: skopt dimensions, or a `SearchSpace`.
        n_calls: how often `func` is called, for `x0` without `y0` and the initial points too.
        n_initial_points: calls before the model takes over, those for `x0` not counted.
        initial_point_generator: "random", "sobol", "lhs", "halton"; None is the surrogate's own.
        acq_func: "gp_hedge", "EI", "LCB", "PI"; with "bayes" also "EIps", the improvement per
            second; None is the surrogate's own.
        x0: one point or several to begin with, as lists, or as dicts with a `SearchSpace`.
        y0: their known values: the model is fitted to them, and `func` is not called for them.
        random_state: a seed or a RandomState; None is 0 for a named study, else a random seed.
        verbose: whether to print a line per call.
        callback: called with the result so far (without models) after each call, and before the
            first one where there is any; True stops. Rules of `stopping` are callbacks, too.
        xi: the improvement that EI and PI ask for; None is the surrogate's own.
        kappa: the weight of the standard deviation in LCB.
        n_jobs: changes nothing; it is `workers` that evaluates in parallel.
        n_random_starts: older name of `n_initial_points`.
        name: of the study, for a record that outlives this process: the same call resumes it.
        storage: where a named study is recorded; default `results/studies.db`.
        workers: as in `run_study`.
        surrogate: "bayes" (ours) or "skopt" (scikit-optimize's own model and defaults).
        **skopt_arguments: other arguments of skopt's. `acq_optimizer`, `n_points`,
            `n_restarts_optimizer`, `model_queue_size` and `noise` are ignored with a warning, the
            others are refused, unless they have their default.

    Returns:
        What skopt returns, with one model, fitted to all values, and with `configuration`, the
        best one as a dict. Inactive parameters of a `SearchSpace` show their default.

    Raises:
        ValueError: an argument is not supported, or not as it must be.
        StudyStoppedError: five calls failed in a row.
        StudyError: no call returned a finite number; or as in `run_study`.

    Example:
        >>> from hpo_lib import gp_minimize
        >>> def cost(x):
        ...     return (x[0] - 0.3) ** 2 + x[1]
        >>> result = gp_minimize(
        ...     cost, [(0.0, 1.0), (0, 5)], n_calls=8, n_initial_points=5, random_state=0
        ... )
        >>> len(result.x_iters)
        8
        >>> bool(result.fun == cost(result.x))
        True
    """
    # First of all, while there are no other local variables: skopt records the arguments.
    arguments = dict(locals())
    arguments |= arguments.pop("skopt_arguments")

    # Check the arguments before anything is spent.
    _check_name(name, storage)
    _check_skopt_arguments(skopt_arguments)
    _check_skopt_arguments({"space_constraint": getattr(dimensions, "constraint", None)})
    skopt_space = SkoptSpace.read(dimensions)
    points = skopt_space.read_points(x0)
    values = _read_values(y0)
    n_calls = check_whole("n_calls, the third argument,", n_calls)
    if n_random_starts is not None:
        n_initial_points = n_random_starts
    n_initial_points = check_whole("n_initial_points", n_initial_points)
    n_x0_to_evaluate = len(points) if values is None else 0
    _check_counts(n_calls, n_initial_points, len(points), n_x0_to_evaluate)
    check_member("surrogate", surrogate, SURROGATES)

    # A named study is resumed by the same call: its seed must not be random.
    is_unseeded = name is not None and random_state is None
    rng = check_random_state(0 if is_unseeded else random_state)
    seed = int(rng.randint(2**31 - 1))
    options: dict[str, Any] = {"n_initial_points": n_initial_points}
    for option in ("acq_func", "initial_point_generator", "xi", "kappa"):
        if arguments[option] is not None:  # else it is left to the sampler's own default
            options[option] = arguments[option]
    sampler = SURROGATES[surrogate](seed, skopt_space.space, **options, x0=points, y0=values)

    # the names under which studies of version 0.1.0 recorded x0 and y0
    known = list(zip(points, values or [], strict=False))
    recorded = {**options, "first": [] if known else points, "given": known}

    # Rules see the study, skopt's callbacks its result so far.
    results = _Results(skopt_space, known, arguments)
    functions = check_callback(callback)
    rules = [function for function in functions if isinstance(function, RULES)]
    callbacks = _Callbacks([f for f in functions if not isinstance(f, RULES)], results)
    if verbose:
        printer = VerboseCallback(n_calls, n_init=n_x0_to_evaluate, n_random=n_initial_points)
        callbacks.functions.append(printer)

    study = run_study(
        _PointFunction(func, skopt_space=skopt_space, options=recorded),
        skopt_space.space,
        sampler,
        n_calls,
        name=name or "gp_minimize",
        storage=storage if name else "memory",
        seed=seed,
        workers=workers,
        default_first=False,
        callback=lambda study, _: callbacks.stop_reason(study) is not None,
        stop=[*rules, callbacks.stop_reason_at_start],
        progress=False,
    )
    result = results.final(study, seed, surrogate)
    _warn_of_missing_calls(study, n_calls, is_exhausted=sampler.is_exhausted(study))
    return result


@dataclass(frozen=True)
class _PointFunction(FunctionObjective):
    """A function of a list of values or of a dict as an objective.

    Attributes:
        skopt_space: says which of both the function takes.
        options: recorded, because a call must repeat them to resume.
    """

    skopt_space: SkoptSpace = field(kw_only=True)
    options: Mapping[str, Any] = field(kw_only=True)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the function's name and the options."""
        return {**super().settings, **self.options}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Call the function once."""
        function: Callable[[Any], Any] = self.function
        space = self.skopt_space
        to_point = space.to_list if space.takes_lists else space.to_dict
        is_timed = self.options.get("acq_func") == "EIps"
        returned_seconds: list[float] = []

        def call(configuration: Configuration) -> Any:
            returned = function(to_point(configuration))
            # skopt's functions return (value, seconds) for "EIps"
            if is_timed and isinstance(returned, list | tuple) and len(returned) == 2:
                returned_seconds.append(float(returned[1]))
                return returned[0]
            return returned

        # The objective times and checks the call.
        result = FunctionObjective(call)(configuration, segment)
        if returned_seconds:
            return replace(result, seconds=tuple(returned_seconds))
        return result


@dataclass(frozen=True)
class _Results:
    """Makes skopt's result from the record of a study.

    Attributes:
        skopt_space: the search space.
        known: pairs of `x0` and `y0`, where there is a `y0`.
        arguments: of the call.
    """

    skopt_space: SkoptSpace
    known: Sequence[tuple[Configuration, float]]
    arguments: dict[str, Any]

    def so_far(self, study: optuna.Study) -> OptimizeResult | None:
        """Return the result without a model; None before the first usable value."""
        trials = [trial for trial in own_trials(study) if trial.has_usable_value]
        called: list[Any] = [(trial.configuration, trial.value) for trial in trials]
        if not self.known and not called:
            return None

        # Known values come before those of the calls, as in skopt.
        space = self.skopt_space
        configurations, values = zip(*self.known, *called, strict=True)
        result = create_result(
            [space.to_list(configuration) for configuration in configurations],
            list(values),
            space.dimensions,
            specs={"args": self.arguments, "function": "gp_minimize"},
            models=[],
        )

        # Fields beside those of skopt.
        result.configuration = space.to_dict(configurations[int(np.argmin(values))])
        if self.arguments["acq_func"] == "EIps":
            seconds = [trial.training_seconds for trial in trials]
            result.log_time = np.log([math.nan] * len(self.known) + seconds)
        return result

    def final(
        self,
        study: optuna.Study,
        seed: int,
        surrogate: str,
    ) -> OptimizeResult:
        """Return the result with its model.

        Args:
            study: the finished study.
            seed: seed of the result's random state.
            surrogate: kind of the model, as `fit_process` takes it.

        Raises:
            StudyError: no call of func returned a finite number.
        """
        result = self.so_far(study)
        if result is None:
            reasons = [trial.record.reason for trial in own_trials(study)]
            message = f"no call of func returned a finite number: {reasons}"
            raise StudyError(message)

        dimensions = self.skopt_space.dimensions
        result.models = [fit_process(dimensions, result.x_iters, result.func_vals, surrogate)]
        result.random_state = check_random_state(seed)
        return result


@dataclass
class _Callbacks:
    """Calls skopt's callbacks with the result so far."""

    functions: list[Any]
    results: _Results
    is_started: bool = False

    def stop_reason(self, study: optuna.Study) -> str | None:
        """Call the callbacks; return a reason if one of them stops the search."""
        result = self.results.so_far(study) if self.functions else None
        if result is not None and eval_callbacks(self.functions, result):
            return "stopped by the callback"
        return None

    def stop_reason_at_start(self, study: optuna.Study) -> str | None:
        """Call them once before any new call: what they stopped is not resumed."""
        if self.is_started:
            return None
        self.is_started = True
        return self.stop_reason(study)


def _check_skopt_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that mean nothing here, and warn of those that are ignored."""
    parameters = inspect.signature(skopt.gp_minimize).parameters
    ignored: list[str] = []
    for key, value in arguments.items():
        if key not in parameters:
            message = f"gp_minimize got an unexpected keyword argument {key!r}"
            raise TypeError(message)

        # A default changes nothing.
        default = parameters[key].default
        if value is default or value == default:
            continue

        if key not in _IGNORED:
            message = f"{key} is not supported, got {value!r}: {_ALTERNATIVES[key]}"
            raise ValueError(message)
        ignored.append(f"{key}={value!r}")

    if ignored:
        message = f"gp_minimize ignores {', '.join(ignored)}: its surrogates have their own way"
        warnings.warn(message, stacklevel=3)


def _check_counts(
    n_calls: int,
    n_initial_points: int,
    n_points: int,
    n_x0_to_evaluate: int,
) -> None:
    """Check the number of calls against those that `x0` and the initial points need."""
    if n_initial_points < 0 or n_initial_points + n_points < 1:
        message = f"n_initial_points must be positive where there is no x0, got {n_initial_points}"
        raise ValueError(message)

    if n_calls < max(n_initial_points + n_x0_to_evaluate, 1):
        message = (
            f"n_calls must be at least n_initial_points = {n_initial_points} and the points of x0 "
            f"to evaluate = {n_x0_to_evaluate} together, got {n_calls}"
        )
        raise ValueError(message)


def _check_name(name: str | None, storage: Storage | None) -> None:
    if name is not None:
        check_name(name)
    elif storage is not None:
        got = f"storage={storage_name(storage)!r} and name=None"
        message = f"storage needs the name of a study, got {got}"
        raise ValueError(message)


def _read_values(y0: Any) -> list[float] | None:
    """Return one value or several as a list; the sampler checks them."""
    if y0 is None:
        return None
    try:
        return [float(value) for value in (y0 if hasattr(y0, "__len__") else [y0])]
    except (TypeError, ValueError) as error:
        message = f"y0 must be one number for each point of x0, got {y0!r}"
        raise ValueError(message) from error


def _warn_of_missing_calls(
    study: optuna.Study,
    n_calls: int,
    *,
    is_exhausted: bool,
) -> None:
    """Warn of calls that failed, and of those that a finite space has no points for."""
    trials = own_trials(study)
    failed = [trial for trial in trials if not trial.has_usable_value]
    if failed:
        first = failed[0]
        message = (
            f"{len(failed)} of {len(trials)} calls failed and are left out of the result; the "
            f"first was call {first.number}: {first.record.reason}"
        )
        warnings.warn(message, stacklevel=3)
    if is_exhausted and len(trials) < n_calls:
        message = f"the search ended after {len(trials)} of {n_calls} calls: all points were tried"
        warnings.warn(message, stacklevel=3)
