"""Widgets follow a study into another version of its search space."""

from __future__ import annotations

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import run_study
from hpo_lib.trials import incumbent
from hpo_lib.widgets.study_monitor import StudyMonitor
from hpo_lib.widgets.surrogate_explorer import SurrogateExplorer
from tests.study.test_change_space import OPTIONS
from tests.toys import TOY_SPACE, bowl

WIDER = SearchSpace.from_yaml(OPTIONS + "decay: {type: float, low: 0.0, high: 1.0}\n")
CALL = {"name": "demo", "storage": "s.db", "workers": 0, "progress": False}


def test_a_monitor_of_a_name_goes_on_with_the_new_version():
    run_study(bowl, TOY_SPACE, "random", 6, **CALL)
    monitor = StudyMonitor("demo", "s.db")
    study = run_study(bowl, WIDER, "random", 9, change_space=True, **CALL)
    monitor.refresh()
    assert "9 of 9 trials have ended (6 outside, 3 completed)" in monitor.status.value
    assert "<b>demo</b>" in monitor.status.value
    # The last axis is that of the values.
    names = [axis["name"] for axis in monitor.view.axes]
    assert names[:-1] == [p.name for p in WIDER.searched]
    assert StudyMonitor(study).name == "demo"


def test_an_explorer_searches_the_slice_of_a_held_value():
    run_study(bowl, TOY_SPACE, "bayes", 8, **CALL)
    study = run_study(bowl, TOY_SPACE.fix(depth=8), "bayes", 11, change_space=True, **CALL)
    explorer = SurrogateExplorer(study)
    assert explorer.held == {"depth": 8}
    assert explorer.sliders["depth"].disabled
    assert explorer.configuration == incumbent(study).configuration
    assert explorer.configuration["depth"] == 8
