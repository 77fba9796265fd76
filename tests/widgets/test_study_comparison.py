from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from hpo_lib.comparison.run import compare
from hpo_lib.exceptions import StudyError
from hpo_lib.study.catalog import open_studies
from hpo_lib.study.run import run_study
from hpo_lib.widgets.comparison_summary import plot_studies
from hpo_lib.widgets.study_comparison import StudyComparison
from tests.comparison.frames import finals_frame
from tests.plots.recorded import draw
from tests.toys import TOY_SPACE, bowl

EVIL = "<img src=x onerror=alert(1)>"
QUIET: dict[str, Any] = {"workers": 0, "progress": False}


@pytest.fixture(scope="module")
def storage() -> InMemoryStorage:
    """Two strategies with seven seeds, of which one is far ahead, and a study of another space."""
    storage = InMemoryStorage()
    options: dict[str, Any] = {"storage": storage, **QUIET}
    compare(bowl, TOY_SPACE, ["random"], range(7), 4, name="wide", **options)
    held = TOY_SPACE.fix(optimizer="sgd", lr=0.1, depth=8)
    compare(bowl, held, ["random"], range(7), 6, name="held", **options)
    run_study(bowl, TOY_SPACE.fix(depth=8), "random", 3, name=EVIL, **options)
    return storage


def test_seeds_of_one_strategy_are_one_line_and_two_labels_are_ticked(storage):
    comparison = StudyComparison(storage)
    assert list(comparison.boxes) == ["wide random", "held random", EVIL]
    assert comparison.ticked == ["wide random", "held random"]
    assert comparison.picture()[1:4] == b"PNG"
    assert comparison.page.figure == "incumbents and final values of wide random, held random"


def test_what_is_separated_is_said_with_test_n_and_interval(storage):
    comparison = StudyComparison(storage)
    html = comparison.tables.value.replace("\N{NBSP}", " ")
    assert "With 7 seeds, held random ends below wide random (p = 0.016)." in html
    assert "PASS: B ends below" in html
    assert "0.00 (0.00 to 0.35)" in html
    assert "Wilcoxon&#39;s signed-rank test" in html
    assert "{type: int, low: 2, high: 10, step: 2, default: 4, fixed: 8}" in html


def test_words_that_all_labels_begin_with_are_left_out_of_the_figure():
    frame = finals_frame({"run a random": [1.0], "run a": [2.0], "run b": [3.0]})
    texts = draw(plot_studies(frame, "trial"))
    assert {"a random (n = 1 seed)", "a (n = 1 seed)", "b (n = 1 seed)"} <= set(texts)
    assert frame["strategy"].tolist() == ["run a random", "run a", "run b"]


def test_budgets_are_equal_unless_the_ends_are_asked_for(storage):
    comparison = StudyComparison(storage)
    equal = "wide random: 7 seeds, 4 trials; held random: 7 seeds, 4 trials"
    assert equal in comparison.status.value
    comparison.budget.value = "end"
    assert "held random: 7 seeds, 6 trials" in comparison.status.value
    comparison.budget.value = "seconds"
    frame = comparison.frame()
    spent = frame["seconds"] + frame["suggest_seconds"]
    assert spent.max() <= frame.attrs["seconds"]


def test_ticks_decide_what_is_shown_and_a_single_seed_says_nothing(storage):
    comparison = StudyComparison(storage, ["wide random", EVIL])
    assert "1 seed cannot separate" in comparison.tables.value
    assert "CAN'T SAY" in comparison.tables.value.replace("&#x27;", "'")
    assert EVIL not in comparison.tables.value

    before = comparison.picture()
    comparison.boxes["held random"].value = True
    assert comparison.picture() != before
    assert comparison.tables.value.count("random</td>\n") >= 3

    comparison.boxes["wide random"].value = False
    comparison.boxes[EVIL].value = False
    assert "Tick two or more studies." in comparison.status.value
    assert comparison.image.layout.display == "none"
    assert comparison.tables.value == ""


def test_reading_again_takes_over_new_trials_and_studies():
    options: dict[str, Any] = {"storage": InMemoryStorage(), **QUIET}
    run_study(bowl, TOY_SPACE, "random", 3, name="a", **options)
    run_study(bowl, TOY_SPACE, "sobol", 3, name="b", **options)
    comparison = StudyComparison(options["storage"])
    run_study(bowl, TOY_SPACE, "random", 5, name="a", **options)
    run_study(bowl, TOY_SPACE, "sobol", 5, name="b", **options)
    run_study(lambda c: bowl(c) + 1, TOY_SPACE, "random", 5, name="c", **options)

    assert "3 trials" in comparison.status.value
    comparison.again.click()
    assert "a: 1 seed, 5 trials; b: 1 seed, 5 trials" in comparison.status.value
    assert "objectives" not in comparison.status.value
    comparison.boxes["c"].value = True
    assert "objectives of these studies differ" in comparison.status.value


def test_studies_of_other_programs_and_those_without_a_trial_are_named():
    options: dict[str, Any] = {"storage": InMemoryStorage(), **QUIET}
    run_study(bowl, TOY_SPACE, "random", 3, name="ours", **options)
    other = optuna.create_study(study_name="theirs", storage=options["storage"])
    comparison = StudyComparison(options["storage"], ["ours", "theirs"])
    assert "No trial has ended yet in: theirs." in comparison.status.value
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    comparison.again.click()
    assert "other programs made theirs" in comparison.tables.value


def test_too_few_studies_unknown_labels_and_missing_files_are_refused(storage, tmp_path):
    study = optuna.create_study()
    with pytest.raises(ValueError, match="studies must be two or more to be compared"):
        StudyComparison({"a": study})
    with pytest.raises(ValueError, match="ticked must be one of"):
        StudyComparison(storage, ["nothing"])
    with pytest.raises(StudyError, match="no such file"):
        StudyComparison(tmp_path / "none.db")


def test_one_study_is_too_few(storage):
    (study, *_) = open_studies(storage)
    with pytest.raises(ValueError, match="studies must be two or more to be compared, got"):
        StudyComparison(study)


def test_a_page_without_a_kernel_keeps_figure_and_tables(storage):
    html = StudyComparison(storage).static_html()
    assert "<img class='hpo-figure' alt='incumbents" in html
    assert "With 7 seeds" in html
