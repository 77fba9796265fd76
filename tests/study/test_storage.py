from __future__ import annotations

import ctypes
import gc
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier

import optuna
import psutil
import pytest

from hpo_lib.__main__ import main
from hpo_lib.comparison.run import compare, replay
from hpo_lib.comparison.training_records import study_record
from hpo_lib.exceptions import StudyError
from hpo_lib.loop import as_objective
from hpo_lib.plots.study import plot_any_time
from hpo_lib.study.background import BackgroundStudy
from hpo_lib.study.catalog import delete_study, list_studies, open_study, trials_frame
from hpo_lib.study.gp_minimize import gp_minimize
from hpo_lib.study.lease import LEASE_SECONDS, Lease, lease_holder
from hpo_lib.study.retrain import best_configuration, retrain_top_k, retrained_frame
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import read_lease, write_lease
from hpo_lib.widgets.study_monitor import StudyMonitor
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, Learner, bowl, record_of


def test_many_threads_may_create_one_file():
    together = Barrier(6)

    def create(_):
        together.wait()
        return open_storage("new.db").get_all_studies()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(create, range(6))) == [[]] * 6


def test_opening_waits_for_a_process_that_has_locked_the_new_file():
    with sqlite3.connect("new.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            opened = thread.submit(open_storage, "new.db")
            other.execute("COMMIT")
            assert opened.result().get_all_studies() == []


@pytest.mark.slow
def test_one_storage_serves_studies_that_run_side_by_side():
    frame = compare(
        bowl, TOY_SPACE, ["random", "sobol"], [0, 1], 8, storage=open_storage("s.db"), workers=3
    )
    alone = replay(as_objective(bowl), TOY_SPACE, ["random", "sobol"], [0, 1], 8)
    assert frame.value.tolist() == alone.value.tolist()
    for name in optuna.get_all_study_names("sqlite:///s.db"):
        trials = optuna.load_study(study_name=name, storage="sqlite:///s.db").trials
        assert all(set(trial.params) <= set(record_of(trial).configuration) for trial in trials)
        assert all("optimizer" in trial.params for trial in trials)


def test_a_driver_that_nobody_has_buried_holds_no_lease():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    study = optuna.create_study()
    lease = {"pid": process.pid, "host": socket.gethostname(), "token": "x", "renewed": 0.0}
    began = psutil.Process(process.pid).create_time() - psutil.boot_time()
    write_lease(study, {**lease, "process_started": began})
    assert lease_holder(study) == f"process {process.pid} on {socket.gethostname()}"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease_holder(study) is None
    process.communicate()


def test_a_lease_is_renewed_well_before_it_would_be_stale(monkeypatch):
    study = optuna.create_study()
    lease = Lease(study)
    lease.acquire()
    first = read_lease(study)["renewed"]
    now, wall = time.monotonic(), time.time()
    for passed, renewed in ((1, first), (LEASE_SECONDS / 2, wall + LEASE_SECONDS / 2)):
        monkeypatch.setattr(time, "monotonic", lambda passed=passed: now + passed)
        monkeypatch.setattr(time, "time", lambda passed=passed: wall + passed)
        lease.check()
        assert read_lease(study)["renewed"] == renewed


def test_a_path_from_the_home_folder_is_found_there(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage="~/mine.db", workers=0)
    assert (home / "mine.db").is_file()
    assert not (tmp_path / "~").exists()
    assert list(list_studies(home / "mine.db").name) == ["mine"]

    # There is no user of that name.
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage="~old.db", workers=0)
    assert (tmp_path / "~old.db").is_file()


