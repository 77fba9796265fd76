"""Hold findings: sentences with a status, shown as text and HTML and kept as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hpo_lib.files import atomic_write_text, user_path
from hpo_lib.formatting import keep_together

_WIDTH = 96
_INDENT = 11

# Colours that can be told from a white and from a black page.
_COLOURS = {"PASS": "#2e9e5b", "WARN": "#d9822b", "CAN'T SAY": "#8a8a8a"}
_BLOCK = "margin: 0 0 0.7em; padding-left: 0.7em; overflow-wrap: anywhere; line-height: 1.45"


class Status(StrEnum):
    """Verdict of a finding."""

    PASS = "PASS"
    """Shown by the data, and as one hopes."""
    WARN = "WARN"
    """Shown by the data, and something to act on."""
    CANT_SAY = "CAN'T SAY"
    """Not shown by the data, either way."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        topic: the question that it answers.
        status: whether the data show it.
        sentence: the answer, with its n and interval.
        figures: numbers behind the sentence; in JSON, those that are not finite become null.
    """

    topic: str
    status: Status
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=lambda: {})

    @property
    def first_sentence(self) -> str:
        """Return the sentence up to its first full stop."""
        return re.split(r"(?<=[.?!]) (?=[A-Z0-9])", self.sentence)[0]


class Findings(tuple[Finding, ...]):
    """All findings of a study, the most important question first.

    In a notebook, the last line of a cell shows them; `print` gives plain text.

    Example:
        >>> from hpo_lib.assessment.finding import Finding, Findings, Status
        >>> finding = Finding("Was it worth it?", Status.PASS, "Yes. By 2 points.")
        >>> print(Findings([finding]).headline())
        PASS       Was it worth it? Yes.
    """

    __slots__ = ()

    def __str__(self) -> str:
        blocks: list[str] = []
        indent = " " * _INDENT
        for finding in self:
            head = f"{finding.status:<{_INDENT}}{finding.topic}"
            body = textwrap.fill(
                finding.sentence,
                _WIDTH,
                initial_indent=indent,
                subsequent_indent=indent,
            )
            blocks.append(f"{head}\n{body}")
        return "\n".join(blocks)

    def to_html(self) -> str:
        """Return a block of HTML that wraps, with all text escaped."""
        return f"<div>{''.join(map(_to_html, self))}</div>"

    _repr_html_ = to_html

    def headline(self, n: int = 5) -> str:
        """Return the most important findings, a line each: the first one, warnings, then others.

        Args:
            n: largest number of lines.
        """
        return "\n".join(
            f"{finding.status:<{_INDENT}}{finding.topic} {finding.first_sentence}"
            for finding in self.most_important(n)
        )

    def most_important(self, n: int = 5) -> Findings:
        """Return the first finding, the warnings, and then others in their order.

        Args:
            n: largest number of findings.
        """
        rest = sorted(self[1:], key=lambda finding: finding.status != Status.WARN)
        return Findings([*self[:1], *rest][:n])

    def save(self, path: str | Path) -> None:
        """Write them as JSON, whole or not at all; missing folders are made."""
        path = user_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, self.to_json() + "\n")

    def to_json(self) -> str:
        """Return them as a JSON list."""
        # Scalars of numpy are unknown to pydantic.
        adapter = TypeAdapter(tuple[Finding, ...])
        text = adapter.dump_json(tuple(self), indent=1, fallback=lambda value: value.item())
        return text.decode()

    @classmethod
    def load(cls, path: str | Path) -> Findings:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        text = user_path(path).read_text(encoding="utf-8")
        try:
            return cls(TypeAdapter(list[Finding]).validate_json(text))
        except ValueError as error:
            message = f"{path} must hold findings as JSON: {error}"
            raise ValueError(message) from error


def _to_html(finding: Finding) -> str:
    border = f"border-left: 4px solid {_COLOURS[finding.status.value]}"
    head = f"<b>{escape(finding.status)}</b> · <b>{escape(finding.topic)}</b>"
    sentence = escape(keep_together(finding.sentence))
    return f'<p style="{_BLOCK}; {border}">{head}<br>{sentence}</p>'
