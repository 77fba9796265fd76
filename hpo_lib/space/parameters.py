"""One hyperparameter of a search space: its range, prior, default, fixed value and conditions."""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import BaseModel, BeforeValidator, ValidationError, field_validator

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.yaml_io import NUMERIC, label

Value = float | int | str | bool
Configuration = dict[str, Value]

_ABSENT: Any = None
_LARGEST = 2**53  # beyond it floats, which Optuna keeps inside, do not tell whole numbers apart
_EXTENT = ("low", "high", "options")
_KEYS = ("type", "options", "low", "high", "log", "step", "prior", "default", "fixed", "when")


def _exact(number: float) -> Decimal:
    """The decimal number that was written: 0.1 is a tenth."""
    return Decimal(repr(number))


def _plain(value: Any) -> Value:
    """The value, a numpy scalar as Python's own; ValueError for what is no `Value`."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, (str, int)) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    message = f"must be a word, a finite number, true or false, got {value!r}"
    raise ValueError(message)


def _float(value: Any) -> float:
    plain = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(plain, (int, float)) and not isinstance(plain, bool)
    if is_number and abs(plain) <= sys.float_info.max:
        return float(plain)
    message = f"must be a finite number, got {value!r}"
    raise ValueError(message)


def _int(value: Any) -> int:
    number = _float(value)
    if not number.is_integer() or abs(number) > _LARGEST:
        message = f"must be a whole number, got {value!r}"
        raise ValueError(message)
    return int(number)


def _distinct(values: Any) -> tuple[Value, ...]:
    """A list as plain values; two that are equal in Python are refused."""
    if not isinstance(values, (list, tuple)) or not values:
        message = f"must be a list of at least one value, got {values!r}"
        raise ValueError(message)
    plain = tuple(map(_plain, cast("list[Any]", values)))
    if len(set(plain)) < len(plain):
        message = f"must all differ in Python, got {list(plain)}"
        raise ValueError(message)
    return plain


def read_conditions(value: Any) -> dict[str, tuple[Value, ...]]:
    """`{name: value}` or `{name: [value, ...]}` as `{name: (value, ...)}`."""
    if not isinstance(value, Mapping):
        message = f"must be a mapping of names to values, got {value!r}"
        raise ValueError(message)
    items = cast("Mapping[str, Any]", value).items()
    return {k: _distinct(v if isinstance(v, (list, tuple)) else [v]) for k, v in items}


class _Parameter(BaseModel, frozen=True, extra="forbid"):
    name: str
    default: Any = None
    fixed: Any = None
    when: Annotated[dict[str, tuple[Value, ...]], BeforeValidator(read_conditions)] = {}

    def __init__(self, **data: Any) -> None:
        data = {key: value for key, value in data.items() if value is not None or key == "name"}
        filled = data
        if "fixed" in data and data.keys().isdisjoint(_EXTENT):  # it is its own range
            own = {"low": data["fixed"], "high": data["fixed"], "options": [data["fixed"]]}
            filled = data | {k: v for k, v in own.items() if k in type(self).model_fields}
        try:
            super().__init__(**filled)
            problems = [f"{label(self.name)}: {rule}" for rule in self._broken_rules()]
        except ValidationError as error:
            problems = self._mistakes(data, error)
        if problems:
            raise SpaceError(problems)

    @classmethod
    def _mistakes(cls, data: dict[str, Any], error: ValidationError) -> list[str]:
        """What pydantic found, in our words, and the rules that the other keys break."""
        entries = {str(entry["loc"][0]): entry for entry in error.errors()}
        problems: list[str] = []
        for key, entry in entries.items():
            if entry["type"] == "missing":
                rule = "is required where no value is fixed, got nothing"
            else:
                must = re.sub(r"^\w+ should", "must", entry["msg"])
                rule = entry.get("ctx", {}).get("error", f"{must}, got {entry['input']!r}")
            if key in data or entry["type"] == "missing":  # else a copy of a wrong fixed value
                problems.append(f"{label(data.get('name'))}: {key} {rule}")
        if entries.keys().isdisjoint({"name", "fixed", *_EXTENT}):
            try:
                cls(**{key: value for key, value in data.items() if key not in entries})
            except SpaceError as others:
                problems += others.problems
        return problems

    def _broken_rules(self) -> Iterator[str]:
        """Rules between keys; brings default and fixed into canonical form."""
        for key in ("default", "fixed"):
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, None if value is None else self.convert(value))
            except ValueError as error:
                yield f"{key} {error}"
        if self.default is None:
            default = self._middle() if self.fixed is None else self.fixed
            object.__setattr__(self, "default", default)

    def convert(self, value: object) -> Value:
        """The value as a plain Python value of the range; ValueError outside of it."""
        raise NotImplementedError

    def _middle(self) -> Value:
        raise NotImplementedError

    @property
    def count(self) -> int | None:
        raise NotImplementedError

    def is_met(self, configuration: Mapping[str, Value]) -> bool:
        """Whether the conditions hold, given the active values of the parameters before."""
        return all(
            name in configuration and configuration[name] in required
            for name, required in self.when.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """What the YAML says of it: keys in canonical order, what goes without saying left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        given["type"] = self.__dict__["type"]
        if self.fixed is not None and self.fixed == self.default:
            del given["default"]
        if self.fixed is not None and self.count == 1:
            given = {key: value for key, value in given.items() if key not in _EXTENT}
        if self.when:
            given["when"] = {k: v[0] if len(v) == 1 else list(v) for k, v in self.when.items()}
        return {key: given[key] for key in _KEYS if key in given}


