"""The wheel in a new virtual environment, with the dependencies of the extras and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from hpo_lib.checks import EXTRA_MODULES

ROOT = Path(__file__).parents[1]
EXTRAS = sorted(set().union(*EXTRA_MODULES.values()))

# Modules that are named in the environment seem not to be installed.
HIDE = """
import os, sys

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in os.environ.get("HIDDEN_MODULES", "").split():
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hidden)
"""


class FreshPython:
    """A virtual environment that finds the packages of this one, but not our package."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.executable = folder / "bin" / "python"
        variables = {"base": str(folder), "platbase": str(folder)}
        self.packages = Path(sysconfig.get_path("purelib", "venv", variables))

        # In the folders that a .pth file names no other .pth file is read: an editable
        # installation of our package is not found.
        found = [path for path in sys.path if path.endswith("-packages")]
        (self.packages / "found.pth").write_text("\n".join(found) + "\n")
        (self.packages / "hide.py").write_text(HIDE)
        (self.packages / "hide.pth").write_text("import hide\n")

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.executable]
        options = ["install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, *options, wheel], check=True)

    def run(self, *arguments: str, hidden: list[str] = EXTRAS) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HIDDEN_MODULES": " ".join(hidden)}
        environment.pop("PYTHONPATH", None)
        environment["JUPYTER_PATH"] = f"{sys.prefix}/share/jupyter"  # nbconvert's templates
        command = [self.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> FreshPython:
    fresh = FreshPython(tmp_path_factory.mktemp("environment"))
    fresh.install(wheel)
    return fresh


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_package_and_the_project(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (ROOT / "hpo_lib").rglob("*") if path.is_file()}
    package = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    reference = {f"results/reference/resnet8_record.{suffix}" for suffix in ("csv", "json")}
    project = {*notebooks, "notebooks/profiles.yaml", *reference, "results/reference/scaling.csv"}
    expected = package | {f"hpo_lib/project/{name}" for name in project}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


# Without the extras

SEARCH = """
import sys
from pathlib import Path
import hpo_lib
from hpo_lib import SearchSpace, gp_minimize, run_study, trials_frame
from hpo_lib.plots import plot_any_time, save_figure

space = SearchSpace.from_yaml("x: {type: float, low: -1, high: 2, default: 1.5}")

def parabola(configuration):
    return (configuration["x"] - 0.5) ** 2

if __name__ == "__main__":
    print(Path(hpo_lib.__file__).parents[1])
    print(gp_minimize(parabola, space, n_calls=12, random_state=0).fun)
    options = {"name": "demo", "storage": "demo.db", "workers": 2}
    study = run_study(parabola, space, "bayes", n_trials=8, **options)
    print(len(trials_frame(study)))
    save_figure(plot_any_time(study), "figure.png")
"""


@pytest.mark.slow
def test_search_a_study_on_two_workers_and_plots_need_no_extra(python):
    Path("search.py").write_text(SEARCH)
    done = python.run("search.py")
    assert done.returncode == 0, done.stderr
    place, value, trials = done.stdout.split()
    assert Path(place) == python.packages
    assert float(value) < 0.01
    assert trials == "8"
    assert Path("figure.png").exists()

    done = python.run("-m", "hpo_lib", "findings", "--storage", "demo.db")
    assert done.returncode == 0, done.stderr
    assert "8 trials" in done.stdout


NAMES = """
import json, hpo_lib, hpo_lib.plots
from hpo_lib.exceptions import MissingExtraError

missing = {}
for package in (hpo_lib, hpo_lib.plots):
    for name in package.__all__:
        try:
            getattr(package, name)
        except MissingExtraError as error:
            missing[name] = str(error)
print(json.dumps(missing))
"""


@pytest.mark.slow
def test_a_name_that_needs_an_extra_says_which(python):
    done = python.run("-c", NAMES)
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout)
    assert missing["TrainingObjective"] == (
        "TrainingObjective needs torch: pip install 'hpo-lib[training]'"
    )
    assert (
        missing["SpaceEditor"] == "SpaceEditor needs ipywidgets: pip install 'hpo-lib[notebooks]'"
    )
    assert (
        missing["DaskWorkers"] == "DaskWorkers needs distributed: pip install 'hpo-lib[cluster]'"
    )

    stub = (ROOT / "hpo_lib" / "__init__.pyi").read_text().splitlines()
    needing = (
        *("from .training.", "from .widgets.", "from .study.workers.dask_cluster "),
        "from .exchange.tensorboard ",
    )
    allowed = {line.split()[-1] for line in stub if line.startswith(needing)}
    assert set(missing) <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [["papermill"], ["nh3"], EXTRAS])
def test_a_run_without_the_notebooks_extra_is_refused_before_it_begins(python, hidden, tmp_path):
    assert python.run("-m", "hpo_lib", "new", ".").returncode == 0
    done = python.run("-m", "hpo_lib", "run", hidden=hidden)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hpo_lib: python -m hpo_lib run needs ")
    assert line.endswith(": pip install 'hpo-lib[notebooks]'")
    assert not (tmp_path / "results" / "runs").exists()


CLUSTER = """
from hpo_lib import make_workers
try:
    make_workers("tcp://localhost:8786")
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_an_address_as_workers_says_which_extra_it_needs(python):
    expected = "a Dask cluster as workers needs distributed: pip install 'hpo-lib[cluster]'\n"
    assert python.run("-c", CLUSTER).stdout == expected


# With them


@pytest.mark.slow
@pytest.mark.parametrize(("standing", "number"), [("demo", "06"), ("demo/notebooks", "01")])
def test_a_new_project_runs_its_notebooks(python, standing, number, tmp_path, monkeypatch):
    done = python.run("-m", "hpo_lib", "new", "demo")
    assert done.returncode == 0, done.stderr
    assert "  cd demo\n" in done.stdout

    monkeypatch.chdir(standing)
    done = python.run("-m", "hpo_lib", "run", "--profile", "smoke", number, hidden=[])
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "demo" / "results" / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "ok"
    assert {"hpo-lib", "optuna", "torch", "papermill", "distributed"} <= set(record["versions"])
    assert not {"pytest", "ruff"} & set(record["versions"])
    assert (folder / "report.html").exists()
