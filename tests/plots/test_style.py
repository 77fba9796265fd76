from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
import skopt.plots
from matplotlib.colors import LogNorm

from hpo_lib import SearchSpace, plots
from hpo_lib.plots import style
from hpo_lib.plots.style import label, show_figure
from hpo_lib.trials import StudyRecord
from tests.plots.recorded import SPACE, add, draw, make_study


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
    StudyRecord(space=space.to_yaml()).write(study)
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
        draw(plot(study))
    draw(plots.plot_prior(space))
    draw(plots.plot_importance(study))
    draw(plots.plot_pair_matrix(study))
    draw(plots.plot_slice(study, [name]))
    plt.close("all")
    skopt.plots.plot_objective(plots.skopt_result(study), n_points=4, n_samples=5)
    plt.gcf().draw_without_rendering()
    draw(plots.plot_timeline(study))


def test_values_over_decades_get_a_log_axis():
    study = optuna.create_study()
    for value in (1e-3, 1e-2, 1.0):
        add(study, SPACE, SPACE.default_configuration(), value=value)
    assert plots.plot_any_time(study).get_yscale() == "log"
    StudyRecord(space=SPACE.to_yaml()).write(study)
    ax = plots.plot_parallel_coordinates(study)
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
    assert path.stat().st_size <= style.MAX_BYTES
    plots.save_figure(plt.figure(), path)
    assert [file.name for file in path.parent.iterdir()] == ["slices.png"]


def test_save_figure_lowers_the_resolution_of_large_figures(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    ax = plots.plot_any_time(make_study())
    large = plots.save_figure(ax, tmp_path / "large.png").stat().st_size
    monkeypatch.setattr(style, "MAX_BYTES", 10_000)
    assert plots.save_figure(ax, tmp_path / "small.png").stat().st_size <= 10_000 < large


def test_save_figure_refuses_other_formats(tmp_path: Any):
    with pytest.raises(ValueError, match=r"path must end in \.png, got .*x\.pdf"):
        plots.save_figure(plt.figure(), tmp_path / "x.pdf")


def test_a_figure_that_cannot_be_drawn_is_said_and_leaves_nothing_open(tmp_path, capsys):
    def plot(values: list[float]) -> object:
        ax = plt.figure().subplots()
        if not values:
            message = "values must not be empty"
            raise ValueError(message)
        return ax

    kept = plt.figure()
    show_figure(tmp_path / "empty.png", plot, [])
    assert "empty is not drawn: values must not be empty" in capsys.readouterr().out
    assert plt.get_fignums() == [kept.number]
    assert not (tmp_path / "empty.png").exists()

    show_figure(tmp_path / "full.png", plot, values=[1.0])
    assert (tmp_path / "full.png").stat().st_size > 0
