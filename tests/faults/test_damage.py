"""Damaged checkpoints, space files and study files."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpo_lib.exceptions import SpaceError, StudyError
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import list_studies, open_study
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import Failure, evaluate
from tests.toys import TOY_SPACE, Learner, ending, record_of


@dataclass(frozen=True)
class Unlucky(Learner):
    """The first `times` that a segment starts at epoch 3, these checkpoints become garbage."""

    damaged: tuple[int, ...] = (3,)
    content: bytes = b""
    times: int = 1

    def __call__(self, configuration, segment: Segment) -> SegmentResult:
        done = Path("done")
        if segment.start == 3 and (not done.exists() or done.stat().st_size < self.times):
            with done.open("a") as file:
                file.write("x")
            assert segment.folder is not None
            for epoch in self.damaged:
                (Path(segment.folder) / f"{epoch}.json").write_bytes(self.content)
        return super().__call__(configuration, segment)


def study(objective):
    options = {"name": "study", "storage": "memory", "workers": 0, "rungs": (1, 3)}
    return run_study(objective, TOY_SPACE, "random", 2, **options)


def spans(log: str) -> list[tuple[int, ...]]:
    lines = Path(log).read_text().splitlines()
    return [tuple(map(int, line.split()[2:])) for line in lines]


@pytest.mark.parametrize("content", [b"", b'{"epoch": 3, "se', b"\x00\xff garbage"])
@pytest.mark.parametrize(
    ("damaged", "again"),
    [((3,), [(1, 3), (3, 4)]), ((1, 3), [(0, 1), (1, 3), (3, 4)])],
)
def test_a_damaged_checkpoint_costs_the_segments_since_the_one_before(damaged, again, content):
    calm = study(Learner("calm"))
    hurt = study(Unlucky("log", damaged=damaged, content=content))
    assert ending(hurt) == ending(calm)
    whole = [(0, 1), (1, 3), (3, 4)]
    assert spans("log") == [*whole[:2], *again, *whole]


def test_a_trial_whose_checkpoints_are_always_damaged_is_lost_and_no_evidence():
    trials = study(Unlucky("log", times=3)).trials
    assert [record_of(t).status for t in trials] == ["lost", "completed"]
    assert "CheckpointError" in record_of(trials[0]).reason


@pytest.mark.slow
def test_a_training_blames_a_truncated_checkpoint_and_not_its_configuration(tmp_path):
    from hpo_lib.training.config import DataConfig, TrainingConfig
    from hpo_lib.training.objective import TrainingObjective

    data = DataConfig("digits", n_train=64, n_validation=32)
    objective = TrainingObjective(TrainingConfig(depth=8, n_filters=2, epochs=2), data)
    first = objective({}, Segment(0, 0, 1, 2, folder=str(tmp_path)))
    assert first.checkpoint is not None
    whole = Path(first.checkpoint).read_bytes()
    Path(first.checkpoint).write_bytes(whole[: len(whole) // 2])
    second = Segment(0, 1, 2, 2, first.checkpoint, str(tmp_path))
    outcome = evaluate(objective, {}, second, "here").outcome
    assert isinstance(outcome, Failure)
    assert outcome.status == "no_checkpoint"
    assert f"{first.checkpoint} is damaged" in outcome.reason


@pytest.fixture
def recorded() -> Path:
    run_study(Learner("log"), TOY_SPACE, "random", 9, name="study", storage="whole.db", workers=0)
    with sqlite3.connect("whole.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return Path(shutil.copy("whole.db", "s.db"))


@pytest.mark.parametrize("part", [0.5, 0.02])
def test_a_truncated_study_file_is_one_error_with_its_name(recorded, part):
    content = recorded.read_bytes()
    recorded.write_bytes(content[: int(len(content) * part)])
    _refused(recorded)


@pytest.mark.parametrize("begin", [4096, -4096])  # all but the first page; only the last
def test_a_study_file_with_garbage_in_it_is_one_error_with_its_name(recorded, begin):
    content = bytearray(recorded.read_bytes())
    content[begin:] = b"garbage!" * (len(content[begin:]) // 8)
    recorded.write_bytes(content)
    _refused(recorded)


def _refused(file: Path) -> None:
    for use in (
        lambda: open_study("study", file),
        lambda: list_studies(file),
        lambda: run_study(Learner("log"), TOY_SPACE, "random", 9, name="study", storage=file),
    ):
        with pytest.raises(StudyError, match=r"s\.db: .*(malformed|database)"):
            use()


@pytest.mark.parametrize("content", [b"lr: {type: float, lo", b"\xff\xfe\x00garbage", b""])
def test_a_damaged_space_file_is_one_error_with_its_name(content):
    Path("space.yaml").write_bytes(content)
    with pytest.raises(SpaceError, match=r"space\.yaml"):
        SearchSpace.load("space.yaml")
