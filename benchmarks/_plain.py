"""Training as a tutorial writes it: images one by one through a DataLoader, eager float32."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from hpo_lib.data import ImageData, Part
from hpo_lib.recipe import (
    TrainingConfig,
    learning_rate,
    make_augmentation,
    make_loss,
    make_network,
    make_optimizer,
)


class _Images(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory, each turned into a PIL image and transformed when it is asked for."""

    def __init__(self, part: Part, transform: transforms.Compose) -> None:
        self.images = part.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = part.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(to_pil_image(self.images[index])), self.labels[index]


def plain_epochs(config: TrainingConfig, data: ImageData) -> Iterator[tuple[float, float]]:
    """Train the network of `hpo_lib` by the plain loop: validation error and seconds per epoch.

    Network, loss, optimiser, schedule and augmentation are those of the engine, the dropout
    layers torch's own. Seconds are of the process's CPU time: run it with one thread.
    """
    torch.manual_seed(config.seed)
    augmentation = make_augmentation(config, data.train)
    changes = [transforms.RandomCrop(data.train.images.shape[2], augmentation.crop_padding)]
    changes += [transforms.RandomHorizontalFlip()] if augmentation.flip else []
    n_channels = data.train.images.shape[1]
    scale = [
        transforms.ToTensor(),
        transforms.Normalize((data.mean,) * n_channels, (data.std,) * n_channels),
    ]
    whole = len(data.train) >= config.batch_size
    loader = DataLoader(
        _Images(data.train, transforms.Compose([*changes, *scale])),
        config.batch_size,
        shuffle=True,
        drop_last=whole,
    )
    held_out = DataLoader(_Images(data.validation, transforms.Compose(scale)), 256)
    model = make_network(config, n_channels, len(data.classes))
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Dropout(child.p))
    optimizer = make_optimizer(config, model, torch.device("cpu"))
    loss_function = make_loss(config)
    step = 0
    for _ in range(config.epochs):
        began = time.process_time()
        model.train()
        for images, labels in loader:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, len(loader))
            optimizer.zero_grad()
            loss_function(model(images), labels).backward()
            optimizer.step()
            step += 1
        model.eval()
        wrong = 0
        with torch.no_grad():
            for images, labels in held_out:
                logits = model(images)
                wrong += int((logits.argmax(1) != labels).sum())
                F.cross_entropy(logits, labels)
        yield wrong / len(data.validation), time.process_time() - began
