"""Base of the parameters: how their keys are validated, explained and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, PlainValidator, ValidationError, ValidationInfo, field_validator

from hpo_lib.exceptions import SpaceError
from hpo_lib.space.values import Value, read_conditions
from hpo_lib.space.yaml_io import label, read_yaml

_EXTENT = {"low", "high", "options"}
_KEYS = (  # in canonical order
    "type",
    "options",
    "low",
    "high",
    "log",
    "step",
    "prior",
    "default",
    "fixed",
    "when",
)


class ParameterBase(BaseModel, frozen=True, extra="forbid"):
    """Base of the three kinds of parameters.

    Pydantic reports the mistakes of all keys at once. The rules between keys are validated with
    `type`, the last field, so that they are reported too, as far as the keys could be read.
    """

    name: str
    when: Annotated[dict[str, tuple[Value, ...]], PlainValidator(read_conditions)] = {}

    if TYPE_CHECKING:  # declared by the subclasses, `type` as the last field
        default: Any
        fixed: Any
        type: Any

    def __init__(self, /, **data: Any) -> None:
        # A key without a value is as good as left out.
        present = {
            key: value for key, value in data.items() if value is not None or key not in _KEYS
        }
        try:
            super().__init__(**present)
        except ValidationError as error:
            name = label(data.get("name"))
            problems = [f"{name}: {sentence}" for sentence in self._sentences(error)]
            raise SpaceError(problems) from None

        list(self._settle(unread=set()))  # apply derived values; the rules are checked already

    @classmethod
    def _sentences(cls, mistakes: ValidationError) -> Iterator[str]:
        """Translate what pydantic found into sentences of key, rule and value."""
        for entry in mistakes.errors():
            key = str(entry["loc"][0])
            context = entry.get("ctx", {})
            error = context.get("error")

            if isinstance(error, SpaceError):
                yield from error.problems
            elif error is not None:
                yield f"{key} {error}"
            elif entry["type"] == "extra_forbidden":
                yield cls.unknown_key(key, entry["input"])
            else:
                # "Input should be a valid string" becomes "must be a valid string".
                must = re.sub(r"^\w+ should", "must", entry["msg"])
                yield f"{key} {must}, got {entry['input']!r}"

    @classmethod
    def unknown_key(cls, key: str, value: object) -> str:
        """Return the sentence for a key that this kind of parameter does not have.

        Args:
            key: key of the YAML form.
            value: its value.
        """
        fields = [field for field in _KEYS if field in cls.model_fields]
        known = ", ".join(fields)
        return f"unknown key {label(key)}, got {value!r}; known are {known}"

    @field_validator("type", check_fields=False)
    @classmethod
    def _check_rules(cls, kind: str, info: ValidationInfo) -> str:
        # `info.data` has the keys that pydantic could read, in their final types.
        readable = cls.model_construct(**info.data)
        unread = cls.model_fields.keys() - info.data.keys()
        problems = list(readable._settle(unread))
        if problems:
            raise SpaceError(problems)
        return kind

    def _settle(self, unread: Set[str]) -> Iterator[str]:
        """Derive what was left out, and yield the rules between keys that are broken.

        Args:
            unread: keys that have a mistake of their own.
        """
        extent = _EXTENT & type(self).model_fields.keys()
        missing = [key for key in sorted(extent) if getattr(self, key) is None]
        has_no_range = len(missing) == len(extent)
        if self.fixed is not None and has_no_range:
            # A fixed value without a range is its own range.
            self._set(
                low=self.fixed,
                high=self.fixed,
                options=(self.fixed,),
            )
            missing = []

        # A wrong fixed value is reported for itself: it would have been the range.
        for key in missing:
            if unread.isdisjoint({key, "fixed"}):
                yield f"{key} is required where no value is fixed, got nothing"

        # The other rules need the whole range.
        is_readable = unread.isdisjoint({*extent, "step"})
        if missing or not is_readable:
            return

        problems = list(self._range_problems())
        yield from problems or self._settle_values()

    def _settle_values(self) -> Iterator[str]:
        """Bring default and fixed value into the form in which the range holds them."""
        for key in ("default", "fixed"):
            value = getattr(self, key)
            try:
                if value is not None:
                    converted = self.convert(value)
                    self._set(**{key: converted})
            except ValueError as error:
                yield f"{key} {error}"

        # The default that was left out.
        if self.default is None and self.fixed is None:
            self._set(default=self._middle())
        elif self.default is None:
            self._set(default=self.fixed)

    def _set(self, **values: Any) -> None:
        """Set those of the values that this kind of parameter has."""
        fields = type(self).model_fields.keys()
        for key in values.keys() & fields:
            object.__setattr__(self, key, values[key])  # the model is frozen

    def _range_problems(self) -> Iterable[str]:
        return ()

    def convert(self, value: object) -> Value:
        """Return the value as a plain Python value of the range; ValueError outside of it."""
        raise NotImplementedError

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, such as a cell of a table; not yet checked."""
        return read_yaml(text)[0]

    def _middle(self) -> Value:
        raise NotImplementedError

    @property
    def count(self) -> int | None:
        """How many values there are; None for infinitely many."""
        raise NotImplementedError

    def is_met(self, configuration: Mapping[str, Value]) -> bool:
        """Return whether the conditions hold, given the active values of earlier parameters."""
        return all(
            name in configuration and configuration[name] in required
            for name, required in self.when.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the YAML form, in canonical order and without redundant keys."""
        body = self.model_dump(exclude_defaults=True) | {"type": self.type}
        if self.fixed is not None and self.fixed == self.default:
            del body["default"]
        if self.fixed is not None and self.count == 1:
            # A fixed value that is its own range.
            body = {key: value for key, value in body.items() if key not in _EXTENT}

        # Plain lists and values in place of tuples.
        if "options" in body:
            body["options"] = list(body["options"])
        if self.when:
            body["when"] = {}
            for parent, values in self.when.items():
                is_single = len(values) == 1
                body["when"][parent] = values[0] if is_single else list(values)

        return {key: body[key] for key in _KEYS if key in body}
