"""Record a run in `run.json`: what was executed, with which values, and how it ended."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from hpo_lib.assessment.finding import Findings
from hpo_lib.exceptions import RunError
from hpo_lib.files import atomic_write_text, remove_partials

RECORD_NAME = "run.json"
FINDINGS_NAME = "findings.json"
LOCK_NAME = ".lock"

Status = Literal["ok", "not run", "failed", "interrupted"]

_BY_SEVERITY = get_args(Status)


@dataclass
class NotebookRun:
    """Execution of one notebook.

    Attributes:
        status: how it ended, if it began.
        started: when it began, in ISO format; None when it did not.
        seconds: that it took.
        parameters: the value of each parameter, defaults included.
        cell: the number of the cell that failed or was interrupted, where one was running.
        error: why it did not end well.
    """

    status: Status = "not run"
    started: str | None = None
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    cell: int | None = None
    error: str | None = None


@dataclass
class RunRecord:
    """Record of a run: its notebooks, and where they were executed.

    Attributes:
        profile: the name of the profile.
        notebooks: by name, in number order, those of earlier runs into the folder included.
        versions: of Python and the packages, by name.
        device: processor, cores, memory and GPUs.
        git: the commit of the notebooks; None where there is none.
        started: when the first run into the folder began, in ISO format.
        status: "running", then "ok", "failed", "interrupted" or "incomplete".
        finished: when it ended; None while it runs.
        seconds: of all notebooks together; None while it runs.
        seed: the distinct values of the notebooks' parameter `seed`.
    """

    profile: str
    notebooks: dict[str, NotebookRun]
    versions: dict[str, str]
    device: dict[str, Any]
    git: dict[str, Any] | None
    started: str
    status: str = "running"
    finished: str | None = None
    seconds: float | None = None
    seed: list[Any] | None = None

    def write(self, folder: Path) -> None:
        """Write the record into the folder of its run."""
        text = json.dumps(asdict(self), indent=2, default=repr)
        atomic_write_text(folder / RECORD_NAME, text + "\n")

    def finish(self) -> None:
        """Set the status, the seconds and the seeds of the run from those of its notebooks."""
        runs = self.notebooks.values()
        worst = max((run.status for run in runs), key=_BY_SEVERITY.index)
        self.status = "incomplete" if worst == "not run" else worst
        self.finished = now()
        self.seconds = round(sum(run.seconds for run in runs), 1)

        # By their text, since a notebook may declare a list of seeds.
        seeds: dict[str, Any] = {}
        for run in runs:
            if "seed" in run.parameters:
                seeds[str(run.parameters["seed"])] = run.parameters["seed"]
        self.seed = [seeds[text] for text in sorted(seeds)]


def begin_record(folder: Path, profile: str, names: Iterable[str], notebooks: Path) -> RunRecord:
    """Start the record of a run, and keep what ran into the same folder before.

    Args:
        folder: the folder of the run.
        profile: the name of the profile.
        names: the notebooks to be executed.
        notebooks: the folder whose commit is recorded.
    """
    started, earlier = read_earlier(folder)
    runs = {name: NotebookRun() for name in names} | earlier
    record = RunRecord(
        profile=profile,
        notebooks=dict(sorted(runs.items())),
        versions=_versions(),
        device=_device(),
        git=_git(notebooks),
        started=started or now(),
    )
    record.write(folder)
    return record


def read_earlier(folder: Path) -> tuple[str | None, dict[str, NotebookRun]]:
    """Return when the first run into a folder began, and all notebooks that ran there.

    Raises:
        RunError: the folder holds a file that is not the record of a run.
    """
    path = folder / RECORD_NAME
    if not path.exists():
        return None, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = TypeAdapter(dict[str, NotebookRun]).validate_python(content["notebooks"])
        return content.get("started"), runs
    except Exception as error:
        message = f"{path} is not the record of a run: {type(error).__name__}: {error}"
        raise RunError(message) from error


def read_findings(folder: Path) -> Findings:
    """Return the findings in a run's folder.

    Raises:
        RunError: no notebook has written any, or the file is damaged.
    """
    path = folder / FINDINGS_NAME
    if not path.is_file():
        message = "no findings: notebook 07 writes them, and has not run to its end in this folder"
        raise RunError(message)
    try:
        return Findings.load(path)
    except ValueError as error:
        raise RunError(str(error)) from error


def lock_run(folder: Path) -> AbstractContextManager[Any]:
    """Hold a run's folder against other runs; the system frees it when this process dies."""
    try:
        lock = FileLock(folder / LOCK_NAME).acquire(timeout=0)
    except Timeout as error:
        message = f"another run writes into {folder}: wait for it, or choose another folder"
        raise RunError(message) from error

    remove_partials(folder)
    return lock


def now() -> str:
    """Return the time in ISO format, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    """Return the versions of Python, the project and its dependencies, without importing any."""
    versions = {"python": platform.python_version(), "hpo-lib": metadata.version("hpo-lib")}
    for requirement in metadata.requires("hpo-lib") or []:
        name, _, marker = requirement.partition(";")
        if "extra ==" in marker and "all" not in marker:
            continue  # a tool for development
        name = re.split(r"[^\w.-]", name)[0]
        with suppress(metadata.PackageNotFoundError):  # of an extra that is not installed
            versions[name] = metadata.version(name)

    return versions


def _device() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, the memory and the GPUs."""
    processor = platform.processor() or platform.machine()
    cores = psutil.cpu_count()
    if psutil.LINUX:  # where the platform knows the architecture alone, and cores can be barred
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        processor = model[1] if model else processor
        cores = len(psutil.Process().cpu_affinity())

    return {
        "processor": processor,
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        "system": platform.platform(),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a folder and whether tracked files differ; None outside Git."""
    options = ("--always", "--dirty", "--exclude=*", "--abbrev=40")
    # "<40 digits>" or "<40 digits>-dirty"
    commit, _, dirty = _output("git", "-C", str(folder), "describe", *options).partition("-")
    return {"commit": commit, "dirty": bool(dirty)} if commit else None


def _output(*command: str) -> str:
    """Return what a command prints, or nothing where it is missing, hangs or fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()
