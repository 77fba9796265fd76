from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image

from hpo_lib.exceptions import DataError
from hpo_lib.training import image_folder
from hpo_lib.training.config import DataConfig
from hpo_lib.training.image_pool import Images
from hpo_lib.training.loaders import load_data, load_test_data
from hpo_lib.training.splits import open_source, split_record
from tests.training.images import a_folder, save, two_parts


def test_folder_with_two_parts(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{two_parts(tmp_path / 'data')}")
    data, test = load_data(config), load_test_data(config)
    assert (data.classes, len(data.train), len(data.validation)) == (("a", "b"), 36, 4)
    assert (len(test), tuple(test.images.shape[1:])) == (6, (3, 6, 6))
    assert torch.equal(test.images[:, 0, 0, 0], test.labels.byte())
    assert torch.equal(data.train.images[:, 0, 0, 0], data.train.labels.byte())
    with pytest.raises(DataError, match="n_test must be at most 6, all of the test part, got 7"):
        load_data(replace(config, n_test=7))  # before the search, not after it


def test_modes_and_sizes_are_mixed_freely(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    half = Image.new("P", (6, 6))
    save(folder / "a" / "1.png", 7, "L", side=9)
    save(folder / "a" / "2.png", (9, 8, 7, 255), "RGBA")
    save(folder / "a" / "3.PNG", (9, 8, 7, 0), "RGBA")
    save(folder / "b" / "4.jpg", (0, 0, 0), side=40)
    save(folder / "b" / "5.webp", (255, 255, 255))
    save(folder / "b" / "6.tif", (1, 2, 3))
    half.save(folder / "b" / "7.png", transparency=b"\x80" * 256)
    source = open_source(DataConfig(f"folder:{folder}", image_size=4))
    pixels = source.pools["train"].read()[:, 2, 2].tolist()
    assert pixels[:3] == [[7, 7, 7], [9, 8, 7], [255, 255, 255]]
    assert pixels[3:6] == [[0, 0, 0], [255, 255, 255], [1, 2, 3]]
    assert pixels[6] == [127, 127, 127]


def test_folder_of_one_level_is_split_and_other_files_are_ignored(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    for name in ("labels.csv", ".git", "a/.DS_Store", "b/Thumbs.db"):
        (folder / name).touch()
    record = split_record(DataConfig(f"folder:{folder}", test_fraction=0.25))
    assert record["sizes"] == {"train": 22, "validation": 8, "test": 10}


def test_folder_errors_name_the_file_and_the_rule(tmp_path: Path) -> None:
    def refused(rule: str) -> None:
        with pytest.raises(DataError, match=rule):
            load_data(DataConfig(f"folder:{folder}"))

    folder = a_folder(tmp_path / "one", classes="a")
    refused(r"one: needs at least two folders, one per class, found .'a'")
    folder = tmp_path / "data"
    refused("data: the folder of images does not exist")
    two_parts(folder)
    (folder / "extra").mkdir()
    refused(r"data: train/ and test/ go together and alone, found .'extra', 'test', 'train'")
    (folder / "extra").rename(folder / "val")
    refused(r"data/val: needs at least two folders, one per class, found")
    (folder / "val").rmdir()
    (folder / "test" / "new").mkdir()
    refused(r"data: train/ and test/ need the same classes, one lacks .'new'")
    (folder / "train" / "new").mkdir()
    refused(r"train/new: the folder of a class holds at least one image and nothing but files")
    (folder / "train" / "new" / "notes.txt").touch()
    refused(r"new/notes.txt: the folder of a class holds .* but files .png .jpg")
    shutil.rmtree(folder / "train" / "new")
    shutil.rmtree(folder / "test" / "new")
    (folder / "train" / "b" / "000.png").write_bytes(b"no image")
    refused(r"train/b/000.png: the image cannot be read")
    save(folder / "train" / "b" / "000.png", 40_000, "I;16")
    refused(r"train/b/000.png: .*at most 8 bits per channel are allowed, its mode is I")
    for path in (folder / "train" / "b").glob("00*.png"):
        path.write_bytes(path.read_bytes()[:50])
    refused(r"(?s)b/000.png: the image.*b/004.png.*\n10 files to repair in all")
    save(folder / "train" / "a" / "000.png", side=300)
    refused(r"a/000.png: image_size must be given above 256 pixels")


def test_images_are_decoded_once_and_again_when_the_folder_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = image_folder._decode_files

    def counting(files: Any) -> Images:
        decoded.append(len(files.paths))
        return decode(files)

    monkeypatch.setattr(image_folder, "_decode_files", counting)
    folder = a_folder(tmp_path / "data")
    config = DataConfig(f"folder:{folder}", n_train=9)
    first, second = load_data(config), load_data(config)
    assert torch.equal(first.train.images, second.train.images)
    load_test_data(config)
    assert decoded == [40]
    load_data(replace(config, image_size=3))
    save(folder / "a" / "new.png")
    load_data(config)
    assert decoded == [40, 40, 41]
    assert len(list(cache.iterdir())) == 2  # of each size, as the files are now or were last read


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_that_a_camera_stored_turned_are_turned_back(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    a_folder(tmp_path / "data", per_class=1)
    upright = Image.new("RGB", (16, 16), "white")
    upright.paste("black", (0, 0, 8, 8))  # the corner at the top left
    stored = upright
    # the inverse of what each orientation asks for; 1 asks for nothing
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    if orientation != 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / "data" / "a" / f"000.{suffix}", exif=exif)
    if suffix != "png":
        (tmp_path / "data" / "a" / "000.png").unlink()
    source = open_source(DataConfig(f"folder:{tmp_path / 'data'}", image_size=16))
    dark = source.pools["train"].read()[0].mean(2) < 128
    assert dark[:8, :8].mean() > 0.9
    assert dark.sum() < 80


def test_damaged_exif_data_do_not_spoil_a_good_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_folder(tmp_path / "data", per_class=1)
    picture = Image.new("RGB", (6, 6), (9, 8, 7))
    picture.save(tmp_path / "data" / "a" / "000.png", exif=b"Exif\0\0no TIFF header")
    source = open_source(DataConfig(f"folder:{tmp_path / 'data'}"))
    assert source.pools["train"].read()[0, 0, 0].tolist() == [9, 8, 7]
    assert "a/000.png: damaged EXIF data are ignored" in caplog.text


@pytest.mark.parametrize("where", ["a file", "no home"])
def test_images_are_loaded_where_no_cache_can_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    config = DataConfig(f"folder:{a_folder(tmp_path / 'data')}")
    if where == "a file":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # a user without an entry
    assert len(load_data(config).train) == 24
    assert "decoded images are not cached" in caplog.text


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_the_validation_part(tmp_path: Path, name: str) -> None:
    folder = two_parts(tmp_path / "data")
    for label in ("a", "b"):
        for i in range(4):
            save(folder / name / label / f"{i}.png", (200 + i, 0, 0))
    config = DataConfig(f"folder:{folder}")
    data, test = load_data(config), load_test_data(config)
    assert (len(data.train), len(data.validation), len(test)) == (40, 8, 6)
    assert data.validation.images[:, 0].min() >= 200
    assert data.train.images[:, 0].max() < 200
    assert data.validation.labels.tolist() == [0] * 4 + [1] * 4
    assert split_record(config)["sizes"] == {"train": 40, "validation": 8, "test": 6}
    assert len(load_data(replace(config, n_validation=2)).validation) == 2
    shutil.rmtree(folder / "test")
    sizes = split_record(config)["sizes"]
    assert sizes == {"train": 32, "validation": 8, "test": 8}


def test_what_archives_and_drives_leave_is_no_class(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    for name in ("__MACOSX", "@eaDir", "a/@eaDir", "$RECYCLE.BIN"):
        (folder / name).mkdir()
    for name in ("Desktop.ini", "b/Desktop.ini", "b/thumbs.db"):
        (folder / name).touch()
    data = load_data(DataConfig(f"folder:{folder}"))
    assert data.classes == ("a", "b")


def test_images_of_other_sizes_than_the_first_are_resized_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = a_folder(tmp_path / "data")
    load_data(DataConfig(f"folder:{folder}"))
    assert not caplog.text
    save(folder / "b" / "new.png", side=40)
    load_data(DataConfig(f"folder:{folder}", image_size=6))
    assert not caplog.text
    save(folder / "b" / "newer.png", side=40)
    load_data(DataConfig(f"folder:{folder}"))
    assert "every image is resized to 6×6 pixels, the shorter side of the first" in caplog.text
    assert "6×6 to 40×40" in caplog.text


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    latin = os.fsencode(folder / "b") + b"/caf\xe9.png"
    (folder / "b" / "000.png").rename(os.fsdecode(latin))
    (folder / "b").rename(os.fsdecode(os.fsencode(folder) + b"/\xe9"))
    config = DataConfig(f"folder:{folder}")
    data = load_data(config)
    assert len(data.sha256) == 64
    record = split_record(config)
    assert json.loads(json.dumps(record)) == record
    bad = os.fsdecode(os.fsencode(folder) + b"/\xe9/\xe9.png")
    Path(bad).write_bytes(b"no image")
    with pytest.raises(DataError, match="the image cannot be read") as caught:
        load_data(config)
    message = str(caught.value)
    assert "\N{REPLACEMENT CHARACTER}.png" in message
    assert message.encode()  # can be stored


@pytest.mark.parametrize("kind", ["fifo", "link", "loop"])
def test_what_looks_like_an_image_and_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    folder = a_folder(tmp_path / "data")
    path = folder / "b" / "new.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "absent.png")
    reason = "no regular file" if kind == "fifo" else "a link to nothing"
    with pytest.raises(DataError, match=rf"b/new.png \({reason}\): the folder of a class holds"):
        load_data(DataConfig(f"folder:{folder}"))


def test_links_beside_the_classes_are_no_classes(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone").symlink_to(folder / "absent")
    assert load_data(DataConfig(f"folder:{folder}")).classes == ("a", "b")


@pytest.mark.parametrize("damage", [b"", b"garbage", b"flip"])
def test_damaged_cache_is_built_again(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    config = DataConfig(f"folder:{a_folder(tmp_path / 'data')}")
    good = load_data(config)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == b"flip" else damage)
    assert torch.equal(load_data(config).train.images, good.train.images)
    assert "the cache is damaged" in caplog.text
    assert path.stat().st_size == len(content)
