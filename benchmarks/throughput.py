"""Images per second of the engine: against a per-image DataLoader loop, and against no data work.

Three sides train the same network at the same batch size, one thread each, in processes of their
own that take turns: the engine; the loop of PyTorch's tutorials (an image at a time through
torchvision's transforms, eager float32); and the engine on one fixed batch. Then the last
validation error of engine and loop over several seeds. Results are saved as they go: run again, it
goes on, and more seeds are added. Rates are of CPU time of the process, which other programs
disturb less than seconds on the wall. With a recipe other than the default, the loop does its
augmentation an image at a time, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil
import torch
from _plain import Plain
from cifar_reference import RECIPES
from scipy import stats

from hpo_lib.files import atomic_write_text
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.hardware import autocast
from hpo_lib.training.loaders import ImageData, Part, batches, load_data, make_augmentation
from hpo_lib.training.trainer import Trainer, train

CPU = torch.device("cpu")


class Turn(NamedTuple):
    """What one epoch took, and the process that ran it."""

    cpu: float
    wall: float
    resident_mb: float
    opening: float


class Engine:
    """One training, of which only the steps are timed."""

    def __init__(self, config: TrainingConfig, data: ImageData) -> None:
        self.run, self.data, self.done = Trainer(config, data, CPU), data, 0

    def epoch(self) -> None:
        """Train one epoch."""
        self.done += 1
        self.run.train_epoch(self.done, self.data.train)


class FixedBatch(Engine):
    """The same steps on one batch that is there already."""

    def epoch(self) -> None:
        """Train one epoch."""
        config = self.run.config
        self.done += 1
        augment = make_augmentation(config, self.data.train, self.done)
        images, labels = next(batches(self.data.train, config.batch_size, augment=augment))
        precision = autocast(config, CPU)
        self.run.model.train()
        for _ in range(len(self.data.train) // config.batch_size):
            self.run.optimizer.zero_grad()
            with precision():
                logits = self.run.forward(images)
            self.run.components.loss(logits.float(), labels).backward()
            self.run.optimizer.step()


SIDES: dict[str, Any] = {"engine": Engine, "plain": Plain, "fixed": FixedBatch}
_here: list[Any] = []


def turn(side: str, config: TrainingConfig, data: DataConfig, images: int) -> Turn:
    """One epoch of a side in this process, which is that side's own."""
    torch.set_num_threads(1)
    if not _here:
        began = time.perf_counter()
        loaded = load_data(data)
        opening = time.perf_counter() - began
        _here.extend([SIDES[side](config, cut(loaded, images)), opening])
    wall, began = time.perf_counter(), time.process_time()
    _here[0].epoch()
    return Turn(
        cpu=time.process_time() - began,
        wall=time.perf_counter() - wall,
        resident_mb=psutil.Process().memory_info().rss / 2**20,
        opening=_here[1],
    )


def measure_rates(
    config: TrainingConfig, data: DataConfig, images: int, repeats: int, *, compiled: bool
) -> dict[str, list[Turn]]:
    """Epochs of each side in a process of its own, one after the other; the first warms up."""
    sides = {name: (name, config) for name in SIDES}
    if compiled:
        sides["compiled"] = ("engine", replace(config, compile=True))
    spawn = multiprocessing.get_context("spawn")
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in sides
        }
        for number in range(repeats + 1):
            for name in list(sides) if number % 2 else list(reversed(sides)):
                side, chosen = sides[name]
                turns[name].append(pools[name].submit(turn, side, chosen, data, images).result())
    return turns


