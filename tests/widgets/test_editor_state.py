from __future__ import annotations

import pytest
from hypothesis import given, settings

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.widgets.editor_state import EditorState, Row
from tests.space.test_space import EXAMPLE, spaces

START = EditorState.from_space(SearchSpace.from_yaml(EXAMPLE))
ROWS = {row.name: i for i, row in enumerate(START.rows)}


def edited(row_name: str, /, **cells: str) -> EditorState:
    state = START
    for field, text in cells.items():
        state = state.edit(ROWS[row_name], field, text)
    return state


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(spaces())
def test_rows_and_yaml_round_trip(space: SearchSpace):
    state = EditorState.from_space(space)
    read = state.reading.space
    assert read is not None
    assert read.to_yaml() == space.to_yaml()
    assert EditorState.from_space(SearchSpace.from_yaml(read.to_yaml())) == state


def test_rows_show_what_a_person_would_type():
    assert START.rows[0] == Row("optimizer", "choice", options="adamw, sgd", default="adamw")
    assert START.rows[2].when == "optimizer: sgd"
    assert (START.rows[1].low, START.rows[1].scale) == ("0.0001", "log")
    space = SearchSpace.from_dict({"x": {"type": "choice", "options": ["1", 1, "a, b", ""]}})
    assert EditorState.from_space(space).rows[0].options == "'1', 1, 'a, b', ''"


