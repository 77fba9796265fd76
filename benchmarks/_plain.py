"""Training as a tutorial writes it: images one by one through a DataLoader, eager float32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hpo_lib.training.config import TrainingConfig
from hpo_lib.training.loaders import Augmentation, ImageData, Part, make_augmentation
from hpo_lib.training.optimization import (
    fit_norms,
    learning_rate,
    make_average,
    make_loss,
    make_optimizer,
    mean_logits,
    standard_components,
)


class _Images(Dataset[tuple[torch.Tensor, int]]):
    """Images one at a time, as torchvision's own data sets give them."""

    def __init__(self, part: Part, augment: Augmentation | None = None) -> None:
        self.images = part.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = part.labels.tolist()
        self.augment(augment)

    def augment(self, augment: Augmentation | None) -> None:
        """Change what is done to the images from now on."""
        self.mirrored = None if augment is None else augment.mirrored
        height, channels = self.images.shape[1], self.images.shape[3]
        half = [0.5] * channels
        steps: list[Any] = []
        if augment is not None:
            steps.append(transforms.RandomCrop(height, padding=augment.crop_padding))
        if augment is not None and augment.flip and augment.mirrored is None:
            steps.append(transforms.RandomHorizontalFlip())
        if augment is not None and augment.cutout > 0:
            steps.append(_Cutout(augment.cutout))
        if augment is not None and augment.shrink:
            steps.append(transforms.Resize(round(0.75 * height)))
        steps += [transforms.ToTensor(), transforms.Normalize(half, half)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        if self.mirrored is not None and self.mirrored[index]:
            image = np.ascontiguousarray(image[:, ::-1])
        return self.transform(_picture(image)), self.labels[index]


class _Cutout:
    """Blacken a square of a picture at random."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, picture: Image.Image) -> Image.Image:
        image = np.array(picture)
        height, width = image.shape[:2]
        top = int(torch.randint(height, ())) - self.side // 2
        left = int(torch.randint(width, ())) - self.side // 2
        image[max(0, top) : top + self.side, max(0, left) : left + self.side] = 0
        return _picture(image)


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)


class Plain:
    """The loop of the tutorials, with the engine's network, loss, optimiser and schedule.

    The dropout layers are torch's own, the network is in the standard layout of memory, and the
    optimiser is not fused.
    """

    def __init__(self, config: TrainingConfig, data: ImageData) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.part = data.train
        self.images = _Images(data.train)
        self.loader = DataLoader(
            self.images,
            config.batch_size,
            shuffle=True,
            drop_last=len(data.train) >= config.batch_size,
        )
        self.validation = DataLoader(_Images(data.validation), 256)
        model = standard_components(config).network(data)
        self.model = model.to(memory_format=torch.contiguous_format)
        for module in self.model.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, nn.Dropout(child.p))
        self.optimizer = make_optimizer(config, self.model, torch.device("meta"))  # not fused
        # Filters under Muon and the biases of batch norms have rates of their own.
        self.scales = [group["lr"] / config.lr for group in self.optimizer.param_groups]
        self.average = make_average(config, self.model)
        self.loss = make_loss(config)
        self.step = 0
        self.done = 0

    def epoch(self) -> None:
        """Train one epoch."""
        self.done += 1
        self.images.augment(make_augmentation(self.config, self.part, self.done))
        self.model.train()
        for images, labels in self.loader:
            rate = learning_rate(self.config, self.step, len(self.loader))
            for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
                group["lr"] = rate * scale
            self.optimizer.zero_grad()
            loss = self.loss(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            loss.item()  # the running loss that the tutorials print
            self.step += 1

    @torch.no_grad()
    def error(self) -> float:
        """Return the validation error."""
        model: nn.Module = self.model
        if self.average is not None:
            model = self.average.module
            augment = make_augmentation(self.config, self.part, self.done)
            fit_norms(model, self.part, augment, torch.Generator().manual_seed(self.done))
        model.eval()
        wrong = sum(
            int((mean_logits(model, images, self.config.evaluation).argmax(1) != labels).sum())
            for images, labels in self.validation
        )
        return wrong / len(self.validation.dataset)  # pyright: ignore


def plain_epochs(config: TrainingConfig, data: ImageData) -> Iterator[tuple[float, float]]:
    """Yield the validation error and CPU seconds of each epoch; to be run with one thread."""
    plain = Plain(config, data)
    for _ in range(config.epochs):
        began = time.process_time()
        plain.epoch()
        error = plain.error()
        yield error, time.process_time() - began
