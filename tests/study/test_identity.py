"""What a plain function stands for when a study goes on: its content, or its `version`."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import random
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hpo_lib import BackgroundStudy, SearchSpace, compare, gp_minimize, open_study, run_study
from hpo_lib.exceptions import StudyChangedError
from hpo_lib.loop import as_objective
from hpo_lib.study.retrain import retrain_top_k
from hpo_lib.trials import StudyRecord

SPACE = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")


def cost(configuration, scale=1.0, data=None):
    return scale * configuration["x"]


class Plain:
    """Has the default repr, with its address."""

    def __init__(self, value=1):
        self.value = value


@dataclass
class Scaled:
    """A callable object."""

    scale: float
    data: Any = None

    def __call__(self, configuration):
        return self.scale * configuration["x"]

    def method(self, configuration):
        return self(configuration)


class Segmented(Scaled):
    """An `Objective` with settings of its own."""

    budget = 1

    @property
    def settings(self):
        return {"scale": self.scale}

    def __call__(self, configuration, segment):
        return as_objective(cost)(configuration, segment)


def version_of(function):
    return as_objective(function).settings["version"]


def make_closure(value):
    return lambda configuration: configuration["x"] * len(repr(value))


def run(objective, n_trials=2, **options):
    options = {"name": "s", "workers": 0, **options}
    return run_study(objective, SPACE, "random", n_trials, **options)


def define(tmp_path, source, name="cost", file="objectives.py"):
    """Return a function out of a module with this source."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def run_python(source, **environment):
    """Run a program whose main module has no file, as that of a notebook."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ------------------------------------------------------------------------------------ content

SOURCE = '''
import functools
OFFSET = 1

def helper(value):
    return value + OFFSET

@functools.lru_cache
def load():
    return [1, 2]

def cost(configuration, weight=2):
    """Return the cost."""
    # the sum
    return weight * helper(configuration["x"]) + sum(value * 3 for value in load())
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# the sum", "# the total"),
        ("Return the cost.", "Return the costs."),
        ("(configuration, weight=2)", "(configuration: dict, weight: int = 2) -> float"),
        ("weight * helper", "(weight) * helper"),
        ("import functools\n", "import functools\n\nUNUSED = 3\n\n"),
    ],
)
def test_comments_docstrings_annotations_and_places_do_not_count(tmp_path, old, new):
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE

    before = version_of(define(tmp_path, SOURCE))
    assert version_of(define(tmp_path, changed, file="folder/others.py")) == before


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("value * 3", "value * 4", "code"),
        ("OFFSET = 1", "OFFSET = 2", "helper"),
        ("value + OFFSET", "value - OFFSET", "helper"),
        ("[1, 2]", "[1, 3]", "load"),
        ("weight=2", "weight=3", "defaults"),
    ],
)
def test_code_defaults_globals_and_helpers_count(tmp_path, old, new, part):
    before = as_objective(define(tmp_path, SOURCE)).settings
    after = as_objective(define(tmp_path, SOURCE.replace(old, new))).settings

    assert after["version"] != before["version"]
    assert after["content"][part] != before["content"][part]


def test_lambdas_on_one_line_are_told_apart():
    first, second, same = lambda c: c["x"] + 1, lambda c: c["x"] + 2, lambda c: c["x"] + 1
    assert version_of(first) == version_of(same) != version_of(second)


VALUES = [
    (1, 2),
    ("a" * 100, "b" * 100),
    ([1, {"a": {2}}], [1, {"a": {3}}]),
    (np.arange(4), np.arange(4.0)),
    (np.array([1, None]), np.array([2, None])),
    (np.float64(1), np.float64(2)),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]})),
    (pd.Series(["a", "b"]), pd.Series(["a", "c"])),
    (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
    (Plain(1), Plain(2)),
    (Scaled(1.0), Scaled(2.0)),
    (Segmented(1.0), Segmented(2.0)),
    (Scaled(1.0).method, Scaled(2.0).method),
    (functools.partial(cost, scale=1), functools.partial(cost, scale=2)),
    (torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)),  # other weights
]


@pytest.mark.parametrize(("value", "other"), VALUES)
@pytest.mark.parametrize(
    "hold",
    [
        make_closure,
        lambda value: functools.partial(cost, data=value),
        lambda value: Scaled(1.0, value),
        lambda value: Scaled(1.0, value).method,
    ],
    ids=["closure", "partial", "object", "method"],
)
def test_held_values_count_by_content(hold, value, other):
    copied = copy.deepcopy(value)
    assert version_of(hold(copied)) == version_of(hold(value))
    assert version_of(hold(other)) != version_of(hold(value))


def test_what_the_objective_changes_itself_does_not_count():
    calls = []
    generator = np.random.default_rng(0)

    class Counting:
        def __init__(self, scale):
            self.scale = scale
            self.n = 0

        @functools.cached_property
        def loaded(self):
            return [1.0]

        def __call__(self, configuration):
            self.n += 1
            calls.append(configuration)
            noise = generator.normal() + random.random()
            return self.scale * self.loaded[0] * noise

    counting = Counting(1.0)
    before = version_of(counting)
    counting({})

    assert version_of(counting) == before != version_of(Counting(2.0))


def test_an_attribute_and_a_global_of_one_name_both_count(tmp_path):
    source = """
        scale = 1
        class Model:
            def __init__(self, scale):
                self.scale = scale
            def cost(self, configuration):
                return scale * self.scale
    """
    versions = {
        version_of(define(tmp_path, source.replace("scale = 1", f"scale = {n}"), "Model")(m).cost)
        for n in (1, 2)
        for m in (1, 2)
    }
    assert len(versions) == 4


def test_a_held_objective_counts_by_its_settings():
    held = [functools.partial(cost, data=Segmented(1.0, data)) for data in (1, 2)]
    assert version_of(held[0]) == version_of(held[1])


def test_wrappers_and_what_they_wrap_count():
    def repeated(n):
        def decorate(function):
            @functools.wraps(function)
            def wrapper(configuration):
                return sum(function(configuration) for _ in range(n))

            return wrapper

        return decorate

    versions = {version_of(repeated(n)(f)) for n in (1, 2) for f in (cost, lambda c: 0.0)}
    assert len(versions) == 4


PRINT_VERSION = """
import functools
from hpo_lib.loop import as_objective

