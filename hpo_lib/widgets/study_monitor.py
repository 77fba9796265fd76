"""`StudyMonitor`: watch a study that runs beside the page, brush its trials, pause and stop it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import optuna
from matplotlib.transforms import Bbox
from optuna.storages import BaseStorage

from hpo_lib.checks import check_name
from hpo_lib.exceptions import StudyError
from hpo_lib.plots.data import Points, any_time_data, points_data
from hpo_lib.plots.figures import plot_any_time
from hpo_lib.plots.style import AxesArray, panels
from hpo_lib.plots.trials import (
    Range,
    brush,
    plot_parallel_coordinates,
    plot_trial_curves,
    trial_curves_data,
)
from hpo_lib.space.search_space import ChoiceParameter
from hpo_lib.study.background import BackgroundStudy, background_study
from hpo_lib.study.lease import lease_holder
from hpo_lib.study.storage import DEFAULT_STORAGE, Storage, open_storage
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    incumbent,
    own_trials,
    recorded_trials,
)
from hpo_lib.widgets.base import Panel, png, slider, ticks_of
from hpo_lib.widgets.front_end import in_turn, is_watched
from hpo_lib.widgets.space_editor import labelled

REFRESH_SECONDS = 1.0
_PROBLEM = (
    "color: #a34700; white-space: pre-wrap; margin: 4px 0; max-height: 130px; overflow: auto"
)


def _state(trial: RecordedTrial) -> str:
    """Name the state of a trial, all kinds of failure being one."""
    if trial.is_failed:
        return "failed"
    return "queued" if trial.outcome == TrialOutcome.WAITING else str(trial.outcome)


def seconds_left(study: optuna.Study) -> float | None:
    """What the rest of the budget takes at the mean of the finished trials; None without any.

    It is shared by as many workers as have a trial now.
    """
    trials, budget = own_trials(study), StudyRecord.of(study).n_trials
    ended = [trial.spent_seconds for trial in trials if trial.is_finished]
    if not ended or budget is None:
        return None
    under_way = [trial.spent_seconds for trial in trials if not trial.is_finished]
    left = float(np.mean(ended)) * (budget - len(ended)) - sum(under_way)
    return max(left, 0.0) / max(len(under_way), 1)


def describe(study: optuna.Study) -> str:
    """One line: own trials in each state, the incumbent, and the seconds left while it runs."""
    trials = [trial for trial in recorded_trials(study) if trial.is_own]
    ended = sum(trial.is_finished for trial in trials)
    budget = StudyRecord.of(study).n_trials
    states = Counter(_state(trial) for trial in trials)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    of = f" of {max(budget, ended)}" if budget else ""
    text = f"{ended}{of} trials have ended ({counts or 'none yet'})."
    best = incumbent(trials)
    if best is not None:
        text += f" Best: {best.value:.4f}, trial {best.number}."
    left = seconds_left(study) if lease_holder(study) else None
    return text + (f" About {max(left, 1):,.0f} s left." if left else "")


def plot_progress(study: optuna.Study) -> AxesArray:
    """Draw the any-time curve and the learning curves of running and finished trials."""
    any_time, curves = any_time_data(study), trial_curves_data(study)  # may fail: no figure yet
    axes = panels(2, 2, 4.6, 3.1)
    plot_any_time(any_time, ax=axes[0])
    plot_trial_curves(curves, ax=axes[1])
    for ax in axes:
        ax.yaxis.label.set_size("small")  # it is longer than these axes are high
    return axes


def failures_table(study: optuna.Study) -> str:
    """HTML: each failed trial, the newest first, with its reason and its configuration."""
    trials = [trial for trial in recorded_trials(study) if trial.is_failed]
    rows = [
        f"<tr><td>{trial.number}</td><td>{escape(trial.record.reason or '')}</td>"
        f"<td>{escape(str(trial.configuration))}</td></tr>"
        for trial in reversed(trials)
    ]
    head = "<tr><th>trial</th><th>reason</th><th>configuration</th></tr>"
    return (
        "<style>.hpo-failed td, .hpo-failed th {padding: 0 10px 2px 0; text-align: left;"
        " vertical-align: top; line-height: 1.35} .hpo-failed td {overflow-wrap: anywhere}</style>"
        f"<b>Failed trials: {len(rows)}</b><div class='hpo-failed' tabindex='0'"
        " style='max-height: 130px; overflow: auto; font-size: 12px'>"
        f"<table>{head + ''.join(rows) if rows else ''}</table></div>"
    )


class StudyMonitor(Panel):
    """Watch a study while it runs; with a `BackgroundStudy`, start, pause and stop it too.

    What another process runs, or nobody, is only read. Closing the page ends nothing: the study
    runs as long as its kernel, and a new monitor of that name takes the controls up again.

    Args:
        study: a name, a study, or what runs one in this process.
        storage: where a study given by its name is.
    """

    _task: asyncio.Task[None] | None = None  # also of one whose arguments were refused

    def __init__(
        self, study: str | optuna.Study | BackgroundStudy, storage: Storage | None = None
    ) -> None:
        given = study if isinstance(study, BackgroundStudy) else None
        storage = given.storage if given else storage
        self.background: BackgroundStudy | None = None
        self._study: optuna.Study | None = None
        if isinstance(study, optuna.Study):
            self._study, self.name = study, study.study_name
        else:
            self.name = check_name(study if isinstance(study, str) else study.name)
            self._backend = open_storage(storage)
            self.background = background_study(self.name, storage) or given
        place = "the storage" if isinstance(storage, BaseStorage) else storage or DEFAULT_STORAGE
        self._absent = "" if self.background else f"no study of that name in {place}"
        self._mark: object = None
        self._points: Points | None = None
        self._problem = ""
        self._quiet = False
        self._layout: list[Bbox] = []
        self.start = self._button("Start", "Begin, or go on where the record stands", self._start)
        self.pause = self._button("Pause", "What runs ends its segment", BackgroundStudy.pause)
        self.stop = self._button(
            "Stop", "End now; resume goes on from checkpoints", BackgroundStudy.stop
        )
        limits = {"value": self.background.n_trials if self.background else 1, "min": 1}
        self.trials = labelled(widgets.BoundedIntText, "trials", 130, **limits, max=10**6)
        self.status, self.failures, self.inside = widgets.HTML(), widgets.HTML(), widgets.Label()
        self.image, self.coordinates = (
            widgets.Image(format="png", layout={"max_width": "100%"}) for _ in range(2)
        )
        self.clear = widgets.Button(description="Show all", layout={"width": "90px"})
        self.clear.on_click(lambda _: self._clear())
        self.sliders: dict[str, Any] = {}
        self.values = _range_slider("validation error", [("none", 0.0)])
        self._axes = widgets.GridBox(layout={"grid_template_columns": "50% 50%"})
        controls = [self.start, self.pause, self.stop, self.trials] if self.background else []
        brushed = widgets.HBox([self.clear, self.inside])
        figures = [self.image, self.coordinates, brushed, self._axes, self.failures]
        self._figures = widgets.VBox(figures, layout={"display": "none"})
        shown = [widgets.HBox(controls), self.status, self._figures]
        super().__init__(shown, layout={"max_width": "920px"})
        self.refresh()

    def _button(self, text: str, tip: str, act: Callable[[BackgroundStudy], None]) -> Any:
        @in_turn()
        def pressed(_: object) -> None:
            self._problem = ""
            try:
                if self.background is not None:
                    act(self.background)
            except StudyError as error:
                self._problem = str(error)
            self.refresh()

        button = widgets.Button(description=text, tooltip=tip, layout={"width": "90px"})
        button.on_click(pressed)
        return button

    def _start(self, background: BackgroundStudy) -> None:
        background.n_trials = self.trials.value
        background.start()

    @property
    def study(self) -> optuna.Study | None:
        """What is watched; None until it begins."""
        if self._study is None and self.name in optuna.get_all_study_names(self._backend):
            self._study = optuna.load_study(study_name=self.name, storage=self._backend)
        return self._study

    def refresh(self) -> None:
        """Read the record and redraw what changed; on an open page it happens every second."""
        for _ in self._redraw():
            pass

    def close(self) -> None:
        """Watch no longer; the study goes on."""
        if self._task is not None:
            self._task.cancel()
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if is_watched() and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())
        return super()._repr_mimebundle_(**options)

    async def _watch(self) -> None:
        while True:
            try:
                for _ in self._redraw():
                    await asyncio.sleep(0.05)  # the others' turn
            except Exception as error:
                problem = f"the record cannot be read: {type(error).__name__}: {error}"
                self._show_status(None, problem)
            await asyncio.sleep(REFRESH_SECONDS)

    def _redraw(self) -> Iterator[None]:
        with in_turn():
            study = self.study
            self._show_status(study)
            if study is None:
                return
            mark = [
                (trial.number, trial.outcome, len(trial.record.validation_error))
                for trial in recorded_trials(study)
            ]
            if mark == self._mark:
                return
            self._points = points_data(study) if StudyRecord.of(study).space else None
            self.image.value = png(plot_progress(study))
        yield
        with in_turn():
            if self._points is not None:
                self._layout.clear()
                self._fit_sliders(self._points)
                self._brushed(None)
            self._figures.layout.display = None
            self.failures.value = failures_table(study)
            self._mark = mark

    def _show_status(self, study: optuna.Study | None, unread: str = "") -> None:
        state = self.background.state if self.background else "not started"
        ours = state in ("running", "paused", "stopping")
        holder = lease_holder(study) if study is not None and not ours else None
        self.start.description = "Resume" if state in ("paused", "stopped", "failed") else "Start"
        self.start.disabled = holder is not None or state in ("running", "stopping")
        self.pause.disabled = state != "running"
        self.stop.disabled = state not in ("running", "paused")
        self.trials.disabled = ours or holder is not None
        doing = state
        if self.background is None or holder is not None:
            doing = f"read-only: {f'{holder} writes it' if holder else 'nobody runs it now'}"
        error = self.background.error if self.background else None
        failed = f"{type(error).__name__}: {error}" if error is not None else ""
        told = self._absent if study is None else describe(study)
        text = f"<b>{escape(self.name)}</b> · {escape(doing)} · {escape(told)}"
        text = f"<div role='status' aria-live='polite' style='line-height: 1.4'>{text}</div>"
        for problem in filter(None, (unread, self._problem, failed)):
            text += f"<div role='alert' style='{_PROBLEM}'>⚠ {escape(problem)}</div>"
        self.status.value = text

    def _fit_sliders(self, points: Points) -> None:
        """One slider per axis from the first trial on; that of the values grows with them."""
        self._quiet = True
        if not self.sliders:
            ticks = {p.name: ticks_of(p, 101) for p in points.parameters}
            self.sliders = {name: _range_slider(name, each) for name, each in ticks.items()}
            for one in (*self.sliders.values(), self.values):
                one.observe(self._brushed, "value")
            self._axes.children = (*self.sliders.values(), self.values)
        chosen = _range(self.values)
        found = np.unique(points.values[np.isfinite(points.values)]).tolist() or [0.0]
        self.values.options = [(f"{value:.4g}", value) for value in found]
        low, high = chosen or (found[0], found[-1])
        kept = [i for i, value in enumerate(found) if low <= value <= high] or [0]
        self.values.index = (kept[0], kept[-1])
        self._quiet = False

    @in_turn()
    def _brushed(self, _: object) -> None:
        if self._quiet or self._points is None:
            return
        points = self._points
        ranges = {name: _range(one) for name, one in self.sliders.items()}
        for p in points.parameters:
            if isinstance(p, ChoiceParameter) and ranges[p.name]:
                ranges[p.name] = self.sliders[p.name].index
        chosen = {name: one for name, one in ranges.items() if one}
        shown = brush(points, chosen, _range(self.values))
        drawn = plot_parallel_coordinates(points, shown=shown)
        self.coordinates.value = png(drawn, self._layout)
        values = np.where(shown & ~points.failed, points.values, np.inf)
        text = f"{shown.sum()} of {len(shown)} ended trials within the sliders"
        if np.isfinite(values).any():
            best = int(values.argmin())
            text += f"; the best of them: {values[best]:.4f}, trial {points.numbers[best]}"
        self.inside.value = text

    @in_turn()
    def _clear(self) -> None:
        self._quiet = True
        for one in (*self.sliders.values(), self.values):
            one.index = (0, len(one.options) - 1)
        self._quiet = False
        self._brushed(None)


def _range_slider(name: str, ticks: list[Any]) -> Any:
    return slider(widgets.SelectionRangeSlider, name, ticks, index=(0, len(ticks) - 1))


def _range(one: Any) -> Range | None:
    """What a slider lets through; None when it stands at its whole range."""
    return None if one.index == (0, len(one.options) - 1) else one.value
