from __future__ import annotations

import pytest
import torch

from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.loaders import (
    Augmentation,
    Part,
    batches,
    load_data,
    load_test_data,
    make_augmentation,
)
from tests.training.images import a_part


def test_digits_are_grey_images_of_eight_pixels() -> None:
    data = load_data(DataConfig())
    assert data.classes == tuple("0123456789")
    assert data.train.images.shape == (1078, 1, 8, 8)
    assert data.train.images.max() == 255
    assert (len(data.validation), len(load_test_data(DataConfig()))) == (360, 359)
    assert load_data(DataConfig(image_size=16)).validation.images.shape[2:] == (16, 16)


def test_batches_are_normalised_and_keep_images_with_labels() -> None:
    part = a_part()
    found = list(batches(part, 4))
    assert [len(y) for _, y in found] == [4, 2]
    assert [len(y) for _, y in batches(part, 4, drop_last=True)] == [4]
    x = torch.cat([x for x, _ in found])
    torch.testing.assert_close(x, part.images / 255 * 2 - 1)
    assert torch.equal(torch.cat([y for _, y in found]), part.labels)
    x, y = next(batches(part, 6, shuffle=True, generator=torch.Generator().manual_seed(0)))
    assert y.tolist() != part.labels.tolist()
    torch.testing.assert_close(x, part.images[y] / 255 * 2 - 1)


def test_each_augmented_image_is_one_crop_of_the_padded_image() -> None:
    part, margin = a_part(n=40, channels=2), 2

    def augmented(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return next(batches(part, 40, augment=Augmentation(margin), generator=generator))[0]

    x = augmented(1)
    assert torch.equal(x, augmented(1))
    assert not torch.equal(x, augmented(2))
    assert x.is_contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(part.images.float(), (margin,) * 4)
    seen: set[tuple[int, int, bool]] = set()
    for image, wide in zip((x + 1) * 127.5, padded, strict=True):
        crops = {
            (top, left, flip): wide[:, top : top + 5, left : left + 5].flip(2 if flip else ())
            for top in range(2 * margin + 1)
            for left in range(2 * margin + 1)
            for flip in (False, True)
        }
        hits = [key for key, crop in crops.items() if torch.allclose(crop, image, atol=1e-3)]
        assert hits
        seen.update(hits)
    assert {flip for *_, flip in seen} == {False, True}
    assert {top for top, *_ in seen} == set(range(2 * margin + 1))


def test_alternating_flips_show_both_sides_of_each_image_in_two_epochs() -> None:
    part = a_part(n=40, channels=2)
    config = TrainingConfig(alternate_flip=True, crop_padding=0)

    def augmented(epoch: int) -> torch.Tensor:
        augment = make_augmentation(config, part, epoch)
        order = torch.Generator().manual_seed(epoch)
        drawn = batches(part, 7, augment=augment, shuffle=True, generator=order)
        images, labels = map(torch.cat, zip(*drawn, strict=True))
        return (images + 1)[labels.argsort()] * 127.5

    originals = part.images[part.labels.argsort()].float()
    first, second, third = (augmented(epoch) for epoch in (1, 2, 3))
    is_mirrored = [
        not torch.allclose(a, b, atol=1e-3) for a, b in zip(first, originals, strict=True)
    ]
    assert 8 < sum(is_mirrored) < 32
    torch.testing.assert_close(second, first.flip(3))
    torch.testing.assert_close(third, first)


def test_images_are_shrunk_in_the_first_epochs() -> None:
    ramp = torch.arange(0, 240, 10, dtype=torch.uint8).expand(4, 3, 24, 24)
    part = Part(ramp, torch.arange(4))
    config = TrainingConfig(low_resolution=0.5, epochs=5, flip=False, crop_padding=0)
    sizes: list[tuple[int, ...]] = []
    for epoch in range(1, 6):
        augment = make_augmentation(config, part, epoch)
        images, _ = next(batches(part, 4, augment=augment))
        assert images.is_contiguous(memory_format=torch.channels_last)
        sizes.append(tuple(images.shape[2:]))
        columns = (images.mean((0, 1, 2)) + 1) * 127.5
        assert columns.mean().item() == pytest.approx(115, abs=1)
        assert columns.tolist() == sorted(columns.tolist())
    assert sizes == [(18, 18)] * 2 + [(24, 24)] * 3


def test_cutout_blackens_a_square_in_each_image() -> None:
    part = Part(torch.full((300, 2, 9, 9), 255, dtype=torch.uint8), torch.zeros(300).long())
    augment = Augmentation(crop_padding=0, flip=False, cutout=3)
    generator = torch.Generator().manual_seed(0)
    images = next(batches(part, 300, augment=augment, generator=generator))[0]
    black = images == -1
    assert torch.equal(black[:, 0], black[:, 1])
    for square in black[:, 0]:
        rows, columns = square.any(1).nonzero(), square.any(0).nonzero()
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        assert square.sum() == height * width
        assert 2 <= height <= 3
        assert 2 <= width <= 3
    assert bool(black.any(0).all())
