"""Training of a residual network as the objective of a search."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from hpo_lib.exceptions import DataError
from hpo_lib.files import read_settings, write_settings
from hpo_lib.objective import LOG_FOLDER, Segment, SegmentResult
from hpo_lib.space.values import Configuration
from hpo_lib.training.config import DataConfig, TrainingConfig, restore
from hpo_lib.training.hardware import choose_device
from hpo_lib.training.loaders import ImageData, load_data
from hpo_lib.training.splits import content_digest, split_source
from hpo_lib.training.trainer import train


@dataclass(frozen=True)
class TrainingObjective:
    """Validation error of a ResNet whose hyperparameters a configuration names.

    A checkpoint is written where a segment ends before the budget. When a study closes a trial
    its checkpoints go and its logs stay: `tensorboard --logdir <studies' file>.checkpoints`.

    Attributes:
        config: hyperparameters that the configuration leaves open; its seed is replaced by the
            segment's.
        data: choice of the images and of their split.
        tensorboard: log into the segment's folder.

    Example:
        >>> objective = TrainingObjective(TrainingConfig(n_filters=2, epochs=1), DataConfig())
        >>> result = objective({"lr": 0.1}, Segment(seed=0, start=0, stop=1, budget=1))
        >>> len(result.validation_error)
        1
    """

    config: TrainingConfig
    data: DataConfig
    tensorboard: bool = False

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
        # Impossible parts are refused here, before a study is made. CIFAR-10 may have to be
        # downloaded first.
        if self.data.source != "cifar10":
            split_source(self.data)

        settings = self.earlier_settings[0]
        digest = content_digest(self.data)
        if digest is not None:
            _drop_changed_data(self.data, digest)
            settings["data"] |= {"source": "folder", "sha256": digest}
        return settings

    @property
    def earlier_settings(self) -> tuple[dict[str, Any], ...]:
        """Settings as earlier versions recorded them, with the path of a folder of images."""
        training = asdict(self.config)
        data = asdict(self.data)
        del training["seed"]
        del data["root"]
        # The path was kept as it was typed: from the working directory or from the root.
        kind, _, folder = self.data.source.partition(":")
        typed = f"{kind}:{os.path.relpath(folder)}" if folder else kind
        sources = (self.data.source, typed)
        return tuple({"training": training, "data": {**data, "source": s}} for s in sources)

    def save(self, path: str | Path) -> None:
        """Write the objective as JSON, with absolute paths.

        Args:
            path: file to create or replace, such as a run's `objective.json`.

        Raises:
            WriteError: the file could not be written.
        """
        write_settings(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> TrainingObjective:
        """Read the objective that notebook 03 saved into the folder of a run.

        Args:
            path: file that `save` wrote.

        Raises:
            DataError: the file is missing or damaged, or a value is not as it must be.
        """
        settings = read_settings(path, "03")
        config = restore(TrainingConfig, settings.pop("config", {}), path)
        data = restore(DataConfig, settings.pop("data", {}), path)
        try:
            return cls(config, data, **settings)
        except TypeError as error:
            message = f"{path} has unknown settings: {', '.join(sorted(settings))}"
            raise DataError(message) from error

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Train one segment; its checkpoint is `epoch_<stop>.pt` in the segment's folder.

        Args:
            configuration: values that replace fields of `config`.
            segment: seed, epochs, checkpoint and folder.

        Raises:
            ValueError: the configuration names the seed or an unknown field, or the segment's
                budget or folder does not fit.
        """
        if "seed" in configuration:
            message = f"seed must not be searched: the study gives it, got {configuration['seed']}"
            raise ValueError(message)

        config = replace(self.config.with_configuration(configuration), seed=segment.seed)
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
            load_cached(self.data, choose_device(config.device)),
            start=segment.start,
            stop=segment.stop,
            checkpoint=segment.checkpoint,
            save_to=folder / f"epoch_{segment.stop}.pt" if save else None,
            log_folder=folder / LOG_FOLDER if self.tensorboard else None,
            study=segment.study,
        )


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
