"""The numbered notebooks as functions: which there are, what they declare, what each is given."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from hpo_lib.exceptions import RunError

PACKAGE_PARENT = Path(__file__).resolve().parents[2]

RUN_FOLDER = "run_folder"
"""The parameter through which a notebook learns where this run keeps its files."""

_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


# what reading a wrong file ends with: PyYAML's own, its slips at wrong tags, too deep a nesting
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError),
    *(yaml.YAMLError, RecursionError, MemoryError),
)


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell; without an annotation every value will do."""

    annotation: str
    type: Any
    default: Any


@dataclass(frozen=True)
class Notebook:
    """A notebook and the parameters that it declares."""

    path: Path
    parameters: dict[str, Parameter]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def notebooks_folder() -> Path:
    """The folder `notebooks` beside the package, else the one in the working directory."""
    for parent in (PACKAGE_PARENT, Path.cwd()):
        if (parent / "notebooks").is_dir():
            return parent / "notebooks"
    message = f"no folder notebooks beside the package ({PACKAGE_PARENT}) or in {Path.cwd()}"
    raise RunError(message)


def run_path(run_folder: str) -> Path:
    """The folder of a run, made if need be; a relative one is below the project's folder."""
    folder = notebooks_folder().parent / run_folder
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    return folder


def find_notebooks(folder: Path) -> list[Notebook]:
    """The numbered notebooks of a folder in number order."""
    return [read_notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def read_notebook(path: Path) -> Notebook:
    """Read which parameters a notebook declares; one without a parameters cell is fine."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        tree = ast.parse("".join(tagged[0]["source"]) if tagged else "")
        return Notebook(path, dict(_parameters(tree)))
    except _UNREADABLE as error:
        message = f"{path} is not a notebook that can be read: {type(error).__name__}: {error}"
        raise RunError(message) from error


def _parameters(tree: ast.Module) -> Iterable[tuple[str, Parameter]]:
    for line in tree.body:
        match line:
            case ast.AnnAssign(
                target=ast.Name(id=name), annotation=note, value=ast.expr() as value
            ):
                yield name, Parameter(ast.unparse(note), _type(note), _literal(value))
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, Parameter("", Any, _literal(value))
            case _:
                continue


def _type(annotation: ast.expr) -> Any:
    """The type that an annotation names; one that we do not know admits every value."""
    match annotation:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=element):
            return list[_type(element)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007
        case _:
            return Any


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)


def choose_notebooks(wanted: Sequence[str], known: Sequence[Notebook]) -> list[Notebook]:
    """Those meant by numbers (`5`, `05`), names or paths, in number order; all for none."""
    found = [n for text in wanted for n in _named(text, known)] if wanted else list(known)
    chosen = sorted({n.path.resolve(): n for n in found}.values(), key=lambda n: n.name)
    names = [notebook.name for notebook in chosen]
    if not names or len(set(names)) < len(names):
        message = f"the notebooks of a run must be at least one, differently named, got {names}"
        raise RunError(message)
    return chosen


def _named(text: str, known: Sequence[Notebook]) -> list[Notebook]:
    number = text.zfill(2) if text.isdecimal() else None
    found = [n for n in known if n.name == text or n.name.split("_")[0] == number]
    if found:
        return found
    path = user_path(text)
    if path.suffix == ".ipynb" and path.is_file():
        return [read_notebook(path)]
    names = [notebook.name for notebook in known]
    message = f"no notebook {text!r}{_close(text, names)}; there are: {', '.join(names) or 'none'}"
    raise RunError(message)


def user_path(text: str | Path) -> Path:
    """The whole path of what somebody typed."""
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links
        message = f"{str(text)!r} is no path: {error}"
        raise RunError(message) from error


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(names), n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def read_value(text: str) -> Any:
    """Read a value as papermill does (`1e-4` is a number, `True` a truth), and lists as YAML."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if text.startswith("["):
        try:
            return _read(yaml.safe_load(text))
        except _UNREADABLE:
            return text  # what it is meant for decides: a str takes it, a list refuses it
    return _WORDS.get(text, text)


def _read(value: Any) -> Any:
    """Read the strings inside too, since YAML takes `1e-4` without a dot for one."""
    if isinstance(value, list):
        return [_read(element) for element in cast(list[Any], value)]
    return read_value(value) if isinstance(value, str) else value


def convert(notebook: Notebook, name: str, given: Any) -> Any:
    """The value for a parameter: what the text says if the type admits that, else as given."""
    parameter = notebook.parameters[name]
    adapter = TypeAdapter[Any](parameter.type)
    for value in (_read(given), given):
        try:
            return adapter.validate_python(value, strict=True)
        except ValidationError:
            continue
    message = (
        f"parameter {name} of {notebook.name} must be {parameter.annotation}, "
        f"got {given!r} (its default is {parameter.default!r})"
    )
    raise RunError(message)


def read_profile(path: Path, profile: str, known: Sequence[Notebook]) -> dict[str, dict[str, Any]]:
    """What a profile sets in each notebook: the shared values, then those of its own section.

    A name that no notebook declares is refused: it would be a setting without effect.
    """
    profiles = _read_profiles(path)
    if profile not in profiles:
        message = f"no profile {profile!r} in {path}; there are: {', '.join(profiles)}"
        raise RunError(message)
    content = profiles[profile]
    sections: dict[str, dict[str, Any]]
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    shared = {key: value for key, value in content.items() if key not in sections}
    by_name = {notebook.name: notebook for notebook in known}
    unknown = [f"{name!r}{_close(name, by_name)}" for name in sections if name not in by_name]
    unknown += _undeclared(shared, known)
    for name, notebook in by_name.items():
        unknown += _undeclared(sections.get(name, {}), [notebook])
    if unknown:
        message = f"profile {profile!r} in {path} sets what nothing declares: {'; '.join(unknown)}"
        raise RunError(message)
    return {n.name: _given(n, {**shared, **sections.get(n.name, {})}) for n in known}


def _read_profiles(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, dict[str, Any]]).validate_python(content)
    except _UNREADABLE as error:
        message = f"{path} must map each profile to the parameters that it sets: {error}"
        raise RunError(message) from error


def settings(
    chosen: Sequence[Notebook], profile: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each chosen notebook is handed: the profile's values, then the given ones."""
    if RUN_FOLDER in given:
        message = f"{RUN_FOLDER} is set by the runner; choose the folder with --into"
        raise RunError(message)
    unknown = _undeclared(given, chosen)
    if unknown:
        message = (
            f"no chosen notebook declares {'; '.join(unknown)}; "
            f"declared are: {', '.join(sorted(_names(chosen))) or 'none'}"
        )
        raise RunError(message)
    return {n.name: {**profile.get(n.name, {}), **_given(n, given)} for n in chosen}


def _given(notebook: Notebook, values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: convert(notebook, k, v) for k, v in values.items() if k in notebook.parameters}


def _undeclared(names: Iterable[str], notebooks: Sequence[Notebook]) -> list[str]:
    declared = _names(notebooks)
    return [f"{name!r}{_close(str(name), declared)}" for name in names if name not in declared]


def _names(notebooks: Sequence[Notebook]) -> set[str]:
    return {name for notebook in notebooks for name in notebook.parameters} - {RUN_FOLDER}
