# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false
from __future__ import annotations

import math
import pickle
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.parameters import ChoiceParameter, FloatParameter, IntParameter
from hpo_lib.space.search_space import PRESETS, SearchSpace
from hpo_lib.space.values import Configuration

EXAMPLE = """\
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}
momentum: {type: float, low: 0.5, high: 0.99, default: 0.9, when: {optimizer: sgd}}
n_filters: {type: int, low: 8, high: 24, step: 4, default: 16}
activation: {type: choice, options: [relu, leaky_relu, elu, selu, tanh, sigmoid], default: relu}
stride: {type: int, fixed: 1}
"""


def one(**keys: Any) -> SearchSpace:
    return SearchSpace.from_dict({"x": keys})


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml(text)
    return caught.value.problems


quick = settings(max_examples=50, deadline=None)


# --- any valid space -----------------------------------------------------------------------------

words = st.text(max_size=20)
numbers = st.floats(-1e9, 1e9) | st.integers(-(2**53), 2**53)
options = st.lists(
    words | numbers | st.booleans(), min_size=1, max_size=5, unique_by=lambda v: (v, 0)
)


@st.composite
def float_bodies(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2, unique=True)))
    body: dict[str, Any] = {"type": "float", "low": low, "high": high}
    if draw(st.booleans()):
        body["default"] = draw(st.floats(low, high))
    if draw(st.booleans()):
        body["fixed"] = draw(st.floats(low, high))
    if low > 0:
        body["log"] = draw(st.booleans())
    return body | {"prior": draw(st.sampled_from(["uniform", "segmented"]))}


@st.composite
def stepped_bodies(draw: st.DrawFn) -> dict[str, Any]:
    kind, scale = draw(st.sampled_from([("int", 1), ("float", 10), ("float", 1000)]))
    low, step = draw(st.integers(-1000, 1000)), draw(st.integers(1, 50))
    n = draw(st.integers(1, 40))
    values = [low, low + n * step, step, low + draw(st.integers(0, n)) * step]
    if kind == "float":
        values = [value / scale for value in values]
    return {"type": kind} | dict(zip(("low", "high", "step", "default"), values, strict=True))