@pytest.mark.parametrize("folder", ["what now?", "100%", "{a}", "a#b", "a%20b", "a&b=c", "ä ö"])
def test_any_name_of_a_file_works(folder, tmp_path):
    file = tmp_path / folder / "studies.db"
    options = {"name": "mine", "storage": file, "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 2, **options)
    assert len(run_study(bowl, TOY_SPACE, "random", 3, **options).trials) == 3
    assert list(list_studies(file).trials) == [3]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert {path.name for path in file.parent.iterdir()} <= {
        *("studies.db", "studies.db-wal", "studies.db-shm", "studies.db.lock"),
        "studies.db.checkpoints",
    }


def names(folder: Path = Path()) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite:///q.db", "sqlite:///q.db?timeout=30", "sqlite+pysqlite:///q.db"),
        *("SQLITE:///q.db", "sqlite:////{here}/q.db", "SQLite+pysqlite:///q.db?timeout=1"),
    ],
)
def test_every_url_of_a_file_is_that_file(url, tmp_path):
    url = url.replace("/{here}", str(tmp_path))
    options = {"name": "mine", "storage": url, "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 1, **options)
    assert len(run_study(bowl, TOY_SPACE, "random", 2, **options).trials) == 2
    assert list(list_studies(url).trials) == list(list_studies("q.db").trials) == [2]
    assert all(name.startswith("q.db") for name in names())
    assert "?" not in "".join(names())


def test_a_url_is_read_as_sqlalchemy_reads_it():
    url = "sqlite:///a%20b.db"
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage=url, workers=0)
    assert optuna.get_all_study_names(url) == ["mine"]
    assert len({name.split(".db")[0] for name in names()}) == 1


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", ":memory:", "sqlite:///", "SQLITE+pysqlite://"]
)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_database_in_memory_leaves_no_file(url, workers):
    options = {"name": "mine", "storage": url, "workers": workers}
    study = run_study(Learner("/dev/null"), TOY_SPACE, "random", 2, rungs=(1,), **options)
    assert len(study.trials) == 2
    background = BackgroundStudy(bowl, TOY_SPACE, "random", 2, **options)
    background.start()
    assert len(background.wait().trials) == 2
    StudyMonitor(background)
    assert names() == set()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///file:q.db?uri=true&mode=ro",
        "sqlite:///what now?/s.db",
        "sqlite://q.db",
        "sqlite://h:x/y",
    ],
)
def test_a_url_with_more_than_a_path_is_refused(url):
    for use in (
        list_studies,
        open_storage,
        lambda url: BackgroundStudy(bowl, TOY_SPACE, name="x", storage=url),
    ):
        with pytest.raises(
            StudyError, match=r"an SQLite URL must be sqlite:///<path>.*got 'sqlite"
        ):
            use(url)
    assert names() == set()


def test_an_open_storage_of_a_url_keeps_its_file_from_anywhere(tmp_path, monkeypatch):
    storage = optuna.storages.RDBStorage("sqlite:///q.db?timeout=30")
    options = {"name": "mine", "storage": storage, "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 1, **options)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert len(run_study(bowl, TOY_SPACE, "random", 2, **options).trials) == 2
    assert names() == set()
    assert all(name.startswith("q.db") or name == "elsewhere" for name in names(tmp_path))


READERS = [
    lambda file: open_study("mine", file),
    list_studies,
    lambda file: delete_study("mine", file),
    lambda file: retrained_frame("mine", file),
    lambda file: best_configuration("mine", file),
    lambda file: retrain_top_k(bowl, "mine", storage=file),
    lambda file: StudyMonitor("mine", file).refresh(),
    lambda file: main(["studies", "--storage", str(file)]),
    lambda file: main(["studies", "--storage", str(file), "--delete", "mine"]),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "file", ["none.db", "no/folder/none.db", "sqlite:///no/none.db", "~/x.db"]
)
def test_reading_creates_nothing(read, file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with suppress(StudyError):
        read(file)
    assert names() == set()
    with pytest.raises(StudyError, match=r"no studies in .*: there is no such file"):
        open_study("mine", file)


def test_reading_leaves_nothing_beside_a_file_and_its_bytes():
    run_study(bowl, TOY_SPACE, "random", 3, name="mine", storage="s.db", workers=0)
    gc.collect()
    Path("s.db.lock").unlink()
    shutil.rmtree("s.db.checkpoints")
    content = Path("s.db").read_bytes()
    monitor = StudyMonitor("mine", "s.db")
    studies = [open_study("mine", "s.db"), monitor.study]
    for study in studies:
        assert len(trials_frame(study)) == 3
        plot_any_time(study)
    assert list_studies("s.db").trials.tolist() == [3]
    assert len(study_record(studies[0]).errors) == 3
    assert names() == {"s.db"}
    assert Path("s.db").read_bytes() == content


def test_a_study_that_was_opened_to_be_read_can_be_written():
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage="s.db", workers=0)
    open_study("mine", "s.db").enqueue_trial(TOY_SPACE.default_configuration())
    assert len(open_study("mine", "s.db").trials) == 2


READ_ALL = """
from hpo_lib.__main__ import main
from hpo_lib.plots.study import plot_any_time
from hpo_lib.study.catalog import list_studies, open_study, trials_frame
from hpo_lib.study.storage import open_storage
from hpo_lib.widgets.study_monitor import StudyMonitor
study = open_study("mine", "s.db")
plot_any_time(study)
monitor = StudyMonitor("mine", "s.db")
code = main(["studies", "--storage", "s.db"])
n = [len(trials_frame(study)), *list_studies("s.db").trials, len(monitor.study.trials)]
print("read", *n, code)
try:
    open_storage("s.db")
except Exception as error:
    print(type(error).__name__, error)
"""


def obey_permissions() -> None:
    """Let the next program of this process obey permissions, which do not bind root."""
    drop_from_bounding_set, override_permissions = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions)