class _Range(_Parameter, frozen=True):
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    prior: Literal["uniform", "segmented"] = "uniform"
    default: int | float = _ABSENT
    fixed: int | float | None = None

    _number = staticmethod(_float)

    @field_validator("low", "high", "step", "default", "fixed", mode="before")
    @classmethod
    def _read_number(cls, value: object) -> Any:
        # Readers of YAML 1.1 hand over 1e-4 as a word.
        is_word = isinstance(value, str) and NUMERIC.match(value)
        return cls._number(float(cast("str", value)) if is_word else value)

    def _broken_rules(self) -> Iterator[str]:
        problems = tuple(self._range_problems())
        yield from problems or super()._broken_rules()

    def _range_problems(self) -> Iterator[str]:
        low, high, step = self.low, self.high, self.step
        if low >= high and not low == high == self.fixed:
            yield f"high must be above low = {low}, got {high}"
        if self.log and low <= 0:
            yield f"log needs low above 0, got low = {low}"
        if step is None or (step == 1 and isinstance(step, int)):
            return
        if step <= 0:
            yield f"step must be above 0, got {step}"
        elif self.log:
            yield f"log and step exclude each other, got step = {step}"
        elif (high - low) / step > _LARGEST:
            yield f"step must not be below (high - low) / 2**53, got {step}"
        elif low < high and (_exact(high) - _exact(low)) % _exact(step):
            k = max(1, round((high - low) / step))
            nearest = self._number(float(_exact(low) + k * _exact(step)))
            rule = f"high must be low + k * step with low = {low}, step = {step}"
            yield f"{rule}, got {high}; the nearest valid high is {nearest}"

    @property
    def count(self) -> int | None:
        """How many values the range has; None for infinitely many."""
        if self.low == self.high:
            return 1
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def _snap(self, x: float) -> float:
        """The value of the range nearest to `x`."""
        if self.count is None or self.step is None:
            for bound in (self.low, self.high):
                if math.isclose(x, bound, rel_tol=1e-12):  # exp(log(bound)) misses by a hair
                    return bound
            return self._number(min(max(x, self.low), self.high))
        k = min(max(round((x - self.low) / self.step), 0), self.count - 1)
        return self._number(float(_exact(self.low) + k * _exact(self.step)))

    def _at(self, position: float, margin: float = 0.0) -> float:
        """The value at a position in [0, 1] of the (logarithmic) range widened by `margin`."""
        low, high = self.low - margin, self.high + margin
        if self.log:
            return self._snap(math.exp((1 - position) * math.log(low) + position * math.log(high)))
        return self._snap((1 - position) * low + position * high)

    def _middle(self) -> float:
        return self._at(0.5)

    def convert(self, value: object) -> float:
        number = self._number(value)
        nearest = self._snap(number)
        if abs(nearest - number) <= 1e-12 * abs(number) + 1e-8 * (self.step or 0):
            return nearest
        if self.low <= number <= self.high:
            message = f"must be low + k * step with low = {self.low}, step = {self.step}, "
            message += f"got {number}; the nearest is {nearest}"
        else:
            message = f"must lie between low = {self.low} and high = {self.high}, got {number}"
        raise ValueError(message)

    def from_unit(self, u: float, prior_seed: int = 0) -> float:
        """The value below which a share `u` of the prior lies.

        Segmented: the range is cut into three equal parts, one point is drawn uniformly in each
        (from `prior_seed`), and the value is interpolated linearly along the three points.
        """
        if self.prior == "segmented":
            rng = np.random.default_rng([prior_seed, zlib.crc32(self.name.encode())])
            u = float(np.interp(u, (0, 0.5, 1), (np.arange(3) + rng.random(3)) / 3))
        return self._at(u, margin=(self.step or 0) / 2)

    def grid_values(self, points: int) -> list[float]:
        """At most `points` values, evenly spread with both ends; all where there are no more."""
        if self.fixed is not None:
            return [self.fixed]
        if self.step is not None and self.count is not None and self.count <= points:
            return [self._snap(self.low + k * self.step) for k in range(self.count)]
        if points == 1:
            return [self.default]
        return list(dict.fromkeys(self._at(t) for t in np.linspace(0, 1, points).tolist()))

    def distribution(self) -> FloatDistribution | IntDistribution:
        kind: Any = IntDistribution if isinstance(self, IntParameter) else FloatDistribution
        return kind(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial) -> float:
        ask: Any = trial.suggest_int if isinstance(self, IntParameter) else trial.suggest_float
        return ask(self.name, self.low, self.high, log=self.log, step=self.step)


