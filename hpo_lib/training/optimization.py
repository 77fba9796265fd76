"""Network, learning rate schedule, optimizer and loss of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from hpo_lib.space.values import Configuration
from hpo_lib.training.checkpoints import NETWORK, TRAJECTORY
from hpo_lib.training.config import TrainingConfig
from hpo_lib.training.loaders import Augmentation, ImageData, Part, batches
from hpo_lib.training.resnet import ResNet, Whitening, resnet

Network = Callable[[Configuration, int, int], nn.Module]
"""Function of a configuration, the channels of the images and the number of classes."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of logits (n, classes) and labels (n,) that training minimises."""

Optimizer = Callable[[Configuration, Iterator[nn.Parameter]], torch.optim.Optimizer]
"""Function of a configuration and the parameters of the network."""

# Fields of `TrainingConfig` that a function of the user's replaces.
REPLACED = {
    "network": NETWORK,
    "loss": ("loss", "label_smoothing", "focal_gamma"),
    "optimizer": (
        "optimizer",
        "momentum",
        "weight_decay",
        "filter_lr",
        "norm_bias_lr_factor",
    ),
}

# share of the steps in which the learning rate of "one_cycle" rises at least
_ONE_CYCLE_RISE = 0.3

# training images, at most, whose patches a whitening layer is fitted to
_WHITENED = 5000

# batches of training images to which the norms of averaged weights are fitted
_NORM_BATCHES = 10
_NORM_BATCH_SIZE = 256

# of the quintic whose iteration moves singular values towards 1, as Jordan et al. tuned it
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 3


class Components(NamedTuple):
    """Parts of a training that may be a user's own.

    Attributes:
        network: builds the network for the images and classes.
        loss: loss that training minimises.
        optimizer: builds the optimizer of a network on a device.
        identity: hyperparameters by name, in which a checkpoint must agree.
    """

    network: Callable[[ImageData], nn.Module]
    loss: Loss
    optimizer: Callable[[nn.Module, torch.device], torch.optim.Optimizer]
    identity: dict[str, Any]


def standard_components(config: TrainingConfig) -> Components:
    """Return the residual network, loss and optimizer that the fields of a config name."""

    def build(data: ImageData) -> nn.Module:
        images = data.train.images
        network = make_network(config, images.shape[1], len(data.classes))
        for layer in network.stem:
            if isinstance(layer, Whitening):
                # evenly spread, because they may lie in the order of their classes
                step = math.ceil(len(images) / _WHITENED)
                chosen = images[::step].cpu()
                layer.fit(chosen.float() / 127.5 - 1)
        return network.to(memory_format=torch.channels_last)

    return Components(
        network=build,
        loss=make_loss(config),
        optimizer=partial(make_optimizer, config),
        identity={name: getattr(config, name) for name in TRAJECTORY},
    )


def own_components(
    config: TrainingConfig,
    configuration: Configuration,
    functions: Mapping[str, Callable[..., Any]],
) -> Components:
    """Return components of which the user's functions make some from a configuration.

    Args:
        config: hyperparameters of the others.
        configuration: all values of the trial.
        functions: "network", "loss" and "optimizer", as `TrainingObjective` takes them.
    """
    components = standard_components(config)
    replaced = {name for part in functions for name in REPLACED[part]}
    fixed = {name: v for name, v in components.identity.items() if name not in replaced}
    components = components._replace(identity=fixed | configuration)

    if "network" in functions:
        build = partial(_build_network, functions["network"], configuration)
        components = components._replace(network=build)
    if "loss" in functions:
        components = components._replace(loss=functions["loss"](configuration))
    if "optimizer" in functions:
        make = functions["optimizer"]
        own = lambda network, _: make(configuration, network.parameters())  # noqa: E731
        components = components._replace(optimizer=own)
    return components


def make_network(config: TrainingConfig, in_channels: int, n_classes: int) -> ResNet:
    """Build the residual network, its weights drawn from torch's generator.

    Args:
        config: hyperparameters.
        in_channels: channels of the images.
        n_classes: number of logits.
    """
    arguments = {name: getattr(config, name) for name in NETWORK}
    return resnet(**arguments, in_channels=in_channels, n_classes=n_classes)