@st.composite
def choice_bodies(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(options)
    return {"type": "choice", "options": values, "default": draw(st.sampled_from(values))}


@st.composite
def fixed_bodies(draw: st.DrawFn) -> dict[str, Any]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "int": st.integers(-100, 100),
        "float": st.floats(-1e9, 1e9),
    }
    values["choice"] = words | numbers | st.booleans()
    kind = draw(st.sampled_from(sorted(values)))
    return {"type": kind, "fixed": draw(values[kind])}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    names = draw(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
    mapping: dict[str, Any] = {}
    for name in names:
        body = draw(float_bodies() | stepped_bodies() | choice_bodies() | fixed_bodies())
        parents = [n for n, b in mapping.items() if "options" in b]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            values = mapping[parent]["options"]
            required = draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
            body["when"] = {parent: required if len(required) > 1 else required[0]}
        mapping[name] = body
    return SearchSpace.from_dict(mapping)


@quick
@given(spaces())
def test_yaml_round_trip_is_byte_for_byte(space: SearchSpace):
    text = space.to_yaml()
    again = SearchSpace.from_yaml(text)
    assert again == space
    assert again.to_yaml() == text
    assert len(text.splitlines()) == len(space)


@quick
@given(spaces())
def test_other_readers_of_yaml_read_the_same(space: SearchSpace):
    mapping = yaml.safe_load(space.to_yaml())
    assert repr(mapping) == repr({p.name: p.to_dict() for p in space})
    assert SearchSpace.from_dict(mapping) == space


@quick
@given(spaces(), st.integers(0, 2**32), st.integers(0, 100))
def test_draws_belong_to_the_space_and_to_optuna(space: SearchSpace, seed: int, prior_seed: int):
    drawn = space.sample(np.random.default_rng(seed), prior_seed)
    assert drawn == space.check(drawn) == space.complete(drawn)
    assert space.contains(drawn)
    assert [name for name in space.names if name in drawn] == list(drawn)
    assert all(type(value) in (bool, int, float, str) for value in drawn.values())
    for name, distribution in space.distributions().items():
        if name in drawn:
            inside = distribution.to_internal_repr(drawn[name])
            assert distribution._contains(inside)  # pyright: ignore[reportPrivateUsage]


@quick
@given(spaces(), st.integers(1, 4))
def test_grid_has_its_size_and_no_duplicates(space: SearchSpace, points: int):
    if space.grid_size(points) > 2000:
        return
    grid = space.grid(points)
    assert len(grid) == space.grid_size(points) == len({repr(c) for c in grid})
    assert all(space.contains(configuration) for configuration in grid)


@quick
@given(spaces())
def test_pickle_keeps_a_space(space: SearchSpace):
    again = pickle.loads(pickle.dumps(space))
    assert again == space


# --- YAML ----------------------------------------------------------------------------------------


def test_example_round_trip():
    space = SearchSpace.from_yaml(EXAMPLE)
    assert space.to_yaml() == EXAMPLE
    assert len(space) == 6
    assert list(space)[1] == space["lr"]
    assert "lr" in space
    assert "rate" not in space
    assert space.names[0] == "optimizer"
    assert [p.name for p in space.searched] == list(space.names[:-1])


def test_a_file_round_trip_leaves_one_file(tmp_path: Path):
    path = tmp_path / "new" / "space.yaml"
    SearchSpace.from_yaml(EXAMPLE).save(path)
    assert path.read_bytes() == EXAMPLE.encode()
    assert SearchSpace.load(path).to_yaml() == EXAMPLE
    assert list(path.parent.iterdir()) == [path]


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    SearchSpace.from_yaml(EXAMPLE).save("~/spaces/space.yaml")
    assert (tmp_path / "home/spaces/space.yaml").read_text() == EXAMPLE
    assert SearchSpace.load("~/spaces/space.yaml").to_yaml() == EXAMPLE
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.e-4", "+1e-4", "0.0001", "1.0e-04"])
def test_numbers_without_a_dot_are_numbers(written: str):
    space = SearchSpace.from_yaml(f"lr: {{type: float, low: {written}, high: 1e0}}")
    assert (space["lr"].low, space["lr"].high) == (1e-4, 1.0)
    assert "low: 0.0001, high: 1.0" in space.to_yaml()


def test_numbers_that_another_reader_took_for_words_are_numbers():
    assert one(type="float", low="1e-4", high="1e2")["x"].low == 1e-4
    assert one(type="int", low="1e1", high="1e2")["x"].high == 100
    assert one(type="choice", options=["1e-4", 1e-4])["x"].options == ("1e-4", 1e-4)


TRAPS = ["on", "off", "no", "yes", "y", "2024-01-01", "12:30", "1_000", "0x1F", ".inf", "<<", "="]


@pytest.mark.parametrize("word", TRAPS)
def test_words_stay_words(word: str):
    space = SearchSpace.from_yaml(f"x: {{type: choice, options: [{word}, other]}}")
    assert space["x"].options == (word, "other")
    assert yaml.safe_load(space.to_yaml())["x"]["options"] == [word, "other"]


UNTRUSTED = ["<img src=x onerror=alert(1)>", "a: b", "a\nb\r\n\tc", "'single' \"double\"", "{a}"]
UNTRUSTED += ["naïve – 学习率 🚀", "# no", "---", "- x", "&a *b !c |d >e %f @g `h", " space "]
UNTRUSTED += ["\u2028\x85\ufeff\x00", "1e-4", "null", "true", "x" * 100, "\U0010ffff", "\\n"]


@pytest.mark.parametrize("text", UNTRUSTED)
def test_untrusted_names_and_options_survive(text: str):
    space = SearchSpace.from_dict(
        {
            text: {"type": "choice", "options": [text, "", "b"]},
            "child": {"type": "int", "low": 1, "high": 2, "when": {text: text}},
        }
    )
    written = space.to_yaml()
    assert SearchSpace.from_yaml(written) == space
    assert SearchSpace.from_yaml(written)[text].options == (text, "", "b")
    assert len(written.splitlines()) == 2
    assert list(yaml.safe_load(written)) == [text, "child"]


def test_options_keep_their_types():
    text = "x: {type: choice, options: [1, 2.0, true, '1', 'true'], default: true}\n"
    with pytest.raises(SpaceError, match=r"must all differ in Python, got \[1, 2.0, True"):
        SearchSpace.from_yaml(text)
    text = "x: {type: choice, options: [3, 2.0, true, '1', 'true'], default: true}\n"
    assert SearchSpace.from_yaml(text).to_yaml() == text


def test_truths_beside_numbers_stay_truths():
    norm = ChoiceParameter(name="norm", options=[True, False, 3], default=False)
    rate = FloatParameter(name="rate", low=0, high=1, when={"norm": [True, 3]})
    space = SearchSpace([norm, rate])
    assert [repr(option) for option in norm.options] == ["True", "False", "3"]
    assert "options: [true, false, 3], default: false" in space.to_yaml()
    assert "when: {norm: [true, 3]}" in space.to_yaml()
    assert SearchSpace.from_yaml(space.to_yaml()) == space


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x: {type: int", r"search space: must be valid YAML, got .*line 1"),
        ("x: &a {type: int, fixed: 1}\ny: *a", r"an alias .* not allowed .*line 2"),
        ("x: !!python/object:os.system {}", r"valid YAML, got a tag .* not allowed .*line 1"),
        ("[" * 1000, r"valid YAML, got maximum recursion"),
        ("x: {type: int, fixed: 1}\n---\ny: 1", r"valid YAML, got expected a single document"),
        ("{[1]: 2}", r"valid YAML, got .*unhashable"),
        ("x: {type: int, fixed: " + "1" * 5000 + "}", "valid YAML, got Exceeds the limit"),
        ("x: \x00", "valid YAML, got unacceptable character"),
        ("[a, b]", r"must be a mapping of names to parameters, got \['a', 'b'\]"),
    ],
    ids=str.split,
)
def test_what_is_no_yaml_is_one_mistake(text: str, match: str):
    with pytest.raises(SpaceError, match=match) as caught:
        SearchSpace.from_yaml(text)
    assert len(caught.value.problems) == 1


