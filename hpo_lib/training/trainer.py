"""Training of a network on images, from any epoch to any later one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.exceptions import CheckpointError
from hpo_lib.formatting import format_number
from hpo_lib.objective import Segment, SegmentResult, check_origin
from hpo_lib.progress import Progress
from hpo_lib.training.checkpoints import (
    MISFIT,
    NETWORK,
    checkpoint_errors,
    read_checkpoint,
    write_checkpoint,
)
from hpo_lib.training.config import TrainingConfig
from hpo_lib.training.hardware import (
    autocast,
    choose_device,
    clear_vector_registers,
    keep_freed_memory,
    reproducible,
    seeded_generator,
)
from hpo_lib.training.loaders import ImageData, Part, batches, make_augmentation
from hpo_lib.training.optimization import (
    Components,
    fit_norms,
    learning_rate,
    make_average,
    make_network,
    mean_logits,
    prepare_network,
    standard_components,
)

_EVALUATION_BATCH_SIZE = 256
_DIVERGENCE_INTERVAL = 64  # steps between two checks of the loss, which wait for the device


@dataclass(frozen=True)
class Predictions:
    """Predictions of a trained network for one part of the data.

    Attributes:
        labels: true class indices (n,).
        predicted: predicted class indices (n,).
        loss: mean cross-entropy, whatever loss was minimised.
        error: share of wrong predictions.
    """

    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    loss: float
    error: float


class EpochResult(NamedTuple):
    """Losses, accuracy and error of one epoch, and the seconds that it took."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_error: float
    seconds: float

    @property
    def is_finite(self) -> bool:
        """Return whether neither loss has diverged."""
        return math.isfinite(self.train_loss) and math.isfinite(self.validation_loss)

    def __str__(self) -> str:
        return (
            f"training loss {format_number(self.train_loss)}, "
            f"validation loss {format_number(self.validation_loss)}, "
            f"validation error {format_number(self.validation_error)}"
        )


def train(
    config: TrainingConfig,
    data: ImageData,
    *,
    start: int | None = None,
    stop: int | None = None,
    checkpoint: str | Path | None = None,
    save_to: str | Path | None = None,
    log_folder: str | Path | None = None,
    study: str | None = None,
    components: Components | None = None,
    progress: bool | Progress = False,
) -> SegmentResult:
    """Train the epochs `start` (exclusive) to `stop` (inclusive).

    Args:
        config: hyperparameters; its `epochs` are the full budget that the schedule spans.
        data: training and validation images; moved to the device if need be.
        start: epochs already done; None: those of `checkpoint`, or 0 without one.
        stop: the last epoch to train, at most `config.epochs`; None: all.
        checkpoint: file that an earlier call wrote; needed where `start` is above 0.
        save_to: file for the state after each epoch.
        log_folder: folder for TensorBoard scalars.
        study: identity of the study, written into checkpoints; None: of none.
        components: network, loss and optimizer; None: those that `config` names.
        progress: show a bar with the last epoch and the time left; in a log, a line now and then.
            In a larger piece of work, its progress, in which each epoch is a step.

    Returns:
        One entry per epoch in every curve. A training that diverges ends before the epoch in
        which a loss stopped being finite.

    Raises:
        CheckpointError: `checkpoint` is damaged, or of another configuration, epoch or study, or
            of other data.

    Example:
        >>> from hpo_lib import DataConfig, load_data
        >>> data = load_data(DataConfig("digits", n_train=200))
        >>> train(TrainingConfig(n_filters=2, epochs=1), data).status
        'completed'
    """
    device = choose_device(config.device)
    origin = {"study": study}
    if checkpoint is not None or save_to is not None:
        origin["data"] = data.sha256
    data = data.to(device)

    trainer = Trainer(config, data, device, origin, components)
    n_done = 0 if checkpoint is None else trainer.load(checkpoint)
    start = n_done if start is None else start
    stop = config.epochs if stop is None else stop
    Segment(seed=config.seed, start=start, stop=stop, budget=config.epochs)  # validates
    if start != n_done:
        message = f"start must be the epoch of the checkpoint ({n_done}), got {start}"
        raise CheckpointError(message)

    bar: AbstractContextManager[Progress]
    if isinstance(progress, Progress):
        bar = nullcontext(progress)
    else:
        bar = Progress(stop, done=start, enabled=progress)
    epochs: list[dict[str, float]] = []
    with _scalar_log(log_folder, start) as write_scalars, bar as shown:
        for epoch in range(start + 1, stop + 1):
            result = trainer.run_epoch(epoch, data)
            if not result.is_finite:
                return SegmentResult.of_epochs(epochs, status="diverged")

            epochs.append(result._asdict())
            write_scalars(epoch, result)
            shown.advance(partial(str, result))
            if save_to is not None:
                trainer.save(save_to, epoch)
    return SegmentResult.of_epochs(epochs, save_to)