def _build_network(build: Network, configuration: Configuration, data: ImageData) -> nn.Module:
    """Build a user's network and try it."""
    images = data.train.images
    n_classes = len(data.classes)
    network: Any = build(dict(configuration), images.shape[1], n_classes)
    return prepare_network(network, images, n_classes)


def prepare_network(network: Any, images: Tensor, n_classes: int | None = None) -> nn.Module:
    """Try a user's network on two images, which also fixes its lazy layers.

    It computes in channels-last memory, which is faster, unless a `view` in it rules that out.

    Args:
        network: on the CPU; changed in place.
        images: uint8 (n, channels, height, width).
        n_classes: logits that it must return for each; None: any number.

    Raises:
        TypeError: the network is something else than a module.
        ValueError: it does not return one logit for each class.
    """
    if not isinstance(network, nn.Module):
        message = f"network must return a torch.nn.Module, got {network!r:.200}"
        raise TypeError(message)

    pair = images[:2].cpu().float() / 127.5 - 1
    network.eval()
    with torch.no_grad():
        logits: Any = network(*_standard_layout(network, (pair,)))
        shape = getattr(logits, "shape", type(logits).__name__)
        if n_classes is not None and shape != (len(pair), n_classes):
            rule = f"network must return logits of shape (images, classes), ({len(pair)}, "
            message = f"{rule}{n_classes}) for {len(pair)} images, got {shape}"
            raise ValueError(message)

        network.to(memory_format=torch.channels_last)
        try:
            network(pair.contiguous(memory_format=torch.channels_last))
        except RuntimeError as error:
            if "view size" not in str(error):
                raise
            network.to(memory_format=torch.contiguous_format)
            network.register_forward_pre_hook(_standard_layout)
    return network


def _standard_layout(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return copies in the standard memory layout, also of grey images, which have several."""
    return tuple(images.clone(memory_format=torch.contiguous_format) for images in arguments)


def learning_rate(
    config: TrainingConfig,
    step: int,
    steps_per_epoch: int,
) -> float:
    """Return the learning rate of one step.

    It depends on the full budget and not on where a trial stops, so that a stopped trial is a
    prefix of the full one. All schedules rise linearly, over the warm-up epochs or, for
    "one_cycle", over the first 30 % of the steps if that is longer. Then "constant" stays,
    "cosine" falls to its end along half a cosine, "one_cycle" and "linear" along a straight line
    (Defazio et al. 2023, arXiv:2310.07831).

    Args:
        config: schedule, peak, end, warm-up and budget.
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
    height = 1 - progress
    if config.schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * progress))
    floor = config.final_lr_fraction
    return config.lr * (floor + (1 - floor) * height)


def make_optimizer(
    config: TrainingConfig,
    model: nn.Module,
    device: torch.device,
) -> torch.optim.Optimizer:
    """Build the optimizer; only weights of convolutions and of the classifier decay.

    With "muon" the filters keep their length instead, and only the classifier decays.

    Args:
        config: optimizer, learning rate, momentum and weight decay.
        model: network whose parameters are optimised.
        device: where the parameters are; CPU and CUDA have a fused implementation.
    """
    # Norms, biases and PReLU have one dimension; a whitening layer's filters are fixed.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]

    if config.norm_bias_lr_factor != 1:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        biases = _take_out(groups[1], {id(norm.bias) for norm in norms})
        rate = config.lr * config.norm_bias_lr_factor
        groups.append({"params": biases, "weight_decay": 0.0, "lr": rate})

    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    if config.optimizer == "muon":
        filters = _take_out(groups[0], {id(p) for p in decayed if p.ndim == 4})
        groups.append(
            {
                "params": filters,
                "lr": config.filter_lr,
                "filter_momentum": config.momentum,
                "momentum": 0.0,
                "nesterov": False,
                "weight_decay": 0.0,
            }
        )
    make = Muon if config.optimizer == "muon" else torch.optim.SGD
    return make(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=fused,
    )


def make_average(config: TrainingConfig, model: nn.Module) -> AveragedModel | None:
    """Return the exponential moving average of a network's weights, if one is asked for.

    Args:
        config: its `ema_decay`.
        model: network that is trained; on its device.
    """
    if config.ema_decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))