# --- mistakes ------------------------------------------------------------------------------------


MISTAKES = """\
type: float, low: 1, high: 0 => high must be above low = 1.0, got 0.0
type: float, low: 1 => high is required where no value is fixed, got nothing
type: float, low: 1, fixed: 2 => high is required
type: float, low: .nan, high: 1 => low must be a finite number, got '.nan'
type: float, low: 0, high: .inf => high must be a finite number, got '.inf'
type: float, low: true, high: 2 => low must be a finite number, got True
type: float, low: 0, high: a => high must be a finite number, got 'a'
type: float, low: [0], high: 1 => low must be a finite number, got [0]
type: float, low: 0, high: 1, log: true => log needs low above 0, got low = 0.0
type: float, low: 1, high: 2, log: 5 => log must be a valid boolean
type: float, low: 1, high: 2, log: true, step: 0.5 => log and step exclude each other, got
type: float, low: 0, high: 1, step: 0 => step must be above 0, got 0.0
type: float, low: 0, high: 1, step: 1e-300 => step must not be below
type: float, low: 0, high: 1, step: 0.3 => step = 0.3, got 1.0; the nearest valid high is 0.9
type: int, low: 65, high: 512, step: 2 => got 512; the nearest valid high is 513
type: int, low: 1, high: 2.5 => high must be a whole number, got 2.5
type: float, low: 0, high: 1, default: 2 => default must lie between low = 0.0 and high = 1.0
type: int, low: 1, high: 9, step: 4, default: 6 => step = 4, got 6; the nearest is 5
type: int, low: 1, high: 9, fixed: 10 => fixed must lie between low = 1 and high = 9
type: int, fixed: a => fixed must be a finite number, got 'a'
type: int, fixed: 1, default: 2 => default must lie between low = 1 and high = 1, got 2
type: float, low: 0, high: 1, prior: x => prior must be 'uniform' or 'segmented', got
type: float, low: 0, high: 1, defualt: 1 => unknown key defualt, got 1; known are
type: choice, options: [a], low: 1 => unknown key low, got 1
type: float, low: 0, high: 1, defualt: null => unknown key defualt, got None
type: float, low: 0, high: 1, name: y => unknown key name, got 'y'
type: float, low: 0, low: 0, high: 1 => duplicate key low, got it again on line 1
type: choice => options is required where no value is fixed
type: choice, options: [] => options must be a list of at least one value, got []
type: choice, options: relu => options must be a list of at least one value, got 'relu'
type: choice, options: [a, a] => must all differ in Python, got ['a', 'a']
type: choice, options: [0, false] => must all differ in Python, got [0, False]
type: choice, options: [a, null] => options must be a word, a finite number, true or
type: choice, options: [a, a], default: a, fixed: b => must all differ in Python
type: choice, options: [a], default: b => default must be one of ['a'], got 'b'
type: choice, options: [1], default: true => default must be one of [1], got True
type: number, low: 1 => type must be one of float, int, choice, got 'number'
low: 1, high: 2 => type must be one of float, int, choice, got nothing
type: [int] => type must be one of float, int, choice, got ['int']
type: int, fixed: 1, when: a => when must be a mapping of names to values, got 'a'
type: int, fixed: 1, when: {o: []} => when must be a list of at least one value, got []
type: int, fixed: 1, when: {x: 1} => when must refer to an earlier parameter, got x, it
type: int, fixed: 1, when: {z: 1} => got z, an unknown parameter
type: int, fixed: 1, when: {later: 1} => got later, a later parameter
type: int, fixed: 1, when: {o: [a, c]} => when o must be one of ['a', 'b'], got 'c'
type: int, fixed: 1, when: {f: 0.5} => when must refer to a choice, an int or a float with a step
type: int, fixed: 1, when: {i: 9} => when i must lie between low = 1 and high = 3
"""


