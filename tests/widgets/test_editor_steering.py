"""The editor holds values by locks, and lets its study go on in the edited space."""

from __future__ import annotations

import pytest
from optuna.storages import InMemoryStorage

from hpo_lib.exceptions import StudyError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.background import BackgroundStudy
from hpo_lib.study.catalog import open_study
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.versions import change_space
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import recorded_trials, study_space
from hpo_lib.widgets.space_editor import SpaceEditor
from tests.space.test_space import EXAMPLE
from tests.study.test_background import until
from tests.toys import TOY_SPACE, Waiting, bowl

CALL = {"name": "demo", "storage": "s.db", "workers": 0, "progress": False}
LR, DEPTH = 1, 3


def shown(editor: SpaceEditor) -> SpaceEditor:
    assert editor.box is not None
    return editor


@pytest.fixture
def editor() -> SpaceEditor:
    study = run_study(bowl, TOY_SPACE, "random", 12, **CALL)
    return shown(SpaceEditor(TOY_SPACE, study=study))


# Locks


@pytest.mark.parametrize("line", EXAMPLE.splitlines()[:5])
def test_a_lock_fixes_the_default_and_gives_the_range_back_byte_for_byte(line):
    space = SearchSpace.from_yaml(EXAMPLE)
    row = EXAMPLE.splitlines().index(line)
    editor = shown(SpaceEditor(space))
    lock = editor._rows[row].lock
    assert not lock.value
    lock.value = True
    parameter = space.parameters[row]
    fixed = space.fix(**{parameter.name: parameter.default}).to_yaml()
    assert editor.space.to_yaml() == fixed
    editor.save()
    assert editor.path.read_text() == fixed

    # From the file, too, which names no default beside the same fixed value.
    for one in (editor, shown(SpaceEditor(path=editor.path))):
        assert one._rows[row].lock.value
        one._rows[row].lock.value = False
        assert one.space.to_yaml() == EXAMPLE


def test_a_lock_follows_the_column_undo_and_rows_that_move(editor):
    lock = editor._rows[LR].lock
    editor._rows[LR].cells["fixed"].value = "0.1"
    assert lock.value
    lock.value = False
    assert editor.space == TOY_SPACE
    editor._undo.click()
    assert (lock.value, editor.state.rows[LR].fixed) == (True, "0.1")
    editor.act(LR, "up")
    assert (editor._rows[LR - 1].lock.value, lock.value) == (True, False)
    assert editor.space["lr"].fixed == 0.1
    assert lock.tooltip == "Hold row 2"


def test_a_row_that_cannot_be_read_is_not_locked(editor):
    editor.edit(LR, "default", "")
    editor.edit(LR, "low", "1e-")
    editor._rows[LR].lock.value = True
    assert not editor._rows[LR].lock.value
    assert editor.state.rows[LR].fixed == ""
    editor.edit(LR, "low", "0.01")
    editor._rows[LR].lock.value = True
    assert editor.space["lr"].fixed == pytest.approx(0.1)


# Going on


def test_a_study_goes_on_in_the_edited_space_and_the_changes_are_shown_before(editor):
    assert editor._continue.disabled
    editor.edit(LR, "low", "0.01")
    editor._rows[DEPTH].lock.value = True
    assert not editor._continue.disabled
    preview = editor.preview()
    assert "<b>Continuing changes</b> study &#x27;demo&#x27;" in preview
    assert "- lr: {type: float, low: 0.0001," in preview
    assert "+ lr: {type: float, low: 0.01," in preview
    assert "+ depth: {type: int, low: 2, high: 10, step: 2, fixed: 4}" in preview
    assert study_space(open_study("demo", "s.db")) == TOY_SPACE

    edited = editor.space
    editor._continue.click()
    assert study_space(open_study("demo", "s.db")) == edited
    assert "✓ Study &#x27;demo&#x27; goes on in this space, where " in editor._status.value
    said = "call run_study with this space, and more than 12 trials, as its budget is spent."
    assert f"{said} The file does not have it yet." in editor._status.value
    assert editor._continue.disabled
    assert "Continuing changes" not in editor.preview()
    study = run_study(bowl, edited, "random", 15, **CALL)
    assert {t.configuration["depth"] for t in recorded_trials(study)[12:]} == {4}
    editor._undo.click()
    assert "goes on" not in editor._status.value


def test_mistakes_and_a_driver_elsewhere_are_told_in_the_message_line(editor):
    editor.edit(LR, "low", "7")
    assert editor._continue.disabled
    editor._continue.click()
    assert "⚠ Nothing was changed: row 2: high must be above low" in editor._status.value
    editor.edit(LR, "low", "0.01")
    backend = open_storage("s.db")
    with hold_lease(open_study("demo", "s.db"), backend):
        editor._continue.click()
        assert "⚠ Nothing was changed: study &#x27;demo&#x27; is being" in editor._status.value

    # What went on meanwhile is shown before it is changed again.
    change_space("demo", TOY_SPACE.fix(depth=8), storage="s.db")
    editor._continue.click()
    assert "has gone on meanwhile: see what this space changes now" in editor._status.value
    assert "- depth: {type: int, low: 2, high: 10, step: 2, default: 4, fixed: 8}" in (
        editor.preview()
    )
    editor._continue.click()
    assert study_space(open_study("demo", "s.db")) == editor.space


def test_an_editor_without_a_study_has_no_such_button():
    editor = shown(SpaceEditor(TOY_SPACE))
    texts = [one.description for line in editor.box.children[:2] for one in line.children]
    assert "Continue with this space" not in texts
    with pytest.raises(StudyError, match="without a study"):
        editor.go_on()


@pytest.mark.slow
def test_a_study_in_memory_that_runs_goes_on_in_the_edited_space(tmp_path):
    waiting = Waiting(str(tmp_path))
    options = {"name": "demo", "storage": InMemoryStorage(), "workers": 1}
    search = BackgroundStudy(waiting, TOY_SPACE, "random", 6, **options)
    search.start()
    waiting.let(3)
    until(lambda: waiting.begun() == 4)
    editor = SpaceEditor(TOY_SPACE, study=open_study("demo", options["storage"]))
    editor.edit(LR, "low", "0.01")
    editor.go_on()
    waiting.let(20)
    trials = recorded_trials(search.wait())
    assert len(trials) == 6
    assert all(trial.configuration["lr"] >= 0.01 for trial in trials[4:])
    assert study_space(editor.study) == editor.space == search.space


def test_the_space_of_the_study_can_be_loaded(editor):
    recorded = study_space(editor.study)
    editor._source.value = "the study"
    editor.edit(LR, "high", "0.05")
    assert editor.space != recorded
    editor.load()
    assert editor.space == recorded
