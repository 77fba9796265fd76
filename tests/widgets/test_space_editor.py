from __future__ import annotations

from threading import Event, Thread

import optuna
import pytest
from bs4 import BeautifulSoup
from optuna.storages import InMemoryStorage

from hpo_lib.exceptions import SpaceError, StudyError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.widgets.editor_summary import warm_start_count
from hpo_lib.widgets.space_editor import SpaceEditor
from tests.space.test_space import EXAMPLE

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def editor(tmp_path) -> SpaceEditor:
    editor = SpaceEditor(SearchSpace.from_yaml(EXAMPLE), tmp_path / "space.yaml")
    assert editor.box is not None
    return editor


def test_typing_shows_the_message_in_its_row_and_locks_saving(editor):
    low = editor._rows[1].cells["low"]
    low.value = "1e"
    assert "low must be a finite number" in editor._rows[1].message.value
    assert "hpo-wrong" in low._dom_classes
    assert editor._save.disabled
    assert "The last valid space" in editor._preview.value
    editor._save.click()
    assert not editor.path.exists()
    assert "Nothing was saved" in editor._status.value
    with pytest.raises(SpaceError, match="row 2: low must be"):
        editor.save()
    low.value = "1e-3"
    assert "hpo-wrong" not in low._dom_classes
    assert editor.space["lr"].low == 0.001


def test_what_is_saved_is_what_the_space_writes(editor):
    editor._save.click()
    assert editor.path.read_text() == EXAMPLE
    assert "✓" in editor._status.value
    assert SpaceEditor(path=editor.path).space.to_yaml() == EXAMPLE


