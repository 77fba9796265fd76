"""Draw and describe which changes lead from the default configuration to the best one."""

from __future__ import annotations

from contextlib import suppress

import optuna
from matplotlib.axes import Axes

from hpo_lib.assessment.ablation import AblationPath, ablation_path
from hpo_lib.plots.study import importance_data
from hpo_lib.plots.style import BLUE, label, one_axes
from hpo_lib.space.values import Configuration
from hpo_lib.trials import recorded_trials, study_space, value_name


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
    is_path = isinstance(source, AblationPath)
    path = source if is_path else ablation_path(source, configuration=configuration)
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
    name = "value" if is_path else value_name(recorded_trials(source))
    ax.set(xlabel=f"predicted {name}", ylabel="changed so far, from the top")
    changes = "change" if path.n_needed == 1 else f"{path.n_needed} changes"
    verb = "earns" if path.n_needed == 1 else "earn"
    ax.set_title(
        f"the {changes} above the dotted line {verb} {path.share:.0%} of the predicted gain",
        fontsize=10,
    )
    return ax


def relevant_parameters(study: optuna.Study, k: int = 4) -> list[str]:
    """Return hyperparameters to look at: the first of the ablation path and of the importance.

    Where there are too few trials for both, those that come first in the space.

    Args:
        study: a study that minimises.
        k: how many; fewer where fewer are searched.
    """
    importance: list[str] = []
    ablation: list[str] = []
    with suppress(ValueError):
        importance = list(importance_data(study).shares)
    with suppress(ValueError):
        ablation = [step.name for step in ablation_path(study).steps[1:]]

    # In turn, so that neither leaves out what the other calls most relevant.
    merged: list[str] = []
    searched = [parameter.name for parameter in study_space(study).searched]
    for rank in range(len(searched)):
        merged += [*ablation[rank : rank + 1], *importance[rank : rank + 1]]
    merged += searched
    return list(dict.fromkeys(merged))[:k]


def describe_relevance(study: optuna.Study) -> str:
    """Say whether importance and ablation path name the same hyperparameter first.

    Args:
        study: a study that minimises.
    """
    try:
        shares = importance_data(study).shares
        path = ablation_path(study)
    except ValueError as error:
        return f"Importance and ablation cannot be compared: {error}."

    first = next(iter(shares))
    changed = [step.name for step in path.steps[1:]]
    text = f"Importance ranks {first} first ({shares[first]:.0%})"
    if not changed:
        return f"{text}; the best configuration is the default, so there is no ablation path."
    if changed[0] == first:
        return f"{text}, and the ablation path begins with it, too: both answers agree."
    return (
        f"{text}, the ablation path {changed[0]}: the answers differ, because the questions do. "
        f"The trials with good values share their {first}; the search chose these trials itself, "
        f"so that may be a habit of the search. Changing {changed[0]} alone is predicted to "
        "improve the default most."
    )
