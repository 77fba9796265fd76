from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from hpo_lib.checks import EXTRA_MODULES
from hpo_lib.runner.notebooks import find_notebooks, read_notebook
from hpo_lib.runner.parameters import read_profile

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULE_FILES = sorted((ROOT / "hpo_lib").rglob("*.py"))
PROFILES = ("smoke", "quick", "laptop", "full")
CONDA_NAMES = {"torch": "pytorch"}


def requirements(lines: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in lines)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_environment_has_the_ranges_of_the_project(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-e .[all]"]}
    assert environment["channels"] == ["conda-forge"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["training"], *extras["notebooks"]]
    required = requirements(lines)
    expected = {CONDA_NAMES.get(name, name): limits for name, limits in required.items()}
    found = requirements(conda)
    assert found.pop("python") == project["requires-python"]
    assert found.pop("pip") == ""
    assert set(found) == {
        *("jupyterlab", "pytorch", "torchvision", "scikit-optimize"),
        *("matplotlib", "seaborn", "ipywidgets", "papermill"),
    }
    assert found == {name: expected[name] for name in found}


def test_what_notebooks_read_of_the_repository_goes_into_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = set(settings["targets"]["wheel"]["only-include"])
    text = "\n".join(path.read_text() for path in NOTEBOOKS)
    assert {"hpo_lib", "notebooks", *re.findall(r"results/reference/[\w.]*\w", text)} <= included


def test_all_is_every_extra_of_users_and_tests_have_them(project):
    extras = project["optional-dependencies"]
    assert extras["all"] == ["hpo-lib[training,notebooks,cluster]"]
    assert "hpo-lib[all,docs]" in extras["dev"]
    assert set(EXTRA_MODULES) == {"training", "notebooks", "cluster"}


def test_every_module_that_is_imported_comes_with_the_package_or_a_known_extra(project):
    names = {name for path in MODULE_FILES for name in imported(path)}
    names -= {"hpo_lib", *sys.stdlib_module_names}
    distributions = packages_distributions()
    base = {name.lower() for name in requirements(project["dependencies"])}
    in_base = {n for n in names if base & {d.lower() for d in distributions[n]}}
    in_extras = set().union(*EXTRA_MODULES.values())
    assert in_base | in_extras >= names
    assert in_base & in_extras == set()
    for extra, modules in EXTRA_MODULES.items():
        listed = requirements(project["optional-dependencies"][extra])
        found = {one.lower() for name in modules for one in distributions[name]}
        assert found & {name.lower() for name in listed}


@pytest.mark.parametrize(
    "name",
    [
        *("notebooks", "hpo_lib", "tests", "benchmarks", "docs", "results"),
        *("environment.yml", "pyproject.toml", "Makefile", "README.md", ".ci/run"),
    ],
)
def test_the_top_level_is_laid_out(name):
    assert (ROOT / name).exists()


def test_modules_stay_short():
    lines = {path.name: len(path.read_text().splitlines()) for path in MODULE_FILES}
    assert {name: n for name, n in lines.items() if n > 450} == {}


# Who imports torch


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_only_the_training_package_imports_torch():
    users = {
        path.parent.name for path in MODULE_FILES if {"torch", "torchvision"} & set(imported(path))
    }
    assert users == {"training"}


@pytest.mark.slow
def test_search_comparison_and_plots_open_without_torch():
    modules = ", ".join(
        f"hpo_lib.{one}"
        for one in ("__main__", "study.run", "plots.study", "comparison.run", "runner.run")
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# The notebooks as they are committed


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def cells(path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "text": "".join(cell["source"])} for cell in found]


def tree(text: str) -> ast.Module:
    """Parse a cell; a magic counts as nothing."""
    return ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", text, flags=re.MULTILINE))


@pytest.fixture
def code(cells) -> list[str]:
    return [cell["text"] for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def parameters(cells) -> str:
    (tagged,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return tagged["text"]


@pytest.mark.slow
def test_notebooks_are_stripped_as_the_hook_does_it():
    if NOTEBOOKS:
        command = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *NOTEBOOKS]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_notebook_begins_with_a_title(cells):
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["text"].startswith("# ")
    titles = [c for c in cells if c["cell_type"] == "markdown" and c["text"].startswith("# ")]
    assert len(titles) == 1


def test_text_comes_before_every_code_cell(cells):
    kinds = [cell["cell_type"] for cell in cells]
    assert [n for n in range(1, len(kinds)) if kinds[n - 1 : n + 1] == ["code", "code"]] == []


def test_parameters_are_typed_literals_with_a_comment(parameters, path):
    lines = [line for line in parameters.splitlines() if line and not line.startswith("#")]
    nodes = ast.parse(parameters).body
    assert len(lines) == len(nodes), "one line for each parameter, and nothing else"
    for line, node in zip(lines, nodes, strict=True):
        assert isinstance(node, ast.AnnAssign), line
        assert node.value is not None, line
        ast.literal_eval(node.value)
        assert re.search(r"  # \S", line), line
    declared = read_notebook(path).parameters
    assert all(p.type is not Any for p in declared.values())
    assert "run_folder" in declared


def test_papermill_reads_the_same_parameters(path):
    found = papermill.inspect_notebook(path)
    assert list(found) == list(read_notebook(path).parameters)
    assert all(parameter["help"] for parameter in found.values())


def lines_without_imports(text: str) -> int:
    imports = [n for n in ast.walk(tree(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    return len(text.splitlines()) - sum(n.end_lineno - n.lineno + 1 for n in imports)


def test_cells_are_short_and_hold_no_logic(code):
    assert [text for text in code if lines_without_imports(text) > 30] == []
    nodes = [node for text in code for node in ast.walk(tree(text))]
    assert [node.name for node in nodes if isinstance(node, ast.ClassDef)] == []


def test_cells_install_nothing_and_name_no_absolute_path(code):
    text = "\n".join(code)
    assert not re.search(r"\b(pip|conda|apt(-get)?)\s+install\b", text)
    assert not re.search(r"""["'](/|~|[A-Za-z]:\\)\w""", text)


def test_numbers_of_notebooks_are_used_once():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)
    assert all(number.isdecimal() for number in numbers)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_name_in_a_profile_is_declared(profile):
    file = ROOT / "notebooks" / "profiles.yaml"
    read_profile(file, profile, find_notebooks(ROOT / "notebooks"))
    assert set(yaml.safe_load(file.read_text())) == set(PROFILES)


def test_citation_changelog_and_licence_go_with_the_version(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert project["license"] == citation["license"] == "MIT"
    assert "the hpo-lib authors" in (ROOT / "LICENSE").read_text()
