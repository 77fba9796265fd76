"""Training a ResNet on images, from any epoch to any later one."""

from __future__ import annotations

import ctypes
import io
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import tqdm
from torch import Tensor, nn
from torch.nn import functional as F

from hpo_lib.checks import check_member
from hpo_lib.exceptions import CheckpointError
from hpo_lib.files import atomic_write_bytes
from hpo_lib.objective import LOG_FOLDER, Segment, SegmentResult, check_origin
from hpo_lib.space.search_space import Configuration
from hpo_lib.training.config import (
    NETWORK,
    TrainingConfig,
    autocast,
    choose_device,
    learning_rate,
    make_augmentation,
    make_loss,
    make_network,
    make_optimizer,
)
from hpo_lib.training.loaders import DataConfig, ImageData, Part, batches, load_data
from hpo_lib.training.resnet import ResNet

_EVALUATION_BATCH = 256
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_BYTES = 2**28
_MISFIT = "does not fit the images or classes of this data"
_CHECKPOINT_KEYS = {"epoch", "config", "model", "optimizer", "best"}
# what a training must share with its checkpoint: all but where and how fast it runs
_TRAJECTORY = tuple(
    item.name for item in fields(TrainingConfig) if item.name not in ("device", "compile")
)


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a trained network; `loss` is the cross-entropy, whatever was minimised."""

    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    loss: float
    error: float


class _Epoch(NamedTuple):
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_error: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"training loss {self.train_loss:.4f}, validation loss {self.validation_loss:.4f}, "
            f"validation error {100 * self.validation_error:.2f} %, {self.seconds:.1f} s"
        )


def train(
    config: TrainingConfig,
    data: ImageData,
    *,
    start: int | None = None,
    stop: int | None = None,
    checkpoint: str | Path | None = None,
    save_to: str | Path | None = None,
    log_folder: str | Path | None = None,
    study: str | None = None,
    progress: bool = False,
) -> SegmentResult:
    """Train the epochs `start` (exclusive) to `stop` (inclusive; None: all).

    Args:
        config: the training; its `epochs` are the full budget that the schedule spans.
        data: where the training and validation images are; moved to the device if need be.
        start: epochs already done; None: those of `checkpoint`, or 0 without one.
        stop: the last epoch to train, at most `config.epochs`.
        checkpoint: what an earlier call wrote; needed where `start` is above 0.
        save_to: file for the state after each epoch, with the best weights so far.
        log_folder: folder for TensorBoard scalars.
        study: identity of the study, written into checkpoints; None: of none.
        progress: a bar in a terminal or in JupyterLab, a line per epoch in a log.

    Raises:
        CheckpointError: `checkpoint` is damaged, or of another configuration, epoch or study, or
            of other data.
    """
    device = choose_device(config.device)
    needed = checkpoint is not None or save_to is not None
    origin = {"study": study, "data": data.sha256} if needed else {}
    data = data.to(device)
    run = _Run.new(config, data, device)
    run.origin = origin
    done = 0 if checkpoint is None else run.load(checkpoint)
    start = done if start is None else start
    stop = config.epochs if stop is None else stop
    Segment(seed=config.seed, start=start, stop=stop, budget=config.epochs)  # checks the four
    if start != done:
        message = f"start must be the epoch of the checkpoint ({done}), got {start}"
        raise CheckpointError(message)
    history: list[_Epoch] = []
    with _log(log_folder, start) as log, _progress(start, stop, enabled=progress) as show:
        for epoch in range(start + 1, stop + 1):
            result = run.epoch(epoch, data)
            if not math.isfinite(result.train_loss) or not math.isfinite(result.validation_loss):
                return _segment(history, None, diverged=True)
            history.append(result)
            log(epoch, result)
            show(epoch, result)
            if save_to is not None:
                run.save(save_to, epoch)
    return _segment(history, save_to)


def evaluate(
    config: TrainingConfig, checkpoint: str | Path, part: Part, *, weights: str = "best"
) -> Evaluation:
    """Predict one part of the data with a checkpoint's best (by validation) or last weights."""
    check_member("weights", weights, ("best", "last"))
    device = choose_device(config.device)
    with _reading(checkpoint):
        content = _read_checkpoint(checkpoint, config, NETWORK)
        state: dict[str, Tensor] = (content["best"] if weights == "best" else content)["model"]
        n_classes = len(state["classifier.bias"])
    model = make_network(config, part.images.shape[1], n_classes)
    with _reading(checkpoint, _MISFIT):
        model.to(device).load_state_dict(state)
    part = part.to(device)
    logits = _logits(model.to(memory_format=torch.channels_last), part, autocast(config, device))
    predicted = logits.argmax(1)
    return Evaluation(
        labels=part.labels.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        loss=float(F.cross_entropy(logits, part.labels)),
        error=int((predicted != part.labels).sum()) / len(part),
    )