def read_only_copy(tmp_path: Path, ends: list[str]) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    for end in ends:
        shutil.copy(f"s.db{end}", share)
        (share / f"s.db{end}").chmod(0o444)
    share.chmod(0o555)
    return share


def run_without_permissions(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=obey_permissions,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="permissions bind root elsewhere, too")
@pytest.mark.parametrize("left", ["", "-wal", "-wal -shm"])
def test_a_study_that_may_only_be_read_is_read(left, tmp_path):
    study = run_study(bowl, TOY_SPACE, "random", 3, name="mine", storage="s.db", workers=0)
    if left:
        # As a driver that was killed leaves it: a part of the record is in the log alone.
        study.add_trial(study.trials[0])
    else:
        del study
        gc.collect()
    share = read_only_copy(tmp_path, ["", *left.split()])
    before = {path.name: path.read_bytes() for path in share.iterdir()}
    ended = run_without_permissions(READ_ALL, share)
    n = 4 if left else 3
    assert f"read {n} {n} {n} 0" in ended.stdout, ended.stdout + ended.stderr
    assert "StudyError the studies in" in ended.stdout
    assert "cannot be written: [Errno 13]" in ended.stdout
    assert {path.name: path.read_bytes() for path in share.iterdir()} == before


RUN_AGAIN = """
from hpo_lib import gp_minimize
from hpo_lib.comparison.run import compare
from hpo_lib.exceptions import StudyError
from hpo_lib.study.retrain import retrain_top_k
from hpo_lib.study.run import run_study
from tests.faults.test_killed_driver import ROOT
from tests.toys import TOY_SPACE, bowl
options = {"name": "mine", "storage": "s.db", "workers": 0}
study = run_study(bowl, TOY_SPACE, "random", 3, **options)
print("complete", len(study.trials))
print("compared", len(compare(bowl, TOY_SPACE, ["random"], [0], 2, storage="s.db", workers=0)))
frame = retrain_top_k(bowl, "mine", k=1, n_seeds=2, storage="s.db", workers=0)
print("retrained", *frame["n"])
result = gp_minimize(bowl, TOY_SPACE, 2, n_initial_points=1, name="face", storage="s.db")
print("minimized", len(result.func_vals))
for n_trials, strategy in ((4, "random"), (3, "sobol")):
    try:
        run_study(bowl, TOY_SPACE, strategy, n_trials, **options)
    except StudyError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="permissions bind root elsewhere, too")
def test_a_complete_study_that_may_only_be_read_is_returned(tmp_path):
    options = {"storage": "s.db", "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 3, name="mine", **options)
    compare(bowl, TOY_SPACE, ["random"], [0], 2, **options)
    retrain_top_k(bowl, "mine", k=1, n_seeds=2, **options)
    gp_minimize(bowl, TOY_SPACE, 2, n_initial_points=1, name="face", storage="s.db")
    gc.collect()
    share = read_only_copy(tmp_path, [""])
    ended = run_without_permissions(RUN_AGAIN, share)
    for line in ("complete 3", "compared 2", "retrained 2", "minimized 2"):
        assert line in ended.stdout, ended.stdout + ended.stderr
    assert "StudyError the studies in" in ended.stdout
    assert "StudyChangedError study 'mine' was recorded with other settings" in ended.stdout
    assert [path.name for path in share.iterdir()] == ["s.db"]


def other_optuna(revision: str | None, file: Path = Path("s.db")) -> bytes:
    """Make a file of studies that another Optuna wrote."""
    run_study(bowl, TOY_SPACE, "random", 1, name="mine", storage=file, workers=0)
    gc.collect()
    with closing(sqlite3.connect(file)) as connection, connection:
        if revision is None:
            connection.execute("DROP TABLE alembic_version")
        else:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.execute("UPDATE version_info SET library_version = '2.10.1'")
        connection.execute("PRAGMA user_version = 7")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    Path(f"{file}.lock").unlink()
    shutil.rmtree(f"{file}.checkpoints")
    return file.read_bytes()


@pytest.mark.parametrize(
    ("revision", "what_to_do"),
    [
        ("v2.6.0.a", "keep a copy, then bring them up to date: optuna storage upgrade --storage"),
        (None, "keep a copy, then bring them up to date: optuna storage upgrade --storage"),
        ("v9.0.0.a", "install that version or a newer one"),
    ],
)
def test_studies_of_another_optuna_are_named_and_left_as_they_are(revision, what_to_do):
    content = other_optuna(revision)
    uses = [
        *READERS[:-2],
        open_storage,
        lambda file: run_study(bowl, TOY_SPACE, name="x", storage=file),
    ]
    for use in uses:
        with pytest.raises(
            StudyError, match=rf"s\.db holds studies of Optuna 2\.10\.1.*{what_to_do}"
        ):
            use("s.db")
    assert main(["studies", "--storage", "s.db"]) == 2
    assert names() == {"s.db"}
    assert Path("s.db").read_bytes() == content


def test_the_command_that_is_named_brings_studies_up_to_date():
    other_optuna(None)
    with pytest.raises(StudyError, match="up to date: optuna") as refusal:
        open_study("mine", "s.db")
    command = shlex.split(str(refusal.value).partition("up to date: ")[2])
    program = Path(sys.executable).with_name(command[0])
    subprocess.run([program, *command[1:]], check=True)
    assert len(open_study("mine", "s.db").trials) == 1


def test_a_file_that_holds_no_studies_stays_as_it_is():
    with closing(sqlite3.connect("other.db")) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    Path("text.db").write_text("no database" * 100)
    Path("empty.db").touch()
    Path("folder.db").mkdir()
    before = names()
    contents = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for file in ("other.db", "text.db", "empty.db", "folder.db"):
        uses = READERS[:-2] if file == "empty.db" else [*READERS[:-2], open_storage]
        for use in uses:
            with pytest.raises(StudyError, match=rf"holds studies, got .*{file}"):
                use(file)
    assert names() == before
    assert {path: path.read_bytes() for path in contents} == contents


@pytest.mark.parametrize("link", ["s.db", "gone/s.db", "loop.db"])
def test_a_link_that_leads_nowhere_is_named(link, capsys):
    for name, target in (("s.db", "nothing.db"), ("gone", "no folder"), ("loop.db", "loop.db")):
        Path(name).symlink_to(target)
    before = names()
    pattern = f"{link} leads nowhere: {link.split('/')[0]} is a symbolic link to"
    for use in (*READERS[:-2], open_storage):
        with pytest.raises(StudyError, match=pattern):
            use(link)
    assert main(["studies", "--storage", link]) == 2
    assert pattern in capsys.readouterr().err
    assert names() == before
