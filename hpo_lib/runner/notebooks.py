"""Find the numbered notebooks, choose among them and read the parameters that they declare."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hpo_lib.exceptions import RunError
from hpo_lib.files import project_folder, user_path

_TYPE_NAMES = {"bool", "dict", "float", "int", "list", "str", "None"}


@dataclass(frozen=True)
class Parameter:
    """One assignment in the parameters cell of a notebook.

    Attributes:
        annotation: the type as it is written; empty where there is none.
        type: checks values against it; one with unknown names admits every value.
        default: the value of a literal, or the source of another expression.
    """

    annotation: str
    type: TypeAdapter[Any]
    default: Any


@dataclass(frozen=True)
class Notebook:
    """A notebook and the parameters that it declares.

    Attributes:
        path: the file.
        parameters: by name, in the order of the parameters cell.
    """

    path: Path
    parameters: dict[str, Parameter]

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return self.path.stem


def notebooks_folder() -> Path:
    """Return the folder `notebooks` of the project."""
    folder = project_folder() / "notebooks"
    if not folder.is_dir():
        message = f"no folder {folder}: python -m hpo_lib new DIR makes a project"
        raise RunError(message)
    return folder


def run_path(run_folder: str) -> Path:
    """Make and return the folder of a run; a relative one is below the project's folder."""
    folder = project_folder() / run_folder
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    return folder


def find_notebooks(folder: Path) -> list[Notebook]:
    """Return the numbered notebooks of a folder in number order."""
    return [read_notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def choose_notebooks(requested: Sequence[str], known: Sequence[Notebook]) -> list[Notebook]:
    """Return the requested notebooks in number order.

    Args:
        requested: numbers (`5`, `05`), names or paths; all known notebooks when empty.
        known: the numbered notebooks.

    Raises:
        RunError: a notebook does not exist, or two have the same name.
    """
    chosen = [notebook for text in requested for notebook in _matches(text, known)] or known
    by_path = {notebook.path.resolve(): notebook for notebook in chosen}
    ordered = sorted(by_path.values(), key=lambda notebook: notebook.name)

    names = [notebook.name for notebook in ordered]
    if not names or len(set(names)) < len(names):
        message = f"the notebooks of a run must be at least one, differently named, got {names}"
        raise RunError(message)
    return ordered


def _matches(text: str, known: Sequence[Notebook]) -> list[Notebook]:
    number = text.zfill(2) if text.isdecimal() else None
    matches = [n for n in known if n.name == text or n.name.split("_")[0] == number]
    if matches:
        return matches

    path = user_path(text)
    if path.suffix == ".ipynb" and path.is_file():
        return [read_notebook(path)]

    names = [notebook.name for notebook in known]
    unknown = with_suggestions(text, names)
    message = f"no notebook {unknown}; there are: {', '.join(names) or 'none'}"
    raise RunError(message)


def with_suggestions(name: str, known: Iterable[str]) -> str:
    """Return an unknown name in quotes, followed by the known names that resemble it.

    Args:
        name: the name that was typed.
        known: the names that may have been meant.
    """
    similar = difflib.get_close_matches(name, sorted(known))
    return f"{name!r} (did you mean {' or '.join(similar)}?)" if similar else repr(name)


def read_notebook(path: Path) -> Notebook:
    """Read which parameters a notebook declares; one without a parameters cell declares none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        source = "".join(tagged[0]["source"]) if tagged else ""
        return Notebook(path, _declared_parameters(source))
    except SyntaxError as error:
        message = f"the parameters cell of {path} must be plain Python without magics: {error}"
        raise RunError(message) from error
    except Exception as error:
        message = f"{path} is not a notebook that can be read: {type(error).__name__}: {error}"
        raise RunError(message) from error


def _declared_parameters(source: str) -> dict[str, Parameter]:
    """Return the parameters of a cell by name, without running the cell.

    `papermill.inspect_notebook` overlooks `float | None` and values that contain `=` or `#`.
    """
    parameters: dict[str, Parameter] = {}
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(
                target=ast.Name(id=name),
                annotation=annotation,
                value=ast.expr() as value,
            ):
                parameters[name] = _parameter(ast.unparse(annotation), value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                parameters[name] = _parameter("", value)
            case _:
                pass

    return parameters


def _parameter(annotation: str, value: ast.expr) -> Parameter:
    # Pydantic evaluates the annotation: only subscripts and unions of these types are.
    words = re.findall(r"[^][,| ]+", annotation)
    is_known = bool(words) and _TYPE_NAMES.issuperset(words)
    declared: Any = annotation if is_known else Any
    try:
        default = ast.literal_eval(value)
    except ValueError:
        default = ast.unparse(value)

    return Parameter(annotation, TypeAdapter(declared), default)
