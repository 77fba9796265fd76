from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hpo_lib.training.config import TrainingConfig
from hpo_lib.training.loaders import Augmentation, ImageData, Part
from hpo_lib.training.optimization import (
    fit_norms,
    focal_loss,
    learning_rate,
    make_average,
    make_loss,
    make_network,
    make_optimizer,
    mean_logits,
    standard_components,
)
from tests.training.images import SMALL


@given(
    schedule=st.sampled_from(["cosine", "one_cycle", "linear", "constant"]),
    floor=st.sampled_from([0.0, 0.1]),
    epochs=st.integers(1, 12),
    warmup=st.integers(0, 15),
    steps=st.integers(1, 20),
)
def test_the_rate_rises_to_its_peak_and_never_rises_again(
    schedule: Any, floor: float, epochs: int, warmup: int, steps: int
) -> None:
    config = TrainingConfig(
        lr=0.5,
        schedule=schedule,
        final_lr_fraction=floor,
        epochs=epochs,
        warmup_epochs=warmup,
    )
    rates = [learning_rate(config, step, steps) for step in range(epochs * steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.5)
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    warm = min(warmup, epochs) * steps
    assert rates[:warm] == pytest.approx(
        [0.5 * (i + 1) / max(warm, peak + 1) for i in range(warm)]
    )


@pytest.mark.parametrize(
    ("schedule", "floor", "rates"),
    [
        ("constant", 0.2, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("one_cycle", 0.0, [1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ("linear", 0.0, [0.5, 1, *(1 - i / 8 for i in range(8))]),
        ("linear", 0.2, [0.5, 1, *(1 - i / 10 for i in range(8))]),
        ("cosine", 0.0, [0.5, 1, *(0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8))]),
        ("cosine", 0.2, [0.5, 1, *(0.6 + 0.4 * math.cos(math.pi * i / 8) for i in range(8))]),
    ],
)
def test_schedules_over_ten_steps(schedule: Any, floor: float, rates: list[float]) -> None:
    config = TrainingConfig(
        lr=1.0,
        schedule=schedule,
        final_lr_fraction=floor,
        epochs=5,
        warmup_epochs=1,
    )
    assert [learning_rate(config, step, 2) for step in range(10)] == pytest.approx(rates)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_norms_biases_and_prelu(optimizer: Any) -> None:
    config = replace(SMALL, optimizer=optimizer, activation="prelu", weight_decay=0.3)
    model = make_network(config, 1, 10)
    groups = make_optimizer(config, model, torch.device("cpu")).param_groups
    decayed = {id(value) for g in groups for value in g["params"] if g["weight_decay"] == 0.3}
    names = {name for name, value in model.named_parameters() if id(value) in decayed}
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    assert names == {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, kinds)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_losses() -> None:
    logits, labels = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), torch.tensor([0, 1])
    plain = F.cross_entropy(logits, labels, reduction="none")
    probability = torch.exp(-plain)
    assert make_loss(SMALL)(logits, labels) == pytest.approx(float(plain.mean()))
    smooth = make_loss(replace(SMALL, loss="label_smoothing", label_smoothing=0.3))
    everywhere = 0.7 * plain + 0.3 * -logits.log_softmax(1).mean(1)
    assert float(smooth(logits, labels)) == pytest.approx(float(everywhere.mean()))
    focal = make_loss(replace(SMALL, loss="focal", focal_gamma=2.0))
    assert float(focal(logits, labels)) == pytest.approx(
        float(((1 - probability) ** 2 * plain).mean())
    )
    assert float(focal_loss(logits, labels, 0.0)) == pytest.approx(float(plain.mean()))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_of_a_certain_prediction_has_a_slope(gamma: float) -> None:
    logits = torch.tensor([[120.0, 0.0], [0.0, 120.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma)
    assert loss.item() == pytest.approx(60)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() < 1e-3 or gamma == 0


def test_norm_biases_have_a_learning_rate_of_their_own() -> None:
    config = replace(SMALL, lr=0.1, norm_bias_lr_factor=8.0)
    model = make_network(config, 1, 10)
    groups = make_optimizer(config, model, torch.device("cpu")).param_groups
    fast = {id(value) for group in groups if group["lr"] == 0.8 for value in group["params"]}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert fast == {id(norm.bias) for norm in norms}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_muon_takes_orthogonal_steps_and_keeps_filters_at_a_constant_length() -> None:
    config = replace(SMALL, optimizer="muon", filter_lr=0.1, momentum=0.0, weight_decay=0.3)
    model = make_network(config, 3, 10)
    optimizer = make_optimizer(config, model, torch.device("cpu"))
    filters = model.blocks[0].branch[0].weight.detach()  # the same memory
    others = model.classifier.weight.detach()
    before = filters.clone()
    classifier = others.clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradient = model.classifier.weight.grad.clone()
    optimizer.step()

    # SGD with weight decay for all else
    torch.testing.assert_close(others, classifier - config.lr * (gradient + 0.3 * classifier))

    # filters of length sqrt(n), and a step whose singular values are all near the learning rate
    kept = before * len(before) ** 0.5 / before.norm()
    step = ((filters - kept) / config.filter_lr).flatten(1)
    singular = torch.linalg.svdvals(step)
    assert singular.max() < 1.3
    assert singular.min() > 0.3

    # zero rate: only the length is restored
    optimizer.param_groups[-1]["lr"] = 0.0
    optimizer.step()
    assert float(filters.norm()) == pytest.approx(len(filters) ** 0.5, rel=1e-5)


def test_a_whitening_stem_is_fitted_to_the_images_and_fixed() -> None:
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    images = (images + images.roll(1, 3)) // 2  # neighbours are correlated
    data = ImageData.from_dataset((images, torch.arange(200) % 4))
    config = replace(SMALL, stem="whitening", optimizer="muon")
    model = standard_components(config).network(data)
    whitening = model.stem[0]
    outputs = whitening(data.train.images.float() / 127.5 - 1).detach()
    half = outputs[:, : len(outputs[0]) // 2]
    covariance = torch.cov(half.transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), rtol=0, atol=0.05)
    torch.testing.assert_close(outputs[:, len(covariance) :], -half)

    fitted = whitening.weight.clone()
    optimizer = make_optimizer(config, model, torch.device("cpu"))
    F.cross_entropy(model(data.train.images.float()), data.train.labels).backward()
    optimizer.step()
    assert torch.equal(whitening.weight, fitted)
    assert whitening.bias.abs().max() > 0


def test_a_whitening_stem_sees_all_classes_of_a_sorted_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hpo_lib.training.optimization._WHITENED", 20)
    dark = torch.randint(0, 32, (100, 1, 8, 8), dtype=torch.uint8)
    part = Part(torch.cat([dark, dark * 8]), torch.arange(200) // 100)
    data = ImageData(None, ("dark", "bright"), part, part)
    model = standard_components(replace(SMALL, stem="whitening")).network(data)
    outputs = model.stem[0](part.images.float() / 127.5 - 1)
    # fitted to dark images alone, the axes would be 64 times too long for the bright ones
    assert outputs.var() < 2


def test_an_average_keeps_a_share_of_itself_in_each_step() -> None:
    model = make_network(SMALL, 1, 10)
    assert make_average(SMALL, model) is None
    average = make_average(replace(SMALL, ema_decay=0.75), model)
    assert average is not None
    bias = model.classifier.bias.data
    for value in (1.0, 5.0, 9.0):
        bias.fill_(value)
        average.update_parameters(model)

    # begins at the weights after the first step
    expected = 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 9
    torch.testing.assert_close(average.module.classifier.bias, torch.full((10,), expected))


def test_norms_are_fitted_to_augmented_images_of_full_size() -> None:
    images = torch.randint(0, 256, (600, 2, 8, 8), dtype=torch.uint8)
    part = Part(images, torch.zeros(600).long())
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm1d(128))
    norm, pixels = network
    network.insert(1, torch.nn.Flatten())
    norm.running_mean.fill_(7)
    augment = Augmentation(crop_padding=0, cutout=8, shrink=True)
    fit_norms(network, part, augment, torch.Generator().manual_seed(0))

    # a square of 8 pixels with its middle anywhere blackens 9/16 of an image, on the average
    bright = 7 / 16
    expected = (images / 127.5 - 1).mean((0, 2, 3)) * bright - (1 - bright)
    torch.testing.assert_close(norm.running_mean, expected, rtol=0, atol=0.05)
    assert pixels.num_batches_tracked == 2
    assert norm.momentum == 0.1


def test_views_of_an_image_are_mirrored_and_moved_along_a_diagonal() -> None:
    images = torch.randn(3, 2, 6, 6)
    network = torch.nn.Flatten()  # logits that are the pixels

    def seen(evaluation: str) -> torch.Tensor:
        return mean_logits(network, images, evaluation).view_as(images)

    mirrored = (images + images.flip(3)) / 2
    assert torch.equal(seen("plain"), images)
    torch.testing.assert_close(seen("mirror"), mirrored)

    moved = [images.roll((step, step), (2, 3)) for step in (1, -1)]
    shifted = sum((image + image.flip(3)) / 2 for image in moved) / 2
    inner = (..., slice(1, -1), slice(1, -1))
    expected = (mirrored + shifted) / 2
    torch.testing.assert_close(seen("mirror_and_shift")[inner], expected[inner])
