"""One run: the notebooks executed through papermill, with their record and report."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import Unicode, default
from traitlets.config import Config

from hpo_lib.exceptions import RunError, WriteError
from hpo_lib.files import atomic_write_text
from hpo_lib.runner.notebooks import (
    PACKAGE_PARENT,
    RUN_FOLDER,
    Notebook,
    choose_notebooks,
    find_notebooks,
    notebooks_folder,
    read_profile,
    settings,
    user_path,
)

Record = dict[str, Any]

_BAR = "{desc}, cell {n_fmt} of {total_fmt}, {elapsed}"


class Outcome(NamedTuple):
    """The run's folder, what `run.json` there holds, and the chosen notebooks left to run.

    The first of those is the one that failed or was interrupted.
    """

    folder: Path
    record: Record
    left: list[str]


class HeadlessKernel(AsyncKernelManager):
    """A kernel in this very interpreter, whatever kernels the machine knows by name."""

    log_file = Unicode().tag(config=True)

    async def start_kernel(self, **options: Any) -> None:
        """Start with a file for what the process itself says, as when it crashes."""
        with Path(self.log_file).open("wb") as log:
            await super().start_kernel(stdout=log, stderr=log, **options)

    @default("transport_encryption")
    def _encrypted_where_possible(self) -> str:
        """On a shared machine the kernel's port is open to every user."""
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        """The native kernel, told that nobody watches."""
        path = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "TQDM_DISABLE": "1",  # nobody watches bars; what matters is printed as lines
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": os.pathsep.join(path),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        return KernelSpec(**get_kernel_dict(), env=environment)


def run_notebooks(
    notebooks: Sequence[str] = (),
    *,
    profile: str = "quick",
    parameters: Mapping[str, Any] | None = None,
    into: str | Path | None = None,
) -> Outcome:
    """Execute notebooks in number order up to the first that fails, then write the report.

    Args:
        notebooks: numbers, names or paths; all numbered ones when empty.
        profile: a section of `notebooks/profiles.yaml`.
        parameters: handed to each notebook that declares the name; text is read as papermill does.
        into: the folder of an earlier run to go on in; None: a new one below `results/runs`.

    Raises:
        RunError: the request makes no sense; nothing has run.
    """
    home = notebooks_folder()
    known = find_notebooks(home)
    chosen = choose_notebooks(notebooks, known)
    candidates = {n.path: n for n in [*known, *chosen]}
    values = read_profile(home / "profiles.yaml", profile, list(candidates.values()))
    handed = settings(chosen, values, parameters or {})
    runs = home.parent / "results" / "runs"
    folder = _new_folder(runs) if into is None else _opened(user_path(into))
    record = _begin(folder, profile, chosen)
    print(f"profile {profile}, {len(chosen)} notebooks, into {folder}", flush=True)
    left = [notebook.name for notebook in chosen]
    for position, notebook in enumerate(chosen, 1):
        label = f"[{position}/{len(chosen)}] {notebook.name}"
        entry = _execute(notebook, handed[notebook.name], folder, label)
        record["notebooks"][notebook.name] = entry
        _save(folder, record)
        if entry["status"] != "ok":
            break
        left.remove(notebook.name)
    _finish(folder, record)
    return Outcome(folder, record, left)


def _new_folder(runs: Path) -> Path:
    """Named by the time; runs that begin in the same second are numbered."""
    stamp = runs / f"{datetime.now():%Y-%m-%dT%H%M%S}"
    for number in itertools.count(2):
        try:
            stamp.mkdir(parents=True)
        except FileExistsError:
            stamp = stamp.with_name(f"{stamp.name[:17]}-{number}")
        else:
            break
    return stamp


def _opened(folder: Path) -> Path:
    if folder.exists() and not (folder / "run.json").is_file() and any(folder.iterdir()):
        message = f"--into must be the folder of a run, or a new one; {folder} holds other files"
        raise RunError(message)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--into must be a folder that can be made, got {folder}: {error}"
        raise RunError(message) from error
    return folder


def _earlier(path: Path) -> Record:
    """The record of an earlier run, checked where this one builds on it."""
    if not path.exists():
        return {}
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        for entry in record["notebooks"].values():
            _ = str(entry["status"]), float(entry.get("seconds", 0))
            _ = dict(entry.get("parameters", {}))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{path} is not the record of a run: {type(error).__name__}: {error}"
        raise RunError(message) from error
    return record


def _begin(folder: Path, profile: str, chosen: Sequence[Notebook]) -> Record:
    """Start a record, or go on with the one in the folder: what ran there before is kept."""
    path = folder / "run.json"
    earlier = _earlier(path)
    entries: Record = {n.name: {"status": "not run"} for n in chosen}
    entries |= earlier.get("notebooks", {})
    record: Record = {
        "status": "running",
        "profile": profile,
        "started": earlier.get("started", _now()),
        "finished": None,
        "seconds": None,
        "seed": None,
        "versions": _versions(),
        "device": _device(),
        "git": _git(),
        "notebooks": dict(sorted(entries.items())),
    }
    _save(folder, record)
    return record


def _finish(folder: Path, record: Record) -> None:
    entries = record["notebooks"].values()
    states = {entry["status"] for entry in entries}
    ended = [state for state in ("interrupted", "failed") if state in states]
    record["status"] = ended[0] if ended else "incomplete" if "not run" in states else "ok"
    record["finished"] = _now()
    record["seconds"] = round(sum(entry.get("seconds", 0) for entry in entries), 1)
    parameters = [entry.get("parameters", {}) for entry in entries]
    seeds = {str(given["seed"]): given["seed"] for given in parameters if "seed" in given}
    record["seed"] = [seeds[text] for text in sorted(seeds)]
    _save(folder, record)
    from hpo_lib.runner.report import write_report  # slow to import, like papermill

    write_report(folder, record)