def test_comments_of_the_file_are_saved(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(f"# ours\n{EXAMPLE}")
    editor = SpaceEditor(path=path)
    assert "Saving changes" not in editor.preview()
    editor.edit(1, "low", "0.001")
    editor.save()
    assert path.read_text() == f"# ours\n{EXAMPLE}".replace("low: 0.0001", "low: 0.001")


def test_buttons_and_undo(editor):
    editor.act(1, "copy")
    assert len(editor._list.children) == 7
    editor.act(6, "up")
    editor.act(0, "remove")
    assert [row.name for row in editor.state.rows][-2:] == ["stride", "activation"]
    for _ in range(3):
        editor._undo.click()
    assert editor.space.to_yaml() == EXAMPLE
    assert editor._undo.disabled
    assert editor._rows[0].cells["name"].value == "optimizer"
    editor._redo.click()
    assert len(editor.space) == 7


@pytest.mark.parametrize(("answer", "of", "rows"), [("act", (5, "copy"), 7), ("save", (), 6)])
def test_text_that_comes_while_a_button_is_answered_is_kept(editor, monkeypatch, answer, of, rows):
    """Kernels handle the messages of a page in more than one thread."""
    row, typed = editor._rows[3], editor._rows[3].cells["default"]
    began, may_end, show = Event(), Event(), row.show

    def slow(*arguments):
        began.set()
        assert may_end.wait(60)
        show(*arguments)

    monkeypatch.setattr(row, "show", slow)
    answers = [Thread(target=getattr(editor, answer), args=of)]
    answers[0].start()
    assert began.wait(60)
    answers.append(Thread(target=setattr, args=(typed, "value", "12")))
    answers[1].start()
    while typed.value != "12":
        assert answers[1].is_alive()
    may_end.set()
    for one in answers:
        one.join(60)
    assert (typed.value, editor.state.rows[3].default) == ("12", "12")
    assert len(editor.state.rows) == rows


def test_scale_is_log_and_prior_in_one_step(editor):
    scale = editor._rows[1].cells["scale"]
    assert scale.value == "log"
    scale.value = "segmented"
    assert (editor.space["lr"].log, editor.space["lr"].prior) == (False, "segmented")
    editor._undo.click()
    assert scale.value == "log"
    editor._rows[1].cells["low"].value = "0"
    assert "hpo-wrong" in scale._dom_classes


def test_presets_and_files_are_loaded_and_bad_files_are_not(editor):
    editor._source.value = "preset reference"
    editor.load()
    assert editor.space == SearchSpace.preset("reference")
    editor._source.value = "the file"
    load = editor.box.children[0].children[-1]
    load.click()
    assert "Nothing was loaded" in editor._status.value
    editor.path.write_text("x: {type: float}")
    load.click()
    assert "low is required" in editor._status.value
    assert editor.space == SearchSpace.preset("reference")


@pytest.mark.parametrize(
    "content", [b"SQLite\xff", b"text", b"a: [", b"smoke: {n_trials: 2}", None]
)
def test_a_file_that_holds_no_space_is_named_and_kept(editor, content):
    place = editor.path.with_name("studies.db")
    place.write_bytes(content) if content is not None else place.mkdir()
    editor._file.value = str(place)
    editor.edit(1, "low", "0.001")
    assert "studies.db, which holds neither" in editor._status.value
    assert "which holds neither" in editor.preview()
    with pytest.raises(ValueError, match="file must be new or hold a search space, got"):
        editor.save()
    editor._save.click()
    assert "Nothing was saved: file must be new" in editor._status.value
    assert place.is_dir() if content is None else place.read_bytes() == content
    editor._file.value = str(editor.path.with_name("other.yaml"))
    assert "Valid, not saved yet" in editor._status.value


def test_a_space_with_mistakes_and_an_empty_file_are_written_over(editor):
    for content in ("x: {type: float}", "# later", ""):
        editor.path.write_text(content)
        editor.save()
        assert editor.path.read_text() == EXAMPLE


def test_the_home_folder_is_found(editor, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SpaceEditor(editor.space, "~/s.yaml").path == tmp_path / "s.yaml"
    editor._file.value = "~/t.yaml"
    editor.save()
    assert (tmp_path / "t.yaml").read_text() == EXAMPLE


def test_methods_raise_before_the_editor_is_shown(tmp_path):
    editor = SpaceEditor(SearchSpace.from_yaml(EXAMPLE), tmp_path / "space.yaml")
    with pytest.raises(FileNotFoundError):
        editor.load()
    editor.path.write_text("x: {type: int, low: 1, high: 2}\n")
    editor.load()
    assert editor.space.names == ("x",)
    editor.edit(0, "high", "0")
    with pytest.raises(SpaceError, match="row 1: high must be above low"):
        editor.save()
    assert editor.path.read_text() == "x: {type: int, low: 1, high: 2}\n"


@pytest.mark.parametrize(
    ("field", "text", "rule"),
    [
        ("type", "integer", "text must be one of float, int, choice, got 'integer'"),
        ("scale", "logarithmic", "text must be one of linear, log, .* got 'logarithmic'"),
        ("lo", "1", "field must be one of name, type, .* got 'lo'"),
    ],
)
def test_wrong_words_are_refused_and_spoil_nothing(editor, field, text, rule):
    with pytest.raises(ValueError, match=rule):
        editor.edit(1, field, text)
    editor.edit(1, "low", 0.002)
    assert editor.space["lr"].low == 0.002


def test_names_and_options_are_text(editor):
    editor._rows[0].cells["name"].value = EVIL
    editor._rows[4].cells["options"].value = f"'{EVIL}'"
    shown = [editor._preview.value, *(row.message.value for row in editor._rows)]
    editor._rows[4].cells["default"].value = f"'{EVIL}'"
    editor._rows[2].cells["when"].value = ""
    assert EVIL in editor.space
    shown += [editor._preview.value, editor._repr_mimebundle_()["text/html"]]
    assert not any("<img" in text for text in shown)
    assert "&lt;img" in shown[-1]


def test_mathematics_in_names_stays_text_in_the_static_form(editor):
    editor.edit(1, "name", "$lr$")
    html = BeautifulSoup(editor._repr_mimebundle_()["text/html"], "html.parser")
    heads = [head for head in html.find_all("th") if head.get_text() == "$lr$"]
    assert len(heads) == 1
    assert heads[0].find_parent(class_="mathjax_ignore")


def test_without_a_front_end_there_is_no_widget(editor):
    fresh = SpaceEditor(editor.space, editor.path)
    assert list(fresh._repr_mimebundle_()) == ["text/plain", "text/html"]
    assert "box" not in fresh.__dict__


def test_seconds_come_from_recorded_trials_and_evidence_is_counted(tmp_path):
    wide = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 0.9}")
    storage = InMemoryStorage()
    study = run_study(lambda c: c["x"], wide, "random", 4, name="<b>", storage=storage, workers=0)
    editor = SpaceEditor(wide, tmp_path / "s.yaml", n_trials=10, workers=2, study=study)
    assert "can go on" in editor.preview()
    assert "from 4 recorded trials" in editor.preview()
    editor.edit(0, "low", "0.8")
    inside, _ = warm_start_count(study, editor.space)
    assert 1 <= inside < 4
    text = f"{inside} of the 4 trials of study &#x27;&lt;b&gt;&#x27; lie inside"
    assert text in editor.preview()
    fresh = SpaceEditor(wide, tmp_path / "s.yaml", n_trials=10, workers=2, seconds_per_trial=3)
    assert "about <b>15 s</b>" in fresh.preview()


def test_a_study_without_a_space_is_refused(tmp_path):
    study = optuna.create_study(study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    with pytest.raises(StudyError, match="study 'plain' has no search space"):
        SpaceEditor(path=tmp_path / "s.yaml", study=study)
