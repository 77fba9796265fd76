from __future__ import annotations

from pathlib import Path

import pytest

from hpo_lib.training.loaders import (
    ImageData,
    load_data,
)
from hpo_lib.training.trainer import train
from tests.training.images import SMALL, SMALL_DATA


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HPO_DATA", raising=False)
    return tmp_path / "hpo_lib"


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(SMALL_DATA)


@pytest.fixture(scope="module")
def trained(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "new folder" / "epoch_2.pt"
    train(SMALL, data, stop=2, save_to=path)
    return path
