"""Draw the course of a study: incumbent, learning curves, workers' time and importance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from hpo_lib.formatting import format_number
from hpo_lib.objective import SegmentResult
from hpo_lib.plots.style import (
    BLUE,
    COLOURS,
    WHITE,
    AxesArray,
    FloatArray,
    failure_ticks,
    finite,
    label,
    legend_above,
    line_style,
    name_ticks,
    one_axes,
    panels,
    spending_axis,
    value_axis,
)
from hpo_lib.study.catalog import shown_rows, trials_frame
from hpo_lib.trials import (
    VALIDATION_ERROR,
    TrialRecord,
    recorded_trials,
    running_best,
    sort_by_value,
)

Source = optuna.Study | pd.DataFrame
"""A study or its `trials_frame`; `shown_rows` says which trials of it are shown."""

Curves = Mapping[str, SegmentResult | TrialRecord]
"""For the name of each training what has its curves."""

CurveSource = optuna.Study | SegmentResult | Curves

MIN_TRIALS = 4
"""Importance is refused for fewer completed trials."""


class AnyTime(NamedTuple):
    """Finished trials of a study in order, each array of shape (n,).

    Attributes:
        seconds: seconds spent until each trial ended.
        values: final values; NaN for failed and pruned trials.
        best: value of the incumbent; NaN before the first.
        value_name: what the values are called.
    """

    seconds: FloatArray
    values: FloatArray
    best: FloatArray
    value_name: str = "value"


class Timeline(NamedTuple):
    """Trials that ran, each array of shape (n,).

    Attributes:
        numbers: numbers of the trials.
        workers: names of their workers.
        starts: seconds since the first start.
        lengths: seconds from start to end.
        outcomes: what became of them.
    """

    numbers: NDArray[np.int64]
    workers: list[str]
    starts: FloatArray
    lengths: FloatArray
    outcomes: list[str]


class Importance(NamedTuple):
    """Importance of parameters for being among the best trials.

    Attributes:
        shares: share of the importance by the name of a parameter, largest first.
        quantile: share of the trials that count as the best.
        n: number of trials.
    """

    shares: dict[str, float]
    quantile: float
    n: int


def any_time_data(source: Source) -> AnyTime:
    """Return what was spent and reached in a study.

    Seconds are those of training and suggesting, summed over trials, whatever ran side by side.
    """
    frame = _shown(source)
    frame = frame[frame["state"] != "running"]

    # A trial that failed before it began has spent no seconds.
    seconds = np.nan_to_num(finite(frame[["seconds", "suggest_seconds"]])).sum(axis=1)
    values = finite(frame["value"])
    name = frame.attrs.get("value_name", "value")
    return AnyTime(np.cumsum(seconds), values, running_best(values), name)


def _shown(source: Source) -> Any:
    frame = trials_frame(source) if isinstance(source, optuna.Study) else source
    return shown_rows(frame)


def plot_any_time(
    source: Source | AnyTime,
    by: Literal["trial", "seconds"] = "trial",
    ax: Axes | None = None,
) -> Axes:
    """Draw the incumbent of a study against what was spent.

    Args:
        source: a study or its `trials_frame`, or what `any_time_data` returns.
        by: what was spent: trials, or seconds of training and suggesting.
        ax: axes to draw into; default: a new figure.

    Example:
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
        >>> plot_any_time(study).get_xlabel()
        'trials finished (count)'
    """
    data = source if isinstance(source, AnyTime) else any_time_data(source)
    ax = one_axes(ax)
    n = len(data.values)
    spent = data.seconds if by == "seconds" else np.arange(1.0, n + 1)

    # Points show the values of the trials, steps the incumbent.
    ax.plot(
        spent,
        data.values,
        "o",
        color=BLUE,
        markersize=4,
        alpha=0.45,
        label="trial",
    )
    ax.step(
        spent,
        data.best,
        where="post",
        color=BLUE,
        linewidth=2,
        label=f"incumbent (n = {n} trials)",
    )
    failure_ticks(ax, spent[np.isnan(data.values)])
    value_axis(ax, [data.values], data.value_name)
    spending_axis(ax, by)
    legend_above(ax)
    return ax


def learning_curves_data(source: CurveSource, k: int = 5) -> Curves:
    """Return the curves of one training or several, or of a study's best trials, best first.

    Args:
        source: a study, the result of a training, or results of several trainings by name.
        k: largest number of trials of a study.

    Returns:
        For the name of each training what has its curves.

    Raises:
        ValueError: no completed trial of the study has curves.
    """
    if isinstance(source, SegmentResult):
        return {"this run": source}
    if isinstance(source, Mapping):
        return source

    trials = [t for t in sort_by_value(recorded_trials(source)) if t.record.validation_error]
    if not trials:
        message = f"study {source.study_name!r} must have a completed trial with curves"
        raise ValueError(message)
    names = [f"trial {trial.number}" for trial in trials[:k]]
    if len(names) > 1:
        names[0] += " (incumbent)"
    return dict(zip(names, [trial.record for trial in trials], strict=False))


def plot_learning_curves(source: CurveSource) -> AxesArray:
    """Draw loss and validation error per epoch of trainings, or of a study's best trials.

    Args:
        source: a study, the result of a training, or results of several trainings by name, as
            `learning_curves_data` returns them.

    Returns:
        The axes of the loss and of the error.
    """
    data = learning_curves_data(source)
    axes = panels(2, 2, 4.2, 3.6)
    loss, error = axes
    for i, (name, curves) in enumerate(data.items()):
        # The lines of the first training, which is the best, are thicker.
        n_epochs = len(curves.validation_error)
        epochs = np.arange(1, n_epochs + 1)
        width = 2.2 if i == 0 else 1.2
        style = line_style(i, "-", markevery=max(1, n_epochs // 10), linewidth=width)
        last = curves.validation_error[-1] if n_epochs else np.nan
        text = f"{label(name)}: {format_number(last)}"

        loss.plot(epochs, finite(curves.validation_loss), **style)
        loss.plot(
            epochs,
            finite(curves.train_loss),
            "--",
            color=style["color"],
            linewidth=width,
        )
        error.plot(epochs, finite(curves.validation_error), label=text, **style)

    # The legend of the loss explains the lines, that of the error the colours.
    for line, name in (("-", "validation"), ("--", "training")):
        loss.plot([], [], line, color="0.3", label=name)

    losses = [[*curves.train_loss, *curves.validation_loss] for curves in data.values()]
    value_axis(loss, losses, "loss (mean per image)")
    errors = [curves.validation_error for curves in data.values()]
    value_axis(error, errors, VALIDATION_ERROR)
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.legend(fontsize=8)

    return axes


def timeline_data(source: Source) -> Timeline:
    """Return when which worker ran each trial that has ended or reached a rung."""
    # Trials that are running have no end, and those that never ran no start.
    frame = _shown(source).dropna(subset=["started", "finished"])
    starts = finite(frame["started"])
    return Timeline(
        numbers=np.asarray(frame["number"], dtype=np.int64),
        workers=[str(worker) for worker in frame["worker"].fillna("unknown")],
        starts=starts - starts.min(initial=np.inf),
        lengths=finite(frame["finished"]) - starts,
        outcomes=[str(status) for status in frame["status"].fillna("running")],
    )


def plot_timeline(source: Source | Timeline, ax: Axes | None = None) -> Axes:
    """Draw which worker ran which trial when.

    Args:
        source: a study or its `trials_frame`, or what `timeline_data` returns.
        ax: axes to draw into; default: a new figure.
    """
    data = source if isinstance(source, Timeline) else timeline_data(source)
    workers = list(dict.fromkeys(data.workers))
    rows = np.array([workers.index(worker) for worker in data.workers])
    outcomes = np.array(data.outcomes)
    end = (data.starts + data.lengths).max(initial=0)
    # The shortest trials would not be seen.
    lengths = np.maximum(data.lengths, 0.004 * end)
    ax = one_axes(ax, 7.0, 1.4 + 0.4 * len(workers))
    for i, outcome in enumerate(dict.fromkeys(data.outcomes)):
        # Colour and hatch each tell the outcomes apart.
        part = outcomes == outcome
        bars = ax.barh(
            rows[part],
            lengths[part],
            height=0.7,
            left=data.starts[part],
            label=f"{label(outcome)} (n = {part.sum()})",
            color=COLOURS[i % 10],
            hatch=("", "//", "..", "xx", "--")[i % 5],
            edgecolor="white",
            linewidth=0.5,
        )

        # Numbers of the trials, where there is room for them.
        is_wide = lengths[part] > 0.04 * end
        numbers = np.where(is_wide, data.numbers[part].astype(str), "")
        ax.bar_label(
            bars,
            numbers.tolist(),
            label_type="center",
            fontsize=8,
            bbox=WHITE,
        )

    name_ticks(ax, "y", workers)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(xlabel="time since the start of the first trial (s)", ylabel="worker")
    legend_above(ax)
    return ax


def importance_data(study: optuna.Study) -> Importance:
    """Estimate how much each parameter matters for being among the best trials (PED-ANOVA).

    A conditional parameter counts by how often it was active (https://arxiv.org/abs/2601.20800).

    Raises:
        ValueError: fewer than `MIN_TRIALS` completed trials, or all of the same value.
    """
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.values[0] for trial in completed if np.isfinite(trial.values[0])]
    if len(values) < MIN_TRIALS or len(set(values)) == 1:
        message = (
            f"importance needs at least {MIN_TRIALS} completed trials that differ in value, "
            f"got {len(values)} with {len(set(values))} different values"
        )
        raise ValueError(message)

    # The estimate is unsteady with fewer than five trials above the quantile (Optuna's advice).
    quantile = max(0.1, min(0.5, 5 / len(values)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    return Importance(get_param_importances(study, evaluator=evaluator), quantile, len(values))


def plot_importance(source: optuna.Study | Importance, ax: Axes | None = None) -> Axes:
    """Draw how much each parameter matters for being among the best trials.

    Args:
        source: a study, or what `importance_data` returns.
        ax: axes to draw into; default: a new figure.

    Raises:
        ValueError: the study has too few trials to tell.
    """
    data = source if isinstance(source, Importance) else importance_data(source)
    names = list(data.shares)
    percent = 100 * np.array(list(data.shares.values()))
    ax = one_axes(ax, 7.0, 1.2 + 0.35 * len(names))

    # The most important parameter stands at the top.
    bars = ax.barh(
        range(len(names)),
        percent,
        height=0.7,
        color=BLUE,
    )
    ax.bar_label(
        bars,
        fmt="{:.0f}%",
        padding=4,
        fontsize=9,
    )

    name_ticks(ax, "y", names, 24)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(xlim=(0, percent.max() + 6), xlabel="share of importance (%)")
    ax.set_ylabel("hyperparameter")
    ax.set_title(
        f"for reaching the best {data.quantile:.0%} of n = {data.n} trials (PED-ANOVA)",
        fontsize=10,
    )
    return ax
