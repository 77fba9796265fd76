"""Runs that are kept as they are made: an interrupted benchmark goes on."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from hpo_lib.files import atomic_write_text


def run_missing(
    file: Path, wanted: Mapping[str, tuple[Any, ...]], run: Callable[..., Any], jobs: int
) -> dict[str, Any]:
    """Return the results of `run` by key, from the file or made now in forked processes.

    Args:
        file: JSON, one run a line.
        wanted: the arguments of each run by its key.
        run: returns JSON.
        jobs: processes at a time.
    """
    done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    missing = {key: arguments for key, arguments in wanted.items() if key not in done}
    file.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        futures = {pool.submit(run, *each): key for key, each in missing.items()}
        for made, future in enumerate(as_completed(futures), start=1):
            done[futures[future]] = future.result()
            lines = [f"{json.dumps(key)}: {json.dumps(done[key])}" for key in sorted(done)]
            atomic_write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")
            print(f"\r{file.stem}: {made} of {len(missing)} runs", end="", flush=True)
    if missing:
        print()
    return done
