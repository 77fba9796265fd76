"""A user's own part, the same for all programs: images, a network, and its training by epochs."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = 27


@cache
def load_images() -> tuple[Tensor, ...]:
    """Return training images and labels, then validation images and labels."""
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    return images[:400], labels[:400], images[400:800], labels[400:800]


def build(configuration: dict[str, Any]) -> nn.Module:
    """Return a small convolutional network."""
    width = configuration["width"]
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    )


class Training:
    """A network that is trained epoch by epoch, and whose state can be kept and restored."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.network = build(configuration)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=configuration["lr"])

    def run_epoch(self, epoch: int) -> float:
        """Train one epoch; return the validation error."""
        torch.manual_seed(epoch)
        images, labels, validation_images, validation_labels = load_images()
        for batch in torch.randperm(len(labels)).split(32):
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(images[batch]), labels[batch]).backward()
            self.optimizer.step()

        with torch.no_grad():
            predicted = self.network(validation_images).argmax(dim=1)
        return float((predicted != validation_labels).float().mean())

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
