from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_lib.exceptions import DataError
from hpo_lib.training.config import DataConfig
from hpo_lib.training.image_pool import ImagePool, ImageSource
from hpo_lib.training.loaders import load_data
from hpo_lib.training.splits import split_record, write_split
from tests.training.images import a_folder, save, two_parts


def test_subset_sizes_are_exact_and_come_out_of_the_whole_part() -> None:
    whole = split_record(DataConfig())["indices"]
    assert all(whole[p] != split_record(DataConfig(seed=1))["indices"][p] for p in whole)
    subset = split_record(DataConfig(n_train=101, n_validation=33, n_test=50))["indices"]
    assert [len(subset[part]) for part in ("train", "validation", "test")] == [101, 33, 50]
    assert all(set(subset[part]) <= set(whole[part]) for part in whole)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(30, 60), min_size=2, max_size=5), st.floats(0.1, 0.4))
def test_any_split_is_a_stratified_partition(sizes: list[int], test: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    source = ImageSource(tuple("abcde"[: len(sizes)]), {"train": ImagePool(labels, np.array)})
    config = DataConfig(test_fraction=test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpo_lib.training.splits.open_source", lambda *_: source)
        record = split_record(config)
    taken = [i for part in record["indices"].values() for i in part]
    assert sorted(taken) == list(range(len(labels)))
    assert record["sizes"]["test"] == round(len(labels) * test)
    counts = np.array(list(record["counts"]["test"].values()))
    assert np.abs(counts - test * np.array(sizes)).max() <= 1.5


def test_class_without_an_image_in_a_part_is_refused(tmp_path: Path) -> None:
    a_folder(tmp_path / "data")
    save(tmp_path / "data" / "rare" / "1.png")
    with pytest.raises(DataError, match=r"images hold none of the 1 of class 'rare'"):
        load_data(DataConfig(f"folder:{tmp_path / 'data'}"))


def test_record_repeats_the_split(tmp_path: Path) -> None:
    config = DataConfig(seed=3, n_train=100)
    record = json.loads(write_split(config, tmp_path / "split.json").read_text())
    assert record == split_record(config)
    assert DataConfig(**record["config"]) == config
    assert split_record(replace(config, seed=4))["indices"] != record["indices"]


def test_changed_images_are_told_from_the_record_moved_ones_are_not(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{two_parts(tmp_path / 'here')}")
    before = split_record(config)
    moved = replace(config, source=f"folder:{(tmp_path / 'here').rename(tmp_path / 'there')}")
    after = split_record(moved)
    assert {**after, "config": before["config"]} == before
    (tmp_path / "there" / "train" / "a" / "000.png").unlink()
    assert split_record(moved)["data_sha256"] != before["data_sha256"]
