from __future__ import annotations

from pathlib import Path

import pytest

from hpo_lib.files import atomic_write_bytes, atomic_write_text, disk_used, remove_partials
from hpo_lib.runner.record import lock_run


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it():
    path = Path("a.txt")
    atomic_write_text(path, "old")
    atomic_write_text(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    assert list(Path().iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(monkeypatch):
    path = Path("a.bin")
    atomic_write_bytes(path, b"old")

    def break_half_way(partial: Path, content: bytes) -> None:
        partial.touch()
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", break_half_way)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert list(Path().iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(monkeypatch):
    own = [Path(".b.db.partial"), Path("b.db"), Path(".notes.0.partial")]
    for path in own:
        path.touch()
    with monkeypatch.context() as killed:  # before the renaming
        killed.setattr(Path, "replace", lambda *paths: None)
        killed.setattr(Path, "unlink", lambda *paths, **options: None)
        for name in ("a.db", "b.db"):
            atomic_write_bytes(name, b"new")

    remove_partials(Path(), "a.db")
    assert len(list(Path().glob(".b.db.*.partial"))) == 1
    assert not list(Path().glob(".a.db*"))
    remove_partials(Path())
    assert sorted(Path().iterdir()) == sorted(own)


def test_the_next_run_into_a_folder_removes_what_a_killed_one_left(tmp_path):
    left = tmp_path / f".run.json.{'0' * 32}.partial"
    left.touch()
    with lock_run(tmp_path):
        assert not left.exists()


def test_disk_used_counts_files_below_and_follows_no_link():
    Path("folder/deep").mkdir(parents=True)
    Path("folder/deep/a").write_bytes(b"x" * 1000)
    Path("folder/b").write_bytes(b"x" * 10)
    assert disk_used(Path("folder")) == 1010
    before = disk_used(Path("folder/b"))
    Path("link").symlink_to("folder")
    assert disk_used(Path("link")) < 1000
    assert before == 10
