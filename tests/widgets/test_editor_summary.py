from __future__ import annotations

import re

from optuna.storages import InMemoryStorage

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import open_study, run_study
from hpo_lib.trials import recorded_trials
from hpo_lib.widgets.editor_summary import (
    file_difference,
    prior_shape,
    trial_seconds,
    warm_start_count,
)
from tests.space.test_space import EXAMPLE


def test_the_difference_to_the_file(tmp_path):
    path = tmp_path / "space.yaml"
    space = SearchSpace.from_yaml(EXAMPLE.replace("fixed: 1}", "fixed: 2}"))
    assert len(file_difference(space, path)) == 6
    SearchSpace.from_yaml(EXAMPLE).save(path)
    changed = ["- stride: {type: int, fixed: 1}", "+ stride: {type: int, fixed: 2}"]
    assert file_difference(space, path) == changed


def test_evidence_is_what_a_new_study_takes():
    storage = InMemoryStorage()
    wide = SearchSpace.from_yaml("x: {type: float, low: 0, high: 1}")
    narrow = SearchSpace.from_yaml("x: {type: float, low: 0, high: 0.5}")

    def bowl(configuration):
        return (configuration["x"] - 0.3) ** 2

    old = run_study(bowl, wide, "random", 12, name="old", storage=storage, workers=0)
    before = [trial.params for trial in old.trials]
    inside, n = warm_start_count(old, narrow)
    assert 0 < inside < n == 12 == len(trial_seconds(old))
    new = run_study(
        bowl, narrow, "random", 1, name="new", storage=storage, workers=0, warm_start_from="old"
    )
    assert sum(not trial.is_own for trial in recorded_trials(new)) == inside
    assert [trial.params for trial in open_study("old", storage).trials] == before


def test_a_prior_that_leaves_ends_out_is_drawn_where_it_lies():
    space = SearchSpace.from_yaml("n: {type: int, low: 1, high: 20, prior: segmented}")
    drawn = {space["n"].from_unit(u / 240) for u in range(241)}
    assert drawn < set(range(1, 21))
    picture = prior_shape(space["n"])
    assert picture.count("<rect") == len(drawn)
    lefts = [float(x) for x in re.findall(r"<rect x='([\d.]+)'", picture)]
    assert lefts == [round((n - 1) * 96 / 20, 1) for n in sorted(drawn)]


def test_shapes_of_priors():
    space = SearchSpace.from_yaml(EXAMPLE)
    counts = [prior_shape(one).count("<rect") for one in space]
    assert counts == [2, 24, 24, 5, 6, 0]
    tall = [float(h) for h in re.findall(r"height='([\d.]+)'/>", prior_shape(space["lr"]))]
    assert tall[0] > 5 * tall[1] > tall[-1]  # a logarithmic prior crowds at the low end
