"""What the figures of `plots.py` show, computed: small tuples of plain arrays, nothing drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from hpo_lib.objective import SegmentResult
from hpo_lib.samplers.surrogate import Surrogate
from hpo_lib.space.search_space import (
    ChoiceParameter,
    Configuration,
    Parameter,
    SearchSpace,
    Value,
)
from hpo_lib.study.catalog import trials_frame
from hpo_lib.trials import (
    RecordedTrial,
    incumbent,
    recorded_trials,
    running_best,
    sort_by_value,
    study_space,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[Any] | Sequence[int]
Source = optuna.Study | pd.DataFrame
"""A study, or its `trials_frame`; of either, copied evidence is left out."""

LEAST_TRIALS = 4
"""Importance is refused for fewer completed trials than this."""


class ImageGrid(NamedTuple):
    """Images as n,h,w,3 uint8, and the class name of each."""

    images: NDArray[np.uint8]
    titles: tuple[str, ...]


class Curves(NamedTuple):
    """One training, epoch by epoch from the first; NaN where a number was not finite."""

    run: str
    train_loss: FloatArray
    validation_loss: FloatArray
    validation_error: FloatArray


class Prior(NamedTuple):
    """`n` draws from a search space; inactive values are left out of `draws`."""

    parameters: tuple[Parameter, ...]
    draws: dict[str, list[Value]]
    n: int


class AnyTime(NamedTuple):
    """The finished trials of a study: seconds spent until each ended, its value, the incumbent's.

    Values are NaN for failed and pruned trials, incumbents NaN before the first value.
    """

    study: str
    seconds: FloatArray
    values: FloatArray
    best: FloatArray


class Points(NamedTuple):
    """Finished trials as points: `positions` has an array over trials for each parameter.

    A position is a number, or the index of a choice's option; NaN where inactive. `values` is NaN
    where a trial failed or was pruned. `incumbent` is an index of these arrays, None without any.
    """

    parameters: tuple[Parameter, ...]
    positions: dict[str, FloatArray]
    values: FloatArray
    numbers: IntArray
    incumbent: int | None

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which trials have no value of a whole training, pruned ones among them."""
        return np.isnan(self.values)


class PairMatrix(NamedTuple):
    """Partial dependence of a surrogate at the positions of `grids`.

    `curves` holds mean and standard deviation along each parameter; `surfaces` the mean for
    (x name, y name) as an array [y, x]; NaN where a parameter is inactive.
    """

    parameters: tuple[Parameter, ...]
    grids: dict[str, FloatArray]
    curves: dict[str, tuple[FloatArray, FloatArray]]
    surfaces: dict[tuple[str, str], FloatArray]
    points: Points


class Importance(NamedTuple):
    """Shares of importance, largest first, for reaching the best `quantile` of `n` trials."""

    shares: dict[str, float]
    quantile: float
    n: int


