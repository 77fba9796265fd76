"""Objectives with known optima, importable by worker processes."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo_lib.exceptions import CheckpointError
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import TrialRecord, recorded_trials

TOY_SPACE = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.0001, high: 1.0, log: true, default: 0.01}
momentum: {type: float, low: 0.0, high: 1.0, default: 0.5, when: {optimizer: sgd}}
depth: {type: int, low: 2, high: 10, step: 2, default: 4}
width: {type: int, fixed: 3}
"""
)


def bowl(configuration: Configuration) -> float:
    """0 at optimizer sgd, lr 0.1, momentum 0.9, depth 8."""
    value = (math.log10(float(configuration["lr"])) + 1) ** 2
    value += ((float(configuration["depth"]) - 8) / 4) ** 2
    if configuration["optimizer"] == "sgd":
        return value + (float(configuration["momentum"]) - 0.9) ** 2
    return value + 1.0


def ending(study: optuna.Study) -> list[tuple[Any, ...]]:
    """What a study must come to, however often it was disturbed."""
    return [
        (t.number, t.outcome, t.value, t.configuration, t.record.validation_error)
        for t in recorded_trials(study)
    ]


def record_of(trial: FrozenTrial) -> TrialRecord:
    """Read what a study recorded of a trial."""
    return TrialRecord.read(trial.user_attrs)


def listed_bowl(values: list[Any]) -> float:
    """0 at 0.3, 4 and "a", for dimensions of scikit-optimize's."""
    x, y, word = values
    penalty = {"a": 0.0, "b": 0.2, "c": 0.4}

    return (x - 0.3) ** 2 + 0.1 * abs(y - 4) + penalty[word]


@dataclass(frozen=True)
class Learner:
    """A training that can be followed: the error falls to `bowl`, the checkpoint is its epoch.

    `log` collects one line per segment. When the line number `kill_at` is written, `kill` says
    who dies of it: the "driver" or the "worker" itself.
    """

    log: str
    epochs: int = 4
    kill_at: int = 0
    kill: str = ""

    @property
    def budget(self) -> int:
        return self.epochs

    @property
    def settings(self) -> dict[str, Any]:
        return {"learner": 1}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        if segment.start:
            assert segment.checkpoint is not None
            try:
                state = json.loads(Path(segment.checkpoint).read_text())
            except ValueError as error:
                raise CheckpointError(segment.checkpoint) from error
            assert state == {"epoch": segment.start, "seed": segment.seed}
        line = f"{os.getpid()} {segment.seed} {segment.start} {segment.stop}"
        with Path(self.log).open("a") as file:
            file.write(f"{line}\n")
        lines = Path(self.log).read_text().splitlines()
        if self.kill and lines[self.kill_at - 1 : self.kill_at] == [line]:
            self._kill()
        assert segment.folder is not None
        checkpoint = Path(segment.folder) / f"{segment.stop}.json"
        checkpoint.write_text(json.dumps({"epoch": segment.stop, "seed": segment.seed}))
        noise = segment.seed % 1000 / 1e6
        errors = tuple(
            bowl(configuration) + noise + 1 / epoch
            for epoch in range(segment.start + 1, segment.stop + 1)
        )
        return SegmentResult(errors, errors, errors, (0.01,) * len(errors), str(checkpoint))

    def _kill(self) -> None:
        in_driver = os.environ.get("DRIVER_PID") == str(os.getpid())
        victim = os.getpid() if in_driver or self.kill == "worker" else os.getppid()
        os.kill(victim, signal.SIGKILL)
        time.sleep(60)  # until the watchdog notices that the driver is gone


@dataclass(frozen=True)
class Fragile(Learner):
    """A `Learner` that fails where the network is deepest."""

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        if configuration["depth"] == 10:
            message = "depth 10 does not fit into memory"
            raise MemoryError(message)

        return super().__call__(configuration, segment)


@dataclass(frozen=True)
class Waiting:
    """`bowl`, of which the n-th evaluation ends when `let(n)` has been called."""

    folder: str
    fail_at: int = 0
    budget = 1

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def begun(self) -> int:
        return len(list(Path(self.folder).glob("begun_*")))

    def let(self, n: int) -> None:
        for i in range(1, n + 1):
            (Path(self.folder) / f"let_{i}").touch()

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        n = self.begun() + 1
        (Path(self.folder) / f"begun_{n}_{segment.seed}").touch()
        while not (Path(self.folder) / f"let_{n}").exists():
            time.sleep(0.02)
        if n == self.fail_at:
            message = "<img src=x onerror=alert(1)> went wrong"
            raise ValueError(message)
        value = (bowl(configuration),)
        return SegmentResult(value, value, value, (0.01,), None)
