"""A record of trainings of a toy, and a surrogate of it."""

from __future__ import annotations

import pytest

from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective
from hpo_lib.comparison.training_records import read_record
from tests.comparison.trainings import bowl_trainings, write_record
from tests.toys import TOY_SPACE


@pytest.fixture(scope="module")
def toy_record(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "toy.csv.gz"
    return read_record(write_record(path, TOY_SPACE, bowl_trainings(120, 2, 0.1)))


@pytest.fixture(scope="module")
def surrogate(toy_record):
    return SurrogateObjective(toy_record)
