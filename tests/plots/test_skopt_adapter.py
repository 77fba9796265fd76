from __future__ import annotations

import matplotlib.pyplot as plt
import optuna
import pytest
import skopt.plots

from hpo_lib import plots, run_study
from hpo_lib.trials import RECORD_KEY, StudyRecord
from tests.plots.recorded import SPACE, add, make_study
from tests.toys import TOY_SPACE, bowl


def test_a_study_is_a_result_of_skopt():
    study = run_study(bowl, TOY_SPACE, "random", 8, name="toy", storage="memory", workers=0)
    result = plots.skopt_result(study)
    assert result.fun == study.best_value
    assert list(result.func_vals) == [trial.value for trial in study.trials]
    searched = [parameter.name for parameter in TOY_SPACE.searched]
    assert result.space.dimension_names == searched
    best = {p.name: study.best_params.get(p.name, p.default) for p in TOY_SPACE.searched}
    assert dict(zip(searched, result.x, strict=True)) == best


def test_failed_and_warm_start_trials_are_left_out_of_it():
    study = make_study(n=6, failures=(1,))
    record = {**study.trials[0].user_attrs[RECORD_KEY], "value": 0.0, "warm_start": "other#0"}
    add(study, SPACE, record.pop("configuration"), **record)
    result = plots.skopt_result(study)
    assert len(result.x_iters) == 5
    assert result.fun > 0


@pytest.mark.slow
def test_the_plots_of_skopt_draw_a_study():
    result = plots.skopt_result(make_study())
    assert skopt.plots.plot_convergence(result).get_xlabel()
    n = len(SPACE.searched)
    for draw, few in (
        (skopt.plots.plot_evaluations, {}),
        (skopt.plots.plot_objective, {"n_points": 4, "n_samples": 5}),
    ):
        plt.close("all")
        draw(result, **few)
        assert len(plt.gcf().axes) >= n**2
        plt.gcf().draw_without_rendering()


def test_a_study_without_a_value_has_no_result():
    study = optuna.create_study(study_name="empty")
    StudyRecord(space=SPACE.to_yaml()).write(study)
    with pytest.raises(ValueError, match="study 'empty' must have a trial with a value, got none"):
        plots.skopt_result(study)
