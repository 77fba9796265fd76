"""Folders of image files, one folder per class, and a cache of their decoded pixels."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.training.image_pool import (
    ImagePool,
    Images,
    ImageSource,
    cache_folder,
    encode_name,
    printable,
)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # Pillow's others are slow to rule out
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
LARGEST_NATIVE_SIZE = 256
BILINEAR = Image.Resampling.BILINEAR  # antialiases by itself

# names of the folders that hold a part, as data sets are published
_PART_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

# entries that operating systems, archives and network drives leave, in lower case
_CLUTTER = (
    ".",
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)

# raised when the same files decode to other pixels
_DECODER_VERSION = "2"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ImageFiles:
    """Image files of one part.

    Attributes:
        folder: folder of the part.
        paths: files, by class and by name.
        names: class, name and size of each file.
        state: names and times, which change when a file does.
        size: height and width to decode to.
        is_native: whether the first file chose the size.
    """

    folder: Path
    paths: tuple[str, ...]
    names: tuple[str, ...]
    state: str
    size: int
    is_native: bool


def open_image_folder(folder: Path, image_size: int | None) -> ImageSource:
    """Find the classes and images below a folder.

    The folder holds one folder per class, or `train/` with `test/` or `val/` or both, each with
    the same classes.

    Args:
        folder: absolute path.
        image_size: height and width in pixels; None: the shorter side of the first image.

    Raises:
        DataError: the folder is laid out in another way, or holds something else.
    """
    if not folder.is_dir():
        message = f"{printable(folder)}: the folder of images does not exist"
        raise DataError(message)

    parts = _part_folders(folder)
    classes = _class_names(parts["train"])
    for part_folder in parts.values():
        different = sorted(set(classes) ^ set(_class_names(part_folder)))
        if different:
            message = (
                f"{printable(folder)}: train/ and {part_folder.name}/ need the same classes, "
                f"one lacks {different}"
            )
            raise DataError(message)

    first_file = _class_files(parts["train"] / classes[0])[0]
    size = image_size or _native_size(first_file.path)
    is_native = image_size is None
    pools = {
        part: _open_pool(part_folder, classes, size, is_native=is_native)
        for part, part_folder in parts.items()
    }
    return ImageSource(classes, pools)


def _part_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each part that has one; all images may be in one folder."""
    names = _class_names(folder)
    if "train" not in names and "test" not in names:
        return {"train": folder}

    parts = {part: folder / name for name, part in _PART_NAMES.items() if name in names}
    if "train" not in parts or len(parts) < len(names):
        message = (
            f"{printable(folder)}: train/ and test/ go together and alone, found {names}; "
            "val/ may be there, too"
        )
        raise DataError(message)

    return parts


def _native_size(path: str) -> int:
    pixels, _ = _decode_file(path, None)
    size = min(pixels.shape[:2])
    if size > LARGEST_NATIVE_SIZE:
        message = f"{printable(path)}: image_size must be given above {LARGEST_NATIVE_SIZE} pixels"
        raise DataError(message)
    return size


def _open_pool(folder: Path, classes: tuple[str, ...], size: int, *, is_native: bool) -> ImagePool:
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

    files = _ImageFiles(
        folder=folder,
        paths=tuple(paths),
        names=tuple(names),
        state="\n".join(names + times),
        size=size,
        is_native=is_native,
    )
    return ImagePool(
        labels=np.array(labels),
        read=cache(partial(_read_images, files)),  # two parts may share a pool
        names=files.names,
        content_digest=partial(_content_digest, files),
    )


@lru_cache(maxsize=8)
def _content_digest(files: _ImageFiles) -> str:
    """Digest classes, names and bytes of the files, once per state of the folder."""
    digest = hashlib.sha256()
    for path, name in zip(files.paths, files.names, strict=True):
        content = Path(path).read_bytes()
        digest.update(encode_name(name))
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries in order, without those that no person put there."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [entry for entry in entries if not entry.name.lower().startswith(_CLUTTER)]


def _class_names(folder: Path) -> tuple[str, ...]:
    entries = _visible_entries(folder)
    names = tuple(entry.name for entry in entries if stat.S_ISDIR(_mode(entry)))
    if len(names) < 2:
        shown = printable(folder)
        message = f"{shown}: needs at least two folders, one per class, found {list(names)}"
        raise DataError(message)
    return names


def _class_files(folder: Path) -> list[os.DirEntry[str]]:
    entries = _visible_entries(folder)
    problems = [problem for problem in map(_file_problem, entries) if problem]
    if problems or not entries:
        rule = "the folder of a class holds at least one image and nothing but files"
        message = f"{[*problems, printable(folder)][0]}: {rule} {' '.join(EXTENSIONS)}"
        raise DataError(message)
    return entries


