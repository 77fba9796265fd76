"""Say in HTML what a comparison of recorded studies shows, with its test, n and intervals."""

from __future__ import annotations

from os.path import commonprefix
from typing import Any

import pandas as pd
from jinja2 import Template
from markupsafe import Markup

from hpo_lib.assessment.finding import Findings
from hpo_lib.assessment.strategies import strategies_finding
from hpo_lib.comparison.hypothesis_tests import LEVEL, describe_need, separations
from hpo_lib.comparison.statistics import summary
from hpo_lib.comparison.studies import Grouped, space_differences
from hpo_lib.formatting import count, format_number
from hpo_lib.plots.comparison import plot_comparison, plot_final_values
from hpo_lib.plots.style import AxesArray, panels
from hpo_lib.trials import StudyRecord
from hpo_lib.widgets.front_end import frame_html

# As many groups stand side by side with their names below each other.
_MOST_IN_A_ROW = 3

_TABLES = Template(
    """{{ finding }}
{% for title, text, table in sections %}
<b>{{ title }}</b>{% if text %} · {{ text }}{% endif %}
<div class='hpo-table' {% if table %}tabindex='0'{% endif %}>{{ table }}</div>
{% endfor %}""",
    autoescape=True,
)

_FINALS = "lower is better; q25 and q75 are quartiles"
_TEST = (
    "Wilcoxon's signed-rank test on the final values, paired by seed; p is corrected by Holm for "
    "the number of pairs, the interval is Wilson's (95 %)"
)


def comparison_tables(frame: pd.DataFrame, groups: Grouped) -> str:
    """Return HTML: what can be separated, the final values, and how the spaces differ.

    Args:
        frame: the comparison, of two labels at least.
        groups: its studies.
    """
    pairs = frame_html(_pairs_table(frame), index=False)
    finals = frame_html(summary(frame).rename_axis(None))
    sections = [
        ("Pairs", _TEST, Markup(pairs)),
        ("Final values", _FINALS, Markup(finals)),
        _describe_spaces(groups),
    ]
    finding = Findings([strategies_finding(frame)])
    return _TABLES.render(finding=Markup(finding.to_html()), sections=sections)


def _pairs_table(frame: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for pair in separations(frame).to_dict("records"):
        interval = f"{pair['low']:.2f} to {pair['high']:.2f}"
        row = {
            "A": pair["a"],
            "B": pair["b"],
            "result": _result(pair),
            "seeds": pair["n_seeds"],
            "P(A ends below B)": f"{pair['probability']:.2f} ({interval})",
            "median A − B": pair["median_difference"],
            "p": format_number(pair["p"], 2),
            "it would take": "" if pair["p"] <= LEVEL else describe_need(pair),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _result(pair: dict[Any, Any]) -> str:
    if not pair["p"] <= LEVEL:
        return "CAN'T SAY"
    better = "A" if pair["effect"] < 0 else "B"
    return f"PASS: {better} ends below"


def _describe_spaces(groups: Grouped) -> tuple[str, str, Markup]:
    """Return title, text and table of the differences between the search spaces."""
    known = {
        label: several for label, several in groups.items() if StudyRecord.of(several[0]).space
    }
    others = [label for label in groups if label not in known]
    text = f"other programs made {', '.join(others)}: no space is recorded. " if others else ""
    if len(known) < 2:
        return "Search spaces", text or "none is recorded", Markup("")

    differences = space_differences(known)
    if differences.empty:
        return "Search spaces", f"{text}no difference", Markup("")
    return "Search spaces", f"{text}what differs", Markup(frame_html(differences))


def describe_comparison(frame: pd.DataFrame) -> str:
    """Return one line: how many seeds of each label, after how many trials."""
    parts: list[str] = []
    studies: Any = frame.groupby("strategy", sort=False)
    for label, rows in studies:
        ends = rows.groupby("seed")["trial"].max()
        lowest, highest = int(ends.min()), int(ends.max())
        trials = f"{lowest:,} to {highest:,}" if lowest < highest else f"{highest:,}"
        parts.append(f"{label}: {count(len(ends), 'seed')}, {trials} trials")
    return "; ".join(parts)


def objectives_differ(groups: Grouped) -> bool:
    """Return whether studies were recorded with different objectives or lengths of a training."""
    records = [StudyRecord.of(study) for several in groups.values() for study in several]
    kinds = [
        (record.settings.get("objective"), record.settings.get("budget")) for record in records
    ]
    return any(kind != kinds[0] for kind in kinds)


def plot_studies(frame: pd.DataFrame, by: Any) -> AxesArray:
    """Draw the any-time curves of a comparison and its final values.

    Args:
        frame: the comparison.
        by: what a budget is: "trial" or "seconds".
    """
    labels = frame["strategy"].unique()
    is_small = len(labels) <= _MOST_IN_A_ROW
    # Words that all labels begin with tell nothing apart.
    n_shared = commonprefix(list(labels)).rfind(" ") + 1  # noqa: RUF071 (characters are meant)
    frame = frame.assign(strategy=frame["strategy"].str[n_shared:])
    columns, width, height = (2, 4.6, 3.4) if is_small else (1, 9.2, 3.2)
    axes = panels(2, columns, width, height)
    plot_comparison(frame, by, ax=axes[0])
    plot_final_values(frame, ax=axes[1])
    for ax in axes:
        # The label is longer than these axes are high.
        ax.yaxis.label.set_size("small")
    return axes
