"""Compare studies that are recorded already: as a comparison, and by their search spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
import pandas as pd

from hpo_lib.comparison.run import comparison_frame
from hpo_lib.space.parameters import Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.yaml_io import yaml_line
from hpo_lib.trials import study_space

Studies = Mapping[str, optuna.Study | Sequence[optuna.Study]]
"""A study by its label, or several that differ in their seed alone."""

Spaces = Mapping[str, optuna.Study | SearchSpace | Sequence[optuna.Study]]
"""A space by its label, or the study or studies that were run in it."""


def compare_studies(studies: Studies) -> pd.DataFrame:
    """Return recorded studies as a comparison, for the figures and tests that take one.

    Args:
        studies: by its label a study, or several that differ in their seed alone. The first ones
            of all labels are paired, then the second ones, and so on.

    Returns:
        The rows that `compare` returns, with the label as the strategy.

    Raises:
        ValueError: there is no study.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
        >>> options = {"storage": "memory", "workers": 0, "progress": False}
        >>> study = run_study(lambda c: c["lr"] ** 2, space, "random", 5, name="a", **options)
        >>> frame = compare_studies({"wide": study})
        >>> frame["best"].iloc[-1] == study.best_value
        True
    """
    frames = [
        comparison_frame(study, name, seed)
        for name, several in _grouped(studies).items()
        for seed, study in enumerate(several)
    ]
    joined = pd.concat(frames, ignore_index=True)
    joined.attrs.update(frames[0].attrs)
    return joined


def space_differences(studies: Spaces) -> pd.DataFrame:
    """Return the hyperparameters that differ between search spaces, or the spaces of studies.

    Args:
        studies: as for `compare_studies`; of several studies the first one stands for all. A
            space stands for itself.

    Returns:
        The parameters in the rows, the studies in the columns: an entry of the space's YAML
        form, empty where a space lacks the parameter.

    Raises:
        ValueError: there is no study.
        StudyError: another program made a study, which has no space.
    """
    spaces = {name: one for name, one in studies.items() if isinstance(one, SearchSpace)}
    others = {name: one for name, one in studies.items() if not isinstance(one, SearchSpace)}
    if others or not spaces:
        for name, several in _grouped(others).items():
            spaces[name] = study_space(several[0])

    lines: dict[str, dict[str, str]] = {}
    for name in studies:
        space = spaces[name]
        lines[name] = {parameter.name: _entry(parameter) for parameter in space}

    frame = pd.DataFrame(lines).fillna("")
    return frame.loc[frame.nunique(axis="columns") > 1, :]


def _entry(parameter: Parameter) -> str:
    return yaml_line("_", parameter.to_dict()).removeprefix("_: ").rstrip()


def _grouped(studies: Studies) -> dict[str, list[optuna.Study]]:
    """Return a list of studies for each label."""
    grouped = {
        name: [one] if isinstance(one, optuna.Study) else list(one)
        for name, one in studies.items()
    }
    if not grouped or not all(grouped.values()):
        message = f"studies must hold a study for each label, got {grouped}"
        raise ValueError(message)
    return grouped
