"""Training of a network as the objective of a search."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from hpo_lib.files import read_settings, write_settings
from hpo_lib.objective import LOG_FOLDER, Segment, SegmentResult, function_identity
from hpo_lib.space.values import Configuration
from hpo_lib.training.config import (
    ADDED,
    DOWNLOADED,
    DataConfig,
    TrainingConfig,
    restore,
)
from hpo_lib.training.hardware import choose_device
from hpo_lib.training.loaders import ImageData, load_data
from hpo_lib.training.optimization import (
    REPLACED,
    Components,
    Loss,
    Network,
    Optimizer,
    own_components,
    standard_components,
)
from hpo_lib.training.splits import content_digest, split_source
from hpo_lib.training.trainer import train


@dataclass(frozen=True)
class TrainingObjective:
    """Validation error of a network whose hyperparameters a configuration names.

    The network is a ResNet, or what `network` builds. A function of the user's gets the whole
    configuration, which may then have hyperparameters that `TrainingConfig` has not, and replaces
    fields of `config`: `network` those of the ResNet, `loss` the loss and its parameters,
    `optimizer` the optimizer, its momentum and weight decay.

    A checkpoint is written where a segment ends before the budget. When a study closes a trial
    its checkpoints go and its logs stay: `tensorboard --logdir <studies' file>.checkpoints`.

    Attributes:
        config: hyperparameters that the configuration leaves open; its seed is replaced by the
            segment's.
        data: choice of the images and of their split, or images of the user's own.
        tensorboard: log into the segment's folder.
        network: `network(configuration, in_channels, n_classes)` returns a module that maps
            images (n, channels, height, width) from -1 to 1 to logits (n, classes).
        loss: `loss(configuration)` returns a function of logits and labels.
        optimizer: `optimizer(configuration, parameters)` returns an optimizer of torch, whose
            learning rates are the peaks of the schedule.

    Raises:
        TypeError: `data`, or one of the functions, is something else.

    Example:
        >>> objective = TrainingObjective(TrainingConfig(n_filters=2, epochs=1), DataConfig())
        >>> result = objective({"lr": 0.1}, Segment(seed=0, start=0, stop=1, budget=1))
        >>> len(result.validation_error)
        1
    """

    config: TrainingConfig
    data: DataConfig | ImageData
    tensorboard: bool = False
    network: Network | None = None
    loss: Callable[[Configuration], Loss] | None = None
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        given = vars(self)
        for part in REPLACED:
            function = given[part]
            if function is not None and not callable(function):
                message = f"{part} must be a function of a configuration, got {function!r}"
                raise TypeError(message)
        data = given["data"]
        if not isinstance(data, DataConfig | ImageData):
            rule = "data must be a DataConfig, or ImageData as ImageData.from_dataset returns it"
            message = f"{rule}, got {data!r:.200}"
            raise TypeError(message)

    @property
    def budget(self) -> int:
        """Epochs of a full training."""
        return self.config.epochs

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of training and data, without the seed (the segment's) and without places.

        A folder of images is named by the digest of its files: the same images elsewhere are the
        same objective, and changed images are another one.

        Raises:
            DataError: the folder of images cannot be read, or has too few for the wanted parts.
        """
        settings = {"training": self._training_settings, **self._identities}
        if isinstance(self.data, ImageData):
            return {**settings, "data": {"sha256": self.data.sha256}}

        data = asdict(self.data)
        del data["root"]
        if self.data.source in DOWNLOADED:
            return {**settings, "data": data}

        # Impossible parts are refused here, before a study is made.
        source, _ = split_source(self.data)
        digest = content_digest(source)
        if digest is not None:
            _drop_changed_data(self.data, digest)
            data |= {"source": "folder", "sha256": digest}
        return {**settings, "data": data}

    @property
    def earlier_settings(self) -> tuple[dict[str, Any], ...]:
        """Settings as earlier versions recorded them, with the path of a folder of images."""
        if isinstance(self.data, ImageData) or self._functions:
            return ()
        data = asdict(self.data)
        del data["root"]
        # The path was kept as it was typed: from the working directory or from the root.
        kind, _, folder = self.data.source.partition(":")
        typed = f"{kind}:{os.path.relpath(folder)}" if folder else kind
        training = self._training_settings
        sources = (self.data.source, typed)
        return tuple({"training": training, "data": {**data, "source": s}} for s in sources)

    @property
    def _functions(self) -> dict[str, Callable[..., Any]]:
        """Functions of the user's, by the part that they replace."""
        functions = {part: getattr(self, part) for part in REPLACED}
        return {part: function for part, function in functions.items() if function is not None}

    @property
    def _replaced(self) -> set[str]:
        """Names of the fields of `config` that do not matter."""
        return {name for part in self._functions for name in REPLACED[part]}

    @cached_property
    def _identities(self) -> dict[str, Any]:
        functions = self._functions.items()
        return {part: function_identity(function) for part, function in functions}

    @property
    def _training_settings(self) -> dict[str, Any]:
        ignored = {"seed", *self._replaced}
        training = asdict(self.config)
        # Studies of earlier versions do not name these: they stood at the defaults.
        ignored |= {name for name in ADDED if training[name] == getattr(TrainingConfig, name)}
        return {name: value for name, value in training.items() if name not in ignored}

    def save(self, path: str | Path) -> None:
        """Write the objective as JSON, with absolute paths.

        Args:
            path: file to create or replace, such as a run's `objective.json`.

        Raises:
            WriteError: the file could not be written.
            TypeError: it holds functions or images, which JSON cannot.
        """
        if self._functions or isinstance(self.data, ImageData):
            message = (
                "an objective with functions or images of your own cannot be saved as JSON: keep "
                "the code that makes it, and save its `config`"
            )
            raise TypeError(message)
        settings = {"config": asdict(self.config), "data": asdict(self.data)}
        write_settings(path, {**settings, "tensorboard": self.tensorboard})

    @classmethod
    def load(cls, path: str | Path) -> TrainingObjective:
        """Read the objective that notebook 03 saved into the folder of a run.

        Args:
            path: file that `save` wrote.

        Raises:
            DataError: the file is missing or damaged, or a value is not as it must be.
        """
        settings = read_settings(path, "03")
        settings["config"] = restore(TrainingConfig, settings.get("config", {}), path)
        settings["data"] = restore(DataConfig, settings.get("data", {}), path)
        return restore(cls, settings, path)

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Train one segment; its checkpoint is `epoch_<stop>.pt` in the segment's folder.

        Args:
            configuration: values that replace fields of `config`, or are for the user's functions.
            segment: seed, epochs, checkpoint and folder.

        Raises:
            ValueError: the configuration names the seed or an unknown field, or the segment's
                budget or folder does not fit.
        """
        if "seed" in configuration:
            message = f"seed must not be searched: the study gives it, got {configuration['seed']}"
            raise ValueError(message)

        config = replace(self.configured(configuration), seed=segment.seed)
        if config.epochs != segment.budget:
            message = (
                f"the segment's budget must be the training's epochs ({config.epochs}), "
                f"got {segment.budget}"
            )
            raise ValueError(message)

        save = segment.stop < segment.budget
        if segment.folder is None and (save or self.tensorboard):
            message = "the segment needs a folder for its checkpoint or log, got None"
            raise ValueError(message)

        folder = Path(segment.folder or ".")
        return train(
            config,
            self.load_images(config),
            start=segment.start,
            stop=segment.stop,
            checkpoint=segment.checkpoint,
            save_to=folder / f"epoch_{segment.stop}.pt" if save else None,
            log_folder=folder / LOG_FOLDER if self.tensorboard else None,
            study=segment.study,
            components=self.components(config, configuration),
        )

    def configured(self, configuration: Configuration) -> TrainingConfig:
        """Return the settings of a training: `config` with the values that are its own."""
        if not self._functions:
            return self.config.with_configuration(configuration)
        used = {item.name for item in fields(self.config)} - self._replaced
        return replace(self.config, **{k: v for k, v in configuration.items() if k in used})

    def components(self, config: TrainingConfig, configuration: Configuration) -> Components:
        """Return network, loss and optimizer of a training.

        Args:
            config: as `configured` returns it, with the seed of the training.
            configuration: all values, for the user's functions.
        """
        if not self._functions:
            return standard_components(config)
        return own_components(config, configuration, self._functions)

    def n_weights(self, configuration: Configuration) -> int:
        """Return how many weights the network of a configuration has; none is trained."""
        config = self.configured(configuration)
        build = self.components(config, configuration).network
        images = self.load_images(replace(config, device="cpu"))
        # On this device, tensors have a shape and no content.
        with torch.device("cpu" if "network" in self._functions else "meta"):
            network = build(images)
        return sum(weights.numel() for weights in network.parameters())

    def load_images(self, config: TrainingConfig) -> ImageData:
        """Return the images on the device of a training; a process reads them once."""
        if isinstance(self.data, ImageData):
            return self.data
        return load_cached(self.data, choose_device(config.device))

    def versions(self) -> dict[str, str]:
        """Return what identifies each function of the user's: its version, or a digest."""
        identities = self._identities.items()
        return {f"function {part}": identity["version"] for part, identity in identities}


# digest of the images as this process saw them last
_digests: dict[DataConfig, str] = {}


def _drop_changed_data(config: DataConfig, digest: str) -> None:
    """Forget loaded images whose files have changed since."""
    if _digests.setdefault(config, digest) != digest:
        _digests[config] = digest
        load_cached.cache_clear()


@lru_cache(maxsize=2)
def load_cached(config: DataConfig, device: torch.device) -> ImageData:
    """Load the data onto a device, once per process.

    Args:
        config: choice of the images and of their split.
        device: where to put them.
    """
    return load_data(config).to(device)
