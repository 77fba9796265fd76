"""Whatever is typed, written or handed in, the answer is one clear error of ours, or it works.

An error counts as ours when it is raised by our code and says something, or when it is argparse's
usage error. A refused call leaves no file behind.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import hpo_lib
from hpo_lib.__main__ import main
from hpo_lib.comparison.training_records import read_record
from hpo_lib.exceptions import RunError
from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder, read_notebook
from hpo_lib.runner.parameters import assign_values, read_profile
from hpo_lib.runner.record import NotebookRun
from hpo_lib.space.search_space import PRESETS, SearchSpace
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, bowl

PACKAGE = str(Path(hpo_lib.__file__).parent)
QUICK, FULL = 50, 800

# What a shell may hand over, but no characters that lead out of the test's folder.
WORDS = st.text(st.characters(exclude_characters="/~\0", exclude_categories=["Cs"]), max_size=12)
WORDS |= st.sampled_from(["\udcff", "", "x" * 300, "-", "--", "-1", "1e-4", "[1", "..", "."])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
SCALARS |= st.sampled_from([1e-4, "1e-4", 2**53 + 1, 10**400, "on", "2001-99-99", "lr"])
THINGS: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
YAML_BITS = [*"{}[]:,&*!|>?-#%@`'\" \n\t\0", "!!int ", "!!timestamp x", "<<: ", "---\n", "1e-4"]
YAML_BITS += ["9" * 5000, "[" * 3000, ".inf", "~", "lr", "low: ", "when: ", "\ufeff", "\U0001f600"]


@st.composite
def mutated(draw, text: str, bits: list[str]) -> str:
    """A few places of the text deleted, overwritten or added to."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        gone = draw(st.integers(0, 12))
        new = draw(st.sampled_from(bits) | st.text(max_size=4) | st.just(""))
        text = text[:start] + new + text[start + gone :]
    return text


@pytest.fixture(scope="module")
def tally() -> Counter[str]:
    """What was tried by all tests of this file."""
    return Counter()


