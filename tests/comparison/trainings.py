"""Recorded trainings of toys, as files and as records."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from hpo_lib.comparison.training_records import Record
from hpo_lib.objective import Segment
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from tests.toys import TOY_SPACE, bowl

GRID = SearchSpace.from_yaml(
    """
depth: {type: int, low: 1, high: 3, default: 2}
norm: {type: choice, options: [true, false], default: true}
"""
)


EPOCHS = 3


def write_record(
    path: Path,
    space: SearchSpace,
    trainings: list[tuple[Configuration, list[float]]],
    budget: int = EPOCHS,
) -> Path:
    """The form of the shipped record; the test errors are absurd, so that they would be seen."""
    names = [one.name for one in space.searched]
    lines = [",".join(["id", "seed", *names, "train_loss,validation_error,test_error,seconds"])]
    for number, (configuration, errors) in enumerate(trainings):
        curve = " ".join(f"{error:.5g}" for error in errors)
        values = [str(configuration.get(name, "")) for name in names]
        seconds = " ".join(["2.5"] * len(errors))
        lines.append(",".join([str(number), "0", *values, curve, curve, "-9 -9 -9", seconds]))
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    about = {"space": space.to_yaml(), "budget": budget, "data": "toy"}
    path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(about))
    return path


def curve(final: float) -> list[float]:
    return [final + 0.2, final + 0.1, final]


def grid_trainings() -> list[tuple[Configuration, list[float]]]:
    return [
        ({"depth": depth, "norm": norm}, curve(depth / 10 + (0 if norm else 0.05) + seed / 100))
        for depth in (1, 2, 3)
        for norm in (True, False)
        for seed in (0, 1)
    ]


def bowl_trainings(n: int, repeats: int = 1, noise: float = 0.0):
    rng = np.random.default_rng(0)
    drawn = [TOY_SPACE.sample(rng) for _ in range(n)]
    return [
        (one, curve(bowl(one) + noise * rng.normal())) for one in drawn for _ in range(repeats)
    ]


def whole(seed: int = 0, stop: int = EPOCHS, start: int = 0, budget: int = EPOCHS) -> Segment:
    return Segment(seed, start, stop, budget)


def line_record(values) -> Record:
    """Trainings of one epoch along a line."""
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 0.5}\n")
    xs = np.linspace(0, 1, len(values)).tolist()
    errors = np.array(values, float)[:, None]
    return Record(space, tuple({"x": x} for x in xs), errors, 1 + 0 * errors, "toy")
