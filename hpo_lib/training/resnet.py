"""Residual networks for small images, after He et al. 2015 (arXiv:1512.03385).

Parameters with 3 input channels and 10 classes:

| network    | stages | blocks        | shortcut   | parameters |
| ---------- | ------ | ------------- | ---------- | ---------- |
| ResNet-8   | 3      | 1, 1, 1       | padding    |     75,290 |
| ResNet-14  | 3      | 2, 2, 2       | padding    |    172,506 |
| ResNet-20  | 3      | 3, 3, 3       | padding    |    269,722 |
| ResNet-56  | 3      | 9, 9, 9       | padding    |    853,018 |
| ResNet-18  | 4      | 2, 2, 2, 2    | projection | 11,173,962 |
| ResNet-34  | 4      | 3, 4, 6, 3    | projection | 21,282,122 |
| ResNet-50  | 4      | 3, 4, 6, 3 *  | projection | 23,520,842 |

(* bottleneck blocks). The stem is one 3×3 convolution: the 7×7 stem and the pooling of the
networks made for ImageNet would leave next to nothing of a 32×32 image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.checks import check_member, check_whole

Activation = Literal[
    "relu", "leaky_relu", "elu", "prelu", "selu", "tanh", "sigmoid", "gelu", "silu"
]
BlockKind = Literal["basic", "bottleneck"]
ShortcutKind = Literal["projection", "padding"]
StemKind = Literal["convolution", "whitening"]
ResidualInit = Literal["he", "dirac"]
Pooling = Literal["average", "max"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)

_ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "elu": partial(nn.ELU, inplace=True),
    "prelu": nn.PReLU,
    "selu": partial(nn.SELU, inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": partial(nn.SiLU, inplace=True),
}

# channels that a block returns, as a multiple of its inner width
_EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4}

_FOUR_STAGES: dict[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class Dropout(nn.Dropout):
    """Dropout whose CPU mask takes 16 random bits per element: torch's takes three times as long.

    The probability is thereby a multiple of 2⁻¹⁶.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements at random and divide the others by the share that stays; any shape."""
        if not self.training or input.device.type != "cpu":
            return super().forward(input)

        # four 16-bit numbers, uniform from -2¹⁵ to 2¹⁵ - 1, in each 64-bit word
        n_words = math.ceil(input.numel() / 4)
        words = torch.empty(n_words, dtype=torch.int64)
        words.random_(-(2**63), None)
        bits = words.view(torch.int16)

        # in the memory layout of the input: channels-last, as a rule
        mask = torch.empty_like(input)
        bits = bits.as_strided(mask.size(), mask.stride())
        threshold = round(self.p * 2**16) - 2**15
        mask.copy_(bits >= threshold)
        return input * mask.div_(1 - self.p)


class PaddingShortcut(nn.Module):
    """Parameter-free shortcut (option A of He et al.): subsample, fill new channels with zeros.

    Args:
        n_in: channels of the input.
        n_out: channels of the output, at least `n_in`: without parameters it cannot choose
            which channels to drop.
        stride: every `stride`-th pixel is kept, in rows and columns.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
    ) -> None:
        super().__init__()
        if n_out < n_in:
            message = (
                "shortcut 'padding' needs n_filters that never fall from stage to stage, "
                f"got {n_in} then {n_out}; use 'projection'"
            )
            raise ValueError(message)

        self.stride = stride
        before = (n_out - n_in) // 2
        self.padding = (0, 0, 0, 0, before, n_out - n_in - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, ⌈h / stride⌉, ⌈w / stride⌉)."""
        # pooling over one pixel is slicing whose gradient stays channels-last
        subsampled = F.avg_pool2d(x, 1, self.stride)
        return F.pad(subsampled, self.padding)


class Whitening(nn.Conv2d):
    """Fixed convolution of 2×2 pixels that whitens patches, and its negative, with a bias.

    The first layer of airbench (Jordan 2024, arXiv:2404.00498), after Coates and Ng 2012. It
    returns images that are a row and a column smaller.

    Args:
        in_channels: channels of the images.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 8 * in_channels, 2)
        self.weight.requires_grad_(False)
        nn.init.zeros_(cast("Tensor", self.bias))

    def fit(self, images: Tensor) -> None:
        """Set the filters to the principal axes of all patches, each scaled to variance 1.

        Args:
            images: (n, in_channels, h, w), as the network gets them.
        """
        patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
        covariance = torch.cov(patches.T)
        variances, axes = torch.linalg.eigh(covariance)
        filters = axes / (variances + 5e-4).sqrt()
        filters = filters.T.reshape(-1, *self.weight.shape[1:])
        self.weight.data.copy_(torch.cat([filters, -filters]))


