"""Findings of any study, as text, HTML and JSON, and on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo_lib.__main__ import main
from hpo_lib.assessment.finding import Finding, Findings, Status
from hpo_lib.assessment.run import findings
from hpo_lib.exceptions import StudyError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from tests.assessment.studies import SPACE, add, final_frame, lr_bowl, new_study, searched
from tests.toys import TOY_SPACE, bowl

WORDS = SearchSpace.from_yaml(
    "a: {type: choice, options: [x, y, z]}\nb: {type: choice, options: [u, v, w, t]}"
)
FIXED = SearchSpace.from_yaml("a: {type: int, fixed: 3}")
WIDE = SearchSpace.from_dict(
    {f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(30)}
)
SOME = Findings(
    [
        Finding("One?", Status.PASS, "Yes, by 0.5 points. More on it.", {"n": 3}),
        Finding("Two?", Status.CANT_SAY, "Nobody knows."),
        Finding("Three?", Status.WARN, "No <b>.", {"value": float("nan")}),
    ]
)


def failed_study() -> optuna.Study:
    study = new_study()
    for _ in range(4):
        add(study, SPACE.default_configuration(), None, status="failed", reason="")
    return study


STUDIES: dict[str, Any] = {
    "no trial": new_study,
    "1 trial": lambda: searched(lr_bowl, 1),
    "2 trials": lambda: searched(lr_bowl, 2),
    "3 trials": lambda: searched(lr_bowl, 3),
    "4 trials": lambda: searched(lr_bowl, 4),
    "all failed": failed_study,
    "constant": lambda: searched(lambda c: 0.5, 12),
    "infinite": lambda: searched(lambda c: float("inf"), 6),
    "words": lambda: searched(lambda c: 0.1 + "xyz".index(str(c["a"])), 12, space=WORDS),
    "conditions": lambda: searched(bowl, 12, space=TOY_SPACE),
    "fixed": lambda: searched(lambda c: 0.5, 5, space=FIXED),
    "30 dimensions": lambda: searched(lambda c: float(c["x1"]), 12, space=WIDE),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_findings(name):
    study = STUDIES[name]()
    found = findings(study, final=final_frame([0.1, 0.2], [0.1, 0.1]))
    assert found[0].topic == "Was it worth it?"
    assert found[-1].topic == "What went wrong?"
    content = json.loads(found.to_json())
    assert [one["status"] for one in content] == [str(one.status) for one in found]
    assert "nan" not in str(found)


def test_a_study_without_a_default_and_of_another_space_is_judged():
    study = searched(lr_bowl, 12)
    other = SearchSpace.from_yaml("momentum: {type: float, low: 0.1, high: 0.9}")
    assert len(findings(study, space=other)) > 4


def test_studies_of_other_programs_need_a_space():
    study = optuna.create_study()
    with pytest.raises(StudyError, match="no search space"):
        findings(study)
    assert findings(study, space=SPACE)


def test_studies_that_maximise_are_refused():
    with pytest.raises(ValueError, match=r"must minimise one value, got .*maximize"):
        findings(optuna.create_study(direction="maximize"), space=SPACE)


def test_text_is_aligned_and_wrapped():
    lines = str(SOME).splitlines()
    assert lines[0] == "PASS       One?"
    assert lines[1] == "           Yes, by 0.5 points. More on it."
    long = Findings([Finding("Long?", Status.PASS, "word " * 60)])
    assert max(map(len, str(long).splitlines())) <= 96


def test_the_headline_has_the_first_finding_and_then_the_warnings():
    assert SOME.headline(2).splitlines() == [
        "PASS       One? Yes, by 0.5 points.",
        "WARN       Three? No <b>.",
    ]
    assert len(SOME.headline().splitlines()) == 3


def test_html_is_escaped_and_has_no_fixed_width():
    html = SOME._repr_html_()
    assert "No &lt;b&gt;." in html
    assert "CAN&#x27;T SAY" in html
    assert "width" not in html


def test_saved_findings_can_be_loaded(tmp_path):
    path = tmp_path / "run" / "findings.json"
    SOME.save(path)
    loaded = Findings.load(path)
    assert loaded[:2] == SOME[:2]
    assert loaded[2].figures == {"value": None}
    assert loaded[2].status is Status.WARN


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"topic": "a"}]'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "findings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold findings as JSON"):
        Findings.load(path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "studies.db"
    run_study(lr_bowl, SPACE, "random", 4, name="first", storage=path, workers=0)
    return path


@pytest.fixture
def storage(recorded, tmp_path):
    return Path(shutil.copy(recorded, tmp_path))


def test_the_command_prints_findings_and_writes_nothing(storage, tmp_path, capsys):
    final = tmp_path / "final.csv"
    final_frame([0.2, 0.21, 0.2], [0.1, 0.1, 0.11]).to_csv(final)
    before = storage.read_bytes()
    assert main(["findings", "--storage", str(storage), "--final", str(final)]) == 0
    assert capsys.readouterr().out.startswith("PASS       Was it worth it?")
    assert main(["findings", "--storage", str(storage), "first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "CAN'T SAY"
    assert storage.read_bytes() == before
    # SQLite's own files, which readers need, lie beside the storage.
    written = {path for path in tmp_path.iterdir() if not path.name.startswith(storage.name)}
    assert written == {final}


def test_the_command_refuses_with_a_sentence(storage, tmp_path, capsys):
    final = tmp_path / "final.csv"
    final.write_text("a,b\n1,2\n")
    assert main(["findings", "--storage", str(tmp_path / "none.db")]) == 2
    assert "no studies in" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
    assert main(["findings", "--storage", str(storage), "second"]) == 2
    assert "first" in capsys.readouterr().err
    assert main(["findings", "--storage", str(storage), "--final", str(final)]) == 2
    assert "final must have the columns" in capsys.readouterr().err
    assert main(["findings", "--storage", str(storage), "--final", "absent.csv"]) == 1
    assert "absent.csv" in capsys.readouterr().err
    run_study(lr_bowl, SPACE, "random", 1, name="second", storage=storage, workers=0)
    assert main(["findings", "--storage", str(storage)]) == 2
    assert "name one of the studies" in capsys.readouterr().err
