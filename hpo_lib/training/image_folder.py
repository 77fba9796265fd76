"""Folders of image files, one folder per class, and a cache of their decoded pixels."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.training.image_pool import ImagePool, Images, ImageSource, cache_folder

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # Pillow's others are slow to rule out
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
LARGEST_NATIVE_SIZE = 256
BILINEAR = Image.Resampling.BILINEAR  # antialiases by itself

_HIDDEN = (".", "Thumbs.db", "desktop.ini")
_CRC_BYTES = 4

logger = logging.getLogger(__name__)


def open_image_folder(folder: Path, image_size: int | None) -> ImageSource:
    """Find the classes and images below a folder.

    The folder holds one folder per class, or `train/` and `test/` with the same classes.

    Args:
        folder: absolute path.
        image_size: height and width in pixels; None: the shorter side of the first image.

    Raises:
        DataError: the folder is laid out in another way, or holds something else.
    """
    if not folder.is_dir():
        message = f"{folder}: the folder of images does not exist"
        raise DataError(message)

    parts = _part_folders(folder)
    classes = _class_names(parts[0])
    if len(parts) > 1:
        different = sorted(set(classes) ^ set(_class_names(parts[1])))
        if different:
            message = f"{folder}: train/ and test/ need the same classes, one lacks {different}"
            raise DataError(message)

    size = image_size or _native_size(_class_files(parts[0] / classes[0])[0].path)
    return ImageSource(classes, *(_open_pool(part, classes, size) for part in parts))


def _part_folders(folder: Path) -> list[Path]:
    """Return the folders of the training and test part, or the folder itself."""
    names = _class_names(folder)
    if "train" not in names and "test" not in names:
        return [folder]
    if names != ("test", "train"):
        message = f"{folder}: train/ and test/ go together and alone, found {names}"
        raise DataError(message)
    return [folder / "train", folder / "test"]


def _native_size(path: str) -> int:
    size = min(_decode_file(path, None).shape[:2])
    if size > LARGEST_NATIVE_SIZE:
        message = f"{path}: image_size must be given above {LARGEST_NATIVE_SIZE} pixels"
        raise DataError(message)
    return size


def _open_pool(folder: Path, classes: tuple[str, ...], size: int) -> ImagePool:
    labels: list[int] = []
    paths: list[str] = []
    names: list[str] = []
    times: list[str] = []
    for label, class_name in enumerate(classes):
        for entry in _class_files(folder / class_name):
            status = entry.stat()
            labels.append(label)
            paths.append(entry.path)
            names.append(f"{class_name}/{entry.name} {status.st_size}")
            times.append(str(status.st_mtime_ns))

    state = "\n".join(names + times)
    read = partial(_read_images, folder, paths, size, state)
    return ImagePool(np.array(labels), read, tuple(names))


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries in order; they know files from folders without a look at each."""
    visible = [entry for entry in os.scandir(folder) if not entry.name.startswith(_HIDDEN)]
    return sorted(visible, key=lambda entry: entry.name)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _visible_entries(folder) if entry.is_dir())
    if len(names) < 2:
        message = f"{folder}: needs at least two folders, one per class, found {list(names)}"
        raise DataError(message)
    return names


def _class_files(folder: Path) -> list[os.DirEntry[str]]:
    entries = _visible_entries(folder)
    wrong = [entry.path for entry in entries if not _is_image(entry)]
    if wrong or not entries:
        rule = "the folder of a class holds at least one image and nothing but files"
        message = f"{[*wrong, folder][0]}: {rule} {' '.join(EXTENSIONS)}"
        raise DataError(message)
    return entries


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir()


def _read_images(folder: Path, paths: list[str], size: int, state: str) -> Images:
    """Decode the files to uint8 (n, size, size, 3), or read what an earlier call decoded."""
    place = _short_digest(f"{folder}\n{size}")
    cache = cache_folder() / f"{place}-{_short_digest(state)}.images"
    shape = (len(paths), size, size, 3)
    if cache.exists():
        cached = _read_cache(cache, shape)
        if cached is not None:
            return cached
        logger.warning("%s: the cache is damaged, the images are decoded again", cache)

    images = _decode_files(folder, paths, size)
    cache.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(cache, images.tobytes() + _checksum(images))

    # caches of the same folder as it was before
    for old in cache.parent.glob(f"{place}-*"):
        if old != cache:
            old.unlink(missing_ok=True)
    return images


def _read_cache(path: Path, shape: tuple[int, ...]) -> Images | None:
    """Read pixels followed by their checksum; None if they are not as they were written."""
    content = np.fromfile(path, dtype=np.uint8)
    images = content[:-_CRC_BYTES]
    if images.size != np.prod(shape) or content[-_CRC_BYTES:].tobytes() != _checksum(images):
        return None
    return images.reshape(shape)


def _checksum(images: Images) -> bytes:
    return zlib.crc32(images.data).to_bytes(_CRC_BYTES)


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decode_files(folder: Path, paths: list[str], size: int) -> Images:
    images = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def decode(index: int) -> str | None:
        try:
            images[index] = _decode_file(paths[index], size)
        except DataError as error:
            return str(error)

    Image.init()  # here, because threads would do it at the same time
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        results = pool.imap(decode, range(len(paths)), chunksize=64)
        progress = tqdm(results, f"decoding {folder}", len(paths), unit=" images", mininterval=1)
        failures = [failure for failure in progress if failure]

    if failures:
        raise DataError("\n".join([*failures[:5], f"{len(failures)} files to repair in all"]))
    return images


def _decode_file(path: str, size: int | None) -> Images:
    """Decode one file to uint8 (size, size, 3), or in its own size; transparency is white."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode[0] in "IF":
                message = f"at most 8 bits per channel are allowed, its mode is {image.mode}"
                raise DataError(message)
            if size is not None:
                # large JPEGs are decoded at a part of their size
                image.draft("RGB", (size, size))
            rgb = _on_white(image)
            return np.asarray(rgb.resize((size, size), BILINEAR) if size else rgb)
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        message = f"{path}: the image cannot be read: {error}"
        raise DataError(message) from error


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode[-1] == "A" or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
