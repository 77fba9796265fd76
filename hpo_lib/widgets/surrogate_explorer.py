"""`SurrogateExplorer`: what does the model expect of a configuration that nobody has tried?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import optuna

from hpo_lib.exceptions import StudyError
from hpo_lib.plots.surrogate_slice import FittedStudy, fitted_study, plot_slice, slice_data
from hpo_lib.space.search_space import Configuration, Value
from hpo_lib.study.lease import lease_holder
from hpo_lib.trials import StudyRecord, own_trials, recorded_trials, study_space
from hpo_lib.widgets.base import Panel, png, slider, ticks_of
from hpo_lib.widgets.front_end import in_turn
from hpo_lib.widgets.space_editor import labelled

_NONE = ""  # None would leave the field blank


def queue_trial(study: optuna.Study, values: Mapping[str, Value]) -> Configuration:
    """Make a configuration the next trial of a study that nobody writes now; return it whole.

    `run_study` runs it before it asks the strategy; it counts as budget then.

    Args:
        study: made by `run_study`.
        values: one per active parameter; those of inactive ones are dropped.

    Raises:
        StudyError: a driver holds the study, or the configuration was tried or queued before.
        SpaceError: a value is missing or wrong.
    """
    holder = lease_holder(study)
    if holder is not None:
        message = f"study {study.study_name!r} is being written by {holder}: stop it, then queue"
        raise StudyError(message)
    space = study_space(study)
    configuration = space.complete(values)
    searched = {p.name: configuration[p.name] for p in space.searched if p.name in configuration}
    for trial in recorded_trials(study):
        # An enqueued trial has no recorded configuration yet.
        recorded = trial.record.configuration or trial.known_params
        if recorded in (configuration, searched):
            message = f"trial {trial.number} ({trial.outcome}) has this configuration already"
            raise StudyError(message)
    study.enqueue_trial(searched)
    return configuration


class SurrogateExplorer(Panel):
    """Vary one or two hyperparameters, set the others, and see what the surrogate expects.

    Args:
        study: made by `run_study`, with at least four completed trials. It is only written when
            the shown configuration is queued.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._fitted: FittedStudy = fitted_study(study)
        self._quiet = False
        self._layouts: dict[Any, Any] = {}
        names = self._fitted.names
        options = [(name, name) for name in names]
        or_none = [("(none)", _NONE), *options]
        scales = [("logarithm", "log EI"), ("as it is", "EI")]
        self.x = labelled(widgets.Dropdown, "Horizontal axis", 290, options=options)
        self.y = labelled(widgets.Dropdown, "Vertical axis", 290, options=or_none)
        self.acquisition = labelled(widgets.Dropdown, "Improvement", 290, options=scales)
        self.sliders: dict[str, Any] = {
            name: slider(widgets.SelectionSlider, name, ticks_of(self._fitted.space[name], 101))
            for name in names
        }
        self.to_incumbent = widgets.Button(description="Go to incumbent")
        self.refresh = widgets.Button(description="Fit again")
        self.queue = widgets.Button(description="Queue as next trial", button_style="primary")
        self.expected = widgets.Label()
        self.status = widgets.Label()
        self.image = widgets.Image(format="png", layout={"max_width": "100%"})
        self._go_to_incumbent()
        for control in (self.x, self.y, self.acquisition, *self.sliders.values()):
            control.observe(self._changed, "value")
        self.to_incumbent.on_click(lambda _: self._go_to_incumbent())
        self.refresh.on_click(lambda _: self._refit())
        self.queue.on_click(lambda _: self._queue())
        half = (len(names) + 1) // 2
        halves = [list(self.sliders.values())[:half], list(self.sliders.values())[half:]]
        columns = widgets.HBox([widgets.VBox(c, layout={"width": "50%"}) for c in halves if c])
        axes = widgets.HBox([self.x, self.y, self.acquisition])
        buttons = widgets.HBox([self.to_incumbent, self.refresh, self.queue])
        rows = [axes, self.image, columns, self.expected, buttons, self.status]
        super().__init__(rows, layout={"max_width": "900px"})

    @property
    def configuration(self) -> Configuration:
        """What the sliders show, whole: without inactive parameters, with fixed ones."""
        return self._fitted.space.complete(self._shown())

    def _shown(self) -> dict[str, Value]:
        return {**self._fitted.incumbent, **{n: s.value for n, s in self.sliders.items()}}

    @in_turn()
    def _changed(self, _: object) -> None:
        if self._quiet:
            return
        if self.y.value == self.x.value:
            self.y.value = _NONE  # comes back here
            return
        names = [name for name in (self.x.value, self.y.value) if name != _NONE]
        shown = self._shown()
        data = slice_data(self._fitted, names, shown)
        layout = self._layouts.setdefault((*names, self.acquisition.value), [])
        self.image.value = png(plot_slice(data, acquisition=self.acquisition.value), layout)
        mean, std = (float(one[0]) for one in self._fitted.surrogate.predict([self.configuration]))
        inactive = sorted(set(self.sliders) - set(self.configuration))
        ignored = f"; inactive here: {', '.join(inactive)}" if inactive else ""
        self.expected.value = f"Expected here: {mean:.4f} ± {std:.4f} (best mean {data.best:.4f})"
        self.expected.value += ignored

    @in_turn()
    def _go_to_incumbent(self) -> None:
        self._quiet = True
        for name, one in self.sliders.items():
            parameter, value = self._fitted.space[name], self._fitted.incumbent[name]
            one.options = ticks_of(parameter, 101, [value])
            one.value = value
        self._quiet = False
        self._changed(None)

    @in_turn()
    def _refit(self) -> None:
        self._fitted = fitted_study(self.study)
        self._changed(None)
        n = len(self._fitted.surrogate.model.X_)
        self.status.value = f"Fitted to {n} completed trials."

    @in_turn()
    def _queue(self) -> None:
        try:
            queue_trial(self.study, self._shown())
        except StudyError as error:
            self.status.value = f"Not queued: {error}"
            return
        spent = StudyRecord.of(self.study).stopped == "budget spent"
        n = len(own_trials(self.study))
        more = f" Its budget is spent: give it more than {n} trials." if spent else ""
        self.status.value = f"Queued: it is the first trial when the study goes on.{more}"
