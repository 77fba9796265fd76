from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from hpo_lib import sources
from hpo_lib.data import (
    Augmentation,
    DataConfig,
    DataError,
    Part,
    batches,
    load_data,
    load_test_data,
    read_split,
    split_record,
    verify_split,
    write_split,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HPO_DATA", raising=False)
    return tmp_path / "cache"


def a_part(n: int = 6, channels: int = 3, size: int = 5) -> Part:
    generator = torch.Generator().manual_seed(0)
    shape = (n, channels, size, size)
    images = torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)
    return Part(images, torch.arange(n))


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
    a_folder(path / "train")
    a_folder(path / "test", per_class=3)
    return path


# ---- configuration


@pytest.mark.parametrize("source", ["mnist", "folder:", "folder", "folder: ", "digits:1"])
def test_unknown_source_is_refused_with_the_known_ones(source: str) -> None:
    with pytest.raises(DataError, match=r"source must be 'digits', 'cifar10' or 'folder:<path>'"):
        DataConfig(source)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation_fraction", 0.0),
        ("test_fraction", 1),
        ("n_train", 0),
        ("n_test", 1.5),
        ("image_size", -1),
        ("n_validation", True),
        ("seed", -1),
    ],
)
def test_wrong_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"^{name} must be .* got {value!r}"):
        replace(DataConfig(), **{name: value})


# ---- digits and the split


def test_digits_are_grey_images_of_eight_pixels() -> None:
    data = load_data(DataConfig())
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape == (1294, 1, 8, 8)
    assert data.train.images.max() == 255
    assert (len(data.validation), len(load_test_data(DataConfig()))) == (144, 359)


def test_image_size_resizes() -> None:
    assert load_data(DataConfig(image_size=16)).validation.images.shape[2:] == (16, 16)


def test_parts_share_no_image_and_cover_all() -> None:
    indices = split_record(DataConfig())["indices"]
    assert sorted(chain(*indices.values())) == list(range(1797))


def test_split_is_stratified() -> None:
    record = split_record(DataConfig(validation_fraction=0.25))
    counts = np.array([list(record["counts"][part].values()) for part in record["sizes"]])
    shares = counts / counts.sum(0)
    assert np.abs(shares - shares.mean(1, keepdims=True)).max() < 0.02


def test_seed_decides_the_split() -> None:
    first, again, other = (split_record(DataConfig(seed=s))["indices"] for s in (1, 1, 2))
    assert first == again
    assert all(first[part] != other[part] for part in first)


def test_test_part_does_not_depend_on_the_other_parts() -> None:
    small = DataConfig(validation_fraction=0.3, n_train=50)
    assert torch.equal(load_test_data(DataConfig()).images, load_test_data(small).images)