def _save(folder: Path, record: Record) -> None:
    atomic_write_text(folder / "run.json", json.dumps(record, indent=2, default=repr) + "\n")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _execute(notebook: Notebook, handed: Record, folder: Path, label: str) -> Record:
    """Run one notebook; whatever ends it, what it had written becomes its copy in `folder`."""
    # Takes seconds to import: what makes no sense has been refused before.
    from papermill.exceptions import PapermillExecutionError

    watched = sys.stderr.isatty()
    if not watched:
        print(f"{label} ...", end=" ", flush=True)
    if RUN_FOLDER in notebook.parameters:
        handed = {**handed, RUN_FOLDER: str(folder)}
    defaults = {name: parameter.default for name, parameter in notebook.parameters.items()}
    entry: Record = {"status": "ok", "started": _now(), "parameters": defaults | handed}
    # Papermill saves after every cell: under this name, until the copy is whole.
    running = folder / f"{notebook.name}.running.ipynb"
    log = folder / f"{notebook.name}.log"
    bar = {"desc": label, "bar_format": _BAR, "leave": False} if watched else False
    began = time.perf_counter()
    try:
        _papermill(notebook.path, running, log, handed, bar)
    except PapermillExecutionError as error:
        what = f"{error.ename}: {error.evalue}"
        entry |= {"status": "failed", "cell": error.exec_count, "error": what}
    except KeyboardInterrupt as error:
        cell = _mark_cell(running, error, "stopped")
        entry |= {"status": "interrupted", "cell": cell, "error": "stopped"}
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        entry |= {"status": "failed", "cell": _mark_cell(running, error, what), "error": what}
    entry["seconds"] = round(time.perf_counter() - began, 1)
    if log.exists() and (entry["status"] == "ok" or not log.stat().st_size):
        log.unlink()
    if running.exists():
        running.replace(folder / f"{notebook.name}.ipynb")
    start = f"{label} " if watched else ""
    print(f"{start}{entry['status']}, {entry['seconds']} s", flush=True)
    return entry


def _papermill(source: Path, running: Path, log: Path, parameters: Record, bar: Any) -> None:
    from papermill import execute_notebook
    from papermill.iorw import LocalHandler, papermill_io

    files = LocalHandler()
    files.write = lambda buf, path: atomic_write_text(path, buf)
    papermill_io.register(str(running), files)
    # Papermill takes paths for format strings.
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (source, running)]
    execute = partial(
        execute_notebook,
        *paths,
        parameters=parameters,
        kernel_name="python3",
        language="python",
        kernel_manager_class=HeadlessKernel,
        config=Config(HeadlessKernel={"log_file": str(log)}),
        cwd=str(source.parent),
        progress_bar=bar,
    )
    try:
        execute()
    except RuntimeError as error:
        # Its ports are chosen a second before it opens them: another process can be quicker.
        if _started(running):
            raise
        print(f"{source.stem} is started again: {error}", file=sys.stderr, flush=True)
        execute()


def _code_cells(book: Record) -> list[Record]:
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def _started(copy: Path) -> list[int]:
    """The numbers of the code cells that were begun."""
    if not copy.exists():
        return []
    code = _code_cells(json.loads(copy.read_text(encoding="utf-8")))
    return [n for n, cell in enumerate(code, 1) if cell["metadata"]["papermill"]["start_time"]]


def _mark_cell(copy: Path, error: BaseException, what: str) -> int | None:
    """Write an error that is not a cell's own into the cell that was running; say which it was.

    After a lost kernel papermill leaves every cell as completed, those that never ran too.
    """
    started = _started(copy)
    if not started:
        return None
    book = json.loads(copy.read_text(encoding="utf-8"))
    code = _code_cells(book)
    for cell in code[started[-1] :]:
        cell["metadata"]["papermill"]["status"] = "pending"
    last = code[started[-1] - 1]
    last["metadata"]["papermill"] |= {"status": "failed", "exception": True}
    words = {"ename": type(error).__name__, "evalue": str(error), "traceback": [what]}
    last["outputs"].append({"output_type": "error", **words})
    with suppress(WriteError):  # a full disk is told of when the run's record is written
        atomic_write_text(copy, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    return started[-1]


def _versions() -> dict[str, str]:
    """Versions of Python, the project and what it depends on, read without importing any."""
    lines = [line for line in metadata.requires("hpo-lib") or [] if "extra ==" not in line]
    names = ["hpo-lib", *(re.split(r"[^\w.-]", line)[0] for line in lines)]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _device() -> Record:
    return {
        "processor": _processor(),
        "cores": len(psutil.Process().cpu_affinity()) if psutil.LINUX else psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        "system": platform.platform(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", facts.read_text()) if facts.exists() else None
    name = found[1] if found else _output("sysctl", "-n", "machdep.cpu.brand_string")
    return name or platform.processor() or platform.machine()


def _git() -> Record | None:
    """The commit that the notebooks come from, and whether tracked files differ from it."""
    commit = _output("git", "-C", str(notebooks_folder()), "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _output("git", "-C", str(notebooks_folder().parent), "status", "--porcelain", "-uno")
    return {"commit": commit, "dirty": bool(changes)}


def _output(*command: str) -> str:
    """What a command prints, or nothing where it does not exist, hangs or does not succeed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
