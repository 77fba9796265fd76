"""Watch a study that runs beside the page, question its trials, pause and stop it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from ipywidgets import HTML, BoundedIntText, Button, HBox, Text, VBox
from jinja2 import Template

from hpo_lib.checks import check_name
from hpo_lib.exceptions import StudyError
from hpo_lib.progress import is_watched
from hpo_lib.study.background import BackgroundStudy, State, background_study
from hpo_lib.study.catalog import find_study
from hpo_lib.study.lease import lease_holder
from hpo_lib.study.storage import Storage, resolve_storage, storage_name
from hpo_lib.trials import StudyRecord, is_superseded, recorded_trials, study_name, study_space
from hpo_lib.widgets.base import Panel, make_field
from hpo_lib.widgets.front_end import in_turn
from hpo_lib.widgets.monitor_summary import (
    describe_study,
    failures_table,
    findings_summary,
    plot_progress,
)
from hpo_lib.widgets.trial_actions import TrialActions
from hpo_lib.widgets.trial_view import TrialView

REFRESH_SECONDS = 1.0

_RUNS_HERE = ("running", "paused", "stopping")

_STATUS = Template(
    """<div role='status' aria-live='polite' style='line-height: 1.4'>
<b>{{ name }}</b> · {{ activity }} · {{ summary }}</div>
{% for problem in problems %}
<div role='alert' class='hpo-problem'
  style='white-space: pre-wrap; margin: 4px 0; max-height: 130px; overflow: auto'
