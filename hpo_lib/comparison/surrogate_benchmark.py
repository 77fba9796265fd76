"""A surrogate benchmark: strategies search a model of recorded trainings, in seconds.

The idea is that of Eggensperger et al., Efficient benchmarking of algorithm configurators via
model-based surrogates, Machine Learning 107 (2018).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import cho_solve

from hpo_lib.checks import check_member
from hpo_lib.comparison.training_records import Array, Record, group_means
from hpo_lib.formatting import format_number
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.samplers.encoding import Encoder
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration

MIN_RANK_CORRELATION = 0.8
"""A rank correlation below this makes a surrogate warn."""

MIN_CONFIGURATIONS = 10
"""A surrogate needs as many configurations, trained to the full budget."""

_N_FOLDS = 10
_N_TREES = 100
_MAX_FIT = 500  # trainings that the kernel of a Gaussian process is fitted to
_N_NEAREST = 12  # trainings among whose deviations the noise of a replayed training is drawn


class SurrogateQualityWarning(UserWarning):
    """A surrogate ranks configurations too badly for its replays to be believed."""


@dataclass(frozen=True)
class SurrogateQuality:
    """How well a surrogate predicts configurations that it was not fitted to.

    At the full budget, cross-validated by configuration.

    Attributes:
        n_configurations: different configurations.
        n_trainings: trainings of these, repeats included.
        n_repeated: configurations that were trained more than once.
        spearman: rank correlation of predicted and recorded errors.
        r2: share of the variance of the errors that is predicted.
        error_near_best: mean absolute error over the recorded tenth with the lowest errors.
        noise: standard deviation between seeds, from the repeated configurations; NaN without.
    """

    n_configurations: int
    n_trainings: int
    n_repeated: int
    spearman: float
    r2: float
    error_near_best: float
    noise: float

    @property
    def caption(self) -> str:
        """Say below a figure what it rests on."""
        return self.warning or (
            f"replayed on a surrogate: rank correlation {self.spearman:.2f} out of sample, "
            f"n = {self.n_configurations} configurations"
        )

    @property
    def warning(self) -> str | None:
        """Say why not to believe replays; None where one may."""
        if self.spearman >= MIN_RANK_CORRELATION:
            return None
        return (
            f"surrogate not to be trusted: rank correlation {self.spearman:.2f} < "
            f"{MIN_RANK_CORRELATION:g}, n = {self.n_configurations} configurations"
        )

    def __str__(self) -> str:
        noise = (
            f"{format_number(self.noise)}"
            if self.n_repeated
            else "unknown, none was trained twice"
        )
        text = (
            f"{self.n_trainings} trainings of {self.n_configurations} configurations; out of "
            f"sample: rank correlation {self.spearman:.3f}, R² {self.r2:.3f}, mean absolute error "
            f"near the best {format_number(self.error_near_best)}; standard deviation between "
            f"seeds {noise}"
        )
        return text if self.warning is None else f"{text}. Warning: {self.warning}"


class HeldOut(NamedTuple):
    """Final errors of configurations, and what a model predicts that was not fitted to them.

    Attributes:
        recorded: mean over the trainings of each configuration, shape (n,).
        predicted: by cross-validation, shape (n,).
    """

    recorded: Array
    predicted: Array


class SurrogateObjective:
    """Predict errors and seconds of any configuration of the space of a record.

    `quality` says how well it does that, `held_out` has the numbers behind it.

    A model predicts the curve of errors over the epochs that the same trainings reached, so epochs
    after a rung rest on those that were not pruned there. The noise of a training is that of a
    recorded one with a similar error: its deviation, over all epochs, from the mean of its
    configuration. Where nothing was trained twice, there is no noise, and a strategy sees a
    smoother objective than the real one.

    Args:
        record: the recorded trainings, of at least 10 different configurations.
        model: "gp", a Gaussian process of logarithms, which predicts best of what was tried, but
            is of the kind that `bayes` fits and may flatter it; or "trees", extremely randomised
            ones (Geurts et al. 2006), which never predict below what was recorded: does a
            conclusion stand?

    Raises:
        ValueError: there is no such model, or the record has too few configurations.

    Warns:
        SurrogateQualityWarning: the rank correlation is below 0.8.
    """

    def __init__(self, record: Record, *, model: str = "gp") -> None:
        check_member("model", model, _MODELS)
        if record.n_complete < MIN_CONFIGURATIONS:
            message = (
                f"record must have at least {MIN_CONFIGURATIONS} configurations trained to the "
                f"full budget for a surrogate, got {record.n_complete} in {record.source}"
            )
            raise ValueError(message)

        self.record = record
        self._model = model
        space = record.space
        self._encoder = Encoder(space.distributions(), space)
        fit = partial(_MODELS[model], self._encoder)
        points = self._encoder.points(record.configurations)
        self._errors = _CurveModel(fit, points, record.errors)
        self._seconds = _CurveModel(fit, points, record.seconds)
        self._levels, self._deviations = _deviations(record)

        self.held_out = _predict_held_out(fit, points, record)
        self.quality = _quality(record, self.held_out, self._deviations)
        if self.quality.warning is not None:
            warnings.warn(self.quality.warning, SurrogateQualityWarning, stacklevel=2)

    @property
    def space(self) -> SearchSpace:
        """Return the space of the record."""
        return self.record.space

    @property
    def budget(self) -> int:
        """Return the number of epochs of a trial that runs to its end."""
        return self.record.budget

    @property
    def settings(self) -> dict[str, Any]:
        """Return the record's content, whatever its file is called, and the surrogate's model."""
        return {
            "surrogate": {"content": self.record.settings["content"]},
            "noise": True,
            "model": self._model,
        }

    @property
    def earlier_settings(self) -> tuple[dict[str, Any], ...]:
        """Return the settings as earlier versions recorded them, with the name of the file."""
        return ({**self.settings, "surrogate": self.record.settings},)

    def predict(self, configurations: Sequence[Configuration]) -> Array:
        """Predict errors without noise, of shape (configurations, epochs)."""
        return self._errors.predict(self._encoder.points(configurations))

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Predict the epochs of a segment; the same trial always deviates in the same way.

        Args:
            configuration: a configuration of `space`.
            segment: the epochs, and the seed that chooses the deviation.
        """
        point = self._encoder.points([configuration])
        errors = self._errors.predict(point)[0]

        # The deviation of one of the trainings with the most similar errors.
        if len(self._levels):
            distances = np.abs(self._levels - errors[-1])
            nearest = np.argsort(distances, kind="stable")[:_N_NEAREST]
            drawn = nearest[segment.seed % len(nearest)]
            errors = errors + self._deviations[drawn]

        # Final errors are NaN where a training was stopped.
        is_negative = self.record.errors[:, -1] < 0
        if not is_negative.any():
            errors = np.maximum(errors, 0.0)
        seconds = self._seconds.predict(point)[0]
        seconds = np.maximum(seconds, 0.0)

        epochs = slice(segment.start, segment.stop)
        # A replayed search looks at no other curve than the error.
        curve = tuple(errors[epochs].tolist())
        spent = tuple(np.nan_to_num(seconds[epochs]).tolist())
        return SegmentResult(curve, curve, curve, spent, segment.checkpoint)


