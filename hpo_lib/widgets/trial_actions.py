"""Explain, copy and annotate the trial that is chosen on the page, and save all trials as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from ipywidgets import HTML, Button, Dropdown, HBox, Text, VBox
from jinja2 import Template
from markupsafe import Markup

from hpo_lib.assessment.ablation import AblationPath, ablation_path
from hpo_lib.exceptions import StudyError
from hpo_lib.formatting import format_uncertain
from hpo_lib.space.yaml_io import format_configuration
from hpo_lib.study.catalog import check_not_superseded, trials_frame
from hpo_lib.study.storage import translate_storage_errors
from hpo_lib.trials import (
    Note,
    RecordedTrial,
    incumbent,
    read_notes,
    recorded_trials,
    study_name,
    write_note,
)
from hpo_lib.widgets.base import make_button, make_field
from hpo_lib.widgets.front_end import Page, frame_html, in_turn
from hpo_lib.widgets.trial_view import TrialView

_ANSWER = Template(
    """<div role='status' aria-live='polite' style='line-height: 1.4'>{{ text }}</div>
{% if table %}<div class='hpo-table' tabindex='0'>{{ table }}</div>{% endif %}
{% if copied %}<pre class='hpo-copied' tabindex='0'>{{ copied }}</pre>{% endif %}""",
    autoescape=True,
)


_STUDY: tuple[str, int | None] = ("the study", None)
"""Place of a note that is on no trial."""


class TrialActions(VBox):
    """Buttons for the chosen trial; without one, the incumbent is explained and copied.

    Args:
        view: where trials are chosen.
        page: what copies text and saves files for the kernel.
    """

    def __init__(self, view: TrialView, page: Page) -> None:
        self._view = view
        self._page = page
        self._study: optuna.Study | None = None

        self.explain = self._make_button(
            "Explain",
            "Which changes lead from the default to this trial",
            self._explain,
        )
        self.yaml = self._make_button(
            "Copy YAML",
            "Copy the configuration",
            partial(self._copy, "yaml"),
        )
        self.python = self._make_button(
            "Copy Python",
            "Copy the configuration",
            partial(self._copy, "python"),
        )
        self.csv = self._make_button(
            "Save CSV",
            "Save all trials as a table",
            self._save_csv,
        )
        buttons = HBox([self.explain, self.yaml, self.python, self.csv])

        self.place = make_field(
            Dropdown,
            "Note on",
            170,
            options=[_STUDY],
        )
        self.note = make_field(Text, "Note", 340)
        self.tags = make_field(
            Text,
            "Tags",
            180,
            placeholder="divided by commas",
        )
        self.write = self._make_button(
            "Write note",
            "Record note and tags",
            self._write,
        )
        fields = HBox([self.place, self.note, self.tags, self.write])

        self.answer = HTML()
        self.place.observe(self._on_place, "value")
        view.observe(self._on_select, "selected")
        super().__init__([buttons, fields, self.answer])

    def _make_button(
        self,
        text: str,
        tooltip: str,
        action: Callable[[optuna.Study], None],
    ) -> Button:
        def act() -> None:
            if self._study is not None:
                action(self._study)

        return make_button(text, act, text, self._say, tooltip=tooltip)

    def show(self, study: optuna.Study) -> None:
        """Act on a study, of which more trials may have ended than before."""
        is_new = self._study is None
        self._study = study
        if is_new:
            self._on_place(None)

    @in_turn()
    def _on_select(self, _: object) -> None:
        number = self._view.selected
        places = [_STUDY]
        # A number that was typed may be no trial that has ended.
        if self._view.details:
            places.append((f"trial {number}", number))
        self.place.options = places
        self.place.value = places[-1][1]
        self._say("")

    @in_turn()
    def _on_place(self, _: object) -> None:
        """Show the note that is written already."""
        if self._study is None:
            return
        note = read_notes(self._study).get(self.place.value, Note())
        self.note.value = note.text
        self.tags.value = ", ".join(note.tags)

    def _write(self, study: optuna.Study) -> None:
        check_not_superseded(study)
        words = [word.strip() for word in self.tags.value.split(",")]
        tags = tuple(dict.fromkeys(filter(None, words)))
        with translate_storage_errors(study_name(study)):
            write_note(study, self.place.value, Note(self.note.value, tags))
        self._say(f"Written to {self.place.label}.")

    def _trial(self, study: optuna.Study) -> RecordedTrial:
        """Return the chosen trial, otherwise the incumbent."""
        trials = recorded_trials(study)
        chosen = [trial for trial in trials if trial.number == self._view.selected]
        trial = chosen[0] if chosen else incumbent(trials)
        if trial is None:
            message = "no trial has ended well yet"
            raise StudyError(message)
        return trial

    def _explain(self, study: optuna.Study) -> None:
        trial = self._trial(study)
        path = ablation_path(study, configuration=trial.configuration)
        table = Markup(frame_html(path.table, 4, index=False))
        self._say(describe_path(path, f"trial {trial.number}"), table=table)

    def _copy(self, language: str, study: optuna.Study) -> None:
        trial = self._trial(study)
        text = format_configuration(trial.configuration, language)
        self._page.copy(text)
        # Where the browser refuses, the text is there to be selected.
        self._say(f"Trial {trial.number} copied:", copied=text)

    def _save_csv(self, study: optuna.Study) -> None:
        name = re.sub(r"[^\w.-]+", "_", study_name(study))
        self._page.download(f"{name}.csv", trials_frame(study).to_csv(index=False))
        self._say(f"Saved as {name}.csv where the browser puts files.")

    def _say(self, text: str, **others: Any) -> None:
        self.answer.value = _ANSWER.render(text=text, **others) if text else ""


def describe_path(path: AblationPath, end: str) -> str:
    """Return sentences: what the surrogate predicts to be gained, and by which changes.

    Args:
        path: from the default.
        end: what is at its end.
    """
    if len(path.steps) == 1:
        return f"{end.capitalize()} is the default."

    kind = "gain" if path.gain >= 0 else "loss"
    change = format_uncertain(abs(path.gain), path.gain_half)
    text = f"From the default to {end}, the surrogate predicts a {kind} of {change} (95 %)."
    if abs(path.gain) <= path.gain_half:
        return f"{text} That is not more than the uncertainty."
    if path.gain < 0:
        return text
    changes = ", ".join(path.needed) or "no change"
    return f"{text} {path.share:.0%} of it come with: {changes}."
