"""Begin a project: a folder with the notebooks, their profiles and recorded trainings."""

from __future__ import annotations

import shutil
from pathlib import Path

from hpo_lib.exceptions import RunError
from hpo_lib.files import PACKAGE_PARENT, shown
from hpo_lib.runner.notebooks import find_notebooks

# A wheel brings these files along; without one they are in the repository.
_PACKAGED = Path(__file__).resolve().parents[1] / "project"

_REFERENCE = ("resnet8_record.csv", "resnet8_record.json", "scaling.csv")


def new_project(folder: Path) -> list[str]:
    """Copy the notebooks and what they read into a folder, and return the notebooks' names.

    Args:
        folder: made with its parents, or empty.

    Raises:
        RunError: the folder holds something, or is no folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        message = f"a new project needs a new or an empty folder, and {shown(folder)} is neither"
        raise RunError(message)

    source = _PACKAGED if _PACKAGED.is_dir() else PACKAGE_PARENT
    notebooks = [notebook.path for notebook in find_notebooks(source / "notebooks")]
    reference = [source / "results" / "reference" / name for name in _REFERENCE]
    for file in (*notebooks, source / "notebooks" / "profiles.yaml", *reference):
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)

    shutil.copyfile(Path(__file__).with_name("project_readme.md"), folder / "README.md")
    return [path.stem for path in notebooks]
