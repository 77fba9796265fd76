from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.text import Text
from optuna.trial import TrialState, create_trial

from hpo_lib.objective import SegmentResult
from hpo_lib.plots import figures as plots
from hpo_lib.plots import style as plots_style
from hpo_lib.plots.style import label
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.catalog import trials_frame
from hpo_lib.trials import RECORD_KEY, StudyRecord

SPACE = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}
momentum: {type: float, low: 0.5, high: 0.99, default: 0.9, when: {optimizer: sgd}}
n_filters: {type: int, low: 8, high: 24, step: 4, default: 16}
activation: {type: choice, options: [relu, leaky_relu, elu, selu, tanh, sigmoid], default: relu}
dropout: {type: float, low: 0.0, high: 0.5, default: 0.0}
stride: {type: int, fixed: 1}
"""
)


def error_of(configuration: Configuration) -> float:
    value = 0.03 + 0.1 * (math.log10(float(configuration["lr"])) + 2.2) ** 2
    value += 0.2 * (configuration["activation"] == "sigmoid") + 0.05 * float(
        configuration["dropout"]
    )
    return value + (0.15 * (0.95 - float(configuration.get("momentum", 0.9))))


class TrueFunction:
    """A surrogate that knows the objective."""

    def predict(self, configurations: Any) -> tuple[Any, Any]:
        values = [error_of(SPACE.check(c)) for c in configurations]
        return np.array(values), np.full(len(values), 0.01)


def add(study: optuna.Study, space: SearchSpace, configuration: Configuration, **record: Any):
    distributions = space.distributions()
    searched = {k: v for k, v in configuration.items() if k in distributions}
    value = record.pop("value", None)
    study.add_trial(
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=searched,
            distributions={name: distributions[name] for name in searched},
            user_attrs={RECORD_KEY: {"configuration": configuration, **record}},
        )
    )


def make_study(n: int = 24, failures: tuple[int, ...] = (3, 11), seed: int = 0) -> optuna.Study:
    study = optuna.create_study(study_name=f"study {seed}")
    StudyRecord(space=SPACE.to_yaml()).write(study)
    rng = np.random.default_rng(seed)
    clock = [1.7e9, 1.7e9]
    for number in range(n):
        configuration = SPACE.sample(rng)
        failed, worker = number in failures, int(np.argmin(clock))
        final, seconds = error_of(configuration), float(rng.uniform(2, 6))
        errors = [final + (0.9 - final) * math.exp(-0.7 * e) for e in range(1, 11)]
        errors[-1] = final
        add(
            study,
            SPACE,
            configuration,
            value=None if failed else final,
            status="diverged" if failed else "completed",
            train_loss=[2.2 * e**1.3 for e in errors],
            validation_loss=[2.4 * e for e in errors],
            validation_error=errors,
            seconds=[seconds / 10] * 10,
            suggest_seconds=0.02,
            worker=f"worker-{worker}",
            started=clock[worker],
            finished=clock[worker] + seconds,
        )
        clock[worker] += seconds + 0.1
    return study


def shown(axes: Any) -> list[Axes]:
    return [ax for ax in np.ravel(axes) if ax is not None]


def draw(axes: Any) -> list[str]:
    """Render for real; return every text that the figure shows."""
    figure: Any = shown(axes)[0].figure
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def assert_labelled(axes: Any) -> None:
    for ax in shown(axes):
        assert ax.get_xlabel().strip()
        assert ax.get_ylabel().strip()
    draw(axes)


# Images, classes, training


def test_images_are_coloured_and_titled():
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 1, 4, 4)
    data = plots.images_data(images, np.array([1, 0, 1]), ("cat", "dog"))
    assert data.images.shape == (3, 4, 4, 3)
    assert data.titles == ("dog", "cat", "dog")
    assert (data.images[2, ..., 0] == images[2, 0]).all()
    assert {"cat", "dog"} <= set(draw(plots.plot_images(images, [1, 0, 1], ("cat", "dog"))))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 4, 4, 3), (2, 4, 4), (3, 3, 4, 4)])
def test_images_of_a_wrong_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"images must be n,c,h,w .* got shape"):
        plots.images_data(np.zeros(shape, np.uint8), [0, 1], ("cat", "dog"))


def test_class_counts_count_classes_without_images_too():
    parts = {"train": [0, 0, 2], "validation": np.array([2])}
    counts = plots.class_counts_data(parts, ("a", "b", "c"))
    assert counts["train"].tolist() == [2, 0, 1]
    assert counts["validation"].tolist() == [0, 0, 1]
    ax = plots.plot_class_counts(parts, ("a", "b", "c"))
    assert_labelled(ax)
    assert {"train (n = 3)", "validation (n = 1)"} <= set(draw(ax))


def test_learning_curves_of_one_training():
    result = SegmentResult((1.0, math.inf), (1.5, 0.7), (0.5, 0.2), (1.0, 1.0))
    (curves,) = plots.learning_curves_data(result)
    assert curves.train_loss[0] == 1.0
    assert math.isnan(curves.train_loss[1])
    assert curves.validation_error.tolist() == [0.5, 0.2]
    for source in (result, vars(result), [curves]):
        assert_labelled(plots.plot_learning_curves(source))


def test_learning_curves_that_diverged_or_are_still_written_are_drawn():
    nothing = SegmentResult((), (), (), (), status="diverged")
    writing = {"train_loss": [1.0, 0.5], "validation_error": [0.5]}
    for source in (nothing, writing):
        assert_labelled(plots.plot_learning_curves(source))
    (curves,) = plots.learning_curves_data(writing)
    assert curves.train_loss.tolist() == [1.0]
    assert np.isnan(curves.validation_loss).all()


def test_learning_curves_of_a_study_are_those_of_its_best_trials():
    study = make_study()
    values = {t.number: t.value for t in study.trials if t.value is not None}
    best = sorted(values, key=lambda number: values[number])[:3]
    curves = plots.learning_curves_data(study, k=3)
    assert [one.run for one in curves] == [f"trial {number}" for number in best]
    axes = plots.plot_learning_curves(study, k=3)
    assert_labelled(axes)
    assert any(f"trial {best[0]} (incumbent)" in text for text in draw(axes))


def test_learning_curves_need_a_trial_with_curves():
    with pytest.raises(ValueError, match=r"'study 0' must have a completed trial with curves"):
        plots.learning_curves_data(make_study(n=2, failures=(0, 1)))


def test_confusion_counts_and_shares():
    data = plots.confusion_data([0, 0, 0, 1], [0, 0, 1, 1], ("a", "b", "c"))
    assert data.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert data.shares[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert data.shares[2].tolist() == [0, 0, 0]
    assert (data.accuracy, data.n) == (0.75, 4)
    ax = plots.plot_confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], ("a", "b", "c"))
    assert_labelled(ax)
    assert "accuracy 75.00%, n = 4 images" in draw(ax)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0], r"same length, got shapes \(2,\) and \(1,\)"),
        ([0, 2], [0, -1], r"must be 0 to 1 with 2 classes, got \[-1, 2\]"),
    ],
)
def test_confusion_refuses(labels: list[int], predicted: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        plots.confusion_data(labels, predicted, ("a", "b"))


# Priors and studies


@pytest.mark.parametrize("text", ["low: 1, high: 30", "low: 0, high: 99, step: 3"])
def test_bars_of_a_uniform_integer_are_about_equally_high(text):
    space = SearchSpace.from_yaml(f"n: {{type: int, {text}}}\n")
    (ax,) = plots.plot_prior(space, n=20_000)
    heights = [bar.get_height() for bar in ax.patches]
    assert len(heights) > 12
    assert max(heights) < 1.3 * min(heights)


def test_prior_leaves_inactive_draws_out():
    data = plots.prior_data(SPACE, n=400)
    assert list(data.draws) == [p.name for p in SPACE.searched]
    assert len(data.draws["lr"]) == data.n == 400
    assert 150 < len(data.draws["momentum"]) < 250
    assert set(data.draws["n_filters"]) == {8, 12, 16, 20, 24}
    axes = plots.plot_prior(data)
    assert_labelled(axes)
    assert axes[1].get_xscale() == "log"
    heights = sum(patch.get_height() for patch in axes[0].patches)
    assert heights == pytest.approx(100)


def test_any_time_counts_failures_and_their_seconds():
    study = make_study(n=6, failures=(0, 2))
    (data,) = plots.any_time_data(study)
    frame = trials_frame(study)
    assert data.study == "study 0"
    assert np.isnan(data.values).tolist() == [True, False, True, False, False, False]
    assert math.isnan(data.best[0])
    assert (np.diff(data.best[1:]) <= 0).all()
    assert data.seconds[-1] == pytest.approx(frame["seconds"].sum() + 6 * 0.02)
    assert data.best[-1] == frame["value"].min()


def test_any_time_takes_frames_and_several_studies():
    frame = trials_frame(make_study())
    frame.loc[4, "value"] = math.inf
    data = plots.any_time_data({"a": make_study(seed=1), "b": frame})
    assert [one.study for one in data] == ["a", "b"]
    assert math.isnan(data[1].values[4])
    for x in ("trial", "seconds"):
        ax = plots.plot_any_time(data, x)
        assert_labelled(ax)
    assert "training + deciding time (s)" in draw(ax)
    assert "b (n = 24 trials)" in draw(ax)


def test_any_time_leaves_running_trials_out():
    study = make_study(n=3, failures=())
    study.ask(SPACE.distributions())
    assert len(plots.any_time_data(study)[0].values) == 3


# Points


def test_points_hold_failed_and_inactive_trials():
    study = make_study()
    data = plots.points_data(study)
    sgd = np.array([t.params["optimizer"] == "sgd" for t in study.trials])
    assert [p.name for p in data.parameters] == [p.name for p in SPACE.searched]
    assert (np.isnan(data.positions["momentum"]) == ~sgd).all()
    assert (data.positions["optimizer"] == sgd).all()
    assert data.numbers[data.failed].tolist() == [3, 11]
    assert data.incumbent == study.best_trial.number


def test_a_pruned_trial_is_shown_but_never_the_incumbent():
    study = make_study(n=3, failures=())
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            value=0.0,
            params={"lr": 0.01},
            distributions={"lr": SPACE.distributions()["lr"]},
            intermediate_values={1: 0.0},
        )
    )
    data = plots.points_data(study, SPACE)
    assert math.isnan(data.values[3])
    assert data.incumbent != 3
    assert math.isnan(data.positions["optimizer"][3])


@pytest.mark.parametrize("plot", [plots.plot_parallel_coordinates, plots.plot_slices])
def test_points_are_drawn_with_their_failures_counted(plot: Any):
    axes = plot(make_study(), SPACE)
    assert shown(axes)[0].get_ylabel()
    assert all(ax.get_xlabel() for ax in shown(axes))
    assert any("n = 24 trials, 2 failed/pruned" in text for text in draw(axes))


def test_slices_are_log_where_the_parameter_is():
    axes = plots.plot_slices(plots.points_data(make_study()))
    assert [ax.get_xscale() for ax in axes[:3]] == ["linear", "log", "linear"]
    assert axes[2].get_title().startswith("active in ")


@pytest.mark.parametrize(
    "study",
    [make_study(n=0), make_study(n=2, failures=(0, 1))],
    ids=["empty", "all failed"],
)
def test_studies_without_values_are_drawn(study: optuna.Study):
    for plot in (plots.plot_any_time, plots.plot_parallel_coordinates, plots.plot_slices):
        draw(plot(study))
    draw(plots.plot_timeline(study))
    draw(plots.plot_pair_matrix(study, SPACE, TrueFunction(), names=["lr", "dropout"]))


# Surrogate and importance


def test_partial_dependence_of_a_known_function():
    data = plots.pair_matrix_data(make_study(), TrueFunction(), names=["lr", "momentum"])
    assert list(data.surfaces) == [("lr", "momentum")]
    assert data.grids["lr"][[0, -1]] == pytest.approx([1e-4, 1e-1])
    mean, std = data.curves["lr"]
    assert abs(math.log10(data.grids["lr"][mean.argmin()]) + 2.2) < 0.2
    assert std == pytest.approx(0.01)
    surface = data.surfaces["lr", "momentum"]
    expected = 0.15 * (data.grids["momentum"][-1] - data.grids["momentum"][0])
    assert surface[0] - surface[-1] == pytest.approx(expected)


def test_partial_dependence_is_missing_where_a_parameter_is_inactive():
    data = plots.pair_matrix_data(make_study(), TrueFunction(), names=["optimizer", "momentum"])
    surface = data.surfaces["optimizer", "momentum"]
    assert np.isnan(surface[:, 0]).all()
    assert np.isfinite(surface[:, 1]).all()
    draw(plots.plot_pair_matrix(data))


def test_pair_matrix_shows_the_parameters_that_matter_most():
    axes = plots.plot_pair_matrix(make_study(), SPACE, TrueFunction(), k=3)
    assert axes.shape == (3, 3)
    assert axes[0, 1] is None
    assert [ax.get_xlabel() for ax in axes[-1]] == ["lr", "activation", "momentum"]
    assert [ax.get_ylabel() for ax in axes[1:, 0]] == ["activation", "momentum"]
    draw(axes)


def test_pair_matrix_refuses_unknown_names_and_a_missing_surrogate():
    with pytest.raises(ValueError, match=r"names must be .* out of .* got \['stride'\]"):
        plots.pair_matrix_data(make_study(), TrueFunction(), names=["stride"])
    with pytest.raises(ValueError, match="surrogate must be given with a study, got None"):
        plots.plot_pair_matrix(make_study())


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


# Text, scales, files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr", "lr"),
        ("cost in $ or $x^2$", r"cost in \$ or \$x^2\$"),
        ("two\nlines\t", "two lines"),
        ("_hidden", " _hidden"),
        (None, "None"),
    ],
)
def test_label_makes_text_plain(text: object, expected: str):
    assert label(text) == expected


def test_label_shortens_long_names_in_the_middle():
    short = label("a_very_long_name_of_a_hyperparameter", 15)
    assert short == "a_very_…rameter"
    assert len(short) == 15


def test_names_are_never_read_as_mathematics():
    name = r"$\frac{" + "x" * 60
    space = SearchSpace.from_dict(
        {
            name: {"type": "float", "low": 0.001, "high": 1.0, "log": True},
            "a$b$": {"type": "choice", "options": ["$x^$", "_y", True, 2]},
        }
    )
    study = optuna.create_study()
    rng = np.random.default_rng(0)
    for _ in range(6):
        add(
            study,
            space,
            space.sample(rng),
            value=float(rng.random()),
            worker="$\\bad$",
            status="$",
        )
    for plot in (plots.plot_parallel_coordinates, plots.plot_slices):
        draw(plot(study, space))
    draw(plots.plot_prior(space, n=20))
    draw(plots.plot_importance(study))
    draw(plots.plot_any_time({"$\\x$": study, "_y": study}))
    draw(plots.plot_confusion_matrix([0, 1], [0, 1], ("$\\a$", "b" * 80)))
    draw(plots.plot_timeline(study))


def test_values_over_decades_get_a_log_axis():
    study = optuna.create_study()
    for value in (1e-3, 1e-2, 1.0):
        add(study, SPACE, SPACE.default_configuration(), value=value)
    assert plots.plot_any_time(study).get_yscale() == "log"
    ax = plots.plot_parallel_coordinates(study, SPACE)
    assert isinstance(ax.collections[1].norm, LogNorm)
    negative = optuna.create_study()
    for value in (-1.0, 1e-2, 1.0):
        add(negative, SPACE, SPACE.default_configuration(), value=value)
    assert plots.plot_any_time(negative).get_yscale() == "linear"


def test_plots_draw_into_given_axes():
    _, (left, right) = plt.subplots(1, 2)
    assert plots.plot_any_time(make_study(), ax=left) is left
    assert plots.plot_any_time(make_study(), ax=right) is right
    assert len(plt.get_fignums()) == 1


def test_save_figure_writes_a_whole_file_and_nothing_else(tmp_path: Any):
    path = plots.save_figure(plots.plot_slices(make_study()), tmp_path / "deep" / "slices.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size <= plots_style.MAX_BYTES
    plots.save_figure(plt.figure(), path)
    assert [file.name for file in path.parent.iterdir()] == ["slices.png"]


def test_save_figure_lowers_the_resolution_of_large_figures(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    ax = plots.plot_any_time(make_study())
    large = plots.save_figure(ax, tmp_path / "large.png").stat().st_size
    monkeypatch.setattr(plots_style, "MAX_BYTES", 10_000)
    assert plots.save_figure(ax, tmp_path / "small.png").stat().st_size <= 10_000 < large


def test_save_figure_refuses_other_formats(tmp_path: Any):
    with pytest.raises(ValueError, match=r"path must end in \.png, got .*x\.pdf"):
        plots.save_figure(plt.figure(), tmp_path / "x.pdf")