@pytest.mark.parametrize("line", MISTAKES.splitlines())
def test_a_mistake_names_parameter_rule_and_value(line: str):
    body, rule = line.split(" => ")
    before = (
        "o: {type: choice, options: [a, b]}\n"
        "one: {type: choice, options: [a, b], fixed: a}\n"
        "i: {type: int, low: 1, high: 3}\n"
        "f: {type: float, low: 0, high: 1}\n"
    )
    after = "\nlater: {type: int, fixed: 1}"
    SearchSpace.from_yaml(before + "x: {type: int, fixed: 1}" + after)
    (found,) = problems(before + f"x: {{{body}}}".replace("line 1", "line 5") + after)
    assert found.startswith("x: ")
    assert rule.replace("line 1", "line 5") in found


@pytest.mark.parametrize("name", [1, 1.5, True, None])
def test_wrong_names_are_refused(name: Any):
    with pytest.raises(SpaceError, match="name must be a valid string"):
        SearchSpace.from_dict({name: {"type": "int", "fixed": 1}})


def test_all_mistakes_come_at_once():
    found = problems(
        """
a: {type: float, low: 1, high: 0, defualt: 3, log: 5}
b: {type: int, low: 1, high: 9, step: 2, default: 4, fixed: 99}
c: {type: choice, options: [1, true], when: {zz: 1}}
d: {type: choice, options: []}
d: {type: int, low: x, high: y, when: {e: 1, d: 2}}
e: 7
2: {type: int, low: 2, high: 1}
"""
    )
    expected = [
        "d: duplicate key d",
        "a: unknown key defualt",
        "a: log must be a valid boolean",
        "a: high must be above low",
        "b: default must be low + k * step",
        "b: fixed must lie between",
        "c: options must all differ",
        "d: low must be a finite number",
        "d: high must be a finite number",
        "e: must be a mapping with a type, got 7",
        "2: name must be a valid string",
        "2: high must be above low",
        "c: when must refer to an earlier parameter, got zz",
        "d: when must refer to an earlier parameter, got e, a later",
        "d: when must refer to an earlier parameter, got d, itself",
    ]
    for start in expected:
        assert sum(problem.startswith(start) for problem in found) == 1, (start, found)
    assert len(found) == len(expected)


