from __future__ import annotations

from pathlib import Path

import pytest

from hpo_lib.exceptions import RunError
from hpo_lib.runner.notebooks import (
    choose_notebooks,
    find_notebooks,
    notebooks_folder,
    read_notebook,
)
from hpo_lib.runner.parameters import assign_values, convert, read_profile, read_value
from tests.runner.notebook_files import COLLECTIONS, PARAMETERS, a_notebook, write_notebook


def test_declared_parameters_have_types_and_defaults():
    found = a_notebook().parameters
    assert list(found) == [
        "run_folder",
        "data",
        "n_trials",
        "lr",
        "verbose",
        "seeds",
        "rates",
        "limit",
        "free",
    ]
    assert found["n_trials"].annotation == "int"
    assert found["seeds"].default == [0, 1]
    assert found["limit"].default is None


def test_a_notebook_without_a_parameters_cell_declares_nothing():
    assert read_notebook(write_notebook(Path("x.ipynb"), parameters=None)).parameters == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"source": "x"}]}'])
def test_what_is_not_a_notebook_is_refused_by_name(content):
    Path("bad.ipynb").write_text(content)
    with pytest.raises(RunError, match=r"bad\.ipynb is not a notebook"):
        read_notebook(Path("bad.ipynb"))


@pytest.mark.parametrize("line", ["%matplotlib inline", "!pip install x", "x = !ls"])
def test_a_magic_among_the_parameters_is_refused_with_its_line(line):
    write_notebook(Path("magic.ipynb"), parameters=f"a: int = 1\n{line}")
    with pytest.raises(RunError, match=r"parameters cell of magic\.ipynb .*magics.*line 2"):
        read_notebook(Path("magic.ipynb"))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ([], ["01_one", "02_two", "10_ten"]),
        (["2"], ["02_two"]),
        (["02"], ["02_two"]),
        (["10", "01_one", "1"], ["01_one", "10_ten"]),
        (["notebooks/10_ten.ipynb", "10"], ["10_ten"]),
        (["other/20_mine.ipynb", "2"], ["02_two", "20_mine"]),
    ],
)
def test_notebooks_are_chosen_by_number_name_or_path_and_ordered(home, wanted, names):
    for name in ("10_ten", "02_two", "01_one"):
        write_notebook(home / f"{name}.ipynb")
    write_notebook(home / "draft.ipynb")
    write_notebook(Path("other/20_mine.ipynb"))
    assert [n.name for n in choose_notebooks(wanted, find_notebooks(home))] == names


def test_an_unknown_notebook_is_refused_with_those_there_are(home):
    write_notebook(home / "05_compare.ipynb")
    known = find_notebooks(home)
    with pytest.raises(RunError, match=r"no notebook '05_compar'.*did you mean 05_compare"):
        choose_notebooks(["05_compar"], known)
    with pytest.raises(RunError, match="no notebook '6'; there are: 05_compare"):
        choose_notebooks(["6"], known)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("-2.5", -2.5),
        ("True", True),
        ("false", False),
        ("None", None),
        ("digits", "digits"),
        ("folder:/a b", "folder:/a b"),
        ("[1e-4, 2, false]", [1e-4, 2, False]),
        ("[no, 2020-01-01, '1']", ["no", "2020-01-01", "1"]),
        ("[1", "[1"),
        ("", ""),
    ],
)
def test_text_is_read_as_papermill_reads_it_and_lists_as_yaml(text, value):
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("n_trials", "7", 7),
        ("lr", "1e-4", 1e-4),
        ("lr", "1", 1.0),
        ("data", "123", "123"),
        ("data", "None", "None"),
        ("data", "[x", "[x"),
        ("verbose", "true", True),
        ("seeds", "[3, 4]", [3, 4]),
        ("rates", "[1e-4]", [1e-4]),
        ("rates", '["1e-4"]', ["1e-4"]),
        ("names", '["01", "None"]', ["01", "None"]),
        ("names", "[01, None]", ["01", "None"]),
        ("options", '{"a": 2}', {"a": 2}),
        ("options", "{a: [1e-4, {b: '1'}]}", {"a": [1e-4, {"b": "1"}]}),
        ("counts", "{a: 2}", {"a": 2}),
        ("n_trials", "04", 4),
        ("limit", "None", None),
        ("limit", "60", 60.0),
        ("free", "abc", "abc"),
    ],
)
def test_values_become_what_the_parameter_declares(name, given, value):
    converted = convert(a_notebook(parameters=f"{PARAMETERS}\n{COLLECTIONS}"), name, given)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("n_trials", "many", "must be int, got 'many' .its default is 20"),
        ("n_trials", "2.5", "must be int"),
        ("n_trials", True, "must be int"),
        ("lr", "fast", "must be float"),
        ("verbose", "1", "must be bool"),
        ("seeds", "[1, x]", "must be list"),
        ("seeds", "3", "must be list"),
        ("seeds", '["3"]', "must be list"),
        ("names", "a", "must be list"),
        ("options", "[1]", "must be dict"),
        ("counts", '{"a": "2"}', "must be dict"),
    ],
)
def test_a_value_of_another_type_is_refused(name, given, rule):
    with pytest.raises(RunError, match=f"parameter {name} of 01_one {rule}"):
        convert(a_notebook(parameters=f"{PARAMETERS}\n{COLLECTIONS}"), name, given)


