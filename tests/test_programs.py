"""The same search in four libraries: the lines that a user writes, and that the programs run."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import optuna
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "programs"
PROGRAMS = sorted(FOLDER.glob("with_*.py"))
NEEDED = {
    "with_ray_tune": ("ray",),
    "with_lightning": ("lightning", "optuna_integration"),
}

LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}
OWN_PART = re.compile(r"# User's own part.*# End of the user's own part\.", re.DOTALL)
DOCSTRING = re.compile(r'\A""".*?"""', re.DOTALL)


def n_lines(program: Path) -> int:
    """Count the lines that have code, without the user's own part."""
    text = DOCSTRING.sub("", OWN_PART.sub("", program.read_text(encoding="utf-8")))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = [token for token in tokens if token.type not in LAYOUT]
    return len({line for t in code for line in range(t.start[0], t.end[0] + 1)})


def test_no_program_is_shorter_than_ours():
    counts = {program.stem: n_lines(program) for program in PROGRAMS}
    assert len(counts) == 4
    assert min(counts, key=lambda name: counts[name]) == "with_hpo_lib"


def test_the_document_has_the_counted_lines():
    text = (ROOT / "docs" / "COMPARED.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(with_\w+)\.py\].*\| (\d+) \|$", text, re.MULTILINE)
    assert {name: int(n) for name, n in rows} == {p.stem: n_lines(p) for p in PROGRAMS}


def start(program: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, FOLDER / f"{program}.py"], cwd=folder, env=environment
    )


def states(folder: Path) -> list[str]:
    url = f"sqlite:///{folder / 'own.db'}"
    try:
        study = optuna.load_study(study_name="own", storage=url)
    except Exception:  # not yet there
        return []
    return [trial.state.name for trial in study.trials]


def wait_for_trials(folder: Path, n: int) -> None:
    """Wait until as many trials have begun, at most five minutes."""
    for _ in range(600):
        if len(states(folder)) >= n:
            return
        time.sleep(0.5)
    raise AssertionError(states(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("program", "n_processes"), [("with_hpo_lib", 1), ("with_optuna", 2)])
def test_a_killed_search_goes_on(program, n_processes, tmp_path):
    processes = [start(program, tmp_path) for _ in range(n_processes)]
    wait_for_trials(tmp_path, 3)
    for process in processes:
        process.kill()
        process.wait()
    before = len(states(tmp_path))

    processes = [start(program, tmp_path) for _ in range(n_processes)]
    assert [process.wait(timeout=600) for process in processes] == [0] * n_processes
    finished = [state for state in states(tmp_path) if state in ("COMPLETE", "PRUNED")]
    assert before < len(states(tmp_path))
    # Two processes of Optuna may both begin a last trial.
    assert 12 <= len(finished) < 12 + n_processes


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(NEEDED))
def test_a_program_of_another_library_runs(program, tmp_path):
    if not all(map(importlib.util.find_spec, NEEDED[program])):
        pytest.skip(f"{program} needs {' and '.join(NEEDED[program])}")
    assert start(program, tmp_path).wait(timeout=600) == 0
