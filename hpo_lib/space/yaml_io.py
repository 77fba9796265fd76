"""YAML as people mean it, read whole and written one line per key."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

NUMERIC = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: 1e-4 is a number; on, no, 1:30 and dates stay the words they are."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way to start without the 1.1 rules)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, message = self.peek_event(), None
        if isinstance(event, yaml.AliasEvent):  # a few lines of them unfold to gigabytes
            message = "an alias (*name), which is not allowed"
        elif getattr(event, "tag", None) is not None:  # PyYAML fails in many ways at wrong ones
            message = "a tag (!name), which is not allowed"
        if message is not None:
            raise yaml.MarkedYAMLError(problem=message, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Everything on one line, quoted where any reader of YAML would see more than a word."""

    def check_simple_key(self) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'  # escapes instead of line breaks
    return dumper.represent_scalar(_TAG + "str", text, style)


for kind, pattern, starts in (
    ("null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789")),
    ("float", NUMERIC, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + kind, pattern, starts)
_Loader.add_constructor(_TAG + "int", lambda _, node: int(node.value))
_Dumper.add_implicit_resolver(_TAG + "float", NUMERIC, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)


def label(name: object) -> str:
    """A name as it stands where that is unmistakable, else quoted."""
    return name if isinstance(name, str) and name.isidentifier() else repr(name)


def read_yaml(text: str) -> tuple[object, list[str]]:
    """What the text says, and a problem for each key that its mapping has already.

    Raises:
        ValueError: it is not YAML, or has aliases or tags; the message is one line.
    """
    try:
        return yaml.load(text, _Loader), list(_duplicates(yaml.compose(text, _Loader)))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ValueError(message) from error


def _duplicates(node: yaml.Node | None, top: str | None = None) -> Iterator[str]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        about = str(key.value) if top is None else top
        if key.value in seen:
            again = f"got it again on line {key.start_mark.line + 1}"
            yield f"{label(about)}: duplicate key {label(key.value)}, {again}"
        seen.add(key.value)
        yield from _duplicates(value, about)


def yaml_line(key: str, value: Mapping[str, Any]) -> str:
    """`key: {...}` on one line, which `read_yaml` and any reader of YAML 1.1 or 1.2 understand."""
    text = yaml.dump(
        {key: value},
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=sys.maxsize,
    )
    return text.strip()[1:-1] + "\n"  # without the outer braces
