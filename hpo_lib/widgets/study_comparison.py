"""Compare recorded studies side by side: curves, final values, tests and search spaces."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from ipywidgets import HTML, Box, Button, Checkbox, Dropdown, HBox
from jinja2 import Template

from hpo_lib.checks import check_member
from hpo_lib.comparison.statistics import equal_budgets
from hpo_lib.comparison.studies import Studies, group_frame, group_studies, join_frames
from hpo_lib.exceptions import StudyError
from hpo_lib.widgets.base import Panel, make_field
from hpo_lib.widgets.comparison_summary import (
    comparison_tables,
    describe_comparison,
    objectives_differ,
    plot_studies,
)
from hpo_lib.widgets.front_end import escape_mathjax, in_turn

_BUDGETS = [
    ("equal numbers of trials", "trial"),
    ("equal seconds", "seconds"),
    ("their own ends", "end"),
]

_STATUS = Template(
    """<div role='status' aria-live='polite' style='line-height: 1.4'>{{ text }}</div>
{% if problem %}<div role='alert' class='hpo-problem'>⚠ {{ problem }}</div>{% endif %}""",
    autoescape=True,
)


class StudyComparison(Panel):
    """Tick recorded studies, and see their curves, final values, tests and search spaces.

    Studies that differ in their seed alone are one line: `compare_studies` says which. What is
    shown comes from `compare_studies`, `separations` and `space_differences`.

    Args:
        studies: as for `compare_studies`: a storage or a folder, a list, or studies by label.
        ticked: labels that are ticked first; default: the first two.

    Raises:
        ValueError: there are fewer than two to compare, or a label is unknown.
        StudyError: the storage cannot be read.

    Example:
        >>> from hpo_lib import SearchSpace, run_study
        >>> space = SearchSpace.from_yaml("lr: {type: float, low: 0.1, high: 1.0}")
        >>> options = {"storage": "memory", "workers": 0, "progress": False}
        >>> narrow = space.fix(lr=0.1)
        >>> studies = {
        ...     "wide": run_study(lambda c: c["lr"], space, "random", 5, name="a", **options),
        ...     "held": run_study(lambda c: c["lr"], narrow, "random", 5, name="b", **options),
        ... }
        >>> comparison = StudyComparison(studies)  # as the last line of a cell: shows it
        >>> "1 seed cannot separate wide and held" in comparison.tables.value
        True
    """

    def __init__(self, studies: Studies, ticked: Sequence[str] = ()) -> None:
        self._source = studies
        self._frames: dict[str, pd.DataFrame] = {}
        self.groups = group_studies(studies)
        labels = list(self.groups)
        if len(labels) < 2:
            message = f"studies must be two or more to be compared, got {labels}"
            raise ValueError(message)
        for label in ticked:
            check_member("ticked", label, labels)

        self.boxes: dict[str, Checkbox] = {}
        self._list = Box()
        self._list.add_class("hpo-ticks")
        self.budget = make_field(Dropdown, "Compare at", 260, options=_BUDGETS)
        self.budget.observe(self._on_change, "value")
        self.again = Button(description="Read again", tooltip="Read what was recorded since")
        self.again.on_click(self._on_read)

        self.status = HTML()
        self.image = self.make_image()
        self.tables = HTML()
        self._offer(ticked or labels[:2])
        rows = [
            self._list,
            HBox([self.budget, self.again]),
            self.status,
            self.image,
            self.tables,
        ]
        super().__init__(rows, 940)
        self.redraw()

    @property
    def ticked(self) -> list[str]:
        """Return the labels that are ticked."""
        return [label for label, box in self.boxes.items() if box.value]

    def _offer(self, ticked: Sequence[str]) -> None:
        """Make a box for each label."""
        self.boxes = {
            label: Checkbox(
                description=escape_mathjax(label),
                value=label in ticked,
                indent=False,
            )
            for label in self.groups
        }
        for box in self.boxes.values():
            box.observe(self._on_change, "value")
        self._list.children = list(self.boxes.values())

    @in_turn()
    def _on_read(self, _: object) -> None:
        """Read all studies again; those that are ticked stay so."""
        ticked = self.ticked
        try:
            self.groups = group_studies(self._source)
        except (StudyError, ValueError) as error:
            self._tell("", str(error))
            return
        self._frames.clear()
        self._offer(ticked)
        self.redraw()

    def redraw(self) -> None:
        """Draw what is ticked."""
        try:
            frame = self.frame()
        except (StudyError, ValueError) as error:
            self.image.layout.display = "none"
            self.tables.value = ""
            self._tell("", str(error))
            return

        groups = {label: self.groups[label] for label in frame["strategy"].unique()}
        by = "seconds" if self.budget.value == "seconds" else "trial"
        text = f"incumbents and final values of {', '.join(groups)}"
        self.image.layout.display = None
        self.show_figure(plot_studies(frame, by), text)
        self.tables.value = comparison_tables(frame, groups)

        problem = ""
        if objectives_differ(groups):
            problem = "The objectives of these studies differ: compare their values with care."
        self._tell(describe_comparison(frame), problem)

    def frame(self) -> pd.DataFrame:
        """Return the comparison that is shown, as `compare_studies` would, at the chosen budget.

        Raises:
            ValueError: fewer than two studies are ticked, or one has no trial that has ended.
            StudyError: the record cannot be read.
        """
        ticked = self.ticked
        if len(ticked) < 2:
            message = "Tick two or more studies."
            raise ValueError(message)
        for label in ticked:
            if label not in self._frames:
                self._frames[label] = group_frame(label, self.groups[label])
        empty = [label for label in ticked if self._frames[label].empty]
        if empty:
            message = f"No trial has ended yet in: {', '.join(empty)}."
            raise ValueError(message)

        frame = join_frames(self._frames[label] for label in ticked)
        return frame if self.budget.value == "end" else equal_budgets(frame, self.budget.value)

    def static_html(self) -> str:
        """Return the figure and the tables as HTML."""
        return super().static_html() + self.tables.value

    def _tell(self, text: str, problem: str = "") -> None:
        self.status.value = _STATUS.render(text=text, problem=problem)
