"""Examples of the documentation with other libraries: killed and resumed, they end alike."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo_lib import open_study
from tests.toys import ending

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAM = Path(__file__).parent / "killed_example.py"
STUDIES = {
    "scikit_learn": ("sklearn", ["growing_set", "partial_fit", "warm_start"]),
    "skorch": ("skorch", ["skorch"]),
    "lightning": ("pytorch_lightning", ["lightning"]),
    "transformers": ("transformers", ["transformers"]),
}


@pytest.fixture(params=STUDIES)
def example(request) -> str:
    library, _ = STUDIES[request.param]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    return request.param


def run(example: str, folder: Path, *, epochs: int = 0) -> int:
    """Run an example until it has trained a number of epochs; return its exit status."""
    folder.mkdir(exist_ok=True)
    file = EXAMPLES / f"tune_{example}.py"
    command = [sys.executable, PROGRAM, file, "4", str(epochs)]
    return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode


@pytest.mark.slow
def test_a_killed_example_ends_like_an_undisturbed_one(example, tmp_path):
    assert run(example, tmp_path / "undisturbed") == 0

    # It dies between the report of an epoch and the record of its segment.
    statuses = [run(example, tmp_path / "killed", epochs=11)]
    while statuses[-1] == -signal.SIGKILL:
        statuses.append(run(example, tmp_path / "killed", epochs=11))
    assert statuses[-1] == 0
    assert len(statuses) > 1

    for name in STUDIES[example][1]:
        expected = ending(open_study(name, tmp_path / "undisturbed" / "examples.db"))
        assert len(expected) == 12
        assert {outcome for _, outcome, *_ in expected} == {"completed", "pruned"}
        assert ending(open_study(name, tmp_path / "killed" / "examples.db")) == expected
