from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpo_lib.plots.final import plot_confusion_matrix, plot_test_errors
from tests.plots.recorded import draw

N_IMAGES = 5000


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [10, 1000])
def test_a_confusion_matrix_is_readable_whatever_the_number_of_classes(n_classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=N_IMAGES)
    predicted = labels.copy()
    predicted[:1000] = (labels[:1000] + 1) % n_classes

    classes = [f"$class_{i}^$" for i in range(n_classes)]
    texts = draw(plot_confusion_matrix(labels, predicted, classes))
    assert "accuracy 80.0%, n = 5,000 predictions" in texts
    ticks = [text for text in texts if text.startswith(r"\$class")]
    assert 4 < len(ticks) <= 62


def test_test_errors_are_paired_by_seed_and_name_their_means():
    final = pd.DataFrame(
        {
            "configuration": ["default"] * 2 + ["tuned"] * 2,
            "seed": [0, 1] * 2,
            "test_error": [0.2, 0.3, 0.1, np.nan],
            "n_test": 1797,
        }
    )
    ax = plot_test_errors(final)
    texts = draw(ax)
    assert "1,797 test images; black bars: means" in texts
    assert {"0.250", "0.100"} <= set(texts)
    assert "default\nn = 2 seeds" in texts
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.2, 0.1])
