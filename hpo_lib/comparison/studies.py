"""Compare studies that are recorded already: as a comparison, and by their search spaces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna.storages import BaseStorage

from hpo_lib.comparison.run import comparison_frame
from hpo_lib.space.parameters import Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.yaml_io import yaml_line
from hpo_lib.study.catalog import open_studies
from hpo_lib.study.storage import Storage, sqlite_path
from hpo_lib.trials import StudyRecord, study_name, study_space

Grouped = dict[str, list[optuna.Study]]
"""Studies of each label, which differ in their seed alone."""

Studies = (
    optuna.Study
    | Sequence[optuna.Study]
    | Mapping[str, optuna.Study | Sequence[optuna.Study]]
    | Storage
)
"""A study, a list of them, studies by label, or a storage or folder that holds them."""

_SEED = re.compile(r"[\W_]*(seed[\W_]*)?\d+$")
"""End of a name that tells the seeds of one strategy apart."""

_SEED_WORD = re.compile(r"[\W_]*seed[\W_]*\d+$")
"""End of a name that says so itself."""


def compare_studies(studies: Studies) -> pd.DataFrame:
    """Return recorded studies as a comparison, for the figures and tests that take one.

    In a list, a storage or a folder, those belong to one strategy whose records differ in the
    seed alone and whose names in the number at the end, as `compare` names them; they are in the
    order of their seeds.

    Args:
        studies: by its label a study, or several that differ in their seed alone; one study, or
            a list of them; a storage, as in `run_study`, or a folder with SQLite files. The first
            ones of all labels are paired, then the second ones, and so on.

    Returns:
        The rows that `compare` returns, with the label as the strategy. Trials that still run
        are left out.

    Raises:
        ValueError: there is no study.
        StudyError: the storage cannot be read.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
        >>> options = {"storage": "memory", "workers": 0, "progress": False}
        >>> study = run_study(lambda c: c["lr"] ** 2, space, "random", 5, name="a", **options)
        >>> frame = compare_studies({"wide": study})
        >>> bool(frame["best"].iloc[-1] == study.best_value)
        True
    """
    grouped = group_studies(studies)
    return join_frames(group_frame(label, several) for label, several in grouped.items())


def group_frame(label: str, studies: Iterable[optuna.Study]) -> pd.DataFrame:
    """Return the rows of a comparison for the studies of one label.

    Args:
        label: stands as the strategy.
        studies: they differ in their seed alone.
    """
    return join_frames(
        comparison_frame(
            study,
            label,
            seed,
        )
        for seed, study in enumerate(studies)
    )


def join_frames(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return comparisons as one, with the attributes of the first."""
    several = list(frames)
    joined = pd.concat(several, ignore_index=True)
    joined.attrs.update(several[0].attrs)
    return joined


def space_differences(studies: Studies) -> pd.DataFrame:
    """Return the hyperparameters that differ between the spaces of studies.

    Args:
        studies: as for `compare_studies`; of several studies the first one stands for all.

    Returns:
        The parameters in the rows, the studies in the columns: an entry of the space's YAML
        form, empty where a space lacks the parameter.

    Raises:
        ValueError: there is no study.
        StudyError: another program made a study, which has no space.
    """
    grouped = group_studies(studies)
    return differing_parameters({name: study_space(one[0]) for name, one in grouped.items()})


def differing_parameters(spaces: Mapping[str, SearchSpace]) -> pd.DataFrame:
    """Return the hyperparameters that differ between search spaces.

    Args:
        spaces: search spaces by the names of their columns.

    Returns:
        As of `space_differences`.
    """
    lines = {
        name: {parameter.name: _entry(parameter) for parameter in space}
        for name, space in spaces.items()
    }
    frame = pd.DataFrame(lines).fillna("")
    return frame.loc[frame.nunique(axis="columns") > 1, :]


def _entry(parameter: Parameter) -> str:
    return yaml_line("_", parameter.to_dict()).removeprefix("_: ").rstrip()


def group_studies(studies: Studies) -> Grouped:
    """Return a list of studies for each label, as `compare_studies` describes it.

    Raises:
        ValueError: there is no study.
        StudyError: the storage cannot be read.
    """
    if isinstance(studies, optuna.Study):
        studies = [studies]
    if isinstance(studies, str | Path | BaseStorage):
        grouped = _group_by_seed(_stored(studies))
    elif isinstance(studies, Mapping):
        grouped = {
            name: [one] if isinstance(one, optuna.Study) else list(one)
            for name, one in studies.items()
        }
    else:
        grouped = _group_by_seed(studies)

    if not grouped or not all(grouped.values()):
        message = f"studies must hold a study for each label, got {grouped}"
        raise ValueError(message)
    return grouped


def _stored(storage: Storage) -> list[optuna.Study]:
    """Return the studies of a storage, or of all SQLite files of a folder."""
    path = sqlite_path(storage)
    if path is None or not path.is_dir():
        return open_studies(storage)

    studies: list[optuna.Study] = []
    for file in sorted(path.glob("*.db")):
        studies += open_studies(file)
    return studies


def _group_by_seed(studies: Iterable[optuna.Study]) -> Grouped:
    families: dict[str, list[tuple[int, optuna.Study]]] = {}
    for study in studies:
        record = StudyRecord.of(study)
        settings = dict(record.settings)
        seed = settings.pop("seed", -1)
        stem = _SEED.sub("", study_name(study))
        family = json.dumps([stem, record.space, settings], sort_keys=True)
        families.setdefault(family, []).append((seed, study))

    grouped: Grouped = {}
    for family in families.values():
        # The same seed twice is a repetition, and no further evidence.
        n_seeds = len({seed for seed, _ in family})
        if n_seeds == len(family) > 1:
            ordered = [study for _, study in sorted(family, key=lambda member: member[0])]
            name = study_name(ordered[0])
            stem = _SEED.sub("", name) or name
            grouped[_free_label(stem, grouped)] = ordered
            continue
        for _, study in family:
            name = study_name(study)
            label = _SEED_WORD.sub("", name) or name
            grouped[_free_label(label, grouped)] = [study]
    return grouped


def _free_label(name: str, taken: Grouped) -> str:
    """Return a name, with a number where it is taken."""
    label = name
    n = 1
    while label in taken:
        n += 1
        label = f"{name} ({n})"
    return label
