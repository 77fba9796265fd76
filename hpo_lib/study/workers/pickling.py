"""Write objectives for other processes, and say what of them cannot be sent there."""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, cast

import cloudpickle

from hpo_lib.identity import members
from hpo_lib.objective import FunctionObjective, shown

_LONGEST_PATH = 8


def dump_objective(objective: Any) -> bytes:
    """Return an objective as cloudpickle writes it, also with cached functions of a notebook.

    Raises:
        TypeError: it holds what no other process can have, such as a lock or an open file.
    """
    try:
        return _dump(objective)
    except Exception as error:  # of the user's own `__getstate__`, too
        is_function = isinstance(objective, FunctionObjective)
        name, value = _find_culprit(objective.function if is_function else objective, "objective")
        message = (
            f"objective must go to worker processes, which {name} = {shown(value)} cannot "
            f"({error}): create it where the objective is called, leave it out in __getstate__, "
            "or run with workers=0"
        )
        raise TypeError(message) from error


def _reduce_cached(function: Any) -> str | tuple[Any, ...]:
    if function.__module__ != "__main__":
        return function.__qualname__
    return _cache, (function.__wrapped__, function.cache_parameters())


def _cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(function)


class _Pickler(cloudpickle.Pickler):
    """Sends what cloudpickle does not: cached functions of `__main__`, and special modules.

    cloudpickle sends each loaded module that a function may use, by any attribute of that name
    (`torch.classes` with `data.classes`), but knows plain module objects alone.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {type(lru_cache(_cache)): _reduce_cached},
        cast("Any", cloudpickle.Pickler.dispatch_table),
    )

    def reducer_override(self, obj: Any) -> Any:
        """Return how to make an object anew.

        Args:
            obj: any part of the objective.
        """
        is_special = isinstance(obj, ModuleType) and type(obj) is not ModuleType
        if is_special and sys.modules.get(obj.__name__) is obj:
            return import_module, (obj.__name__,)
        return super().reducer_override(obj)


def _dump(value: Any) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def _find_culprit(value: Any, name: str) -> tuple[str, Any]:
    """Return the innermost part of a value that cannot be pickled, with its name."""
    for _ in range(_LONGEST_PATH):
        for key, part in _parts(value).items():
            if not _can_be_sent(part):
                name = f"{name}{key}"
                value = part
                break
        else:
            break
    return name, value


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return {f"[{i}]": part for i, part in enumerate(value)}
    try:
        return {f".{key}": part for key, part in members(value).items() if key != "code"}
    except Exception:  # it does not say what it consists of
        return {}


def _can_be_sent(value: Any) -> bool:
    try:
        _dump(value)
    except Exception:
        return False
    return True