def _file_problem(entry: os.DirEntry[str]) -> str | None:
    """Return the path of an entry that is no image, and the reason where it looks like one."""
    path = printable(entry.path)
    mode = _mode(entry)
    if stat.S_ISDIR(mode) or not entry.name.lower().endswith(EXTENSIONS):
        return path
    if stat.S_ISREG(mode):
        return None
    return f"{path} (a link to nothing)" if entry.is_symlink() else f"{path} (no regular file)"


def _mode(entry: os.DirEntry[str]) -> int:
    """Return the type bits of a file or folder, links followed; 0 for a link to nothing."""
    try:
        return entry.stat().st_mode  # kept for the next call
    except OSError:
        return 0


def _read_images(files: _ImageFiles) -> Images:
    """Decode the files to uint8 (n, size, size, 3), or read what an earlier call decoded."""
    place = _short_digest(f"{files.folder}\n{files.size}")
    state = _short_digest(_DECODER_VERSION + files.state)
    name = f"{place}-{state}.npz"
    with _optional_cache():
        cached = _read_cache(cache_folder() / name)
        if cached is not None:
            return cached

    images = _decode_files(files)
    with _optional_cache():
        cache = cache_folder() / name
        cache.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, images=images)
        atomic_write_bytes(cache, content.getvalue())

        # caches of the same folder as it was before
        for old in cache.parent.glob(f"{place}-*"):
            if old != cache:
                old.unlink(missing_ok=True)

    return images


@contextmanager
def _optional_cache() -> Generator[None]:
    """Go on without the cache where it cannot be read or written: it only saves time."""
    try:
        yield
    except OSError as error:
        logger.warning("decoded images are not cached: %s", error)


def _read_cache(path: Path) -> Images | None:
    """Read pixels; None if there are none, or if the checksums in the file find it damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as content:
            return content["images"]
    except Exception as error:  # a damaged file may break anything
        logger.warning("%s: the cache is damaged, the images are decoded again: %s", path, error)
        return None


def _short_digest(text: str) -> str:
    return hashlib.sha256(encode_name(text)).hexdigest()[:16]


def _decode_files(files: _ImageFiles) -> Images:
    size = files.size
    n_files = len(files.paths)
    images = np.empty((n_files, size, size, 3), dtype=np.uint8)
    file_sizes: set[tuple[int, int]] = set()

    def decode(index: int) -> str | None:
        try:
            images[index], file_size = _decode_file(files.paths[index], size)
            file_sizes.add(file_size)
        except DataError as error:
            return str(error)

    shown = printable(files.folder)
    n_threads = min(8, os.cpu_count() or 1)
    Image.init()  # here, because threads would do it at the same time
    with ThreadPool(n_threads) as pool:
        results = pool.imap(decode, range(n_files), chunksize=64)
        progress = tqdm(
            results,
            desc=f"decoding {shown}",
            total=n_files,
            unit=" images",
            mininterval=1,
        )
        failures = [failure for failure in progress if failure]

    if failures:
        raise DataError("\n".join([*failures[:5], f"{len(failures)} files to repair in all"]))
    if files.is_native and file_sizes != {(size, size)}:
        logger.warning(
            "%s: image_size is not given, so every image is resized to %d×%d pixels, the shorter "
            "side of the first one; the files are %d×%d to %d×%d pixels",
            *(shown, size, size, *min(file_sizes), *max(file_sizes)),
        )

    return images


def _decode_file(path: str, size: int | None) -> tuple[Images, tuple[int, int]]:
    """Decode one file to uint8 (size, size, 3), transparency on white.

    Returns:
        Pixels, in the file's own size where `size` is None, and the file's width and height.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode[0] in "IF":
                message = f"at most 8 bits per channel are allowed, its mode is {image.mode}"
                raise DataError(message)

            file_size = image.size
            if size is not None:
                # large JPEGs are decoded at a part of their size
                image.draft("RGB", (size, size))
            image.load()
            rgb = _on_white(_upright(image, path))
            if size is not None:
                rgb = rgb.resize((size, size), BILINEAR)
            return np.asarray(rgb), file_size
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        message = f"{printable(path)}: the image cannot be read: {error}"
        raise DataError(message) from error


def _upright(image: Image.Image, path: str) -> Image.Image:
    """Turn a picture that a camera stored sideways, with a note in its EXIF data."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises several kinds for damaged EXIF data
        shown = printable(path)
        logger.warning(
            "%s: damaged EXIF data are ignored, its rotation among them: %s", shown, error
        )
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode[-1] == "A" or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
