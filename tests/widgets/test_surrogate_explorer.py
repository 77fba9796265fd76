from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import create_trial

from hpo_lib.exceptions import StudyError
from hpo_lib.plots.surrogate_slice import fitted_study, plot_slice, slice_data
from hpo_lib.samplers.acquisition import log_expected_improvement
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.lease import Lease
from hpo_lib.study.run import run_study
from hpo_lib.widgets.front_end import show_widget
from hpo_lib.widgets.surrogate_explorer import SurrogateExplorer, queue_trial
from tests.toys import TOY_SPACE, bowl, record_of

PNG = b"\x89PNG"


@pytest.fixture
def study():
    return run(n_trials=25)


def run(n_trials, objective=bowl, space=TOY_SPACE, storage=None):
    storage = storage or InMemoryStorage()
    return run_study(objective, space, "random", n_trials, name="toy", storage=storage, workers=0)


# The slice


def test_a_slice_has_its_mean_where_the_function_is_low(study):
    data = slice_data(study, ["lr"], {"optimizer": "sgd", "momentum": 0.9, "depth": 8})
    assert data.mean.shape == data.std.shape == data.grids[0].shape == (121,)
    assert 0.01 < data.grids[0][data.mean.argmin()] < 0.9


def test_a_slice_predicts_what_the_surrogate_does(study):
    fitted = fitted_study(study)
    at = {"optimizer": "sgd", "momentum": 0.3, "depth": 6}
    data = slice_data(fitted, ["lr", "depth"], at)
    y, x = 1, 3
    values = {**at, "lr": float(data.grids[0][x]), "depth": int(data.grids[1][y])}
    mean, std = fitted.surrogate.predict([TOY_SPACE.complete(values)])
    assert (data.mean[y, x], data.std[y, x]) == pytest.approx((mean[0], std[0]))


def test_a_trial_that_ends_while_the_surrogate_is_fitted_changes_nothing(study, monkeypatch):
    best = fitted_study(study).incumbent
    read = study.get_trials

    def then_one_more(**options):
        trials = read(**options)
        distributions = {"lr": TOY_SPACE.distributions()["lr"]}
        study.add_trial(create_trial(params={"lr": 0.1}, distributions=distributions, value=-9.0))
        return trials

    monkeypatch.setattr(study, "get_trials", then_one_more)
    assert fitted_study(study).incumbent == best


def test_a_parent_that_varies_brings_its_child_with_the_shown_value(study):
    fitted = fitted_study(study)
    for momentum in (0.1, 0.9):
        data = slice_data(fitted, ["optimizer"], {"optimizer": "adamw", "momentum": momentum})
        values = {**data.at, "optimizer": "sgd"}
        expected = fitted.surrogate.predict([TOY_SPACE.complete(values)])[0][0]
        assert data.mean[1] == pytest.approx(expected)


def test_an_inactive_parameter_has_no_prediction(study):
    fitted = fitted_study(study)
    assert np.isnan(slice_data(fitted, ["momentum"], {"optimizer": "adamw"}).mean).all()
    both = slice_data(fitted, ["momentum", "optimizer"]).mean
    assert np.isnan(both[0]).all()
    assert np.isfinite(both[1]).all()


def test_improvement_is_expected_where_the_model_knows_nothing_or_good(study):
    data = slice_data(study, ["lr"])
    assert np.isfinite(data.log_improvement).all()
    assert data.best == pytest.approx(min(t.value for t in study.trials), abs=0.5)


def test_less_improvement_is_expected_where_the_noise_outweighs_the_doubt(study):
    data = slice_data(study, ["lr"])
    less = data.log_improvement - log_expected_improvement(data.mean, data.std, data.best)
    assert less.max() < 0
    assert less.argmin() == data.std.argmin()


def test_trials_on_the_slice_are_near_and_others_fade(study):
    fitted = fitted_study(study)
    all_free = slice_data(fitted, ["lr"], fitted.incumbent)
    assert all_free.nearness[study.best_trial.number] == pytest.approx(1)
    others = [
        n
        for t, n in zip(study.trials, all_free.nearness, strict=True)
        if t.params["optimizer"] != study.best_trial.params["optimizer"]
    ]
    assert 0 < max(others) < 1


