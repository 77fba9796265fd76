"""A study file that is taken away while it is written; and one that is copied afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest

from hpo_lib.exceptions import StudyError
from hpo_lib.study.catalog import delete_study, list_studies, open_study
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from tests.toys import TOY_SPACE, bowl

FILE = Path("s.db")


def study(n_trials: int = 4, objective=bowl, **options):
    options = {"name": "x", "storage": FILE, "workers": 0} | options
    return run_study(objective, TOY_SPACE, "random", n_trials, **options)


def delete():
    for path in Path().glob("s.db*"):
        if path.is_file():
            path.unlink()


def move():
    FILE.rename("moved")


def replace():
    study(name="other", storage="other.db", n_trials=1)
    shutil.copy("other.db", "copy.db")
    Path("copy.db").replace(FILE)


def truncate():
    os.truncate(FILE, 0)


def cut_in_half():
    os.truncate(FILE, FILE.stat().st_size // 2)


def drop_log():
    Path("s.db-wal").unlink()


CHANGES = {
    delete: "was deleted or moved",
    move: "was deleted or moved",
    replace: "was replaced by another file",
    truncate: "was truncated from",
    cut_in_half: "was truncated from",
    drop_log: "lost its write-ahead log",
}


@pytest.mark.parametrize("at", [1, 3])  # in the middle; after the last trial
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_is_taken_away_is_noticed_and_said(change, at):
    def act(study, trial):
        if trial.number == at:
            change()

    with pytest.raises(StudyError, match=rf"s\.db cannot be written.* {CHANGES[change]}.*copy"):
        study(callback=act)


def test_a_file_that_was_deleted_is_not_made_again():
    with pytest.raises(StudyError, match="was deleted"):
        study(callback=lambda study, trial: delete())
    assert not FILE.exists()
    assert len(study().trials) == 4


def test_a_storage_that_was_opened_before_notices_it_too():
    study(1)
    storage = open_storage(FILE)
    replace()
    with pytest.raises(StudyError, match="was replaced by another file"):
        study(storage=storage)


def test_a_study_that_is_deleted_in_the_file_is_said():
    def act(study, trial):
        optuna.delete_study(study_name="x", storage="sqlite:///s.db")

    with pytest.raises(StudyError, match="deleted"):
        study(callback=act)


def test_a_file_that_another_tool_compacts_is_whole():
    def compact(study, trial):
        if trial.number == 1:
            with closing(sqlite3.connect(FILE)) as connection:
                connection.execute("DROP TABLE ballast")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    study(1)
    with closing(sqlite3.connect(FILE)) as connection:
        connection.execute("CREATE TABLE ballast (x BLOB)")
        connection.execute("INSERT INTO ballast VALUES (zeroblob(1000000))")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(study(4, callback=compact).trials) == 4
    assert FILE.stat().st_size < 10**6


def test_another_working_directory_is_no_change(tmp_path):
    (tmp_path / "elsewhere").mkdir()

    def wander(configuration):
        os.chdir(tmp_path / "elsewhere")
        return bowl(configuration)

    assert len(study(objective=wander).trials) == 4


def copied() -> int:
    """How many trials the file alone holds."""
    shutil.copy(FILE, "copy.db")
    return sum(list_studies("copy.db").trials)


def test_the_file_alone_is_the_record_of_a_study_that_ended():
    kept = study()  # its storage is open, as in a notebook
    assert copied() == len(kept.trials)
    with closing(sqlite3.connect("copy.db")) as connection:
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'lease'"
        assert connection.execute(query).fetchall() == [("null",)]
    storage = open_storage(FILE)
    kept = study(5, storage=storage)
    assert copied() == 5
    delete_study("x", storage)
    assert copied() == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_file_alone_is_the_record_when_a_driver_ends_early(error):
    kept = open_storage(FILE)  # open, as in a notebook

    def act(study, trial):
        if trial.number == 2:
            raise error

    with suppress(error):
        study(callback=act)
    assert copied() == 3
    assert len(kept.get_all_studies()) == 1


@pytest.mark.slow
def test_a_reader_that_holds_an_old_state_disturbs_no_end():
    study(1)
    reader = sqlite3.connect(FILE, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT COUNT(*) FROM trials").fetchone() == (1,)
    assert len(study(3).trials) == 3
    reader.close()
    assert len(open_study("x", FILE).trials) == 3
    study(3)
    assert copied() == 3
