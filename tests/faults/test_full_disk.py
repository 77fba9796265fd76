"""A disk that is full while a checkpoint, the record, a notebook or a report is written."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from hpo_lib.__main__ import main
from hpo_lib.exceptions import StudyError, WriteError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.study.catalog import list_studies, open_study
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner, bowl, ending

N_TRIALS = 6
FULL = "No space left on device"


def fill(disk: Path, left: int = 0) -> Path:
    """Fill a disk but for some bytes with one file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with ballast.open("ab") as file:
        file.truncate(ballast.stat().st_size - left)
    return ballast


def study(storage: str | Path, objective, workers: int = 0, **options):
    options |= {"name": "study", "storage": storage, "workers": workers, "rungs": (1, 3)}
    return run_study(objective, TOY_SPACE, "random", N_TRIALS, **options)


def test_a_file_that_does_not_fit_leaves_the_old_one(small_disk):
    path = small_disk / "file"
    atomic_write_bytes(path, b"old")
    with pytest.raises(WriteError, match=f"{path} could not be written: {FULL}"):
        atomic_write_bytes(path, b"x" * 2**23)
    assert path.read_bytes() == b"old"
    assert list(small_disk.iterdir()) == [path]


@pytest.mark.slow
def test_a_study_whose_record_does_not_fit_goes_on_when_it_does(small_disk):
    calm = study("memory", Learner("calm"))

    def fill_up(study, trial):
        if trial.number == 2:
            fill(small_disk)

    storage = small_disk / "studies.db"
    with pytest.raises(StudyError, match=r"disk/studies\.db cannot be .*(full|disk I/O error)"):
        study(storage, Learner("log"), callback=fill_up)
    (small_disk / "ballast").unlink()
    kept = open_study("study", storage)
    assert ending(kept)[:3] == ending(calm)[:3]
    assert list_studies(storage).held_by[0] is None  # whether or not that could be written
    assert ending(study(storage, Learner("log"))) == ending(calm)
    assert not list(small_disk.rglob("*.json"))


def test_a_full_disk_refuses_a_new_study_with_its_name(small_disk):
    ballast = fill(small_disk)
    storage = small_disk / "new.db"
    with pytest.raises(StudyError, match=r"disk/new\.db"):
        study(storage, Learner("log"))
    ballast.unlink()
    assert len(study(storage, Learner("log")).trials) == N_TRIALS


@dataclass(frozen=True)
class Heavy(Learner):
    """A learner whose checkpoint is a megabyte."""

    def __call__(self, configuration, segment: Segment) -> SegmentResult:
        assert segment.folder is not None
        path = Path(segment.folder) / "heavy"
        atomic_write_bytes(path, b"x" * 2**20)
        return super().__call__(configuration, segment)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_checkpoint_that_does_not_fit_stops_the_study_and_blames_no_trial(
    small_disk, tmp_path, workers
):
    calm = study("memory", Heavy("calm"))
    ballast = fill(small_disk, left=2**19)
    log = str(tmp_path / "log")
    with pytest.raises(StudyError, match=rf"trial 0: .*/00000/heavy could not .*{FULL}; what was"):
        study(small_disk / "studies.db", Heavy(log), workers)
    kept = open_study("study", small_disk / "studies.db").trials
    assert [t.state.name for t in kept] == ["RUNNING"]
    assert not list(small_disk.rglob(".*.partial"))
    ballast.unlink()
    assert ending(study(small_disk / "studies.db", Heavy(log), workers)) == ending(calm)


@pytest.mark.slow
def test_a_run_whose_copies_do_not_fit_says_so_and_goes_on_when_they_do(small_disk, capfd):
    run = small_disk / "run"
    cells = [
        "run_folder: str = ''",
        "print('x' * 1000)",
        # most of it once, so that the second run, with less left, does not fill up
        "from pathlib import Path\n"
        "disk, told = Path(run_folder).parent, Path('told')\n"
        "if not told.exists():\n"
        "    told.touch()\n"
        "    with (disk / 'ballast').open('wb', buffering=0) as file:\n"
        "        try:\n"
        "            while file.write(b'x' * 512): pass\n"
        "        except OSError: pass",
        "print('y' * 100_000)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.cells[0].metadata.tags = ["parameters"]
    nbformat.write(book, "own.ipynb")
    command = ["run", "own.ipynb", "--profile", "smoke", "--into", str(run)]

    assert main(command) == 1
    captured = capfd.readouterr()
    assert f"hpo_lib: {run / 'run.json'} could not be written: {FULL}" in captured.err
    assert "Traceback" not in captured.err
    json.loads((run / "run.json").read_text())
    copy = nbformat.read(run / "own.ipynb", as_version=4)
    assert "x" * 1000 in str(copy.cells)
    assert not list(run.rglob("*partial*"))
    assert not list(run.rglob("*running*"))

    (small_disk / "ballast").unlink()
    assert main(command) == 0
    assert "y" * 100_000 in (run / "report.html").read_text()
    assert not list(run.rglob("*partial*"))


def test_a_plain_function_is_stopped_by_a_full_disk_too(small_disk):
    def dump(configuration):
        (small_disk / "dump").write_bytes(b"x" * 2**23)
        return bowl(configuration)

    with pytest.raises(StudyError, match=f"trial 0: OSError.*{FULL}"):
        run_study(dump, TOY_SPACE, "random", 3, name="dump", storage="memory", workers=0)
