"""Measure accuracy and speed of ResNet-20 with the default configuration.

The test part is read once, at the end. Run again after an interruption, it continues behind the
last finished epoch.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hpo_lib.files import atomic_write_text
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.hardware import choose_device
from hpo_lib.training.loaders import ImageData, load_data, load_test_data
from hpo_lib.training.trainer import evaluate, train

COLUMNS = ("train_loss", "validation_loss", "validation_error", "seconds")


def parse() -> argparse.Namespace:
    """Read the command line; --quick replaces the data and the size of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="results/reference/resnet20.json")
    parser.add_argument("--checkpoints", help="folder (default: beside the output)")
    parser.add_argument("--quick", action="store_true", help="ResNet-8 on digits, 10 epochs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.epochs, arguments.threads = "digits", 10, 1
        arguments.output = str(Path(arguments.output).with_name("resnet8_quick.json"))
    return arguments


def continue_training(
    config: TrainingConfig, data: ImageData, folder: Path
) -> tuple[dict[str, list[float]], Path]:
    """Train epoch by epoch; the curves beside the checkpoints say which epochs are done."""
    folder.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[float]] = {column: [] for column in COLUMNS}
    record = folder / "curves.json"
    if record.exists():
        curves = json.loads(record.read_text())
    for done in range(len(curves["seconds"]), config.epochs):
        before, after = folder / f"epoch_{done}.pt", folder / f"epoch_{done + 1}.pt"
        result = train(
            config, data, stop=done + 1, checkpoint=before if done else None, save_to=after
        )
        if result.status != "completed":
            message = f"the training {result.status} in epoch {done + 1}"
            raise RuntimeError(message)
        for column in COLUMNS:
            curves[column] += getattr(result, column)
        atomic_write_text(record, json.dumps(curves))
        before.unlink(missing_ok=True)
        print_epoch(done + 1, curves)
    return curves, folder / f"epoch_{config.epochs}.pt"


def print_epoch(epoch: int, curves: dict[str, list[float]]) -> None:
    """One row of the table."""
    loss, _, error, seconds = (curves[column][-1] for column in COLUMNS)
    print(f"{epoch:5d} {loss:14.4f} {100 * (1 - error):20.2f} % {seconds:9.1f}", flush=True)


def main() -> None:
    """Train, evaluate once on the test part, write the record."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    data_config = DataConfig(arguments.data)
    quick = {"depth": 8, "flip": False} if arguments.quick else {"depth": 20}
    config = TrainingConfig(epochs=arguments.epochs, seed=arguments.seed, **quick)
    output = Path(arguments.output)
    folder = Path(arguments.checkpoints or output.with_suffix(""))
    data = load_data(data_config)
    print("epoch  training loss  validation accuracy    seconds", flush=True)
    curves, checkpoint = continue_training(config, data, folder)
    test = load_test_data(data_config)
    result: dict[str, Any] = {
        "test_accuracy": 1 - evaluate(config, checkpoint, test, weights="last").error,
        "validation_accuracy": 1 - curves["validation_error"][-1],
        "seconds": sum(curves["seconds"]),
        "images_per_second": len(data.train) * config.epochs / sum(curves["seconds"]),
        "n_runs": 1,
        "images": {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(test),
        },
        "curves": curves,
        "config": asdict(config),
        "data": asdict(data_config),
        "device": str(choose_device(config.device)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": arguments.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hpo_lib": version("hpo-lib"),
        },
        "command": shlex.join(["python", *sys.argv]),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output, json.dumps(result, indent=2) + "\n")
    print(
        f"\ntest accuracy {100 * result['test_accuracy']:.2f} % (n = 1, last epoch's weights), "
        f"{result['seconds']:.0f} s, {result['images_per_second']:.0f} images/s"
    )
    print(json.dumps({key: result[key] for key in list(result)[:5]}))


if __name__ == "__main__":
    main()
