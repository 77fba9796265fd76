"""Residual networks for small images, after He et al. 2015 (arXiv:1512.03385).

Parameters with 3 input channels and 10 classes:

| network    | stages | blocks        | shortcut   | parameters |
| ---------- | ------ | ------------- | ---------- | ---------- |
| ResNet-8   | 3      | 1, 1, 1       | padding    |     75,290 |
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
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.checks import check_member, check_whole

Activation = Literal[
    "relu", "leaky_relu", "elu", "prelu", "selu", "tanh", "sigmoid", "gelu", "silu"
]
BlockKind = Literal["basic", "bottleneck"]
ShortcutKind = Literal["projection", "padding"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)


class Dropout(nn.Dropout):
    """Dropout whose CPU mask takes 16 random bits per element: torch's takes three times as long.

    The probability is thereby a multiple of 2⁻¹⁶.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, to the same shape; elements that stay are divided by the share that stays."""
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        words = torch.empty(math.ceil(input.numel() / 4), dtype=torch.int64)
        bits = words.random_(-(2**63), None).view(torch.int16)
        kept = torch.empty_like(input)
        kept.copy_(bits.as_strided(kept.size(), kept.stride()) >= round(self.p * 2**16) - 2**15)
        return input * kept.div_(1 - self.p)


_ACTIVATION: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "prelu": nn.PReLU,
    "selu": lambda: nn.SELU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
}
_EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4}
_FOUR_STAGES: dict[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class PaddingShortcut(nn.Module):
    """Option A of He et al.: every `stride`-th pixel, new channels filled with zeros."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        """Refuse to narrow: a parameter-free shortcut cannot choose which channels to drop."""
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
        """(n, n_in, h, w) to (n, n_out, ⌈h / stride⌉, ⌈w / stride⌉)."""
        # pooling over one pixel is slicing whose gradient stays channels-last
        return F.pad(F.avg_pool2d(x, 1, self.stride), self.padding)


def _conv_norm(n_in: int, n_out: int, size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(n_out)]


def _shortcut(kind: str, n_in: int, n_out: int, stride: int) -> nn.Module:
    if n_in == n_out and stride == 1:
        return nn.Identity()
    if kind == "padding":
        return PaddingShortcut(n_in, n_out, stride)
    return nn.Sequential(*_conv_norm(n_in, n_out, 1, stride))


class ResidualBlock(nn.Module):
    """`activation(branch(x) + shortcut(x))` with a basic or a bottleneck branch.

    The stride of a bottleneck sits on its middle convolution, as in the networks whose
    parameter counts are published. Dropout stands before the last convolution (Zagoruyko and
    Komodakis 2016, arXiv:1605.07146).
    """

    def __init__(
        self,
        n_in: int,
        n_filters: int,
        stride: int,
        *,
        kind: str,
        filter_size: int,
        dropout: float,
        activation: str,
        shortcut: str,
    ) -> None:
        """`n_filters` is the width inside; a bottleneck gives out four times as many channels."""
        super().__init__()
        act = _ACTIVATION[activation]
        n_out = n_filters * _EXPANSION[kind]
        if kind == "basic":
            layers = [*_conv_norm(n_in, n_filters, filter_size, stride), act()]
            layers += _conv_norm(n_filters, n_out, filter_size)
        else:
            layers = [*_conv_norm(n_in, n_filters, 1), act()]
            layers += [*_conv_norm(n_filters, n_filters, filter_size, stride), act()]
            layers += _conv_norm(n_filters, n_out, 1)
        if dropout > 0:
            layers.insert(-2, Dropout(dropout))
        self.branch = nn.Sequential(*layers)
        self.shortcut = _shortcut(shortcut, n_in, n_out, stride)
        self.activation = act()

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return self.activation(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem, stages of residual blocks that halve the image from the second on, a mean.

    `n_filters` is the width of the first stage, doubling with each stage, or one width per
    stage; `filter_size` holds for all stages or is one per stage; `stride` is that of the
    first stage; `dropout` is the probability in every block.
    """

    def __init__(
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
    ) -> None:
        """Check every number, build the layers, draw the weights from torch's generator."""
        super().__init__()
        check_member("block", block, get_args(BlockKind))
        check_member("activation", activation, ACTIVATIONS)
        check_member("shortcut", shortcut, get_args(ShortcutKind))
        if not blocks or any(count < 1 for count in blocks):
            message = f"blocks must be at least one per stage, got {list(blocks)!r}"
            raise ValueError(message)
        check_whole("stride", stride, 1)
        check_whole("in_channels", in_channels, 1)
        check_whole("n_classes", n_classes, 1)
        if not 0 <= dropout < 1:
            message = f"dropout must be at least 0 and below 1, got {dropout!r}"
            raise ValueError(message)
        widths = _per_stage("n_filters", n_filters, len(blocks), 2)
        check_whole("n_filters", min(widths), 1)
        sizes = _per_stage("filter_size", filter_size, len(blocks), 1)
        for size in sizes:
            check_filter_size(size)
        stem = _conv_norm(in_channels, widths[0], 3)
        self.stem = nn.Sequential(*stem, _ACTIVATION[activation]())
        shared: dict[str, Any] = {"kind": block, "dropout": dropout}
        shared |= {"activation": activation, "shortcut": shortcut}
        layers: list[ResidualBlock] = []
        n_in = widths[0]
        for stage, (count, width, size) in enumerate(zip(blocks, widths, sizes, strict=True)):
            for index in range(count):
                step = (stride if stage == 0 else 2) if index == 0 else 1
                layers.append(ResidualBlock(n_in, width, step, filter_size=size, **shared))
                n_in = width * _EXPANSION[block]
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, n_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, in_channels, h, w) to logits (n, n_classes)."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def resnet(depth: int, **overrides: Any) -> ResNet:
    """The published network of that depth; `overrides` are arguments of `ResNet`.

    18, 34, 50, 101, 152: four stages, 64 filters, projection shortcuts. 6n+2 (8, 14, 20, …):
    three stages of n basic blocks, 16 filters, padding shortcuts. An override of None is left
    out, so that a configuration can say "as published".
    """
    blocks, published = architecture(depth)
    given = {name: value for name, value in overrides.items() if value is not None}
    return ResNet(blocks, **(published | given))


def architecture(depth: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Blocks per stage and the arguments of `ResNet` that were published for a depth."""
    if depth in _FOUR_STAGES:
        kind, blocks = _FOUR_STAGES[depth]
        return blocks, {"block": kind, "n_filters": 64, "shortcut": "projection"}
    if depth >= 8 and depth % 6 == 2:
        return ((depth - 2) // 6,) * 3, {"n_filters": 16, "shortcut": "padding"}
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


def _initialise(model: nn.Module) -> None:
    """He et al. 2015 (fan-out) for convolutions; all norms start with weight 1.

    Weight 0 for the last norm of each branch (Goyal et al. 2017, arXiv:1706.02677) was tried:
    it slows the first epochs of the small networks that short trials train.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _per_stage(
    argument: str, values: int | Sequence[int], n_stages: int, factor: int
) -> Sequence[int]:
    """One number per stage; a single one grows by a factor from stage to stage."""
    if isinstance(values, int):
        return [values * factor**stage for stage in range(n_stages)]
    if len(values) != n_stages:
        message = f"{argument} must be one number or {n_stages} (one per stage), got {values!r}"
        raise ValueError(message)
    return values
