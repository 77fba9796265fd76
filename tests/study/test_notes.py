"""Notes and tags stand beside what the driver writes, and go into every table."""

from __future__ import annotations

import pandas as pd
import pytest

from hpo_lib.exceptions import StudyError
from hpo_lib.space.yaml_io import format_configuration, read_yaml
from hpo_lib.study.catalog import list_studies, open_study, trials_frame
from hpo_lib.study.run import run_study
from hpo_lib.study.steering.notes import annotate
from hpo_lib.study.steering.versions import change_space
from hpo_lib.trials import Note, read_notes
from tests.toys import TOY_SPACE, bowl

CALL = {"name": "demo", "storage": "s.db", "workers": 0, "progress": False}


def test_notes_are_columns_of_tables_and_csv_and_outlive_driver_and_space():
    def write(study, trial):
        if trial.number == 1:  # while it runs
            annotate("demo", 0, note="odd, \n really", tags=["check", "lr"], storage="s.db")
            annotate("demo", note="first try", storage="s.db")

    study = run_study(bowl, TOY_SPACE, "random", 3, callback=write, **CALL)
    assert "note" in trials_frame(study)
    annotate("demo", 0, tags=["done"], storage="s.db")
    run_study(bowl, TOY_SPACE, "random", 4, **CALL)
    study = change_space("demo", TOY_SPACE.fix(depth=8), storage="s.db")

    assert read_notes(study) == {0: Note("odd, \n really", ("done",)), None: Note("first try")}
    trials_frame(study).to_csv("trials.csv", index=False)
    frame = pd.read_csv("trials.csv", keep_default_na=False)
    assert frame["note"].tolist() == ["odd, \n really", "", "", ""]
    assert frame["tags"].tolist() == ["done", "", "", ""]
    assert list_studies("s.db")["note"].tolist() == ["first try"]


def test_without_notes_tables_are_as_before_and_wrong_ones_are_refused():
    study = run_study(bowl, TOY_SPACE, "random", 2, **CALL)
    assert not {"note", "tags"} & {*trials_frame(study), *list_studies("s.db")}
    with pytest.raises(StudyError, match="has trials 0 to 1, got 2"):
        annotate("demo", 2, note="x", storage="s.db")
    with pytest.raises(StudyError, match="no study 'other'"):
        annotate("other", note="x", storage="s.db")
    with pytest.raises(TypeError, match="list of words"):
        annotate("demo", tags="word", storage="s.db")
    assert read_notes(open_study("demo", "s.db")) == {}


def test_a_configuration_is_text_that_reads_back_the_same():
    configuration = {"lr": 1e-05, "name": "on", "flag": True, "n": 3, "text": "a: b\n#"}
    assert read_yaml(format_configuration(configuration))[0] == configuration
    python = format_configuration(configuration, "python")
    assert eval(python, {"__builtins__": {}}) == configuration
    with pytest.raises(ValueError, match="language"):
        format_configuration(configuration, "toml")
