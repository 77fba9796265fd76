from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import optuna
import pytest
import zmq
from bs4 import BeautifulSoup

from hpo_lib.__main__ import main
from hpo_lib.files import shown
from hpo_lib.runner import run as runs
from hpo_lib.runner.notebooks import Notebook
from hpo_lib.runner.record import NotebookRun, begin_record
from hpo_lib.study.catalog import open_study
from hpo_lib.study.lease import hold_lease
from hpo_lib.study.run import run_study
from hpo_lib.study.storage import open_storage
from tests.runner.notebook_files import PARAMETERS, write_notebook
from tests.toys import TOY_SPACE, bowl


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def only_run(home: Path) -> Path:
    (folder,) = (home.parent / "results" / "runs").iterdir()
    return folder


# The command line, without a kernel


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run -p n_trial 3", "did you mean n_trials"),
        ("run -p n_trials many", "must be int"),
        ("run --data folder:/nowhere", "does not exist: /nowhere"),
        ("run --profile fast", "no profile 'fast'"),
        ("run 7", "no notebook '7'"),
        ("run --into .", "holds other files"),
        ("studies", "no studies in results/studies.db"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(home, capsys, arguments, message):
    write_notebook(home / "01_one.ipynb")
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (home.parent / "results").exists()


def test_studies_are_listed_and_deleted(home, capsys):
    from hpo_lib import SearchSpace, run_study

    space = SearchSpace.from_dict({"x": {"type": "float", "low": 0.0, "high": 1.0}})
    for name in ("first", "second"):
        run_study(lambda c: c["x"], space, "random", 2, name=name, workers=0)
    assert main(["studies", "--delete", "first"]) == 0
    shown = capsys.readouterr().out
    assert "deleted study first" in shown
    assert re.search(r"second +random +2", shown)
    assert main(["studies", "--delete", "third"]) == 2
    assert "no study 'third'" in capsys.readouterr().err


def test_clean_shows_what_is_used_and_deletes_only_when_told(home, capsys):
    results = home.parent / "results"
    for name in ("runs/a/report.html", "reference/table.csv", "studies.db"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(b"x" * 300_000)
    assert main(["clean"]) == 0
    shown = capsys.readouterr().out
    assert "0.6 MB  in all" in shown
    assert "reference" not in shown
    assert (results / "studies.db").exists()
    assert main(["clean", "--yes"]) == 0
    assert [path.name for path in results.iterdir()] == ["reference"]
    assert (results / "reference" / "table.csv").exists()


@pytest.fixture
def executed(home, monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """The notebooks that a run would execute, with their values; each ends well at once."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def execute(notebook: Notebook, values: dict[str, Any], *_: Any) -> NotebookRun:
        calls.append((notebook.name, values))
        return NotebookRun("ok", seconds=1.0)

    monkeypatch.setattr(runs, "execute", execute)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return calls


def test_a_value_that_looks_like_a_number_of_a_notebook_is_a_value(home, executed):
    for name in ("01_one", "04_four"):
        write_notebook(home / f"{name}.ipynb")
    assert main(["run", "-p", "n_trials", "04", "01"]) == 0
    assert main(["run", "-p", "n_trials", "04"]) == 0
    assert executed == [(name, {"n_trials": 4}) for name in ("01_one", "01_one", "04_four")]


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Another process that runs into a folder; it is killed in the end."""
    code = "import sys; from filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.kill()


def test_clean_does_not_delete_a_run_in_progress(home, capsys, executed):
    write_notebook(home / "01_one.ipynb")
    assert main(["run"]) == 0
    folder = only_run(home)
    with locked(folder):
        assert main(["clean", "--yes"]) == 2
    assert f"another run writes into {folder}" in capsys.readouterr().err
    assert (folder / "run.json").exists()
    assert main(["clean", "--yes"]) == 0
    assert not folder.exists()


def test_a_second_run_into_the_same_folder_is_refused(home, tmp_path, capsys, executed):
    write_notebook(home / "01_one.ipynb")
    arguments = ["run", "--into", str(tmp_path / "run")]
    assert main(arguments) == 0
    before = (tmp_path / "run" / "run.json").read_bytes()

    with locked(tmp_path / "run"):
        assert main(arguments) == 2
    assert f"another run writes into {tmp_path / 'run'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert len(executed) == 1

    assert main(arguments) == 0, "the lock of a killed run is free"


def test_a_notebook_that_fails_alone_names_those_that_it_may_need(home, monkeypatch, capsys):
    failed = NotebookRun("failed", cell=3, error="StudyError: no study 'search'")
    monkeypatch.setattr(runs, "execute", lambda *_: failed)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("04_four", "05_five", "06_six", "07_seven"):
        write_notebook(home / f"{name}.ipynb")
    assert main(["run", "06"]) == 1
    said = capsys.readouterr().err
    assert "06_six failed in cell [3]: StudyError: no study 'search'\n" in said
    assert "may read from have not run here: 04_four, 05_five\n" in said
    assert main(["run"]) == 1
    assert "have not run here" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "entry",
    [
        {"status": "failed"},
        {"status": "ok"},
        {"status": "interrupted", "error": None, "seconds": 1, "parameters": {"a": None}},
    ],
)
def test_an_earlier_record_with_less_in_it_is_gone_on_with(home, tmp_path, executed, entry):
    write_notebook(home / "02_two.ipynb")
    folder = tmp_path / "run"
    write_notebook(folder / "01_one.ipynb")
    (folder / "run.json").write_text(json.dumps({"notebooks": {"01_one": entry}}))
    assert main(["run", "--into", str(folder)]) == 0
    assert record_of(folder)["notebooks"]["01_one"]["status"] == entry["status"]
    assert "01_one" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"notebooks": []}', '{"notebooks": {"01_one": {"status": "lost"}}}'),
        *('{"notebooks": {"x": {"status": "ok", "seconds": "long"}}}', '{"notebooks": {"x": 3}}'),
    ],
)
def test_what_is_not_the_record_of_a_run_is_refused(home, tmp_path, capsys, executed, content):
    write_notebook(home / "01_one.ipynb")
    (tmp_path / "run.json").write_text(content)
    assert main(["run", "--into", str(tmp_path)]) == 2
    assert f"{tmp_path / 'run.json'} is not the record of a run" in capsys.readouterr().err
    assert executed == []
    assert not (tmp_path / ".lock").exists()


