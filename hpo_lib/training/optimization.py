"""Learning rate schedule, optimizer and loss of a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.training.config import TrainingConfig

# share of the steps in which the learning rate of "one_cycle" rises at least
_ONE_CYCLE_RISE = 0.3


def learning_rate(
    config: TrainingConfig,
    step: int,
    steps_per_epoch: int,
) -> float:
    """Return the learning rate of one step.

    It depends on the full budget and not on where a trial stops, so that a stopped trial is a
    prefix of the full one. All schedules rise linearly, over the warm-up epochs or, for
    "one_cycle", over the first 30 % of the steps if that is longer. Then "constant" stays,
    "cosine" falls to 0 along half a cosine and "one_cycle" falls to 0 along a straight line.

    Args:
        config: schedule, peak, warm-up and budget.
        step: number of the optimizer's step, from 0, over all epochs.
        steps_per_epoch: optimizer steps of one epoch.
    """
    n_steps = config.epochs * steps_per_epoch
    n_rising = min(config.warmup_epochs * steps_per_epoch, n_steps)
    if config.schedule == "one_cycle":
        n_rising = max(n_rising, int(_ONE_CYCLE_RISE * n_steps))

    if step < n_rising:
        return config.lr * (step + 1) / n_rising
    if config.schedule == "constant":
        return config.lr

    progress = (step - n_rising) / max(1, n_steps - n_rising)
    if config.schedule == "one_cycle":
        return config.lr * (1 - progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    config: TrainingConfig,
    model: nn.Module,
    device: torch.device,
) -> torch.optim.Optimizer:
    """Build the optimizer; only weights of convolutions and of the classifier decay.

    Args:
        config: optimizer, learning rate, momentum and weight decay.
        model: network whose parameters are optimised.
        device: where the parameters are; CPU and CUDA have a fused implementation.
    """
    # norms, biases and PReLU have one dimension
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]

    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=fused,
    )


def make_loss(config: TrainingConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function of logits (n, classes) and labels (n,) that training minimises."""
    if config.loss == "focal":
        return partial(focal_loss, gamma=config.focal_gamma)
    if config.loss == "label_smoothing":
        return partial(F.cross_entropy, label_smoothing=config.label_smoothing)
    return F.cross_entropy


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    gamma: float,
) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p (Lin et al. 2017, arXiv:1708.02002).

    Args:
        logits: (n, classes).
        labels: class indices (n,).
        gamma: exponent; 0 gives the cross-entropy.
    """
    negative_log = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p, not quite 0: there the slope of a power below 1 is infinite
    complement = (-torch.expm1(-negative_log)).clamp_min(1e-9)
    return (complement**gamma * negative_log).mean()
