"""Nobody's files are lost to a study, and no study takes the checkpoints of another."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest

from hpo_lib.__main__ import main
from hpo_lib.comparison.run import compare
from hpo_lib.exceptions import StudyError
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.study.background import BackgroundStudy, background_study
from hpo_lib.study.catalog import delete_study, open_study
from hpo_lib.study.gp_minimize import gp_minimize
from hpo_lib.study.retrain import best_configuration, retrain_top_k, retrained_frame
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from hpo_lib.trials import StudyRecord
from hpo_lib.widgets.study_monitor import StudyMonitor
from tests.clusters import Cluster
from tests.toys import TOY_SPACE, Learner, bowl, ending, record_of


class CutError(KeyboardInterrupt):
    """Ends a driver as a kill would: nothing is tidied up."""


@dataclass(frozen=True)
class Cut(Learner):
    """Ends its driver, which is its own process, when a segment at `cut_at` begins."""

    cut_at: int = 3

    def __call__(self, configuration, segment: Segment) -> SegmentResult:
        if segment.start == self.cut_at:
            raise CutError
        return super().__call__(configuration, segment)


def study(objective, storage: str | Path = "demo.db", n_trials: int = 2, **options):
    options |= {"name": "demo", "storage": storage, "workers": 0, "rungs": (1, 3)}
    return run_study(objective, TOY_SPACE, "random", n_trials, **options)


def cut(storage: str | Path = "demo.db", log: str = "log", at: int = 3) -> None:
    with suppress(CutError):
        study(Cut(log, cut_at=at), storage)


def starts(log: str) -> list[int]:
    return [int(line.split()[2]) for line in Path(log).read_text().splitlines()]


def trial_folder(number: int = 0, root: str = "demo.db.checkpoints") -> Path:
    (folder,) = Path(root).glob(f"demo-*/{number:05d}")
    return folder


def precious(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.pt").write_text("years")
    return folder / "thesis.pt"


def test_a_study_leaves_a_users_own_folders_alone():
    own = [precious(Path("checkpoints/demo") / name) for name in ("mine", "00000", "00001")]
    outside = precious(Path("elsewhere"))
    Path("checkpoints/demo/00002").symlink_to(outside.parent.absolute())
    run_study(bowl, TOY_SPACE, "random", 3, name="demo", storage="demo.db", workers=0)
    delete_study("demo", "demo.db")
    assert all(file.read_text() == "years" for file in [*own, outside])
    assert Path("checkpoints/demo/00002").is_symlink()


def test_what_others_put_beside_the_trials_stays():
    cut()
    mine = precious(trial_folder().parent / "notes")
    study(Learner("log"))
    assert mine.exists()
    delete_study("demo", "demo.db")
    assert mine.exists()


@pytest.mark.parametrize("end", ["run", "delete"])
@pytest.mark.parametrize("level", ["trial", "study"])
def test_nothing_is_removed_through_a_link(end, level):
    cut()
    folder = trial_folder() if level == "trial" else trial_folder().parent
    outside = Path("outside").absolute()
    shutil.move(folder, outside)
    kept = precious(outside / "00000" if level == "study" else outside)
    folder.symlink_to(outside)
    if end == "run":
        with pytest.raises(StudyError, match=r"must be no symbolic link.*remove the link"):
            study(Learner("log"))
    else:
        delete_study("demo", "demo.db")
    assert kept.exists()
    assert list(outside.rglob("3.json"))


def test_a_link_in_a_trials_folder_goes_and_what_it_leads_to_stays():
    cut()
    kept = precious(Path("outside"))
    (trial_folder() / "data").symlink_to(kept.parent.absolute())
    study(Learner("log"))
    assert kept.exists()
    assert not list(Path("demo.db.checkpoints").iterdir())


@pytest.mark.parametrize("identity", ["../../outside", "x" * 32, 7, "../" * 10 + "ab"])
def test_an_identity_that_somebody_made_up_names_no_folder(identity):
    kept = precious(Path("outside/00000"))
    cut()
    opened = open_study("demo", "demo.db")
    StudyRecord.of(opened).write(opened, identity=identity)
    study(Learner("log"))
    delete_study("demo", "demo.db")
    assert kept.exists()


def test_an_empty_name_is_refused_by_all_that_take_one():
    study(Learner("log"))
    space, kept = TOY_SPACE, precious(Path("demo.db.checkpoints/demo-0/00000"))
    for use in (
        lambda: run_study(bowl, space, name="", storage="demo.db"),
        lambda: open_study("", "demo.db"),
        lambda: delete_study("", "demo.db"),
        lambda: retrain_top_k(bowl, "", storage="demo.db"),
        lambda: retrained_frame("", "demo.db"),
        lambda: best_configuration("", "demo.db"),
        lambda: compare(bowl, space, ["random"], [0], 1, name="", storage="demo.db"),
        lambda: BackgroundStudy(bowl, space, name="", storage="demo.db"),
        lambda: background_study("", "demo.db"),
        lambda: StudyMonitor("", "demo.db"),
        lambda: gp_minimize(sum, [(0.0, 1.0)], n_calls=1, name="", storage="demo.db"),
    ):
        with pytest.raises(ValueError, match="name must not be empty, got ''"):
            use()
    assert main(["studies", "--storage", "demo.db", "--delete", ""]) == 2
    assert len(open_study("demo", "demo.db").trials) == 2
    assert kept.exists()


def test_two_files_in_one_folder_share_no_checkpoints():
    for name in ("a", "b"):
        calm = study(Learner("calm"), storage="memory")
        cut(f"{name}.db", f"{name}.log")
    for name in ("a", "b"):
        assert ending(study(Learner(f"{name}.log"), f"{name}.db")) == ending(calm)
        assert starts(f"{name}.log") == [0, 1, 3, 0, 1, 3]
    identities = {StudyRecord.of(open_study("demo", f)).identity for f in ("a.db", "b.db")}
    assert len(identities) == 2


def test_a_copied_file_goes_on_without_the_checkpoints_of_the_first():
    cut("a.db", "a.log")
    shutil.copy("a.db", "b.db")
    study(Learner("b.log"), "b.db")
    assert starts("b.log") == [0, 1, 3, 0, 1, 3]
    study(Learner("a.log"), "a.db")
    assert starts("a.log") == [0, 1, 3, 0, 1, 3]


def test_a_record_that_was_moved_with_its_folder_finds_its_checkpoints(tmp_path):
    Path("here").mkdir()
    cut("here/demo.db")
    shutil.move("here", "there")
    study(Learner("log"), "there/demo.db")
    assert starts("log") == [0, 1, 3, 0, 1, 3]
    assert not list(Path("there/demo.db.checkpoints").iterdir())


def test_a_checkpoint_is_found_from_another_working_directory(tmp_path, monkeypatch):
    cut(log=f"{tmp_path}/log")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    study(Learner(f"{tmp_path}/log"), "../demo.db")
    assert starts(f"{tmp_path}/log") == [0, 1, 3, 0, 1, 3]


@pytest.mark.parametrize("kept", [True, False])
def test_a_trial_recorded_before_studies_had_an_identity_goes_on(kept):
    cut()
    opened = open_study("demo", "demo.db")
    old = Path("checkpoints/demo/00000")
    old.mkdir(parents=True)
    for epoch in (1, 3):
        shutil.copy(trial_folder() / f"{epoch}.json", old)
    shutil.rmtree("demo.db.checkpoints")
    files = {str(epoch): f"{old}/{epoch}.json" for epoch in (1, 3)}
    record = replace(record_of(opened.trials[0]), checkpoints=files)
    record.write(open_storage("demo.db"), opened.trials[0]._trial_id)
    StudyRecord.of(opened).write(opened, identity=None)
    if not kept:
        shutil.rmtree(old)
    study(Learner("log"))
    assert starts("log") == [0, 1, *([3] if kept else [0, 1, 3]), 0, 1, 3]
    assert len(StudyRecord.of(open_study("demo", "demo.db")).identity) == 32


def test_a_segment_names_its_study():
    seen: set[str | None] = set()

    class Noting(Learner):
        def __call__(self, configuration, segment):
            seen.add(segment.study)
            return super().__call__(configuration, segment)

    recorded = StudyRecord.of(study(Noting("log"))).identity
    assert seen == {recorded}


def test_a_trial_whose_checkpoints_are_all_refused_begins_anew():
    class Refusing(Learner):
        """Refuses every checkpoint that was written before the file `changed`."""

        def __call__(self, configuration, segment):
            if Path("changed").exists() and segment.start and not Path(f"{segment.seed}").exists():
                Path(str(segment.checkpoint)).write_text("of other data")
            if not segment.start:
                Path(f"{segment.seed}").touch()
            return super().__call__(configuration, segment)

    rungs = (1, 2, 3, 4, 5)
    options = {"name": "demo", "storage": "demo.db", "workers": 0, "rungs": rungs}
    with suppress(CutError):
        run_study(Cut("log", epochs=6, cut_at=5), TOY_SPACE, "random", 1, **options)
    Path("changed").touch()
    again = run_study(Refusing("log", epochs=6), TOY_SPACE, "random", 1, **options)
    assert record_of(again.trials[0]).status == "completed"
    assert starts("log") == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr("hpo_lib.files.PACKAGE_PARENT", tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_clean_deletes_what_hpo_lib_wrote_and_nothing_else(results, capsys):
    own = [precious(results), precious(results / "mine"), precious(results / "old.checkpoints")]
    outside = precious(results.parent / "outside")
    (results / "linked").symlink_to(outside.parent)
    for file in (results / "studies.db", results / "record", results / "mine" / "s.sqlite"):
        cut(file)
    run_study(bowl, TOY_SPACE, "random", 1, name="b", storage=results / "record", workers=0)
    (results / "runs" / "a").mkdir(parents=True)
    (results / "into").mkdir()
    (results / "into" / "run.json").write_text(json.dumps({"notebooks": {}}))
    assert main(["clean", "--yes"]) == 0
    assert "left alone: results/mine/thesis.pt" in capsys.readouterr().out
    left = {path for path in results.rglob("*") if path.is_symlink() or path.is_file()}
    assert left == {*own, results / "linked"}
    assert outside.exists()


def test_clean_leaves_studies_of_another_optuna_and_says_so(results, capsys):
    files = [results / "studies.db", results / "mine" / "old.db"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        run_study(bowl, TOY_SPACE, "random", 1, name="x", storage=file, workers=0)
        gc.collect()
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
            connection.execute("UPDATE version_info SET library_version = '2.10.1'")
        Path(f"{file}.lock").unlink()
        shutil.rmtree(f"{file}.checkpoints")
    before = {path: path.read_bytes() for path in files}
    for words in (["clean"], ["clean", "--yes"]):
        assert main(words) == 0
        said = capsys.readouterr().out
        for file in files:
            pattern = f"{file} holds studies of Optuna 2.10.1, which Optuna {optuna.__version__} "
            assert pattern in said
            assert f"left alone: {file.relative_to(results.parent)}" in said
        assert {path: path.read_bytes() for path in results.rglob("*.*")} == before


def test_looking_at_the_disk_creates_nothing(results):
    run_study(bowl, TOY_SPACE, "random", 1, name="x", storage=results / "s.db", workers=0)
    gc.collect()
    before = set(results.rglob("*"))
    assert main(["clean"]) == 0
    assert set(results.rglob("*")) == before


@pytest.mark.parametrize("name", ["record", "study.sqlite", "deep/study.sqlite3"])
def test_clean_refuses_while_a_study_is_written_whatever_its_files_name(results, name, capsys):
    file = results / name
    file.parent.mkdir(exist_ok=True)
    answers = []

    def clean(study, trial):
        answers.append(main(["clean", "--yes"]))

    run_study(bowl, TOY_SPACE, "random", 2, name="x", storage=file, workers=0, callback=clean)
    assert answers == [2, 2]
    assert f"study 'x' in results/{name} is being written by process {os.getpid()}" in (
        capsys.readouterr().err
    )
    assert main(["clean", "--yes"]) == 0
    assert not file.exists()


def test_clean_leaves_a_journal_and_its_checkpoints_alone(results):
    file = results / "x.log"
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    storage = optuna.storages.JournalStorage(backend)
    run_study(bowl, TOY_SPACE, "random", 2, name="x", storage=storage, workers=0)
    kept = precious(results / "x.log.checkpoints")
    assert main(["clean", "--yes"]) == 0
    assert file.exists()
    assert kept.exists()


@pytest.mark.slow
def test_a_training_refuses_the_checkpoint_of_another_study_and_of_other_data(tmp_path):
    from hpo_lib.exceptions import CheckpointError
    from hpo_lib.training.config import DataConfig, TrainingConfig
    from hpo_lib.training.objective import TrainingObjective

    config = TrainingConfig(depth=8, n_filters=2, epochs=2)
    data = DataConfig("digits", n_train=64, n_validation=32)
    objective = TrainingObjective(config, data)
    first = objective({}, Segment(0, 0, 1, 2, folder=str(tmp_path), study="a" * 32))
    second = Segment(0, 1, 2, 2, first.checkpoint, str(tmp_path), "a" * 32)
    with pytest.raises(CheckpointError, match=r"belongs to another study: study is 'aaa.* 'bbb"):
        objective({}, replace(second, study="b" * 32))
    with pytest.raises(CheckpointError, match="was trained on other images or labels: data is"):
        TrainingObjective(config, replace(data, seed=1))({}, second)
    assert len(objective({}, second).validation_error) == 1
    # of before they were named: nothing is known against them
    import torch

    assert first.checkpoint is not None
    content = torch.load(first.checkpoint, weights_only=True)
    torch.save({k: v for k, v in content.items() if k not in ("study", "data")}, first.checkpoint)
    assert len(objective({}, second).validation_error) == 1


@dataclass(frozen=True)
class Wandering(Learner):
    """Goes to a folder and removes it, where no other segment may begin."""

    def __call__(self, configuration, segment: Segment) -> SegmentResult:
        assert Path.cwd().exists()
        gone = tempfile.mkdtemp()
        os.chdir(gone)
        Path(gone).rmdir()
        return super().__call__(configuration, segment)


@pytest.mark.parametrize(
    "workers",
    [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("pruning", [None, "asha"])
def test_an_objective_may_go_to_another_folder(workers, pruning, tmp_path):
    options = {"storage": "d/demo.db", "workers": workers, "pruning": pruning, "n_trials": 4}
    options["checkpoint_quota"] = 0
    study(Learner("calm"), **options | {"storage": "memory"})
    wandering = study(Wandering(f"{tmp_path}/log"), **options)
    assert {record_of(trial).status for trial in wandering.trials} <= {"completed", "pruned"}
    assert Path.cwd() == tmp_path
    again = study(Wandering(f"{tmp_path}/log"), **options | {"n_trials": 5})
    assert len(again.trials) == 5
    assert not list((tmp_path / "d" / "demo.db.checkpoints").rglob("*.json"))
    frame = retrain_top_k(
        Wandering(f"{tmp_path}/log"), "demo", 1, 2, storage="d/demo.db", workers=workers
    )
    assert frame["n"].tolist() == [2, 2]  # the best one, and the default
    assert {path.name for path in Path().iterdir()} == {"calm", "log", "d"}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_functions_of_gp_minimize_may_go_to_another_folder(workers, tmp_path):
    result = gp_minimize(
        lambda point: os.chdir("/") or point[0],
        [(0.0, 1.0)],
        n_calls=4,
        n_initial_points=2,
        name="x",
        storage="demo.db",
        workers=workers,
    )
    assert len(result.func_vals) == 4
    assert Path.cwd() == tmp_path
    assert optuna.get_all_study_names("sqlite:///demo.db") == ["x"]


@pytest.mark.slow
def test_objectives_on_dask_workers_may_go_to_another_folder(tmp_path):
    with Cluster(workers=1) as cluster:
        cluster.wait(1)
        options = {"workers": cluster.address, "n_trials": 3}
        wandering = study(Wandering(f"{tmp_path}/log"), **options)
    assert [record_of(trial).status for trial in wandering.trials] == ["completed"] * 3


def test_a_program_may_go_to_another_folder_between_two_runs(tmp_path, monkeypatch):
    first = run_study(bowl, TOY_SPACE, "random", 2, name="demo", storage="demo.db", workers=0)
    opened, monitor = open_study("demo", "demo.db"), StudyMonitor("later", "demo.db")
    background = BackgroundStudy(
        bowl, TOY_SPACE, name="b", storage="demo.db", workers=0, n_trials=1
    )
    later = run_study(bowl, TOY_SPACE, "random", 1, name="later", storage="demo.db", workers=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert [len(one.trials) for one in (first, opened, later)] == [2, 2, 1]
    monitor.refresh()
    assert monitor.study is not None
    background.start()
    background.wait()
    again = run_study(
        bowl, TOY_SPACE, "random", 3, name="demo", storage=tmp_path / "demo.db", workers=0
    )
    assert len(again.trials) == len(first.trials) == len(opened.trials) == 3
    assert not list(Path().iterdir())