Predictor = Callable[[Array], Array]
"""From points, of shape (n, d), to what is expected there in each epoch, of shape (n, epochs)."""

Fit = Callable[[Array, Array], Predictor]
"""From points and targets, of shape (n, d) and (n, epochs), to what predicts them."""


def _fit_gaussian_process(
    encoder: Encoder,
    points: Array,
    targets: Array,
) -> Predictor:
    """Fit one kernel for all epochs, to the last: they differ in their weights alone.

    The process is of logarithms: it knows one scale, and near the best errors differ by less than
    far from it; it would promise configurations that are better than any.
    """
    from hpo_lib.blas import one_thread
    from hpo_lib.samplers.gp import GaussianProcess

    offset = _log_offset(targets)
    logarithms = np.log(targets + offset)
    means = logarithms.mean(axis=0)
    rows = encoder.scale(points)

    # The kernel is fitted to a subsample, which takes far less time.
    rng = np.random.default_rng(0)
    subsample = rng.permutation(len(rows))[:_MAX_FIT]
    categories = np.flatnonzero(encoder.choice)
    model = GaussianProcess(categories.tolist())
    model.fit(rows[subsample], logarithms[subsample, -1])
    model.fit(rows, logarithms[:, -1], model.theta_)

    # weights = K^-1 (logarithms - means), shape (n, epochs).
    solve = one_thread(cho_solve)
    weights = solve((model.factor_, True), logarithms - means)

    def predict(new: Array) -> Array:
        kernel = model.kernel(encoder.scale(new))
        return np.exp(kernel @ weights + means) - offset

    return predict


def _log_offset(values: Array) -> float:
    """Return what makes values positive, and hardly moves those that are."""
    low = float(values.min())
    median = float(np.median(values))
    if low < 0:
        offset = median - 2 * low
    elif low == 0:
        # The logarithm of the lowest must not be infinitely far from the others.
        positive = values[values > 0]
        least = float(positive.min(initial=values.max()))
        offset = max(1e-6 * median, least)
    else:
        offset = 1e-6 * median

    return offset if low + offset > 0 else 1 - low