class ResidualBlock(nn.Module):
    """Residual block, `activation(branch(x) + shortcut(x))`.

    With `pre_activation`, each norm and activation stands before its convolution instead and
    none behind the sum (He et al. 2016, arXiv:1603.05027).

    A basic branch has two convolutions of `filter_size`; a bottleneck branch has one between two
    of 1×1, and its stride sits on the middle one, as in the networks whose parameter counts are
    published. Dropout stands before the last convolution (Zagoruyko and Komodakis 2016,
    arXiv:1605.07146).

    Args:
        n_in: channels of the input.
        n_filters: inner width; a bottleneck returns four times as many channels.
        stride: stride of the block.
        block: "basic" or "bottleneck".
        filter_size: side of the kernels in pixels, odd.
        dropout: probability that an element is dropped.
        activation: one of `ACTIVATIONS`.
        shortcut: "projection" or "padding", used where the shape changes.
        pre_activation: put norms and activations before the convolutions.
    """

    def __init__(
        self,
        n_in: int,
        n_filters: int,
        stride: int,
        *,
        block: str,
        filter_size: int,
        dropout: float,
        activation: str,
        shortcut: str,
        pre_activation: bool,
    ) -> None:
        super().__init__()
        n_out = n_filters * _EXPANSION[block]
        if block == "basic":
            convolutions = [
                _convolution(n_in, n_filters, filter_size, stride),
                _convolution(n_filters, n_out, filter_size),
            ]
        else:
            convolutions = [
                _convolution(n_in, n_filters, 1),
                _convolution(n_filters, n_filters, filter_size, stride),
                _convolution(n_filters, n_out, 1),
            ]

        layers: list[nn.Module] = []
        for convolution in convolutions:
            if pre_activation:
                layers += _norm_activation(convolution.in_channels, activation)
            if dropout > 0 and convolution is convolutions[-1]:
                layers.append(Dropout(dropout))
            layers.append(convolution)
            if not pre_activation:
                layers += _norm_activation(convolution.out_channels, activation)

        # The last activation stands behind the sum.
        after = nn.Identity() if pre_activation else layers.pop()
        self.branch = nn.Sequential(*layers)
        self.shortcut = _shortcut(shortcut, n_in, n_out, stride)
        self.activation = after

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, ⌈h / stride⌉, ⌈w / stride⌉)."""
        residual = self.branch(x)
        return self.activation(residual + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network: a 3×3 stem, stages of residual blocks, global pooling, a classifier.

    Each stage after the first halves the image. The weights are drawn from torch's generator.

    Args:
        blocks: residual blocks per stage.
        block: "basic" or "bottleneck".
        n_filters: width of the first stage, growing with each stage, or one width per stage.
        filter_size: side of the kernels in pixels, for all stages or one per stage.
        dropout: probability that an element is dropped, in every block.
        activation: one of `ACTIVATIONS`.
        shortcut: "projection" (1×1 convolution) or "padding" (without parameters).
        stride: stride of the first stage.
        in_channels: channels of the images.
        n_classes: number of logits.
        width_growth: width of a stage as a multiple of the one before.
        pre_activation: put norms and activations before the convolutions of the blocks.
        residual_init: "he", or "dirac": convolutions of the blocks begin as the identity, as far
            as they have as many filters as channels (Jordan 2024, arXiv:2404.00498).
        pooling: "average" or "max" over all pixels.
        logit_scale: factor of the logits.
    """

    def __init__(  # noqa: PLR0913 each is a choice of its own
        self,
        blocks: Sequence[int],
        block: str = "basic",
        n_filters: int | Sequence[int] = 64,
        filter_size: int | Sequence[int] = 3,
        dropout: float = 0.0,
        activation: str = "relu",
        shortcut: str = "projection",
        stride: int = 1,
        in_channels: int = 3,
        n_classes: int = 10,
        width_growth: float = 2.0,
        pre_activation: bool = False,
        residual_init: str = "he",
        pooling: str = "average",
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()

        # Check the arguments.
        check_member("block", block, get_args(BlockKind))
        check_member("activation", activation, ACTIVATIONS)
        check_member("shortcut", shortcut, get_args(ShortcutKind))
        check_member("residual_init", residual_init, get_args(ResidualInit))
        check_member("pooling", pooling, get_args(Pooling))
        check_whole("stride", stride, 1)
        check_whole("in_channels", in_channels, 1)
        check_whole("n_classes", n_classes, 1)

        if not blocks or min(blocks) < 1:
            message = f"blocks must be at least one per stage, got {list(blocks)!r}"
            raise ValueError(message)
        if not 0 <= dropout < 1:
            message = f"dropout must be at least 0 and below 1, got {dropout!r}"
            raise ValueError(message)

        widths = _per_stage("n_filters", n_filters, len(blocks), width_growth)
        check_whole("n_filters", min(widths), 1)
        filter_sizes = _per_stage("filter_size", filter_size, len(blocks), growth=1)
        for size in filter_sizes:
            check_filter_size(size)

        make_block = partial(
            ResidualBlock,
            block=block,
            dropout=dropout,
            activation=activation,
            shortcut=shortcut,
            pre_activation=pre_activation,
        )

        # Stem, stages, classifier.
        self.stem = nn.Sequential(_convolution(in_channels, widths[0], 3))
        if not pre_activation:
            self.stem.extend(_norm_activation(widths[0], activation))

        layers: list[ResidualBlock] = []
        n_channels = widths[0]
        for stage, n_blocks in enumerate(blocks):
            for index in range(n_blocks):
                # the first block of a stage subsamples
                stage_stride = stride if stage == 0 else 2
                block_stride = stage_stride if index == 0 else 1
                make = partial(make_block, filter_size=filter_sizes[stage])
                layers.append(make(n_channels, widths[stage], block_stride))
                n_channels = widths[stage] * _EXPANSION[block]

        self.blocks = nn.Sequential(*layers)
        self.last_norm: nn.Module = nn.Identity()
        if pre_activation:
            self.last_norm = nn.Sequential(*_norm_activation(n_channels, activation))
        self.pooling = pooling
        self.classifier = nn.Linear(n_channels, n_classes)
        self.logit_scale = logit_scale
        _initialise(self, residual_init)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, n_classes)."""
        features = self.last_norm(self.blocks(self.stem(x)))
        pixels = (2, 3)
        pooled = features.amax(pixels) if self.pooling == "max" else features.mean(pixels)
        return self.classifier(pooled) * self.logit_scale


def resnet(
    depth: int,
    stem: str = "convolution",
    in_channels: int = 3,
    **overrides: Any,
) -> ResNet:
    """Build the published network of a depth.

    18, 34, 50, 101, 152: four stages, 64 filters, projection shortcuts. 6n+2 (8, 14, 20, ...):
    three stages of n basic blocks, 16 filters, padding shortcuts.

    Args:
        depth: number of weighted layers.
        stem: "convolution", or "whitening": a `Whitening` layer stands before it.
        in_channels: channels of the images.
        **overrides: arguments of `ResNet`; None stands for "as published".

    Example:
        >>> sum(parameter.numel() for parameter in resnet(20).parameters())
        269722
    """
    check_member("stem", stem, get_args(StemKind))
    blocks, published = architecture(depth)
    changes = {name: value for name, value in overrides.items() if value is not None}
    if stem == "convolution":
        return ResNet(blocks, in_channels=in_channels, **(published | changes))

    check_whole("in_channels", in_channels, 1)
    whitening = Whitening(in_channels)
    n_channels = whitening.out_channels
    network = ResNet(blocks, in_channels=n_channels, **(published | changes))
    activation = _ACTIVATION_MODULES[changes.get("activation", "relu")]()
    network.stem = nn.Sequential(whitening, activation, *network.stem)
    return network


def architecture(depth: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the blocks per stage and the arguments of `ResNet` published for a depth."""
    if depth in _FOUR_STAGES:
        kind, blocks = _FOUR_STAGES[depth]
        return blocks, {"block": kind, "n_filters": 64, "shortcut": "projection"}
    if depth >= 8 and depth % 6 == 2:
        n_blocks = (depth - 2) // 6
        return (n_blocks,) * 3, {"n_filters": 16, "shortcut": "padding"}

    message = (
        f"depth must be one of {', '.join(map(str, _FOUR_STAGES))} or 6n+2 (8, 14, 20, …), "
        f"got {depth!r}"
    )
    raise ValueError(message)


