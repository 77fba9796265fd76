"""Images as tensors, and shuffled, augmented batches of them made on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hpo_lib.exceptions import DataError
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.hardware import seeded_generator
from hpo_lib.training.image_pool import ImageSource, Integers, encode_name
from hpo_lib.training.splits import check_classes, draw_stratified, split_source


@dataclass(frozen=True)
class Part:
    """Images and labels of one part of the data.

    Attributes:
        images: uint8 (n, channels, height, width), kept in channels-last memory.
        labels: class indices, int64 (n,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images = self.images.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Part:
        """Return the part on a device."""
        return Part(
            images=self.images.to(device),
            labels=self.labels.to(device),
        )


@dataclass(frozen=True)
class ImageData:
    """Training and validation images: all that a search may see, never the test part.

    Attributes:
        config: choice of the images and of their split; None for images of the user's own.
        classes: names, in the order of the labels.
        train: training part.
        validation: validation part.
    """

    config: DataConfig | None
    classes: tuple[str, ...]
    train: Part
    validation: Part

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        validation: Any = None,
        *,
        classes: Sequence[str] | None = None,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> ImageData:
        """Read images of the user's own, once; their split is seeded and stratified.

        Args:
            dataset: a pair of images and labels (tensors or arrays), or a map-style dataset of
                such pairs, as torchvision's are, with images of PIL, tensors or arrays. Images
                are (channels, height, width), (height, width, channels) or (height, width); uint8,
                or floats from 0 to 1. A random transform is applied once: the engine augments.
            validation: validation images, likewise; None: a part of `dataset`.
            classes: names, in the order of the labels; None: those of the dataset, else numbers.
            validation_fraction: share of the validation part.
            seed: seed of the split.

        Raises:
            DataError: the images or labels are not as said above, or a part lacks a class.

        Example:
            >>> images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
            >>> data = ImageData.from_dataset((images, torch.arange(20) % 2))
            >>> len(data.train), len(data.validation), data.classes
            (18, 2, ('0', '1'))
        """
        if not 0 < validation_fraction < 1:
            rule = "validation_fraction must be above 0 and below 1"
            message = f"{rule}, got {validation_fraction}"
            raise DataError(message)

        whole = read_part(dataset)
        labels = whole.labels.numpy()
        names = classes or getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
        names = tuple(map(str, names))
        if int(labels.max()) >= len(names):
            message = f"labels must be below {len(names)}, one for each class, got {labels.max()}"
            raise DataError(message)

        if validation is not None:
            held_out = read_part(validation)
            for part, images in (("train", whole), ("validation", held_out)):
                check_classes(names, images.labels.numpy(), {part: np.arange(len(images))})
            return cls(None, names, whole, held_out)

        order = np.random.default_rng(seed).permutation(len(whole))
        drawn, others = draw_stratified(labels, order, round(len(whole) * validation_fraction))
        indices = {"train": np.sort(others), "validation": np.sort(drawn)}
        check_classes(names, labels, indices)
        parts = [Part(whole.images[chosen], whole.labels[chosen]) for chosen in indices.values()]
        return cls(None, names, *parts)

    @cached_property
    def sha256(self) -> str:
        """Digest of every pixel and label as split, wherever the images lie and on any device."""
        digest = hashlib.sha256(encode_name("\n".join(self.classes)))
        for part in (self.train, self.validation):
            # n, h, w, c, as they lie in memory
            pixels = part.images.cpu().permute(0, 2, 3, 1).contiguous()
            labels = part.labels.cpu().numpy()
            digest.update(repr(tuple(pixels.shape)).encode())
            digest.update(pixels.numpy().data)
            digest.update(labels.tobytes())

        return digest.hexdigest()

    def to(self, device: torch.device | str) -> ImageData:
        """Return the data on a device."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
        )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images.

    Attributes:
        crop_padding: width in pixels of the black margin that random crops may reach into.
        flip: mirror every second image horizontally, at random.
        mirrored: which images of the part are mirrored (n,), as booleans; None: at random.
        cutout: side in pixels of a square that is blackened in each image, at random; 0: none.
        shrink: shrink the images to three quarters of their sides at last.
    """

    crop_padding: int = 4
    flip: bool = True
    mirrored: Tensor | None = None
    cutout: int = 0
    shrink: bool = False


def load_data(config: DataConfig) -> ImageData:
    """Read the training and validation part; a search cannot reach the test part through it.

    Raises:
        DataError: the images cannot be found, read or split as configured.

    Example:
        >>> load_data(DataConfig("digits", n_train=200)).train.images.shape
        torch.Size([200, 1, 8, 8])
    """
    source, split = split_source(config)
    train = _load_part(source, "train", split, config.image_size)
    validation = _load_part(source, "validation", split, config.image_size)
    return ImageData(config, source.classes, train, validation)


def load_test_data(config: DataConfig) -> Part:
    """Read the test part, which is touched once, after the search.

    Raises:
        DataError: the images cannot be found, read or split as configured.
    """
    source, split = split_source(config)
    return _load_part(source, "test", split, config.image_size)


def make_augmentation(config: TrainingConfig, part: Part, epoch: int = 1) -> Augmentation:
    """Return the crops, flips, cutouts and size for the images of a part.

    Args:
        config: hyperparameters.
        part: images (n, channels, height, width).
        epoch: number of the epoch, from 1; alternating flips and the size depend on it.
    """
    padding = config.crop_padding
    if padding is None:
        padding = part.images.shape[2] // 8  # 4 for 32×32, as in He et al.
    mirrored = None
    if config.alternate_flip:
        # Jordan 2024 (arXiv:2404.00498): two epochs in a row see both sides of each image.
        generator = seeded_generator(config.seed, 0, 2)
        coins = torch.rand(len(part), generator=generator) < 0.5
        mirrored = coins if epoch % 2 else ~coins
    shrink = epoch <= round(config.low_resolution * config.epochs)
    return Augmentation(padding, config.flip, mirrored, config.cutout, shrink)


def batches(
    part: Part,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
    shuffle: bool = False,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one epoch on the part's device.

    Args:
        part: images and labels.
        batch_size: images per batch.
        generator: generator of the CPU, so that every device sees the same order, crops and
            flips; None: torch's own.
        augment: random crops and flips; None: images as they are.
        shuffle: draw a new order.
        drop_last: leave out a last batch of fewer images.

    Yields:
        Images, float32 (n, channels, height, width) from -1 to 1 in channels-last memory, of
        fewer pixels where they are shrunk, and their labels (n,).
    """
    pixels = part.images.permute(0, 2, 3, 1)  # as it lies in memory: n, h, w, c
    n_images = len(part)
    order = torch.arange(n_images)
    if shuffle:
        order = torch.randperm(n_images, generator=generator)
    if drop_last:
        order = order[: n_images - n_images % batch_size]

    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size].to(pixels.device)
        images = pixels.index_select(0, chosen)
        if augment is not None:
            images = _augment(images, augment, generator, order[first : first + batch_size])

        # 0 to 255 becomes -1 to 1, in place
        x = images.to(torch.float32)
        x.mul_(1 / 127.5).sub_(1)
        x = x.permute(0, 3, 1, 2)
        if augment is not None and augment.shrink:
            sides = [round(0.75 * side) for side in x.shape[2:]]
            x = F.interpolate(x, sides, mode="bilinear")
        labels = part.labels.index_select(0, chosen)
        yield x, labels


def _augment(
    images: Tensor,
    augment: Augmentation,
    generator: torch.Generator | None,
    numbers: Tensor,
) -> Tensor:
    """Crop and flip (n, h, w, c) in one gather of pixels, then cut squares out.

    Args:
        images: (n, h, w, c).
        augment: what to do.
        generator: generator of the CPU.
        numbers: place of each image in its part (n,).
    """
    n, height, width, channels = images.shape
    device = images.device
    margin = augment.crop_padding
    flip_probability = 0.5 if augment.flip else 0

    # one corner and one coin per image, drawn on the CPU
    corners = torch.randint(2 * margin + 1, (2, n, 1), generator=generator)
    corners = corners.to(device)
    coins = torch.rand(n, 1, generator=generator)
    flipped = (coins < flip_probability).to(device)
    if augment.mirrored is not None:
        flipped = augment.mirrored[numbers, None].to(device)

    # rows (n, h) and columns (n, w) of the padded image that each crop takes
    rows = corners[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    mirrored = width - 1 - columns
    columns = corners[1] + torch.where(flipped, mirrored, columns)

    # padded images as a list of pixels, and the index (n, h, w) of each one taken
    padded = F.pad(images, (0, 0, margin, margin, margin, margin))
    padded_height, padded_width = padded.shape[1:3]
    image_numbers = torch.arange(n, device=device)
    rows += image_numbers[:, None] * padded_height
    indices = rows[:, :, None] * padded_width + columns[:, None, :]
    pixels = padded.view(-1, channels)
    crops = pixels.index_select(0, indices.flatten())
    crops = crops.view(n, height, width, channels)
    if augment.cutout > 0:
        _cut_out(crops, augment.cutout, generator)
    return crops


def _cut_out(images: Tensor, side: int, generator: torch.Generator | None) -> None:
    """Blacken a square in each image (n, h, w, c), in place (DeVries and Taylor 2017).

    Its middle is anywhere in the image, so that a part of the square may lie outside
    (arXiv:1708.04552).
    """
    n, height, width, _ = images.shape
    device = images.device
    middles = torch.rand(2, n, 1, generator=generator).to(device)
    first_rows = (middles[0] * height).floor() - side // 2
    first_columns = (middles[1] * width).floor() - side // 2

    rows = torch.arange(height, device=device) - first_rows
    columns = torch.arange(width, device=device) - first_columns
    in_rows = (rows >= 0) & (rows < side)
    in_columns = (columns >= 0) & (columns < side)
    square = in_rows[:, :, None] & in_columns[:, None, :]
    images.masked_fill_(square[..., None], 0)


def read_part(dataset: Any) -> Part:
    """Return a copy of the images and labels of a pair or of a dataset.

    Raises:
        DataError: they are not as `ImageData.from_dataset` says.
    """
    try:
        if isinstance(dataset, tuple | list):
            images, labels = cast("Sequence[Any]", dataset)
        else:
            pairs = [dataset[index] for index in range(len(dataset))]
            images = np.stack([_as_array(image) for image, _ in pairs])
            labels = [int(label) for _, label in pairs]
        pixels = torch.as_tensor(images)
        classes = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError) as error:
        rule = "images must be a pair (images, labels) of tensors or a dataset of such pairs"
        message = f"{rule}, all images of one size: {error}"
        raise DataError(message) from error

    n_images = len(pixels)
    is_integer = not classes.is_floating_point() and not classes.is_complex()
    if classes.shape != (n_images,) or n_images == 0 or not is_integer or classes.min() < 0:
        rule = "labels must be class indices from 0, one for each image"
        message = f"{rule}, got {labels!r:.100} for {n_images} images"
        raise DataError(message)
    return Part(_as_uint8(pixels.cpu()), classes.to(torch.int64, copy=True))


def _as_array(image: Any) -> np.ndarray[Any, Any]:
    """Return an image of a dataset as an array; a palette or an alpha channel becomes RGB."""
    if hasattr(image, "convert") and image.mode not in ("L", "RGB"):  # PIL's
        image = image.convert("RGB")
    return np.asarray(image)


def _as_uint8(images: Tensor) -> Tensor:
    """Return a copy of the images as uint8 (n, channels, height, width)."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4:
        message = f"images must be (n, channels, height, width), got shape {tuple(images.shape)}"
        raise DataError(message)
    # The channels are fewer than the pixels of a row or column.
    if images.shape[1] > images.shape[3]:
        images = images.permute(0, 3, 1, 2)

    if images.dtype == torch.uint8:
        return images.clone()
    if images.is_floating_point() and float(images.min()) >= 0 and float(images.max()) <= 1:
        return (images * 255).round().to(torch.uint8)
    extent = f"{images.dtype} from {images.min():.4g} to {images.max():.4g}"
    message = f"images must be uint8 or floats from 0 to 1 (leave out Normalize), got {extent}"
    raise DataError(message)


def _load_part(
    source: ImageSource,
    part: str,
    split: dict[str, Integers],
    size: int | None,
) -> Part:
    """Copy the images of one part to a tensor, resized if they have another size."""
    pool = source.pool_of(part)
    indices = split[part]
    chosen = torch.from_numpy(pool.read()[indices]).permute(0, 3, 1, 2)
    if size is not None and chosen.shape[2:] != (size, size):
        chosen = F.interpolate(chosen, (size, size), mode="bilinear", antialias=True)
    return Part(chosen, torch.from_numpy(pool.labels[indices]))
