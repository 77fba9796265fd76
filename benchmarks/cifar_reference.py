"""Measure the test accuracy of recipes on CIFAR-10 after a given amount of work.

Work is images × multiply-adds of the network × 6 (forward and backward), in PFLOP, and the CPU
time that it took. A whitening stem counts like any layer, and smaller images count as what they
are; validation, test and the norms of averaged weights do not count, but take CPU time. The test
part is read once for each training, after its last epoch, and predicted in each way of
`TrainingConfig.evaluation`. Finished trainings are kept; run again, only those that are missing
are trained.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _kept import run_missing
from torch.utils.flop_counter import FlopCounterMode

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.loaders import ImageData, load_data, load_test_data
from hpo_lib.training.optimization import make_network
from hpo_lib.training.trainer import evaluate, train

PUBLISHED = SearchSpace.preset("cifar_published").default_configuration()
CIFAR = SearchSpace.preset("cifar").default_configuration()

RECIPES: dict[str, dict[str, Any]] = {
    "default": PUBLISHED,
    "cifar": CIFAR,
    # with one change taken back
    "without muon": CIFAR | {"optimizer": "sgd"},
    "without half resolution": CIFAR | {"stride": 1, "n_filters": 16},
    "without whitening": CIFAR | {"stem": "convolution"},
    "without fast biases": CIFAR | {"norm_bias_lr_factor": 1.0},
    "without smoothing": CIFAR | {"loss": "cross_entropy"},
    "without average": CIFAR | {"ema_decay": 0.0},
    # and with one more, after airbench94 and its ablation (Jordan 2024, arXiv:2404.00498)
    "with alternating flips": CIFAR | {"alternate_flip": True},
    "with identity": CIFAR | {"residual_init": "dirac"},
    "with max pooling": CIFAR | {"pooling": "max", "logit_scale": 0.25},
    "with linear fall": CIFAR | {"schedule": "linear"},
    "with pre-activation": CIFAR | {"pre_activation": True},
    "with cutout": CIFAR | {"cutout": 8},
    "with small images": CIFAR | {"low_resolution": 0.5},
    # all that cost time in a step or an epoch, for throughput.py
    "all": CIFAR
    | {
        "alternate_flip": True,
        "residual_init": "dirac",
        "pooling": "max",
        "logit_scale": 0.25,
        "schedule": "linear",
        "cutout": 8,
    },
}

VIEWS = ("plain", "mirror", "mirror_and_shift")


def parse() -> argparse.Namespace:
    """Read the command line; --quick replaces the data and the size of the trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default", "cifar"])
    parser.add_argument("--pflop", nargs="+", type=float, default=[0.05, 0.1])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--filters", type=int, help="of the first stage (default: as published)")
    parser.add_argument("--fields", default="{}", help="more of TrainingConfig's, as YAML")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
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


def pflop(config: TrainingConfig, data: ImageData) -> float:
    """Return the work of a training."""
    _, channels, size, _ = data.train.images.shape
    n_small = round(config.low_resolution * config.epochs)
    sizes = [round(0.75 * size)] * n_small + [size] * (config.epochs - n_small)
    cost = {s: multiply_adds(config, channels, s, len(data.classes)) for s in set(sizes)}
    return 6e-15 * len(data.train) * sum(cost[s] for s in sizes)


def spend(fields: dict[str, Any], data: ImageData, budget: float) -> TrainingConfig:
    """Return the recipe with the number of epochs whose work is nearest to a budget in PFLOP."""
    per_epoch = pflop(TrainingConfig(**fields, epochs=100), data) / 100
    return TrainingConfig(**fields, epochs=max(1, round(budget / per_epoch)))


def measure(config: TrainingConfig, data_config: DataConfig, threads: int) -> Any:
    """Train once, and test the last epoch's weights."""
    torch.set_num_threads(threads)
    data = load_data(data_config)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "last.pt"
        cpu_began, began = time.process_time(), time.perf_counter()
        result = train(config, data, save_to=checkpoint)
        cpu_seconds, seconds = time.process_time() - cpu_began, time.perf_counter() - began

        test = load_test_data(data_config)
        errors: dict[str, float] = {}
        for views in VIEWS:
            tested = replace(config, evaluation=views)
            errors[views] = evaluate(tested, checkpoint, test).error
        # the same training without its average
        content = torch.load(checkpoint, weights_only=True)
        if content.pop("average", None):
            torch.save(content, checkpoint)
            errors["raw"] = evaluate(config, checkpoint, test).error
    return {
        "test_error": errors,
        "validation_error": result.validation_error,
        "cpu_seconds": cpu_seconds,
        "seconds": seconds,
        "n_test": len(test),
        "config": asdict(config),
    }


def main() -> None:
    """Train what is missing, and print a row for each recipe and amount of work."""
    arguments = parse()
    torch.set_num_threads(1)  # threads that are there already would hang in forked processes
    data_config = DataConfig(arguments.data)
    data = load_data(data_config)
    shape: dict[str, Any] = {"depth": arguments.depth, **yaml.safe_load(arguments.fields)}
    if arguments.filters:
        shape["n_filters"] = arguments.filters
    if arguments.data == "digits":
        shape |= {"flip": False, "alternate_flip": False}

    wanted: dict[str, tuple[TrainingConfig, DataConfig, int]] = {}
    rows: dict[tuple[str, float], list[str]] = {}
    for recipe in arguments.recipes:
        for budget in arguments.pflop:
            config = spend(RECIPES[recipe] | shape, data, budget)
            for seed in range(arguments.seeds):
                key = f"{recipe}, {json.dumps(shape)[1:-1]}, {config.epochs} epochs, seed {seed}"
                if arguments.threads > 1:
                    key += f", {arguments.threads} threads"
                wanted[key] = (replace(config, seed=seed), data_config, arguments.threads)
                rows.setdefault((recipe, budget), []).append(key)

    results = run_missing(arguments.raw, wanted, measure, arguments.jobs)
    for key, (config, *_) in wanted.items():
        # fields that were added since stood at their defaults
        recorded = asdict(TrainingConfig()) | results[key]["config"]
        if recorded != asdict(config):
            message = f"{arguments.raw} has {key!r} of another recipe: remove that line"
            raise SystemExit(message)

    print("recipe                      epochs    PFLOP   CPU s      s   test error, %: plain")
    print("                                              (standard error, n), mirror, and shift")
    summary: dict[str, Any] = {}
    for (recipe, budget), keys in rows.items():
        config, *_ = wanted[keys[0]]
        work = pflop(config, data)
        seconds = float(np.mean([results[key]["cpu_seconds"] for key in keys]))
        on_wall = float(np.mean([results[key].get("seconds", np.nan) for key in keys]))
        errors = {
            views: 100 * np.array([results[key]["test_error"][views] for key in keys])
            for views in VIEWS
        }
        plain, n = errors["plain"], len(keys)
        spread = plain.std(ddof=1) / n**0.5 if n > 1 else float("nan")
        print(
            f"{recipe:26} {config.epochs:7d} {work:8.3g} {seconds:7.0f} {on_wall:6.0f}", end="   "
        )
        print(f"{plain.mean():.2f} ({spread:.2f}, {n})", end="  ")
        print(*(f"{errors[views].mean():.2f}" for views in VIEWS[1:]), sep="  ")
        summary[f"{recipe}, {budget:g} PFLOP"] = {
            "test_error": {views: float(each.mean()) / 100 for views, each in errors.items()},
            "n": n,
            "cpu_seconds": seconds,
            "seconds": on_wall,
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
