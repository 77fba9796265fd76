from __future__ import annotations

import pytest

from hpo_lib import SearchSpace, plots
from tests.plots.recorded import SPACE, assert_labelled


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
