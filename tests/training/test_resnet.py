from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_lib.training.resnet import ACTIVATIONS, Dropout, PaddingShortcut, ResNet, resnet


def n_parameters(model: torch.nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def on_meta(depth: int, **overrides: Any) -> ResNet:
    with torch.device("meta"):
        return resnet(depth, **overrides)


@pytest.mark.parametrize(
    ("depth", "published"),
    [
        (8, 75_290),
        (14, 172_506),
        (20, 269_722),
        (56, 853_018),
        (18, 11_173_962),
        (34, 21_282_122),
        (50, 23_520_842),
    ],
)
def test_published_parameter_counts(depth: int, published: int) -> None:
    assert n_parameters(on_meta(depth)) == published
    assert n_parameters(on_meta(depth, pre_activation=True)) == published


@pytest.mark.parametrize(
    ("depth", "shortcut", "count"),
    [
        # two 1×1 convolutions with norms: 16·32 + 64 + 32·64 + 128
        (20, "projection", 269_722 + 2_752),
        # three fewer: 64·128 + 256 + 128·256 + 512 + 256·512 + 1024
        (18, "padding", 11_173_962 - 173_824),
    ],
)
def test_the_other_shortcut_changes_the_count(depth: int, shortcut: str, count: int) -> None:
    assert n_parameters(on_meta(depth, shortcut=shortcut)) == count


def test_depth_is_the_number_of_weighted_layers() -> None:
    for depth in (8, 14, 20, 18, 34, 50, 101):
        model = on_meta(depth, shortcut="padding" if depth < 50 else None)
        weighted = (torch.nn.Conv2d, torch.nn.Linear)
        layers = [name for name, m in model.named_modules() if isinstance(m, weighted)]
        assert len([name for name in layers if "shortcut" not in name]) == depth


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_every_activation_learns_with_both_shortcuts(
    activation: str, shortcut: str, pre_activation: bool
) -> None:
    model = resnet(
        8,
        n_filters=4,
        activation=activation,
        shortcut=shortcut,
        pre_activation=pre_activation,
        in_channels=1,
    )
    model(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name


@given(
    width=st.integers(1, 9),
    size=st.sampled_from([1, 3, 5, 7]),
    shortcut=st.sampled_from(["projection", "padding"]),
    kind=st.sampled_from(["basic", "bottleneck"]),
    stride=st.integers(1, 2),
    pixels=st.integers(5, 12),
)
@settings(max_examples=40, deadline=None)
def test_any_width_filter_and_image_fits(
    width: int, size: int, shortcut: str, kind: str, stride: int, pixels: int
) -> None:
    model = ResNet(
        (1, 1, 1),
        block=kind,
        n_filters=width,
        filter_size=size,
        shortcut=shortcut,
        stride=stride,
        in_channels=2,
        n_classes=3,
    )
    assert model(torch.randn(2, 2, pixels, pixels)).shape == (2, 3)


def test_width_and_filter_size_per_stage() -> None:
    model = ResNet((1, 1), n_filters=[4, 6], filter_size=[3, 5])
    weights = [m.weight.shape for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [tuple(shape) for shape in weights] == [
        *[(4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)],
        *[(6, 4, 5, 5), (6, 6, 5, 5), (6, 4, 1, 1)],
    ]


def test_stages_widen_by_a_factor() -> None:
    def widths(**overrides: Any) -> list[int]:
        model = on_meta(8, **overrides)
        return [block.branch[0].out_channels for block in model.blocks]

    assert widths() == [16, 32, 64]
    assert widths(n_filters=16, width_growth=1.5) == [16, 24, 36]
    assert widths(n_filters=10, width_growth=1) == [10, 10, 10]


def test_a_block_of_pre_activations_adds_to_its_input_unchanged() -> None:
    model = resnet(8, n_filters=4, activation="silu", pre_activation=True)
    block = model.blocks[0]
    torch.nn.init.zeros_(block.branch[-1].weight)
    x = torch.randn(2, 4, 6, 6)  # of both signs
    assert torch.equal(block(x), x)

    names = [type(layer).__name__ for layer in block.branch]
    assert names == ["BatchNorm2d", "SiLU", "Conv2d"] * 2
    assert [type(layer).__name__ for layer in model.stem] == ["Conv2d"]
    assert [type(layer).__name__ for layer in model.last_norm] == ["BatchNorm2d", "SiLU"]


def test_residual_convolutions_can_begin_as_the_identity() -> None:
    model = resnet(8, n_filters=4, residual_init="dirac", shortcut="projection")
    narrow, wide, _ = model.blocks
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(narrow.branch[0](x), x)
    assert torch.equal(narrow.branch[3](x), x)
    widened = wide.branch[0](x)
    assert torch.equal(widened[:, :4], x[:, :, ::2, ::2])
    assert widened[:, 4:].std() > 0.1
    assert torch.equal(wide.shortcut[0](x)[:, :4], x[:, :, ::2, ::2])
    assert not torch.equal(model.stem[0].weight[0, 0], torch.eye(3))


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_logits_are_pooled_over_pixels_and_scaled(pooling: str) -> None:
    model = resnet(8, n_filters=4, pooling=pooling, logit_scale=0.25).eval()
    x = torch.randn(2, 3, 8, 8)
    features = model.blocks(model.stem(x)).flatten(2)
    pooled = features.amax(2) if pooling == "max" else features.mean(2)
    torch.testing.assert_close(model(x), model.classifier(pooled) / 4)


def test_padding_shortcut_keeps_pixels_and_adds_zero_channels() -> None:
    x = torch.randn(2, 3, 5, 5)
    y = PaddingShortcut(3, 6, 2)(x)
    assert y.shape == (2, 6, 3, 3)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, [0, 4, 5]].any()


def test_dropout_acts_in_training_only() -> None:
    model = resnet(8, n_filters=4, dropout=0.5)
    x = torch.randn(8, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_its_share_and_scales_the_rest(p: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(16, 8, 32, 33, dtype=kind).to(memory_format=torch.channels_last)
    x.requires_grad_()
    y = Dropout(p)(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)  # 3.6 and 6 sigma
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=0.005)
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert Dropout(p)(x[:0]).shape == (0, 8, 32, 33)


def test_weights_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = resnet(8, n_filters=4).state_dict()
    torch.manual_seed(1)
    second = resnet(8, n_filters=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("depth", "overrides", "message"),
    [
        (9, {}, r"depth must be one of 18, 34, 50, 101, 152 or 6n\+2 .*got 9"),
        (2, {}, r"depth .*got 2"),
        (8, {"filter_size": 4}, r"filter_size must be odd .*got 4"),
        (8, {"filter_size": [3, 3, -1]}, r"filter_size must be odd .*got -1"),
        (8, {"filter_size": [3, 3]}, r"filter_size must be one number or 3 .*\[3, 3\]"),
        (8, {"n_filters": [8, 8]}, r"n_filters must be one number or 3 .*\[8, 8\]"),
        (8, {"n_filters": 0}, "n_filters must be at least 1, got 0"),
        (8, {"n_filters": [8, 4, 4]}, "'padding' needs n_filters that never fall .*got 8 then 4"),
        (8, {"activation": "swish"}, "activation must be one of relu, .*silu, got 'swish'"),
        (8, {"shortcut": "none"}, "shortcut must be one of projection, padding, got 'none'"),
        (8, {"residual_init": "zero"}, "residual_init must be one of he, dirac, got 'zero'"),
        (8, {"pooling": "min"}, "pooling must be one of average, max, got 'min'"),
        (8, {"block": "wide"}, "block must be one of basic, bottleneck, got 'wide'"),
        (8, {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (8, {"stride": 0}, "stride must be at least 1, got 0"),
        (8, {"n_classes": 0}, "n_classes must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused(depth: int, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet(depth, **overrides)


def test_stages_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks must be at least one per stage, got"):
        ResNet((1, 0))
