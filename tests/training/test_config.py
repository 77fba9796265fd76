from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpo_lib.exceptions import DataError, PathError
from hpo_lib.training.config import DataConfig, TrainingConfig
from tests.training.images import SMALL

WRONG = {"source": "folder:", "test_fraction": 1, "n_train": 0, "n_test": 1.5, "seed": None}


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_wrong_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"^{name} must be .* got {value!r}"):
        replace(DataConfig(), **{name: value})


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"lr": 0.0}, "lr must .*greater than 0, got 0.0"),
        ({"lr": math.nan}, "lr must .*got nan"),
        ({"lr": True}, "lr must .*number, got True"),
        ({"lr": "0.1"}, "lr must .*number, got '0.1'"),
        ({"n_filters": 16.0}, r"n_filters must .*integer, got 16.0"),
        ({"optimizer": "adam"}, "optimizer must .*'adamw' or 'muon', got 'adam'"),
        ({"activation": "swish"}, "activation must .*'relu', .*'silu', got 'swish'"),
        ({"dropout": 1.0}, "dropout must .*less than 1, got 1.0"),
        ({"n_filters": 0}, "n_filters must .*got 0"),
        ({"momentum": 1.0}, "momentum must .*less than 1, got 1.0"),
        ({"epochs": 0}, "epochs must .*got 0"),
        ({"lr": -1.0, "epochs": 0}, "lr must .*; epochs must "),
        ({"depth": 9}, r"depth must be .* 6n\+2 .*got 9"),
        ({"filter_size": 4}, "filter_size must be odd .*got 4"),
        ({"learning_rate": 0.1}, "no training number: learning_rate .*known: depth, n_filters"),
    ],
)
def test_wrong_numbers_are_refused(configuration: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig().with_configuration(configuration)


def test_a_configuration_replaces_what_it_names() -> None:
    config = SMALL.with_configuration({"lr": 0.2, "shortcut": "projection"})
    assert config == replace(SMALL, lr=0.2, shortcut="projection")


def test_paths_are_kept_as_they_were_meant_where_they_were_typed(tmp_path: Path) -> None:
    Path("cifar").mkdir()
    assert DataConfig("folder:images").source == f"folder:{tmp_path}/images"
    assert DataConfig("cifar10", root="cifar").root == f"{tmp_path}/cifar"
    assert replace(DataConfig("folder:images"), seed=1).source == f"folder:{tmp_path}/images"


def test_a_mistyped_root_is_no_place_for_a_download() -> None:
    with pytest.raises(DataError, match=r"root must be a folder or an archive that exists, got /"):
        DataConfig("cifar10", root="cifra")
    assert not list(Path().iterdir())
    Path("link").symlink_to("gone")
    for config in ({"source": "folder:link"}, {"source": "cifar10", "root": "link"}):
        with pytest.raises(PathError, match="link leads nowhere"):
            DataConfig(**config)
