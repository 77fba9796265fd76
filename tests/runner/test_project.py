from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpo_lib import files
from hpo_lib.__main__ import main
from hpo_lib.files import PACKAGE_PARENT, project_folder, user_path
from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder, run_path


def copied(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_new_project_has_the_notebooks_and_what_they_read(capsys):
    assert main(["new", "my demo"]) == 0
    found = copied(Path("my demo"))
    readme = found.pop("README.md").decode()
    assert "python -m hpo_lib run --profile smoke" in readme
    assert {path.name for path in (PACKAGE_PARENT / "notebooks").glob("*.ipynb")} == {
        name.split("/")[1] for name in found if name.endswith(".ipynb")
    }
    assert "results/reference/resnet8_record.csv" in found
    assert {name: (PACKAGE_PARENT / name).read_bytes() for name in found} == found
    assert "  cd 'my demo'\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["folder", "folder/file", "."])
def test_a_folder_that_holds_something_is_refused(name, capsys):
    Path("folder").mkdir()
    Path("folder/file").write_text("mine")
    before = copied(Path())
    assert main(["new", name]) == 2
    assert "a new project needs a new or an empty folder" in capsys.readouterr().err
    assert copied(Path()) == before


@pytest.mark.parametrize("is_repository", [True, False])
def test_a_project_is_where_the_user_stands(is_repository, tmp_path, monkeypatch):
    """Also where the package is in a repository with notebooks of its own."""
    main(["new", "demo"])
    demo = tmp_path / "demo"
    if not is_repository:
        monkeypatch.setattr(files, "PACKAGE_PARENT", tmp_path / "site-packages")
    for place in (demo, demo / "notebooks"):
        monkeypatch.chdir(place)
        assert project_folder() == demo
        assert len(find_notebooks(notebooks_folder())) > 5
        assert run_path("results/work") == demo / "results" / "work"

    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", sys)
    assert user_path("results/reference/scaling.csv").is_file()


def test_outside_of_projects_it_is_the_repository(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    assert project_folder() == PACKAGE_PARENT
    monkeypatch.setattr(files, "PACKAGE_PARENT", tmp_path / "site-packages")
    assert project_folder() == tmp_path


def test_a_run_outside_of_projects_says_how_to_begin_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "PACKAGE_PARENT", tmp_path / "site-packages")
    assert main(["run"]) == 2
    assert "python -m hpo_lib new DIR makes a project" in capsys.readouterr().err
    assert main(["clean"]) == 0
    assert list(tmp_path.iterdir()) == []
