"""Execute one notebook through papermill, in a kernel of this interpreter."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from tqdm import tqdm
from traitlets import Unicode
from traitlets.config import Config

from hpo_lib.exceptions import WriteError
from hpo_lib.files import PACKAGE_PARENT, atomic_write_text, user_path
from hpo_lib.runner.notebooks import Notebook
from hpo_lib.runner.parameters import RUN_FOLDER, Values
from hpo_lib.runner.record import NotebookRun, now


class _ProgressLines(logging.Handler):
    """Print the lines on long work in a cell, as `[12/20] best 0.0312, 14 s left`."""

    _PATTERN = re.compile(r"^\[\d+/\d+\] .+", re.MULTILINE)

    def emit(self, record: logging.LogRecord) -> None:
        """Print the last such line of what a cell has printed."""
        lines = self._PATTERN.findall(record.getMessage())
        if lines:
            tqdm.write(f"      {lines[-1]}", file=sys.stderr)  # above the bar, if there is one


class HeadlessKernel(AsyncKernelManager):
    """A kernel in this very interpreter, whatever kernels the machine knows by name."""

    log_file = Unicode().tag(config=True)
    data_folder = Unicode().tag(config=True)

    async def start_kernel(self, **options: Any) -> None:
        """Start with a file for what the process itself says, as when it crashes."""
        with Path(self.log_file).open("wb") as log:
            await super().start_kernel(stdout=log, stderr=log, **options)

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return the native kernel, told that nobody watches."""
        path = [str(PACKAGE_PARENT)]
        if "PYTHONPATH" in os.environ:
            path.append(os.environ["PYTHONPATH"])

        environment = {
            "TQDM_DISABLE": "1",  # nobody watches bars; what matters is printed as lines
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": os.pathsep.join(path),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        if self.data_folder:
            environment["HPO_DATA"] = self.data_folder
        return KernelSpec(**get_kernel_dict(), env=environment)


def execute(notebook: Notebook, values: Values, folder: Path, label: str) -> NotebookRun:
    """Execute one notebook; whatever ends it, its cells so far become the copy in the folder.

    Args:
        notebook: the notebook.
        values: what its parameters are set to; others keep their defaults.
        folder: the folder of the run.
        label: what progress is shown under.
    """
    if RUN_FOLDER in notebook.parameters:
        values = {**values, RUN_FOLDER: str(folder)}
    parameters = {name: parameter.default for name, parameter in notebook.parameters.items()}
    run = NotebookRun("ok", started=now(), parameters=parameters | values)

    print(f"{label} ...", flush=True)

    # Papermill saves after every cell: under this name, until the copy is whole.
    running = folder / f"{notebook.name}.running.ipynb"
    log = folder / f"{notebook.name}.log"
    clock_start = time.perf_counter()
    try:
        _papermill(notebook.path, running, log, values)
    except (Exception, KeyboardInterrupt) as error:
        _note_failure(run, error, running)

    run.seconds = round(time.perf_counter() - clock_start, 1)

    # Keep what the kernel's process said only where it may explain a failure.
    if log.exists() and (run.status == "ok" or not log.stat().st_size):
        log.unlink()
    if running.exists():
        running.replace(folder / f"{notebook.name}.ipynb")

    print(f"{label} {run.status}, {run.seconds} s", flush=True)
    return run


def _papermill(source: Path, running: Path, log: Path, values: Values) -> None:
    """Execute a notebook, and start its kernel a second time where the first start fails."""
    # Takes seconds to import: what makes no sense has been refused before.
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.iorw import LocalHandler, papermill_io

    files = LocalHandler()
    files.write = lambda buf, path: atomic_write_text(path, buf)
    papermill_io.register(str(running), files)

    # Papermill logs what cells print.
    log_of_cells = logging.getLogger("papermill")
    log_of_cells.propagate = False
    if not log_of_cells.handlers:
        log_of_cells.addHandler(_ProgressLines())

    # On a shared machine every user can reach the kernel's ports.
    encryption = "auto" if zmq.has("curve") else "disabled"
    kernel_options = {"log_file": str(log), "transport_encryption": encryption}
    # Its process stands in the folder of the notebooks, the user here.
    if os.environ.get("HPO_DATA"):
        kernel_options["data_folder"] = str(user_path(os.environ["HPO_DATA"]))

    # Papermill takes paths for format strings.
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (source, running)]
    execute_copy = partial(
        execute_notebook,
        *paths,
        parameters=values,
        kernel_name="python3",
        language="python",
        kernel_manager_class=HeadlessKernel,
        config=Config(HeadlessKernel=kernel_options),
        cwd=str(source.parent),
        # In a terminal a bar shows the cells.
        progress_bar={"disable": None, "leave": False},
        log_output=True,
    )
    try:
        execute_copy()
    except RuntimeError as error:
        if isinstance(error, DeadKernelError):
            raise
        # Its ports are chosen a second before it opens them: another process can be quicker.
        print(f"{source.stem} is started again: {error}", file=sys.stderr, flush=True)
        execute_copy()


def _note_failure(run: NotebookRun, error: BaseException, running: Path) -> None:
    """Write into the record of a notebook, and into its cell, why its execution ended."""
    from papermill.exceptions import PapermillExecutionError

    run.status = "failed"
    if isinstance(error, PapermillExecutionError):  # raised by a cell, which shows it already
        run.error = f"{error.ename}: {error.evalue}"
        run.cell = error.exec_count
        return

    run.error = f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        run.status = "interrupted"
        run.error = "stopped"
        # A task of nbclient that no one awaits may find the kernel gone: asyncio logs that.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    run.cell = _mark_running_cell(running, error, run.error)


def _mark_running_cell(copy: Path, error: BaseException, text: str) -> int | None:
    """Write an error that no cell raised into the cell that was running; return its number.

    After a lost kernel papermill leaves every cell as completed, those that never ran too.
    """
    if not copy.exists():
        return None

    book = nbformat.read(copy, as_version=4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    begun = [cell for cell in cells if cell.metadata.papermill.start_time]
    if not begun:
        return None

    for cell in cells[len(begun) :]:
        cell.metadata.papermill.status = "pending"

    running = begun[-1]
    running.metadata.papermill.status = "failed"
    running.metadata.papermill.exception = True
    output = nbformat.v4.new_output(
        "error",
        ename=type(error).__name__,
        evalue=str(error),
        traceback=[text],
    )
    running.outputs.append(output)

    with suppress(WriteError):  # a full disk is reported when the record of the run is written
        atomic_write_text(copy, nbformat.writes(book) + "\n")
    return len(begun)
