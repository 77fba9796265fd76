"""Checkpoint files: the state of a training after an epoch, from which it goes on."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from hpo_lib.exceptions import CheckpointError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.training.config import TrainingConfig

# fields that make up the network: `resnet` takes them by these names
NETWORK = (
    "depth",
    "n_filters",
    "width_growth",
    "filter_size",
    "dropout",
    "activation",
    "shortcut",
    "stride",
    "stem",
    "pre_activation",
    "residual_init",
    "pooling",
    "logit_scale",
)

# fields that a training shares with its checkpoint: all but where and how fast it runs
TRAJECTORY = tuple(
    item.name for item in fields(TrainingConfig) if item.name not in ("device", "compile")
)

MISFIT = "does not fit the images or classes of this data"

_KEYS = {"epoch", "config", "model", "optimizer"}


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; an earlier one at the path stays whole until the new one is.

    Args:
        path: file; its folder is made.
        content: the epoch, the configuration, the states of model and optimizer, the origin.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, buffer.getvalue())


def read_checkpoint(
    path: str | Path,
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """Read a checkpoint and compare its configuration.

    Args:
        path: file that `write_checkpoint` wrote.
        shared: hyperparameters by name, in which both must agree.

    Raises:
        CheckpointError: the file is something else, or of another configuration.
    """
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not set(content) >= _KEYS:
        message = f"{path} is not a checkpoint of a training"
        raise CheckpointError(message)

    differences: list[str] = []
    for name, current in shared.items():
        # A field that an earlier version did not have stood at what is its default now.
        recorded = content["config"].get(name, getattr(TrainingConfig, name, None))
        if recorded != current:
            differences.append(f"{name} is {recorded!r} there and {current!r} here")
    if differences:
        message = f"{path} belongs to another configuration: {', '.join(differences)}"
        raise CheckpointError(message)
    return content


@contextmanager
def checkpoint_errors(
    path: str | Path, problem: str = "is damaged or no checkpoint"
) -> Generator[None]:
    """Raise whatever fails in this context as a fault of the checkpoint.

    Args:
        path: file that is read; a missing one stays a `FileNotFoundError`.
        problem: predicate of the message.
    """
    try:
        yield
    except (FileNotFoundError, CheckpointError):
        raise
    except Exception as error:  # a damaged file may break anything
        message = f"{path} {problem} ({type(error).__name__}: {error})"
        raise CheckpointError(message) from error