>⚠ {{ problem }}</div>
{% endfor %}""",
    autoescape=True,
)


class StudyMonitor(Panel):
    """Watch a study while it runs; with a `BackgroundStudy`, start, pause and stop it too.

    A study that another process runs, or nobody, is only read. Closing the page ends nothing: the
    study runs as long as its kernel, and a new monitor of that name takes the controls up again.

    Args:
        study: a name, a study, or a study that runs in this process.
        storage: where a study given by its name is.

    Raises:
        ValueError: the name is empty.
        StudyError: the storage cannot be read.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
        >>> options = {"name": "doc", "storage": "memory", "workers": 0}
        >>> study = run_study(lambda c: c["lr"] ** 2, space, "random", 5, **options)
        >>> monitor = StudyMonitor(study)  # as the last line of a cell: shows it
        >>> "5 of 5 trials have ended" in monitor.status.value
        True
    """

    # Also of a monitor whose arguments were refused.
    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        study: str | optuna.Study | BackgroundStudy,
        storage: Storage | None = None,
    ) -> None:
        self.background: BackgroundStudy | None = None
        self._study: optuna.Study | None = None
        self._absent = ""
        self._is_named = not isinstance(study, optuna.Study)
        if isinstance(study, optuna.Study):
            self._study = study
            self.name = study_name(study)
        else:
            self._find_study(study, storage)

        self._problem = ""
        self._drawn: object = None

        controls = self._make_controls()
        self._make_figures()
        super().__init__(
            [HBox(controls), self.status, self._figures],
            920,
        )
        self.refresh()

    def _find_study(self, study: str | BackgroundStudy, storage: Storage | None) -> None:
        """Find the storage of a study by its name, and what runs it in this process."""
        if isinstance(study, BackgroundStudy):
            self.background = study
            self.name = study.name
            storage = study.storage
        else:
            self.name = check_name(study)

        self._storage = resolve_storage(storage)
        # One that runs already is meant rather than another object of that name.
        self.background = background_study(self.name, storage) or self.background
        if self.background is None:
            self._absent = f"no study of that name in {storage_name(storage)}"

    def _make_controls(self) -> list[Any]:
        """Make the buttons and the status; return those that are shown, none where read-only."""
        self.start = self._make_button(
            "Start", "Begin, or go on where the record stands", self._start
        )
        self.pause = self._make_button(
            "Pause", "What runs ends its segment", BackgroundStudy.pause
        )
        self.stop = self._make_button(
            "Stop", "End now; resume goes on from checkpoints", BackgroundStudy.stop
        )
        self.trials = make_field(
            BoundedIntText,
            "trials",
            130,
            value=self._budget(),
            min=1,
            max=10**6,
        )
        asked_for = self.background.workers if self.background else ""
        self.workers = make_field(
            Text,
            "workers",
            230,
            value=str(asked_for) if isinstance(asked_for, int | str) else "",
            placeholder="2, or tcp://host:8786",
            continuous_update=False,
        )
        self.workers.observe(self._on_workers, "value")
        self.status = HTML()
        if self.background is None:
            return []
        return [
            self.start,
            self.pause,
            self.stop,
            self.trials,
            self.workers,
        ]

    def _budget(self) -> int:
        """Return the trials that were asked for, by the code or on a page before."""
        if self.background is None:
            return 1
        recorded = StudyRecord.of(self.study).n_trials if self.study else None
        return max(self.background.n_trials, recorded or 0)

    def _make_button(
        self,
        text: str,
        tooltip: str,
        action: Callable[[BackgroundStudy], None],
    ) -> Button:
        @in_turn()
        def on_click(_: object) -> None:
            self._problem = ""
            try:
                if self.background is not None:
                    action(self.background)
            except StudyError as error:
                self._problem = str(error)
            self.refresh()

        button = Button(description=text, tooltip=tooltip, layout={"width": "90px"})
        button.on_click(on_click)
        return button

    def _start(self, background: BackgroundStudy) -> None:
        background.n_trials = self.trials.value
        background.start()

    def _on_workers(self, change: dict[str, Any]) -> None:
        # A cluster may take a minute to answer, or not to.
        threading.Thread(
            target=self._resize,
            args=(change["new"],),
            daemon=True,
        ).start()

    def _resize(self, text: str) -> None:
        """Run on as many processes as the field says, or on the cluster at that address."""
        self._problem = ""
        try:
            workers = int(text) if text.strip().isdecimal() else text.strip()
            if self.background is not None:
                self.background.resize(workers)
        except (StudyError, ValueError, TypeError, ImportError) as error:
            self._problem = f"the workers stay as they were: {error}"

    def _make_figures(self) -> None:
        """Make the figures; they are hidden until drawn."""
        self.image = self.make_image()
        self.view = TrialView()
        self.actions = TrialActions(self.view, self.page)
        self.failures = HTML()
        self.findings = HTML()

        figures = [self.image, self.view, self.actions, self.failures, self.findings]
        self._figures = VBox(figures, layout={"display": "none"})

    @property
    def study(self) -> optuna.Study | None:
        """Return the study that is watched; None until it begins."""
        # Asked again until another process has made it, and when it goes on in another version.
        if self._study is None or (self._is_named and is_superseded(self._study)):
            self._study = find_study(self.name, self._storage)
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
                    # Other widgets of the kernel answer between two figures.
                    await asyncio.sleep(0.05)
            # Whatever the record holds, the page says so and tries again.
            except Exception as error:
                problem = f"the record cannot be read: {type(error).__name__}: {error}"
                self._show_status(None, problem)
            await asyncio.sleep(REFRESH_SECONDS)

    def _redraw(self) -> Iterator[None]:
        """Redraw in three steps, between which the caller may let others run."""
        with in_turn():
            study = self.study
            self._show_status(study)
            if study is None:
                return
            trials = recorded_trials(study)
            progress = [(t.number, t.outcome, len(t.record.validation_error)) for t in trials]
            # Trials are only ever added and extended, so these numbers tell any change.
            drawn = (StudyRecord.of(study).stopped, progress)
            if drawn == self._drawn:
                return
            self.show_figure(plot_progress(study), "incumbent and learning curves so far")

        yield

        with in_turn():
            # Studies of other programs have no space, and no axes.
            if StudyRecord.of(study).space:
                objective = self.background.objective if self.background else None
                n_weights = getattr(objective, "n_weights", None)
                self.view.show(trials, study_space(study), n_weights)
            self.actions.show(study)
            self._figures.layout.display = None
            self.failures.value = failures_table(study)

        yield

        with in_turn():
            self.findings.value = findings_summary(study)
            self._drawn = drawn

    def redraw(self) -> None:
        """Draw the figures again, though the record is as before."""
        self._drawn = None
        self.refresh()

    def _show_status(self, study: optuna.Study | None, unreadable: str = "") -> None:
        """Say what the study does, and enable the buttons that make sense now."""
        state = self.background.state if self.background else "not started"
        runs_here = state in _RUNS_HERE
        holder = lease_holder(study) if study is not None and not runs_here else None
        self._enable_controls(state, is_held=holder is not None)

        activity = self._activity(state, holder, is_begun=study is not None)
        summary = self._absent if study is None else describe_study(study)
        error = self.background.error if self.background else None
        failure = f"{type(error).__name__}: {error}" if error else ""
        text = _STATUS.render(
            name=self.name,
            activity=activity,
            summary=summary,
            problems=filter(None, [unreadable, self._problem, failure]),
        )
        self.status.value = text

    def _activity(self, state: State, holder: str | None, *, is_begun: bool) -> str:
        """Return in a few words who runs the study, or what was done to it here."""
        if holder is not None:
            return f"read-only: {holder} writes it"
        if self.background is None:
            return "read-only: nobody runs it now"
        # An earlier kernel may have begun it.
        return "not running" if is_begun and state == "not started" else state

    def _enable_controls(self, state: State, *, is_held: bool) -> None:
        runs_here = state in _RUNS_HERE
        can_resume = state in ("paused", "stopped", "failed")
        self.start.description = "Resume" if can_resume else "Start"
        self.start.disabled = is_held or state in ("running", "stopping")
        self.pause.disabled = state != "running"
        self.stop.disabled = state not in ("running", "paused")
        self.trials.disabled = is_held or runs_here
        self.workers.disabled = is_held
