"""Show the trials of a study on the page: brushed in coordinates, questioned by a click."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anywidget import AnyWidget
from traitlets import Bytes, Dict, Int, List

from hpo_lib.formatting import format_number, format_value
from hpo_lib.plots.parameter_axes import unit_heights, unit_ticks
from hpo_lib.plots.trials import trial_points
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import VALIDATION_ERROR, RecordedTrial
from hpo_lib.widgets.front_end import in_turn

CountWeights = Callable[[Configuration], int]
"""Returns the number of weights of a configuration's network."""

_NO_TRIAL = -1


class TrialView(AnyWidget):
    """Draw finished trials as lines across the hyperparameters' axes and as dots, on the page.

    Brushing happens on the page alone; the kernel answers which trial was clicked.

    Attributes:
        axes: name, ticks and range of each searched parameter, then of the value.
        others: names of what has no axis, but may lie across the dots.
        table: heights along these axes but the last, then values, then the others: rows of
            `float32` with an entry per trial, NaN for what is missing.
        incumbent: index of the incumbent, -1 where there is none.
        state: brushed ranges and switches, as the page left them.
        selected: number of the trial that was clicked, -1 before.
        details: what is shown of it.
    """

    _esm = Path(__file__).with_name("trial_view.js")
    _css = Path(__file__).with_name("trial_view.css")

    axes = List().tag(sync=True)
    others = List().tag(sync=True)
    table = Bytes().tag(sync=True)
    incumbent = Int(_NO_TRIAL).tag(sync=True)
    state = Dict().tag(sync=True)
    selected = Int(_NO_TRIAL).tag(sync=True)
    details = Dict().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._finished: dict[int, RecordedTrial] = {}
        self._weights: dict[int, float] = {}
        self._show_again: Callable[[], None] | None = None
        self.observe(self._on_select, "selected")
        self.observe(self._on_state, "state")

    def show(
        self,
        trials: Sequence[RecordedTrial],
        space: SearchSpace,
        n_weights: CountWeights | None = None,
    ) -> None:
        """Show the finished ones of some trials, with the ranges that are brushed.

        Args:
            trials: trials of one study.
            space: the study's search space.
            n_weights: returns the number of weights of a configuration's network, if known.
        """
        points = trial_points(trials, space)
        # Trials outside the study's space are part of no figure.
        shown = set(points.numbers.tolist())
        finished = [trial for trial in trials if trial.number in shown]
        self._finished = {trial.number: trial for trial in finished}

        heights = [unit_heights(p, points.positions[p.name]) for p in points.parameters]
        others = {
            "seconds": [trial.spent_seconds for trial in finished],
            "trial number": points.numbers,
        }
        if n_weights is not None:
            others["weights"] = [self._count_weights(trial, n_weights) for trial in finished]
        self._show_again = partial(self.show, trials, space, n_weights)
        rows = [*heights, points.values, *others.values()]
        axes = [_describe_axis(parameter) for parameter in points.parameters]
        axes.append({"name": points.value_name})

        # One message, so that the page never sees half of it.
        with self.hold_sync():
            self.axes = axes if finished else []
            self.others = list(others)
            self.table = np.array(rows, dtype=np.float32).tobytes()
            self.incumbent = _NO_TRIAL if points.incumbent is None else points.incumbent

    def _count_weights(self, trial: RecordedTrial, n_weights: CountWeights) -> float:
        """Return the weights of a trial's network, counted once; NaN where it did not train."""
        # Networks are built, and images loaded for it, only if the page wants to know.
        if not trial.is_completed or self.state.get("x") != "weights":
            return math.nan
        if trial.number not in self._weights:
            self._weights[trial.number] = n_weights(trial.configuration)
        return self._weights[trial.number]

    @in_turn()
    def _on_state(self, change: Any) -> None:
        was_wanted = change["old"].get("x") == "weights"
        is_wanted = self.state.get("x") == "weights"
        if is_wanted and not was_wanted and self._show_again is not None:
            self._show_again()

    @in_turn()
    def _on_select(self, _: object) -> None:
        trial = self._finished.get(self.selected)
        self.details = {} if trial is None else describe_trial(trial)


def _describe_axis(parameter: Parameter) -> dict[str, Any]:
    """Return what the page needs to draw the axis of a parameter, and to name its positions."""
    axis: dict[str, Any] = {"name": parameter.name, "count": parameter.count}
    if isinstance(parameter, ChoiceParameter):
        options = [str(option) for option in parameter.options]
        last = max(len(options) - 1, 1)
        ticks = [(i / last, option) for i, option in enumerate(options)]
        return {**axis, "options": options, "ticks": ticks}

    return {
        **axis,
        "low": parameter.low,
        "high": parameter.high,
        "log": parameter.log,
        "whole": parameter.type == "int",
        "ticks": unit_ticks(parameter),
    }


def describe_trial(trial: RecordedTrial) -> dict[str, Any]:
    """Return what the page shows of a trial: texts, and its curve without values as None."""
    value = "" if trial.value is None else f", value {format_number(trial.value, 4)}"
    seconds = format_number(trial.spent_seconds, 3)
    errors = trial.record.validation_error
    source = trial.record.warm_start
    return {
        "title": f"Trial {trial.number}: {trial.outcome}{value}, {seconds} s",
        "reason": trial.record.reason or (f"warm start from {source}" if source else ""),
        "rows": [(name, format_value(v, 4)) for name, v in trial.configuration.items()],
        "log": _describe_run(trial),
        "curve": [error if math.isfinite(error) else None for error in errors],
        "value_name": VALIDATION_ERROR,
    }


def _describe_run(trial: RecordedTrial) -> str:
    """Return when and where a trial ran, and the traceback of its failure."""
    record = trial.record
    lines: list[str] = []
    for event, time in (("started", record.started), ("ended", record.finished)):
        if time is not None:
            moment = datetime.fromtimestamp(time).astimezone()
            lines.append(f"{event} {moment:%Y-%m-%d %H:%M:%S}")
    if record.worker:
        lines.append(f"on worker {record.worker}")
    if record.traceback:
        lines.append(record.traceback)
    return "\n".join(lines)
