"""The notebooks themselves, run once in number order with the smallest values."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hpo_lib.assessment.finding import Findings
from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder
from hpo_lib.runner.run import run_notebooks
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import open_study
from hpo_lib.training.config import DataConfig
from hpo_lib.training.final import final_trainings
from hpo_lib.training.objective import TrainingObjective

WRITTEN = [
    *("data.json", "split.json", "space.yaml", "objective.json", "studies.db"),
    *("final/default/trainings.jsonl", "final/default/seed_1000.pt"),
    *("comparison.csv", "comparison.json", "replay.csv", "replay.json", "replay_summary.csv"),
    *("replay_pairs.csv", "ranks.csv", "final/final.csv", "findings.json", "scaling.json"),
    "own_model.json",
    *(
        f"figures/{name}.png"
        for name in (
            *("class_counts", "images", "baseline", "prior", "belief_3", "belief_5", "belief_8"),
            *("gp_minimize", "any_time", "pruning"),
            *("comparison_trials", "final_values", "distribution"),
            *("replay_surrogate", "replay_trials", "replay_seconds", "replay_odds", "ranks"),
            *("test_errors", "parallel_coordinates", "slices", "importance", "ablation"),
            *("rank_pairs", "pareto", "pair_matrix", "slice", "confusion_matrix"),
            *("scale_timeline", "scale_simulated"),
            *("own_network_curves", "own_network_any_time", "own_network_engine"),
            *("own_model_any_time", "own_model_importance"),
        )
    ),
]
NAMES = [notebook.name for notebook in find_notebooks(notebooks_folder())]

# one process runs them, once
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return run_notebooks(profile="smoke", into=tmp_path_factory.mktemp("run")).folder


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_to_its_end(folder, name):
    entry = json.loads((folder / "run.json").read_text())["notebooks"][name]
    assert entry["status"] == "ok", entry
    copy = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    assert copy.metadata.papermill.exception is None
    outputs = [out for cell in copy.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs), "a figure"


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_notebooks_write_is_there(folder, name):
    assert (folder / name).stat().st_size > 0


def test_later_notebooks_have_the_images_and_the_objective_of_the_run(folder):
    data = DataConfig.load(folder / "data.json")
    assert (data.n_train, data.n_validation, data.n_test) == (200, 100, 100)
    objective = TrainingObjective.load(folder / "objective.json")
    assert objective.data == data
    assert objective.budget == 2


def test_the_baseline_is_the_default_of_the_space_with_as_many_seeds_as_asked(folder):
    trained = final_trainings(folder / "final")
    default = trained[trained["configuration"] == "default"]
    assert default["seed"].tolist() == [1000, 1001]
    (line, _) = (folder / "final" / "default" / "trainings.jsonl").read_text().splitlines()
    space = SearchSpace.load(folder / "space.yaml")
    assert space.default_configuration().items() <= json.loads(line)["config"].items()


def test_comparison_and_replay_have_a_study_for_each_strategy_and_seed(folder):
    for name, n_strategies, n_trials in (("comparison", 3, 6), ("replay", 6, 6)):
        frame = pd.read_csv(folder / f"{name}.csv")
        studies = frame.groupby(["strategy", "seed"]).size()
        assert len(studies) == 2 * n_strategies
        assert studies.max() <= n_trials


def test_the_findings_rest_on_default_and_tuned_with_the_same_seeds(folder):
    final = pd.read_csv(folder / "final" / "final.csv")
    seeds = final.groupby("configuration")["seed"].apply(list)
    assert seeds["default"] == seeds["tuned"] == [1000, 1001]
    topics = [finding.topic for finding in Findings.load(folder / "findings.json")]
    assert topics[0] == "Was it worth it?"
    assert "Which strategies differ?" in topics


def test_a_killed_worker_changes_no_value(folder):
    studies = [open_study(f"scale-{name}", folder / "studies.db") for name in ("2", "killed")]
    undisturbed, killed = ([trial.value for trial in study.trials] for study in studies)
    assert undisturbed == killed


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(tmp_path):
    for number in ("05", "06"):
        parameters = {"strategies": "[random]"}
        into = tmp_path / number
        outcome = run_notebooks([number], profile="smoke", parameters=parameters, into=into)
        (entry,) = outcome.record.notebooks.values()
        assert "at least two strategies, got ['random']" in entry.error
        assert not (into / "studies.db").exists()


def test_the_studies_of_the_search_have_their_budgets(folder):
    names = {"learning rate": 8, "search": 6, "search pruned": 4, "search finalists": 6}
    for name, n_trials in names.items():
        assert len(open_study(name, folder / "studies.db").trials) == n_trials, name


def test_a_notebook_without_those_before_it_says_which_one_to_run(tmp_path):
    outcome = run_notebooks(["02"], profile="smoke", into=tmp_path)
    assert "run notebook 01 into this folder first" in outcome.record.notebooks[NAMES[1]].error


@pytest.mark.skipif(not NAMES, reason="no notebooks")
def test_the_report_shows_every_notebook(folder):
    page = (folder / "report.html").read_text()
    assert [name for name in NAMES if f'<section class="notebook" id="{name}">' not in page] == []
    assert "Error displaying widget" not in page
    assert page.count("data:image/png") >= len(NAMES)
    assert list((folder / "figures").glob("*.png"))
    assert not list(folder.glob("*.running.ipynb"))