@pytest.mark.parametrize(
    ("names", "at", "problem"),
    [
        (["lr", "lr"], {}, r"names must be different ones .* got \['lr', 'lr'\]"),
        (["width"], {}, r"names must be different ones .* got \['width'\]"),
        (["lr", "depth", "optimizer"], {}, "names must be one or two"),
        (["lr"], {"speed": 1}, "speed: unknown parameter, got 1"),
        (["lr"], {"depth": 99}, "depth: must lie between"),
    ],
)
def test_a_wrong_slice_is_refused(study, names, at, problem):
    with pytest.raises(ValueError, match=problem):
        slice_data(study, names, at)


def test_a_widget_with_too_little_to_show_says_so(study, capsys):
    few = run_study(bowl, TOY_SPACE, "random", 2, name="few", storage="memory", workers=0)
    show_widget(SurrogateExplorer, few)
    assert "SurrogateExplorer is not shown: " in capsys.readouterr().out
    show_widget(SurrogateExplorer, study)
    assert "not shown" not in capsys.readouterr().out


def test_a_slice_needs_trials():
    with pytest.raises(ValueError, match="at least 3 completed trials"):
        slice_data(run(n_trials=2))


def test_a_study_is_seen_as_it_was_after_its_first_trials(study):
    early = fitted_study(study, 6)
    assert len(early.points.values) == 6
    alone = fitted_study(run(n_trials=6))
    at = [early.incumbent]
    np.testing.assert_allclose(early.surrogate.predict(at), alone.surrogate.predict(at))


def test_the_next_point_is_where_the_expected_improvement_is_largest(study):
    data = slice_data(study, ["lr"])
    _, right = plot_slice(data, acquisition="EI")
    (mark,) = (line for line in right.lines if line.get_marker() == "v")
    assert mark.get_xdata() == data.grids[0][np.argmax(data.log_improvement)]


@pytest.mark.parametrize("names", [["lr"], ["optimizer"], ["lr", "depth"], ["momentum", "lr"]])
@pytest.mark.parametrize("acquisition", ["log EI", "EI"])
def test_every_axis_of_a_slice_is_labelled(study, names, acquisition):
    axes = plot_slice(
        study, names, {"optimizer": "adamw"} if "lr" in names[0] else {}, acquisition
    )
    assert len(axes) == 1 + len(names)
    assert [ax for ax in axes if not ax.get_xlabel()] == []
    assert axes[0].get_ylabel()
    title = axes[0].figure.get_suptitle()
    assert ("cross: " in title) == (len(names) == 2)


def test_trials_far_from_a_slice_are_counted(study):
    data = slice_data(study, ["lr"])
    nearness = np.where(np.arange(len(data.nearness)) < 3, 0.0, 1.0)
    axes = plot_slice(data._replace(nearness=nearness))
    n = len(nearness)
    assert f"{n - 3} of {n} trials near the slice" in axes[0].figure.get_suptitle()


@pytest.mark.parametrize("names", [["momentum"], ["momentum", "lr"]])
def test_a_slice_where_everything_is_inactive_says_so(study, names):
    axes = plot_slice(study, names, {"optimizer": "adamw"})
    assert "grey: inactive" in axes[0].figure.get_suptitle()


# Queueing


def test_a_queued_configuration_is_the_next_trial(study):
    wanted = {"optimizer": "sgd", "lr": 0.0123, "momentum": 0.77, "depth": 10}
    assert queue_trial(study, wanted) == {**wanted, "width": 3}
    longer = run(26, storage=study._storage)
    assert longer.trials[25].params == wanted
    assert longer.trials[25].value == pytest.approx(bowl(wanted))


def test_an_inactive_value_is_not_queued(study):
    queue_trial(study, {"optimizer": "adamw", "lr": 0.5, "momentum": 0.77, "depth": 10})
    assert run(26, storage=study._storage).trials[25].params == {
        "optimizer": "adamw",
        "lr": 0.5,
        "depth": 10,
    }