def test_the_error_shows_all_and_survives_a_process_boundary():
    error = SpaceError(["a: one", "b: two"])
    assert str(error) == "a: one\nb: two"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems == ("a: one", "b: two")
    assert isinstance(error, ValueError)


def test_parameters_made_by_hand_are_checked_too():
    with pytest.raises(SpaceError, match=r"lr: high must be above low = 1\.0, got 0\.5"):
        FloatParameter(name="lr", low=1, high=0.5)
    with pytest.raises(SpaceError, match="names must all differ, got a, a"):
        SearchSpace(
            (IntParameter(name="a", low=1, high=2), ChoiceParameter(name="a", options=("b",)))
        )
    with pytest.raises(SpaceError, match="a: when must refer to an earlier parameter"):
        SearchSpace((IntParameter(name="a", low=1, high=2, when={"b": (1,)}),))
    with pytest.raises(SpaceError, match="at least one parameter"):
        SearchSpace(())


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "default"),
    [
        ({"type": "float", "low": 0, "high": 1}, 0.5),
        ({"type": "float", "low": 1e-4, "high": 1, "log": True}, 0.01),
        ({"type": "float", "low": 0, "high": 0.4, "step": 0.1}, 0.2),
        ({"type": "float", "low": 0, "high": 1, "prior": "segmented"}, 0.5),
        ({"type": "int", "low": 8, "high": 24, "step": 4}, 16),
        ({"type": "int", "low": 1, "high": 100, "log": True}, 10),
        ({"type": "choice", "options": ["b", "a"]}, "b"),
        ({"type": "choice", "options": ["b", "a"], "fixed": "a"}, "a"),
        ({"type": "int", "low": 1, "high": 9, "fixed": 2}, 2),
    ],
)
def test_defaults_left_out(body: dict[str, Any], default: Any):
    value = SearchSpace.from_dict({"x": body}).default_configuration()["x"]
    assert value == pytest.approx(default) if isinstance(default, float) else value == default
    assert type(value) is type(default)


def test_numpy_scalars_in_a_definition_become_python():
    space = SearchSpace.from_dict(
        {
            "x": {"type": "int", "low": np.int64(1), "high": np.float64(3)},
            "c": {"type": "choice", "options": [np.str_("a"), np.bool_(True), np.int32(7)]},
        }
    )
    assert [type(o) for o in space["c"].options] == [str, bool, int]
    assert SearchSpace.from_yaml(space.to_yaml()) == space
    assert type(space.check({"x": np.int64(2), "c": np.str_("a")})["c"]) is str
    assert type(space.check({"x": 2.0, "c": 7.0})["x"]) is int


def test_stepped_floats_are_the_decimals_that_were_meant():
    space = one(type="float", low=0.1, high=0.7, step=0.2)
    assert [c["x"] for c in space.grid(9)] == [0.1, 0.3, 0.5, 0.7]
    assert space.complete({"x": 0.1 + 2 * 0.2 + 1e-16}) == {"x": 0.5}
    with pytest.raises(SpaceError, match=r"got 0.4; the nearest is 0"):
        space.check({"x": 0.4})


def test_a_condition_a_hair_beside_the_step_is_met():
    space = SearchSpace.from_yaml(
        "d: {type: float, low: 0.0, high: 1.0, step: 0.1, default: 0.3}\n"
        "e: {type: int, low: 1, high: 4, when: {d: [0.30000000000000004, 1]}}\n"
    )
    assert space["e"].when == {"d": (0.3, 1)}
    assert "e" in space.default_configuration()
    assert SearchSpace.from_yaml(space.to_yaml()) == space


