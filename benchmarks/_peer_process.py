"""A search by a package that lives in a Python of its own, because its pins demand it.

Make a virtual environment per package in a folder, and name the folder in `HPO_PEERS`:

    python -m venv $HPO_PEERS/dehb && $HPO_PEERS/dehb/bin/pip install dehb

The names and requirements are those of `REQUIREMENTS`. The other side runs `_peer_searches.py`,
which needs nothing of `hpo_lib`. It reads a line that describes a search; then it writes a
configuration a line and reads its value, until either side has enough; and so on with the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

REQUIREMENTS = {
    "ax": "ax-platform jax jaxlib numpyro",
    "dehb": "dehb",
    "hebo": "HEBO GPy==1.13.2 numpy<2 scipy<1.13 matplotlib<3.10 pandas<2.3",
    "neps": "neural-pipeline-search",
    "openbox": "openbox",
    "smac": "smac",
    "syne": "syne-tune[basic] huggingface_hub",
    "vizier": "google-vizier[jax,algorithms] jax==0.4.36 jaxlib==0.4.36 numpy<2.3",
}
"""What to install in the environment of each name, with pins that its own ones lack."""

PROGRAM = Path(__file__).with_name("_peer_searches.py")

Evaluate = Callable[[Configuration, int | None], float | None]

PROCESSES: dict[str, PeerProcess] = {}
"""Those that run, by their environment."""


class PeerProcess:
    """A Python that searches for one task after the other, as importing packages takes long.

    Args:
        environment: out of `REQUIREMENTS`.
    """

    def __init__(self, environment: str) -> None:
        self._environment = environment
        command = [python_of(environment), "-E", str(PROGRAM)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 of the other side
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.seconds = 0.0
        self._read()

    def search(self, task: dict[str, Any], evaluate: Evaluate) -> None:
        """Answer questions of a search until either side has enough."""
        try:
            asked = self._exchange(task)
            while "configuration" in asked:
                value = evaluate(asked["configuration"], asked["epochs"])
                asked = self._exchange({} if value is None else {"value": value})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the other side, in the middle of a search too."""
        PROCESSES.pop(self._environment, None)
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # `_read` says why it has ended
            print(json.dumps(message), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            read = json.loads(line)
            self.seconds = read["seconds"]
            return read
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        message = f"the search in environment {self._environment} failed:\n{text[-2000:]}"
        raise RuntimeError(message)


def search_in_own_python(
    search: str,
    space: SearchSpace,
    evaluate: Evaluate,
    seed: int,
    n_trials: int,
    budget: int | None = None,
    **more: Any,
) -> None:
    """Search for the configuration with the least value.

    Args:
        search: "ENVIRONMENT" or "ENVIRONMENT/METHOD", as `_peer_searches.py` names it.
        space: the search space.
        evaluate: returns the value of a configuration after so many epochs, or None: enough.
        seed: of the search.
        n_trials: full trainings that the search may plan for.
        budget: epochs of a full training; None where there is no choice of epochs.
        more: what this search takes beside, as JSON.
    """

    def with_types(configuration: Configuration, epochs: int | None) -> float | None:
        typed = {name: type(space[name].default)(v) for name, v in configuration.items()}
        return evaluate(typed, epochs)

    task = {
        "search": search,
        "space": described(space),
        "seed": seed,
        "n_trials": n_trials,
        "budget": budget,
        **more,
    }
    process_of(search.partition("/")[0]).search(task, with_types)


def peer_seconds() -> float:
    """CPU seconds of all such processes so far."""
    return sum(process.seconds for process in PROCESSES.values())


def process_of(environment: str) -> PeerProcess:
    """Return the process of an environment, started when it is first asked for."""
    if environment not in PROCESSES:
        PROCESSES[environment] = PeerProcess(environment)
    return PROCESSES[environment]


def python_of(name: str) -> str:
    """Return the interpreter of an environment; LookupError where there is none."""
    folder = os.environ.get("HPO_PEERS")
    if folder is None:
        message = f"HPO_PEERS must name the folder with the environment {name!r}, it is not set"
        raise LookupError(message)
    python = Path(folder) / name / "bin" / "python"
    if not python.exists():
        message = f"{python} must exist, with {REQUIREMENTS[name]} installed"
        raise LookupError(message)
    return str(python)


def described(space: SearchSpace) -> list[dict[str, Any]]:
    """Return the searched hyperparameters as JSON: bounds and scale, or options."""
    described: list[dict[str, Any]] = []
    for one in space.searched:
        if one.type == "choice":
            described.append({"name": one.name, "type": "choice", "options": list(one.options)})
        else:
            described.append(
                {
                    "name": one.name,
                    "type": one.type,
                    "low": one.low,
                    "high": one.high,
                    "log": one.log,
                }
            )
    return described
