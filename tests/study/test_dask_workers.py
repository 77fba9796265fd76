from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from distributed import Client, Security

from hpo_lib.exceptions import StudyError
from hpo_lib.objective import FunctionObjective, Segment
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.dask_cluster import DaskWorkers, _SegmentWorkerPlugin
from hpo_lib.study.workers.factory import make_workers
from tests.clusters import Cluster, listening
from tests.toys import TOY_SPACE, Learner, bowl, record_of

CONFIGURATION = TOY_SPACE.default_configuration()
SEGMENT = Segment(seed=1, start=0, stop=1, budget=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2) as running:
        running.wait(2)
        yield running


def ask(pool: DaskWorkers, function, segment: Segment = SEGMENT):
    return pool.submit(FunctionObjective(function), CONFIGURATION, segment).result(timeout=120)


def pid(configuration) -> float:
    return float(os.getpid())


@pytest.mark.parametrize(
    ("address", "limits", "message"),
    [
        ("two", {}, "a number or an address as tcp://host:port, got 'two'"),
        ("tcp://127.0.0.1:1", {"time_limit": 0}, "time_limit must be greater than 0, got 0"),
    ],
)
def test_impossible_clusters_are_refused(address, limits, message):
    with pytest.raises(ValueError, match=message):
        make_workers(address, **limits)


def test_a_missing_scheduler_is_named():
    pool = DaskWorkers("tcp://127.0.0.1:1", patience=0.5)
    with pytest.raises(StudyError, match=r"no Dask scheduler at tcp://127.0.0.1:1 within 0.5 s"):
        run_study(bowl, TOY_SPACE, "random", 2, name="none", workers=pool)


@pytest.mark.slow
def test_a_cluster_gives_the_values_of_this_process(cluster, tmp_path):
    def study(workers):
        learner = Learner(str(tmp_path / "log"))
        options = {"name": f"with {workers}", "workers": workers, "rungs": (2,)}
        return run_study(learner, TOY_SPACE, "random", 6, **options)

    alone, spread = study(0), study(cluster.address)
    assert [t.value for t in spread.trials] == [t.value for t in alone.trials]
    assert {record_of(t).worker for t in spread.trials} <= {"w0", "w1"}


@pytest.mark.slow
def test_processes_stay_warm_until_the_workers_are_closed(cluster):
    with Client(cluster.address, set_as_default=False, security=Security()) as client:
        pool = DaskWorkers(client)
    assert pool.slots == 2
    objective = FunctionObjective(pid)
    seen: list[set[float]] = []
    for _ in range(2):
        futures = [pool.submit(objective, CONFIGURATION, SEGMENT) for _ in range(4)]
        results = [future.result(timeout=120) for future in futures]
        seen.append({result.outcome.validation_error[0] for result in results})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2
    processes = [psutil.Process(int(number)) for number in seen[0]]
    pool.close()
    assert not psutil.wait_procs(processes, timeout=30)[1]
    assert ask(pool, bowl).outcome.validation_error == (bowl(CONFIGURATION),)
    pool.close()


@pytest.mark.slow
def test_a_failure_a_crash_and_a_hang_leave_the_worker_in_place(cluster):
    def misbehave(configuration):
        if configuration["depth"] == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if configuration["depth"] == 6:
            time.sleep(600)
        message = "broken"
        raise RuntimeError(message)

    pool = DaskWorkers(cluster.address, time_limit=5)
    objective = FunctionObjective(misbehave)
    futures = [
        pool.submit(objective, {**CONFIGURATION, "depth": depth}, SEGMENT) for depth in (2, 4, 6)
    ]
    outcomes = [future.result(timeout=120).outcome for future in futures]
    assert [outcome.status for outcome in outcomes] == ["lost", "failed", "timed_out"]
    assert "exit code -11" in outcomes[0].reason
    assert pool.slots == 2
    pool.close()


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_named(cluster):
    pool = DaskWorkers(cluster.address)
    first = Segment(1, 0, 1, 2, folder="/nowhere/study")
    failure = ask(pool, bowl, first).outcome
    assert failure.status == "failed"
    assert failure.reason.startswith("/nowhere/study does not exist where Dask worker w")
    assert "file system that driver and workers share" in failure.reason
    whole = Segment(1, 0, 1, 1, folder="/nowhere/study")
    assert ask(pool, bowl, whole).outcome.validation_error == (bowl(CONFIGURATION),)
    pool.close()


@pytest.mark.slow
def test_nothing_listens_beyond_the_loopback_device(cluster):
    def look(study, trial):
        seen.append(listening(os.getpid()) - before)
        seen.append(listening(cluster.scheduler.pid, *(w.pid for w in cluster.workers.values())))

    seen: list[set[str]] = []
    before = listening(os.getpid())
    run_study(bowl, TOY_SPACE, "random", 2, name="seen", workers=cluster.address, callback=look)
    assert seen == [set(), {"127.0.0.1"}] * 2


class Encrypted(Cluster):
    protocol = "tls"


@pytest.fixture
def certificate() -> dict[str, str]:
    """A key and a certificate that it has signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made with the command openssl")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hpo -out cert -keyout key"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return {"cert": str(Path("cert").resolve()), "key": str(Path("key").resolve())}


@pytest.mark.slow
def test_certificates_are_passed_through(certificate):
    cert, key = certificate["cert"], certificate["key"]
    prefix = "DASK_DISTRIBUTED__COMM__TLS"
    places = {f"{prefix}__{role}__": role for role in ("SCHEDULER", "WORKER")}
    files = {
        place + name: path for place in places for name, path in (("CERT", cert), ("KEY", key))
    }
    ours = Security(
        tls_ca_file=cert, tls_client_cert=cert, tls_client_key=key, require_encryption=True
    )
    with Encrypted(workers=1, **files, **{f"{prefix}__CA_FILE": cert}) as cluster:
        assert cluster.address.startswith("tls://127.0.0.1:")
        pool = DaskWorkers(cluster.address, security=ours)
        study = run_study(bowl, TOY_SPACE, "random", 2, name="encrypted", workers=pool)
        assert {record_of(trial).worker for trial in study.trials} == {"w0"}
        pool.close()  # an open one would look for its scheduler during the tests that follow
        plain = cluster.address.replace("tls://", "tcp://")
        with pytest.raises(StudyError, match="no Dask scheduler at tcp://"):
            run_study(
                bowl, TOY_SPACE, "random", 2, name="x", workers=DaskWorkers(plain, patience=2)
            )
    missing = Security(tls_ca_file=cert, tls_client_cert="missing", tls_client_key=key)
    for address, security, message in (
        (cluster.address, None, "needs certificates and key for an encrypted cluster, got tls://"),
        (plain, ours, "needs an address as tls://host:port for an encrypted cluster, got tcp://"),
        (cluster.address, missing, "certificates and keys that can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            DaskWorkers(address, security=security)


def test_a_worker_that_may_not_start_processes_ends_the_study_with_the_advice(monkeypatch):
    plugin = _SegmentWorkerPlugin("plugin", b"", {})
    process = SimpleNamespace(daemon=True)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)
    plugin.setup(SimpleNamespace(name="w"))
    advice = "Dask worker w may not start a process: start it with --no-nanny"
    with pytest.raises(StudyError, match=advice):
        plugin.evaluate({}, Segment(0, 0, 1, 1))
