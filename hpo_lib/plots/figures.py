"""Every figure in two halves: `*_data` computes, `plot_*` draws that and returns the axes.

A `plot_*` takes what its `*_data` takes or, where that is one thing, what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hpo_lib.objective import SegmentResult
from hpo_lib.plots.data import (
    AnyTime,
    Curves,
    FloatArray,
    Importance,
    Labels,
    PairMatrix,
    Points,
    Prior,
    Source,
    Timeline,
    any_time_data,
    class_counts_data,
    confusion_data,
    images_data,
    importance_data,
    learning_curves_data,
    pair_matrix_data,
    points_data,
    position,
    prior_data,
    timeline_data,
)
from hpo_lib.plots.style import (
    BLUE,
    DOT,
    STAR,
    VALUE,
    WHITE,
    AxesArray,
    bar_style,
    colour_norm,
    failure_ticks,
    is_discrete,
    label,
    legend_above,
    line_style,
    name_ticks,
    one_axes,
    panels,
    parameter_axis,
    spending_axis,
    value_axis,
    value_bar,
)
from hpo_lib.plots.style import save_figure as save_figure
from hpo_lib.plots.trials import plot_parallel_coordinates as plot_parallel_coordinates
from hpo_lib.plots.trials import trial_counts
from hpo_lib.samplers.surrogate import Surrogate
from hpo_lib.space.search_space import ChoiceParameter, IntParameter, Parameter, SearchSpace, Value


def plot_images(
    images: NDArray[np.uint8],
    labels: Labels,
    classes: Sequence[str],
    columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draw images (n,c,h,w) in rows, each under the name of its class."""
    data = images_data(images, labels, classes)
    columns = min(columns, len(data.images))
    rows = -(-len(data.images) // columns)
    ax = one_axes(ax, 0.9 * columns, 1.12 * rows)
    for i, (image, title) in enumerate(zip(data.images, data.titles, strict=True)):
        x, y = i % columns, 1.25 * (i // columns)
        ax.imshow(image, extent=(x, x + 0.94, y + 0.94, y), interpolation="nearest")
        ax.text(x + 0.47, y - 0.04, label(title, 12), ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, columns), ylim=(1.25 * rows - 0.3, -0.25), aspect="equal")
    ax.set_axis_off()
    return ax


def plot_class_counts(
    parts: Mapping[str, Labels], classes: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw the images per class, a bar for each part."""
    data = class_counts_data(parts, classes)
    ax = one_axes(ax)
    width = 0.8 / len(data)
    for i, (part, counts) in enumerate(data.items()):
        x = np.arange(len(counts)) + width * (i + 0.5) - 0.4
        ax.bar(x, counts, width, label=f"{label(part)} (n = {counts.sum():,})", **bar_style(i))
    name_ticks(ax, "x", classes)
    ax.grid(visible=False, axis="x")
    ax.set(xlabel="class", ylabel="images (count)")
    legend_above(ax)
    return ax


def plot_learning_curves(
    source: optuna.Study | SegmentResult | Mapping[str, Sequence[float]] | list[Curves],
    k: int = 5,
) -> AxesArray:
    """Draw loss and validation error per epoch of one training or a study's best `k` trials."""
    data = source if isinstance(source, list) else learning_curves_data(source, k)
    axes = panels(2, 2, 4.2, 3.6)
    loss, error = (cast(Axes, ax) for ax in axes)
    for i, curves in enumerate(data):
        epochs = np.arange(1, len(curves.validation_error) + 1)
        width = 2.2 if i == 0 else 1.2
        style = line_style(i, "-", markevery=max(1, len(epochs) // 10), linewidth=width)
        best = " (incumbent)" if i == 0 and len(data) > 1 else ""
        name = f"{label(curves.run)}{best}: {np.append(np.nan, curves.validation_error)[-1]:.4f}"
        loss.plot(epochs, curves.validation_loss, **style)
        loss.plot(epochs, curves.train_loss, "--", color=style["color"], linewidth=width)
        error.plot(epochs, curves.validation_error, label=name, **style)
    for line, name in (("-", "validation"), ("--", "training")):
        loss.plot([], [], line, color="0.3", label=name)
    losses = [values for curves in data for values in (curves.train_loss, curves.validation_loss)]
    value_axis(loss, losses, "loss (mean per image)")
    value_axis(error, [curves.validation_error for curves in data])
    for ax in (loss, error):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.legend(fontsize=8)
    return axes


def plot_prior(source: SearchSpace | Prior, n: int = 2000, seed: int = 0) -> AxesArray:
    """Draw a small histogram of draws from the prior of each parameter."""
    data = source if isinstance(source, Prior) else prior_data(source, n, seed)
    axes = panels(len(data.parameters), 4, 2.4, 2.0)
    for ax, parameter in zip(axes, data.parameters, strict=True):
        draws = data.draws[parameter.name]
        parameter_axis(ax, "x", parameter)
        _draw_shares(ax, parameter, draws)
        ax.grid(visible=False, axis="x")
        ax.set_ylabel("draws (%)")
        if len(draws) < data.n:
            ax.set_title(f"active in {len(draws) / data.n:.0%}", fontsize=9)
    axes[0].figure.suptitle(f"Priors, n = {data.n:,} draws", fontsize=11)
    return axes


def _draw_shares(ax: Axes, parameter: Parameter, draws: Sequence[Value]) -> None:
    positions = np.array([position(parameter, value) for value in draws])
    share = 100 / max(len(positions), 1)
    x, counts = np.unique(positions, return_counts=True)
    log = not isinstance(parameter, ChoiceParameter) and parameter.log
    if isinstance(parameter, ChoiceParameter) or len(x) <= 12:
        width = 0.1 * x if log else 0.8 * np.diff(x).min(initial=1.0 if len(x) < 2 else np.inf)
        ax.bar(x, counts * share, width, color=BLUE)
        return
    bins = (np.geomspace if log else np.linspace)(parameter.low, parameter.high, 25)
    if isinstance(parameter, IntParameter):  # each bar over as many values as its width says
        step = parameter.step or 1
        width = step * -(-len(parameter.grid_values(10**6)) // 25)
        edges = (
            np.unique(np.round(bins)) if log else np.arange(parameter.low, parameter.high, width)
        )
        bins = np.append(
            edges - step / 2, max(parameter.high, edges[-1] + width - step) + step / 2
        )
    ax.hist(positions, cast(Any, bins), weights=np.full(len(positions), share), color=BLUE)


def plot_any_time(
    source: Source | Mapping[str, Source] | list[AnyTime],
    by: Literal["trial", "seconds"] = "trial",
    ax: Axes | None = None,
) -> Axes:
    """Draw the incumbent of one study or several, against trials or seconds spent."""
    data = source if isinstance(source, list) else any_time_data(source)
    ax = one_axes(ax)
    failures: list[FloatArray] = [np.zeros(0)]
    for i, one in enumerate(data):
        spent = one.seconds if by == "seconds" else np.arange(1.0, len(one.values) + 1)
        shown = "incumbent" if len(data) == 1 else label(one.study)
        style = line_style(i, label=f"{shown} (n = {len(one.values)} trials)", linewidth=2)
        ax.plot(spent, one.values, style.pop("marker"), color=style["color"], ms=4, alpha=0.45)
        ax.step(spent, one.best, where="post", **style)
        failures.append(spent[np.isnan(one.values)])
    failure_ticks(ax, np.concatenate(failures))
    value_axis(ax, [one.values for one in data])
    spending_axis(ax, by)
    legend_above(ax)
    return ax


def plot_slices(source: optuna.Study | Points, space: SearchSpace | None = None) -> AxesArray:
    """Draw value against each parameter, coloured by trial, failures as ticks at the top."""
    data = source if isinstance(source, Points) else points_data(source, space)
    axes = panels(len(data.parameters), 4, 2.4, 2.4, sharey=True)
    norm = Normalize(0, data.numbers.max(initial=1))
    for ax, parameter in zip(axes, data.parameters, strict=True):
        parameter_axis(ax, "x", parameter)
        x = data.positions[parameter.name]
        if isinstance(parameter, ChoiceParameter):  # side by side rather than on one another
            x = x + 0.4 * (data.numbers * 0.618 % 1 - 0.5)
        style: dict[str, Any] = {"cmap": "cividis_r", "norm": norm, "edgecolor": "0.3"}
        ax.scatter(x, data.values, 22, data.numbers, linewidth=0.4, **style)
        failure_ticks(ax, x[data.failed])
        if data.incumbent is not None:
            ax.scatter(x[data.incumbent], data.values[data.incumbent], **STAR)
        active = int(np.isfinite(x).sum())
        if active < len(x):
            ax.set_title(f"active in {active} of {len(x)}", fontsize=9)
    for ax in axes[::4]:
        value_axis(ax, [data.values])
    bar = value_bar(norm, list(axes), "trial (number)", "cividis_r")
    bar.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].figure.suptitle(f"{trial_counts(data, 'red ticks')}, star: incumbent", fontsize=11)
    return axes


def plot_pair_matrix(
    source: optuna.Study | PairMatrix,
    space: SearchSpace | None = None,
    surrogate: Surrogate | None = None,
    names: Sequence[str] | None = None,
    k: int = 4,
) -> AxesArray:
    """Draw partial dependence on one parameter (diagonal) and on two (below); None above.

    Bands are ± one standard deviation of the surrogate, averaged as the mean is.
    """
    data = source
    if not isinstance(data, PairMatrix):
        if surrogate is None:
            message = "surrogate must be given with a study, got None"
            raise ValueError(message)
        data = pair_matrix_data(data, surrogate, space, names=names, k=k)
    size = len(data.parameters)
    axes = panels(size * size, size, 2.4, 2.2).reshape(size, size)
    norm = colour_norm(list(data.surfaces.values()))
    ends = [end for mean, std in data.curves.values() for end in (mean - std, mean + std)]
    low, high = np.nanquantile(np.concatenate(ends), (0, 1))
    for row, column in np.ndindex(size, size):
        ax, y, x = cast(Axes, axes[row, column]), data.parameters[row], data.parameters[column]
        if row < column:
            ax.remove()
            axes[row, column] = None
            continue
        if row == column:
            _draw_dependence(ax, data, x)
            ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        else:
            _draw_surface(ax, data, x, y, norm)
        if row < size - 1:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
        if column > 0:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    value_bar(norm, [ax for ax in axes.flat if ax is not None], f"predicted {VALUE}")
    inactive = any(np.isnan(surface).any() for surface in data.surfaces.values())
    title = (
        f"{trial_counts(data.points, 'crosses')}, star: incumbent{', grey: inactive' * inactive}"
    )
    axes[0, 0].figure.suptitle(f"Partial dependence; {title}", fontsize=11)
    return axes


def _draw_dependence(ax: Axes, data: PairMatrix, parameter: Parameter) -> None:
    x, (mean, std) = data.grids[parameter.name], data.curves[parameter.name]
    parameter_axis(ax, "x", parameter, margin=0)
    if isinstance(parameter, ChoiceParameter):
        ax.errorbar(x, mean, std, fmt="o", color=BLUE, capsize=3)
    else:
        ax.plot(x, mean, color=BLUE)
        ax.fill_between(x, mean - std, mean + std, color=BLUE, alpha=0.2)
    ax.set_ylabel(f"predicted\n{VALUE}")


def _draw_surface(ax: Axes, data: PairMatrix, x: Parameter, y: Parameter, norm: Normalize) -> None:
    surface = data.surfaces[x.name, y.name]
    grid: tuple[Any, ...] = (data.grids[x.name], data.grids[y.name], np.ma.masked_invalid(surface))
    parameter_axis(ax, "x", x, margin=0)
    parameter_axis(ax, "y", y, margin=0)
    ax.set_facecolor("0.85")  # where a parameter is inactive there is no prediction
    ax.grid(visible=False)
    style: dict[str, Any] = {"cmap": "viridis", "norm": norm}
    if is_discrete(x) or is_discrete(y):
        ax.pcolormesh(*grid, shading="nearest", **style)
    else:
        ax.contourf(*grid, levels=norm.inverse(np.linspace(0, 1, 16)), extend="both", **style)
    at = (data.points.positions[x.name], data.points.positions[y.name])
    for shown, marker in ((~data.points.failed, "o"), (data.points.failed, "X")):
        ax.scatter(at[0][shown], at[1][shown], marker=marker, clip_on=False, **DOT)
    if data.points.incumbent is not None:
        ax.scatter(at[0][data.points.incumbent], at[1][data.points.incumbent], **STAR)


def plot_importance(source: optuna.Study | Importance, ax: Axes | None = None) -> Axes:
    """Draw how much each parameter matters for being among the best trials."""
    data = source if isinstance(source, Importance) else importance_data(source)
    names, shares = list(data.shares), np.array(list(data.shares.values()))
    ax = one_axes(ax, 7.0, 1.2 + 0.35 * len(names))
    ax.barh(range(len(names)), 100 * shares, color=BLUE, height=0.7)
    for i, share in enumerate(shares):
        ax.text(100 * share + 0.6, i, f"{share:.0%}", va="center", fontsize=9)
    name_ticks(ax, "y", names, 24)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(xlim=(0, 100 * shares.max() + 6), xlabel="share of importance (%)")
    ax.set_ylabel("hyperparameter")
    ax.set_title(
        f"for reaching the best {data.quantile:.0%} of n = {data.n} trials (PED-ANOVA)",
        fontsize=10,
    )
    return ax


def plot_confusion_matrix(
    labels: Labels, predicted: Labels, classes: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw the share of each true class that was taken for each class; numbers are images."""
    data = confusion_data(labels, predicted, classes)
    ax = one_axes(ax, 6.2, 5.2)
    image = ax.imshow(100 * data.shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(data.counts):
            colour = "white" if data.shares[row, column] > 0.5 else "0.2" if count else "0.75"
            ax.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    name_ticks(ax, "x", classes)
    name_ticks(ax, "y", classes)
    ax.grid(visible=False)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(f"accuracy {data.accuracy:.2%}, n = {data.n:,} images", fontsize=11)
    ax.figure.colorbar(image, ax=ax, label="share of the true class (%)", pad=0.02)
    return ax


def plot_timeline(source: Source | Timeline, ax: Axes | None = None) -> Axes:
    """Draw which worker ran which trial when."""
    data = source if isinstance(source, Timeline) else timeline_data(source)
    workers = list(dict.fromkeys(data.workers))
    rows = np.array([workers.index(worker) for worker in data.workers])
    end = (data.starts + data.lengths).max(initial=0)
    lengths = np.maximum(data.lengths, 0.004 * end)  # so that the shortest are seen, too
    ax = one_axes(ax, 7.0, 1.4 + 0.4 * len(workers))
    for i, outcome in enumerate(dict.fromkeys(data.outcomes)):
        part = np.array(data.outcomes) == outcome
        name = f"{label(outcome)} (n = {part.sum()})"
        ax.barh(rows[part], lengths[part], 0.7, data.starts[part], label=name, **bar_style(i))
    centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "bbox": WHITE}
    for i in np.flatnonzero(lengths > 0.04 * end):
        ax.text(data.starts[i] + lengths[i] / 2, rows[i], str(data.numbers[i]), **centred)
    name_ticks(ax, "y", workers)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(xlabel="time since the start of the first trial (s)", ylabel="worker")
    legend_above(ax)
    return ax
