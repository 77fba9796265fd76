from __future__ import annotations

import math

import numpy as np
import pytest

from hpo_lib import fit_surrogate, plots
from tests.plots.recorded import SPACE, TrueFunction, draw, make_study


def test_partial_dependence_of_a_known_function():
    data = plots.pair_matrix_data(make_study(), ["lr", "momentum"], surrogate=TrueFunction())
    assert list(data.surfaces) == [("lr", "momentum")]
    assert data.grids["lr"][[0, -1]] == pytest.approx([1e-4, 1e-1])
    mean, std = data.curves["lr"]
    assert abs(math.log10(data.grids["lr"][mean.argmin()]) + 2.2) < 0.2
    assert std == pytest.approx(0.01)
    surface = data.surfaces["lr", "momentum"]
    expected = 0.15 * (data.grids["momentum"][-1] - data.grids["momentum"][0])
    assert surface[0] - surface[-1] == pytest.approx(expected)


def test_partial_dependence_is_missing_where_a_parameter_is_inactive():
    data = plots.pair_matrix_data(
        make_study(), ["optimizer", "momentum"], surrogate=TrueFunction()
    )
    surface = data.surfaces["optimizer", "momentum"]
    assert np.isnan(surface[:, 0]).all()
    assert np.isfinite(surface[:, 1]).all()
    draw(plots.plot_pair_matrix(data))


def test_pair_matrix_shows_the_parameters_that_matter_most():
    axes = plots.plot_pair_matrix(make_study(), k=3, surrogate=TrueFunction())
    assert axes.shape == (3, 3)
    assert axes[0, 1] is None
    assert [ax.get_xlabel() for ax in axes[-1]] == ["lr", "activation", "momentum"]
    assert [ax.get_ylabel() for ax in axes[1:, 0]] == ["activation", "momentum"]
    draw(axes)


def test_pair_matrix_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"names must be .* out of .* got \['stride'\]"):
        plots.pair_matrix_data(make_study(), ["stride"])
    with pytest.raises(ValueError, match=r"names must be different .* got \['lr', 'lr'\]"):
        plots.pair_matrix_data(make_study(), ["lr", "lr"])


def test_pair_matrix_fits_the_surrogate_of_the_study():
    study = make_study()
    names = ["lr", "activation"]
    data = plots.pair_matrix_data(study, names)
    fitted = fit_surrogate(study, SPACE)
    expected = plots.pair_matrix_data(study, names, surrogate=fitted)
    assert data.surfaces["lr", "activation"] == pytest.approx(
        expected.surfaces["lr", "activation"]
    )