@pytest.fixture
def fuzz(tally, full) -> Callable[..., None]:
    """Hand many inputs to a function: it works or raises one error of ours."""

    def run(
        strategy: st.SearchStrategy[Any], attempt: Callable[[Any], object], slower: int = 1
    ) -> None:
        @hypothesis_settings(
            max_examples=(FULL if full else QUICK) // slower,
            deadline=None,
            database=None,
            derandomize=not full,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(value: Any) -> None:
            tally["inputs"] += 1
            try:
                attempt(value)
            except BaseException as error:
                if not is_ours(error):
                    tally["uncaught"] += 1
                    raise

        each()

    return run


def is_ours(error: BaseException) -> bool:
    """Raised by our own code, with something to read."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and frames[-1].filename.startswith(PACKAGE) and str(error)


def check_space(space: SearchSpace) -> None:
    """What was accepted can be used and written."""
    assert SearchSpace.from_yaml(space.to_yaml()) == space
    assert space.contains(space.default_configuration())
    space.check(space.sample(np.random.default_rng(0)))
    assert space.grid_size() > 0


def test_any_text_as_a_space(fuzz):
    texts = st.text() | st.lists(st.sampled_from(YAML_BITS) | st.text(max_size=3)).map("".join)
    fuzz(texts, lambda text: check_space(SearchSpace.from_yaml(text)))


BODIES = st.dictionaries(
    st.sampled_from(["type", "low", "high", "log", "step", "prior", "default", "fixed", "options"])
    | st.sampled_from(["when", "lr"]),
    SCALARS | THINGS | st.sampled_from(["float", "int", "choice", {"a": 1}, {"b": [1, True]}]),
)
TYPED = st.builds(
    lambda kind, body: {"type": kind, "low": 1, "high": 9, **body},
    st.sampled_from(["float", "int", "choice"]),
    BODIES,
)


def test_any_structure_as_a_space(fuzz):
    names = st.sampled_from(["a", "b", "lr"]) | st.text(max_size=3)
    structures = THINGS | st.dictionaries(names, BODIES | TYPED | THINGS, max_size=4)
    fuzz(structures, lambda thing: check_space(SearchSpace.from_dict(thing)))
    written = structures.map(lambda thing: yaml.safe_dump(thing, allow_unicode=True))
    fuzz(written, lambda text: check_space(SearchSpace.from_yaml(text)))


def test_a_valid_space_with_mistakes(fuzz):
    texts = [TOY_SPACE.to_yaml(), *(SearchSpace.preset(name).to_yaml() for name in PRESETS)]
    fuzz(
        st.sampled_from(texts).flatmap(lambda text: mutated(text, YAML_BITS)),
        lambda text: check_space(SearchSpace.from_yaml(text)),
    )


def test_any_file_as_a_space(fuzz):
    def attempt(content: bytes) -> None:
        Path("space.yaml").write_bytes(content)
        check_space(SearchSpace.load("space.yaml"))

    fuzz(st.binary() | mutated(TOY_SPACE.to_yaml(), YAML_BITS).map(str.encode), attempt)


def test_any_parameter_of_the_notebooks(fuzz):
    known = find_notebooks(notebooks_folder())
    names = st.sampled_from(sorted({name for n in known for name in n.parameters})) | WORDS
    values = WORDS | SCALARS.map(str) | mutated("[1, [2.5, a], true]", YAML_BITS)

    def attempt(given: tuple[str, str]) -> None:
        json.dumps(assign_values(known, {}, dict([given])))

    fuzz(st.tuples(names, values), attempt)


def test_any_file_of_profiles(fuzz):
    known = find_notebooks(notebooks_folder())
    text = (notebooks_folder() / "profiles.yaml").read_text()
    structures = st.dictionaries(st.just("smoke") | WORDS, THINGS | st.dictionaries(WORDS, THINGS))

    def attempt(content: bytes) -> None:
        Path("profiles.yaml").write_bytes(content)
        json.dumps(read_profile(Path("profiles.yaml"), "smoke", known))

    texts = mutated(text, YAML_BITS) | structures.map(yaml.safe_dump)
    fuzz(st.binary() | texts.map(str.encode), attempt)


def test_any_file_as_a_notebook(fuzz):
    source = (notebooks_folder() / "08_scale_out.ipynb").read_text()
    lines = st.lists(
        st.sampled_from(["x: ", "int", "list[", "]", " = ", "{[]: 1}", "1", "-" * 9999, "(" * 300])
        | st.text(max_size=3),
    ).map("".join)
    cells = lines.map(
        lambda text: json.dumps(
            {"cells": [{"metadata": {"tags": ["parameters"]}, "source": [text]}]}
        )
    )

    def attempt(content: bytes) -> None:
        Path("x.ipynb").write_bytes(content)
        notebook = read_notebook(Path("x.ipynb"))
        for name in notebook.parameters:
            assign_values([notebook], {}, {name: "1"})

    texts = cells | mutated(source, ["[", '"', "}", "[" * 3000, "null"])
    fuzz(st.binary() | texts.map(str.encode), attempt)


RECORD = "lr,depth,validation_error,seconds\n0.1,2,0.5 0.4,1 1\n0.2,4,0.3 0.2,2 2\n0.1,6,0.9,1\n"
RECORD_SPACE = "lr: {type: float, low: 0.1, high: 1.0}\ndepth: {type: int, low: 2, high: 9}\n"
RECORD_BITS = [",", "\n", '"', "nan", "inf", "-1", " ", "\0", "1e999", "lr", "\r", "\ufeff", "''"]


def test_any_record(fuzz):
    abouts = st.fixed_dictionaries(
        {},
        optional={
            "space": st.just(RECORD_SPACE) | mutated(RECORD_SPACE, YAML_BITS) | SCALARS,
            "budget": st.integers(-1, 3) | SCALARS,
        },
    )
    texts = (abouts | THINGS).map(json.dumps).map(str.encode) | st.binary()
    texts |= st.sampled_from([b"[" * 99999, b"9" * 9999])
    tables = st.binary() | (st.just(RECORD) | mutated(RECORD, RECORD_BITS)).map(str.encode)
    packed = tables.map(gzip.compress)
    cut = st.builds(lambda content, n: content[:n], packed, st.integers(0, 60))

    def attempt(given: tuple[bytes, tuple[str, bytes]]) -> None:
        about, (name, table) = given
        Path("record.json").write_bytes(about)
        Path(name).write_bytes(table)
        record = read_record(name)
        assert np.isfinite(record.best)
        assert record.budget >= 1

    plain = st.tuples(st.just("record.csv"), tables)
    fuzz(st.tuples(texts, plain | st.tuples(st.just("record.csv.gz"), packed | cut)), attempt)
    right = json.dumps({"space": RECORD_SPACE}).encode()
    fuzz(st.tuples(st.just(right), plain), attempt)


STORAGES = ["studies.db", "missing.db", "garbage.db", "garbage.db/x", "memory", "sqlite://", "://"]
STORAGES += ["sqlite:///studies.db", "sqlite:///", "mysql://x", "foo://bar", "redis://127.0.0.1:1"]
TOKENS = [*"05", "run", "studies", "clean", "--profile", "smoke", "--data", "digits", "folder:x"]
TOKENS += ["--into", "full", "garbage", "new", "-p", "n_trials", "seed", "--storage", "--delete"]
TOKENS += ["there", "~nobody", "folder:~nobody", "--yes", "-h", "--into=", "run_folder"]
TOKENS += ["garbage.ipynb", "--promote", "--change-space", "--note", "--best", *STORAGES]


def everything() -> dict[str, bytes]:
    """All files but those that SQLite keeps while a file is open."""
    files = (path for path in Path().rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if "studies.db" not in path.name}


def test_any_arguments_on_the_command_line(fuzz, tmp_path, monkeypatch):
    """In a project of its own: `clean --yes` means what it says."""
    shutil.copytree(notebooks_folder(), "notebooks")
    monkeypatch.setattr("hpo_lib.files.PACKAGE_PARENT", tmp_path)
    monkeypatch.setattr("hpo_lib.runner.run.execute", lambda *_: NotebookRun("ok"))
    monkeypatch.setattr("hpo_lib.runner.report.write_report", lambda *_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name in ("garbage.db", "garbage.ipynb"):
        Path(name).write_bytes(b"garbage \xff")
    run_study(bowl, TOY_SPACE, "random", 1, name="there", storage="studies.db", workers=0)

    def attempt(arguments: list[str]) -> None:
        for folder, content in (("full", "other"), ("garbage", "run.json")):
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / content).write_bytes(os.urandom(4))
        before = everything()
        stream = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace", write_through=True)
        with redirect_stdout(stream), redirect_stderr(stream):
            try:
                code = main(arguments)
            except SystemExit as error:
                code = error.code
        if code not in (0, None):
            assert everything() == before
            assert stream.buffer.getvalue().strip()

    words = st.sampled_from(TOKENS) | WORDS
    starts = st.sampled_from(
        [["run"], ["studies", "--storage"], ["studies", "--delete"], ["run", "-p"], []]
    )
    fuzz(st.builds(list.__add__, starts, st.lists(words, max_size=6)), attempt, slower=5)


def test_the_measure_of_an_error_is_strict():
    with pytest.raises(json.JSONDecodeError) as library:
        json.loads("{")
    assert not is_ours(library.value)
    with pytest.raises(RunError) as ours:
        assign_values([], {}, {"x": "1"})
    assert is_ours(ours.value)


def test_all_of_it_was_answered(tally, report):
    if not tally["inputs"]:
        pytest.skip("the tests that count were not chosen")
    report(f"inputs fuzzed: {tally['inputs']:,}, uncaught: {tally['uncaught']}")
    assert not tally["uncaught"]
