from __future__ import annotations

import pytest

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