class Plain:
    def __init__(self):
        self.value = {"a", "b", "c"}

def cost(configuration, data):
    return configuration["x"] in {"one", "two", "three"}

print(as_objective(functools.partial(cost, data=Plain())).settings["version"])
"""


def test_the_version_is_the_same_in_every_process(tmp_path):
    def versions(program):
        return [run_python(program, PYTHONHASHSEED=seed) for seed in ("1", "2")]

    first, second = versions(PRINT_VERSION)  # by its bytecode
    assert first == second

    programs: list[str] = []
    for name in ("first.py", "second.py"):
        script = tmp_path / name
        script.write_text(PRINT_VERSION)
        programs.append(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    found = [version for program in programs for version in versions(program)]
    assert found == found[:1] * 4


def test_bytecode_of_another_python_is_not_taken_for_a_change():
    namespace: dict[str, Any] = {}
    exec("def cost(configuration): return configuration['x']", namespace)  # no source
    study = run(namespace["cost"], storage="memory")
    record = StudyRecord.of(study)
    here = record.settings["objective"]
    assert here["content"]["bytecode of Python"] == "{}.{}".format(*sys.version_info)

    content = {**here["content"], "bytecode of Python": "3.10", "code": "code of 3.10"}
    older = {"function": "cost", "version": "of 3.10", "content": content}
    record.write(study, settings={**record.settings, "objective": older})
    assert len(run(namespace["cost"], 3, storage=study._storage).trials) == 3


# ----------------------------------------------------------------------------------- studies


@pytest.mark.parametrize(
    ("objective", "other", "part"),
    [
        (make_closure(1), make_closure(2), "value"),
        (lambda c: c["x"] + 0.1, lambda c: c["x"] + 0.2, "code"),
        (Scaled(1.0), Scaled(2.0), "scale"),
        (Scaled(1.0).method, Scaled(2.0).method, "scale"),
        (functools.partial(cost, scale=1.0), functools.partial(cost, scale=2.0), "scale"),
        (functools.partial(cost, data=Plain(1)), functools.partial(cost, data=Plain(2)), "data"),
    ],
)
def test_a_study_is_refused_to_an_objective_that_holds_something_else(objective, other, part):
    run(objective)
    assert len(run(objective, 3).trials) == 3

    with pytest.raises(StudyChangedError, match=rf"- objective\.content\.{part}: ") as refusal:
        run(other, 3)
    with pytest.raises(StudyChangedError, match="must be that of study 's'"):
        run(other, name="later", warm_start_from="s")
    with pytest.raises(StudyChangedError, match="must be that of study 's'"):
        retrain_top_k(other, "s", workers=0)

    recorded = StudyRecord.of(open_study("s")).settings["objective"]["version"]
    assert f"objective.version = {recorded!r}" in str(refusal.value)
    assert "choose a new name" in str(refusal.value)


def test_a_study_goes_on_with_the_version_that_the_refusal_names():
    def first(configuration):
        return configuration["x"] * 2

    def second(configuration):
        return configuration["x"] + configuration["x"]

    run(first)
    second.version = version_of(first)
    assert len(run(second, 3).trials) == 3
    assert len(run(first, 4).trials) == 4
    run(second, name="later", warm_start_from="s")
    retrain_top_k(second, "s", k=1, n_seeds=1, workers=0)

    second.version = 2
    with pytest.raises(StudyChangedError, match=r"\+ objective.version: 2"):
        run(second, 5)


def test_gp_minimize_and_compare_refuse_what_run_study_refuses(tmp_path):
    def minimize(function):
        return gp_minimize(
            function, [(0.0, 1.0)], 3, n_initial_points=3, name="g", storage=tmp_path / "g.db"
        )

    minimize(lambda x: x[0] + 1)
    assert len(minimize(lambda x: x[0] + 1).x_iters) == 3
    with pytest.raises(StudyChangedError, match=r"content\.code"):
        minimize(lambda x: x[0] + 2)

    compare(make_closure(1), SPACE, ["random"], [0], 2, workers=0)
    with pytest.raises(StudyChangedError, match=r"content\.value"):
        compare(make_closure(2), SPACE, ["random"], [0], 2, workers=0)


def test_old_records_go_on_whatever_address_they_hold():
    objective = functools.partial(cost, data=Plain())
    study = run(objective)
    record = StudyRecord.of(study)
    plain = f"<{Plain.__module__}.Plain object at 0x7f0123456789>"
    old = {"function": f"{__name__}.cost", "partial": f"((), {{'data': {plain}}})"}
    record.write(study, settings={**record.settings, "objective": old})

    assert len(run(objective, 3).trials) == 3
    with pytest.raises(StudyChangedError, match="partial"):
        run(functools.partial(cost, data=2), 3)


RESUMED = """
import functools
import sys
from hpo_lib import SearchSpace, run_study

