from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hpo_lib.exceptions import DataError
from hpo_lib.training import cifar10, image_folder
from hpo_lib.training.config import DataConfig
from hpo_lib.training.datasets import open_source
from hpo_lib.training.image_pool import ImagePool, Images, ImageSource
from hpo_lib.training.loaders import Augmentation, Part, batches, load_data, load_test_data
from hpo_lib.training.splits import split_record, verify_split, write_split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HPO_DATA", raising=False)
    return tmp_path / "hpo_lib"


def a_part(n: int = 6, channels: int = 3) -> Part:
    images = np.random.default_rng(0).integers(1, 256, (n, channels, 5, 5), dtype=np.uint8)
    return Part(torch.from_numpy(images), torch.arange(n))


def save(path: Path, colour: object = (10, 20, 30), mode: str = "RGB", side: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), colour).save(path)  # pyright: ignore[reportArgumentType]
    return path


def a_folder(path: Path, per_class: int = 20, classes: str = "ab") -> Path:
    for label, name in enumerate(classes):
        for i in range(per_class):
            save(path / name / f"{i:03}.png", (label, i, 0))
    return path


def two_parts(path: Path) -> Path:
    a_folder(path / "test", per_class=3)
    return a_folder(path / "train").parent


WRONG = {"source": "folder:", "test_fraction": 1, "n_train": 0, "n_test": 1.5, "seed": None}


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_wrong_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"^{name} must be .* got {value!r}"):
        replace(DataConfig(), **{name: value})


def test_digits_are_grey_images_of_eight_pixels() -> None:
    data = load_data(DataConfig())
    assert data.classes == tuple("0123456789")
    assert data.train.images.shape == (1078, 1, 8, 8)
    assert data.train.images.max() == 255
    assert (len(data.validation), len(load_test_data(DataConfig()))) == (360, 359)
    assert load_data(DataConfig(image_size=16)).validation.images.shape[2:] == (16, 16)


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
    verify_split(config, record)
    with pytest.raises(DataError, match=r"indices differ; settings changed: seed=4 .recorded: 3"):
        verify_split(replace(config, seed=4), record)


def test_changed_images_are_told_from_the_record_moved_ones_are_not(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{two_parts(tmp_path / 'here')}")
    record = split_record(config)
    moved = replace(config, source=f"folder:{(tmp_path / 'here').rename(tmp_path / 'there')}")
    verify_split(moved, record)
    (tmp_path / "there" / "train" / "a" / "000.png").unlink()
    with pytest.raises(DataError, match="data_sha256 differ; the images changed"):
        verify_split(moved, record)


def test_batches_are_normalised_and_keep_images_with_labels() -> None:
    part = a_part()
    found = list(batches(part, 4))
    assert [len(y) for _, y in found] == [4, 2]
    assert [len(y) for _, y in batches(part, 4, drop_last=True)] == [4]
    x = torch.cat([x for x, _ in found])
    torch.testing.assert_close(x, part.images / 255 * 2 - 1)
    assert torch.equal(torch.cat([y for _, y in found]), part.labels)
    x, y = next(batches(part, 6, shuffle=True, generator=torch.Generator().manual_seed(0)))
    assert y.tolist() != part.labels.tolist()
    torch.testing.assert_close(x, part.images[y] / 255 * 2 - 1)


def test_each_augmented_image_is_one_crop_of_the_padded_image() -> None:
    part, margin = a_part(n=40, channels=2), 2

    def augmented(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return next(batches(part, 40, augment=Augmentation(margin), generator=generator))[0]

    x = augmented(1)
    assert torch.equal(x, augmented(1))
    assert not torch.equal(x, augmented(2))
    assert x.is_contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(part.images.float(), (margin,) * 4)
    seen: set[tuple[int, int, bool]] = set()
    for image, wide in zip((x + 1) * 127.5, padded, strict=True):
        crops = {
            (top, left, flip): wide[:, top : top + 5, left : left + 5].flip(2 if flip else ())
            for top in range(2 * margin + 1)
            for left in range(2 * margin + 1)
            for flip in (False, True)
        }
        hits = [key for key, crop in crops.items() if torch.allclose(crop, image, atol=1e-3)]
        assert hits
        seen.update(hits)
    assert {flip for *_, flip in seen} == {False, True}
    assert {top for top, *_ in seen} == set(range(2 * margin + 1))


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


def test_cifar10_without_a_home_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with pytest.raises(FileNotFoundError, match="neither XDG_CACHE_HOME nor HOME is set"):
        load_data(DataConfig("cifar10"))


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
    verify_split(config, json.loads(json.dumps(split_record(config))))
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


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny archive of CIFAR-10's form, with its sums in place of the real ones."""
    from torchvision.datasets import CIFAR10  # takes more than a second to import

    def md5(content: bytes) -> str:
        return hashlib.md5(content).hexdigest()

    def batch(per_class: int) -> bytes:
        labels = list(range(10)) * per_class
        data = np.random.default_rng(0).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        return pickle.dumps({"data": data, "labels": labels})

    names = [name for name, _ in CIFAR10.train_list]
    files = {name: batch(3) for name in names} | {"test_batch": batch(2)}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(files[name])] for name in names])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{cifar10.CIFAR10_FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "CIFAR10_MD5", md5(stream.getvalue()))
    monkeypatch.setattr(cifar10, "CIFAR10_MIRRORS", ())
    return stream.getvalue()


