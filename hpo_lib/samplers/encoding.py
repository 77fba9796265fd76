"""Configurations as points: one number per parameter, for models that know numbers alone.

| form          | of lr from 0.0001 to 0.1, logarithmic | of a choice out of 4         |
| ------------- | ------------------------------------- | ---------------------------- |
| configuration | 0.001                                 | "relu", left out if inactive |
| point         | 0.001                                 | 2.0, its index               |
| unit          | 0.333, the share of the range below   | 0.625, in the third quarter  |
| scaled row    | 0.333                                 | 2.0, as kernels tell them    |

Steps and whole numbers have a share of the unit range around each value, as choices have; a row's
ends are the first and the last value. Priors have no part in this: `Parameter.from_unit` has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hpo_lib.space.search_space import SearchSpace

Point = tuple[float, ...]
"""One number per searched parameter that has more than one value; one point per configuration."""

Array = NDArray[np.float64]

_LISTABLE = 2000


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
        self._points: dict[str, Point | None] = {}
        self._names = tuple(axis.name for axis in self.axes)
        self._defaults: dict[str, Any] = {one.name: one.default for one in searched}
        self._single: dict[str, Any] = {
            one.name: one.default if one.fixed is None else one.fixed
            for one in (space.parameters if space else ())
            if one.name not in self._names
        }
        self.choice = np.array([axis.choice for axis in self.axes], bool)
        self._whole = np.array([axis.whole for axis in self.axes], bool)
        self._log = np.array([axis.log for axis in self.axes], bool)
        self._low = np.array([axis.low for axis in self.axes], float)
        self._high = np.array([axis.high for axis in self.axes], float)

    def encode(self, params: Mapping[str, Any]) -> Point | None:
        """The point of a configuration; None when a value is missing or out of range."""
        written = repr(params)  # 1 and True are not the same
        if written not in self._points:
            self._points[written] = self._encode(params)
        return self._points[written]

    def points(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """Their points, shape (n, d).

        Raises:
            ValueError: one has no point; the message shows it.
        """
        found = [self.encode(one) for one in configurations]
        if None in found:
            outside = configurations[found.index(None)]
            message = f"configurations must lie inside the space, got {outside}"
            raise ValueError(message)
        return np.array(found, float)

    def _encode(self, params: Mapping[str, Any]) -> Point | None:
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

    def impute(self, rows: Array) -> Array:
        """The same configurations with inactive parameters at their default; in place."""
        if not self.conditional or self._space is None:
            return rows
        column = {name: index for index, name in enumerate(self._names)}
        active: dict[str, NDArray[np.bool_]] = {}
        for one in self._space.parameters:
            met = np.ones(len(rows), bool)
            for parent, required in one.when.items():
                met &= active[parent]
                if parent in column:
                    axis = self.axes[column[parent]]
                    met &= np.isin(rows[:, column[parent]], [axis.code(v) for v in required])
                else:
                    met &= self._single[parent] in required
            active[one.name] = met
            if one.name in column:
                index = column[one.name]
                rows[~met, index] = self.axes[index].code(self._defaults[one.name])
        return rows

    def every(self) -> Array | None:
        """All points, of shape (n, d); None when they are too many or infinitely many."""
        n_points = math.prod(a.high - a.low + 1 if a.whole else math.inf for a in self.axes)
        if n_points > _LISTABLE:
            return None
        ranges = [range(int(axis.low), int(axis.high) + 1) for axis in self.axes]
        rows = np.array(list(itertools.product(*ranges)), float)
        return np.unique(self.impute(rows), axis=0)

    def draw(self, units: Array) -> Array:
        """The points below which the shares `units` of the ranges lie, whatever the priors."""
        low, high = self._ends()
        return self._snap((1 - units) * low + units * high)

    def units(self, points: Sequence[Point] | Array) -> Array:
        """The shares of the ranges below points: the inverse of `draw`."""
        low, high = self._ends()
        return (self._stretch(np.asarray(points, float)) - low) / (high - low)

    def _ends(self) -> tuple[Array, Array]:
        """Where the share of the first value begins and that of the last one ends."""
        margin = np.where(self._whole, 0.5, 0.0)
        return self._stretch(self._low - margin), self._stretch(self._high + margin)

    def scale(self, points: Sequence[Point] | Array) -> Array:
        """Coordinates of points: numbers from 0 to 1, logarithmic ones so; choices as indices."""
        rows = self._stretch(np.asarray(points, float).reshape(-1, len(self.axes)))
        low, high = self._stretch(self._low), self._stretch(self._high)
        return np.where(self.choice, rows, (rows - low) / (high - low))

    def neighbours(
        self, points: Array, n: int, reach: Sequence[float], rng: np.random.Generator
    ) -> Array:
        """Points near some of these: one value of each is changed, or several.

        Args:
            points: shape (m, d).
            n: how many.
            reach: standard deviations of a change, in shares of the range; drawn from evenly. A
                change that leaves the range ends on the bound, where optima often are, and a
                whole number moves by one at least.
            rng: draws.
        """
        shape = (n, len(self.axes))
        rows = np.arange(n)
        several = (rng.random(n) < 0.5)[:, None] & (rng.random(shape) < 0.3)
        several[rows, rng.integers(shape[1], size=n)] = True
        start = points[rng.integers(len(points), size=n)]
        low, high = self._stretch(self._low), self._stretch(self._high)
        change = rng.normal(size=shape) * rng.choice(reach, size=(n, 1))
        moved = self._snap(self._stretch(start) + change * (high - low), impute=False)
        stuck = self._whole & (moved == start)
        moved = np.where(stuck, np.clip(start + np.sign(change), self._low, self._high), moved)
        drawn = np.floor(rng.random(shape) * (self._high + 1))
        moved = np.where(self.choice, drawn, moved)
        return self.impute(np.where(several, moved, start))

    def _stretch(self, rows: Array) -> Array:
        return np.where(self._log, np.log(np.where(self._log, rows, 1.0)), rows)

    def _snap(self, rows: Array, impute: bool = True) -> Array:
        codes = np.where(self._log, np.exp(np.where(self._log, rows, 0.0)), rows)
        codes = np.where(self._whole, np.round(codes), codes)
        codes = np.clip(codes, self._low, self._high)
        return self.impute(codes) if impute else codes


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
