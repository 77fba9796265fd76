"""Read the source of a function: its syntax tree, and the variables that it changes."""

from __future__ import annotations
import __future__ as futures

import ast
import linecache
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

_CHANGING_METHODS = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
    "write",
}

_IGNORED_FIELDS = {"annotation", "returns", "ctx", "kind", "simple", "type_comment", "type_params"}
"""Fields of a syntax tree that do not change what the code does, or that not all Pythons have."""

_FUTURE_FLAGS = sum(getattr(futures, name).compiler_flag for name in futures.all_feature_names)


def syntax_tree(code: CodeType) -> ast.AST | None:
    """Return the syntax tree of a function's code; None without the source that it came from."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    try:
        tree, codes = _compile(text, code.co_flags & _FUTURE_FLAGS)
    except (SyntaxError, ValueError):
        return None
    if code not in codes:  # the file has changed since
        return None

    positions = set(code.co_positions())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min(item.lineno for item in [node, *node.decorator_list])
            if node.name == code.co_name and first == code.co_firstlineno:
                return node
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            body = node.body
            place = body.lineno, body.end_lineno, body.col_offset, body.end_col_offset
            if place in positions:
                return node
    return None


@lru_cache(maxsize=16)
def _compile(text: str, flags: int) -> tuple[ast.Module, frozenset[CodeType]]:
    module = compile(
        text,
        "",
        "exec",
        flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    return ast.parse(text), frozenset(nested_codes(module))


def tree_parts(node: Any) -> Any:
    """Return a syntax tree as JSON, the same for all versions of Python."""
    if isinstance(node, list):
        return [tree_parts(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__} {node!r}"

    parts: list[Any] = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name not in _IGNORED_FIELDS and value is not None and value != []:
            parts.append([name, tree_parts(value)])
    return parts


def _is_docstring(node: object) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


@lru_cache(maxsize=256)
def changed_names(code: CodeType) -> frozenset[str]:
    """Return the names of variables and attributes that a function's code assigns or changes."""
    tree = syntax_tree(code)
    names: set[str] = set()
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Global | ast.Nonlocal):
            names.update(node.names)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names.add(_last_name(node.value))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CHANGING_METHODS
        ):
            names.add(_last_name(node.func.value))
    return frozenset(names)


def _last_name(node: ast.expr) -> str:
    """Return `b` for `a.b` and for `a.b[0]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all that it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested_codes(constant)
