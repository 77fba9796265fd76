"""Images of all classes, each under the name of its class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo_lib.plots.images import plot_images
from hpo_lib.plots.style import label

CLASSES = ["cat", "$dog$", "eel"]
PIXELS = np.arange(30 * 3 * 4 * 4).reshape(30, 3, 4, 4).astype(np.uint8)


def test_every_class_is_seen_before_one_is_seen_twice():
    axes = plot_images(PIXELS, [0] * 20 + [1] * 7 + [2] * 3, CLASSES, 8)
    names = [label(name, 12) for name in CLASSES]
    assert [ax.get_title() for ax in axes] == [*names, *names, *names[:2]]
    assert (axes[1].images[0].get_array() == PIXELS[20].transpose(1, 2, 0)).all()
    assert (axes[3].images[0].get_array() == PIXELS[1].transpose(1, 2, 0)).all()


@pytest.mark.parametrize("n", [3, 24])
def test_each_image_stands_under_the_name_of_its_class(n):
    labels = torch.arange(30) % 3
    axes = plot_images(torch.from_numpy(PIXELS[:n]), labels[:n], CLASSES)
    assert len(axes) == n
    assert [ax.get_title() for ax in axes[:3]] == [label(name, 12) for name in CLASSES]
    assert (axes[1].images[0].get_array() == PIXELS[1].transpose(1, 2, 0)).all()


def test_grey_images_are_drawn_too():
    axes = plot_images(PIXELS[:, :1], [0] * 30, CLASSES, n=5)
    assert len(axes) == 5
