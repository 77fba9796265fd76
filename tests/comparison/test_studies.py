from __future__ import annotations

from typing import Any

import optuna
import pytest

from hpo_lib.comparison.hypothesis_tests import separations
from hpo_lib.comparison.run import compare
from hpo_lib.comparison.studies import (
    compare_studies,
    differing_parameters,
    group_studies,
    space_differences,
)
from hpo_lib.plots.comparison import plot_comparison, plot_final_values
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.trials import study_space

WIDE = (
    "x: {type: float, low: 0.0, high: 1.0, default: 0.5}\n'a: b': {type: int, low: 1, high: 3}\n"
)
NARROW = WIDE.replace("high: 1.0", "high: 0.6") + "extra: {type: int, low: 1, high: 9}\n"


def run(text: str, seed: int) -> Any:
    settings: dict[str, Any] = {"storage": "memory", "workers": 0, "progress": False}
    space = SearchSpace.from_yaml(text)
    return run_study(lambda c: c["x"], space, "random", 6, name="s", seed=seed, **settings)


@pytest.fixture(scope="module")
def studies() -> dict[str, Any]:
    return {"wide": [run(WIDE, seed) for seed in range(3)], "narrow": run(NARROW, 0)}


def test_recorded_studies_are_a_comparison(studies):
    frame = compare_studies(studies)
    assert frame.groupby("strategy")["seed"].nunique().to_dict() == {"wide": 3, "narrow": 1}
    last = frame[frame["trial"] == 6].set_index(["strategy", "seed"])["best"]
    assert last["wide", 2] == studies["wide"][2].best_value
    assert last["narrow", 0] == studies["narrow"].best_value

    labels = plot_comparison(frame).get_legend_handles_labels()[1]
    assert labels == ["wide (n = 3 seeds)", "narrow (n = 1 seed)"]
    assert plot_final_values(frame).get_ylabel()
    both = compare_studies({"a": studies["wide"], "b": studies["wide"]})
    assert len(separations(both)) == 1


def test_spaces_are_compared_by_the_parameters_that_differ(studies):
    frame = space_differences(studies)
    assert list(frame.columns) == ["wide", "narrow"]
    assert list(frame.index) == ["x", "extra"]
    assert frame.loc["x", "narrow"] == "{type: float, low: 0.0, high: 0.6, default: 0.5}"
    assert frame.loc["extra", "wide"] == ""
    assert space_differences({"a": studies["narrow"], "b": studies["narrow"]}).empty

    now = study_space(studies["narrow"])
    frame = differing_parameters({"now": now, "edited": now.fix(x=0.25)})
    assert list(frame.columns) == ["now", "edited"]
    assert list(frame.index) == ["x"]
    assert frame.loc["x", "edited"].endswith("default: 0.5, fixed: 0.25}")
    assert differing_parameters({"a": now, "b": now}).empty


@pytest.mark.parametrize("studies", [{}, {"none": []}])
def test_a_label_without_a_study_is_refused(studies):
    with pytest.raises(ValueError, match="studies must hold a study for each label"):
        compare_studies(studies)


def test_a_storage_or_a_folder_is_grouped_by_what_differs_beside_the_seed(tmp_path):
    options: dict[str, Any] = {"workers": 0, "progress": False}
    space = SearchSpace.from_yaml(WIDE)
    first, second = tmp_path / "first.db", tmp_path / "second.db"

    # Seeds are in their order, whichever was run first.
    compare(lambda c: c["x"], space, ["random", "sobol"], [2, 0], 3, storage=first, **options)
    for name, seed in (("again-1", 4), ("again-2", 4), ("7", 1)):
        run_study(
            lambda c: c["x"], space, "random", 2, name=name, seed=seed, storage=first, **options
        )
    grouped = group_studies(first)
    assert {label: len(several) for label, several in grouped.items()} == {
        "comparison random": 2,
        "comparison sobol": 2,
        "again-1": 1,  # the same seed twice is no further evidence
        "again-2": 1,
        "7": 1,
    }
    names = [study.study_name for study in grouped["comparison random"]]
    assert names == ["comparison random seed 0", "comparison random seed 2"]
    frame = compare_studies(first)
    assert frame.groupby("strategy")["seed"].nunique()["comparison sobol"] == 2

    for name in ("7", "alone seed 3"):
        run_study(
            lambda c: c["x"], space, "random", 2, name=name, seed=1, storage=second, **options
        )
    assert list(group_studies(tmp_path))[-3:] == ["7", "7 (2)", "alone"]
    assert list(group_studies(list(grouped["7"]))) == ["7"]


def test_trials_that_still_run_are_no_part_of_a_comparison():
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    study.ask()
    assert compare_studies([study])["trial"].tolist() == [1, 2, 3]
