from __future__ import annotations

import os

# two test processes on two cores: before numpy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Nothing that a test writes by default lands in the repository."""
    monkeypatch.chdir(tmp_path)