@dataclass(frozen=True)
class TrainingObjective:
    """Validation error of a ResNet whose numbers a configuration names.

    `config` holds the numbers that the configuration leaves open; its seed is replaced by the
    segment's. A checkpoint is written where the segment ends before the budget, or always with
    `keep_checkpoint`; `tensorboard` logs into the segment's folder. When a study closes a trial
    its checkpoints go and its logs stay: `tensorboard --logdir <studies' file>.checkpoints`.
    """

    config: TrainingConfig
    data: DataConfig
    keep_checkpoint: bool = False
    tensorboard: bool = False

    @property
    def budget(self) -> int:
        """Epochs of a full training."""
        return self.config.epochs

    @property
    def settings(self) -> dict[str, Any]:
        """The training and the data, without the seed (the segment's) and without places."""
        training, data = asdict(self.config), asdict(self.data)
        del training["seed"], data["root"]
        return {"training": training, "data": data}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Train one segment; its checkpoint is `epoch_<stop>.pt` in the segment's folder."""
        if "seed" in configuration:
            message = f"seed must not be searched: the study gives it, got {configuration['seed']}"
            raise ValueError(message)
        config = replace(self.config.with_configuration(configuration), seed=segment.seed)
        if config.epochs != segment.budget:
            message = (
                f"the segment's budget must be the training's epochs ({config.epochs}), "
                f"got {segment.budget}"
            )
            raise ValueError(message)
        save = self.keep_checkpoint or segment.stop < segment.budget
        if segment.folder is None and (save or self.tensorboard):
            message = "the segment needs a folder for its checkpoint or log, got None"
            raise ValueError(message)
        folder = Path(segment.folder or ".")
        return train(
            config,
            _load(self.data, choose_device(config.device)),
            start=segment.start,
            stop=segment.stop,
            checkpoint=segment.checkpoint,
            save_to=folder / f"epoch_{segment.stop}.pt" if save else None,
            log_folder=folder / LOG_FOLDER if self.tensorboard else None,
            study=segment.study,
        )


@dataclass
class _Run:
    """What changes while a network is trained."""

    config: TrainingConfig
    device: torch.device
    model: ResNet
    step: Callable[[Tensor], Tensor]  # the model, compiled if asked for
    optimizer: torch.optim.Optimizer
    best: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "error": math.inf})
    origin: dict[str, str | None] = field(default_factory=lambda: {})

    @classmethod
    def new(cls, config: TrainingConfig, data: ImageData, device: torch.device) -> _Run:
        with _seeded(device, config.seed, 0):
            model = make_network(config, data.train.images.shape[1], len(data.classes))
        model = model.to(device).to(memory_format=torch.channels_last)
        _keep_freed_memory()
        _clear_vector_registers()
        optimizer = make_optimizer(config, model, device)
        step = torch.compile(model) if config.compile else model
        return cls(config, device, model, cast("Callable[[Tensor], Tensor]", step), optimizer)

    def epoch(self, epoch: int, data: ImageData) -> _Epoch:
        began = time.perf_counter()
        with _seeded(self.device, self.config.seed, epoch), _deterministic(self.device):
            loss, accuracy = self._train(epoch, data.train)
            logits = _logits(self.model, data.validation, autocast(self.config, self.device))
        labels = data.validation.labels
        validation_loss = float(F.cross_entropy(logits, labels))
        error = int((logits.argmax(1) != labels).sum()) / len(labels)
        if error < self.best["error"]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "error": error, "model": weights}
        return _Epoch(loss, accuracy, validation_loss, error, time.perf_counter() - began)

    def _train(self, epoch: int, part: Part) -> tuple[float, float]:
        config = self.config
        precision = autocast(config, self.device)
        loss_function = make_loss(config)
        # whole batches only: a last batch of few images would disturb the batch norms
        generator = torch.Generator().manual_seed(_draw_seed(config.seed, epoch, 1))
        whole = len(part) >= config.batch_size
        n_steps = len(part) // config.batch_size if whole else 1
        first = (epoch - 1) * n_steps
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        self.model.train()
        drawn = batches(
            part,
            config.batch_size,
            generator=generator,
            augment=make_augmentation(config, part),
            shuffle=True,
            drop_last=whole,
        )
        for index, (images, labels) in enumerate(drawn):
            rate = learning_rate(config, first + index, n_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            with precision():
                logits = self.step(images)
            loss = loss_function(logits.float(), labels)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
            hits.append(logits.detach().argmax(1) == labels)
            # rarely, because asking waits for the device
            if index % 64 == 63 and not math.isfinite(float(losses[-1])):
                break
        return float(torch.stack(losses).mean()), float(torch.cat(hits).float().mean())

    def save(self, path: str | Path, epoch: int) -> None:
        content = {
            "epoch": epoch,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            **self.origin,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, buffer.getvalue())

    def load(self, path: str | Path) -> int:
        with _reading(path):
            content = _read_checkpoint(path, self.config, _TRAJECTORY)
            with _reading(path, _MISFIT):
                self.model.load_state_dict(content["model"])
            check_origin(path, content, self.origin)
            self.optimizer.load_state_dict(content["optimizer"])
            self.best = content["best"]
            return content["epoch"]


@torch.inference_mode()
def _logits(model: nn.Module, part: Part, precision: Callable[[], Any]) -> Tensor:
    model.eval()
    outputs: list[Tensor] = []
    for images, _ in batches(part, _EVALUATION_BATCH):
        with precision():
            outputs.append(model(images).float())
    return torch.cat(outputs)


@contextmanager
def _seeded(device: torch.device, *entropy: int) -> Generator[None]:
    """Seed torch's own generators (weights, dropout) and leave the caller's as they were."""
    here = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(here):
        torch.manual_seed(_draw_seed(*entropy))
        yield


def _draw_seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


@lru_cache
def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks of megabytes: every step asks for the same ones again.

    It would give them back to the system, which clears each page anew: 10 to 15 % of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, _KEPT_BYTES)


