"""The search space: named hyperparameters in order, with conditions, and its form as YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from hpo_lib.checks import check_member, check_whole
from hpo_lib.exceptions import SpaceError
from hpo_lib.files import atomic_write_text
from hpo_lib.space.parameters import (
    TYPES,
    ChoiceParameter,
    Configuration,
    FloatParameter,
    IntParameter,
    Parameter,
    Value,
    read_conditions,
)
from hpo_lib.space.yaml_io import label, read_yaml, yaml_line

__all__ = [
    "PRESETS",
    "ChoiceParameter",
    "Configuration",
    "FloatParameter",
    "IntParameter",
    "Parameter",
    "SearchSpace",
    "SpaceError",
    "Value",
]

PRESETS = ("reference", "small")
MAX_GRID = 100_000


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Hyperparameters in order; a condition looks at parameters before its own only."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.parameters:
            problems.append("search space: must have at least one parameter, got none")
        if len(set(self.names)) < len(self.names):
            problems.append(f"search space: names must all differ, got {', '.join(self.names)}")
        conditions = {one.name: one.when for one in self.parameters}
        problems += _condition_problems(conditions, self.parameters)
        if problems:
            raise SpaceError(problems)
        met = tuple(_with_exact_conditions(one, self) for one in self.parameters)
        object.__setattr__(self, "parameters", met)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> SearchSpace:
        """Read `{name: {type: ..., ...}}`; SpaceError with all mistakes."""
        return cls._parse(mapping, [])

    @classmethod
    def from_yaml(cls, text: str) -> SearchSpace:
        """Read the written form; SpaceError with all mistakes."""
        try:
            mapping, problems = read_yaml(text)
        except ValueError as error:
            raise SpaceError([f"search space: must be valid YAML, got {error}"]) from error
        return cls._parse({} if mapping is None else mapping, problems)

    @classmethod
    def _parse(cls, mapping: object, problems: list[str]) -> SearchSpace:
        if not isinstance(mapping, Mapping):
            rule = "must be a mapping of names to parameters"
            raise SpaceError([*problems, f"search space: {rule}, got {mapping!r}"])
        parameters: list[Parameter] = []
        conditions: dict[str, Mapping[str, tuple[Value, ...]]] = {}
        for name, body in cast("Mapping[str, Any]", mapping).items():
            read, mistakes = _read(name, body)
            parameters += read
            problems += mistakes
            try:
                conditions[name] = read_conditions(body["when"])
            except (KeyError, TypeError, ValueError):  # none, or a mistake that is listed already
                conditions[name] = {}
        problems += _condition_problems(conditions, parameters)
        if problems:
            raise SpaceError(problems)
        return cls(tuple(parameters))

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """Read a YAML file; SpaceError with all mistakes, each with the file's name."""
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SpaceError([f"{path}: search space: must be UTF-8 text, got {error}"]) from error
        except SpaceError as error:
            raise SpaceError([f"{path}: {problem}" for problem in error.problems]) from error

    @classmethod
    def preset(cls, name: str) -> SearchSpace:
        """The space `small` (no GPU needed) or `reference` (the recipe's ranges)."""
        check_member("preset", name, PRESETS)
        file = resources.files("hpo_lib.space.search_space") / "presets" / f"{name}.yaml"
        return cls.from_yaml(file.read_text(encoding="utf-8"))

    def to_yaml(self) -> str:
        """The canonical written form, one line per parameter."""
        return "".join(yaml_line(one.name, one.to_dict()) for one in self.parameters)

    def save(self, path: str | Path) -> None:
        """Write the YAML file, whole or not at all; folders that are missing are made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, self.to_yaml())

    def __len__(self) -> int:
        return len(self.parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return {one.name: one for one in self.parameters}[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __eq__(self, other: object) -> bool:
        # The text tells 1 from True, which a comparison of the options does not.
        return isinstance(other, SearchSpace) and self.to_yaml() == other.to_yaml()

    @property
    def names(self) -> tuple[str, ...]:
        """All names in order."""
        return tuple(one.name for one in self.parameters)

    @property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters without a fixed value."""
        return tuple(one for one in self.parameters if one.fixed is None)

    def default_configuration(self) -> Configuration:
        """Defaults and fixed values of the parameters that are active with them."""
        return self.complete({one.name: one.default for one in self.parameters})

    def complete(self, values: Mapping[str, Any]) -> Configuration:
        """Add fixed values, drop inactive and unknown ones, refuse wrong ones; in space order."""
        configuration, problems = self._resolve(values)
        if problems:
            raise SpaceError(problems)
        return configuration

    def check(self, configuration: Mapping[str, Any]) -> Configuration:
        """`complete`, which refuses unknown names and other values for fixed parameters too."""
        completed, problems = self._resolve(configuration)
        for name, value in configuration.items():
            if name not in self.names:
                known = f"known are {', '.join(map(label, self.names))}"
                problems.append(f"{label(name)}: unknown parameter, got {value!r}; {known}")
            elif name in completed and self[name].fixed not in (None, value):
                problems.append(f"{label(name)}: is fixed at {completed[name]!r}, got {value!r}")
        if problems:
            raise SpaceError(problems)
        return completed

    def contains(self, configuration: Mapping[str, Any]) -> bool:
        """Whether `check` accepts it."""
        try:
            self.check(configuration)
        except SpaceError:
            return False
        return True

    def _resolve(self, values: Mapping[str, Any]) -> tuple[Configuration, list[str]]:
        """The active values that are right, and what is wrong with the others."""
        configuration: Configuration = {}
        problems: list[str] = []
        for one in self.parameters:
            if not one.is_met(configuration):
                continue
            if one.fixed is not None:
                configuration[one.name] = one.fixed
            elif one.name not in values:
                problems.append(f"{label(one.name)}: must have a value, got none")
            else:
                try:
                    configuration[one.name] = one.convert(values[one.name])
                except ValueError as error:
                    problems.append(f"{label(one.name)}: {error}")
        return configuration, problems

    def sample(self, rng: np.random.Generator, prior_seed: int = 0) -> Configuration:
        """A draw from the priors; takes as many numbers from `rng` whatever is active."""
        return self.from_unit(rng.random(len(self.searched)).tolist(), prior_seed)

    def from_unit(self, u: Sequence[float], prior_seed: int = 0) -> Configuration:
        """The inverse of the priors: `u` has a number in [0, 1] per searched parameter."""
        if len(u) != len(self.searched) or not all(0 <= one <= 1 for one in u):
            message = f"u must be {len(self.searched)} numbers in [0, 1], got {u!r}"
            raise ValueError(message)
        pairs = zip(self.searched, u, strict=True)
        return self.complete({one.name: one.from_unit(float(x), prior_seed) for one, x in pairs})

    def distributions(self) -> dict[str, BaseDistribution]:
        """All searched parameters, active or not, as Optuna writes them."""
        return {one.name: one.distribution() for one in self.searched}

    def suggest(self, trial: BaseTrial) -> Configuration:
        """Ask a trial for the active values, one after the other."""
        configuration: Configuration = {}
        for one in self.parameters:
            if one.is_met(configuration):
                value = one.suggest(trial) if one.fixed is None else one.fixed
                configuration[one.name] = one.convert(value)
        return configuration

    def grid(self, points: int = 3) -> list[Configuration]:
        """Every combination of options and of `points` values per range, each once."""
        if (size := self.grid_size(points)) > MAX_GRID:
            limit = f"a grid may have {MAX_GRID:,} configurations"
            message = f"{limit}, got {size:,} (points={points})"
            raise ValueError(message)
        grid: list[Configuration] = [{}]
        for one in self.parameters:
            values = one.grid_values(points)
            grid = [
                shorter if value is None else shorter | {one.name: value}
                for shorter in grid
                for value in (values if one.is_met(shorter) else [None])
            ]
        return grid

    def grid_size(self, points: int = 3) -> int:
        """How many configurations `grid` has, without building it."""
        check_whole("points", points, 1)
        # Of the values so far, only those that a condition names are kept apart.
        states: Counter[tuple[tuple[str, Value], ...]] = Counter({(): 1})
        for one in self.parameters:
            values = one.grid_values(points)
            required = {v for other in self.parameters for v in other.when.get(one.name, ())}
            named = required.intersection(values)
            following: Counter[tuple[tuple[str, Value], ...]] = Counter()
            for state, times in states.items():
                if not one.is_met(dict(state)):
                    following[state] += times
                    continue
                following[state] += times * (len(values) - len(named))
                for value in named:
                    following[*state, (one.name, value)] += times
            states = +following
        return states.total()

    @cached_property
    def size(self) -> int | None:
        """How many configurations there are; None where a range has more than 100,000 values."""
        counts = [one.count or MAX_GRID + 1 for one in self.searched]
        points = max(counts, default=1)
        return self.grid_size(points) if points <= MAX_GRID else None