def evaluate(
    config: TrainingConfig,
    checkpoint: str | Path,
    part: Part,
    *,
    network: nn.Module | None = None,
) -> Predictions:
    """Predict the labels of one part of the data with the weights after the last epoch.

    Args:
        config: hyperparameters; those of the ResNet must be the checkpoint's.
        checkpoint: file that `train` wrote.
        part: images and true labels.
        network: one of the user's, as it was built for the training; it gets the weights. None:
            the ResNet of `config`.

    Raises:
        CheckpointError: `checkpoint` is damaged, or of another network or other images.
    """
    device = choose_device(config.device)
    shared = {} if network else {name: getattr(config, name) for name in NETWORK}
    with checkpoint_errors(checkpoint):
        content = read_checkpoint(checkpoint, shared)
        state: dict[str, Tensor] = content.get("average", content["model"])

    if network is None:
        n_classes = len(state["classifier.bias"])
        model = make_network(config, part.images.shape[1], n_classes)
        model = model.to(memory_format=torch.channels_last)
    else:
        model = prepare_network(network, part.images)
    with checkpoint_errors(checkpoint, MISFIT):
        model.to(device).load_state_dict(state)

    part = part.to(device)
    logits = _predict(model, part, autocast(config, device), config.evaluation)
    loss, error = _score(logits, part.labels)
    return Predictions(
        labels=part.labels.cpu().numpy(),
        predicted=logits.argmax(1).cpu().numpy(),
        loss=loss,
        error=error,
    )


