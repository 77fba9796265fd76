"""Settings of a training and of its data, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from hpo_lib.exceptions import DataError
from hpo_lib.files import read_settings, user_path, write_settings
from hpo_lib.training.resnet import (
    Activation,
    Pooling,
    ResidualInit,
    ShortcutKind,
    StemKind,
    architecture,
    check_filter_size,
)

_Positive = Annotated[int, Field(ge=1)]
_NonNegative = Annotated[int, Field(ge=0)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(gt=0, lt=1)]


DOWNLOADED = ("cifar10", "cifar100")
"""Data sets that never change and may have to be downloaded."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of the network and of its training.

    Attributes:
        depth: weighted layers: 6n+2 (8, 14, 20, ...) or 18, 34, 50, 101, 152.
        n_filters: channels of the first stage.
        width_growth: channels of each later stage as a multiple of the one before, rounded.
        filter_size: side of the square convolution kernels in pixels, odd.
        dropout: probability that an element is dropped, in every residual block.
        activation: nonlinearity of all layers.
        shortcut: how a shortcut widens; None: as published for the depth.
        stride: stride of the first stage, 1 or 2.
        stem: "convolution", or "whitening": before it stands a fixed convolution that whitens
            patches of the training images.
        pre_activation: put norms and activations before the convolutions of the blocks (He et al.
            2016, arXiv:1603.05027).
        residual_init: weights that the blocks begin with, "he" (He et al. 2015), or "dirac":
            the identity, as far as there are filters (Jordan 2024, arXiv:2404.00498).
        pooling: what the classifier gets of each channel, its "average" or "max" over all pixels.
        logit_scale: factor of the logits; below 1 the classifier begins nearer to even
            probabilities and learns more slowly (1/9 in Jordan 2024).
        optimizer: "sgd" (with Nesterov momentum), "adamw", or "muon" for convolution filters
            with "sgd" for all else.
        loss: loss that training minimises; the validation loss is always the cross-entropy.
        lr: peak of the learning rate schedule.
        filter_lr: the same for the filters of "muon", whose step has this length at the peak,
            relative to the length of the filters.
        norm_bias_lr_factor: learning rate of the biases of batch norms, as a multiple.
        momentum: Nesterov momentum, for "sgd" and "muon".
        weight_decay: L2 penalty; norms, biases and PReLU are spared.
        batch_size: images per step.
        epochs: passes over the training images; the budget that the schedule spans.
        schedule: course of the learning rate after the warm-up; "one_cycle" is "linear" with a
            longer warm-up.
        final_lr_fraction: learning rate at which the schedule ends, as a share of the peak.
        warmup_epochs: epochs in which the learning rate rises linearly.
        crop_padding: margin of the random crops in pixels; None: an eighth of the height.
        flip: mirror every second image at random.
        alternate_flip: mirror the images at random in the first epoch, then those that were
            not mirrored in the epoch before.
        cutout: side in pixels of a square that is blackened at random in each image; 0: none.
        label_smoothing: smoothing of the loss "label_smoothing".
        focal_gamma: exponent of the loss "focal".
        low_resolution: share of the epochs, from the first one, in which images are shrunk to
            three quarters of their sides (after Howard 2018, DAWNBench).
        ema_decay: validate and test an exponential moving average of the weights, which keeps
            this share of itself in each step (Polyak and Juditsky 1992); 0: the weights as they
            are. Its batch norms are fitted to augmented images before each validation.
        evaluation: images on which logits rest in validation and test: "plain", "mirror" (mean of
            the image and its mirror image) or "mirror_and_shift" (of these two and, together with
            the same weight, both moved by a pixel along each diagonal; Jordan 2024).
        seed: seed of weights, order of the images, augmentation and dropout.
        precision: "auto" computes in bfloat16 where the hardware does.
        device: "auto" takes CUDA, else MPS, else the CPU.
        compile: compile the network with `torch.compile`.

    Example:
        >>> TrainingConfig(depth=20, lr=0.1).with_configuration({"optimizer": "adamw"}).optimizer
        'adamw'
    """

    depth: int = 8
    n_filters: _Positive = 16
    width_growth: Annotated[float, Field(ge=1, le=8)] = 2.0
    filter_size: int = 3
    dropout: _Rate = 0.0
    activation: Activation = "relu"
    shortcut: ShortcutKind | None = None
    stride: Annotated[int, Field(ge=1, le=2)] = 1
    stem: StemKind = "convolution"
    pre_activation: bool = False
    residual_init: ResidualInit = "he"
    pooling: Pooling = "average"
    logit_scale: _PositiveFloat = 1.0

    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    loss: Literal["cross_entropy", "label_smoothing", "focal"] = "cross_entropy"
    lr: _PositiveFloat = 0.05
    filter_lr: _PositiveFloat = 0.2
    norm_bias_lr_factor: _PositiveFloat = 1.0
    momentum: _Rate = 0.9
    weight_decay: _NonNegativeFloat = 5e-4
    batch_size: Annotated[int, Field(ge=2)] = 64
    epochs: _Positive = 30
    schedule: Literal["cosine", "one_cycle", "linear", "constant"] = "one_cycle"
    final_lr_fraction: _Rate = 0.0
    warmup_epochs: _NonNegative = 1

    crop_padding: _NonNegative | None = None
    flip: bool = True
    alternate_flip: bool = False
    cutout: _NonNegative = 0
    label_smoothing: _Rate = 0.1
    focal_gamma: _NonNegativeFloat = 2.0
    low_resolution: _Rate = 0.0
    ema_decay: _Rate = 0.0
    evaluation: Literal["plain", "mirror", "mirror_and_shift"] = "plain"

    seed: _NonNegative = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse wrong types and ranges, all at once, then a network that cannot be built."""
        _check_fields(self, ValueError)
        architecture(self.depth)
        check_filter_size(self.filter_size)
        if self.alternate_flip and not self.flip:
            message = "alternate_flip must be False where flip is False, got True"
            raise ValueError(message)

    def with_configuration(self, configuration: Mapping[str, Any]) -> TrainingConfig:
        """Return a copy in which the values of a configuration replace the fields they name."""
        names = [item.name for item in fields(self)]
        unknown = sorted(set(configuration) - set(names))
        if unknown:
            message = (
                f"configuration names no training number: {', '.join(unknown)} "
                f"(known: {', '.join(names)})"
            )
            raise ValueError(message)

        return replace(self, **configuration)


