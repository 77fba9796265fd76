"""Studies on a PostgreSQL server: needs its programs, and `pip install psycopg2-binary`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, select

from hpo_lib.exceptions import StudyError, StudyHeldError
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import delete_study, list_studies, open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import write_lease
from tests.faults.test_killed_driver import ROOT
from tests.faults.test_stopped_driver import THIEF, run
from tests.toys import TOY_SPACE, Learner, bowl, ending

pytestmark = pytest.mark.slow

USER = "postgres"  # a server refuses to run as root


class Server:
    """A PostgreSQL server of its own, on loopback."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.call("initdb", "--auth=trust", f"--username={USER}", "-D", str(folder / "data"))

    def call(self, program: str, *arguments: str) -> None:
        user = USER if os.getuid() == 0 else None
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)

    def control(self, action: str) -> None:
        options = f"-p {self.port} -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        arguments = ["-D", str(self.folder / "data"), "-o", options, "-l", log, "-m", "immediate"]
        self.call("pg_ctl", action, "--wait", *arguments)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://{USER}:secret@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("psycopg2", reason="no driver for PostgreSQL")
    found = shutil.which("initdb")
    places = (
        [Path(found).resolve()]
        if found
        else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    )
    if not places:
        pytest.skip("no PostgreSQL on this machine")

    folder = Path("/tmp") / f"pg_{os.getpid()}"  # the path of a socket must be short
    folder.mkdir()
    if os.getuid() == 0:
        shutil.chown(folder, USER)
    server = Server(folder, places[-1].parent)
    server.control("start")
    try:
        yield server
    finally:
        server.control("stop")
        shutil.rmtree(folder)


@pytest.fixture
def url(server, request) -> str:
    """A new database on the server."""
    name = f"n{abs(hash(request.node.name))}"
    server.call("createdb", "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, name)
    return server.url(name)


DRIVER = """
import os, sys
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, Learner
if __name__ == "__main__":
    url, workers, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ["DRIVER_PID"] = str(os.getpid())
    learner = Learner("killed.log", kill="driver" if kill_at else "", kill_at=kill_at)
    options = {"name": "x", "storage": url, "rungs": (1, 3), "pruning": "asha"}
    run_study(learner, TOY_SPACE, "tpe", 6, workers=workers, **options)
"""


def start_driver(url: str, workers: int = 0, kill_at: int = 0) -> subprocess.Popen[str]:
    Path("driver.py").write_text(DRIVER)
    command = [sys.executable, "driver.py", url, str(workers), str(kill_at)]
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_study_on_a_server_ends_as_an_undisturbed_one(url, workers):
    for kill_at in (3, 9):
        killed = start_driver(url, workers, kill_at)
        killed.communicate(timeout=120)
        assert killed.returncode == -signal.SIGKILL
    again = start_driver(url, workers)
    errors = again.communicate(timeout=120)[1]
    assert again.returncode == 0, errors

    study = open_study("x", url)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert list_studies(url)["held_by"].tolist() == [None]
    options = {"name": "x", "storage": "s.db", "rungs": (1, 3), "pruning": "asha"}
    calm = run_study(Learner("calm.log"), TOY_SPACE, "tpe", 6, workers=0, **options)
    if workers == 1:
        assert ending(study) == ending(calm)
    delete_study("x", url)
    assert list_studies(url).empty


def test_of_several_drivers_on_a_new_database_one_writes(url):
    drivers = [start_driver(url) for _ in range(3)]
    errors = [driver.communicate(timeout=120)[1] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    # One that comes when the study is complete gets it at once.
    assert 0 in codes, errors
    for code, said in zip(codes, errors, strict=True):
        assert code == 0 or "StudyHeldError" in said, said
    assert len(open_study("x", url).trials) == 6


def content(url: str) -> dict[str, list[Any]]:
    engine = create_engine(url)
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        tables = metadata.sorted_tables
        found = {table.name: connection.execute(select(table)).all() for table in tables}
    engine.dispose()
    return {name: sorted(map(repr, rows)) for name, rows in found.items()}


def test_a_driver_that_was_stopped_before_any_write_writes_nothing_more(url):
    n_writes = 0
    take_over_at = 0
    has_written: set[int] = set()
    contents: list[dict[str, list[Any]]] = []

    def begin(connection: Connection) -> None:
        has_written.discard(id(connection))

    def count(connection: Any, cursor: Any, statement: str, *call: Any) -> None:
        nonlocal n_writes
        is_write = statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))
        if contents or not is_write or id(connection) in has_written:
            return
        has_written.add(id(connection))
        n_writes += 1
        if n_writes == take_over_at:
            contents.append({})
            write_lease(optuna.load_study(study_name="x", storage=url), THIEF)
            contents[0] = content(url)

    event.listen(Engine, "begin", begin)
    event.listen(Engine, "before_cursor_execute", count)
    try:
        for take_over_at in range(5, 60, 5):  # noqa: B007 (count reads it)
            n_writes = 0
            contents.clear()
            with suppress(StudyHeldError):
                run(url)
            if not contents:
                break
            assert contents[0] == content(url)
            optuna.delete_study(study_name="x", storage=url)
        assert take_over_at > 20
    finally:
        event.remove(Engine, "begin", begin)
        event.remove(Engine, "before_cursor_execute", count)


class Interrupted:
    """`bowl`, whose third call does something to the server."""

    version = "1"

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt
        self.n_calls = 0

    def __call__(self, configuration: Configuration) -> float:
        self.n_calls += 1
        if self.n_calls == 3:
            self.interrupt()
        return bowl(configuration)


def test_a_study_goes_on_when_its_server_was_started_again(server, url):
    objective = Interrupted(lambda: server.control("restart"))
    options = {"name": "x", "storage": url, "workers": 0}
    study = run_study(objective, TOY_SPACE, "random", 5, **options)
    assert [trial.state.is_finished() for trial in study.trials] == [True] * 5
    assert objective.n_calls == 5


def test_a_server_that_is_gone_is_named_without_its_password(server, url):
    objective = Interrupted(lambda: server.control("stop"))
    options = {"name": "x", "storage": url, "workers": 0}
    try:
        with pytest.raises(StudyError, match=r"the studies in postgresql.* cannot be") as caught:
            run_study(objective, TOY_SPACE, "random", 5, **options)
    finally:
        server.control("start")
    assert "secret" not in str(caught.value)
    study = run_study(objective, TOY_SPACE, "random", 5, **options)
    assert [trial.state.is_finished() for trial in study.trials] == [True] * 5

    with pytest.raises(StudyError, match=r"no study 'y' in postgresql") as caught:
        open_study("y", url)
    assert "secret" not in str(caught.value)
