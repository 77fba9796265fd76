"""YAML 1.2 as people write it, and the canonical form with one line per parameter."""

from __future__ import annotations

import pprint
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from hpo_lib.checks import check_member

NUMERIC = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_COMMENT = re.compile(r"(?:(?<=\s)|^)#.*", re.MULTILINE)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Read scalars as in YAML 1.2: 1e-4 is a number; on, no, 1:30 and dates are words."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (starts without the rules of YAML 1.1)

    def compose_node(
        self,
        parent: yaml.Node | None,
        index: int,
    ) -> yaml.Node | None:
        event = self.peek_event()
        problem = None
        if isinstance(event, yaml.AliasEvent):  # a few lines of them unfold to gigabytes
            problem = "an alias (*name), which is not allowed"
        elif getattr(event, "tag", None) is not None:  # a wrong one raises any kind of error
            problem = "a tag (!name), which is not allowed"

        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Write on one line, with quotes where a reader of YAML 1.1 or 1.2 sees more than a word."""

    def check_simple_key(self) -> bool:
        return True  # long keys too, which would be written as `? key` on a line of their own


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'  # escapes instead of line breaks
    return dumper.represent_scalar(_TAG + "str", text, style)


# Kind, pattern and possible first characters of the plain scalars that are no words.
_SCALARS = (
    ("null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789")),
    ("float", NUMERIC, list("-+.0123456789")),
)
for kind, pattern, first_characters in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + kind, pattern, first_characters)
_Loader.add_constructor(_TAG + "int", lambda _, node: int(node.value))
_Dumper.add_implicit_resolver(_TAG + "float", NUMERIC, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)


def label(name: object) -> str:
    """Return an identifier as it is, any other name in quotes."""
    if isinstance(name, str) and name.isidentifier():
        return name
    return repr(name)


def read_yaml(text: str) -> tuple[object, list[str]]:
    """Read a YAML text.

    Returns:
        The content, and a problem for each key that its mapping has already.

    Raises:
        ValueError: it is not YAML, or has aliases or tags; the message is one line.
    """
    try:
        node = yaml.compose(text, _Loader)
        content = yaml.load(text, _Loader)
        return content, list(_duplicates(node))
    # Deep nesting exhausts the stack, and integers of 5,000 digits are a ValueError.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ValueError(message) from error


def _duplicates(
    node: yaml.Node | None,
    top_key: str | None = None,
) -> Iterator[str]:
    if not isinstance(node, yaml.MappingNode):
        return

    seen: set[str] = set()
    for key, value in node.value:
        parameter = str(key.value) if top_key is None else top_key
        if key.value in seen:
            again = f"got it again on line {key.start_mark.line + 1}"
            yield f"{label(parameter)}: duplicate key {label(key.value)}, {again}"
        seen.add(key.value)
        yield from _duplicates(value, parameter)


class Comments(NamedTuple):
    """Comments of one parameter.

    Attributes:
        above: whole lines before the parameter, each with its line break.
        beside: comment at the end of the line, with the spaces before it.
    """

    above: str = ""
    beside: str = ""


def read_comments(text: str) -> dict[str | None, Comments]:
    """Read the comments of a YAML text that `read_yaml` has accepted.

    A comment within the body of a parameter is taken for one above the parameter.

    Returns:
        Comments by the name of their parameter; those below the last parameter are above `None`.
    """
    root = yaml.compose(text, _Loader)
    pairs: list[tuple[yaml.Node, yaml.Node]] = root.value if root else []
    lines = text.removeprefix("\ufeff").splitlines()
    comments: dict[str | None, Comments] = {}
    done = 0  # lines of the parameters before

    for key, value in pairs:
        begin = key.start_mark.line
        end = _last_leaf(value).end_mark
        above = _between(lines[done:begin])
        for within in _COMMENT.findall("\n".join(lines[begin : end.line])):
            above += f"{within}\n"

        # In `{a: {...}, b: {...}}` a comma separates the parameters.
        rest = lines[end.line][end.column :].lstrip(",")
        beside = rest.rstrip() if rest.lstrip().startswith("#") else ""
        comments[key.value] = Comments(above, beside)
        done = end.line + 1

    comments[None] = Comments(_between(lines[done:]))
    return comments


def _between(lines: list[str]) -> str:
    """Return the comments between two parameters, with the blank lines around them."""
    kept = [line for line in lines if line.lstrip()[:1] in ("", "#")]
    text = "".join(f"{line}\n" for line in kept)
    return text if text.strip() else ""


def _last_leaf(node: yaml.Node) -> yaml.Node:
    """Return the node that ends a node; the end mark of a block itself is that of the gap."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def format_configuration(configuration: Mapping[str, Any], language: str = "yaml") -> str:
    """Return a configuration as text to be copied.

    Args:
        configuration: values by the name of a hyperparameter.
        language: "yaml" or "python".

    Example:
        >>> print(format_configuration({"lr": 0.01, "optimizer": "sgd"}), end="")
        lr: 0.01
        optimizer: sgd
        >>> print(format_configuration({"lr": 0.01, "optimizer": "sgd"}, "python"))
        {'lr': 0.01, 'optimizer': 'sgd'}
    """
    check_member("language", language, ("yaml", "python"))
    if language == "python":
        return pprint.pformat(dict(configuration), sort_dicts=False)
    return "".join(yaml_line(name, value) for name, value in configuration.items())


def yaml_line(key: str, value: Any) -> str:
    """Return `key: {...}` on one line, which readers of YAML 1.1 and 1.2 understand alike.

    Args:
        key: name of the parameter.
        value: its body, or one value.
    """
    text = yaml.dump(
        {key: value},
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=sys.maxsize,
    )
    return text.strip()[1:-1] + "\n"  # without the outer braces