@pytest.mark.parametrize("notebook", find_notebooks(notebooks_folder()), ids=lambda n: n.name)
def test_the_notebooks_declare_types_that_refuse_what_is_plainly_wrong(notebook):
    for name, parameter in notebook.parameters.items():
        assert convert(notebook, name, parameter.default) == parameter.default
        if parameter.annotation != "str":
            with pytest.raises(RunError, match=f"{name} of {notebook.name} must be"):
                convert(notebook, name, "[{}]")


def test_a_name_goes_to_each_notebook_that_declares_it_and_overrides_the_profile():
    both = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    profile = {"01_one": {"n_trials": 2, "lr": 0.3}}
    assert assign_values(both, profile, {"n_trials": "9", "lr": "0.2"}) == {
        "01_one": {"n_trials": 9, "lr": 0.2},
        "02_two": {"lr": 0.2},
    }


def test_a_name_that_no_chosen_notebook_declares_is_refused_with_those_declared():
    with pytest.raises(
        RunError, match=r"'n_trial' \(did you mean n_trials\?\); declared are: data"
    ):
        assign_values([a_notebook()], {}, {"n_trial": "3"})
    with pytest.raises(RunError, match="run_folder is set by the runner"):
        assign_values([a_notebook()], {}, {"run_folder": "x"})


def test_a_profile_sets_lists_and_mappings_and_quoted_text_stays_text():
    known = [a_notebook("01_one", f"data: str = 'x'\nitems: list = []\n{COLLECTIONS}")]
    path = Path("profiles.yaml")
    path.write_text(
        "quick:\n  data: '07'\n  items: ['01', 01, 1e-4, no]\n  names: ['None']\n"
        "  options: {a: {b: 1e-4}}\n  counts: {01_one: 2}\n"
    )
    assert read_profile(path, "quick", known)["01_one"] == {
        **{"data": "07", "items": ["01", 1, 1e-4, "no"], "names": ["None"]},
        **{"options": {"a": {"b": 1e-4}}, "counts": {"01_one": 2}},
    }


def test_a_profile_shares_values_and_has_sections():
    known = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    path = Path("profiles.yaml")
    path.write_text("quick: {lr: 1e-3, n_trials: 4, 01_one: {lr: 1}}\nother:\n  typo: 1\n")
    assert read_profile(path, "quick", known) == {
        "01_one": {"lr": 1.0, "n_trials": 4},
        "02_two": {"lr": 1e-3},
    }


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("quick: {n_trial: 1}", r"'n_trial' \(did you mean n_trials"),
        ("quick: {02_two: {n_trials: 1}}", "'n_trials'"),
        ("quick: {03_three: {lr: 1}}", "'03_three'"),
        ("quick: {run_folder: x}", "'run_folder'"),
        ("quick: {n_trials: many}", "n_trials of 01_one must be int"),
        ("smoke: {}", "no profile 'quick' .*there are: smoke"),
        ("quick: 3", "must map each profile"),
        ("quick: [", "must map each profile"),
    ],
)
def test_a_mistake_in_a_profile_is_refused(content, rule):
    known = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    Path("profiles.yaml").write_text(content)
    with pytest.raises(RunError, match=rule):
        read_profile(Path("profiles.yaml"), "quick", known)
