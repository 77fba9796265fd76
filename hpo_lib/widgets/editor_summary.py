"""Describe an edited search space: sizes, cost, priors, draws, and what saving would change."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from html import escape
from pathlib import Path

import numpy as np
import optuna
from jinja2 import Template

from hpo_lib.comparison.studies import differing_parameters
from hpo_lib.formatting import count, format_value, line_differences
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.yaml_io import read_yaml
from hpo_lib.trials import (
    StudyRecord,
    own_trials,
    recorded_trials,
    study_name,
)

# Bars of a prior, and the height and width of the picture in pixels.
_BINS = 24
_HEIGHT = 18
_WIDTH = 96

_QUANTILES = 240
_DRAWS = 5

_SAMPLES = Template(
    """<table>
<tr><th></th><th>prior</th><th>default</th>
{% for _ in draws[1:] %}<th>draw {{ loop.index }}</th>{% endfor %}</tr>
{% for parameter in space %}
<tr><th>{{ parameter.name }}</th><td>{{ prior_shape(parameter) | safe }}</td>
{% for draw in draws %}<td>{{ format_value(draw.get(parameter.name, "–")) }}</td>{% endfor %}</tr>
{% endfor %}
</table>""",
    autoescape=True,
)


def describe_size(space: SearchSpace) -> str:
    """Return one line: how many hyperparameters, configurations and grid points there are."""
    size = "infinitely many" if space.size is None else f"{space.size:,}"
    return (
        f"{len(space)} hyperparameters, {len(space.searched)} searched"
        f" · {size} configurations · grid of 3 points: {space.grid_size(3):,}"
    )


def trial_seconds(study: optuna.Study) -> list[float]:
    """Return the seconds of training of each completed trial of a study's own."""
    return [trial.training_seconds for trial in own_trials(study) if trial.is_completed]


def describe_cost(
    n_trials: int,
    workers: int,
    seconds_per_trial: float | None = None,
    study: optuna.Study | None = None,
) -> str:
    """Return one line of HTML: about how long a study takes.

    Args:
        n_trials: the study's budget.
        workers: how many trials run at once.
        seconds_per_trial: seconds of training, used where no trial is recorded.
        study: its completed trials tell the mean seconds.
    """
    recorded = [] if study is None else trial_seconds(study)
    source = "as estimated"
    if recorded:
        seconds_per_trial = float(np.mean(recorded))
        source = f"from {len(recorded)} recorded trials"

    budget = f"{count(n_trials, 'trial')} on {count(workers, 'worker')}"
    if seconds_per_trial is None:
        return f"{budget}: no trial is recorded that tells the seconds"

    # Workers train in rounds, the last of which may not need all.
    seconds = seconds_per_trial * math.ceil(n_trials / workers)
    total = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"
    return (
        f"{budget}: about <b>{total} s</b> of training ({seconds_per_trial:.2g} s each, {source})"
    )


def warm_start_count(study: optuna.Study, space: SearchSpace) -> tuple[int, int]:
    """Return how many completed trials lie inside a space, and how many there are.

    Args:
        study: the trials inside are what `run_study(..., warm_start_from=study.study_name)` takes.
        space: the space of a new study.
    """
    ended = [trial.as_evidence() for trial in recorded_trials(study)]
    trials = [trial for trial in ended if trial.is_completed]
    inside = sum(space.contains(trial.configuration) for trial in trials)
    return inside, len(trials)


def is_space_of(study: optuna.Study, space: SearchSpace) -> bool:
    """Return whether a study is recorded with a space."""
    return StudyRecord.of(study).space == space.to_yaml(comments=False)


def describe_warm_start(study: optuna.Study, space: SearchSpace) -> str:
    """Return one line of HTML: what the trials of a study are worth in a space.

    Args:
        study: a recorded study.
        space: the edited space.
    """
    name = repr(study_name(study))
    if is_space_of(study, space):
        return escape(f"Study {name} was recorded with this very space and can go on.")

    inside, n_trials = warm_start_count(study, space)
    text = f"{inside} of the {n_trials} trials of study {name} lie inside. It goes on with them: "
    text = escape(text) + "<i>Continue with this space</i>, or "
    text += "<code>run_study(…, change_space=True)</code>; a new study takes them: "
    call = f"run_study(…, warm_start_from={name})"
    return f"{text}<code>{escape(call)}</code>"


