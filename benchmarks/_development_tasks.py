"""Development tasks of the kinds that a Gaussian process finds hard, to be minimised.

Trees, forests and boosted trees have plateaus, and a log loss has heavy tails; support vector
machines are there for comparison. All are scikit-learn's models on data that it ships, fitted to
three fifths of the rows and judged on the others. What is tuned on them is judged on other tasks:
`_tasks.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _tasks import Task, with_references
from sklearn import datasets, ensemble, linear_model, metrics, neural_network, svm, tree
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

_N_RANDOM = 400
_WORST = 50.0
"""Value of a fit that diverges."""

_TREE = """
    ccp_alpha: {type: float, low: 0.00001, high: 1.0, log: true}
    max_depth: {type: int, low: 1, high: 30}
    min_samples_leaf: {type: int, low: 1, high: 60}
    min_samples_split: {type: int, low: 2, high: 101}
    """
_FOREST = """
    n_estimators: {type: int, low: 2, high: 40, log: true}
    max_depth: {type: int, low: 1, high: 20}
    max_features: {type: float, low: 0.1, high: 1.0}
    min_samples_leaf: {type: int, low: 1, high: 30, log: true}
    """
_BOOSTING = """
    n_estimators: {type: int, low: 5, high: 60, log: true}
    learning_rate: {type: float, low: 0.001, high: 1.0, log: true}
    max_depth: {type: int, low: 1, high: 8}
    subsample: {type: float, low: 0.3, high: 1.0}
    min_samples_leaf: {type: int, low: 1, high: 30, log: true}
    """

_SPACES = {
    "tree": _TREE,
    "regression_tree": _TREE,
    "forest": _FOREST,
    "regression_forest": _FOREST,
    "boosting": _BOOSTING,
    "regression_boosting": _BOOSTING,
    "svc": """
        C: {type: float, low: 0.001, high: 10000.0, log: true}
        gamma: {type: float, low: 0.000001, high: 10.0, log: true}
        """,
    "svr": """
        C: {type: float, low: 0.001, high: 10000.0, log: true}
        gamma: {type: float, low: 0.000001, high: 10.0, log: true}
        epsilon: {type: float, low: 0.001, high: 10.0, log: true}
        """,
    "mlp": """
        learning_rate_init: {type: float, low: 0.0001, high: 1.0, log: true}
        alpha: {type: float, low: 0.000001, high: 10.0, log: true}
        hidden_layer_sizes: {type: int, low: 2, high: 64, log: true}
        batch_size: {type: int, low: 8, high: 64, log: true}
        momentum: {type: float, low: 0.0, high: 0.99}
        """,
    "sgd": """
        eta0: {type: float, low: 0.00001, high: 10.0, log: true}
        alpha: {type: float, low: 0.0000001, high: 1.0, log: true}
        l1_ratio: {type: float, low: 0.0, high: 1.0}
        max_iter: {type: int, low: 1, high: 50, log: true}
        """,
}

NAMES = (
    "tree/digits/log_loss",
    "tree/wine/log_loss",
    "tree/iris/log_loss",
    "regression_tree/wine_alcohol/squared_error",
    "regression_tree/friedman/squared_error",
    "regression_tree/cancer_smoothness/squared_error",
    "forest/breast_cancer/log_loss",
    "forest/wine/error",
    "regression_forest/friedman/squared_error",
    "boosting/wine/log_loss",
    "regression_boosting/diabetes/squared_error",
    "svc/breast_cancer/error",
    "svr/diabetes/squared_error",
    "mlp/wine/log_loss",
    "mlp/breast_cancer/log_loss",
    "sgd/breast_cancer/log_loss",
    "sgd/digits/log_loss",
)


def load_development_tasks(reference: Path, limit: int | None = None) -> list[Task]:
    """Return the development tasks, each named as model/data/loss.

    Args:
        reference: a file with the best known and the median value of each task; what it lacks is
            found by random search and added.
        limit: how many, the first ones; None is all.
    """
    return with_references(list(_tasks(NAMES[:limit])), reference, _random_search)


def _random_search(task: Task) -> tuple[float, float]:
    """Return the best and the median of random configurations."""
    rng = np.random.default_rng(0)
    drawn = [task.function(task.space.sample(rng)) for _ in range(_N_RANDOM)]
    return min(drawn), float(np.median(drawn))


def _tasks(names: tuple[str, ...]) -> Iterator[Task]:
    for name in names:
        model, _, _ = name.partition("/")
        space = SearchSpace.from_yaml(_SPACES[model])
        yield Task(name, space, functools.partial(_loss, name))


def _loss(name: str, configuration: Configuration) -> float:
    """Fit a model and return its loss on held-out rows."""
    model, data, loss = name.split("/")
    rows, labels = _load(data)
    n_train = len(rows) * 6 // 10
    held_out, truth = rows[n_train:], labels[n_train:]

    with np.errstate(all="ignore"):
        try:
            fitted = _make_model(model, configuration).fit(rows[:n_train], labels[:n_train])
        except ValueError:  # weights are no longer finite
            return _WORST

        if loss == "error":
            return float(1 - fitted.score(held_out, truth))
        if loss == "squared_error":
            predicted = np.clip(fitted.predict(held_out), -1e6, 1e6)
            return float(metrics.mean_squared_error(truth, predicted))
        probabilities = np.nan_to_num(fitted.predict_proba(held_out))
        clipped = np.clip(probabilities, 1e-15, 1)
        return float(metrics.log_loss(truth, clipped, labels=np.unique(labels)))


@functools.cache
def _load(data: str) -> tuple[Any, Any]:
    """Return shuffled rows and labels; some targets are columns of other data."""
    if data == "friedman":
        rows, labels = datasets.make_friedman1(400, 10, noise=1.0, random_state=0)
    elif data == "wine_alcohol":
        columns, _ = datasets.load_wine(return_X_y=True)
        rows, labels = columns[:, 1:], columns[:, 0]
    elif data == "cancer_smoothness":
        columns, _ = datasets.load_breast_cancer(return_X_y=True)
        smoothness = columns[:, 24]
        labels = (smoothness - smoothness.mean()) / smoothness.std()
        rows = np.delete(columns, 24, axis=1)
    else:
        rows, labels = getattr(datasets, f"load_{data}")(return_X_y=True)

    order = np.random.default_rng(1).permutation(len(labels))
    return rows[order], labels[order]


_MODELS: dict[str, Any] = {
    "tree": functools.partial(tree.DecisionTreeClassifier, random_state=0),
    "regression_tree": functools.partial(tree.DecisionTreeRegressor, random_state=0),
    "forest": functools.partial(ensemble.RandomForestClassifier, random_state=0),
    "regression_forest": functools.partial(ensemble.RandomForestRegressor, random_state=0),
    "boosting": functools.partial(ensemble.GradientBoostingClassifier, random_state=0),
    "regression_boosting": functools.partial(ensemble.GradientBoostingRegressor, random_state=0),
    "svc": svm.SVC,
    "svr": functools.partial(svm.SVR, max_iter=20000),
    "mlp": functools.partial(
        neural_network.MLPClassifier, solver="sgd", max_iter=15, random_state=0
    ),
    "sgd": functools.partial(
        linear_model.SGDClassifier,
        loss="log_loss",
        penalty="elasticnet",
        learning_rate="constant",
        tol=None,
        random_state=0,
    ),
}


def _make_model(model: str, configuration: Configuration) -> Any:
    """Return the model of a configuration; those that are not trees get standardised rows."""
    estimator = _MODELS[model](**configuration)
    if model in ("svc", "svr", "mlp", "sgd"):
        return make_pipeline(StandardScaler(), estimator)
    return estimator