def test_a_hair_outside_is_inside():
    space = one(type="float", low=1e-3, high=0.1, log=True)
    assert space.check({"x": math.exp(math.log(0.1)) * (1 + 1e-15)}) == {"x": 0.1}
    assert not space.contains({"x": 0.1000001})


def test_complete_drops_what_is_inactive_and_adds_what_is_fixed():
    space = SearchSpace.from_yaml(EXAMPLE)
    values = {"activation": "elu", "n_filters": 8.0, "lr": 0.01, "momentum": 0.6, "other": 1}
    assert list(space.complete(values | {"optimizer": "sgd"}).items()) == [
        ("optimizer", "sgd"),
        ("lr", 0.01),
        ("momentum", 0.6),
        ("n_filters", 8),
        ("activation", "elu"),
        ("stride", 1),
    ]
    assert "momentum" not in space.complete(values | {"optimizer": "adamw"})


def test_check_reports_all_mistakes_of_a_configuration():
    space = SearchSpace.from_yaml(EXAMPLE)
    wrong = {"optimizer": "sgd", "lr": 5, "n_filters": 9, "activation": "x", "stride": 2, "z": 0}
    with pytest.raises(SpaceError) as caught:
        space.check(wrong)
    assert [problem.split(" got")[0] for problem in caught.value.problems] == [
        "lr: must lie between low = 0.0001 and high = 0.1,",
        "momentum: must have a value,",
        "n_filters: must be low + k * step with low = 8, step = 4,",
        "activation: must be one of ['relu', 'leaky_relu', 'elu', 'selu', 'tanh', 'sigmoid'],",
        "stride: is fixed at 1,",
        "z: unknown parameter,",
    ]
    assert space.contains(space.default_configuration() | {"stride": 1.0})
    assert not space.contains({})


def test_activity_follows_chains_of_conditions():
    space = SearchSpace.from_yaml(
        """
a: {type: choice, options: [x, y, z]}
b: {type: choice, options: [true, false], when: {a: [x, y]}}
c: {type: int, low: 1, high: 2, when: {b: true, a: x}}
d: {type: int, low: 1, high: 2, when: {c: 2}}
"""
    )
    full = {"a": "x", "b": True, "c": 2, "d": 1}
    assert all(name in space.complete(full) for name in space.names)
    assert "b" in space.complete(full | {"a": "y"})
    assert "c" not in space.complete(full | {"a": "y"})
    assert "d" not in space.complete(full | {"b": False})  # its parent is inactive
    assert not space.contains(full | {"b": 1})
    assert space.complete(full | {"a": "z"}) == {"a": "z"}
    assert space.size == len(space.grid()) == 1 + 2 + 1 + 1 + 2


# --- drawing -------------------------------------------------------------------------------------


def draws(space: SearchSpace, n: int = 3000, prior_seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.array([space.sample(rng, prior_seed)["x"] for _ in range(n)])


def test_uniform_draws():
    x = draws(one(type="float", low=-2, high=2))
    assert np.histogram(x, 4, (-2, 2))[0] == pytest.approx([750] * 4, rel=0.1)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "int", "low": 8, "high": 24, "step": 4},
        {"type": "float", "low": 0.1, "high": 0.5, "step": 0.1},
        {"type": "choice", "options": [10, 20, 30, 40, 50]},
    ],
)
def test_steps_and_options_are_equally_likely(body: dict[str, Any]):
    _, counts = np.unique(draws(SearchSpace.from_dict({"x": body})), return_counts=True)
    assert counts == pytest.approx([600] * 5, rel=0.12)


def test_log_ints_are_drawn_as_optuna_does():
    space = one(type="int", low=1, high=10, log=True)
    _, counts = np.unique(draws(space), return_counts=True)
    edges = np.log(np.arange(0.5, 11))
    assert counts == pytest.approx(3000 * np.diff(edges) / (edges[-1] - edges[0]), rel=0.25)