def describe_change(study: optuna.Study, space: SearchSpace) -> str:
    """Return HTML: what changes for a study that goes on in a space; empty where nothing does.

    Args:
        study: a recorded study.
        space: the edited space.
    """
    recorded = _read_space(StudyRecord.of(study).space or "")
    differences = differing_parameters({"- ": recorded, "+ ": space})
    lines = [
        f"{sign}{name}: {entry}"
        for name, entries in differences.iterrows()
        for sign, entry in entries.items()
        if entry
    ]
    if not lines:
        return ""
    name = escape(repr(study_name(study)))
    return f"<b>Continuing changes</b> study {name}:<pre>{escape(chr(10).join(lines))}</pre>"


# The same study is compared after each letter that is typed.
@lru_cache(maxsize=1)
def _read_space(text: str) -> SearchSpace:
    return SearchSpace.from_yaml(text)


def file_difference(space: SearchSpace, path: Path) -> list[str]:
    """Return the lines that saving would take out of a file (`- `) and put in (`+ `).

    Args:
        space: the space to be saved.
        path: a YAML file, which need not exist.

    Raises:
        ValueError: the file holds something else, which saving would destroy.
    """
    try:
        saved = path.read_text(encoding="utf-8") if path.exists() else ""
        is_space = _is_space(saved)
    except (OSError, ValueError):
        saved = ""
        is_space = False

    if not is_space:
        message = f"file must be new or hold a search space, got {path}, which holds neither"
        raise ValueError(message)

    return line_differences(saved, space.to_yaml())


# The same file is compared after each letter that is typed.
@lru_cache(maxsize=1)
def _is_space(text: str) -> bool:
    """Return whether YAML holds a space, mistakes included, or nothing yet."""
    content = read_yaml(text)[0] or {}
    if not isinstance(content, dict):
        return False
    return all(isinstance(body, dict) and "type" in body for body in content.values())


def describe_saving(space: SearchSpace, path: Path) -> str:
    """Return HTML: what saving changes, a warning where it is refused, or nothing.

    Args:
        space: the edited space.
        path: the file to save to.
    """
    try:
        changes = file_difference(space, path)
    except ValueError as error:
        return f"⚠ {escape(str(error))}"

    if not changes:
        return ""
    lines = escape("\n".join(changes))
    return f"<b>Saving changes</b> {escape(path.name)}:<pre>{lines}</pre>"


def sample_table(space: SearchSpace) -> str:
    """Return an HTML table: the prior, the default and five draws of each hyperparameter."""
    # The same draws after each edit, so that only the edit is seen.
    rng = np.random.default_rng(0)
    draws = [space.default_configuration()]
    draws += [space.sample(rng) for _ in range(_DRAWS)]
    return _SAMPLES.render(
        space=space,
        draws=draws,
        prior_shape=prior_shape,
        format_value=partial(format_value, digits=4),
    )


def prior_shape(parameter: Parameter) -> str:
    """Return SVG: how often values of each part of the range are drawn, from `low` to `high`."""
    if parameter.fixed is not None:
        return "fixed"

    # The highest bar is one pixel lower than the picture.
    counts = np.array(_prior_heights(parameter))
    heights = (_HEIGHT - 1) * counts / counts.max()
    width = _WIDTH / len(heights)
    gap = 1 if len(heights) < _BINS else 0

    bars = ""
    for i in np.flatnonzero(heights):
        bars += (
            f"<rect x='{i * width:.1f}' y='{_HEIGHT - heights[i]:.1f}'"
            f" width='{width - gap:.1f}' height='{heights[i]:.1f}'/>"
        )

    title = escape(f"prior of {parameter.name}", quote=True)
    return (
        f'<svg role="img" aria-label="{title}" width="{_WIDTH}" height="19" fill="#0072b2">{bars}'
        f'<path d="M0 18.5H{_WIDTH}" stroke="currentColor"/></svg>'
    )


def _prior_heights(parameter: Parameter) -> list[int]:
    """Count draws by value where these are few, else by parts of the range of equal width."""
    # Equally spaced quantiles stand for draws.
    draws = [parameter.from_unit((k + 0.5) / _QUANTILES) for k in range(_QUANTILES)]
    is_choice = isinstance(parameter, ChoiceParameter)
    if is_choice or (parameter.count is not None and parameter.count <= _BINS):
        return [draws.count(value) for value in parameter.grid_values(_BINS)]

    extent = (parameter.low, parameter.high)
    counts, _ = np.histogram(np.array(draws, dtype=float), _BINS, extent)
    return counts.tolist()