def _clear_vector_registers() -> None:
    """Leave this thread's vector registers as torch's exponentials need them.

    torch 2.14's kernel of expm1, which ELU and SELU rest on, takes seven times as long in a new
    thread (seen on Zen 4 with AVX-512) until a kernel that clears the registers ran once.
    """
    torch.tanh(torch.zeros(64, dtype=torch.bfloat16))


def _deterministic(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


@contextmanager
def _reading(path: str | Path, problem: str = "is damaged or no checkpoint") -> Generator[None]:
    """A damaged file may break anything in here: it is the checkpoint's fault."""
    try:
        yield
    except (FileNotFoundError, CheckpointError):
        raise
    except Exception as error:
        message = f"{path} {problem} ({type(error).__name__}: {error})"
        raise CheckpointError(message) from error


def _read_checkpoint(
    path: str | Path, config: TrainingConfig, shared: Iterable[str]
) -> dict[str, Any]:
    """Read a checkpoint whose configuration agrees in the `shared` numbers."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not set(content) >= _CHECKPOINT_KEYS:
        message = f"{path} is not a checkpoint of a training"
        raise CheckpointError(message)
    pairs = {name: (content["config"].get(name), getattr(config, name)) for name in shared}
    differences = [
        f"{name} is {theirs!r} there and {ours!r} here"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    if differences:
        message = f"{path} belongs to another configuration: {', '.join(differences)}"
        raise CheckpointError(message)
    return content


@lru_cache(maxsize=2)
def _load(config: DataConfig, device: torch.device) -> ImageData:
    return load_data(config).to(device)


def _segment(
    history: list[_Epoch], checkpoint: str | Path | None, *, diverged: bool = False
) -> SegmentResult:
    names = ("train_loss", "validation_loss", "validation_error", "seconds")
    curves = {name: tuple(getattr(epoch, name) for epoch in history) for name in names}
    place = None if checkpoint is None else str(checkpoint)
    status = "diverged" if diverged else "completed"
    return SegmentResult(**curves, checkpoint=place, status=status)


_Show = Callable[[int, _Epoch], None]


@contextmanager
def _log(folder: str | Path | None, start: int) -> Generator[_Show]:
    """Write TensorBoard scalars; what an interrupted run wrote after `start` is not shown."""
    if folder is None:
        yield lambda epoch, result: None
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and often not needed

    with SummaryWriter(str(folder), purge_step=start + 1) as writer:

        def write(epoch: int, result: _Epoch) -> None:
            writer.add_scalar("training_loss", result.train_loss, epoch)
            writer.add_scalar("training_accuracy", result.train_accuracy, epoch)
            writer.add_scalar("validation_loss", result.validation_loss, epoch)
            writer.add_scalar("validation_accuracy", 1 - result.validation_error, epoch)

        yield write


@contextmanager
def _progress(start: int, stop: int, *, enabled: bool) -> Generator[_Show]:
    """A bar where someone watches; papermill's and other logs get one line per epoch."""
    # the variable is set for kernels that a Jupyter server started, not for papermill's
    notebook = "JPY_SESSION_NAME" in os.environ and "ipykernel" in sys.modules
    if not enabled:
        yield lambda epoch, result: None
    elif not notebook and not sys.stderr.isatty():
        yield lambda epoch, result: print(f"epoch {epoch} of {stop}: {result}", flush=True)
    else:
        bar_class = import_module("tqdm.notebook").tqdm if notebook else tqdm.tqdm
        with bar_class(total=stop, initial=start, unit="epoch") as bar:

            def advance(epoch: int, result: _Epoch) -> None:
                bar.set_postfix_str(str(result), refresh=False)
                bar.update()

            yield advance
