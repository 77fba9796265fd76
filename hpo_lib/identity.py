"""Identify a function by its content: its code and the values that it holds.

What counts is the syntax tree of the function and of the functions and classes that it uses from
its own module or from `__main__`, with default values, captured variables, globals, arguments of
a `partial` and attributes of an object. Neither places (file, module, line, address) nor comments,
docstrings, annotations and layout count, nor what the function itself changes, such as a counter.
Functions of other modules count by their names.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import inspect
import json
import platform
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from hpo_lib.source_code import changed_names, nested_codes, syntax_tree, tree_parts

_PLAIN = (type(None), bool, int, float, complex, str, bytes)

# Objects whose content changes with every use, or that have none.
_VOLATILE = (
    type(threading.Lock()),
    type(threading.RLock()),
    np.random.Generator,
    np.random.RandomState,
    random.Random,
)

_BYTECODE = "bytecode of Python"
"""Entry of a content beside the members, whose names have no spaces."""

_DIGEST_LENGTH = 16
_LONGEST_SHOWN = 40


def stated_version(function: object) -> str | None:
    """Return the attribute `version` of a function, which replaces its content; else None."""
    version = getattr(function, "version", None)
    is_version = isinstance(version, str | int | float) and not isinstance(version, bool)
    return str(version) if is_version else None


def innermost(value: Any) -> Any:
    """Return the function within a `partial`, a method or a wrapper such as `lru_cache`'s."""
    while not isinstance(value, FunctionType):
        if isinstance(value, partial):
            value = value.func
        elif isinstance(value, MethodType | staticmethod | classmethod):
            value = value.__func__
        elif "__wrapped__" in getattr(value, "__dict__", {}):
            value = value.__wrapped__
        else:
            break
    return value


def function_name(function: object) -> str:
    """Return the name of a function, or of the class of a callable object."""
    inner = innermost(function)
    return getattr(inner, "__name__", type(inner).__name__)


def read_content(function: Callable[..., Any]) -> tuple[dict[str, str], list[str]]:
    """Return what a function consists of by name, and the names of what cannot be identified.

    Args:
        function: a function, method, `partial` or callable object.

    Returns:
        Short values as they are and digests of the others, the same in every process. Where code
        is known without its source, an entry says the version of Python whose bytecode was read.
    """
    reader = _ContentReader(function)
    try:
        content = reader.content(function, "objective")
    except Exception:  # of the user's own `__reduce__`, too
        return {"class": type(function).__name__}, ["objective"]

    if reader.python is not None:
        content[_BYTECODE] = reader.python
    return content, sorted(set(reader.unknown))


def read_options(value: object) -> tuple[dict[str, str], list[str]]:
    """Return the options of a sampler or a pruner, as `read_content` does.

    Options are the attributes of an object, and of those in it, that no method but `__init__`
    changes. Seeds and random generators are none.

    Args:
        value: new, or used before.
    """
    reader = _ContentReader(value, with_state=False)
    try:
        return reader.content(value, "self"), sorted(set(reader.unknown))
    except Exception:  # of the user's own `__reduce__`, too
        return {}, ["self"]


