from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpo_lib.widgets import front_end
from hpo_lib.widgets.front_end import escape_mathjax


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("lr, 1e-3", "lr, 1e-3"),
        ("$x$", r"\$x\$"),
        (r"\(x\) \[y\]", r"\\(x\\) \\[y\\]"),
        (r"\begin{a}", r"\\begin{a}"),
        (r"\$", r"\\\$"),
    ],
)
def test_what_mathjax_would_typeset_is_escaped(text, escaped):
    assert escape_mathjax(text) == escaped


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_of_mistakes_can_be_read_in_both_themes():
    style = Path(front_end.__file__).with_name("page.css").read_text()
    light, dark = re.findall(r"hpo-problem {color: (#\w{6})", style)
    assert contrast(light, "#ffffff") >= 4.5
    assert contrast(dark, "#111111") >= 4.5
    assert contrast(light, "#111111") < 4.5  # one colour does not do