@pytest.mark.parametrize(
    ("name", "cells", "field", "rule"),
    [
        ("lr", {"high": "1e-5"}, "high", "high must be above low = 0.0001, got 1e-05"),
        ("lr", {"low": ""}, "low", "low is required where no value is fixed, got nothing"),
        ("lr", {"low": "abc"}, "low", "low must be a finite number, got 'abc'"),
        ("lr", {"low": "1, 2"}, "low", "low must be one value, got '1, 2'"),
        ("lr", {"low": "null"}, "low", "low must be one value, got 'null'"),
        ("lr", {"low": "]"}, "low", "low must be YAML"),
        ("lr", {"low": "0"}, "scale", "log needs low above 0"),
        ("lr", {"default": "5"}, "default", "default must lie between"),
        ("lr", {"fixed": "5"}, "fixed", "fixed must lie between"),
        ("lr", {"type": "number"}, "type", "type must be one of float, int, choice"),
        ("lr", {"name": ""}, "name", "name is required, got nothing"),
        ("lr", {"name": "stride"}, "name", None),
        ("n_filters", {"step": "5"}, "high", "the nearest valid high is 23"),
        ("activation", {"options": "a, a"}, "options", "options must all differ"),
        ("activation", {"options": "a: {"}, "options", "options must be YAML"),
        ("activation", {"default": "cubic"}, "default", "default must be one of"),
        ("momentum", {"when": "optimiser: sgd"}, "when", "an unknown parameter"),
        ("momentum", {"when": "optimizer: adam"}, "when", "must be one of ['adamw', 'sgd']"),
        ("momentum", {"when": "sgd"}, "when", "got None"),
        ("momentum", {"when": "lr: 0.01, lr: 0.02"}, "when", "must name each parameter once"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_keeps_the_text(name, cells, field, rule):
    state = edited(name, **cells)
    space, messages, others = state.reading
    assert space is None
    assert others == []
    if rule is None:
        assert messages == {(5, "name"): "name must differ, got 'stride'; row 2 has it already"}
    else:
        assert list(messages) == [(ROWS[name], field)]
        assert rule in messages[ROWS[name], field]
    assert {f: getattr(state.rows[ROWS[name]], f) for f in cells} == cells


def test_comments_stay_with_their_hyperparameters():
    text = (
        "# the step size\n"
        "lr: {type: float, low: 0.1, high: 1.0, default: 0.55}  # of Adam\n"
        "n: {type: int, low: 1, high: 9, default: 5}  # layers\n"
        "# the end\n"
    )
    state = EditorState.from_space(SearchSpace.from_yaml(text))
    assert state.reading.space.to_yaml() == text

    changed = state.edit(0, "name", "rate").move(0, 1).duplicate(1).add().remove(3)
    assert changed.reading.space.to_yaml().splitlines() == [
        "n: {type: int, low: 1, high: 9, default: 5}  # layers",
        "# the step size",
        "rate: {type: float, low: 0.1, high: 1.0, default: 0.55}  # of Adam",
        "rate_copy: {type: float, low: 0.1, high: 1.0, default: 0.55}",
        "# the end",
    ]
    removed = state.remove(1)
    assert "layers" not in removed.reading.space.to_yaml()
    assert removed.undo().reading.space.to_yaml() == text
    assert state.load(SearchSpace.from_yaml("x: {type: int, low: 1, high: 2}")).footer.above == ""


@pytest.mark.parametrize(
    ("name", "field", "text"),
    [
        ("optimizer", "options", "[adamw, sgd]"),
        ("optimizer", "options", " [adamw, sgd] "),
        ("momentum", "when", "{optimizer: sgd}"),
        ("momentum", "when", "{ optimizer: [sgd] } "),
    ],
)
def test_brackets_of_the_file_may_be_typed(name, field, text):
    state = edited(name, **{field: text})
    assert state.reading.space == START.reading.space
    assert getattr(state.rows[ROWS[name]], field) == text


@pytest.mark.parametrize(
    ("name", "field", "text"),
    [
        ("optimizer", "options", "[adamw], [sgd]"),
        ("optimizer", "options", "[[adamw, sgd]]"),
        ("optimizer", "options", "{adamw: sgd}"),
        ("optimizer", "options", "["),
        ("lr", "default", "[0.003]"),
        ("momentum", "when", "{optimizer: sgd}, {lr: 1}"),
        ("momentum", "when", "[optimizer]"),
    ],
)
def test_other_brackets_are_a_mistake_of_their_cell(name, field, text):
    messages = edited(name, **{field: text}).reading.messages
    assert list(messages) == [(ROWS[name], field)]


def test_mistakes_of_several_rows_come_together():
    state = edited("lr", low="x", default="9").edit(ROWS["stride"], "fixed", "1.5")
    assert list(state.reading.messages) == [(1, "low"), (5, "fixed")]


def test_no_rows_are_no_space():
    assert EditorState().reading.space is None
    assert "at least one parameter" in EditorState().reading.others[0]


def test_text_of_another_type_waits_until_it_is_asked_for():
    state = edited("lr", type="choice", options="0.1, 0.01", default="0.1")
    assert state.reading.space["lr"].options == (0.1, 0.01)  # pyright: ignore
    assert state.edit(1, "type", "float").rows[1].high == "0.1"


def test_undo_takes_back_words_and_redo_brings_them_again():
    state = EditorState().add()
    for text in ("l", "lr", "lrx", "lr"):
        state = state.edit(0, "name", text)
    state = state.edit(0, "low", "1").edit(0, "low", "5")
    names = [state]
    while names[-1].past:
        names.append(names[-1].undo())
    assert [[(r.name, r.low) for r in s.rows] for s in names] == [
        [("lr", "5")],
        [("lr", "1")],
        [("lr", "")],
        [("", "")],
        [],
    ]
    again = names[-1].redo().redo().redo().redo()
    assert again.rows == state.rows == again.redo().rows
    assert names[2].edit(0, "high", "3").redo().rows[0].high == "3"  # a new edit ends redoing
    assert EditorState().undo() == EditorState()


def test_rows_are_moved_duplicated_and_removed():
    state = START.duplicate(1).duplicate(1)
    assert [row.name for row in state.rows[1:4]] == ["lr", "lr_copy_copy", "lr_copy"]
    assert state.reading.space is not None
    state = START.move(2, -2)
    assert state.reading.messages[0, "when"].endswith("got optimizer, a later parameter")
    assert START.move(0, -1) == START
    assert [row.name for row in START.move(0, 99).rows][-1] == "optimizer"
    assert START.remove(0).undo().rows == START.rows


def test_loading_can_be_undone():
    half = edited("lr", low="1e")
    loaded = half.load(SearchSpace.preset("small"))
    assert loaded.reading.space == SearchSpace.preset("small")
    assert loaded.undo().rows == half.rows
