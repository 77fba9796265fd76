"""Show a study to scikit-optimize, whose plots then draw it."""

from __future__ import annotations

from typing import Any

import optuna
from scipy.optimize import OptimizeResult
from skopt.space import Dimension
from skopt.utils import create_result, normalize_dimensions

from hpo_lib.plots.style import label
from hpo_lib.samplers.skopt_sampler import fit_process
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.skopt_space import skopt_dimension
from hpo_lib.space.values import Value
from hpo_lib.trials import recorded_trials, study_space


def skopt_result(study: optuna.Study) -> OptimizeResult:
    """Return a study as the result that scikit-optimize makes of a search.

    `skopt.plots` draws it: `plot_convergence`, `plot_evaluations`, `plot_objective`. It has the
    study's own trials with a usable value; an inactive parameter shows its default. Names and
    options are as `label` makes them fit a figure.

    Raises:
        ValueError: no trial has such a value.
        StudyError: another program made the study, which has no search space.

    Example:
        >>> import skopt.plots
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> study = run_study(
        ...     lambda c: c["x"] ** 2, space, "random", 5, name="toy", storage="memory", workers=0
        ... )
        >>> skopt.plots.plot_convergence(skopt_result(study)).get_xlabel()
        'Number of calls $n$'
    """
    trials = [trial for trial in recorded_trials(study) if trial.is_own and trial.has_usable_value]
    if not trials:
        message = f"study {study.study_name!r} must have a trial with a value, got none"
        raise ValueError(message)

    # skopt knows no inactive parameters: they show their default.
    searched = study_space(study).searched
    space = normalize_dimensions([_dimension(parameter) for parameter in searched])
    rows: list[list[Any]] = []
    for trial in trials:
        values = [trial.configuration.get(p.name, p.default) for p in searched]
        rows.append([_readable(value) for value in values])
    errors = [trial.final_value for trial in trials]
    result = create_result(rows, errors, space, specs={"function": "run_study"})

    # plot_objective draws the last of the models.
    result.models = [fit_process(space, rows, errors, "bayes")]
    return result


def _readable(value: Value) -> Value:
    """Return a value that figures show as plain text."""
    return label(value, 200) if isinstance(value, str) else value


def _dimension(parameter: Parameter) -> Dimension:
    """Return a parameter as a dimension, whose name and options are fit for a figure."""
    texts: dict[str, Any] = {"name": label(parameter.name)}
    if isinstance(parameter, ChoiceParameter):
        texts["options"] = tuple(map(_readable, parameter.options))
    return skopt_dimension(parameter.model_copy(update=texts))