class Plain:
    value = 3

def cost(configuration, data):
    return configuration["x"] + data.value

space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
objective = functools.partial(cost, data=Plain())
n_trials, storage = int(sys.argv[1]), sys.argv[2]
study = run_study(objective, space, "random", n_trials, name="s", storage=storage, workers=0)
print(len(study.trials))
"""


@pytest.mark.slow
def test_a_partial_with_an_object_of_default_repr_goes_on_after_a_restart(tmp_path):
    (tmp_path / "folder").mkdir()
    for n_trials, folder in (("2", tmp_path), ("4", tmp_path / "folder")):
        script = folder / "script.py"
        script.write_text(RESUMED)
        command = [sys.executable, str(script), n_trials, str(tmp_path / "studies.db")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [n_trials], done.stderr


# ------------------------------------------------------------- what cannot be identified or sent


def test_what_cannot_be_identified_is_named_once_and_the_study_goes_on():
    with socket.socket() as first, socket.socket() as second:
        message = r"objective\.data cannot be identified .* objective\.version"
        with pytest.warns(UserWarning, match=message) as warned:
            run(Scaled(1.0, first))
        assert len([w for w in warned if "identified" in str(w.message)]) == 1
        assert warned[0].filename == __file__
        with pytest.warns(UserWarning, match=message):
            assert len(run(Scaled(1.0, second), 3).trials) == 3

        named = Scaled(1.0, first)
        named.version = "1"
        run(named, name="named")


def test_an_objective_that_cannot_be_taken_apart_needs_a_version():
    class Closed(Scaled):
        def __reduce_ex__(self, protocol):
            message = "no copies"
            raise RuntimeError(message)

    with pytest.warns(UserWarning, match="^objective cannot be identified"):
        run(Closed(1.0))
    named = Closed(1.0)
    named.version = "1"
    run(named, name="named")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (threading.Lock, r"objective\.data"),
        (lambda: {"a": [threading.Lock()]}, r"objective\.data\['a'\]\[0\]"),
        (lambda: Plain(threading.Lock()), r"objective\.data\.value"),
        (lambda: tempfile.TemporaryFile("w"), r"objective\.data"),  # noqa: SIM115 stays open
    ],
)
@pytest.mark.filterwarnings("ignore:objective.data cannot be identified")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_cannot_go_to_workers_is_named_before_anything_is_spent(make, name, tmp_path):
    held = make()
    storage = tmp_path / "studies.db"
    objectives = [Scaled(1.0, held), functools.partial(cost, data=held), Segmented(1.0, held)]
    message = rf"{name} = .* cannot .*workers=0"
    for objective in objectives:
        with pytest.raises(TypeError, match=message):
            run(objective, workers=1, storage=storage)
        background = BackgroundStudy(objective, SPACE, "random", 2, name="b", storage=storage)
        background.start()
        with pytest.raises(TypeError, match=message):
            background.wait()
    assert not storage.exists()

    run(objectives[0])
    run(objectives[2], name="segmented")
    if hasattr(held, "close"):
        held.close()


CACHED = """
from functools import cache
from hpo_lib import SearchSpace, run_study

@cache
def load():
    return 2.0

def cost(configuration):
    return configuration["x"] * load()

if __name__ == "__main__":
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
    study = run_study(cost, space, "random", 2, name="s", storage="memory", workers=1)
    print(*[trial.state.name for trial in study.trials])
"""


@pytest.mark.slow
def test_a_cached_function_of_a_notebook_goes_to_workers():
    assert run_python(CACHED) == ["COMPLETE COMPLETE"]