def test_segmented_prior_follows_three_points_one_in_each_third():
    space = one(type="float", low=1, high=4, prior="segmented")
    for prior_seed in range(20):
        first, second, third = (
            space.from_unit([u], prior_seed)["x"] for u in (0.0, 0.5, math.nextafter(1, 0))
        )
        assert 1 <= first <= 2 <= second <= 3 <= third <= 4
        assert space.from_unit([0.25], prior_seed)["x"] == pytest.approx((first + second) / 2)
        assert space.from_unit([0.75], prior_seed)["x"] == pytest.approx((second + third) / 2)
        assert first <= draws(space, 20, prior_seed).min()
        assert draws(space, 20, prior_seed).max() <= third
    assert len({space.from_unit([0.5], seed)["x"] for seed in range(20)}) == 20


@pytest.mark.parametrize("u", [[], [0.5, 0.5], [-0.1], [1.1], [float("nan")]])
def test_points_outside_the_unit_cube_are_refused(u: list[float]):
    with pytest.raises(ValueError, match=r"u must be 1 numbers in \[0, 1\], got"):
        one(type="float", low=0, high=1).from_unit(u)


# --- Optuna, grids, sizes ------------------------------------------------------------------------


def test_distributions_are_those_of_the_searched():
    distributions = SearchSpace.from_yaml(EXAMPLE).distributions()
    assert distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 0.1, log=True)
    assert distributions["n_filters"] == optuna.distributions.IntDistribution(8, 24, step=4)
    assert distributions["optimizer"] == optuna.distributions.CategoricalDistribution(
        ("adamw", "sgd")
    )
    assert list(distributions) == ["optimizer", "lr", "momentum", "n_filters", "activation"]


def test_a_study_records_the_active_values_with_our_distributions():
    space = SearchSpace.from_yaml(EXAMPLE)
    seen: list[Configuration] = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(space.suggest(trial))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=8)
    for trial, configuration in zip(study.trials, seen, strict=True):
        assert configuration == space.check(trial.params)
        assert trial.distributions.items() <= space.distributions().items()
    assert len({"momentum" in configuration for configuration in seen}) == 2


HUGE = 10**400
NUMBERS = """\
i: {type: int, low: 1, high: 9}
f: {type: float, low: 0.0, high: 1.0, default: 0.5}
c: {type: choice, options: [1, a], default: a}
"""


@pytest.mark.parametrize("name", ["i", "f", "c"])
def test_numbers_that_no_float_holds_are_outside(name: str):
    space = SearchSpace.from_yaml(NUMBERS)
    assert not space.contains(space.default_configuration() | {name: HUGE})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({name: HUGE})
    with pytest.raises(SpaceError, match=f"{name}: must be a value of the space, got a queued"):
        space.suggest(study.ask())


@pytest.mark.parametrize("key", ["low", "high", "step", "default", "fixed"])
@pytest.mark.parametrize("kind", ["int", "float"])
def test_bounds_that_no_float_holds_are_refused(kind: str, key: str):
    with pytest.raises(SpaceError, match=f"x: {key} must be a finite number, got 1000"):
        one(**{"type": kind, "low": 1, "high": 9, key: HUGE})


def test_grid_is_the_product_and_collapses_conditions():
    space = SearchSpace.from_yaml(
        "o: {type: choice, options: [a, b]}\n"
        "m: {type: float, low: 0, high: 1, when: {o: b}}\n"
        "n: {type: int, low: 8, high: 24, step: 4}\n"
        "s: {type: int, fixed: 1}\n"
    )
    tops = [{"o": "a"}, *({"o": "b", "m": m} for m in (0.0, 0.5, 1.0))]
    expected = [top | {"n": n, "s": 1} for top, n in product(tops, (8, 16, 24))]
    assert space.grid() == expected
    assert space.grid_size() == 12
    assert len(space.grid(1)) == 2
    assert len(space.grid(5)) == 6 * 5


