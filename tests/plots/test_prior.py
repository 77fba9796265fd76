from __future__ import annotations

import numpy as np
import pytest

from hpo_lib import SearchSpace, plots
from tests.plots.recorded import SPACE, assert_labelled


@pytest.mark.parametrize("text", ["low: 1, high: 30", "low: 0, high: 99, step: 3"])
def test_bars_of_a_uniform_integer_are_about_equally_high(text):
    space = SearchSpace.from_yaml(f"n: {{type: int, {text}}}\n")
    (ax,) = plots.plot_prior(plots.prior_data(space, n=20_000))
    heights = [bar.get_height() for bar in ax.patches]
    assert len(heights) > 12
    assert max(heights) < 1.3 * min(heights)


def test_prior_leaves_inactive_draws_out():
    data = plots.prior_data(SPACE, n=400)
    assert list(data.draws) == [p.name for p in SPACE.searched]
    assert len(data.draws["lr"]) == 400
    assert 150 < np.isnan(data.draws["momentum"]).sum() < 250
    assert set(data.draws["n_filters"]) == {8, 12, 16, 20, 24}
    axes = plots.plot_prior(data)
    assert_labelled(axes)
    assert axes[1].get_xscale() == "log"
    heights = sum(patch.get_height() for patch in axes[0].patches)
    assert heights == pytest.approx(100)


@pytest.mark.parametrize(
    "text",
    [
        "type: int, low: 1, high: 4, log: true",
        "type: int, low: 1, high: 5000, log: true",
        "type: int, low: 3, high: 33",
        "type: float, low: 0.0, high: 1.0, step: 0.02",
        "type: float, low: 0.1, high: 0.7, step: 0.1",
        "type: float, low: 0.00001, high: 1.0, log: true",
        "type: choice, options: [a, b, true]",
    ],
)
def test_every_draw_lies_under_a_bar(text):
    (ax,) = plots.plot_prior(SearchSpace.from_yaml(f"x: {{{text}}}\n"))
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(100)
    assert_labelled(ax)
