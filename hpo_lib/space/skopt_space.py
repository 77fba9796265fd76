"""Convert between the dimensions and points of scikit-optimize and a search space's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from skopt.space import Categorical, Integer, Real
from skopt.utils import normalize_dimensions

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration, read_options


@dataclass(frozen=True)
class SkoptSpace:
    """A search space beside the same as one of skopt's.

    Attributes:
        space: the search space.
        dimensions: the searched parameters as a normalised skopt space.
        takes_lists: whether the user's points are lists of values, else dicts.
        categories: by parameter and label, the categories that a search space cannot hold (None,
            tuples, functions): their labels stand for them there.
    """

    space: SearchSpace
    dimensions: Any
    takes_lists: bool
    categories: dict[str, dict[str, Any]] = field(default_factory=lambda: {})

    @classmethod
    def read(cls, dimensions: SearchSpace | Sequence[Any]) -> SkoptSpace:
        """Read a search space, or skopt dimensions in all forms that skopt takes.

        Raises:
            ValueError: a dimension cannot be a parameter of a search space.
        """
        if isinstance(dimensions, SearchSpace):
            converted = [skopt_dimension(parameter) for parameter in dimensions.searched]
            normalized = normalize_dimensions(converted)
            return cls(dimensions, normalized, takes_lists=False)

        copied = copy.deepcopy(dimensions)  # skopt writes into them
        skopt_space: Any = normalize_dimensions(copied)
        named: dict[str, Any] = {}
        for index, dimension in enumerate(skopt_space):
            name = dimension.name or f"x{index}"
            named[name] = dimension

        if len(named) < len(skopt_space.dimensions):
            message = f"dimensions must have different names, got {skopt_space.dimension_names}"
            raise ValueError(message)

        # Categories that no option can be are replaced by their labels.
        parameters = {name: _parameter(dimension) for name, dimension in named.items()}
        categories: dict[str, dict[str, Any]] = {}
        for name, parameter in parameters.items():
            options = parameter.get("options", [])
            if _needs_labels(options):
                labels = [_label(option) for option in options]
                parameter["options"] = labels
                categories[name] = dict(zip(labels, options, strict=True))

        space = SearchSpace.from_dict(parameters)
        return cls(
            space,
            skopt_space,
            takes_lists=True,
            categories=categories,
        )

    def read_points(self, points: Any) -> list[Configuration]:
        """Return one point or several, as skopt's `x0`, as configurations.

        Raises:
            ValueError: a point has another number of values, or one that is not in the space.
        """
        if points is None:
            return []
        if not hasattr(points, "__len__"):
            message = f"x0 must be one point or several, as lists, got {points!r}"
            raise ValueError(message)
        if len(points) == 0:
            return []

        is_single = isinstance(points, Mapping)
        if not is_single:
            is_single = not isinstance(points[0], list | tuple | Mapping)
        listed = [points] if is_single else points
        return [self._read_point(point) for point in listed]

    def _read_point(self, point: Any) -> Configuration:
        names = [parameter.name for parameter in self.space.searched]
        if not isinstance(point, Mapping):
            if len(point) != len(names):
                message = f"x0 must have {len(names)} values per point, got {point!r}"
                raise ValueError(message)
            point = dict(zip(names, point, strict=True))

        # A search space knows categories by their labels.
        configuration = dict(cast("Mapping[str, Any]", point))
        for name in self.categories.keys() & configuration.keys():
            configuration[name] = _label(configuration[name])
        return self.space.check(configuration)

    def to_dict(self, configuration: Configuration) -> dict[str, Any]:
        """Return a configuration with its categories in place of their labels."""
        values: dict[str, Any] = dict(configuration)
        for name, categories in self.categories.items():
            values[name] = categories[values[name]]
        return values

    def to_list(self, configuration: Configuration) -> list[Any]:
        """Return the values of all searched parameters; the default of an inactive one."""
        values = self.to_dict(configuration)
        searched = self.space.searched
        return [values.get(parameter.name, parameter.default) for parameter in searched]


def skopt_dimension(parameter: Any) -> Any:
    """Return a parameter of a search space as a dimension of skopt."""
    if parameter.type == "choice":
        return Categorical(parameter.options, name=parameter.name)

    kind = Integer if parameter.type == "int" else Real
    prior = "log-uniform" if parameter.log else "uniform"
    return kind(
        parameter.low,
        parameter.high,
        prior,
        name=parameter.name,
    )


def _parameter(dimension: Any) -> dict[str, Any]:
    """Return a dimension of skopt as a search space's file has it."""
    if isinstance(dimension, Categorical):
        if dimension.prior is not None:
            message = f"a prior of categories is not supported, got {dimension}"
            raise ValueError(message)
        return {"type": "choice", "options": list(dimension.categories)}

    return {
        "type": "int" if isinstance(dimension, Integer) else "float",
        "low": dimension.low,
        "high": dimension.high,
        "log": dimension.prior == "log-uniform",
    }


def _needs_labels(categories: Sequence[Any]) -> bool:
    """Return whether a search space cannot hold the categories, though they all differ."""
    if not categories or len(set(categories)) < len(categories):
        return False

    try:
        read_options(categories)
    except ValueError:
        return True

    return False


def _label(category: Any) -> str:
    """Return text that stands for a category, without the address of a function or class."""
    value = category.item() if isinstance(category, np.generic) else category
    return getattr(value, "__qualname__", repr(value))
