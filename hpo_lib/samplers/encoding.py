"""Encode configurations as points: one number per searched parameter.

| form          | lr from 0.0001 to 0.1, logarithmic   | one of 4 options             |
| ------------- | ------------------------------------ | ---------------------------- |
| configuration | 0.001                                | "relu", left out if inactive |
| point         | 0.001                                | 2.0, its index               |
| unit cube     | 0.333, its position in the log range | 0.625, in the third quarter  |
| scaled row    | 0.333                                | 2.0, as kernels take it      |

In the unit cube, an option, a step or a whole number has an interval of its own; scaled rows
reach from the first value, 0, to the last one, 1. Priors are not applied here: see
`Parameter.from_unit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)

from hpo_lib.space.search_space import SearchSpace

Point = tuple[float, ...]
"""One number per searched parameter that has more than one value; one point per configuration."""

Array = NDArray[np.float64]

_MAX_LISTED_POINTS = 2000


@dataclass(frozen=True)
class Axis:
    """A searched parameter as a range of numbers.

    Attributes:
        name: name of the parameter.
        distribution: the parameter as Optuna describes it.
        low: the first number: 0 for options and steps, which have an index, else a value.
        high: the last number.
        log: whether the range is logarithmic.
        whole: whether only whole numbers lie on the axis.
        choice: whether the numbers are indices of options.
        stepped: whether the numbers are indices of steps.
    """

    name: str
    distribution: Any
    low: float
    high: float
    log: bool = False
    whole: bool = True
    choice: bool = False
    stepped: bool = False

    def to_number(self, value: Any) -> float:
        """Return the number of a value; ValueError when it is not on the axis."""
        number = self.distribution.to_internal_repr(value)
        if self.stepped:
            distance = number - self.distribution.low
            number = round(distance / self.distribution.step)

        if not self.low <= number <= self.high:
            message = f"{self.name} must lie within {self.distribution}, got {value!r}"
            raise ValueError(message)
        return number

    def from_number(self, number: float) -> Any:
        """Return the plain Python value of a number."""
        if self.choice:
            return self.distribution.choices[int(number)]

        low = self.distribution.low
        if self.stepped:
            n_steps = int(number)
            number = low + n_steps * self.distribution.step

        # Rounding may have left the range by a few units in the last place.
        at_least_low = max(number, low)
        clipped = min(at_least_low, self.distribution.high)
        return type(low)(clipped)


class Encoder:
    """Encode configurations of a space as points, and decode them.

    An inactive parameter has the number of its default. Without a space, all are active.

    Args:
        distributions: searched parameters by name.
        space: the search space, for its conditions and defaults.
        held: names of parameters with a range and a fixed value that are axes all the same: there
            are trials with other values, and only the fixed one is ever generated.

    Attributes:
        distributions: as given.
        held: as given.
        axes: the parameters with more than one value, d of them.
        conditional: whether any parameter has a condition or is held.
        choice: mask of the axes that are choices, shape (d,).
        categories: indices of those axes.
        continuous: mask of the axes that are neither choices nor whole numbers, shape (d,).
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        space: SearchSpace | None = None,
        held: Collection[str] = (),
    ) -> None:
        fixed = [] if space is None else [space[name] for name in held]
        ranges = {**distributions, **{one.name: one.distribution() for one in fixed}}
        axes = [_axis(name, one) for name, one in ranges.items() if not one.single()]
        self.distributions = dict(distributions)
        self.held = tuple(held)
        self.axes = tuple(axes)
        self.conditional = bool(held)
        self._space = space if space is None else space.release(*held)
        self._points: dict[str, Point | None] = {}

        # Values of the parameters that are no axes, and defaults of the others.
        self._columns = {axis.name: column for column, axis in enumerate(axes)}
        self._defaults: dict[str, Any] = {}
        self._single_values: dict[str, Any] = {}
        for parameter in self._space or ():
            if parameter.fixed is not None:
                self._single_values[parameter.name] = parameter.fixed
                continue

            self.conditional = self.conditional or bool(parameter.when)
            is_axis = parameter.name in self._columns
            values = self._defaults if is_axis else self._single_values
            values[parameter.name] = parameter.default

        # Values of held parameters, and the number of each by its column.
        self._held: dict[str, Any] = {one.name: one.fixed for one in fixed}
        self._held_numbers: dict[int, float] = {}
        for name, value in self._held.items():
            column = self._columns[name]
            self._held_numbers[column] = axes[column].to_number(value)

        # Properties of the axes as arrays, shape (d,).
        self.choice = np.array([axis.choice for axis in axes], bool)
        self.categories: list[int] = np.flatnonzero(self.choice).tolist()
        self._whole = np.array([axis.whole for axis in axes], bool)
        self.continuous = ~self._whole
        self._log = np.array([axis.log for axis in axes], bool)
        self._low = np.array([axis.low for axis in axes], float)
        self._high = np.array([axis.high for axis in axes], float)

    def encode(self, params: Mapping[str, Any]) -> Point | None:
        """Return the point of a configuration; None when a value is missing or out of range."""
        key = repr(params)  # the values themselves are no key: 1 == True
        if key not in self._points:
            self._points[key] = self._encode(params)
        return self._points[key]

    def _encode(self, params: Mapping[str, Any]) -> Point | None:
        try:
            active = self.active(params)
            values = {**self._defaults, **active}
            return tuple(axis.to_number(values[axis.name]) for axis in self.axes)
        except (KeyError, ValueError):
            return None

    def points(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """Return the points of configurations, shape (n, d).

        Raises:
            ValueError: a configuration has no point; the message shows it.
        """
        points = [self.encode(configuration) for configuration in configurations]
        if None in points:
            outside = configurations[points.index(None)]
            message = f"configurations must lie inside the space, got {outside}"
            raise ValueError(message)
        return np.array(points, float)

    def decode(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the active values at a point but for held ones, as plain Python values."""
        numbers = zip(self.axes, point, strict=True)
        active = self.active({axis.name: axis.from_number(number) for axis, number in numbers})
        return {name: value for name, value in active.items() if name not in self._held}

    def is_reachable(self, point: Point) -> bool:
        """Return whether the held parameters have their values at a point, or are inactive."""
        return tuple(self.impute(np.array([point]))[0].tolist()) == point

    def active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the active values of the axes; KeyError or SpaceError when one is missing."""
        if self._space is None:
            return {name: params[name] for name in self._columns}

        values = {**self._single_values, **self._held, **params}
        completed = self._space.complete(values)
        return {name: value for name, value in completed.items() if name in self._columns}

    def impute(self, points: Array) -> Array:
        """Set held parameters to their value, inactive ones to their default, in place; (n, d)."""
        if self._space is None or not self.conditional:
            return points
        for column, number in self._held_numbers.items():
            points[:, column] = number

        # Parents come before their children: whether these are active is known by then.
        is_active: dict[str, NDArray[np.bool_]] = {}
        for parameter in self._space.parameters:
            met = np.ones(len(points), bool)
            for parent, required in parameter.when.items():
                met &= is_active[parent]
                if parent in self._columns:
                    column = self._columns[parent]
                    axis = self.axes[column]
                    numbers = [axis.to_number(value) for value in required]
                    met &= np.isin(points[:, column], numbers)
                else:
                    met &= self._single_values[parent] in required

            is_active[parameter.name] = met
            if parameter.name in self._columns:
                column = self._columns[parameter.name]
                default = self._defaults[parameter.name]
                points[~met, column] = self.axes[column].to_number(default)

        return points

    def all_points(self) -> Array | None:
        """Return all points, shape (n, d); None when they are more than 2000."""
        held = np.isin(np.arange(len(self.axes)), list(self._held_numbers))
        if not (self._whole | held).all():
            return None
        sizes = np.where(held, 1, self._high - self._low + 1)
        if np.prod(sizes) > _MAX_LISTED_POINTS:
            return None

        # Points that differ in inactive parameters only are one point.
        numbers = map(np.arange, self._low, self._low + sizes)
        combinations = list(itertools.product(*numbers))
        points = self.impute(np.array(combinations, float))
        return np.unique(points, axis=0)

    def from_unit_cube(self, units: Array) -> Array:
        """Return the points at positions in the unit cube, each of shape (n, d)."""
        low, high = self._interval_ends()
        rows = (1 - units) * low + units * high
        points = self._round(rows)
        return self.impute(points)

    def to_unit_cube(self, points: Sequence[Point] | Array) -> Array:
        """Return the positions of points in the unit cube: the inverse of `from_unit_cube`."""
        low, high = self._interval_ends()
        rows = self._to_log(np.asarray(points, float))
        return (rows - low) / (high - low)

    def _interval_ends(self) -> tuple[Array, Array]:
        """Return where the interval of the first value begins and that of the last one ends."""
        margin = np.where(self._whole, 0.5, 0.0)
        low = self._to_log(self._low - margin)
        high = self._to_log(self._high + margin)
        return low, high

    def scale(self, points: Sequence[Point] | Array) -> Array:
        """Return points as kernels take them: numbers from 0 to 1, options as indices."""
        rows = np.asarray(points, float)
        rows = rows.reshape(-1, len(self.axes))
        rows = self._to_log(rows)

        low = self._to_log(self._low)
        high = self._to_log(self._high)
        numbers = (rows - low) / (high - low)
        return np.where(self.choice, rows, numbers)

    def neighbours(
        self,
        points: Array,
        n: int,
        std: Sequence[float],
        rng: np.random.Generator,
    ) -> Array:
        """Draw points near given ones: one value of each is changed, or several.

        Numbers move by a normal step, whole ones by one at least; a step beyond the range ends
        on the bound, where optima often are. Options are drawn anew.

        Args:
            points: points to start from, shape (m, d).
            n: how many neighbours to draw.
            std: standard deviations of a step as fractions of the range; one is drawn for each
                neighbour.
            rng: random numbers.

        Returns:
            The neighbours, shape (n, d).
        """
        shape = (n, len(self.axes))

        # Every second neighbour differs in each parameter with a probability of 0.3, and all
        # of them in one parameter at least.
        changes_several = rng.random(n) < 0.5
        is_changed = rng.random(shape) < 0.3
        is_changed &= changes_several[:, None]
        forced_column = rng.integers(shape[1], size=n)
        is_changed[np.arange(n), forced_column] = True

        parents = rng.integers(len(points), size=n)
        start = points[parents]

        # Step of the numbers.
        direction = rng.normal(size=shape)
        length = rng.choice(std, size=(n, 1))
        step = direction * length
        extent = self._to_log(self._high) - self._to_log(self._low)
        rows = self._to_log(start) + step * extent
        moved = self._round(rows)

        # A step that rounding undid moves to the next whole number.
        is_stuck = self._whole & (moved == start)
        next_number = start + np.sign(step)
        next_number = np.clip(next_number, self._low, self._high)
        moved = np.where(is_stuck, next_number, moved)

        # Choices are unordered: resample uniformly.
        n_options = self._high + 1
        drawn = np.floor(rng.random(shape) * n_options)
        moved = np.where(self.choice, drawn, moved)

        neighbours = np.where(is_changed, moved, start)
        return self.impute(neighbours)

    def _to_log(self, points: Array) -> Array:
        """Return points with the logarithm of logarithmic parameters."""
        positive = np.where(self._log, points, 1.0)
        logarithms = np.log(positive)
        return np.where(self._log, logarithms, points)

    def _round(self, rows: Array) -> Array:
        """Return the nearest points to rows of `_to_log`, inactive parameters as they are."""
        exponents = np.where(self._log, rows, 0.0)  # others may be too large for `exp`
        points = np.where(self._log, np.exp(exponents), rows)

        rounded = np.round(points)
        points = np.where(self._whole, rounded, points)
        return np.clip(points, self._low, self._high)


def _axis(name: str, distribution: Any) -> Axis:
    """Return the axis of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        last = len(distribution.choices) - 1
        return Axis(
            name,
            distribution,
            0,
            last,
            choice=True,
        )

    low = distribution.low
    high = distribution.high
    if distribution.step is not None and not distribution.log:
        last = round((high - low) / distribution.step)
        return Axis(
            name,
            distribution,
            0,
            last,
            stepped=True,
        )

    is_whole = isinstance(distribution, IntDistribution)
    return Axis(
        name,
        distribution,
        low,
        high,
        log=distribution.log,
        whole=is_whole,
    )
