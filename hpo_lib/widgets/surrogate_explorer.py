"""Explore what the surrogate model expects of configurations that nobody has tried."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from ipywidgets import Button, Dropdown, GridBox, HBox, Label, SelectionSlider

from hpo_lib.exceptions import StudyError
from hpo_lib.plots.surrogate_slice import FittedStudy, fitted_study, plot_slice, slice_data
from hpo_lib.space.values import Configuration, Value
from hpo_lib.study.lease import lease_holder
from hpo_lib.trials import (
    is_superseded,
    own_trials,
    recorded_trials,
    stop_reason,
    study_name,
    study_space,
)
from hpo_lib.widgets.base import (
    TWO_COLUMNS,
    Panel,
    make_field,
    make_slider,
    slider_options,
)
from hpo_lib.widgets.front_end import escape_mathjax, in_turn

# A value of None would leave the field blank.
_NO_AXIS = ""


def queue_trial(study: optuna.Study, values: Mapping[str, Value]) -> Configuration:
    """Make a configuration the next trial of a study that nobody writes now.

    `run_study` runs it before it asks the strategy; it counts as budget then.

    Args:
        study: made by `run_study`.
        values: one per active parameter; those of inactive ones are dropped.

    Returns:
        The configuration with fixed values, without inactive parameters.

    Raises:
        StudyError: a driver holds the study, or the configuration was tried or queued before.
        SpaceError: a value is missing or wrong.
    """
    holder = lease_holder(study)
    if holder is not None:
        message = f"study {study_name(study)!r} is being written by {holder}: stop it, then queue"
        raise StudyError(message)

    if is_superseded(study):
        name = study_name(study)
        message = f"study {name!r} has gone on in another version: open that, then queue"
        raise StudyError(message)

    # Optuna enqueues searched parameters; the record has fixed values too.
    space = study_space(study)
    configuration = space.complete(values)
    searched_names = {parameter.name for parameter in space.searched}
    searched = {name: configuration[name] for name in configuration if name in searched_names}

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
        study: made by `run_study`, with at least three completed trials. It is only written when
            the shown configuration is queued.

    Raises:
        ValueError: there are fewer completed trials.
        StudyError: another program made the study, which has no space.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
        >>> options = {"name": "doc", "storage": "memory", "workers": 0}
        >>> study = run_study(lambda c: c["lr"] ** 2, space, "random", 5, **options)
        >>> explorer = SurrogateExplorer(study)  # as the last line of a cell: shows it
        >>> explorer.sliders["lr"].value == study.best_params["lr"]
        True
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._fitted: FittedStudy = fitted_study(study)
        self._layouts: dict[tuple[str, ...], Any] = {}
        self._is_adjusting = False

        axes = self._make_axes()
        sliders = self._make_sliders()
        buttons = self._make_buttons()
        self.image = self.make_image()
        self.expected = Label()
        self.status = Label()

        self._show_incumbent()
        self._connect()
        rows = [axes, self.image, sliders, self.expected, buttons, self.status]
        super().__init__(rows, 920)

    def _make_axes(self) -> HBox:
        """Make the fields that choose what is varied and what is drawn of it."""
        names = [(name, name) for name in self._fitted.names]
        scales = [("logarithm", "log EI"), ("as it is", "EI")]

        dropdown = partial(make_field, Dropdown, width=290)
        self.x = dropdown("Horizontal axis", options=names)
        self.y = dropdown("Vertical axis", options=[("(none)", _NO_AXIS), *names])
        self.acquisition = dropdown("Improvement", options=scales)
        return HBox([self.x, self.y, self.acquisition])

    def _make_sliders(self) -> GridBox:
        """Make a slider per hyperparameter, in two columns."""
        self.sliders: dict[str, Any] = {}
        for name in self._fitted.names:
            options = slider_options(self._fitted.space[name])
            self.sliders[name] = make_slider(SelectionSlider, name, options)

        return GridBox(list(self.sliders.values()), layout=TWO_COLUMNS)

    def _make_buttons(self) -> HBox:
        self.to_incumbent = Button(description="Go to incumbent")
        self.refresh = Button(description="Fit again")
        self.queue = Button(description="Queue as next trial", button_style="primary")
        return HBox([self.to_incumbent, self.refresh, self.queue])

    def _connect(self) -> None:
        controls = [self.x, self.y, self.acquisition]
        for control in (*controls, *self.sliders.values()):
            control.observe(self._on_change, "value")

        self.to_incumbent.on_click(self._show_incumbent)
        self.refresh.on_click(self._refit)
        self.queue.on_click(self._queue_shown)

    @property
    def configuration(self) -> Configuration:
        """Return what the sliders show: without inactive parameters, with fixed ones."""
        return self._fitted.space.complete(self._slider_values())

    def _slider_values(self) -> dict[str, Value]:
        """Return a value per searched parameter, active or not."""
        # Parameters with a single value have no slider.
        shown = {name: slider.value for name, slider in self.sliders.items()}
        return self._fitted.incumbent | shown

    @in_turn()
    def _on_change(self, _: object) -> None:
        if self._is_adjusting:
            return

        if self.y.value == self.x.value:
            # The change is reported again.
            self.y.value = _NO_AXIS
        else:
            self.redraw()

    def redraw(self) -> None:
        """Draw the slice, and predict the configuration that the sliders show."""
        names = [self.x.value]
        if self.y.value != _NO_AXIS:
            names.append(self.y.value)
        data = slice_data(self._fitted, names, self._slider_values())
        acquisition = self.acquisition.value
        # Figures of the same axes share their layout.
        layout = self._layouts.setdefault((*names, acquisition), [])
        axes = plot_slice(data, acquisition=acquisition)
        self.show_figure(axes, f"what the surrogate expects along {' and '.join(names)}", layout)

        configuration = self.configuration
        mean, std = self._fitted.surrogate.predict([configuration])
        text = f"Expected here: {mean[0]:.4f} ± {std[0]:.4f} (best mean {data.best:.4f})"
        inactive = sorted(set(self.sliders) - set(configuration))
        if inactive:
            text += f"; inactive here: {', '.join(inactive)}"
        self.expected.value = escape_mathjax(text)

    @in_turn()
    def _show_incumbent(self, _: object = None) -> None:
        """Move all sliders to the incumbent."""
        self._is_adjusting = True
        for name, slider in self.sliders.items():
            # The incumbent's value need not be one of the 101 points.
            value = self._fitted.incumbent[name]
            slider.options = slider_options(self._fitted.space[name], [value])
            slider.value = value

        self._is_adjusting = False
        self._on_change(None)

    @in_turn()
    def _refit(self, _: object) -> None:
        """Fit the surrogate to the trials that have completed by now."""
        self._fitted = fitted_study(self.study)
        self._on_change(None)
        n_trials = len(self._fitted.surrogate.model.X_)
        self.status.value = f"Fitted to {n_trials} completed trials."

    @in_turn()
    def _queue_shown(self, _: object) -> None:
        try:
            queue_trial(self.study, self._slider_values())
        except StudyError as error:
            self.status.value = escape_mathjax(f"Not queued: {error}")
            return

        text = "Queued: it is the first trial when the study goes on."
        if stop_reason(self.study) == "budget spent":
            n_trials = len(own_trials(self.study))
            text += f" Its budget is spent: give it more than {n_trials} trials."
        self.status.value = text