class Confusion(NamedTuple):
    """`counts[i, j]`: images of class i that were taken for class j."""

    counts: IntArray

    @property
    def n(self) -> int:
        """How many images were classified."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of images classified rightly; NaN without images."""
        return float(np.trace(self.counts)) / self.n if self.n else np.nan

    @property
    def shares(self) -> FloatArray:
        """The counts divided by the size of each true class; 0 for a class without images."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


class Timeline(NamedTuple):
    """Per trial that ran: its worker, start and length in seconds since the first start."""

    numbers: IntArray
    workers: list[str]
    starts: FloatArray
    lengths: FloatArray
    outcomes: list[str]


def finite(values: Any) -> FloatArray:
    """Numbers, with NaN for all that are missing or not finite."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def images_data(images: NDArray[np.uint8], labels: Labels, classes: Sequence[str]) -> ImageGrid:
    """Make images (n,c,h,w with one or three channels) ready to draw."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not 0 < len(images) == len(labels):
        message = (
            "images must be n,c,h,w with n > 0, c 1 or 3 and one label each, "
            f"got shape {images.shape} and {len(labels)} labels"
        )
        raise ValueError(message)
    coloured = np.broadcast_to(np.moveaxis(images, 1, -1), (len(images), *images.shape[2:], 3))
    return ImageGrid(coloured, tuple(classes[int(i)] for i in labels))


def class_counts_data(parts: Mapping[str, Labels], classes: Sequence[str]) -> dict[str, IntArray]:
    """Count the images of each class from the labels of each part."""
    return {
        part: np.bincount(np.asarray(labels, dtype=int), minlength=len(classes))
        for part, labels in parts.items()
    }


def learning_curves_data(
    source: optuna.Study | SegmentResult | Mapping[str, Sequence[float]], k: int = 5
) -> list[Curves]:
    """The curves of one training, or of the best `k` trials of a study, best first.

    Raises:
        ValueError: no completed trial of the study has curves.
    """
    if isinstance(source, optuna.Study):
        trials = sort_by_value(recorded_trials(source))
        recorded = [trial for trial in trials if trial.record.validation_error]
        if not recorded:
            message = f"study {source.study_name!r} must have a completed trial with curves"
            raise ValueError(message)
        return [_curves(vars(t.record), f"trial {t.number}") for t in recorded[:k]]
    return [_curves(source if isinstance(source, Mapping) else vars(source), "this run")]


def _curves(record: Mapping[str, Any], run: str) -> Curves:
    error = finite(record.get("validation_error", ()))  # written last: as long as the record
    losses = np.full((2, len(error)), np.nan)
    for row, name in zip(losses, ("train_loss", "validation_loss"), strict=True):
        recorded = finite(record.get(name, ()))[: len(error)]
        row[: len(recorded)] = recorded
    return Curves(run, losses[0], losses[1], error)


def prior_data(space: SearchSpace, n: int = 2000, seed: int = 0) -> Prior:
    """Draw `n` configurations from the priors of a space."""
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng, prior_seed=seed) for _ in range(n)]
    draws = {p.name: [c[p.name] for c in drawn if p.name in c] for p in space.searched}
    return Prior(space.searched, draws, n)


def any_time_data(source: Source | Mapping[str, Source]) -> list[AnyTime]:
    """What was spent and reached in one study, or in several by name.

    Seconds are those of training and of deciding, summed over trials, whatever ran side by side.
    """
    if isinstance(source, Mapping):
        return [any_time_data(one)[0]._replace(study=name) for name, one in source.items()]
    frame = _frame(source)
    finished = np.array([state != "running" for state in frame["state"]], dtype=bool)
    training, deciding = (finite(frame[name]) for name in ("seconds", "suggest_seconds"))
    spent = np.cumsum((np.nan_to_num(training) + np.nan_to_num(deciding))[finished])
    values = finite(frame["value"])[finished]
    name = source.study_name if isinstance(source, optuna.Study) else "study"
    return [AnyTime(name, spent, values, running_best(values))]


def _frame(source: Source) -> pd.DataFrame:
    """The trials of a study's own: evidence was paid for, and found, elsewhere."""
    frame: Any = trials_frame(source) if isinstance(source, optuna.Study) else source
    return frame[frame["warm_start"].isna()] if "warm_start" in frame else frame


def points_data(study: optuna.Study, space: SearchSpace | None = None) -> Points:
    """The finished trials of a study as points of its space: for coordinates and slices."""
    return trial_points(recorded_trials(study), space or study_space(study))


def trial_points(trials: Sequence[RecordedTrial], space: SearchSpace) -> Points:
    """The finished ones of these trials as points of a space."""
    parameters = space.searched
    trials = [trial for trial in trials if trial.is_finished]
    tried = [trial.configuration for trial in trials]
    values = finite([trial.value for trial in trials])
    best = incumbent(trials)
    return Points(
        parameters,
        {p.name: np.array([position(p, c.get(p.name)) for c in tried]) for p in parameters},
        values,
        np.array([trial.number for trial in trials], dtype=np.int64),
        None if best is None else trials.index(best),
    )


def position(parameter: Parameter, value: Value | None) -> float:
    """Where a value stands on its axis: a choice at its index, NaN for what is missing."""
    if not isinstance(parameter, ChoiceParameter):
        return np.nan if value is None else float(value)
    return float(parameter.options.index(value)) if value in parameter.options else np.nan


def pair_matrix_data(
    study: optuna.Study,
    surrogate: Surrogate,
    space: SearchSpace | None = None,
    *,
    names: Sequence[str] | None = None,
    k: int = 4,
    resolution: int = 12,
    n_samples: int = 24,
    seed: int = 0,
) -> PairMatrix:
    """Average a surrogate over draws of all parameters but one or two (partial dependence).

    Args:
        study: whose trials are shown as points.
        surrogate: fitted to the study.
        space: of the study; read from its record when None.
        names: the parameters to show; default: the `k` along which the mean varies most.
        k: how many parameters to show when none are named.
        resolution: points along each axis.
        n_samples: draws to average over.
        seed: fixes the draws.
    """
    known = space or study_space(study)
    _check_names(names or (), known)
    rng = np.random.default_rng(seed)
    # Every parameter gets a value, also where the draw makes it inactive.
    draws = [{p.name: p.from_unit(rng.random()) for p in known.searched} for _ in range(n_samples)]

    def average(*varied: Parameter) -> tuple[FloatArray, FloatArray]:
        return _partial_dependence(known, surrogate, draws, varied, resolution)

    shown = [known[name] for name in names] if names else list(known.searched)
    curves = {p.name: average(p) for p in shown}
    if not names:
        shown.sort(key=lambda p: float(np.nan_to_num(np.ptp(curves[p.name][0]))), reverse=True)
        shown = shown[:k]
    return PairMatrix(
        tuple(shown),
        {p.name: np.array([position(p, v) for v in p.grid_values(resolution)]) for p in shown},
        {p.name: curves[p.name] for p in shown},
        {(x.name, y.name): average(y, x)[0] for x, y in itertools.combinations(shown, 2)},
        points_data(study, known),
    )


