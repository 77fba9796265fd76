from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from hpo_lib.exceptions import DataError
from hpo_lib.training import cifar
from hpo_lib.training.config import DataConfig
from hpo_lib.training.loaders import load_data, load_test_data

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"


@pytest.mark.slow
def test_cifar10_without_a_home_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with pytest.raises(FileNotFoundError, match="neither XDG_CACHE_HOME nor HOME is set"):
        load_data(DataConfig("cifar10"))


def make_archive(source: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a tiny archive of a data set's form, with its sums in place of the real ones."""
    from torchvision import datasets  # takes more than a second to import

    dataset: Any = vars(datasets)[source.upper()]
    n_classes = int(source.removeprefix("cifar"))
    key = "labels" if n_classes == 10 else "fine_labels"

    def md5(content: bytes) -> str:
        return hashlib.md5(content).hexdigest()

    def batch(n_images: int) -> bytes:
        labels = [number % n_classes for number in range(n_images)]
        data = np.random.default_rng(0).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        return pickle.dumps({"data": data, key: labels})

    names = [name for name, _ in dataset.train_list]
    ((test, _),) = dataset.test_list
    files = {name: batch(15 * n_classes // len(names)) for name in names}
    files[test] = batch(2 * n_classes)
    meta = dataset.meta["filename"]
    classes = [f"class {number}" for number in range(n_classes)]
    files[meta] = pickle.dumps({dataset.meta["key"]: classes})
    monkeypatch.setattr(dataset, "train_list", [[name, md5(files[name])] for name in names])
    monkeypatch.setattr(dataset, "test_list", [[test, md5(files[test])]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(files[meta])})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{dataset.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(dataset, "tgz_md5", md5(stream.getvalue()))
    monkeypatch.setitem(cifar.MIRRORS, dataset.__name__, ())
    return stream.getvalue()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    return make_archive("cifar10", monkeypatch)


def check_cifar(root: Path | None = None, source: str = "cifar10") -> None:
    n_classes = int(source.removeprefix("cifar"))
    # one validation image of each class in ten of fifteen
    config = DataConfig(source, root=str(root) if root else None, validation_fraction=1 / 15)
    data, test = load_data(config), load_test_data(config)
    sizes = (len(data.train), len(data.validation), len(test))
    assert sizes == (14 * n_classes, n_classes, 2 * n_classes)
    assert data.classes == tuple(f"class {number}" for number in range(n_classes))
    assert data.train.labels.unique().tolist() == list(range(n_classes))
    assert test.images.shape == (2 * n_classes, 3, 32, 32)


def test_both_data_sets_lie_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, name in (("cifar10", ARCHIVE), ("cifar100", "cifar-100-python.tar.gz")):
        (tmp_path / name).write_bytes(make_archive(source, monkeypatch))
        check_cifar(tmp_path, source)
        check_cifar(tmp_path / name, source)

    (tmp_path / "alone").mkdir()
    other = (tmp_path / ARCHIVE).rename(tmp_path / "alone" / ARCHIVE)
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz: the md5 of this file must be"):
        check_cifar(other, "cifar100")


@pytest.mark.parametrize("form", ["archive", "variable", "unpacked", "renamed"])
def test_local_copy(
    tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / ARCHIVE
    path.write_bytes(archive)
    if form == "archive":
        return check_cifar(path)
    if form == "variable":
        monkeypatch.setenv("HPO_DATA", str(tmp_path))
        return check_cifar()
    check_cifar(path)  # leaves the unpacked folder beside the archive
    path.unlink()
    folder = tmp_path / FOLDER
    return check_cifar(tmp_path if form == "unpacked" else folder.rename(tmp_path / "cifar"))


def test_a_variable_that_names_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_DATA", "gone")
    with pytest.raises(DataError, match=r"HPO_DATA must be a folder or an archive that exists"):
        load_data(DataConfig("cifar10"))
    assert not list(Path().iterdir())


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
    (tmp_path / ARCHIVE).write_bytes(archive)
    check_cifar(tmp_path)


def test_wrong_md5_is_refused_before_unpickling(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / ARCHIVE
    path.write_bytes(archive)
    check_cifar(tmp_path)
    batch = tmp_path / FOLDER / "data_batch_2"
    batch.write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(DataError, match=r"data_batch_2: the md5 of this file must be \w{32}"):
        check_cifar(tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_2: .* it is missing"):
        check_cifar(tmp_path)
    path.rename(tmp_path / "new").write_bytes(archive + b"?")
    with pytest.raises(DataError, match=r"new: the md5 of this file"):
        cifar._check_md5(tmp_path / "new", hashlib.md5(archive).hexdigest())


class Mirror(ThreadingHTTPServer):
    """Serves the archive; the path says how: good, norange, missing, wrong, cut or dead."""

    def __init__(self, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.archive, self.patch = archive, monkeypatch
        self.requests: list[tuple[str, str]] = []

    def use(self, *paths: str) -> None:
        urls = tuple(f"http://127.0.0.1:{self.server_port}/{path}" for path in paths)
        self.patch.setitem(cifar.MIRRORS, "CIFAR10", urls)


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


LEFT_BEHIND = f"{ARCHIVE}.lock"


def leave(folder: Path, content: bytes) -> None:
    (folder / f"{ARCHIVE}.part").write_bytes(content)


def test_cut_download_goes_on_where_it_ended(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("cut")
    check_cifar(tmp_path)
    third = len(mirror.archive) // 3
    assert [int(wanted[6:-1]) for _, wanted in mirror.requests[:3]] == [0, third, 2 * third]


@pytest.mark.slow
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
    cifar._fetch("http://mirror/", tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == total


def test_interrupted_download_is_continued_by_the_next_call_and_mirror(
    tmp_path: Path, mirror: Mirror
) -> None:
    mirror.use("dead")
    with pytest.raises(DataError, match="the connection was cut after 1000 of"):
        check_cifar(tmp_path)
    mirror.use("missing", "good")
    check_cifar(tmp_path)
    assert mirror.requests[-1] == ("good", "bytes=1000-")


def test_of_two_downloads_one_waits_for_the_other(tmp_path: Path, mirror: Mirror) -> None:
    leave(tmp_path, mirror.archive[:500])
    mirror.use("good")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check_cifar, [tmp_path, tmp_path]))
    assert mirror.requests == [("good", "bytes=500-")]


@pytest.mark.parametrize("length", [500, 10_000_000])
@pytest.mark.parametrize("how", ["good", "norange", "wrong"])
def test_wrong_bytes_are_thrown_away(cache: Path, mirror: Mirror, how: str, length: int) -> None:
    cache.mkdir()
    leave(cache, b"x" * length)
    mirror.use(how, "good")
    check_cifar()
    assert mirror.requests[0] == (how, f"bytes={length}-")
    expected = {FOLDER, ARCHIVE}
    assert {path.name for path in cache.iterdir()} - {LEFT_BEHIND} == expected


def test_failed_download_names_each_mirror_and_the_way_out(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("missing", "wrong")
    pattern = r"(?s)/missing: HTTP Error 404.*/wrong: .*the md5 of this file.*HPO_DATA"
    with pytest.raises(DataError, match=pattern):
        check_cifar(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {LEFT_BEHIND}
