"""Assign values to the parameters of notebooks: from profiles, then from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from hpo_lib.exceptions import RunError
from hpo_lib.files import user_path
from hpo_lib.runner.notebooks import Notebook, with_suggestions

RUN_FOLDER = "run_folder"
"""Parameter through which a notebook learns where a run keeps its files."""

Values = dict[str, Any]

# The constants as Python and as JSON write them.
_CONSTANTS = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "null": None,
}


# Parameters that hold a path: where it stands in the value, and what is to be there.
_PATHS = {
    "data": (r"folder:(.+)", "a folder", Path.is_dir),
    "data_root": (r"(.+)", "a folder or an archive", Path.exists),
    "record": (r"(.+)", "a file", Path.is_file),
    "space": (r"(.+\.ya?ml)", "a file", Path.is_file),
}


class _ValueLoader(yaml.BaseLoader):
    """Load YAML, reading plain scalars as on the command line; quoted ones stay text.

    Like its base class, it constructs nothing but lists, dictionaries and scalars.
    """

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Return the value of a plain scalar, or the text of a quoted one."""
        text = super().construct_scalar(node)
        if node.style is not None:
            return text
        return _read_scalar(text) if text else None


def read_value(text: str, loader: type[yaml.BaseLoader] = _ValueLoader) -> Any:
    """Return the value of text that is typed on the command line.

    Args:
        text: a scalar, which is read as papermill does (`1e-4`, `True`), or a list or a mapping
            in YAML or JSON.
        loader: reads lists and mappings.
    """
    if not text.startswith(("[", "{")):
        return _read_scalar(text)
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text  # the declared type decides: a str takes it, a list refuses it


def _read_scalar(text: str) -> Any:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return _CONSTANTS.get(text, text)


def convert(notebook: Notebook, name: str, value: Any) -> Any:
    """Return a value as the type that a notebook declares for a parameter.

    Args:
        notebook: the notebook that declares the parameter.
        name: the name of the parameter.
        value: text is read as the declared type; any other value must have that type.

    Raises:
        RunError: the value is not of the declared type.
    """
    parameter = notebook.parameters[name]
    readings = [value]
    if isinstance(value, str) and parameter.annotation != "str":
        # Every scalar as text comes second: [01, None] for list[str].
        readings = [read_value(value), read_value(value, yaml.BaseLoader), value]

    for reading in readings:
        try:
            return parameter.type.validate_python(reading, strict=True)
        except ValidationError:
            continue

    message = (
        f"parameter {name} of {notebook.name} must be {parameter.annotation}, "
        f"got {value!r} (its default is {parameter.default!r})"
    )
    raise RunError(message)


def read_profile(path: Path, profile: str, known: Sequence[Notebook]) -> dict[str, Values]:
    """Return the values that a profile sets in each notebook, by the notebook's name.

    Args:
        path: a YAML file that maps each profile to values shared by all notebooks that declare
            them, and to sections with the values of single notebooks.
        profile: the name of the profile.
        known: the notebooks; a name that none of them declares is refused, as it has no effect.

    Raises:
        RunError: the file cannot be read, or the profile is missing or sets something unknown.
    """
    profiles = _read_profiles(path)
    if profile not in profiles:
        message = f"no profile {profile!r} in {path}; there are: {', '.join(profiles)}"
        raise RunError(message)

    # A mapping under a notebook's name is its section, any other one is a value.
    names = {notebook.name for notebook in known}
    shared = profiles[profile]
    sections = {key: shared[key] for key in names if isinstance(shared.get(key), dict)}
    shared = {key: value for key, value in shared.items() if key not in sections}
    source = f"profile {profile!r} in {path}"
    _check_declared(shared, known, source)

    # A value of a notebook's own section goes before a shared one.
    values: dict[str, Values] = {}
    for notebook in known:
        section = sections.get(notebook.name, {})
        _check_declared(section, [notebook], source)
        values[notebook.name] = _convert_all(notebook, shared | section)
    return values


def _read_profiles(path: Path) -> dict[str, Values]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _ValueLoader)
        return TypeAdapter(dict[str, Values]).validate_python(content)
    except Exception as error:
        message = f"{path} must map each profile to the parameters that it sets: {error}"
        raise RunError(message) from error


def assign_values(
    chosen: Sequence[Notebook], profile: Mapping[str, Values], given: Values
) -> dict[str, Values]:
    """Return the values that each chosen notebook is executed with, by the notebook's name.

    Args:
        chosen: the notebooks of the run.
        profile: values by notebook, as `read_profile` returns them.
        given: values of the command line, which override those of the profile.

    Raises:
        RunError: no chosen notebook declares a given name, or a value has the wrong type.
    """
    if RUN_FOLDER in given:
        message = f"{RUN_FOLDER} is set by the runner; choose the folder with --into"
        raise RunError(message)

    _check_declared(given, chosen, "the request")
    values: dict[str, Values] = {}
    for notebook in chosen:
        defaults = profile.get(notebook.name, {})
        values[notebook.name] = defaults | _convert_all(notebook, given)
    return values


def resolve_paths(values: Values) -> Values:
    """Return values with absolute paths: the user means them from here, notebooks run elsewhere.

    Args:
        values: values of the command line.

    Raises:
        RunError: a file or a folder is not there.
        PathError: a path leads nowhere.
    """
    resolved = dict(values)
    for name, (pattern, kind, is_there) in _PATHS.items():
        text = str(values.get(name, ""))
        match = re.fullmatch(pattern, text)
        if match is None:
            continue

        path = user_path(match[1])
        if not is_there(path):
            message = f"{name} names {kind} that does not exist: {path}"
            raise RunError(message)
        resolved[name] = text[: match.start(1)] + str(path)

    return resolved


def _check_declared(values: Values, notebooks: Sequence[Notebook], source: str) -> None:
    declared = {name for notebook in notebooks for name in notebook.parameters} - {RUN_FOLDER}
    unknown = [with_suggestions(name, declared) for name in values if name not in declared]
    if unknown:
        message = (
            f"{source} sets what no chosen notebook declares: {'; '.join(unknown)}; "
            f"declared are: {', '.join(sorted(declared)) or 'none'}"
        )
        raise RunError(message)


def _convert_all(notebook: Notebook, values: Values) -> Values:
    declared = notebook.parameters
    return {name: convert(notebook, name, values[name]) for name in values if name in declared}
