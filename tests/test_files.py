from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpo_lib import files
from hpo_lib.exceptions import PathError
from hpo_lib.files import (
    atomic_write_bytes,
    atomic_write_text,
    disk_used,
    remove_partials,
    user_path,
)
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


def test_a_typed_path_begins_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_path("a/b") == tmp_path / "a/b"
    assert user_path(Path("../b")) == tmp_path / "../b"
    assert user_path("~/b") == tmp_path / "home/b"
    assert user_path("~") == tmp_path / "home"
    assert user_path("~nobody.db") == tmp_path / "~nobody.db"
    assert user_path("/b") == Path("/b")


def test_in_the_notebooks_it_begins_in_the_projects_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGE_PARENT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir("notebooks")
    assert user_path("b") == tmp_path / "notebooks" / "b"  # in a terminal there
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", sys)
    assert user_path("b") == tmp_path / "b"
    monkeypatch.chdir("/")
    assert user_path("b") == Path("/b")


@pytest.mark.parametrize("path", ["link", "link/below", "loop", "~/link"])
def test_a_link_that_leads_nowhere_is_named(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("link").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    with pytest.raises(PathError, match=r"leads nowhere: (link|loop) is a symbolic link to \w+,"):
        user_path(path)


def test_what_no_file_can_be_called_is_no_path():
    with pytest.raises(PathError, match=r"is no path that can be used: .*too long"):
        user_path("x" * 300)