def test_what_was_tried_or_queued_is_not_queued_again(study):
    with pytest.raises(StudyError, match=r"trial 3 \(completed\) has this configuration"):
        queue_trial(study, study.trials[3].params)
    queue_trial(study, {"optimizer": "adamw", "lr": 0.5, "depth": 10})
    with pytest.raises(StudyError, match=r"trial 25 \(waiting\) has this"):
        queue_trial(study, {"optimizer": "adamw", "lr": 0.5, "depth": 10})


class ByAHair(RandomSampler):
    def sample_independent(self, *_):
        return 0.6000000000000001


def test_a_number_that_missed_its_step_is_known_again():
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, step: 0.2}")
    options = {"storage": InMemoryStorage(), "workers": 0, "default_first": False}
    study = run_study(lambda c: c["x"], space, ByAHair(), 1, name="toy", **options)
    assert study.trials[0].params != record_of(study.trials[0]).configuration
    with pytest.raises(StudyError, match=r"trial 0 \(completed\) has this configuration"):
        queue_trial(study, {"x": 0.6})


def test_a_study_that_a_driver_writes_is_left_alone(study):
    lease = Lease(study)
    lease.acquire()
    with pytest.raises(StudyError, match=r"is being written by process .* stop that first"):
        queue_trial(study, {"optimizer": "adamw", "lr": 0.5, "depth": 10})
    assert len(study.trials) == 25
    lease.release()


# The widget


def test_the_explorer_begins_at_the_incumbent(study):
    explorer = SurrogateExplorer(study)
    assert explorer.configuration == record_of(study.best_trial).configuration
    assert explorer.picture().startswith(PNG)
    assert plt.get_fignums() == []


@pytest.mark.slow
def test_each_control_redraws(study):
    explorer = SurrogateExplorer(study)
    seen = {explorer.picture()}
    explorer.sliders["depth"].value = 10 if explorer.configuration["depth"] != 10 else 2
    seen.add(explorer.picture())
    explorer.y.value = "depth"
    seen.add(explorer.picture())
    explorer.acquisition.value = "EI"
    seen.add(explorer.picture())
    explorer.x.value = "lr"
    seen.add(explorer.picture())
    assert len(seen) == 5


def test_the_same_axis_twice_is_one_axis(study):
    explorer = SurrogateExplorer(study)
    explorer.y.value = explorer.x.value
    assert explorer.y.value == ""


def test_the_explorer_queues_what_it_shows_and_says_what_is_needed(study):
    explorer = SurrogateExplorer(study)
    explorer.queue.click()
    assert explorer.status.value.startswith("Not queued: trial")
    explorer.sliders["lr"].index = 0
    explorer.queue.click()
    assert "give it more than 25 trials" in explorer.status.value
    wanted = explorer.configuration
    assert record_of(run(26, storage=study._storage).trials[25]).configuration == wanted


def test_fitting_again_sees_new_trials_and_keeps_the_sliders(study):
    explorer = SurrogateExplorer(study)
    explorer.sliders["lr"].index = 7
    shown = explorer.configuration
    run(28, storage=study._storage)
    explorer.refresh.click()
    assert "28 completed" in explorer.status.value
    assert explorer.configuration == shown


def test_where_nobody_watches_the_explorer_is_a_picture(study):
    bundle = SurrogateExplorer(study)._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"}


def test_a_hostile_name_is_text():
    name = "<img src=x onerror=alert(1)>"
    space = SearchSpace.from_dict({name: {"type": "float", "low": 0, "high": 1}})
    study = run(6, lambda c: c[name] ** 2, space)
    explorer = SurrogateExplorer(study)
    slider = explorer.sliders[name]
    assert slider.description == name
    assert not slider.description_allow_html


def test_mathematics_in_a_name_is_text():
    """JupyterLab typesets descriptions and labels; there a backslash makes characters text."""
    name = r"$lr$ \(x\)"
    space = SearchSpace.from_dict(
        {
            "kind": {"type": "choice", "options": ["a", "b"]},
            name: {"type": "float", "low": 0, "high": 1, "when": {"kind": "b"}},
        }
    )
    study = run(12, lambda c: c.get(name, 2.0), space)
    explorer = SurrogateExplorer(study)
    escaped = r"\$lr\$ \\(x\\)"
    assert explorer.sliders[name].description == escaped
    explorer.sliders["kind"].value = "a"
    assert explorer.expected.value.endswith(f"inactive here: {escaped}")
