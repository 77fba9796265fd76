from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import optuna
import pytest
from bs4 import BeautifulSoup

from hpo_lib.__main__ import main
from hpo_lib.exceptions import RunError
from hpo_lib.runner import notebooks as module
from hpo_lib.runner import run as runs
from hpo_lib.runner.notebooks import (
    Notebook,
    choose_notebooks,
    convert,
    find_notebooks,
    read_notebook,
    read_profile,
    read_value,
    settings,
)
from hpo_lib.study.run import open_study, run_study
from hpo_lib.study.storage import holding, open_storage
from tests.toys import TOY_SPACE, bowl

PARAMETERS = """\
run_folder: str = "work"  # where files go
data: str = "digits"  # the source
n_trials: int = 20  # trials
lr: float = 0.1  # learning rate
verbose: bool = False  # more lines
seeds: list[int] = [0, 1]  # seeds
rates: list = [0.1]  # learning rates
limit: float | None = None  # seconds
free = 3  # without a type"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook with a title, a parameters cell and code cells (markdown if it begins with #)."""
    book = nbformat.v4.new_notebook()
    book.cells.append(nbformat.v4.new_markdown_cell(f"# Do {path.stem}"))
    if parameters is not None:
        tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        book.cells.append(tagged)
    for cell in cells:
        make = nbformat.v4.new_markdown_cell if cell[0] == "#" else nbformat.v4.new_code_cell
        book.cells.append(make(cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A repository of its own: a folder of notebooks and profiles, and no package beside it."""
    monkeypatch.setattr(module, "PACKAGE_PARENT", tmp_path / "elsewhere")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "profiles.yaml").write_text("smoke: {n_trials: 2}\nquick: {}\n")
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def only_run(home: Path) -> Path:
    (folder,) = (home.parent / "results" / "runs").iterdir()
    return folder


# Choosing and parameters


def a_notebook(name: str = "01_one", parameters: str = PARAMETERS) -> Notebook:
    return read_notebook(write_notebook(Path(f"{name}.ipynb"), parameters=parameters))


def test_declared_parameters_have_types_and_defaults():
    found = a_notebook().parameters
    assert list(found) == [
        "run_folder",
        "data",
        "n_trials",
        "lr",
        "verbose",
        "seeds",
        "rates",
        "limit",
        "free",
    ]
    assert found["n_trials"].annotation == "int"
    assert found["seeds"].default == [0, 1]
    assert found["limit"].default is None


def test_a_notebook_without_a_parameters_cell_declares_nothing():
    assert read_notebook(write_notebook(Path("x.ipynb"), parameters=None)).parameters == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"source": "x"}]}'])
def test_what_is_not_a_notebook_is_refused_by_name(content):
    Path("bad.ipynb").write_text(content)
    with pytest.raises(RunError, match=r"bad\.ipynb is not a notebook"):
        read_notebook(Path("bad.ipynb"))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ([], ["01_one", "02_two", "10_ten"]),
        (["2"], ["02_two"]),
        (["02"], ["02_two"]),
        (["10", "01_one", "1"], ["01_one", "10_ten"]),
        (["notebooks/10_ten.ipynb", "10"], ["10_ten"]),
        (["other/20_mine.ipynb", "2"], ["02_two", "20_mine"]),
    ],
)
def test_notebooks_are_chosen_by_number_name_or_path_and_ordered(home, wanted, names):
    for name in ("10_ten", "02_two", "01_one"):
        write_notebook(home / f"{name}.ipynb")
    write_notebook(home / "draft.ipynb")
    write_notebook(Path("other/20_mine.ipynb"))
    assert [n.name for n in choose_notebooks(wanted, find_notebooks(home))] == names


def test_an_unknown_notebook_is_refused_with_those_there_are(home):
    write_notebook(home / "05_compare.ipynb")
    known = find_notebooks(home)
    with pytest.raises(RunError, match=r"no notebook '05_compar'.*did you mean 05_compare"):
        choose_notebooks(["05_compar"], known)
    with pytest.raises(RunError, match="no notebook '6'; there are: 05_compare"):
        choose_notebooks(["6"], known)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("-2.5", -2.5),
        ("True", True),
        ("false", False),
        ("None", None),
        ("digits", "digits"),
        ("folder:/a b", "folder:/a b"),
        ("[1e-4, 2, no]", [1e-4, 2, False]),
        ("[1", "[1"),
        ("", ""),
    ],
)
def test_text_is_read_as_papermill_reads_it_and_lists_as_yaml(text, value):
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("n_trials", "7", 7),
        ("lr", "1e-4", 1e-4),
        ("lr", "1", 1.0),
        ("data", "123", "123"),
        ("data", "None", "None"),
        ("data", "[x", "[x"),
        ("verbose", "true", True),
        ("seeds", "[3, 4]", [3, 4]),
        ("rates", ["1e-4"], [1e-4]),
        ("limit", "None", None),
        ("limit", "60", 60.0),
        ("free", "abc", "abc"),
    ],
)
def test_values_become_what_the_parameter_declares(name, given, value):
    assert convert(a_notebook(), name, given) == value


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("n_trials", "many", "must be int, got 'many' .its default is 20"),
        ("n_trials", "2.5", "must be int"),
        ("n_trials", True, "must be int"),
        ("lr", "fast", "must be float"),
        ("verbose", "1", "must be bool"),
        ("seeds", "[1, x]", "must be list"),
        ("seeds", "3", "must be list"),
    ],
)
def test_a_value_of_another_type_is_refused(name, given, rule):
    with pytest.raises(RunError, match=f"parameter {name} of 01_one {rule}"):
        convert(a_notebook(), name, given)


def test_a_name_goes_to_each_notebook_that_declares_it_and_overrides_the_profile():
    both = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    profile = {"01_one": {"n_trials": 2, "lr": 0.3}}
    assert settings(both, profile, {"n_trials": "9", "lr": "0.2"}) == {
        "01_one": {"n_trials": 9, "lr": 0.2},
        "02_two": {"lr": 0.2},
    }


def test_a_name_that_no_chosen_notebook_declares_is_refused_with_those_declared():
    with pytest.raises(
        RunError, match=r"'n_trial' \(did you mean n_trials\?\); declared are: data"
    ):
        settings([a_notebook()], {}, {"n_trial": "3"})
    with pytest.raises(RunError, match="run_folder is set by the runner"):
        settings([a_notebook()], {}, {"run_folder": "x"})


def test_a_profile_shares_values_and_has_sections():
    known = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    path = Path("profiles.yaml")
    path.write_text("quick: {lr: 1e-3, n_trials: 4, 01_one: {lr: 1}}\nother:\n  typo: 1\n")
    assert read_profile(path, "quick", known) == {
        "01_one": {"lr": 1.0, "n_trials": 4},
        "02_two": {"lr": 1e-3},
    }


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("quick: {n_trial: 1}", r"'n_trial' \(did you mean n_trials"),
        ("quick: {02_two: {n_trials: 1}}", "'n_trials'"),
        ("quick: {03_three: {lr: 1}}", "'03_three'"),
        ("quick: {run_folder: x}", "'run_folder'"),
        ("quick: {n_trials: many}", "n_trials of 01_one must be int"),
        ("smoke: {}", "no profile 'quick' .*there are: smoke"),
        ("quick: 3", "must map each profile"),
        ("quick: [", "must map each profile"),
    ],
)
def test_a_mistake_in_a_profile_is_refused(content, rule):
    known = [a_notebook("01_one"), a_notebook("02_two", "lr: float = 0.5")]
    Path("profiles.yaml").write_text(content)
    with pytest.raises(RunError, match=rule):
        read_profile(Path("profiles.yaml"), "quick", known)


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
        ("studies", "no studies at results/studies.db"),
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


# Running

FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
FACTS = """\
import json, os, sys
facts = {"cwd": os.getcwd(), "python": sys.executable, "lr": lr, "data": data}
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
    expected = ["01_one.ipynb", "02_two.ipynb", "facts.json", "report.html", "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    shown = capsys.readouterr().out
    assert re.search(r"^\[1/2\] 01_one \.\.\. ok, [\d.]+ s$", shown, re.MULTILINE)
    assert "report: results/runs/" in shown

    facts = json.loads((folder / "facts.json").read_text())
    assert facts == {"cwd": str(home), "python": sys.executable, "lr": 1e-4, "data": "07"}
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
import sys, pathlib, signal, hpo_lib.runner.notebooks as module
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
    with holding(open_study("live"), None):
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


def test_a_notebook_of_ones_own_may_have_seeds_and_no_title(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("# Not a title")])
    nbformat.write(book, tmp_path / "mine.ipynb")
    record = runs._begin(tmp_path, "smoke", [a_notebook("mine"), a_notebook("other")])
    for name, seed in (("mine", [0, 1]), ("other", 0)):
        record["notebooks"][name] |= {"status": "ok", "seconds": 1.0, "parameters": {"seed": seed}}
    runs._finish(tmp_path, record)
    assert record_of(tmp_path)["seed"] == [0, [0, 1]]
    assert "<td>Not a title</td>" not in (tmp_path / "report.html").read_text()


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    folders = {runs._new_folder(tmp_path) for _ in range(4)}
    assert len(folders) == 4
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}(-\d)?", one.name) for one in folders)