def test_subset_sizes_are_exact_and_come_out_of_the_whole_part() -> None:
    whole = split_record(DataConfig())["indices"]
    subset = split_record(DataConfig(n_train=101, n_validation=33, n_test=50))["indices"]
    assert [len(subset[part]) for part in ("train", "validation", "test")] == [101, 33, 50]
    assert all(set(subset[part]) <= set(whole[part]) for part in whole)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(30, 60), min_size=2, max_size=5),
    st.floats(0.1, 0.4),
    st.floats(0.1, 0.4),
    st.integers(0, 99),
)
def test_any_split_is_a_stratified_partition(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pool = sources.Pool(labels, lambda: np.zeros((len(labels), 2, 2, 1), np.uint8))
    source = sources.Source(tuple("abcde"[: len(sizes)]), lambda: pool)
    config = DataConfig(validation_fraction=validation, test_fraction=test, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpo_lib.data.open_source", lambda *_: source)
        record = split_record(config)
    assert sorted(chain(*record["indices"].values())) == list(range(len(labels)))
    assert record["sizes"]["test"] == round(len(labels) * test)
    shares = np.array(list(record["counts"]["test"].values())) / sizes
    assert np.abs(shares * sizes - test * np.array(sizes)).max() <= 1.5


def test_too_large_a_subset_is_refused() -> None:
    with pytest.raises(DataError, match=r"n_validation must be at most 144, .* got 145"):
        load_data(DataConfig(n_validation=145))


def test_class_without_an_image_in_a_part_is_refused(tmp_path: Path) -> None:
    a_folder(tmp_path / "data")
    save(tmp_path / "data" / "rare" / "1.png")
    with pytest.raises(DataError, match=r"leaves class 'rare' \(1 images\) without one among"):
        load_data(DataConfig(f"folder:{tmp_path / 'data'}"))


def test_record_repeats_the_split(tmp_path: Path) -> None:
    config = DataConfig(seed=3, n_train=100)
    record = read_split(write_split(config, tmp_path / "split.json"))
    assert record == split_record(config)
    assert DataConfig(**record["config"]) == config
    verify_split(config, record)


def test_changed_settings_are_told_from_the_record(tmp_path: Path) -> None:
    record = split_record(DataConfig(seed=3))
    with pytest.raises(DataError, match=r"indices differ; settings changed: seed=4 .recorded: 3"):
        verify_split(DataConfig(seed=4), record)


def test_changed_images_are_told_from_the_record_moved_ones_are_not(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{two_parts(tmp_path / 'here')}")
    record = split_record(config)
    moved = replace(config, source=f"folder:{(tmp_path / 'here').rename(tmp_path / 'there')}")
    verify_split(moved, record)
    (tmp_path / "there" / "train" / "a" / "000.png").unlink()
    with pytest.raises(DataError, match="data_sha256 differ; the images changed"):
        verify_split(moved, record)


@pytest.mark.parametrize(("text", "rule"), [("{", "must be JSON"), ("{}", "must hold classes")])
def test_broken_record_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"split.json: .*{rule}"):
        read_split(path)


# ---- batches


def test_batches_are_normalised_and_in_order() -> None:
    part = a_part()
    found = list(batches(part, 4))
    assert [len(y) for _, y in found] == [4, 2]
    x = torch.cat([x for x, _ in found])
    torch.testing.assert_close(x, part.images / 255 * 2 - 1)
    assert torch.equal(torch.cat([y for _, y in found]), part.labels)


def test_drop_last_leaves_whole_batches() -> None:
    assert [len(y) for _, y in batches(a_part(), 4, drop_last=True)] == [4]


@pytest.mark.parametrize("augment", [None, Augmentation(2)])
def test_batches_are_channels_last_unless_asked(augment: Augmentation | None) -> None:
    x, _ = next(batches(a_part(), 4, augment=augment))
    assert x.is_contiguous(memory_format=torch.channels_last)
    x, _ = next(batches(a_part(), 4, augment=augment, channels_last=False, dtype=torch.bfloat16))
    assert x.is_contiguous()
    assert x.dtype == torch.bfloat16


def test_generator_decides_order_and_augmentation() -> None:
    def epoch(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        options = {"augment": Augmentation(2), "shuffle": True, "generator": generator}
        return [x for x, _ in batches(a_part(), 6, **options)]

    assert torch.equal(epoch(0)[0], epoch(0)[0])
    assert not torch.equal(epoch(0)[0], epoch(1)[0])


def test_shuffled_labels_stay_with_their_images() -> None:
    part = a_part()
    generator = torch.Generator().manual_seed(0)
    x, y = next(batches(part, 6, shuffle=True, generator=generator))
    assert y.tolist() != part.labels.tolist()
    torch.testing.assert_close(x, part.images[y] / 255 * 2 - 1)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_each_augmented_image_is_one_crop_of_the_padded_image(padding: str) -> None:
    part, margin = a_part(n=40, channels=2), 2
    augment = Augmentation(margin, padding=padding)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(1)
    x, _ = next(batches(part, 40, augment=augment, generator=generator))
    mode = "constant" if padding == "zero" else "reflect"
    padded = torch.nn.functional.pad(part.images.float(), (margin,) * 4, mode=mode)
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


def test_flip_alone_mirrors_about_every_second_image() -> None:
    part = a_part(n=200, size=4)
    generator = torch.Generator().manual_seed(0)
    x, _ = next(batches(part, 200, augment=Augmentation(0), generator=generator))
    plain = part.images / 255 * 2 - 1
    flipped = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(x, plain, strict=True)]
    assert 70 < sum(flipped) < 130
    assert all(
        f or torch.allclose(a, b, atol=1e-5) for f, a, b in zip(flipped, x, plain, strict=True)
    )


def test_wrong_batches_are_refused() -> None:
    with pytest.raises(DataError, match="batch_size must be at least 1, got 0"):
        next(batches(a_part(), 0))
    with pytest.raises(DataError, match="crop_padding must be below the image size, 5"):
        next(batches(a_part(), 2, augment=Augmentation(5, padding="reflect")))
    with pytest.raises(DataError, match="crop_padding must be at least 0, got -1"):
        Augmentation(-1)
    with pytest.raises(DataError, match="padding must be 'zero' or 'reflect', got 'wrap'"):
        Augmentation(padding="wrap")  # pyright: ignore[reportArgumentType]


def test_wrong_part_is_refused() -> None:
    with pytest.raises(DataError, match="images must be uint8"):
        Part(torch.zeros(1, 3, 4, 4), torch.zeros(1))
    with pytest.raises(DataError, match="labels must be as many as images, 2, got 1"):
        Part(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(1))


# ---- folders


def test_folder_with_two_parts(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{two_parts(tmp_path / 'data')}")
    data, test = load_data(config), load_test_data(config)
    assert (data.classes, len(data.train), len(data.validation)) == (("a", "b"), 36, 4)
    assert (len(test), tuple(test.images.shape[1:])) == (6, (3, 6, 6))
    assert torch.equal(test.images[:, 0, 0, 0], test.labels.byte())


def test_folder_of_one_level_is_split(tmp_path: Path) -> None:
    config = DataConfig(f"folder:{a_folder(tmp_path / 'data')}", test_fraction=0.25)
    data, test = load_data(config), load_test_data(config)
    assert (len(data.train), len(data.validation), len(test)) == (27, 3, 10)
    assert torch.equal(data.train.images[:, 0, 0, 0], data.train.labels.byte())


def test_modes_and_sizes_are_mixed_freely(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    save(folder / "a" / "1.png", 7, "L", side=9)
    save(folder / "a" / "2.png", (9, 8, 7, 255), "RGBA")
    save(folder / "a" / "3.PNG", (9, 8, 7, 0), "RGBA")
    save(folder / "a" / "4.gif", 3, "P")
    save(folder / "a" / "5.jpg", (0, 0, 0), side=40)
    save(folder / "b" / "6.bmp", (1, 2, 3))
    save(folder / "b" / "7.webp", (255, 255, 255))
    save(folder / "b" / "8.tif", (1, 2, 3))
    save(folder / "b" / "9.png", (1, 2, 3))
    half = Image.new("P", (6, 6))
    half.save(folder / "b" / "99.png", transparency=b"\x80" * 256)
    pool = sources.open_source(f"folder:{folder}", None, 4).pool()
    pixels = pool.read()[:, 2, 2].tolist()
    assert pixels[:3] == [[7, 7, 7], [9, 8, 7], [255, 255, 255]]
    assert pixels[4:7] == [[0, 0, 0], [1, 2, 3], [255, 255, 255]]
    assert pixels[7] == pixels[8] == [1, 2, 3]


def test_hidden_files_and_files_beside_the_classes_are_ignored(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    (folder / "labels.csv").touch()
    (folder / ".git").mkdir()
    (folder / "a" / ".DS_Store").touch()
    (folder / "b" / "Thumbs.db").touch()
    assert sum(split_record(DataConfig(f"folder:{folder}"))["sizes"].values()) == 40


def test_folder_errors_name_the_file_and_the_rule(tmp_path: Path) -> None:
    def refused(rule: str) -> None:
        with pytest.raises(DataError, match=rule):
            load_data(DataConfig(f"folder:{folder}"))

    folder = tmp_path / "data"
    refused("data: the folder of images does not exist")
    two_parts(folder)
    (folder / "val").mkdir()
    refused(r"data: train/ and test/ go together and alone, found test, train, val")
    (folder / "val").rmdir()
    (folder / "test" / "new").mkdir()
    refused(r"class 'new' is in test/, missing in train/: both need it")
    (folder / "train" / "new").mkdir()
    refused(r"train/new: the class folder is empty, every class needs images")
    (folder / "train" / "new" / "notes.txt").touch()
    refused(r"new/notes.txt: a class folder may hold only files .png .jpg")
    (folder / "train" / "new" / "notes.txt").unlink()
    (folder / "train" / "a" / "7.png").mkdir()
    refused(r"train/a/7.png: a class folder may hold only files")
    (folder / "train" / "a" / "7.png").rmdir()
    (folder / "train" / "new").rmdir()
    (folder / "test" / "new").rmdir()
    (folder / "train" / "b" / "000.png").write_bytes(b"no image")
    refused(r"train/b/000.png: the image cannot be read")
    save(folder / "train" / "b" / "000.png", 40_000, "I;16")
    refused(r"train/b/000.png: .*at most 8 bits per channel are allowed, its mode is I;16")


def test_bad_test_part_is_refused_before_a_search(tmp_path: Path) -> None:
    folder = two_parts(tmp_path / "data")
    config = DataConfig(f"folder:{folder}", n_test=7)
    with pytest.raises(DataError, match="n_test must be at most 6"):
        load_data(config)
    for path in (folder / "test" / "b").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="test/b: the class folder is empty"):
        load_data(config)


def test_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data", classes="a")
    with pytest.raises(DataError, match=r"needs at least two folders, one per class, found .'a'"):
        load_data(DataConfig(f"folder:{folder}"))


def test_truncated_images_are_all_counted(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    for path in (folder / "b").glob("00*.png"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"(?s)b/000.png: the image.*b/004.png.*and 5 more"):
        load_data(DataConfig(f"folder:{folder}"))


def test_large_images_need_a_size(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    save(folder / "a" / "000.png", side=300)
    config = DataConfig(f"folder:{folder}")
    with pytest.raises(DataError, match=r"a/000.png: image_size must be given"):
        load_data(config)
    assert load_data(replace(config, image_size=8)).train.images.shape[2:] == (8, 8)


# ---- cache


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    decode = sources._decode

    def counting(listing: sources._Listing, size: int) -> sources.Images:
        decoded.append(len(listing.files))
        return decode(listing, size)

    monkeypatch.setattr(sources, "_decode", counting)
    return decoded


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = counted(monkeypatch)
    config = DataConfig(f"folder:{a_folder(tmp_path / 'data')}")
    first, second = load_data(config), load_data(config)
    assert torch.equal(first.train.images, second.train.images)
    load_test_data(config)
    assert decoded == [40]
    load_data(replace(config, image_size=3))
    assert decoded == [40, 40]


def test_changed_folder_is_decoded_again_and_the_old_cache_goes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = counted(monkeypatch)
    folder = a_folder(tmp_path / "data")
    config = DataConfig(f"folder:{folder}", n_train=2)
    load_data(config)
    save(folder / "a" / "new.png")
    load_data(config)
    assert decoded == [40, 41]
    assert sorted(path.suffix for path in (cache / "images").iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", [b"", b"garbage", b"[1]", b"flip"])
def test_damaged_cache_is_built_again(
    tmp_path: Path,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    damage: bytes,
) -> None:
    config = DataConfig(f"folder:{a_folder(tmp_path / 'data')}")
    good = load_data(config)
    (path,) = (cache / "images").glob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == b"flip" else damage)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_data(config).train.images, good.train.images)
    assert "the cache is damaged" in caplog.text
    caplog.clear()
    load_data(config)
    assert not caplog.text


# ---- CIFAR-10


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny archive of CIFAR-10's form, with its sums in place of the real ones."""
    rng = np.random.default_rng(0)

    def batch(per_class: int) -> bytes:
        labels = list(range(10)) * per_class
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        return pickle.dumps({"data": data, "labels": labels})

    names = [name for name, _ in CIFAR10.train_list]
    files = {name: batch(3) for name in names} | {"test_batch": batch(2)}
    files["batches.meta"] = pickle.dumps({"label_names": list(sources.CIFAR10_CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(files[name])] for name in names])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{sources.CIFAR10_FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(sources, "CIFAR10_MD5", md5(stream.getvalue()))
    monkeypatch.setattr(sources, "CIFAR10_MIRRORS", ())
    return stream.getvalue()


def check_cifar10(root: Path | None = None) -> None:
    config = DataConfig("cifar10", root=str(root) if root else None)
    data, test = load_data(config), load_test_data(config)
    assert (len(data.train), len(data.validation), len(test)) == (135, 15, 20)
    assert data.classes[3] == "cat"
    assert test.images.shape == (20, 3, 32, 32)


@pytest.mark.parametrize("form", ["archive", "folder of archive", "unpacked", "renamed"])
def test_local_copy_of_cifar10(tmp_path: Path, archive: bytes, form: str) -> None:
    root = tmp_path / "copy"
    root.mkdir()
    path = root / sources.CIFAR10_ARCHIVE
    path.write_bytes(archive)
    if form in ("unpacked", "renamed"):
        with tarfile.open(path) as tar:
            tar.extractall(root, filter="data")
        path.unlink()
    if form == "renamed":
        root = (root / sources.CIFAR10_FOLDER).rename(tmp_path / "cifar")
    check_cifar10(path if form == "archive" else root)


def test_local_copy_is_found_by_the_variable(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / sources.CIFAR10_ARCHIVE).write_bytes(archive)
    monkeypatch.setenv("HPO_DATA", str(tmp_path))
    check_cifar10()


def test_wrong_md5_is_refused_before_unpickling(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / sources.CIFAR10_ARCHIVE
    path.write_bytes(archive)
    check_cifar10(tmp_path)
    batch = tmp_path / sources.CIFAR10_FOLDER / "data_batch_2"
    batch.write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(DataError, match=r"data_batch_2: the md5 of this file .* must be \w{32}"):
        check_cifar10(tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_2: this file of CIFAR-10 is missing"):
        check_cifar10(tmp_path)
    path.write_bytes(archive + b"?")
    with pytest.raises(DataError, match=r"python.tar.gz: the md5 of this file"):
        check_cifar10(path)


class Mirror(ThreadingHTTPServer):
    """Serves `archive`: whole, cut after 1000 bytes per connection, altered, or without ranges."""

    daemon_threads = True

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.archive = archive
        self.requests: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class MirrorHandler(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        how, wanted, content = self.path[1:], self.headers["Range"], self.server.archive
        self.server.requests.append((how, wanted))
        first = int(wanted[6:-1]) if wanted and how != "norange" else 0
        if how == "missing":
            return self.send_error(404)
        if first >= len(content):
            return self.send_error(416)
        if how == "wrong":
            content = bytes(len(content))
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        limit = {"cut": len(content) // 3, "dead": 1000 if not first else 0}.get(how, len(content))
        self.wfile.write(content[first : first + limit])
        return None


@pytest.fixture
def mirror(archive: bytes) -> Iterator[Mirror]:
    server = Mirror(archive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def use(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    monkeypatch.setattr(sources, "CIFAR10_MIRRORS", tuple(mirror.url(path) for path in paths))


def test_cut_download_goes_on_where_it_ended(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirror, monkeypatch, "cut")
    check_cifar10(tmp_path)
    third = len(mirror.archive) // 3
    expected = [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert [wanted for _, wanted in mirror.requests][:3] == expected
    assert not list(tmp_path.glob("*.part"))


def test_interrupted_download_is_continued_by_the_next_call_and_mirror(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirror, monkeypatch, "dead")
    with pytest.raises(DataError, match="the connection was cut after 1000 of"):
        check_cifar10(tmp_path)
    use(mirror, monkeypatch, "missing", "good")
    check_cifar10(tmp_path)
    assert mirror.requests[-1] == ("good", "bytes=1000-")


def test_mirror_without_ranges_starts_over(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{sources.CIFAR10_ARCHIVE}.part").write_bytes(b"x" * 500)
    use(mirror, monkeypatch, "norange")
    check_cifar10(tmp_path)


@pytest.mark.parametrize("length", [500, 10_000_000])
def test_wrong_beginning_is_thrown_away(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    (tmp_path / f"{sources.CIFAR10_ARCHIVE}.part").write_bytes(b"x" * length)
    use(mirror, monkeypatch, "good")
    check_cifar10(tmp_path)
    assert mirror.requests == [("good", f"bytes={length}-"), ("good", None)]


def test_wrong_md5_goes_to_the_next_mirror(
    cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirror, monkeypatch, "wrong", "good")
    check_cifar10()
    assert [how for how, _ in mirror.requests] == ["wrong", "good"]
    assert (cache / sources.CIFAR10_FOLDER / "test_batch").exists()


def test_failed_download_names_each_mirror_and_the_way_out(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirror, monkeypatch, "missing", "wrong")
    with pytest.raises(DataError) as caught:
        check_cifar10(tmp_path)
    text = str(caught.value)
    assert f"{mirror.url('missing')}: HTTP Error 404" in text
    assert f"{mirror.url('wrong')}: " in text
    assert "the md5 of this file" in text
    assert "HPO_DATA" in text
    assert not list(tmp_path.iterdir())


def test_configuration_is_json() -> None:
    assert DataConfig(**json.loads(json.dumps(asdict(DataConfig())))) == DataConfig()