def _check_names(names: Sequence[str], space: SearchSpace) -> None:
    searched = [p.name for p in space.searched]
    unknown = [name for name in names if name not in searched]
    if unknown or len(set(names)) < len(names):
        message = f"names must be different searched parameters out of {searched}, got {names}"
        raise ValueError(message)


def _partial_dependence(
    space: SearchSpace,
    surrogate: Surrogate,
    draws: Sequence[Configuration],
    varied: Sequence[Parameter],
    resolution: int,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over `draws`, an axis for each varied parameter.

    Draws in which a varied parameter is inactive are left out.
    """
    grids = [p.grid_values(resolution) for p in varied]
    names = [p.name for p in varied]
    configurations = [
        space.complete({**draw, **dict(zip(names, values, strict=True))})
        for values in itertools.product(*grids)
        for draw in draws
    ]
    active = np.array([all(name in c for name in names) for c in configurations])
    predicted = np.zeros((2, len(active)))
    if active.any():
        inputs = [c for c, is_active in zip(configurations, active, strict=True) if is_active]
        predicted[:, active] = surrogate.predict(inputs)
    shape = (*(len(grid) for grid in grids), len(draws))
    n = active.reshape(shape).sum(axis=-1)
    sums = predicted.reshape(2, *shape).sum(axis=-1)
    mean, std = np.where(n > 0, sums / np.maximum(n, 1), np.nan)
    return mean, std


def importance_data(study: optuna.Study) -> Importance:
    """How much each parameter matters for being among the best trials (PED-ANOVA).

    A conditional parameter counts by how often it was active (https://arxiv.org/abs/2601.20800).

    Raises:
        ValueError: fewer than `LEAST_TRIALS` completed trials, or all of the same value.
    """
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.values[0] for trial in completed if np.isfinite(trial.values[0])]
    if len(values) < LEAST_TRIALS or len(set(values)) == 1:
        message = (
            f"importance needs at least {LEAST_TRIALS} completed trials that differ in value, "
            f"got {len(values)} with {len(set(values))} different values"
        )
        raise ValueError(message)
    # The estimate is unsteady with fewer than five trials above the quantile (Optuna's advice).
    quantile = max(0.1, min(0.5, 5 / len(values)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    return Importance(get_param_importances(study, evaluator=evaluator), quantile, len(values))


def confusion_data(labels: Labels, predicted: Labels, classes: Sequence[str]) -> Confusion:
    """Count how often each class was taken for each."""
    pair, k = [np.asarray(labels, dtype=int), np.asarray(predicted, dtype=int)], len(classes)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 1:
        message = (
            "labels and predicted must be two lists of the same length, "
            f"got shapes {pair[0].shape} and {pair[1].shape}"
        )
        raise ValueError(message)
    wrong = sorted({int(label) for part in pair for label in part if not 0 <= label < k})
    if wrong:
        message = f"labels and predicted must be 0 to {k - 1} with {k} classes, got {wrong}"
        raise ValueError(message)
    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, tuple(pair), 1)
    return Confusion(counts)


def timeline_data(source: Source) -> Timeline:
    """When which worker ran which trial, for the trials that have ended or reached a rung."""
    frame = _frame(source)
    started, finished = finite(frame["started"]), finite(frame["finished"])
    ran = np.flatnonzero(np.isfinite(started) & np.isfinite(finished))
    rows = frame.iloc[ran]
    starts = started[ran] - started[ran].min(initial=np.inf)
    return Timeline(
        np.asarray(rows["number"], dtype=np.int64),
        [str(worker) for worker in rows["worker"].fillna("unknown")],
        starts,
        finished[ran] - started[ran],
        [str(status) for status in rows["status"].fillna("running")],
    )