def fit_norms(
    network: nn.Module,
    part: Part,
    augment: Augmentation,
    generator: torch.Generator,
) -> None:
    """Fit the statistics of batch norms to the weights (Izmailov et al. 2018, arXiv:1803.05407).

    Averaged weights return other means and variances than each of those in the average.

    Args:
        network: changed in place.
        part: training images, of which some are drawn.
        augment: changes of the images as in training: without them the validation loss is higher.
        generator: generator of the CPU.
    """
    sample = batches(
        part,
        _NORM_BATCH_SIZE,
        generator=generator,
        augment=replace(augment, shrink=False),  # of the size in validation
        shuffle=True,
        drop_last=len(part) >= _NORM_BATCH_SIZE,
    )
    update_bn(islice(sample, _NORM_BATCHES), network)


def mean_logits(
    network: nn.Module,
    images: Tensor,
    evaluation: str,
) -> Tensor:
    """Return the logits (n, classes) of images, float32, as means over views of each.

    Args:
        network: in the mode of evaluation.
        images: (n, channels, height, width).
        evaluation: as in `TrainingConfig`.
    """
    if evaluation == "plain":
        return network(images).float()
    if evaluation == "mirror":
        mirrored: Tensor = network(images.flip(3)).float()
        return (network(images).float() + mirrored) / 2

    # moved by a pixel down and right, and by one up and left
    sides = (1, 1, 1, 1)
    padded = F.pad(images, sides, mode="reflect")
    down = mean_logits(network, padded[..., :-2, :-2], "mirror")
    up = mean_logits(network, padded[..., 2:, 2:], "mirror")

    centre = mean_logits(network, images, "mirror")
    return centre / 2 + (down + up) / 4


def _take_out(
    group: dict[str, Any],
    identities: set[int],
) -> list[nn.Parameter]:
    """Remove parameters from a group of an optimizer, and return them."""
    parameters: list[nn.Parameter] = group["params"]
    group["params"] = [p for p in parameters if id(p) not in identities]
    return [p for p in parameters if id(p) in identities]


class Muon(torch.optim.SGD):
    """SGD whose steps for convolution filters are orthogonal matrices (Jordan et al. 2024).

    The momentum of a layer's filters, a matrix with a row for each filter, is replaced by the
    nearest orthogonal one, and the filters keep a constant length, as a batch norm behind them
    allows (https://kellerjordan.github.io/posts/muon, airbench94_muon). torch's own Muon takes no
    convolutions.

    Args:
        groups: parameters, with "filter_momentum" in a group of convolution filters.
        lr: learning rate of groups that have none.
        momentum: Nesterov momentum of the other parameters.
        fused: use the implementation that torch has for CPU and CUDA.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters from their gradients; they stay as they are without one."""
        for group in self.param_groups:
            momentum = group.get("filter_momentum")
            if momentum is None:
                continue
            for filters in group["params"]:
                if filters.grad is None:
                    continue

                state = self.state[filters]
                if "filter_momentum" not in state:
                    state["filter_momentum"] = torch.zeros_like(filters.grad)
                average = state["filter_momentum"]
                average.mul_(momentum).add_(filters.grad)

                # Nesterov's direction; channels last, as it lies in memory
                direction = filters.grad.add(average, alpha=momentum)
                direction = direction.permute(0, 2, 3, 1)
                step = _orthogonal(direction.flatten(1)).view_as(direction)
                filters.grad.copy_(step.permute(0, 3, 1, 2))
                filters.mul_(len(filters) ** 0.5 / filters.norm())
        return super().step(closure)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly the nearest matrix with orthonormal rows (or columns), by Newton-Schulz.

    An iteration maps x to (a + b g + c g²) x with g = x xᵀ. All of these factors commute, so it is
    done to the small matrix g, and x is multiplied once by the product of all factors.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = x.T if is_tall else x

    gram = x @ x.T
    product = torch.eye(len(gram), device=gram.device)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor

    x = product @ x
    return x.T if is_tall else x


def make_loss(config: TrainingConfig) -> Loss:
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