def check_cifar10(root: Path | None = None) -> None:
    config = DataConfig("cifar10", root=str(root) if root else None)
    data, test = load_data(config), load_test_data(config)
    assert (len(data.train), len(data.validation), len(test)) == (135, 15, 20)
    assert data.classes == tuple("abcdefghij")
    assert test.images.shape == (20, 3, 32, 32)


@pytest.mark.parametrize("form", ["archive", "variable", "unpacked", "renamed"])
def test_local_copy_of_cifar10(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / cifar10.CIFAR10_ARCHIVE
    path.write_bytes(archive)
    if form == "archive":
        return check_cifar10(path)
    if form == "variable":
        monkeypatch.setenv("HPO_DATA", str(tmp_path))
        return check_cifar10()
    check_cifar10(path)  # leaves the unpacked folder beside the archive
    path.unlink()
    folder = tmp_path / cifar10.CIFAR10_FOLDER
    return check_cifar10(tmp_path if form == "unpacked" else folder.rename(tmp_path / "cifar"))


def test_cifar10_is_unpacked_where_python_has_no_filters(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack_archive(filename: Path, extract_dir: str, format: str) -> None:
        """Take the arguments that Python 3.11.2 takes."""
        with tarfile.open(filename, "r:gz") as tar:
            for member in tar:
                target = Path(extract_dir) / member.name
                target.parent.mkdir(exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())

    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(shutil, "unpack_archive", unpack_archive)
    (tmp_path / cifar10.CIFAR10_ARCHIVE).write_bytes(archive)
    check_cifar10(tmp_path)


def test_wrong_md5_is_refused_before_unpickling(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / cifar10.CIFAR10_ARCHIVE
    path.write_bytes(archive)
    check_cifar10(tmp_path)
    batch = tmp_path / cifar10.CIFAR10_FOLDER / "data_batch_2"
    batch.write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(DataError, match=r"data_batch_2: the md5 of this file .* must be \w{32}"):
        check_cifar10(tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_2: .* it is missing"):
        check_cifar10(tmp_path)
    path.rename(tmp_path / "new").write_bytes(archive + b"?")
    with pytest.raises(DataError, match=r"new: the md5 of this file"):
        cifar10._check_md5(tmp_path / "new", cifar10.CIFAR10_MD5)


class Mirror(ThreadingHTTPServer):
    """Serves the archive; the path says how: good, norange, missing, wrong, cut or dead."""

    def __init__(self, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.archive, self.patch = archive, monkeypatch
        self.requests: list[tuple[str, str]] = []

    def use(self, *paths: str) -> None:
        urls = tuple(f"http://127.0.0.1:{self.server_port}/{path}" for path in paths)
        self.patch.setattr(cifar10, "CIFAR10_MIRRORS", urls)


class MirrorHandler(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        how, wanted, content = self.path[1:], self.headers["Range"], self.server.archive
        self.server.requests.append((how, wanted))
        first = 0 if how == "norange" else int(wanted[6:-1])
        if how == "missing" or first >= len(content):
            return self.send_error(404 if how == "missing" else 416)
        content = bytes(len(content)) if how == "wrong" else content
        self.send_response(200 if how == "norange" else 206)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        limit = {"cut": len(content) // 3, "dead": 1000 if not first else 0}.get(how, len(content))
        self.wfile.write(content[first : first + limit])
        return None


@pytest.fixture
def mirror(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror(archive, monkeypatch) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def leave(folder: Path, content: bytes, pid: int = 999_999_999) -> Path:
    path = folder / f"{cifar10.CIFAR10_ARCHIVE}.{pid}.part"
    path.write_bytes(content)
    return path


def test_cut_download_goes_on_where_it_ended(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("cut")
    check_cifar10(tmp_path)
    third = len(mirror.archive) // 3
    assert [int(wanted[6:-1]) for _, wanted in mirror.requests[:3]] == [0, third, 2 * third]


def test_a_download_cut_after_every_byte_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 2 * sys.getrecursionlimit()

    def one_byte(request: urllib.request.Request, timeout: float) -> Any:
        first = int(request.headers["Range"][6:-1])
        response = MagicMock(status=206, headers={"Content-Length": str(total - first)})
        response.__enter__.return_value = response
        response.read.side_effect = [b"x", b""]
        return response

    monkeypatch.setattr(urllib.request, "urlopen", one_byte)
    cifar10._fetch("http://mirror/", tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == total


def test_interrupted_download_is_continued_by_the_next_call_and_mirror(
    tmp_path: Path, mirror: Mirror
) -> None:
    mirror.use("dead")
    with pytest.raises(DataError, match="the connection was cut after 1000 of"):
        check_cifar10(tmp_path)
    mirror.use("missing", "good")
    check_cifar10(tmp_path)
    assert mirror.requests[-1] == ("good", "bytes=1000-")


def test_download_goes_on_where_a_dead_process_stopped_beside_a_living_one(
    tmp_path: Path, mirror: Mirror
) -> None:
    leave(tmp_path, mirror.archive[:500])
    living = leave(tmp_path, b"x" * 600, pid=1)
    mirror.use("good")
    check_cifar10(tmp_path)
    assert mirror.requests == [("good", "bytes=500-")]
    assert list(tmp_path.glob("*.part")) == [living]
    assert living.read_bytes() == b"x" * 600


@pytest.mark.parametrize("length", [500, 10_000_000])
@pytest.mark.parametrize("how", ["good", "norange", "wrong"])
def test_wrong_bytes_are_thrown_away(cache: Path, mirror: Mirror, how: str, length: int) -> None:
    cache.mkdir()
    leave(cache, b"x" * length)
    mirror.use(how, "good")
    check_cifar10()
    assert mirror.requests[0] == (how, f"bytes={length}-")
    assert {p.name for p in cache.iterdir()} == {cifar10.CIFAR10_FOLDER, cifar10.CIFAR10_ARCHIVE}


def test_failed_download_names_each_mirror_and_the_way_out(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("missing", "wrong")
    pattern = r"(?s)/missing: HTTP Error 404.*/wrong: .*the md5 of this file.*HPO_DATA"
    with pytest.raises(DataError, match=pattern):
        check_cifar10(tmp_path)
    assert not list(tmp_path.iterdir())
