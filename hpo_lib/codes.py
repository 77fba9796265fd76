"""Configurations as points: one number per parameter, for models that know numbers alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hpo_lib.space import SearchSpace

Point = tuple[float, ...]
"""One number per searched parameter that has more than one value; one point per configuration."""

_LISTABLE = 5000


@dataclass(frozen=True)
class Axis:
    """A parameter's numbers, `low` to `high`: a choice's or a step's index, else the value."""

    name: str
    distribution: Any
    low: float
    high: float
    log: bool
    whole: bool
    choice: bool
    stepped: bool

    def code(self, value: Any) -> float:
        """The number of a value; ValueError when it is not on the axis."""
        code = self.distribution.to_internal_repr(value)
        if self.stepped:
            code = round((code - self.distribution.low) / self.distribution.step)
        if not self.low <= code <= self.high:
            message = f"{self.name} must lie within {self.distribution}, got {value!r}"
            raise ValueError(message)
        return code

    def value(self, code: float) -> Any:
        """The plain Python value of a number."""
        if self.choice:
            return self.distribution.choices[int(code)]
        low, high = self.distribution.low, self.distribution.high
        number = low + int(code) * self.distribution.step if self.stepped else code
        return type(low)(min(max(number, low), high))

    def from_unit(self, u: float) -> float:
        """The number below which a share `u` of the range lies, whatever the prior."""
        margin = 0.5 if self.whole else 0.0
        low, high = self.low - margin, self.high + margin
        if self.log:
            low, high = math.log(low), math.log(high)
        code = (1 - u) * low + u * high
        code = math.exp(code) if self.log else code
        code = round(code) if self.whole else code
        return min(max(code, self.low), self.high)


class Codes:
    """The way from configurations to points and back.

    Inactive parameters have their default's number. Without a space, everything is active.
    """

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], space: SearchSpace | None = None
    ) -> None:
        searched = () if space is None else space.searched
        self.axes = tuple(_axis(n, d) for n, d in distributions.items() if not d.single())
        self.conditional = any(one.when for one in searched)
        self._space = space
        self._names = tuple(axis.name for axis in self.axes)
        self._defaults: dict[str, Any] = {one.name: one.default for one in searched}
        self._single = {n: v for n, v in self._defaults.items() if n not in self._names}

    def encode(self, params: Mapping[str, Any]) -> Point | None:
        """The point of a configuration; None when a value is missing or out of range."""
        try:
            values = {**self._defaults, **self.active(params)}
            return tuple(axis.code(values[axis.name]) for axis in self.axes)
        except (KeyError, ValueError):
            return None

    def decode(self, point: Sequence[float]) -> dict[str, Any]:
        """The active values at a point, as plain Python values."""
        items = zip(self.axes, point, strict=True)
        return self.active({axis.name: axis.value(code) for axis, code in items})

    def active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The active values; KeyError or SpaceError when one is missing."""
        if self._space is None:
            return {name: params[name] for name in self._names}
        completed = self._space.complete({**self._single, **params})
        return {name: value for name, value in completed.items() if name in self._names}

    def impute(self, point: Sequence[float]) -> Point:
        """The point of the same configuration with inactive parameters at their default."""
        return cast("Point", self.encode(self.decode(point)))

    def every(self) -> list[Point] | None:
        """All points; None when they are too many or infinitely many."""
        n_points = math.prod(a.high - a.low + 1 if a.whole else math.inf for a in self.axes)
        if n_points > _LISTABLE:
            return None
        ranges = [range(int(axis.low), int(axis.high) + 1) for axis in self.axes]
        return self._distinct(itertools.product(*ranges))

    def draw(self, n: int, rng: np.random.Generator) -> list[Point]:
        """Up to `n` points drawn evenly from the ranges, whatever the priors."""
        rows = rng.random((n, len(self.axes))).tolist()
        return self._distinct(
            [a.from_unit(u) for a, u in zip(self.axes, r, strict=True)] for r in rows
        )

    def _distinct(self, rows: Iterable[Sequence[float]]) -> list[Point]:
        return list(dict.fromkeys(map(self.impute, rows)))


def _axis(name: str, distribution: Any) -> Axis:
    if isinstance(distribution, CategoricalDistribution):
        last = len(distribution.choices) - 1
        return Axis(name, distribution, 0, last, False, True, True, False)
    low, high, log = distribution.low, distribution.high, distribution.log
    if distribution.step is not None and not log:
        last = round((high - low) / distribution.step)
        return Axis(name, distribution, 0, last, False, True, False, True)
    whole = isinstance(distribution, IntDistribution)
    return Axis(name, distribution, low, high, log, whole, False, False)
