"""Search spaces: named hyperparameters in order, with conditions, and their form as YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from hpo_lib.checks import check_member, check_whole
from hpo_lib.exceptions import SpaceError
from hpo_lib.files import atomic_write_text, user_path
from hpo_lib.space.conditions import (
    Conditions,
    condition_problems,
    convert_all,
    readable_conditions,
)
from hpo_lib.space.grid import MAX_GRID, build_grid, count_grid
from hpo_lib.space.parameters import Parameter, read_parameter
from hpo_lib.space.values import Configuration, Value
from hpo_lib.space.yaml_io import Comments, label, read_comments, read_yaml, yaml_line

PRESETS = ("cifar", "cifar_published", "reference", "small")


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Hyperparameters in order; conditions refer to earlier parameters only.

    Attributes:
        parameters: float, integer and choice parameters.
        comments: comments of the YAML text by the name of their parameter. They are no part of
            the space: spaces that differ in comments only are equal.

    Example:
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 1e-4, high: 0.1, log: true}")
        >>> space.names
        ('lr',)
        >>> space.contains({"lr": 0.01})
        True
    """

    parameters: tuple[Parameter, ...]
    comments: Mapping[str | None, Comments] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.parameters:
            problems.append("search space: must have at least one parameter, got none")
        if len(set(self.names)) < len(self.names):
            problems.append(f"search space: names must all differ, got {', '.join(self.names)}")

        conditions = {parameter.name: parameter.when for parameter in self.parameters}
        problems += condition_problems(conditions, self.parameters)
        if problems:
            raise SpaceError(problems)

        # A condition on a value slightly off the steps of its parent would never be met.
        exact = tuple(_with_exact_conditions(parameter, self) for parameter in self.parameters)
        object.__setattr__(self, "parameters", exact)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> SearchSpace:
        """Read `{name: {type: ..., ...}}`; SpaceError with all mistakes."""
        return cls._parse(mapping, [])

    @classmethod
    def from_yaml(cls, text: str) -> SearchSpace:
        """Read the YAML form and keep its comments; SpaceError with all mistakes."""
        try:
            mapping, problems = read_yaml(text)
        except ValueError as error:
            raise SpaceError([f"search space: must be valid YAML, got {error}"]) from error

        space = cls._parse({} if mapping is None else mapping, problems)
        if "#" in text:
            return replace(space, comments=read_comments(text))
        return space

    @classmethod
    def _parse(cls, mapping: object, problems: list[str]) -> SearchSpace:
        if not isinstance(mapping, Mapping):
            rule = "must be a mapping of names to parameters"
            problem = f"search space: {rule}, got {mapping!r}"
            raise SpaceError([*problems, problem])

        parameters: list[Parameter] = []
        conditions: dict[str, Conditions] = {}
        for name, body in cast("Mapping[str, Any]", mapping).items():
            conditions[name] = readable_conditions(body)
            try:
                parameters.append(read_parameter(name, body))
            except SpaceError as error:
                problems += error.problems

        # Conditions of parameters with other mistakes are checked too.
        problems += condition_problems(conditions, parameters)
        if problems:
            raise SpaceError(problems)
        return cls(tuple(parameters))

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """Read a YAML file; SpaceError with all mistakes, each with the name of the file."""
        try:
            text = user_path(path).read_text(encoding="utf-8")
            return cls.from_yaml(text)
        except UnicodeDecodeError as error:
            raise SpaceError([f"{path}: search space: must be UTF-8 text, got {error}"]) from error
        except SpaceError as error:
            raise SpaceError([f"{path}: {problem}" for problem in error.problems]) from error

    @classmethod
    def preset(cls, name: str) -> SearchSpace:
        """Return a space that comes with the package.

        Args:
            name: "small" (networks of different sizes, needs no GPU), "cifar" (training of a
                ResNet-8, from the best recipe measured), "cifar_published" (the same from the
                recipe of He et al. 2016), or "reference" (wide ranges).
        """
        check_member("preset", name, PRESETS)
        file = resources.files("hpo_lib.space") / "presets" / f"{name}.yaml"
        return cls.from_yaml(file.read_text(encoding="utf-8"))

    @classmethod
    def find(cls, name: str, saved: str | Path) -> SearchSpace:
        """Return the space that a notebook's parameter names.

        Args:
            name: a preset, the path of a YAML file, or "saved": what `saved` holds, else the
                preset `small`.
            saved: file that an editor saves to.

        Raises:
            SpaceError: the file has mistakes.
            ValueError: the name is neither a preset nor a YAML file.

        Example:
            >>> SearchSpace.find("saved", "not/there.yaml") == SearchSpace.preset("small")
            True
        """
        if name == "saved":
            saved = user_path(saved)
            return cls.load(saved) if saved.exists() else cls.preset("small")
        return cls.load(name) if name.endswith((".yaml", ".yml")) else cls.preset(name)

    def to_yaml(self, comments: bool = True) -> str:
        """Return the canonical YAML form, one line per parameter.

        Args:
            comments: whether to write the comments of the text that the space was read from.
        """
        blank = Comments()
        lines: list[str] = []
        for parameter in self.parameters:
            line = yaml_line(parameter.name, parameter.to_dict())
            comment = self.comments.get(parameter.name, blank) if comments else blank
            lines += [comment.above, line.rstrip("\n"), comment.beside, "\n"]

        if comments:
            lines.append(self.comments.get(None, blank).above)
        return "".join(lines)

    def save(self, path: str | Path) -> None:
        """Write the YAML file, whole or not at all; missing folders are made."""
        path = user_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, self.to_yaml())

    def __len__(self) -> int:
        return len(self.parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        by_name = {parameter.name: parameter for parameter in self.parameters}
        return by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchSpace):
            return False
        # The text tells 1 from True, which a comparison of the options does not.
        return self.to_yaml(comments=False) == other.to_yaml(comments=False)

    @property
    def names(self) -> tuple[str, ...]:
        """All names in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def searched(self) -> tuple[Parameter, ...]:
        """Parameters without a fixed value."""
        return tuple(parameter for parameter in self.parameters if parameter.fixed is None)

    @property
    def held(self) -> tuple[Parameter, ...]:
        """Parameters with a fixed value that have a range, too: see `fix`."""
        fixed = (parameter for parameter in self.parameters if parameter.fixed is not None)
        return tuple(parameter for parameter in fixed if parameter.count != 1)

    def fix(self, **values: Value | None) -> SearchSpace:
        """Return the space with some parameters held at a value; the others are searched.

        A held parameter keeps its range, so that a study can go on in the slice and later in the
        whole space: see `change_space`.

        Args:
            **values: a value by the name of its parameter; None searches it again.

        Raises:
            SpaceError: a parameter is unknown, or a value lies outside of its range.

        Example:
            >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
            >>> space.fix(lr=0.5).default_configuration()
            {'lr': 0.5}
            >>> space.fix(lr=0.5).fix(lr=None) == space
            True
        """
        problems = [
            f"{label(name)}: unknown parameter, got {value!r}; known are {', '.join(self.names)}"
            for name, value in values.items()
            if name not in self
        ]
        parameters: list[Parameter] = []
        for parameter in self.parameters:
            name = parameter.name
            if name not in values:
                parameters.append(parameter)
                continue
            try:
                parameters.append(_refixed(parameter, parameter.default, values[name]))
            except SpaceError as error:
                problems += error.problems

        if problems:
            raise SpaceError(problems)
        return replace(self, parameters=tuple(parameters))

    def release(self, *names: str) -> SearchSpace:
        """Return the space with some held parameters searched, their values as defaults."""
        parameters = [
            _refixed(one, one.fixed, None) if one.name in names else one for one in self.parameters
        ]
        return replace(self, parameters=tuple(parameters))

    def default_configuration(self) -> Configuration:
        """Return defaults and fixed values of the parameters that are active with them."""
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        return self.complete(defaults)

    def complete(self, values: Mapping[str, Any]) -> Configuration:
        """Add fixed values, drop inactive and unknown ones, refuse wrong ones; in space order."""
        configuration, problems = self._resolve(values)
        if problems:
            raise SpaceError(problems)
        return configuration

    def check(self, configuration: Mapping[str, Any]) -> Configuration:
        """Return `complete(configuration)`, but refuse unknown names and changed fixed values."""
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
        """Return whether `check` accepts the configuration."""
        try:
            self.check(configuration)
        except SpaceError:
            return False
        return True

    def _resolve(self, values: Mapping[str, Any]) -> tuple[Configuration, list[str]]:
        """Return the active values that are valid, and a problem for each of the others."""
        configuration: Configuration = {}
        problems: list[str] = []
        for parameter in self.parameters:
            name = parameter.name
            if not parameter.is_met(configuration):
                continue
            if parameter.fixed is not None:  # whatever the value is; `check` compares it
                configuration[name] = parameter.fixed
            elif name not in values:
                problems.append(f"{label(name)}: must have a value, got none")
            else:
                try:
                    configuration[name] = parameter.convert(values[name])
                except ValueError as error:
                    problems.append(f"{label(name)}: {error}")

        return configuration, problems

    def sample(
        self,
        rng: np.random.Generator,
        prior_seed: int = 0,
    ) -> Configuration:
        """Draw a configuration from the priors.

        Args:
            rng: source of one number per searched parameter, whichever of them are active.
            prior_seed: seed of the segmented priors, the same for all draws of a study.
        """
        u = rng.random(len(self.searched))
        return self.from_unit(u.tolist(), prior_seed)

    def from_unit(
        self,
        u: Sequence[float],
        prior_seed: int = 0,
    ) -> Configuration:
        """Return the configuration at the quantiles `u` of the priors.

        Args:
            u: a number in [0, 1] per searched parameter.
            prior_seed: seed of the segmented priors.
        """
        n = len(self.searched)
        if len(u) != n or not all(0 <= quantile <= 1 for quantile in u):
            message = f"u must be {n} numbers in [0, 1], got {u!r}"
            raise ValueError(message)

        # Inactive parameters have a quantile too, so that the others keep theirs.
        values = {
            parameter.name: parameter.from_unit(float(quantile), prior_seed)
            for parameter, quantile in zip(self.searched, u, strict=True)
        }
        return self.complete(values)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return all searched parameters, active or not, as Optuna distributions."""
        return {parameter.name: parameter.distribution() for parameter in self.searched}

    def suggest(self, trial: BaseTrial) -> Configuration:
        """Ask an Optuna trial for the active values, one after the other.

        Raises:
            ValueError: the trial was queued with a value outside of the space.
        """
        configuration: Configuration = {}
        for parameter in self.parameters:
            if not parameter.is_met(configuration):
                continue
            try:
                fixed = parameter.fixed
                value = parameter.suggest(trial) if fixed is None else fixed
                configuration[parameter.name] = parameter.convert(value)
            except OverflowError as error:  # a queued number that no float holds
                rule = "must be a value of the space, got a queued number that is too large"
                raise SpaceError([f"{label(parameter.name)}: {rule}"]) from error

        return configuration

    def grid(self, points: int = 3) -> list[Configuration]:
        """Return every combination of options and of `points` values per range, each once.

        Raises:
            ValueError: there are more than 100,000.
        """
        check_whole("points", points, 1)
        grid = build_grid(self.parameters, points)
        if grid is None:
            size = count_grid(self.parameters, points)
            got = "more" if size is None else f"{size:,}"
            message = f"a grid may have {MAX_GRID:,} configurations, got {got} (points={points})"
            raise ValueError(message)
        return grid

    def grid_size(self, points: int = 3) -> int:
        """Return how many configurations `grid` has, without building it.

        Raises:
            ValueError: more than 100,000 combinations decide which parameters are active.
        """
        check_whole("points", points, 1)
        size = count_grid(self.parameters, points)
        if size is None:
            message = (
                f"at most {MAX_GRID:,} combinations of parameters that conditions refer to can be "
                f"counted, got more in {len(self)} parameters"
            )
            raise ValueError(message)
        return size

    @cached_property
    def size(self) -> int | None:
        """How many configurations there are; None where they are infinitely or too many to count.

        Ranges count as infinite from 100,000 values on.
        """
        counts = [parameter.count or MAX_GRID + 1 for parameter in self.searched]
        points = max(counts, default=1)  # enough for all values of each range
        if points > MAX_GRID:
            return None
        return count_grid(self.parameters, points)


def _refixed(parameter: Parameter, default: Value | None, fixed: Value | None) -> Parameter:
    """Return a parameter with another default and another fixed value."""
    return read_parameter(
        parameter.name, {**parameter.to_dict(), "default": default, "fixed": fixed}
    )


def _with_exact_conditions(parameter: Parameter, space: SearchSpace) -> Parameter:
    """Move the values of conditions onto the steps of their parents."""
    when = {
        parent: convert_all(space[parent], values) for parent, values in parameter.when.items()
    }
    if when == parameter.when:
        return parameter
    return parameter.model_copy(update={"when": when})