def is_same_version(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Return whether two settings of functions have the same version.

    Bytecode of two versions of Python, or bytecode and source, do not compare: such functions are
    taken for the same.

    Args:
        recorded: with "version", and "content" where that is its digest.
        current: likewise.
    """
    if recorded["version"] == current["version"]:
        return True
    if "content" not in recorded or "content" not in current:
        return False
    return recorded["content"].get(_BYTECODE) != current["content"].get(_BYTECODE)


def digest(parts: object) -> str:
    """Return a digest of JSON."""
    return _hash(json.dumps(parts, sort_keys=True).encode())


def members(value: Any) -> dict[str, Any]:
    """Return by name what an object consists of.

    Args:
        value: a function, a class or any object that can be pickled or consists of such.

    Raises:
        TypeError: the object does not say what it consists of.
    """
    if isinstance(value, partial):
        arguments = {"args": value.args} if value.args else {}
        return _join(members(value.func), {**arguments, **value.keywords})
    if isinstance(value, MethodType):
        return _join(members(value.__self__), members(value.__func__))
    if isinstance(value, FunctionType):
        return _function_members(value)
    if isinstance(value, type):
        return _class_members(value)
    if isinstance(value, property):
        return {"get": value.fget, "set": value.fset}
    if isinstance(value, cached_property):
        return {"get": value.func}
    inner = innermost(value)
    return _attributes(value) if inner is value else members(inner)


class _ContentReader:
    """Turns values into short texts that depend on their content alone.

    Args:
        function: code of its module counts.
        with_state: whether seeds count, and attributes that any method changes; code of modules
            does not count without them.
    """

    def __init__(self, function: object, *, with_state: bool = True) -> None:
        self.unknown: list[str] = []
        self.python: str | None = None
        self._with_state = with_state
        own_modules = _modules(innermost(function)) if with_state else ()
        self._modules = {"__main__", *own_modules} - {"builtins"}
        # By address, with the object, so that no other one gets its address meanwhile.
        self._texts: dict[int, tuple[object, str]] = {}

    def content(
        self,
        value: Any,
        path: str,
        changed: frozenset[str] = frozenset(),
    ) -> dict[str, str]:
        """Return the text of each member.

        Args:
            value: what has the members.
            path: its name, for what cannot be identified.
            changed: names of members that do not count.
        """
        own_changes = _written_names(value) if self._with_state else _state_names(type(value))
        content: dict[str, str] = {}
        for name, member in sorted(members(value).items()):
            if name not in changed | own_changes:
                content[name] = self.text(member, f"{path}.{name}", own_changes)
        return content

    def text(
        self,
        value: Any,
        path: str,
        changed: frozenset[str] = frozenset(),
    ) -> str:
        """Return a plain value as it is, or the type and a digest of any other."""
        if type(value) in _PLAIN:
            return _plain_text(value)
        if id(value) not in self._texts:
            self._texts[id(value)] = value, "recursion"
            self._texts[id(value)] = value, self._text(value, path, changed)
        return self._texts[id(value)][1]

    def _text(self, value: Any, path: str, changed: frozenset[str]) -> str:
        label = type(value).__name__
        if isinstance(value, ModuleType):
            return f"{label} {value.__name__}"
        if isinstance(value, FunctionType | type) and value.__module__ not in self._modules:
            return f"{label} {value.__module__.split('.')[0]}.{value.__qualname__}"
        if isinstance(value, _VOLATILE):
            return label

        parts: Any
        try:
            if isinstance(value, CodeType):
                parts = self._code(value, path)
            elif type(value) in (list, tuple, dict, set, frozenset):
                parts = self._items(value, path)
            elif (data := _array_data(value)) is not None:
                parts = self._items(data, path)
            elif (settings := _own_settings(value)) is not None:
                parts = settings
            else:
                parts = self.content(value, path, changed)
        except Exception:  # whatever the object raises that is asked for its state
            self.unknown.append(path)
            return label
        return f"{label} {digest(parts)}"

    def _items(self, values: Any, path: str) -> list[Any]:
        if isinstance(values, dict):
            items = values.items()
            return sorted([self.text(k, path), self.text(v, f"{path}[{k!r}]")] for k, v in items)
        texts = [self.text(value, path) for value in values]
        return sorted(texts) if isinstance(values, set | frozenset) else texts

    def _code(self, code: CodeType, path: str) -> Any:
        node = syntax_tree(code)
        if node is not None:
            return tree_parts(node)

        # Without the source: bytecode, which other versions of Python have another of.
        self.python = ".".join(platform.python_version_tuple()[:2])
        instructions = dis.get_instructions(code)
        return [[item.opname, self.text(item.argval, path)] for item in instructions]


def _modules(function: Any) -> Iterator[str]:
    """Return the modules of a function and of those that it captures, as decorators do."""
    yield function.__module__
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # empty
            if isinstance(cell.cell_contents, FunctionType):
                yield cell.cell_contents.__module__


def _written_names(value: Any) -> frozenset[str]:
    """Return the names of variables and attributes that a call of a function changes."""
    inner = innermost(value)
    if not isinstance(inner, FunctionType):
        inner = inspect.getattr_static(type(inner), "__call__", None)
    return changed_names(inner.__code__) if isinstance(inner, FunctionType) else frozenset()


def _state_names(cls: type) -> frozenset[str]:
    """Return the names of attributes that change with the use of an object, and of its seed."""
    names = {"seed", "_seed"}
    for base in cls.__mro__:
        for name, member in vars(base).items():
            inner = innermost(member)
            if name != "__init__" and isinstance(inner, FunctionType):
                names |= changed_names(inner.__code__)
    return frozenset(names)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_LENGTH]


def _plain_text(value: Any) -> str:
    if isinstance(value, str | bytes) and len(value) > _LONGEST_SHOWN:
        data = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
        return f"{type(value).__name__} {_hash(data)}"
    return repr(value)


def _own_settings(value: Any) -> Any:
    """Return the settings of an `Objective`, which says itself what it is; None for others."""
    is_objective = hasattr(type(value), "settings") and hasattr(type(value), "budget")
    return value.settings if is_objective else None


def _array_data(value: Any) -> list[Any] | None:
    """Return type, shape and bytes of an array, a tensor or a table; None for anything else."""
    if isinstance(value, np.ndarray | np.generic):
        values = value.tolist() if value.dtype.hasobject else value.tobytes()
        return [str(value.dtype), value.shape, values]

    # Who has a tensor or a table has imported its library.
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        return [str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()]

    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        frame = value if isinstance(value, pandas.DataFrame) else value.to_frame()
        hashes = pandas.util.hash_pandas_object(frame).to_numpy()
        types = [str(dtype) for dtype in frame.dtypes]
        return [list(frame.columns), list(frame.index.names), types, hashes]
    return None


def _join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = {name: (first[name], second[name]) for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def _function_members(function: FunctionType) -> dict[str, Any]:
    version = vars(function).get("version")
    if version is not None:
        return {"version": version}

    found: dict[str, Any] = {"code": function.__code__}
    defaults = (function.__defaults__, function.__kwdefaults__)
    if any(defaults):
        found["defaults"] = defaults

    # Globals, captured variables and attributes.
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            found[name] = function.__globals__[name]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        with suppress(ValueError):  # empty, such as a function that is defined later
            found[name] = cell.cell_contents
    found.update(vars(function))
    found.pop("__wrapped__", None)  # captured, too
    return found


def _global_names(code: CodeType) -> set[str]:
    names: set[str] = set()
    for inner in nested_codes(code):
        for instruction in dis.get_instructions(inner):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(instruction.argval)
    return names


def _class_members(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {"bases": cls.__bases__}
    for name, member in vars(cls).items():
        if name.startswith("_abc_"):
            continue
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            # What `dataclass` has made follows from the fields.
            code = getattr(inspect.unwrap(member) if callable(member) else None, "__code__", None)
            if code is None or syntax_tree(code) is None:
                continue
        found[name] = member
    return found


def _attributes(value: Any) -> dict[str, Any]:
    """Return the class and the attributes of an object, as pickle would keep them."""
    reducer: Any = copyreg.dispatch_table.get(type(value))
    reduced: Any = value.__reduce_ex__(4) if reducer is None else reducer(value)
    if isinstance(reduced, str):
        return {"name": reduced}

    make, arguments, *rest = reduced
    state, *items = rest or [None]
    found: dict[str, Any] = {"class": type(value)}
    if getattr(make, "__name__", "") != "__newobj__":
        found["make"] = make
        found["arguments"] = arguments
    elif len(arguments) > 1:
        found["arguments"] = arguments[1:]
    for name, item in zip(("items", "entries"), items, strict=False):
        if item is not None:
            found[name] = list(item)

    found.update(_state_attributes(type(value), state))
    return found


def _state_attributes(cls: type, state: Any) -> dict[str, Any]:
    """Return the attributes in a pickled state, without those that are computed when needed."""
    has_slots = isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict)
    found: dict[str, Any] = {}
    for part in state if has_slots else [state]:
        attributes = part if isinstance(part, dict) else {"state": part}
        for name, attribute in attributes.items():
            is_computed = isinstance(getattr(cls, str(name), None), cached_property)
            if attribute is not None and name != "__doc__" and not is_computed:
                found[str(name)] = attribute
    return found