def _fit_trees(
    encoder: Encoder,
    points: Array,
    targets: Array,
) -> Predictor:
    """Fit a forest, and predict the mean of its trees.

    Past the checks of scikit-learn, which cost more than the trees.
    """
    from sklearn.ensemble import ExtraTreesRegressor  # takes a second to import

    # A single epoch is a target of one dimension for scikit-learn.
    if targets.shape[1] == 1:
        targets = targets[:, 0]
    forest: Any = ExtraTreesRegressor(_N_TREES, random_state=0)
    forest.fit(np.float32(points), targets)
    trees = [estimator.tree_ for estimator in forest.estimators_]

    def predict(new: Array) -> Array:
        rows = np.asarray(new, np.float32)
        total: Any = sum(tree.predict(rows) for tree in trees)
        return np.reshape(total, (len(new), -1)) / len(trees)

    return predict


_MODELS = {"gp": _fit_gaussian_process, "trees": _fit_trees}


class _CurveModel:
    """One model for each set of epochs that the same trainings reached.

    Args:
        fit: makes a predictor of points and targets.
        points: encoded configurations, shape (trainings, d).
        curves: what is predicted, shape (trainings, epochs); NaN where not reached.
    """

    def __init__(self, fit: Fit, points: Array, curves: Array) -> None:
        self._n_epochs = curves.shape[1]
        self._parts: list[tuple[NDArray[np.int64], Predictor]] = []
        patterns, pattern_of_epoch = np.unique(
            np.isfinite(curves),
            axis=1,
            return_inverse=True,
        )
        for number, is_reached in enumerate(patterns.T):
            if not is_reached.any():
                continue
            epochs = np.flatnonzero(pattern_of_epoch.ravel() == number)
            targets = curves[np.ix_(is_reached, epochs)]
            predictor = fit(points[is_reached], targets)
            self._parts.append((epochs, predictor))

    def predict(self, points: Array) -> Array:
        """Predict curves of shape (n, epochs); NaN in epochs that no training reached."""
        curves = np.full((len(points), self._n_epochs), np.nan)
        for epochs, predictor in self._parts:
            curves[:, epochs] = predictor(points)
        return curves


def _deviations(record: Record) -> tuple[Array, Array]:
    """Return final means, shape (m,), and deviations from the mean curve, shape (m, budget).

    They are scaled by sqrt(k / (k - 1)) for k repeats, so that their variance is that between
    seeds.
    """
    levels = [np.zeros(0)]
    deviations = [np.zeros((0, record.budget))]
    is_complete = np.isfinite(record.errors).all(axis=1)
    errors = record.errors[is_complete]
    groups = record.groups[is_complete]
    for group in np.unique(groups):
        curves = errors[groups == group]
        k = len(curves)
        if k > 1:
            mean = curves.mean(axis=0)
            levels.append(np.full(k, mean[-1]))
            deviations.append((curves - mean) * math.sqrt(k / (k - 1)))

    return np.concatenate(levels), np.concatenate(deviations)


def _predict_held_out(
    fit: Fit,
    points: Array,
    record: Record,
) -> HeldOut:
    """Predict final errors of configurations that the model was not fitted to."""
    from sklearn.model_selection import GroupKFold

    is_complete = np.isfinite(record.errors[:, -1])
    points = points[is_complete]
    groups = record.groups[is_complete]
    errors = record.errors[is_complete, -1]

    # Repeats of a configuration are in the same fold.
    predictions = np.empty(len(errors))
    _, n_repeats = np.unique(groups, return_counts=True)
    folds = GroupKFold(min(_N_FOLDS, len(n_repeats)))
    for train, test in folds.split(points, errors, groups):
        predictor = fit(points[train], errors[train, None])
        predictions[test] = predictor(points[test]).ravel()

    return HeldOut(group_means(errors, groups), group_means(predictions, groups))


def _quality(record: Record, held_out: HeldOut, deviations: Array) -> SurrogateQuality:
    """Measure how well the configurations that were held out are predicted."""
    is_complete = np.isfinite(record.errors[:, -1])
    _, n_repeats = np.unique(record.groups[is_complete], return_counts=True)
    means = held_out.recorded
    predictions = held_out.predicted
    residuals = predictions - means
    n_near_best = math.ceil(len(means) / 10)
    near_best = np.argsort(means, kind="stable")[:n_near_best]
    error_near_best = np.abs(residuals[near_best]).mean()

    # Neither is defined where all errors are equal.
    spearman = 0.0
    r2 = 0.0
    variation = float(((means - means.mean()) ** 2).sum())
    if variation:
        correlation: Any = stats.spearmanr(predictions, means)
        spearman = float(correlation.statistic)
        r2 = 1 - float((residuals**2).sum()) / variation

    noise = math.nan
    if len(deviations):
        noise = math.sqrt((deviations[:, -1] ** 2).mean())
    return SurrogateQuality(
        n_configurations=len(means),
        n_trainings=int(n_repeats.sum()),
        n_repeated=int((n_repeats > 1).sum()),
        spearman=spearman,
        r2=r2,
        error_near_best=float(error_near_best),
        noise=noise,
    )