@dataclass(frozen=True)
class DataConfig:
    """Choice of the images and of their split.

    Attributes:
        source: "digits", "cifar10", "cifar100" or "folder:<path>"; the path is kept absolute.
        root: folder or archive of CIFAR, also where it is downloaded to; None: $HPO_DATA, else
            the cache folder. It exists: a mistyped one is no place for a download.
        image_size: height and width in pixels; None: 8 for digits, 32 for CIFAR, the shorter
            side of the first image for a folder.
        n_train: training images to keep, as a stratified subset; None: all.
        n_validation: validation images to keep; None: all.
        n_test: test images to keep; None: all.
        validation_fraction: share of the images outside the test part; None: 0.1 where the
            source has a test part of its own, else 0.25, so that a small source keeps enough
            images to tell configurations apart (digits: 1,078 / 360 / 359).
        test_fraction: share of the test part where the source has none of its own.
        seed: seed of the split.

    Raises:
        DataError: a value is of a wrong type or outside its range, or the root does not exist.
        PathError: a path leads nowhere.

    Example:
        >>> DataConfig("digits", n_train=200).validation_fraction is None
        True
    """

    source: str = "digits"
    root: str | Path | None = None
    image_size: _Positive | None = None
    n_train: _Positive | None = None
    n_validation: _Positive | None = None
    n_test: _Positive | None = None
    validation_fraction: _Fraction | None = None
    test_fraction: _Fraction = 0.2
    seed: _NonNegative = 0

    def __post_init__(self) -> None:
        _check_fields(self, DataError)
        if not re.fullmatch(r"digits|cifar100?|folder:.+", self.source):
            rule = "source must be 'digits', 'cifar10', 'cifar100' or 'folder:<path>'"
            message = f"{rule}, got {self.source!r}"
            raise DataError(message)

        # A process that loads the images may stand elsewhere.
        kind, _, folder = self.source.partition(":")
        if folder:
            object.__setattr__(self, "source", f"{kind}:{user_path(folder)}")
        if self.root is not None:
            object.__setattr__(self, "root", str(user_path(self.root)))
        if self.source in DOWNLOADED:
            check_place("root", self.root)

    def save(self, path: str | Path) -> None:
        """Write the choice as JSON, with absolute paths.

        Args:
            path: file to create or replace, such as a run's `data.json`.

        Raises:
            WriteError: the file could not be written.
        """
        write_settings(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> DataConfig:
        """Read the choice that notebook 01 saved into the folder of a run.

        Args:
            path: file that `save` wrote.

        Raises:
            DataError: the file is missing or damaged, or a value is not as it must be.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "data.json"
            >>> DataConfig("digits", n_train=200).save(file)
            >>> DataConfig.load(file).n_train
            200
        """
        return restore(cls, read_settings(path, "01"), path)


# Fields of `TrainingConfig` that studies of version 0.2 and before do not name.
ADDED = (
    "width_growth",
    "stem",
    "pre_activation",
    "residual_init",
    "pooling",
    "logit_scale",
    "filter_lr",
    "norm_bias_lr_factor",
    "final_lr_fraction",
    "alternate_flip",
    "cutout",
    "low_resolution",
    "ema_decay",
    "evaluation",
)

_Settings = TypeVar("_Settings")


def restore(
    make: Callable[..., _Settings],
    values: Mapping[str, Any],
    path: str | Path,
) -> _Settings:
    """Return settings that were read from a file.

    Args:
        make: class of the settings.
        values: fields by name; those that are missing have their default.
        path: the file, for the message.

    Raises:
        DataError: a name is unknown or a value not as it must be.
    """
    try:
        return make(**values)
    except (TypeError, ValueError) as error:
        message = f"{path} has wrong settings: {error}"
        raise DataError(message) from error


def check_place(name: str, place: str | Path | None) -> None:
    """Refuse a folder or archive of CIFAR that is named but not there.

    Args:
        name: what the user named it with.
        place: an absolute path; None where nothing was named.

    Raises:
        DataError: it does not exist.
    """
    if place is not None and not Path(place).exists():
        message = (
            f"{name} must be a folder or an archive that exists, got {place}: make the folder "
            "where CIFAR is to be downloaded into it"
        )
        raise DataError(message)


def _check_fields(config: TrainingConfig | DataConfig, exception: type[ValueError]) -> None:
    """Refuse values that do not fit the annotations of their fields, all in one message."""
    try:
        _field_model(type(config))(**vars(config))
    except ValidationError as error:
        problems = [
            f"{item['loc'][0]}: {item['msg']}, got {item['input']!r}" for item in error.errors()
        ]
        message = "; ".join(problems).replace(": Input should", " must")
        raise exception(message) from None


@lru_cache
def _field_model(config_class: type) -> type[BaseModel]:
    hints = get_type_hints(config_class, include_extras=True)
    annotations: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items()}
    return create_model(config_class.__name__, __config__=ConfigDict(strict=True), **annotations)
