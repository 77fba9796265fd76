"""Training as a tutorial writes it: images one by one through a DataLoader, eager float32."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hpo_lib.training.config import TrainingConfig
from hpo_lib.training.loaders import ImageData, Part, make_augmentation
from hpo_lib.training.optimization import (
    learning_rate,
    make_loss,
    make_network,
    make_optimizer,
)


class _Images(Dataset[tuple[torch.Tensor, int]]):
    """Images one at a time, as torchvision's own data sets give them."""

    def __init__(self, part: Part, transform: transforms.Compose) -> None:
        self.images = part.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = part.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        return self.transform(picture), self.labels[index]


class Plain:
    """The loop of the tutorials, with the engine's network, loss, optimiser and schedule.

    The dropout layers are torch's own, and the optimiser is not fused.
    """

    def __init__(self, config: TrainingConfig, data: ImageData) -> None:
        channels, height = data.train.images.shape[1:3]
        half = [0.5] * channels
        scale = [transforms.ToTensor(), transforms.Normalize(half, half)]
        augment = make_augmentation(config, data.train)
        crop = transforms.RandomCrop(height, padding=augment.crop_padding)
        flip = [transforms.RandomHorizontalFlip()] if augment.flip else []
        torch.manual_seed(config.seed)
        self.config = config
        self.loader = DataLoader(
            _Images(data.train, transforms.Compose([crop, *flip, *scale])),
            config.batch_size,
            shuffle=True,
            drop_last=len(data.train) >= config.batch_size,
        )
        self.validation = DataLoader(_Images(data.validation, transforms.Compose(scale)), 256)
        self.model = make_network(config, channels, len(data.classes))
        for module in self.model.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, nn.Dropout(child.p))
        self.optimizer = make_optimizer(config, self.model, torch.device("meta"))  # not fused
        self.loss = make_loss(config)
        self.step = 0

    def epoch(self) -> None:
        """Train one epoch."""
        self.model.train()
        for images, labels in self.loader:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.step, len(self.loader))
            self.optimizer.zero_grad()
            loss = self.loss(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            loss.item()  # the running loss that the tutorials print
            self.step += 1

    @torch.no_grad()
    def error(self) -> float:
        """Return the validation error."""
        self.model.eval()
        wrong = sum(
            int((self.model(images).argmax(1) != labels).sum())
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
