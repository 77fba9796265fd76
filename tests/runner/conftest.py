from __future__ import annotations

from pathlib import Path

import pytest

from hpo_lib import files


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A repository of its own: a folder of notebooks and profiles, and no package beside it."""
    monkeypatch.setattr(files, "PACKAGE_PARENT", tmp_path / "elsewhere")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "profiles.yaml").write_text("smoke: {n_trials: 2}\nquick: {}\n")
    return folder
