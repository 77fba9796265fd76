"""The numbers of a network and its training, and what they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.training.loaders import Augmentation, Part
from hpo_lib.training.resnet import (
    Activation,
    ResNet,
    ShortcutKind,
    architecture,
    check_filter_size,
    resnet,
)

_Positive = Annotated[int, Field(ge=1)]
_NotNegative = Annotated[int, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# the numbers that make up the network: `resnet` takes them by these names
NETWORK = ("depth", "n_filters", "filter_size", "dropout", "activation", "shortcut", "stride")


@dataclass(frozen=True)
class TrainingConfig:
    """Every number of the network and of its training."""

    depth: int = 8  # 6n+2 or 18, 34, 50, 101, 152
    n_filters: _Positive = 16  # width of the first stage
    filter_size: int = 3
    dropout: _Fraction = 0.0
    activation: Activation = "relu"
    shortcut: ShortcutKind | None = None  # None: as published for the depth
    stride: Annotated[int, Field(ge=1, le=2)] = 1  # of the first stage
    optimizer: Literal["sgd", "adamw"] = "sgd"
    loss: Literal["cross_entropy", "label_smoothing", "focal"] = "cross_entropy"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05  # the schedule's peak
    momentum: _Fraction = 0.9  # Nesterov's; sgd only
    weight_decay: _Amount = 5e-4  # not applied to norms, biases and PReLU
    batch_size: Annotated[int, Field(ge=2)] = 64
    epochs: _Positive = 30
    schedule: Literal["cosine", "one_cycle", "constant"] = "one_cycle"
    warmup_epochs: _NotNegative = 1
    crop_padding: _NotNegative | None = None  # pixels; None: an eighth of the image's height
    flip: bool = True
    label_smoothing: _Fraction = 0.1  # loss "label_smoothing" only
    focal_gamma: _Amount = 2.0  # loss "focal" only
    seed: _NotNegative = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 if in hardware
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: CUDA, else MPS, else CPU
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse wrong types and ranges, all at once, then what no network can be built of."""
        try:
            _checker()(**asdict(self))
        except ValidationError as error:
            problems = [f"{e['loc'][0]}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
            raise ValueError("; ".join(problems)) from None
        architecture(self.depth)
        check_filter_size(self.filter_size)

    def with_configuration(self, configuration: Mapping[str, Any]) -> TrainingConfig:
        """Replace the numbers that a configuration names."""
        names = tuple(item.name for item in fields(self))
        if unknown := sorted(set(configuration) - set(names)):
            message = (
                f"configuration names no training number: {', '.join(unknown)} "
                f"(known: {', '.join(names)})"
            )
            raise ValueError(message)
        return replace(self, **configuration)


@lru_cache
def _checker() -> type[BaseModel]:
    hints = get_type_hints(TrainingConfig, include_extras=True)
    checked: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items()}
    return create_model("TrainingConfig", __config__=ConfigDict(strict=True), **checked)


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Rate of the optimiser's step number `step` (from 0) out of the full budget's.

    A function of the budget, not of where a trial stops: a stopped trial is a prefix of the
    full one. All schedules rise linearly, over the warm-up epochs or, for one_cycle, over the
    first 30 % if that is longer; then constant stays, cosine falls to 0 on half a cosine, and
    one_cycle falls to 0 on a straight line.
    """
    total = config.epochs * steps_per_epoch
    rise = min(config.warmup_epochs * steps_per_epoch, total)
    if config.schedule == "one_cycle":
        rise = max(rise, int(0.3 * total))
    if step < rise:
        return config.lr * (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "one_cycle":
        return config.lr * (1 - done)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_network(config: TrainingConfig, in_channels: int, n_classes: int) -> ResNet:
    """Build the network, its weights drawn from torch's generator."""
    chosen = {name: getattr(config, name) for name in NETWORK}
    return resnet(**chosen, in_channels=in_channels, n_classes=n_classes)


def make_augmentation(config: TrainingConfig, part: Part) -> Augmentation:
    """Crops and flips for the images of a part."""
    padding = config.crop_padding
    if padding is None:
        padding = part.images.shape[2] // 8  # 4 for 32×32, as in He et al.
    return Augmentation(crop_padding=padding, flip=config.flip)


def make_optimizer(
    config: TrainingConfig, model: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """Weight decay on the weights of convolutions and of the classifier alone."""
    decayed = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    nesterov = config.momentum > 0
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused
    )


def make_loss(config: TrainingConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function of (logits, labels) that training minimises."""
    if config.loss == "focal":
        return lambda logits, labels: focal_loss(logits, labels, config.focal_gamma)
    smoothing = config.label_smoothing if config.loss == "label_smoothing" else 0.0
    return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=smoothing)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean of -(1 - p)^gamma log p over the images (Lin et al. 2017, arXiv:1708.02002)."""
    negative_log = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p, not quite 0: there the slope of a power below 1 is infinite
    missing = (-torch.expm1(-negative_log)).clamp_min(1e-9)
    return (missing**gamma * negative_log).mean()


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; "auto": CUDA, else MPS, else CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, there in available.items() if there), "cpu"))
    if not available.get(name, True):
        message = f"device {name!r} is not available here"
        raise ValueError(message)
    return torch.device(name)


def autocast(
    config: TrainingConfig, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens a context in which the network computes in the configured precision."""
    wanted = config.precision == "bfloat16" or (
        config.precision == "auto" and _has_bfloat16(device.type)
    )
    return lambda: torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


@lru_cache
def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch before 2.6 cannot tell: float32 then
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return kind == "cpu" and any(getattr(torch.cpu, name, bool)() for name in known)
