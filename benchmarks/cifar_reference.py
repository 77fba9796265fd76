"""Measure the test accuracy of recipes on CIFAR-10 after a given amount of work.

Work is images × multiply-adds of the network × 6 (forward and backward), in PFLOP, and the CPU
time that it took. The test part is read once for each training, after its last epoch. Finished
trainings are kept; run again, only those that are missing are trained.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _kept import run_missing
from torch.utils.flop_counter import FlopCounterMode

from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.loaders import load_data, load_test_data
from hpo_lib.training.optimization import make_network
from hpo_lib.training.trainer import evaluate, train

MUON = {
    "optimizer": "muon",
    "lr": 0.1,
    "filter_lr": 0.05,
    "norm_bias_lr_factor": 8.0,
    "loss": "label_smoothing",
    "stem": "whitening",
    "alternate_flip": True,
}

RECIPES: dict[str, dict[str, Any]] = {
    "default": {"lr": 0.1},
    "muon": MUON,
    "muon, mirror": MUON | {"evaluation": "mirror"},
    # the same with one change taken back
    "without muon": MUON | {"optimizer": "sgd"},
    "without whitening": MUON | {"stem": "convolution"},
    "without fast biases": MUON | {"norm_bias_lr_factor": 1.0},
    "without smoothing": MUON | {"loss": "cross_entropy"},
    "without alternating flips": MUON | {"alternate_flip": False},
}


def parse() -> argparse.Namespace:
    """Read the command line; --quick replaces the data and the size of the trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default", "muon"])
    parser.add_argument("--pflop", nargs="+", type=float, default=[0.05, 0.1])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--filters", type=int, help="of the first stage (default: as published)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, a core each")
    parser.add_argument("--raw", type=Path, default=Path("results/reference/cifar_reference.json"))
    parser.add_argument("--quick", action="store_true", help="a few epochs on digits")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.pflop, arguments.seeds = "digits", [1e-5], 2
        arguments.raw = Path("results/cifar_reference_quick.json")
    return arguments


def multiply_adds(config: TrainingConfig, channels: int, size: int, classes: int) -> int:
    """Return the multiply-adds of a network for one image."""
    network = make_network(config, channels, classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, size, size))
    return counter.get_total_flops() // 2


def measure(recipe: str, config: TrainingConfig, data_config: DataConfig, raw: str) -> Any:
    """Train once, and test the last epoch's weights."""
    torch.set_num_threads(1)
    data = load_data(data_config)
    checkpoint = Path(raw).with_suffix("") / f"{recipe} {config.epochs} {config.seed}.pt"
    began = time.process_time()
    result = train(config, data, save_to=checkpoint)
    cpu_seconds = time.process_time() - began
    test = load_test_data(data_config)
    tested = evaluate(config, checkpoint, test, weights="last")
    return {
        "test_error": tested.error,
        "validation_error": result.validation_error[-1],
        "cpu_seconds": cpu_seconds,
        "n_test": len(test),
        "config": asdict(config),
    }


def main() -> None:
    """Train what is missing, and print a row for each recipe and amount of work."""
    arguments = parse()
    data_config = DataConfig(arguments.data)
    data = load_data(data_config)
    channels, size = data.train.images.shape[1], data.train.images.shape[2]
    shape = {"depth": arguments.depth}
    if arguments.filters:
        shape["n_filters"] = arguments.filters

    wanted: dict[str, tuple[Any, ...]] = {}
    rows: dict[tuple[str, float], list[str]] = {}
    work: dict[str, float] = {}
    for recipe in arguments.recipes:
        fields = RECIPES[recipe] | shape
        if arguments.data == "digits":
            fields |= {"flip": False, "alternate_flip": False}
        config = TrainingConfig(**fields)
        per_epoch = len(data.train) * 6 * multiply_adds(config, channels, size, len(data.classes))
        for pflop in arguments.pflop:
            epochs = max(1, round(pflop * 1e15 / per_epoch))
            for seed in range(arguments.seeds):
                key = f"{recipe}, ResNet-{arguments.depth} {arguments.filters or ''}"
                key = f"{key}, {epochs} epochs, seed {seed}"
                trained = TrainingConfig(**fields, epochs=epochs, seed=seed)
                wanted[key] = (recipe, trained, data_config, str(arguments.raw))
                rows.setdefault((recipe, pflop), []).append(key)
                work[key] = epochs * per_epoch / 1e15

    results = run_missing(arguments.raw, wanted, measure, arguments.jobs)
    print("recipe                      epochs    PFLOP   CPU s   test error (standard error, n)")
    summary: dict[str, Any] = {}
    for (recipe, pflop), keys in rows.items():
        errors = 100 * np.array([results[key]["test_error"] for key in keys])
        seconds = float(np.mean([results[key]["cpu_seconds"] for key in keys]))
        spread = errors.std(ddof=1) / len(errors) ** 0.5 if len(errors) > 1 else float("nan")
        epochs = results[keys[0]]["config"]["epochs"]
        print(f"{recipe:26} {epochs:7d} {work[keys[0]]:8.3g} {seconds:7.0f}", end="   ")
        print(f"{errors.mean():.2f} % ({spread:.2f}, {len(errors)})")
        summary[f"{recipe}, {pflop:g} PFLOP"] = {
            "test_error": float(errors.mean()) / 100,
            "n": len(errors),
            "cpu_seconds": seconds,
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
