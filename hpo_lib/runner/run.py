"""Run notebooks into a folder, with a record and a report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hpo_lib.exceptions import RunError
from hpo_lib.runner.execution import execute
from hpo_lib.runner.notebooks import choose_notebooks, find_notebooks, notebooks_folder, user_path
from hpo_lib.runner.parameters import Values, assign_values, read_profile
from hpo_lib.runner.record import (
    LOCK_NAME,
    RECORD_NAME,
    RunRecord,
    begin_record,
    lock_run,
    read_earlier,
)


class RunOutcome(NamedTuple):
    """Result of a run.

    Attributes:
        folder: the folder of the run.
        record: what `run.json` there holds.
        remaining: the chosen notebooks left to run, first the one that failed or was interrupted.
    """

    folder: Path
    record: RunRecord
    remaining: list[str]


def run_notebooks(
    notebooks: Sequence[str] = (),
    *,
    profile: str = "quick",
    parameters: Values | None = None,
    into: str | Path | None = None,
) -> RunOutcome:
    """Execute notebooks in number order up to the first that fails, then write the report.

    Args:
        notebooks: numbers, names or paths; all numbered ones when empty.
        profile: a section of `notebooks/profiles.yaml`.
        parameters: handed to each notebook that declares the name; text is read as the type
            that the notebook declares.
        into: the folder of an earlier run to go on in; None: a new one below `results/runs`.

    Returns:
        The folder, the record and the notebooks that remain.

    Raises:
        RunError: the request makes no sense, or another run holds the folder; nothing has run.
    """
    home = notebooks_folder()
    known = find_notebooks(home)
    chosen = choose_notebooks(notebooks, known)

    # A profile may also have a section for a chosen notebook that is not a numbered one.
    candidates = {notebook.path: notebook for notebook in [*known, *chosen]}
    defaults = read_profile(home / "profiles.yaml", profile, list(candidates.values()))
    values = assign_values(chosen, defaults, parameters or {})

    runs = home.parent / "results" / "runs"
    folder = _new_folder(runs) if into is None else _checked_folder(user_path(into))
    names = [notebook.name for notebook in chosen]
    with lock_run(folder):
        record = begin_record(folder, profile, names, home)
        print(f"profile {profile}, {len(chosen)} notebooks, into {folder}", flush=True)
        remaining = list(names)
        for position, notebook in enumerate(chosen, 1):
            label = f"[{position}/{len(chosen)}] {notebook.name}"
            entry = execute(notebook, values[notebook.name], folder, label)
            record.notebooks[notebook.name] = entry
            record.write(folder)
            if entry.status != "ok":
                break
            remaining.remove(notebook.name)

        finish(folder, record)

    return RunOutcome(folder, record, remaining)


def finish(folder: Path, record: RunRecord) -> None:
    """Complete the record of a run and write its report.

    Args:
        folder: the folder of the run.
        record: its record, with every notebook that was executed.
    """
    record.finish()
    record.write(folder)

    from hpo_lib.runner.report import write_report

    write_report(folder, record)


def _new_folder(runs: Path) -> Path:
    """Make a folder named by the time; runs that begin in the same second are numbered."""
    stamp = f"{datetime.now():%Y-%m-%dT%H%M%S}"
    folder = runs / stamp
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            folder = runs / f"{stamp}-{number}"
        else:
            break

    return folder


def _checked_folder(folder: Path) -> Path:
    """Return the folder of an earlier run, or make a new one."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
    if RECORD_NAME not in names and names - {LOCK_NAME, "figures"}:
        message = f"--into must be the folder of a run, or a new one; {folder} holds other files"
        raise RunError(message)

    folder.mkdir(parents=True, exist_ok=True)
    read_earlier(folder)  # refused before the lock leaves a file
    return folder