def parity(
    config: TrainingConfig, data: ImageData, n_seeds: int, output: Path, saved: dict[str, Any]
) -> list[float]:
    """Engine's validation error minus the loop's, per seed; what was saved is not run again."""
    done: list[float] = saved.setdefault("parity", [])
    for seed in range(len(done), n_seeds):
        seeded = replace(config, seed=seed)
        plain = Plain(seeded, data)
        for _ in range(config.epochs):
            plain.epoch()
        done.append(train(seeded, data).validation_error[-1] - plain.error())
        atomic_write_text(output, json.dumps(saved))
        print(f"seed {seed}: engine - plain {100 * done[-1]:+.2f} points", flush=True)
    return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--images", type=int, default=1024, help="training images; 0: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8, help="of the trainings that are compared")
    parser.add_argument("--parity-images", type=int, default=5000, help="0: all")
    parser.add_argument("--recipe", choices=RECIPES, help="fields as in cifar_reference.py")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a fourth side")
    parser.add_argument("--output", default="results/throughput.json")
    parser.add_argument("--quick", action="store_true", help="digits, few images, 2 seeds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.images, arguments.repeats = "digits", 256, 3
        arguments.seeds, arguments.epochs, arguments.parity_images = 2, 4, 512
        arguments.output = str(Path(arguments.output).with_name("throughput_quick.json"))
    torch.set_num_threads(1)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    asked = {key: value for key, value in given.items() if key not in ("output", "seeds")}
    saved: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    if saved.get("arguments") != asked:
        saved = {"arguments": asked}

    flip = arguments.data != "digits"
    config = TrainingConfig(
        depth=8, n_filters=16, batch_size=arguments.batch, epochs=arguments.epochs, flip=flip
    )
    changes = {**RECIPES.get(arguments.recipe, {}), "batch_size": arguments.batch}
    if not flip:
        changes["alternate_flip"] = False
    config = replace(config, **changes)
    source = DataConfig(arguments.data)
    data = load_data(source)
    if "rates" not in saved:
        turns = measure_rates(
            replace(config, epochs=1000),
            source,
            arguments.images,
            arguments.repeats,
            compiled=arguments.compile,
        )
        n = len(cut(data, arguments.images).train) // config.batch_size * config.batch_size
        saved["rates"] = {name: [n / one.cpu for one in each[1:]] for name, each in turns.items()}
        engine = turns["engine"]
        saved |= {"resident_mb": engine[-1].resident_mb, "opening_seconds": engine[0].opening}
        compiling = turns.get("compiled", engine)[0].wall
        saved["compile_seconds"] = compiling - engine[0].wall
        atomic_write_text(output, json.dumps(saved))
    found: dict[str, list[float]] = saved["rates"]

    def ratio(side: str) -> list[float]:
        return [a / b for a, b in zip(found["engine"], found[side], strict=True)]

    print("side      images per CPU second   engine / side (range)")
    for name, values in found.items():
        against = ratio(name)
        print(
            f"{name:9s} {statistics.median(values):20.0f} {statistics.median(against):10.2f}"
            f" ({min(against):.2f} to {max(against):.2f})"
        )
    size = arguments.parity_images
    pairs = parity(config, cut(data, size), arguments.seeds, output, saved)
    half = float(stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5)
    mean = float(np.mean(pairs))
    result = {
        "engine_over_plain": round(statistics.median(ratio("plain")), 3),
        "engine_over_fixed": round(statistics.median(ratio("fixed")), 3),
        "images_per_second": round(statistics.median(found["engine"]), 1),
        "resident_mb": round(saved["resident_mb"]),
        "opening_seconds": round(saved["opening_seconds"], 2),
        "parity_points": [round(100 * (mean + sign * half), 2) for sign in (-1, 0, 1)],
        "n_seeds": len(pairs),
        "data": arguments.data,
    }
    if "compiled" in found:
        result["engine_over_compiled"] = round(statistics.median(ratio("compiled")), 3)
        result["compile_seconds"] = round(saved["compile_seconds"], 1)
    print(json.dumps(result))


def cut(data: ImageData, size: int) -> ImageData:
    """Cut the training images to a number of them, evenly spread as they are sorted by class."""
    if not size or size >= len(data.train):
        return data
    chosen = torch.linspace(0, len(data.train) - 1, size).long()
    return replace(data, train=Part(data.train.images[chosen], data.train.labels[chosen]))


if __name__ == "__main__":
    main()