# Running

FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
FACTS = """\
import json, os, sys
from ipykernel.connect import get_connection_info
facts = {"cwd": os.getcwd(), "python": sys.executable, "lr": lr, "data": data}
facts["encrypted"] = "curve_secretkey" in get_connection_info(unpack=True)
open(f"{run_folder}/facts.json", "w").write(json.dumps(facts));"""
ODD_OUTPUTS = """\
import sys, ipywidgets
from IPython.display import HTML, Javascript, display
print("<b>not bold</b>"); print("noise", file=sys.stderr)
display(ipywidgets.IntSlider(), Javascript("alert(1)"))
HTML('<img src="https://example.org/x.png"><script src="//example.org/x.js"></script>')"""


@pytest.mark.slow
def test_a_run_writes_copies_record_and_report(home, capsys):
    write_notebook(home / "01_one.ipynb", FIGURE, "# ## Odd\nSee [two](02_two.ipynb)", ODD_OUTPUTS)
    write_notebook(home / "02_two.ipynb", FACTS, r"# $\alpha^2$ and $\unknown{x}$")
    assert main(["run", "--profile", "smoke", "-p", "lr", "1e-4", "--data", "07"]) == 0
    folder = only_run(home)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}", folder.name)
    expected = [".lock", "01_one.ipynb", "02_two.ipynb", "facts.json", "report.html", "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    shown = capsys.readouterr().out
    assert re.search(r"^\[1/2\] 01_one ok, [\d.]+ s$", shown, re.MULTILINE)
    assert "report: results/runs/" in shown

    facts = json.loads((folder / "facts.json").read_text())
    assert facts == {
        **{"cwd": str(home), "python": sys.executable, "lr": 1e-4, "data": "07"},
        **{"encrypted": zmq.has("curve")},
    }
    record = record_of(folder)
    assert record["status"] == "ok"
    assert record["versions"]["torch"]
    assert record["device"]["cores"] >= 1
    assert record["notebooks"]["02_two"]["parameters"] == {
        **{"run_folder": str(folder), "data": "07", "n_trials": 2, "lr": 1e-4, "verbose": False},
        **{"seeds": [0, 1], "rates": [0.1], "limit": None, "free": 3},
    }
    check_report((folder / "report.html").read_text())


def check_report(page: str) -> None:
    assert "Error displaying widget" not in page
    assert "IntSlider" not in re.sub(r"<details class=.code.*?</details>", "", page, flags=re.S)
    assert "&lt;b&gt;not bold" in page
    assert 'href="#02_two"' in page
    assert page.count("data:image/png") == 1
    # Nothing is fetched: no address in an attribute that loads, and no permission to.
    parsed = BeautifulSoup(page, "html.parser")
    addresses = [str(tag["src"]) for tag in parsed.find_all(src=True)]
    assert [one for one in addresses if not one.startswith("data:")] == []
    assert not parsed.find_all(srcset=True)
    assert not parsed.find_all("link")
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


@pytest.mark.slow
def test_a_failing_notebook_stops_the_run_and_says_where_to_look(home, capsys):
    write_notebook(home / "01_one.ipynb")
    cells = ["print('done before')", "x = 1\nraise ValueError('a bad\\nthing')", "print('after')"]
    write_notebook(home / "02_two.ipynb", *cells)
    write_notebook(home / "03_three.ipynb")
    assert main(["run", "-p", "data", "a b"]) == 1
    folder = only_run(home)
    error = capsys.readouterr().err
    assert "02_two failed in cell [4]: ValueError: a bad\nthing\n" in error
    assert f"what it had done: {folder.relative_to(Path.cwd())}/02_two.ipynb" in error
    assert f"-p data 'a b' --into results/runs/{folder.name} 02_two 03_three" in error
    states = {name: entry["status"] for name, entry in record_of(folder)["notebooks"].items()}
    assert states == {"01_one": "ok", "02_two": "failed", "03_three": "not run"}
    assert "done before" in (folder / "02_two.ipynb").read_text()
    page = (folder / "report.html").read_text()
    assert "a bad\nthing" in page
    assert "An Exception was encountered" not in page  # papermill's note, which ours replaces

    write_notebook(home / "02_two.ipynb")
    assert main(["run", "--into", str(folder), "02", "03"]) == 0
    record = record_of(folder)
    assert record["status"] == "ok"
    assert list(record["notebooks"]) == ["01_one", "02_two", "03_three"]


@pytest.mark.slow
def test_a_dead_kernel_is_a_failure_in_the_cell_that_was_running(home, capsys):
    write_notebook(home / "01_one.ipynb", "x = 1", "import os; os._exit(3)", "print('after')")
    assert main(["run"]) == 1
    assert "01_one failed in cell [4]: DeadKernelError: Kernel died" in capsys.readouterr().err
    copy = nbformat.read(only_run(home) / "01_one.ipynb", as_version=4)
    code = [cell for cell in copy.cells if cell.cell_type == "code"]
    states = [cell.metadata.papermill.status for cell in code[-3:]]
    assert states == ["completed", "failed", "pending"]
    assert code[-2].outputs[-1].ename == "DeadKernelError"


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_kernel_that_dies_before_its_first_cell_is_started_once_more(
    home, tmp_path, monkeypatch, capsys, deaths
):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    starts = tmp_path / "starts"
    (startup / "00-die.py").write_text(f"""
import os
with open({str(starts)!r}, "a") as file:
    print("started", file=file)
if len(open({str(starts)!r}).readlines()) <= {deaths}:
    os._exit(1)
""")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    write_notebook(home / "01_one.ipynb", "print('hello')")
    assert main(["run"]) == (0 if deaths == 1 else 1)
    assert len(starts.read_text().splitlines()) == 2
    told = capsys.readouterr().err
    assert "01_one is started again: Kernel died before replying to kernel_info" in told
    assert ("01_one failed" in told) == (deaths == 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_copy_a_record_and_no_kernel(home, number):
    """The notebook itself interrupts the runner, so that nothing depends on time."""
    cell = "import os, time\nopen(f'{run_folder}/pid', 'w').write(str(os.getpid()));\n"
    cell += f"os.kill(os.getppid(), {int(number)}); time.sleep(600)"
    write_notebook(home / "01_one.ipynb", cell)
    code = f"""
import sys, pathlib, signal, hpo_lib.files as module
# A test run started in the background of a script inherits that interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
module.PACKAGE_PARENT = pathlib.Path({str(home.parent)!r})
from hpo_lib.__main__ import main
sys.exit(main(["run"]))"""
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **path}, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert "01_one interrupted in cell [3]: stopped" in done.stderr
    assert "Traceback" not in done.stderr
    folder = only_run(home)
    assert record_of(folder)["status"] == "interrupted"
    assert (folder / "report.html").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


def test_clean_does_not_delete_a_record_that_is_being_written(home, capsys, monkeypatch):
    monkeypatch.chdir(home.parent)
    run_study(bowl, TOY_SPACE, "random", 1, name="live", workers=0)
    with hold_lease(open_study("live"), open_storage()):
        assert main(["clean", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "study 'live' in results/studies.db is being written by process" in said
    assert main(["clean", "--yes"]) == 0


def test_the_list_of_studies_is_whole(home, capsys, monkeypatch):
    monkeypatch.chdir(home.parent)
    storage = open_storage()
    for i in range(70):
        optuna.create_study(storage=storage, study_name=f"a study with a long name, number {i}")
    assert main(["studies"]) == 0
    shown = capsys.readouterr().out
    assert "number 35" in shown
    assert "completed" in shown


@pytest.mark.slow
def test_a_space_is_found_from_where_the_user_is(home, tmp_path, monkeypatch, capsys):
    named = f'{PARAMETERS}\nspace: str = ""  # a file'
    write_notebook(home / "01_one.ipynb", FACTS, parameters=named)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("x: {type: int, low: 1, high: 2}")
    main(["run", "--profile", "smoke", "-p", "space", "mine.yaml", "01"])
    record = record_of(only_run(home))
    assert record["notebooks"]["01_one"]["parameters"]["space"] == str(tmp_path / "mine.yaml")


TYPED = """\
run_folder: str = "work"
data: str = "digits"
data_root: str = ""
record: str = ""
space: str = "saved\""""
PLACES = """\
import json, os
places = [data, data_root, record, space, os.environ["HPO_DATA"]]
open(f"{run_folder}/facts.json", "w").write(json.dumps(places));"""


@pytest.mark.slow
def test_all_paths_are_meant_from_where_the_user_is(home, tmp_path, monkeypatch):
    write_notebook(home / "01_one.ipynb", PLACES, parameters=TYPED)
    here = tmp_path / "here"
    (here / "images").mkdir(parents=True)
    for name in ("record.csv", "mine.yaml"):
        (here / name).touch()
    monkeypatch.setattr("hpo_lib.files.PACKAGE_PARENT", tmp_path)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HPO_DATA", "images")
    options = {"--data": "folder:images", "-p data_root": "images", "-p record": "record.csv"}
    words = [word for pair in options.items() for word in (*pair[0].split(), pair[1])]
    assert main(["run", *words, "-p", "space", "mine.yaml"]) == 0
    assert json.loads((only_run(home) / "facts.json").read_text()) == [
        *(f"folder:{here}/images", f"{here}/images", f"{here}/record.csv"),
        *(f"{here}/mine.yaml", f"{here}/images"),
    ]
    assert {path.name for path in here.rglob("*")} == {"images", "record.csv", "mine.yaml"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", "folder:gone"),
        *(("data_root", "gone"), ("record", "gone.csv"), ("space", "gone.yaml")),
        *(("data", "folder:link"), ("data_root", "link"), ("record", "link")),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(name, value, home, capsys):
    write_notebook(home / "01_one.ipynb", PLACES, parameters=TYPED)
    Path("link").symlink_to("nothing")
    before = set(home.parent.rglob("*"))
    assert main(["run", "-p", name, value]) == 2
    said = capsys.readouterr().err
    if value.endswith("link"):
        assert f"link leads nowhere: {shown(home.parent / 'link')} is a symbolic link" in said
    else:
        assert f"{name} names a" in said
        assert f"does not exist: {home.parent}/gone" in said
    assert set(home.parent.rglob("*")) == before


def test_a_folder_of_a_run_behind_a_link_that_leads_nowhere_is_refused(home, capsys):
    write_notebook(home / "01_one.ipynb", PLACES, parameters=TYPED)
    Path("link").symlink_to("nothing")
    for into in ("link", "link/run"):
        assert main(["run", "--into", into]) == 2
        assert f"{into} leads nowhere: link is a symbolic link" in capsys.readouterr().err
    assert not Path("nothing").exists()


def test_a_notebook_of_ones_own_may_have_seeds_and_no_title(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("# Not a title")])
    nbformat.write(book, tmp_path / "mine.ipynb")
    record = begin_record(tmp_path, "smoke", ["mine", "other"], tmp_path)
    for name, seed in (("mine", [0, 1]), ("other", 0)):
        record.notebooks[name] = NotebookRun("ok", seconds=1.0, parameters={"seed": seed})
    runs.finish(tmp_path, record)
    assert record_of(tmp_path)["seed"] == [0, [0, 1]]
    assert "<td>Not a title</td>" not in (tmp_path / "report.html").read_text()


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    folders = {runs._new_folder(tmp_path) for _ in range(4)}
    assert len(folders) == 4
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}(-\d)?", one.name) for one in folders)