def check_filter_size(size: int) -> None:
    """Refuse a size without a middle."""
    if size < 1 or size % 2 == 0:
        message = f"filter_size must be odd (1, 3, 5, 7, …), got {size!r}"
        raise ValueError(message)


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    padding = size // 2
    # without a bias: the norm has one
    return nn.Conv2d(n_in, n_out, size, stride, padding, bias=False)


def _norm_activation(n_channels: int, activation: str) -> list[nn.Module]:
    return [nn.BatchNorm2d(n_channels), _ACTIVATION_MODULES[activation]()]


def _shortcut(
    kind: str,
    n_in: int,
    n_out: int,
    stride: int,
) -> nn.Module:
    if n_in == n_out and stride == 1:
        return nn.Identity()
    if kind == "padding":
        return PaddingShortcut(n_in, n_out, stride)
    return nn.Sequential(_convolution(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))


def _initialise(model: ResNet, residual_init: str) -> None:
    """Draw He et al.'s 2015 weights (fan-out) for convolutions; all norms start with weight 1.

    Weight 0 for the last norm of each branch (Goyal et al. 2017, arXiv:1706.02677) was tried:
    it slows the first epochs of the small networks that short trials train.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    if residual_init == "dirac":
        for module in model.blocks.modules():
            if isinstance(module, nn.Conv2d):
                # further filters stay random
                nn.init.dirac_(module.weight[: module.in_channels])


def _per_stage(
    argument: str,
    values: int | Sequence[int],
    n_stages: int,
    growth: float,
) -> Sequence[int]:
    """Return one number per stage; a single one grows by a factor from stage to stage."""
    if isinstance(values, int):
        return [round(values * growth**stage) for stage in range(n_stages)]
    if len(values) != n_stages:
        message = f"{argument} must be one number or {n_stages} (one per stage), got {values!r}"
        raise ValueError(message)
    return values
