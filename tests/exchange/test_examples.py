"""Examples of the documentation with other libraries: killed and resumed, they end alike."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpo_lib import open_study
from hpo_lib.study.catalog import find_study
from hpo_lib.trials import own_trials
from tests.toys import ending

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
STUDIES = {
    "scikit_learn": ("sklearn", ["growing_set", "partial_fit", "warm_start"]),
    "skorch": ("skorch", ["skorch"]),
    "lightning": ("pytorch_lightning", ["lightning"]),
}


def start(example: str, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(EXAMPLES / f"tune_{example}.py")]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def n_finished(name: str, folder: Path) -> int:
    study = find_study(name, folder / "examples.db")
    return 0 if study is None else sum(trial.is_finished for trial in own_trials(study))


@pytest.mark.slow
@pytest.mark.parametrize("example", STUDIES)
def test_a_killed_example_ends_like_an_undisturbed_one(example, tmp_path):
    library, names = STUDIES[example]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")

    undisturbed = tmp_path / "undisturbed"
    assert start(example, undisturbed).wait() == 0

    killed = tmp_path / "killed"
    for name in names:
        program = start(example, killed)
        while program.poll() is None and n_finished(name, killed) < 5:
            time.sleep(0.05)
        program.kill()
        assert program.wait() == -signal.SIGKILL
        assert n_finished(name, killed) < 12
    assert start(example, killed).wait() == 0

    for name in names:
        expected = ending(open_study(name, undisturbed / "examples.db"))
        assert {outcome for _, outcome, *_ in expected} == {"completed", "pruned"}
        assert ending(open_study(name, killed / "examples.db")) == expected
