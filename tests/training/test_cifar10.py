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
from hpo_lib.training import cifar10
from hpo_lib.training.config import DataConfig
from hpo_lib.training.loaders import load_data, load_test_data


@pytest.mark.slow
def test_cifar10_without_a_home_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with pytest.raises(FileNotFoundError, match="neither XDG_CACHE_HOME nor HOME is set"):
        load_data(DataConfig("cifar10"))


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


LEFT_BEHIND = f"{cifar10.CIFAR10_ARCHIVE}.lock"


def leave(folder: Path, content: bytes) -> None:
    (folder / f"{cifar10.CIFAR10_ARCHIVE}.part").write_bytes(content)


def test_cut_download_goes_on_where_it_ended(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("cut")
    check_cifar10(tmp_path)
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


def test_of_two_downloads_one_waits_for_the_other(tmp_path: Path, mirror: Mirror) -> None:
    leave(tmp_path, mirror.archive[:500])
    mirror.use("good")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check_cifar10, [tmp_path, tmp_path]))
    assert mirror.requests == [("good", "bytes=500-")]


@pytest.mark.parametrize("length", [500, 10_000_000])
@pytest.mark.parametrize("how", ["good", "norange", "wrong"])
def test_wrong_bytes_are_thrown_away(cache: Path, mirror: Mirror, how: str, length: int) -> None:
    cache.mkdir()
    leave(cache, b"x" * length)
    mirror.use(how, "good")
    check_cifar10()
    assert mirror.requests[0] == (how, f"bytes={length}-")
    expected = {cifar10.CIFAR10_FOLDER, cifar10.CIFAR10_ARCHIVE}
    assert {path.name for path in cache.iterdir()} - {LEFT_BEHIND} == expected


def test_failed_download_names_each_mirror_and_the_way_out(tmp_path: Path, mirror: Mirror) -> None:
    mirror.use("missing", "wrong")
    pattern = r"(?s)/missing: HTTP Error 404.*/wrong: .*the md5 of this file.*HPO_DATA"
    with pytest.raises(DataError, match=pattern):
        check_cifar10(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {LEFT_BEHIND}
