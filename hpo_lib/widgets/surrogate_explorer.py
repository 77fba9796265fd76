"""Explore what the surrogate model expects of configurations that nobody has tried, and steer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import optuna
from ipywidgets import Dropdown, GridBox, HBox, Label, SelectionSlider

from hpo_lib.exceptions import SpaceError, StudyError
from hpo_lib.plots.surrogate_slice import FittedStudy, fitted_study, plot_slice, slice_data
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.values import Configuration, Value
from hpo_lib.study.background import change_space_of
from hpo_lib.study.catalog import check_not_superseded
from hpo_lib.study.lease import check_unheld
from hpo_lib.study.steering.held import best_given, incumbent_given
from hpo_lib.trials import (
    own_trials,
    recorded_trials,
    stop_reason,
    study_name,
    study_space,
)
from hpo_lib.widgets.base import (
    Panel,
    describe_going_on,
    make_button,
    make_field,
    make_lock,
)
from hpo_lib.widgets.front_end import escape_mathjax, in_turn

# A value of None would leave the field blank.
_NO_AXIS = ""

# One step of a slider is a percent of the range.
_GRID_POINTS = 101


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
        SpaceError: a value is missing or wrong, or another one is held in the study.
    """
    check_unheld(study)
    check_not_superseded(study)

    # Optuna enqueues searched parameters; the record has fixed values too.
    space = study_space(study)
    configuration = space.check(values)
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

    A value with its lock pressed is held: the study can go on with such values alone.

    Args:
        study: made by `run_study`, with at least three completed trials. It is only written when
            the shown configuration is queued, and when it is to go on with held values.

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
        self._fitted: FittedStudy = _fit(study)
        self._layouts: dict[tuple[str, ...], Any] = {}
        self._is_adjusting = False

        axes = self._make_axes()
        sliders = self._make_sliders()
        buttons = self._make_buttons()
        self.image = self.make_image()
        self.expected = Label()
        self.status = Label()

        self._move_to(self._fitted.incumbent)
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
        """Make a slider per hyperparameter, in two columns, each with its lock."""
        self.sliders: dict[str, Any] = {}
        self.locks: dict[str, Any] = {}
        held = {parameter.name for parameter in study_space(self.study).held}

        for name in self._fitted.names:
            options = _slider_options(self._fitted.space[name])
            self.sliders[name] = SelectionSlider(
                options=options,
                description=escape_mathjax(name),
                disabled=name in held,
                style={"description_width": "9.5rem"},
                layout={"width": "98%"},
            )
            self.locks[name] = make_lock(f"Hold {name}", locked=name in held)

        pairs = zip(self.sliders.values(), self.locks.values(), strict=True)
        return GridBox([HBox(pair) for pair in pairs], layout={"grid_template_columns": "50% 50%"})

    def _make_buttons(self) -> HBox:
        button = partial(make_button, tell=self._say, width=180)
        self.to_incumbent = button(
            "Go to incumbent",
            self._show_incumbent,
            "Not moved",
            tooltip="The best trial with the locked values; without one, the lowest prediction",
        )
        self.refresh = button(
            "Fit again",
            self._refit,
            "Not fitted",
            tooltip="To all trials that have ended",
        )
        self.queue = button(
            "Queue as next trial",
            self._queue_shown,
            "Not queued",
            tooltip="Try the shown values next",
            button_style="primary",
        )
        self.search = button(
            "Search with these held",
            self._search_held,
            "Not changed",
            tooltip="The study goes on under its name, with the locked values and no others",
        )
        return HBox(
            [
                self.to_incumbent,
                self.refresh,
                self.queue,
                self.search,
            ]
        )

    def _connect(self) -> None:
        controls = [self.x, self.y, self.acquisition]
        for control in (*controls, *self.sliders.values()):
            control.observe(self._on_change, "value")

        for name, lock in self.locks.items():
            lock.observe(partial(self._on_lock, name), "value")

    @property
    def held(self) -> dict[str, Value]:
        """Return the values that are locked."""
        locked = [name for name, lock in self.locks.items() if lock.value]
        return {name: self.sliders[name].value for name in locked}

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
    def _on_lock(self, name: str, change: dict[str, Any]) -> None:
        self.sliders[name].disabled = change["new"]

    def _given(self) -> dict[str, Value | None]:
        """Return the locked values, and None for what is to vary."""
        return {name: self.held.get(name) for name in self.sliders}

    def _say(self, text: str) -> None:
        self.status.value = escape_mathjax(text)

    def _show_incumbent(self) -> None:
        """Move the sliders without a lock to the best configuration with the locked values."""
        best = incumbent_given(self.study, **self._given())
        if best is not None:
            configuration = best.configuration
            text = f"Trial {best.number} is the best{self._with_held()}."
        else:
            found = best_given(self.study, **self._given())
            configuration = found.configuration
            text = f"No trial was made{self._with_held()}: the lowest prediction is shown."

        self._move_to({**self._fitted.incumbent, **configuration, **self.held})
        self._say(text)

    def _with_held(self) -> str:
        """Return the locked values as the end of a clause; empty where there are none."""
        texts = [f"{name} = {self.sliders[name].label}" for name in self.held]
        return f" with {', '.join(texts)}" if texts else ""

    def _move_to(self, values: Mapping[str, Value]) -> None:
        """Move all sliders, and draw once.

        Args:
            values: a value per slider.
        """
        self._is_adjusting = True
        for name, slider in self.sliders.items():
            # It need not be one of the 101 points.
            slider.options = _slider_options(self._fitted.space[name], [values[name]])
            slider.value = values[name]

        self._is_adjusting = False
        self._on_change(None)

    def _refit(self) -> None:
        """Fit the surrogate to the trials that have completed by now."""
        self._fitted = _fit(self.study)
        self._on_change(None)
        n_trials = len(self._fitted.surrogate.model.X_)
        self._say(f"Fitted to {n_trials} completed trials.")

    def _queue_shown(self) -> None:
        try:
            queue_trial(self.study, self._slider_values())
        except SpaceError as error:
            message = f"{error}. First search with these held."
            raise ValueError(message) from error

        text = "Queued: it is the first trial when the study goes on."
        if stop_reason(self.study) == "budget spent":
            n_trials = len(own_trials(self.study))
            text += f" Its budget is spent: give it more than {n_trials} trials."
        self._say(text)

    def _search_held(self) -> None:
        """Let the study go on with the locked values held, and no others."""
        if len(self.held) == len(self.sliders):
            message = "a hyperparameter must be left to vary, and all are locked"
            raise StudyError(message)
        space = study_space(self.study).fix(**self._given())
        changed = change_space_of(self.study, space)

        is_new = changed.study_name != self.study.study_name
        self.study = changed
        self._refit()
        self._say(self._describe_search(is_new=is_new))

    def _describe_search(self, *, is_new: bool) -> str:
        """Return where the study is searched now, and how it goes on."""
        name = study_name(self.study)
        where = self._with_held() or " with all values free"
        if not is_new:
            return f"Study {name!r} is searched{where} already: nothing was changed."

        fixed = ", ".join(f"{name}={value!r}" for name, value in self.held.items())
        how = describe_going_on(self.study, f"space.fix({fixed})")
        return f"Study {name!r} goes on{where}. {how}"


def _fit(study: optuna.Study) -> FittedStudy:
    """Fit the surrogate in the study's space, in which held hyperparameters vary, too."""
    space = study_space(study)
    held = [parameter.name for parameter in space.held]
    return fitted_study(study, space=space.release(*held))


def _slider_options(
    parameter: Parameter,
    extra: Sequence[Value] = (),
) -> list[tuple[str, Any]]:
    """Return the positions of a parameter's slider.

    Args:
        parameter: a choice has its options, a range 101 points of it.
        extra: values of a range that are positions too.
    """
    # As steps of the prior: evenly in the logarithm where the scale is one.
    values = parameter.grid_values(_GRID_POINTS)
    if isinstance(parameter, ChoiceParameter):
        return [(str(value), value) for value in values]

    numbers = cast("set[float]", {*values, *extra})
    return [(f"{number:.4g}", number) for number in sorted(numbers)]
