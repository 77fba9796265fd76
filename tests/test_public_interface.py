"""The public interface: importable, documented, and all that notebooks and README need."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpo_lib
import hpo_lib.plots

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPORTS = [(package, name) for package in (hpo_lib, hpo_lib.plots) for name in package.__all__]
PUBLIC = {name: getattr(hpo_lib, name) for name in hpo_lib.__all__}
EXAMPLES = (
    *("SearchSpace", "run_study", "gp_minimize", "trials_frame", "compare", "BayesSampler"),
    *("retrain_top_k", "fit_surrogate", "stopping_rules", "open_study"),
    *("findings", "ablation_path", "Findings"),
    *("import_trials", "change_space", "best_given", "promote", "annotate"),
    *("format_configuration", "compare_studies", "StudyComparison"),
)
"""Main entry points, whose docstrings have an example that runs."""


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def readme_examples() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def imported_modules(code: str) -> set[str]:
    nodes = ast.walk(ast.parse(code))
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {module for module in modules if module.split(".")[0] == "hpo_lib"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_import_from_two_places(notebook):
    assert imported_modules(code_of(notebook)) <= {"hpo_lib", "hpo_lib.plots"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_that_notebooks_import_are_exported(notebook):
    nodes = ast.walk(ast.parse(code_of(notebook)))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    for package in (hpo_lib, hpo_lib.plots):
        names = {a.name for node in imports if node.module == package.__name__ for a in node.names}
        assert names - set(package.__all__) == set()


def test_examples_of_the_readme_import_from_two_places():
    for example in readme_examples():
        assert imported_modules(example) <= {"hpo_lib", "hpo_lib.plots"}


def test_all_that_is_public_is_used_in_a_notebook_or_named_in_the_documentation():
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [*map(code_of, NOTEBOOKS), *(path.read_text(encoding="utf-8") for path in documents)]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    assert [name for _, name in EXPORTS if name not in words] == []


@pytest.mark.parametrize(
    ("package", "name"), EXPORTS, ids=lambda one: getattr(one, "__name__", one)
)
def test_public_names_are_documented(package, name):
    exported = getattr(package, name)
    if not callable(exported) or not hasattr(exported, "__name__"):
        return
    text = inspect.getdoc(exported) or ""
    assert text, name
    assert not re.match(r"(What|Of|Those|The) ", text), text
    try:
        parameters = inspect.signature(exported).parameters
    except ValueError:  # a class without a signature of its own
        return
    described = [p for p in parameters if not p.startswith("_")]
    if len(described) >= 2 and not getattr(exported, "_is_protocol", False):
        own = inspect.getdoc(exported.__init__) if inspect.isclass(exported) else ""
        assert re.search(r"^\s*(Args|Attributes):", f"{text}\n{own}", re.MULTILINE), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_main_entry_points_have_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported = getattr(hpo_lib, name)
    finder = doctest.DocTestFinder(recurse=False)
    (found,) = finder.find(exported, name, globs=dict(PUBLIC))
    assert found.examples
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found)
    assert results.failed == 0


@pytest.mark.slow
def test_the_interface_opens_without_torch_until_something_trains():
    code = "import sys, hpo_lib; hpo_lib.run_study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
