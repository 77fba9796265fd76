from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import optuna
import pytest

from hpo_lib import SearchSpace, compare, plots, run_study, trials_frame
from hpo_lib.objective import SegmentResult
from tests.plots.recorded import SPACE, add, assert_labelled, draw, make_study


def test_learning_curves_of_one_training():
    result = SegmentResult((1.0, math.inf), (1.5, 0.7), (0.5, 0.2), (1.0, 1.0))
    for source in (result, plots.learning_curves_data(result)):
        loss, error = plots.plot_learning_curves(source)
        assert_labelled([loss, error])
        _, training, *_ = loss.lines
        assert training.get_ydata()[0] == 1.0
        assert math.isnan(training.get_ydata()[1])
        assert error.lines[0].get_ydata().tolist() == [0.5, 0.2]


def test_learning_curves_that_diverged_at_once_are_drawn():
    nothing = SegmentResult((), (), (), (), status="diverged")
    assert_labelled(plots.plot_learning_curves(nothing))


def test_learning_curves_of_a_study_are_those_of_its_best_trials():
    study = make_study()
    values = {t.number: t.value for t in study.trials if t.value is not None}
    best = sorted(values, key=lambda number: values[number])[:3]
    curves = plots.learning_curves_data(study, k=3)
    names = [f"trial {number}" for number in best]
    assert list(curves) == [f"{names[0]} (incumbent)", *names[1:]]
    axes = plots.plot_learning_curves(curves)
    assert_labelled(axes)
    assert any(f"trial {best[0]} (incumbent)" in text for text in draw(axes))


def test_learning_curves_of_several_trainings_have_their_names():
    first = SegmentResult((1.0,), (1.5,), (0.5,), (1.0,))
    second = SegmentResult((0.9,), (1.4,), (0.0412,), (1.0,))
    source = {"seed 1": first, "seed 2": second}
    assert plots.learning_curves_data(source) == source
    texts = draw(plots.plot_learning_curves(source))
    assert {"seed 1: 0.500", "seed 2: 0.0412"} <= set(texts)


def test_learning_curves_need_a_trial_with_curves():
    with pytest.raises(ValueError, match=r"'study 0' must have a completed trial with curves"):
        plots.learning_curves_data(make_study(n=2, failures=(0, 1)))


class Training:
    """A training, whose loss differs from its error."""

    budget = 1
    settings: ClassVar[dict[str, int]] = {"training": 1}

    def __call__(self, configuration, segment):
        return SegmentResult((1.0,), (2.0,), (configuration["x"],), (0.1,))


@pytest.mark.parametrize(
    ("objective", "name"),
    [(lambda c: c["x"], "value"), (Training(), "validation error (fraction)")],
)
def test_the_axis_says_what_is_minimised(objective, name):
    space = SearchSpace.from_dict(
        {"x": {"type": "float", "low": 0.0, "high": 1.0, "default": 1.0}}
    )
    options = {"storage": "memory", "workers": 0}
    study = run_study(objective, space, "random", 5, name="named", **options)
    assert plots.plot_any_time(study).get_ylabel() == name
    assert plots.plot_slices(study)[0].get_ylabel() == name
    assert plots.plot_trial_curves(study).get_ylabel() == name
    assert plots.plot_slice(study)[0].get_ylabel() == name
    assert plots.plot_ablation(study).get_xlabel() == f"predicted {name}"

    frame = compare(objective, space, ["random", "sobol"], [0], 3, **options)
    assert plots.plot_comparison(frame).get_ylabel().startswith(f"incumbent's {name},")
    ax = plots.plot_final_values(frame)
    assert ax.get_ylabel() == f"final incumbent's {name}"
    assert ax.get_xticklabels()[0].get_text() == "random\nn = 1 seed"


def test_any_time_counts_failures_and_their_seconds():
    study = make_study(n=6, failures=(0, 2))
    data = plots.any_time_data(study)
    frame = trials_frame(study)
    assert np.isnan(data.values).tolist() == [True, False, True, False, False, False]
    assert math.isnan(data.best[0])
    assert (np.diff(data.best[1:]) <= 0).all()
    assert data.seconds[-1] == pytest.approx(frame["seconds"].sum() + 6 * 0.02)
    assert data.best[-1] == frame["value"].min()


def test_any_time_takes_frames():
    frame = trials_frame(make_study())
    frame.loc[4, "value"] = math.inf
    data = plots.any_time_data(frame)
    assert math.isnan(data.values[4])
    for x in ("trial", "seconds"):
        ax = plots.plot_any_time(data, x)
        assert_labelled(ax)
    assert "training + suggesting time (s)" in draw(ax)
    assert {"incumbent (n = 24 trials)", "trial"} <= set(draw(ax))


def test_any_time_leaves_running_trials_out():
    study = make_study(n=3, failures=())
    study.ask(SPACE.distributions())
    assert len(plots.any_time_data(study).values) == 3


def test_importance_finds_what_matters_and_includes_conditional_parameters():
    data = plots.importance_data(make_study(n=100, failures=(5,)))
    assert next(iter(data.shares)) == "lr"
    assert set(data.shares) == {p.name for p in SPACE.searched}
    assert sum(data.shares.values()) == pytest.approx(1)
    assert (data.n, data.quantile) == (99, 0.1)
    ax = plots.plot_importance(data)
    assert_labelled(ax)
    assert "n = 99 trials" in ax.get_title()


def test_importance_refuses_too_few_or_equal_trials():
    with pytest.raises(ValueError, match=r"at least 4 completed trials .* got 2 with 2 diff"):
        plots.importance_data(make_study(n=4, failures=(0, 1)))
    flat = optuna.create_study()
    for _ in range(5):
        add(flat, SPACE, SPACE.default_configuration(), value=0.5)
    with pytest.raises(ValueError, match="got 5 with 1 different values"):
        plots.importance_data(flat)


def test_timeline_places_trials_on_workers():
    study = make_study()
    study.ask(SPACE.distributions())
    data = plots.timeline_data(study)
    assert data.starts.min() == 0
    assert len(data.numbers) == 24
    assert set(data.workers) == {"worker-0", "worker-1"}
    assert data.outcomes.count("diverged") == 2
    for worker in set(data.workers):
        mine = [i for i, name in enumerate(data.workers) if name == worker]
        assert (data.starts[mine][1:] >= (data.starts + data.lengths)[mine][:-1]).all()
    ax = plots.plot_timeline(trials_frame(study))
    assert_labelled(ax)
    assert "diverged (n = 2)" in draw(ax)
