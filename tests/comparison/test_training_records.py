from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpo_lib.comparison.training_records import read_record, study_record
from hpo_lib.exceptions import PathError
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.catalog import trials_frame
from hpo_lib.study.run import run_study
from tests.comparison.trainings import (
    EPOCHS,
    GRID,
    bowl_trainings,
    grid_trainings,
    write_record,
)
from tests.toys import TOY_SPACE


def test_a_record_reads_as_it_was_written(tmp_path):
    record = read_record(write_record(tmp_path / "toy.csv.gz", TOY_SPACE, bowl_trainings(20)))
    trainings = bowl_trainings(20)
    assert record.budget == EPOCHS
    assert [one["width"] for one in record.configurations] == [3] * 20
    assert record.configurations == tuple(configuration for configuration, _ in trainings)
    # Nor does it read the test errors, which are -9 in the file.
    np.testing.assert_allclose(record.errors, [errors for _, errors in trainings], rtol=1e-4)
    assert (record.seconds == 2.5).all()


def test_options_that_are_no_words_keep_their_type(tmp_path):
    record = read_record(write_record(tmp_path / "grid.csv", GRID, grid_trainings()))
    assert {type(one["norm"]) for one in record.configurations} == {bool}
    assert {type(one["depth"]) for one in record.configurations} == {int}


OPTIONS = SearchSpace.from_yaml(
    """
kind: {type: choice, options: [a, b], default: a}
layers: {type: choice, options: [0, 1, 10], default: 1, when: {kind: b}}
share: {type: choice, options: [0.5, 1.0], default: 0.5, when: {kind: b}}
bias: {type: choice, options: [true, false], default: true, when: {kind: b}}
units: {type: int, low: 1, high: 8, default: 2, when: {kind: b}}
"""
)


def test_a_frame_of_trials_reads_as_the_study_that_it_shows(tmp_path):
    study = run_study(
        lambda configuration: len(configuration) / 10,
        OPTIONS,
        "random",
        30,
        name="s",
        storage="memory",
        workers=0,
    )
    path = tmp_path / "trials.csv"
    trials_frame(study).to_csv(path, index=False)
    assert {"0.0", "10.0"} <= set(pd.read_csv(path, dtype=str)["layers"])
    record, expected = read_record(path, OPTIONS), study_record(study)
    assert repr(record.configurations) == repr(expected.configurations)
    assert record.errors.tolist() == expected.errors.tolist()


def test_a_choice_reads_as_a_spreadsheet_writes_it(tmp_path):
    path = tmp_path / "trials.csv"
    rows = ["b,0,1,TRUE,2.0,0.1", "b,10.0,.7,false,3,0.2", "b,1,0.5,True,4,0.3"]
    path.write_text("\n".join(["kind,layers,share,bias,units,value", *rows]))
    with pytest.raises(ValueError, match=r"row 1: share: .* got 0\.7"):
        read_record(path, OPTIONS)
    path.write_text(path.read_text().replace(",.7,", ",.5,"))
    values = [list(one.values()) for one in read_record(path, OPTIONS).configurations]
    expected = [["b", 0, 1.0, True, 2], ["b", 10, 0.5, False, 3], ["b", 1, 0.5, True, 4]]
    assert repr(values) == repr(expected)


def test_a_budget_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "trials.csv"
    path.write_text("depth,norm,value\n1,True,0.5\n")
    path.with_suffix(".json").write_text('{"budget": true}')
    with pytest.raises(ValueError, match=r"budget in trials\.json must be .* got True"):
        read_record(path, GRID)


def test_a_diverged_training_has_the_worst_error_from_there_on(tmp_path):
    trainings = [*grid_trainings(), ({"depth": 1, "norm": True}, [0.3])]
    record = read_record(write_record(tmp_path / "grid.csv", GRID, trainings))
    worst = record.errors[:-1].max()
    assert record.errors[-1].tolist() == [0.3, worst, worst]


def test_a_table_of_trials_needs_a_space_and_nothing_else(tmp_path):
    path = tmp_path / "trials.csv"
    path.write_text("depth,norm,value\n1,True,0.5\n2,False,0.25\n")
    record = read_record(path, GRID)
    assert (record.budget, record.best) == (1, 0.25)
    with pytest.raises(ValueError, match=r"space must be given where trials\.json holds none"):
        read_record(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth,value\n1,0.5\n", r"must have a column for each of \['norm'\]"),
        ("depth,norm,value\n9,True,0.5\n", "row 0: depth: must lie between.* got 9"),
        ("depth,norm,value\n1,True,0.5 oops\n", "row 0, validation_error must be.*oops"),
        ("depth,norm,value\n1,True\n", "row 0 must have 3 cells, got fewer"),
        ("depth,norm,value\n1,True,0.5\n1,True,0.5,7\n", "Expected 3 fields in line 3, saw 4"),
        ("depth,norm,value\n1 2,True,0.5\n", "row 0: depth: must be a finite number, got '1 2'"),
        ("", "must be a CSV file in UTF-8, got No columns"),
        ("depth,norm,value\n1,True,\n", "at least one training to the full budget"),
    ],
)
def test_a_wrong_file_is_refused_by_row_and_column(tmp_path, text, message):
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(path, GRID)


def test_a_changed_record_is_another_objective(toy_record):
    grown = type(toy_record)(
        TOY_SPACE,
        toy_record.configurations[:-1],
        toy_record.errors[:-1],
        toy_record.seconds[:-1],
        toy_record.source,
    )
    assert grown.settings != toy_record.settings
    assert grown.settings["record"] == toy_record.settings["record"] == "toy.csv.gz"


def test_seconds_are_those_of_the_processor_and_of_one_machine(tmp_path):
    path = tmp_path / "trials.csv"
    rows = ["1,True,0.5,9,1,old", "2,True,0.4,9,2,old", "3,True,0.3,9,5,new"]
    path.write_text("\n".join(["depth,norm,value,seconds,cpu_seconds,machine", *rows]))
    np.testing.assert_equal(read_record(path, GRID).seconds, [[1.0], [2.0], [np.nan]])


def test_a_record_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(FileNotFoundError, match=r"record must be a file .*gone.csv, which is not"):
        read_record("gone.csv")
    Path("link.csv").symlink_to("gone.csv")
    with pytest.raises(PathError, match=r"link.csv leads nowhere"):
        read_record("link.csv")
