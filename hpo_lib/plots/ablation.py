"""Draw and describe which changes lead from the default configuration to the best one."""

from __future__ import annotations

from contextlib import suppress

import optuna
from matplotlib.axes import Axes

from hpo_lib.assessment.ablation import AblationPath, ablation_path
from hpo_lib.assessment.evidence import join
from hpo_lib.formatting import count
from hpo_lib.plots.study import importance_data
from hpo_lib.plots.style import BLUE, label, one_axes
from hpo_lib.space.values import Configuration
from hpo_lib.trials import study_space


def plot_ablation(
    source: optuna.Study | AblationPath,
    configuration: Configuration | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the predicted value after each change from the default to the best configuration.

    The change that lowers the surrogate's prediction most comes first. Bars are one standard
    deviation of the prediction; the grey line is where the best configuration is as good as
    another within that uncertainty.

    Args:
        source: a study, or what `ablation_path` returns.
        configuration: where the path of a study ends; default: the incumbent's.
        ax: axes to draw into; default: a new figure.

    Raises:
        ValueError: the study has too few trials to fit a surrogate.
    """
    path = source
    if not isinstance(path, AblationPath):
        path = ablation_path(path, configuration=configuration)
    names: list[str] = []
    for step in path.steps:
        text = f"{label(step.name, 20)} = {label(step.value, 12)}"
        names.append(text if step.name else "default")

    ax = one_axes(ax, 7.0, 1.4 + 0.35 * len(names))
    rows = range(len(names))
    means = [step.mean for step in path.steps]
    ax.errorbar(
        means,
        rows,
        xerr=[step.std for step in path.steps],
        color=BLUE,
        marker="o",
        capsize=3,
    )
    ax.axhline(path.n_needed + 0.5, color="0.6", linestyle=":")
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.set(xlabel=f"predicted {path.value_name}", ylabel="changed so far, from the top")
    changes = count(path.n_needed, "change")
    title = f"{changes} above the dotted line: {path.share:.0%} of the predicted gain"
    ax.set_title(title, fontsize=10)
    return ax


def relevant_parameters(
    study: optuna.Study,
    k: int = 4,
    path: AblationPath | None = None,
) -> list[str]:
    """Return hyperparameters to look at: the first of the ablation path and of the importance.

    Where there are too few trials for both, those that come first in the space.

    Args:
        study: a study that minimises.
        k: how many; fewer where fewer are searched.
        path: its ablation path; default: the one to the incumbent.
    """
    importance: list[str] = []
    ablation: list[str] = []
    with suppress(ValueError):
        importance = list(importance_data(study).shares)
    with suppress(ValueError):
        ablation = _changed(path or ablation_path(study))

    # In turn, so that neither leaves out what the other calls most relevant.
    merged: list[str] = []
    searched = [parameter.name for parameter in study_space(study).searched]
    for rank in range(len(searched)):
        merged += [*ablation[rank : rank + 1], *importance[rank : rank + 1]]
    merged += searched
    return list(dict.fromkeys(merged))[:k]


def describe_relevance(study: optuna.Study, path: AblationPath | None = None) -> str:
    """Say which two hyperparameters matter most, if importance and ablation path agree.

    Args:
        study: a study that minimises.
        path: its ablation path; default: the one to the incumbent.
    """
    try:
        importance = importance_data(study)
        changed = _changed(path or ablation_path(study))[:2]
    except ValueError as error:
        return f"Which two matter most cannot be said: {error}."

    if not changed:
        return "The best configuration is the default, so no change can be said to matter."
    first = list(importance.shares)[:2]
    both = [name for name in changed if name in first]
    if len(both) == 2:
        return f"Importance and ablation name the same two first: {join(both)} matter most."

    text = (
        f"Which two matter most cannot be said from {importance.n} trials: importance puts "
        f"{join(first)} first, ablation {join(changed)}."
    )
    return f"{text} Both name {both[0]}." if both else text


def _changed(path: AblationPath) -> list[str]:
    return [step.name for step in path.steps[1:]]