class Trainer:
    """State that changes while a network is trained.

    The weights of the network are drawn, and the process is tuned for its training.

    Args:
        config: hyperparameters.
        data: images and classes that the network has to fit.
        device: where to put it.
        origin: study and digest of the data, as checkpoints name them.
        components: network, loss and optimizer; None: those that `config` names.

    Attributes:
        model: the network.
        forward: the network, compiled if asked for.
        optimizer: optimizer of its parameters.
        average: moving average of the weights, which is validated in their place; None: of none.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: ImageData,
        device: torch.device,
        origin: Mapping[str, str | None] | None = None,
        components: Components | None = None,
    ) -> None:
        self.config = config
        self.components = components or standard_components(config)
        self.device = device
        self.origin = origin or {}

        with reproducible(device, config.seed, 0):
            model = self.components.network(data)
        self.model = model.to(device)
        keep_freed_memory()
        clear_vector_registers()
        self.forward: Any = torch.compile(self.model) if config.compile else self.model
        self.average = make_average(config, self.model)
        self.optimizer = self.components.optimizer(self.model, device)
        # An optimizer of the user's may have several learning rates.
        self.scales = [group["lr"] / config.lr for group in self.optimizer.param_groups]

    def run_epoch(self, epoch: int, data: ImageData) -> EpochResult:
        """Train one epoch and validate.

        Args:
            epoch: number of the epoch, from 1.
            data: training and validation images, on the device.
        """
        start_time = time.perf_counter()
        with reproducible(self.device, self.config.seed, epoch):
            train_loss, train_accuracy = self.train_epoch(epoch, data.train)
            precision = autocast(self.config, self.device)
            model = self._validated(epoch, data.train)
            logits = _predict(model, data.validation, precision, self.config.evaluation)

        validation_loss, validation_error = _score(logits, data.validation.labels)
        return EpochResult(
            train_loss,
            train_accuracy,
            validation_loss,
            validation_error,
            seconds=time.perf_counter() - start_time,
        )

    def train_epoch(self, epoch: int, part: Part) -> tuple[float, float]:
        """Take one optimizer step per batch.

        Args:
            epoch: number of the epoch, from 1.
            part: training images, on the device.

        Returns:
            Mean loss and accuracy over the steps.
        """
        config = self.config
        precision = autocast(config, self.device)

        # whole batches only: a last batch of few images would disturb the batch norms
        has_whole_batch = len(part) >= config.batch_size
        n_steps = len(part) // config.batch_size if has_whole_batch else 1
        epoch_batches = batches(
            part,
            config.batch_size,
            generator=seeded_generator(config.seed, epoch, 1),
            augment=make_augmentation(config, part, epoch),
            shuffle=True,
            drop_last=has_whole_batch,
        )

        losses: list[Tensor] = []
        hits: list[Tensor] = []
        self.model.train()
        for index, (images, labels) in enumerate(epoch_batches):
            rate = learning_rate(config, (epoch - 1) * n_steps + index, n_steps)
            for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
                group["lr"] = rate * scale
            self.optimizer.zero_grad()

            with precision():
                logits = self.forward(images)
            loss = self.components.loss(logits.float(), labels)
            loss.backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)

            # tensors, because a number would wait for the device
            losses.append(loss.detach())
            hits.append(logits.detach().argmax(1) == labels)
            is_check = index % _DIVERGENCE_INTERVAL == _DIVERGENCE_INTERVAL - 1
            if is_check and not math.isfinite(float(losses[-1])):
                break
        loss = torch.stack(losses).mean()
        accuracy = torch.cat(hits).float().mean()
        return float(loss), float(accuracy)

    def _validated(self, epoch: int, part: Part) -> nn.Module:
        """Return the network that is validated after an epoch; `part` has training images."""
        if self.average is None:
            return self.model
        augment = make_augmentation(self.config, part, epoch)
        generator = seeded_generator(self.config.seed, epoch, 3)
        with autocast(self.config, self.device)():
            fit_norms(self.average.module, part, augment, generator)
        return self.average.module

    def save(self, path: str | Path, epoch: int) -> None:
        """Write a checkpoint.

        Args:
            path: file.
            epoch: epochs done.
        """
        content = {
            "epoch": epoch,
            "config": asdict(self.config) | self.components.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.origin,
        }
        if self.average is not None:
            content["average"] = self.average.module.state_dict()
        write_checkpoint(path, content)

    def load(self, path: str | Path) -> int:
        """Go on from a checkpoint; return the epochs done."""
        with checkpoint_errors(path):
            content = read_checkpoint(path, self.components.identity)
            with checkpoint_errors(path, MISFIT):
                self.model.load_state_dict(content["model"])
                if self.average is not None:
                    self.average.module.load_state_dict(content["average"])
                    self.average.n_averaged.fill_(content["epoch"])
            check_origin(path, content, self.origin)
            self.optimizer.load_state_dict(content["optimizer"])
            return content["epoch"]


@torch.inference_mode()
def _predict(model: nn.Module, part: Part, precision: Callable[[], Any], views: str) -> Tensor:
    """Return the logits (n, classes) of a part, as means over the views of each image."""
    model.eval()
    outputs: list[Tensor] = []
    for images, _ in batches(part, _EVALUATION_BATCH_SIZE):
        with precision():
            outputs.append(mean_logits(model, images, views))
    return torch.cat(outputs)


def _score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean cross-entropy and the share of wrong predictions."""
    loss = float(F.cross_entropy(logits, labels))
    n_wrong = int((logits.argmax(1) != labels).sum())
    return loss, n_wrong / len(labels)


_EpochCallback = Callable[[int, EpochResult], None]


@contextmanager
def _scalar_log(folder: str | Path | None, start: int) -> Generator[_EpochCallback]:
    """Write TensorBoard scalars; those of an interrupted run after `start` are not shown."""
    if folder is None:
        yield lambda epoch, result: None
        return

    from torch.utils.tensorboard import SummaryWriter  # slow to import, and often not needed

    with SummaryWriter(str(folder), purge_step=start + 1) as writer:

        def write(epoch: int, result: EpochResult) -> None:
            scalars = {
                "training_loss": result.train_loss,
                "training_accuracy": result.train_accuracy,
                "validation_loss": result.validation_loss,
                "validation_accuracy": 1 - result.validation_error,
            }
            for name, value in scalars.items():
                writer.add_scalar(name, value, epoch)

        yield write
