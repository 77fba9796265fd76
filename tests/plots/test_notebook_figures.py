"""The figures that notebooks draw with pandas, matplotlib and scikit-learn alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from hpo_lib.plots.style import MAX_BYTES, label, save_figure
from hpo_lib.runner.notebooks import notebooks_folder
from tests.plots.recorded import draw

N_IMAGES = 5000


def run_cell(notebook: str, text: str, names: dict[str, Any]) -> None:
    """Run the cell of a notebook that has a text."""
    cells = nbformat.read(notebooks_folder() / notebook, as_version=4).cells
    (source,) = (c.source for c in cells if c.cell_type == "code" and text in c.source)
    exec(source, names)


@pytest.fixture(params=[10, 1000])
def names(request, tmp_path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(request.param, size=N_IMAGES)
    classes = [f"$class_{i}^$" for i in range(request.param)]
    counts = np.bincount(labels, minlength=request.param).tolist()
    split = json.dumps({"counts": {"train": dict(zip(classes, counts, strict=True))}})
    return {
        "folder": tmp_path,
        "images": SimpleNamespace(classes=classes),
        "data_config": None,
        "json": json,
        "write_split": lambda *_: SimpleNamespace(read_text=lambda: split),
        "label": label,
        "np": np,
        "pd": pd,
        "plt": plt,
        "save_figure": save_figure,
    }


def coloured_share(path: Path) -> float:
    """Return the share of the pixels of a picture that are neither white nor grey."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return float((np.ptp(pixels, axis=-1) > 0.1).mean())


@pytest.mark.slow
def test_class_counts_are_seen_whatever_the_number_of_classes(names):
    run_cell("01_data_preparation.ipynb", "counts.plot.bar", names)
    path = names["folder"] / "figures" / "class_counts.png"
    assert path.stat().st_size <= MAX_BYTES
    assert coloured_share(path) > 0.05
    ax = names["ax"]
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert sum(heights) == N_IMAGES
    ticks = [text for text in draw(ax) if "class" in text and text != "class"]
    assert 2 < len(ticks) <= 31
    assert all(text.startswith(r"\$class") for text in ticks)