def test_absurd_grids_are_refused_at_once():
    space = SearchSpace.from_dict(
        {f"x{i}": {"type": "float", "low": 0, "high": 1} for i in range(40)}
    )
    assert space.grid_size(3) == 3**40
    with pytest.raises(ValueError, match=r"may have 100,000 configurations, got 12,157"):
        space.grid()
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        space.grid(0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_grids_of_conditional_switches_are_counted_without_building_them(interleaved: bool):
    pairs = [(f"s{i}", f"d{i}") for i in range(12)]
    switches = {s: {"type": "choice", "options": [True, False]} for s, _ in pairs}
    depths = {d: {"type": "int", "low": 1, "high": 2, "when": {s: True}} for s, d in pairs}
    mapping: dict[str, Any] = switches | depths
    if interleaved:
        mapping = {name: mapping[name] for pair in pairs for name in pair}
    space = SearchSpace.from_dict(mapping)
    assert space.grid_size() == space.size == 3**12
    with pytest.raises(ValueError, match=r"may have 100,000 configurations, got 531,441"):
        space.grid()


def test_a_switch_under_other_switches_is_counted_where_it_is_active():
    mapping: dict[str, Any] = {"root": {"type": "choice", "options": ["on", "off"]}}
    for i in range(10):
        mapping[f"s{i}"] = {"type": "choice", "options": ["on", "off"], "when": {"root": "on"}}
    every = {f"s{i}": "on" for i in range(10)}
    mapping["leaf"] = {"type": "int", "low": 1, "high": 5, "when": every}
    space = SearchSpace.from_dict(mapping)
    assert space.size == 1 + 2**10 - 1 + 5


def test_conditions_on_too_many_combinations_are_refused_at_once():
    mapping: dict[str, Any] = {
        f"s{i}": {"type": "choice", "options": ["on", "off"]} for i in range(20)
    }
    for i in range(20):
        for j in range(i):
            both = {f"s{i}": "on", f"s{j}": "on"}
            mapping[f"d{i}-{j}"] = {"type": "int", "low": 1, "high": 2, "when": both}
    space = SearchSpace.from_dict(mapping)
    assert space.size is None
    with pytest.raises(ValueError, match=r"may have 100,000 configurations, got more"):
        space.grid()
    with pytest.raises(
        ValueError, match="combinations of parameters that conditions refer to can be counted"
    ):
        space.grid_size()


def test_sizes():
    assert SearchSpace.from_yaml(EXAMPLE).size is None
    assert one(type="float", low=0, high=1, fixed=0.5).size == 1
    assert one(type="float", low=0, high=0.3, step=0.1).size == 4
    assert one(type="int", low=-(2**50), high=2**50).size is None
    assert one(type="choice", options=["a", "b"]).size == 2


# --- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_canonical(name: str):
    space = SearchSpace.preset(name)
    file = resources.files("hpo_lib.space") / "presets" / f"{name}.yaml"
    assert space.to_yaml().encode() == file.read_bytes()
    assert space.contains(space.default_configuration())


def test_reference_preset_has_odd_widths_and_filter_sizes():
    space = SearchSpace.preset("reference")
    rng = np.random.default_rng(0)
    for drawn in [space.sample(rng) for _ in range(100)]:
        assert drawn["n_filters"] % 2 == 1
        assert drawn["filter_size"] in (3, 5, 7)
        assert 0.001 <= drawn["lr"] <= 0.1
        assert drawn["stride"] == 1
    assert space["lr"].prior == "segmented"


def test_an_unknown_preset_is_refused():
    names = "cifar, cifar_published, reference, small"
    with pytest.raises(ValueError, match=f"preset must be one of {names}, got 'large'"):
        SearchSpace.preset("large")


def test_a_space_is_found_by_what_a_notebook_names(tmp_path):
    saved = tmp_path / "space.yaml"
    assert SearchSpace.find("saved", saved) == SearchSpace.preset("small")
    mine = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 0.5}")
    mine.save(saved)
    assert SearchSpace.find("saved", saved) == mine
    assert SearchSpace.find("reference", saved) == SearchSpace.preset("reference")
    assert SearchSpace.find(str(saved), "elsewhere.yaml") == mine
    with pytest.raises(ValueError, match="preset must be one of"):
        SearchSpace.find("smal", saved)
