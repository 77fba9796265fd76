"""scikit-optimize's `gp_minimize`, with a durable, parallel study underneath."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
import skopt
from scipy.optimize import OptimizeResult
from sklearn.utils import check_random_state
from skopt.callbacks import VerboseCallback, check_callback
from skopt.space import Categorical, Integer, Real
from skopt.utils import create_result, eval_callbacks, normalize_dimensions

from hpo_lib.checks import check_member, check_name, check_whole
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import FunctionObjective, Segment, SegmentResult
from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.samplers.skopt_sampler import SkoptSampler, fit_process
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.study.stopping import RULES
from hpo_lib.study.storage import Storage
from hpo_lib.study.workers.local import Workers
from hpo_lib.trials import is_usable_value, recorded_trials

SURROGATES = {"bayes": BayesSampler, "skopt": SkoptSampler}
_INSTEAD = {
    "base_estimator": 'choose surrogate="bayes" or "skopt"',
    "n_random_starts": "use n_initial_points",
    "space_constraint": "give a SearchSpace with conditions (when)",
}


def gp_minimize(
    func: Callable[[Any], float],
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
    name: str | None = None,
    storage: Storage | None = None,
    workers: int | Workers = 0,
    surrogate: str = "bayes",
    **unsupported: Any,
) -> OptimizeResult:
    """Minimise `func` as `skopt.gp_minimize` does, by the same arguments.

    A call that raises or returns no finite number is recorded, avoided from then on, and left out
    of the result, as are numbers beyond 1e150; five failures in a row end the search.

    Args:
        func: gets a list of values; with a `SearchSpace` a configuration (dict).
        dimensions: skopt dimensions, or a `SearchSpace`.
        n_calls: how often `func` is called, for `x0` without `y0` and the initial points too.
        n_initial_points: calls before the model takes over, those for `x0` not counted.
        initial_point_generator: "random", "sobol", "lhs", "halton"; None is the surrogate's own.
        acq_func: "gp_hedge", "EI", "LCB", "PI"; None is the surrogate's own.
        x0: one point or several to begin with, as lists, or as dicts with a `SearchSpace`.
        y0: their known values: they are evidence, and `func` is not called for them.
        random_state: a seed or a RandomState; None is 0 for a named study, else a random seed.
        verbose: whether to print a line per call.
        callback: called with the result so far (without models) after each call, and before the
            first one where there is any; True stops. Rules of `stopping` are callbacks, too.
        xi: the improvement that EI and PI ask for; None is the surrogate's own.
        kappa: the weight of the standard deviation in LCB.
        n_jobs: changes nothing; it is `workers` that evaluates in parallel.
        name: of the study, for a record that outlives this process: the same call resumes it.
        storage: where a named study is recorded; default `results/studies.db`.
        workers: as in `run_study`.
        surrogate: "bayes" (ours) or "skopt" (scikit-optimize's own model and defaults).
        **unsupported: other arguments of skopt's; all but their defaults are refused.

    Returns:
        What skopt returns, with one model, fitted to all values, and with `configuration`, the
        best one as a dict. Inactive parameters of a `SearchSpace` show their default.
    """
    arguments = dict(locals())
    _refuse(unsupported)
    run = _Run.read(dimensions, x0, y0, arguments)
    n_calls = check_whole("n_calls, the third argument,", n_calls)
    n_initial_points = check_whole("n_initial_points", n_initial_points)
    _check(n_calls, n_initial_points, run, name, storage)
    check_member("surrogate", surrogate, SURROGATES)
    unseeded = name is not None and random_state is None
    rng = check_random_state(0 if unseeded else random_state)
    seed = int(rng.randint(2**31 - 1))
    own = ("acq_func", "initial_point_generator", "xi", "kappa")
    options = {key: arguments[key] for key in own if arguments[key] is not None}
    options |= {"n_initial_points": n_initial_points}
    recorded = {**options, "first": run.first, "given": run.given}
    x0 = run.first or [configuration for configuration, _ in run.given]
    known_values = [value for _, value in run.given] or None
    given = check_callback(callback)
    stop = [one for one in given if isinstance(one, RULES)]
    callbacks = [one for one in given if not isinstance(one, RULES)]
    if verbose:
        counts = {"n_init": len(run.first), "n_random": n_initial_points}
        callbacks.append(VerboseCallback(n_calls, **counts))
    first_asked = iter([callbacks])  # before any new call: a study that they stopped stays so
    study = run_study(
        _Call(func, names=run.names, options=recorded),
        run.space,
        SURROGATES[surrogate](seed, run.space, x0=x0, y0=known_values, **options),
        n_calls,
        name=name or "gp_minimize",
        storage=storage if name else "memory",
        seed=seed,
        workers=workers,
        default_first=False,
        callback=lambda study, _: run.why_stopped(callbacks, study) is not None,
        stop=[*stop, lambda study: run.why_stopped(next(first_asked, ()), study)],
    )
    return run.final_result(study, seed, surrogate)


@dataclass(frozen=True)
class _Call(FunctionObjective):
    """A function of a list of values, in the order of `names`; of a configuration if None."""

    names: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: {})

    @property
    def settings(self) -> dict[str, Any]:
        """The function's name, and what a call must repeat to resume."""
        return {**super().settings, **self.options}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Call the function once."""
        names = self.names
        if names is None:
            return super().__call__(configuration, segment)
        function: Callable[[Any], float] = self.function
        listed = FunctionObjective(lambda values: function([values[n] for n in names]))
        return listed(configuration, segment)


@dataclass(frozen=True)
class _Run:
    """What is searched, from where, and its result; `drawn` is the space as skopt draws it."""

    space: SearchSpace
    drawn: Any
    names: tuple[str, ...] | None
    first: list[Configuration]
    given: list[tuple[Configuration, float]]
    arguments: dict[str, Any]

    @classmethod
    def read(cls, dimensions: Any, x0: Any, y0: Any, arguments: dict[str, Any]) -> _Run:
        if isinstance(dimensions, SearchSpace):
            space, names = dimensions, None
            drawn = normalize_dimensions([_dimension(one) for one in space.searched])
        else:
            _refuse({"space_constraint": getattr(dimensions, "constraint", None)})
            drawn = normalize_dimensions(copy.deepcopy(dimensions))  # skopt writes into it
            space = _search_space(drawn)
            names = space.names
        points = [space.check(point) for point in _points(x0, [p.name for p in space.searched])]
        given = _given(points, y0)
        return cls(space, drawn, names, [] if given else points, given, arguments)

    def result(self, study: optuna.Study) -> OptimizeResult | None:
        """The result so far; None before the first value."""
        trials = [trial for trial in recorded_trials(study) if trial.value is not None]
        calls = [*self.given, *((t.configuration, cast("float", t.value)) for t in trials)]
        calls = [call for call in calls if is_usable_value(call[1])]
        if not calls:
            return None
        defaults = {one.name: one.default for one in self.space.searched}
        rows = [[{**defaults, **c}[name] for name in defaults] for c, _ in calls]
        specs = {"args": self.arguments, "function": "gp_minimize"}
        values = [value for _, value in calls]
        made = create_result(rows, values, self.drawn, specs=specs, models=[])
        made.configuration = min(calls, key=lambda call: call[1])[0]
        return made

    def final_result(self, study: optuna.Study, seed: int, surrogate: str) -> OptimizeResult:
        """The result with its model."""
        made = self.result(study)
        if made is None:
            reasons = [trial.record.reason for trial in recorded_trials(study)]
            message = f"no call of func returned a finite number: {reasons}"
            raise StudyError(message)
        made.models = [fit_process(self.drawn, made.x_iters, made.func_vals, surrogate)]
        made.random_state = check_random_state(seed)
        return made

    def why_stopped(self, callbacks: Sequence[Any], study: optuna.Study) -> str | None:
        """Let the callbacks see the result so far; the reason if one of them stops the search."""
        made = self.result(study) if callbacks else None
        stops = made is not None and eval_callbacks(callbacks, made)
        return "stopped by the callback" if stops else None


def _refuse(unsupported: Mapping[str, Any]) -> None:
    known = inspect.signature(skopt.gp_minimize).parameters
    for key, value in unsupported.items():
        if key not in known:
            message = f"gp_minimize got an unexpected keyword argument {key!r}"
            raise TypeError(message)
        if value is not known[key].default and value != known[key].default:
            instead = _INSTEAD.get(key, f"leave it out, or use skopt.gp_minimize for {key}")
            message = f"{key} is not supported, got {value!r}: {instead}"
            raise ValueError(message)


def _check(n_calls: int, n_initial_points: int, run: _Run, name: str | None, storage: Any) -> None:
    if name is not None:
        check_name(name)
    first = len(run.first)
    if n_initial_points < 0 or n_initial_points + first + len(run.given) < 1:
        message = f"n_initial_points must be positive where there is no x0, got {n_initial_points}"
        raise ValueError(message)
    if n_calls < max(n_initial_points + first, 1):
        message = (
            f"n_calls must be at least n_initial_points = {n_initial_points} and the points of x0 "
            f"to evaluate = {first} together, got {n_calls}"
        )
        raise ValueError(message)
    if storage is not None and name is None:
        message = f"storage needs the name of a study, got storage={storage!r} and name=None"
        raise ValueError(message)


def _points(x0: Any, names: Sequence[str]) -> list[Configuration]:
    if x0 is not None and not hasattr(x0, "__len__"):
        message = f"x0 must be one point or several, as lists, got {x0!r}"
        raise ValueError(message)
    if x0 is None or len(x0) == 0:
        return []
    single = isinstance(x0, Mapping) or not isinstance(x0[0], (list, tuple, Mapping))
    points: list[Configuration] = []
    for point in [x0] if single else x0:
        if not isinstance(point, Mapping) and len(point) != len(names):
            message = f"x0 must have {len(names)} values per point, got {point!r}"
            raise ValueError(message)
        named = point if isinstance(point, Mapping) else zip(names, point, strict=True)
        points.append(dict(named))
    return points


def _given(points: Sequence[Configuration], y0: Any) -> list[tuple[Configuration, float]]:
    if y0 is None:
        return []
    values = [float(value) for value in (y0 if hasattr(y0, "__len__") else [y0])]
    if len(values) != len(points) or not all(map(is_usable_value, values)):
        message = f"y0 must be finite (< 1e150) for each of {len(points)} points x0, got {y0!r}"
        raise ValueError(message)
    return list(zip(points, values, strict=True))


def _search_space(drawn: Any) -> SearchSpace:
    parameters = {one.name or f"x{i}": _parameter(one) for i, one in enumerate(drawn)}
    if len(parameters) < len(drawn.dimensions):
        message = f"dimensions must have different names, got {drawn.dimension_names}"
        raise ValueError(message)
    return SearchSpace.from_dict(parameters)


def _parameter(dimension: Any) -> dict[str, Any]:
    if isinstance(dimension, Categorical):
        if dimension.prior is not None:
            message = f"a prior of categories is not supported, got {dimension}"
            raise ValueError(message)
        return {"type": "choice", "options": list(dimension.categories)}
    kind = "int" if isinstance(dimension, Integer) else "float"
    log = dimension.prior == "log-uniform"
    return {"type": kind, "low": dimension.low, "high": dimension.high, "log": log}


def _dimension(parameter: Any) -> Any:
    if parameter.type == "choice":
        return Categorical(parameter.options, name=parameter.name)
    kind = Integer if parameter.type == "int" else Real
    prior = "log-uniform" if parameter.log else "uniform"
    return kind(parameter.low, parameter.high, prior, name=parameter.name)
