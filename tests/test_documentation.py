"""README, documentation and notebooks name only what exists."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hpo_lib
import hpo_lib.plots
from hpo_lib import replay, run_study
from hpo_lib.loop import as_objective
from tests.toys import TOY_SPACE, bowl

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def text_of(path: Path) -> str:
    """Return a document, or the text and the code of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def guide_examples(title: str) -> list[str]:
    """Return the code of a section of the guide."""
    guide = (ROOT / "docs" / "GUIDE.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {title}\n(.*?)^## ", guide, re.MULTILINE | re.DOTALL)
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(params=[*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.stem)
def document(request) -> str:
    return text_of(request.param)


def test_every_named_test_file_exists(document):
    named = set(re.findall(r"[\w/]*\btest_\w+\.py", document))
    paths = {name: ROOT / "tests" / name.removeprefix("tests/") for name in named}
    missing = [name for name, path in paths.items() if not path.is_file()]
    assert sorted(missing) == []


def test_every_dotted_name_of_the_package_resolves(document):
    for name in sorted(set(re.findall(r"\bhpo_lib(?:\.[A-Za-z_]\w*)+", document))):
        pkgutil.resolve_name(name)


def test_every_named_script_notebook_and_document_exists(document):
    folders = "benchmarks|docs|notebooks|results/reference"
    named = set(re.findall(rf"(?<![\w/<>])(?:{folders})/[\w./]*\w", document))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert sorted(missing) == []


def test_every_make_target_is_in_the_makefile(document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", document, re.MULTILINE))
    assert named <= targets


def test_every_notebook_in_the_table_of_the_readme_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\d\d_\w+)` \|", readme, re.MULTILINE)
    assert named == [path.stem for path in NOTEBOOKS]


def test_options_of_benchmarks_exist(document):
    for script, arguments in re.findall(r"(benchmarks/\w+\.py)([^`]*)`", document):
        code = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z-]+", arguments):
            assert f'"{option}"' in code, f"{script} {option}"


def test_the_strategy_of_the_guide_searches_and_resumes():
    (code,) = guide_examples("A strategy of your own")
    names: dict[str, Any] = {"__name__": "guide"}
    exec(code, names)

    def search(name: str, n_trials: int) -> list[dict[str, Any]]:
        sampler = names["NearBest"](TOY_SPACE, seed=0)
        study = run_study(bowl, TOY_SPACE, sampler, n_trials, name=name, workers=0)
        return [trial.params for trial in study.trials]

    whole = search("whole", 9)
    search("parts", 4)
    assert search("parts", 9) == whole

    # Every other trial differs from an earlier one in a single value.
    def n_changed(one: dict[str, Any], other: dict[str, Any]) -> int:
        return sum(one.get(name) != other.get(name) for name in {*one, *other})

    for number in (1, 3, 5, 7):
        assert min(n_changed(whole[number], earlier) for earlier in whole[:number]) <= 2
    frame = replay(
        as_objective(bowl),
        TOY_SPACE,
        {"near best": lambda seed: names["NearBest"](TOY_SPACE, seed), "random": "random"},
        [0, 1],
        5,
    )
    assert set(frame["strategy"]) == {"near best", "random"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_has_all_tasks_and_public_names_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr

    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("reference/*/index.html")]
    anchors = set(re.findall(r'id="hpo_lib[\w.]*\.(\w+)"', "".join(pages)))
    assert {*hpo_lib.__all__, *hpo_lib.plots.__all__} <= anchors

    guide = (ROOT / "docs" / "GUIDE.md").read_text(encoding="utf-8")
    sections = re.findall("^## (.*)", guide, re.MULTILINE)
    assert len(list(tmp_path.glob("guide/*/index.html"))) == len(sections)
