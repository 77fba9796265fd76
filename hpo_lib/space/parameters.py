"""One hyperparameter of a search space: its range, prior, default, fixed value and conditions."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import Field, PlainValidator, field_validator

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.parameter_base import ParameterBase
from hpo_lib.space.values import (
    LARGEST_WHOLE,
    Value,
    read_float,
    read_int,
    read_options,
    read_value,
)
from hpo_lib.space.yaml_io import NUMERIC, label

_ABSENT: Any = None  # until the parameter is complete


def _decimal(number: float) -> Decimal:
    """Return the decimal number as it was written: 0.1 is a tenth."""
    return Decimal(repr(number))


class _Range(ParameterBase, frozen=True):
    low: int | float = _ABSENT
    high: int | float = _ABSENT
    log: bool = False
    step: int | float | None = None
    prior: Literal["uniform", "segmented"] = "uniform"
    default: int | float = _ABSENT
    fixed: int | float | None = None

    _number = staticmethod(read_float)

    @field_validator(
        "low",
        "high",
        "step",
        "default",
        "fixed",
        mode="before",
    )
    @classmethod
    def _read_number(cls, value: object) -> float:
        # Readers of YAML 1.1 parse 1e-4 as a string.
        if isinstance(value, str) and NUMERIC.match(value):
            value = float(value)
        return cls._number(value)

    def _range_problems(self) -> Iterator[str]:
        low = self.low
        high = self.high
        # A fixed value may be the only one of its range.
        if low >= high and not low == high == self.fixed:
            yield f"high must be above low = {low}, got {high}"
        if self.log and low <= 0:
            yield f"log needs low above 0, got low = {low}"

        # Every whole number is a step of 1 away from the next, with a log scale too.
        fits_always = self.step == 1 and isinstance(self.step, int)
        if self.step is not None and not fits_always:
            yield from self._step_problems(self.step)

    def _step_problems(self, step: float) -> Iterator[str]:
        low = self.low
        high = self.high
        if step <= 0:
            yield f"step must be above 0, got {step}"
        elif self.log:
            yield f"log and step exclude each other, got step = {step}"
        elif (high - low) / step > LARGEST_WHOLE:
            yield f"step must not be below (high - low) / 2**53, got {step}"
        elif low < high and (_decimal(high) - _decimal(low)) % _decimal(step):
            k = max(1, round((high - low) / step))
            nearest = self._step(k)
            rule = f"high must be low + k * step with low = {low}, step = {step}"
            yield f"{rule}, got {high}; the nearest valid high is {nearest}"

    def _step(self, k: int) -> float:
        """Return low + k * step in decimal arithmetic: 0.1 is inexact in binary."""
        exact = _decimal(self.low) + k * _decimal(self.step or 0)
        return self._number(float(exact))

    @property
    def count(self) -> int | None:
        """How many values the range has; None for infinitely many."""
        if self.low == self.high:
            return 1
        if self.step is None:
            return None
        return round((self.high - self.low) / self.step) + 1

    def _snap(self, x: float) -> float:
        """Return the value of the range nearest to `x`."""
        if self.count is None or self.step is None:
            for bound in (self.low, self.high):
                if math.isclose(x, bound, rel_tol=1e-12):  # exp(log(bound)) is not quite bound
                    return bound
            return self._number(min(max(x, self.low), self.high))

        nearest = round((x - self.low) / self.step)
        k = min(max(nearest, 0), self.count - 1)
        return self._step(k)

    def _at(self, position: float, margin: float = 0.0) -> float:
        """Return the value at a position in [0, 1] of the range widened by `margin`."""
        low = self.low - margin
        high = self.high + margin
        # Weighted means instead of low + position * (high - low), which may overflow.
        if self.log:
            exponent = (1 - position) * math.log(low) + position * math.log(high)
            return self._snap(math.exp(exponent))
        return self._snap((1 - position) * low + position * high)

    def _middle(self) -> float:
        return self._at(0.5)

    def convert(self, value: object) -> float:
        """Return the number as the range holds it; ValueError where it is outside or off step."""
        number = self._number(value)
        nearest = self._snap(number)
        # Arithmetic on floats misses a step or a bound by a few units in the last place.
        tolerance = 1e-12 * abs(number) + 1e-8 * (self.step or 0)
        if abs(nearest - number) <= tolerance:
            return nearest

        if self.low <= number <= self.high:
            message = f"must be low + k * step with low = {self.low}, step = {self.step}, "
            message += f"got {number}; the nearest is {nearest}"
        else:
            message = f"must lie between low = {self.low} and high = {self.high}, got {number}"

        raise ValueError(message)

    def from_unit(
        self,
        u: float,
        prior_seed: int = 0,
    ) -> float:
        """Return the value at the quantile `u` of the prior.

        With `prior="segmented"`, the range is cut into three equal parts, one point is drawn
        uniformly in each, and the value is interpolated linearly along the three points.

        Args:
            u: quantile in [0, 1].
            prior_seed: seed of the three points.
        """
        if self.prior == "segmented":
            # The name makes the points of two parameters independent of each other.
            rng = np.random.default_rng([prior_seed, zlib.crc32(self.name.encode())])
            points = (np.arange(3) + rng.random(3)) / 3
            u = float(np.interp(u, (0, 0.5, 1), points))
        # Half a step on each side gives the end points the same share as the other values.
        return self._at(u, margin=(self.step or 0) / 2)

    def grid_values(self, points: int) -> list[float]:
        """Return at most `points` evenly spread values with both ends, or all that there are."""
        if self.fixed is not None:
            return [self.fixed]
        count = self.count
        step = self.step
        if step is not None and count is not None and count <= points:
            return [self._snap(self.low + k * step) for k in range(count)]
        if points == 1:
            return [self.default]  # and not one of the ends

        # Steps and whole numbers may lie on several positions at once.
        positions = np.linspace(0, 1, points).tolist()
        values = [self._at(position) for position in positions]
        return list(dict.fromkeys(values))

    def distribution(self) -> FloatDistribution | IntDistribution:
        """Return the range as an Optuna distribution."""
        is_int = isinstance(self, IntParameter)
        kind: Any = IntDistribution if is_int else FloatDistribution
        return kind(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial) -> float:
        """Ask an Optuna trial for a value."""
        is_int = isinstance(self, IntParameter)
        ask: Any = trial.suggest_int if is_int else trial.suggest_float
        return ask(self.name, self.low, self.high, log=self.log, step=self.step)


class FloatParameter(_Range, frozen=True):
    """A real number."""

    type: Literal["float"] = Field(default="float", validate_default=True)


class IntParameter(_Range, frozen=True):
    """A whole number."""

    step: int = 1
    type: Literal["int"] = Field(default="int", validate_default=True)

    _number = staticmethod(read_int)


class ChoiceParameter(ParameterBase, frozen=True):
    """Categorical parameter: one of several unordered words, numbers or truth values."""

    options: Annotated[tuple[Value, ...], PlainValidator(read_options)] = _ABSENT
    default: Annotated[Value, PlainValidator(read_value)] = _ABSENT
    fixed: Annotated[Value | None, PlainValidator(read_value)] = None
    type: Literal["choice"] = Field(default="choice", validate_default=True)

    @property
    def count(self) -> int:
        """How many options there are."""
        return len(self.options)

    def _middle(self) -> Value:
        return self.options[0]

    def parse(self, text: str) -> object:
        """Return the option that is written like the text, else the value it stands for."""
        words = {str(option): option for option in self.options}
        return words[text] if text in words else super().parse(text)

    def convert(self, value: object) -> Value:
        """Return the option that equals the value, 1 being 1.0 but not True."""
        plain = read_value(value)
        # True == 1 in Python, but not to the person who wrote the options.
        for option in self.options:
            if option == plain and isinstance(option, bool) == isinstance(plain, bool):
                return option

        message = f"must be one of {list(self.options)}, got {plain!r}"
        raise ValueError(message)

    def from_unit(
        self,
        u: float,
        prior_seed: int = 0,
    ) -> Value:
        """Return the option in whose equal share of [0, 1] `u` lies.

        Args:
            u: quantile in [0, 1].
            prior_seed: not used; options have no segmented prior.
        """
        n = len(self.options)
        return self.options[min(int(u * n), n - 1)]

    def grid_values(self, points: int) -> list[Value]:
        """Return all options, however many points are asked for."""
        return list(self.options) if self.fixed is None else [self.fixed]

    def distribution(self) -> CategoricalDistribution:
        """Return the options as an Optuna distribution."""
        return CategoricalDistribution(self.options)

    def suggest(self, trial: BaseTrial) -> Value:
        """Ask an Optuna trial for an option."""
        return cast("Value", trial.suggest_categorical(self.name, self.options))


Parameter = FloatParameter | IntParameter | ChoiceParameter
_KINDS = {"float": FloatParameter, "int": IntParameter, "choice": ChoiceParameter}


def read_parameter(name: str, body: object) -> Parameter:
    """Read the body of a parameter as the YAML form has it.

    Args:
        name: name of the parameter.
        body: `{type: ..., low: ..., ...}`.

    Raises:
        SpaceError: with all mistakes of the parameter.
    """
    if not isinstance(body, Mapping):
        raise SpaceError([f"{label(name)}: must be a mapping with a type, got {body!r}"])

    keys = {str(key): value for key, value in cast("Mapping[Any, Any]", body).items()}
    kind: Any = _KINDS.get(str(keys.get("type")))
    if kind is None:
        got = repr(keys["type"]) if "type" in keys else "nothing"
        rule = f"type must be one of {', '.join(_KINDS)}, got {got}"
        raise SpaceError([f"{label(name)}: {rule}"])

    problems: list[str] = []
    if "name" in keys:  # a field of ours, but no key of the YAML form
        problems.append(f"{label(name)}: {kind.unknown_key('name', keys['name'])}")
    try:
        parameter = kind(**keys | {"name": name})
    except SpaceError as error:
        problems += error.problems
    else:
        if not problems:
            return parameter

    raise SpaceError(problems)