def _condition_problems(
    conditions: Mapping[str, Mapping[str, tuple[Value, ...]]], parameters: Sequence[Parameter]
) -> Iterator[str]:
    """What is wrong with `{name: when}`; parameters that could not be read are not judged."""
    readable = {one.name: one for one in parameters}
    earlier: set[str] = set()
    for name, when in conditions.items():
        for parent, values in when.items():
            about = f"{label(name)}: when"
            if parent not in earlier:
                what = "itself" if parent == name else "a later parameter"
                what = what if parent in conditions else "an unknown parameter"
                yield f"{about} must refer to an earlier parameter, got {label(parent)}, {what}"
            elif parent in readable:
                try:
                    _ = [readable[parent].convert(value) for value in values]
                except ValueError as error:
                    yield f"{about} {label(parent)} {error}"
        earlier.add(name)


def _with_exact_conditions(one: Parameter, space: SearchSpace) -> Parameter:
    """A condition that misses the step of its parent by a hair would never be met."""
    when = {
        k: tuple(space[k].convert(value) for value in values) for k, values in one.when.items()
    }
    return one if when == one.when else one.model_copy(update={"when": when})


def _read(name: str, body: object) -> tuple[list[Parameter], list[str]]:
    """The parameter, if it can be read, and all that is wrong with it."""
    if not isinstance(body, Mapping):
        return [], [f"{label(name)}: must be a mapping with a type, got {body!r}"]
    keys = cast("dict[str, Any]", dict(body))
    kind = TYPES.get(str(keys.get("type")))
    if kind is None:
        got = repr(keys["type"]) if "type" in keys else "nothing"
        return [], [f"{label(name)}: type must be one of {', '.join(TYPES)}, got {got}"]
    known = [key for key in kind.model_fields if key != "name"]
    problems = [
        f"{label(name)}: unknown key {label(key)}, got {value!r}; known are {', '.join(known)}"
        for key, value in keys.items()
        if key not in known
    ]
    try:
        parameters = [kind(name=name, **{key: keys[key] for key in known if key in keys})]
    except SpaceError as error:
        problems += error.problems
        parameters = []
    return parameters, problems