class FloatParameter(_Range, frozen=True):
    """A real number."""

    type: Literal["float"] = "float"


class IntParameter(_Range, frozen=True):
    """A whole number."""

    type: Literal["int"] = "int"
    step: int = 1
    _number = staticmethod(_int)


class ChoiceParameter(_Parameter, frozen=True):
    """One of several words, numbers or truth values, in no order."""

    type: Literal["choice"] = "choice"
    options: Annotated[tuple[Value, ...], BeforeValidator(_distinct)]
    default: Annotated[Value, BeforeValidator(_plain)] = _ABSENT
    fixed: Annotated[Value | None, BeforeValidator(_plain)] = None

    @property
    def count(self) -> int:
        """How many options there are."""
        return len(self.options)

    def _middle(self) -> Value:
        return self.options[0]

    def convert(self, value: object) -> Value:
        """The option that equals the value, 1 being 1.0 but not True."""
        plain = _plain(value)
        for option in self.options:
            if option == plain and isinstance(option, bool) == isinstance(plain, bool):
                return option
        message = f"must be one of {list(self.options)}, got {plain!r}"
        raise ValueError(message)

    def from_unit(self, u: float, prior_seed: int = 0) -> Value:
        """The option in whose equal share of [0, 1] `u` lies."""
        return self.options[min(int(u * len(self.options)), len(self.options) - 1)]

    def grid_values(self, points: int) -> list[Value]:
        """All options, however many points are asked for."""
        return list(self.options) if self.fixed is None else [self.fixed]

    def distribution(self) -> CategoricalDistribution:
        """The options as Optuna writes them."""
        return CategoricalDistribution(self.options)

    def suggest(self, trial: BaseTrial) -> Value:
        """Ask a trial for an option."""
        return cast("Value", trial.suggest_categorical(self.name, self.options))


Parameter = FloatParameter | IntParameter | ChoiceParameter
TYPES = {"float": FloatParameter, "int": IntParameter, "choice": ChoiceParameter}
