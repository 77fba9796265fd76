"""Compute with one BLAS thread, so that numbers do not depend on how many cores there are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LIBRARIES = (np, scipy.linalg)  # loaded before their BLAS is looked for
_controller = ThreadpoolController()
_lock = threading.RLock()


def one_thread(function: _Function) -> _Function:
    """Run a function with one BLAS thread, as sums are rounded differently by several.

    The limit belongs to the process: threads run such functions one after the other, or one of
    them would restore the limit that another one has set.
    """
    limited = _controller.wrap(limits=1, user_api="blas")(function)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return limited(*args, **kwargs)

    return cast("_Function", run)
