"""Talk to a front end: one message at a time, and text that is only text."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from anywidget import AnyWidget
from IPython.display import display
from jinja2 import Template
from traitlets import Float, Unicode

from hpo_lib.formatting import format_number
from hpo_lib.progress import is_watched

NO_MATHJAX = "mathjax_ignore tex2jax_ignore"
"""CSS classes of an HTML element whose text MathJax leaves as it is."""

PANEL = "hpo-panel"
"""CSS class of a widget's outermost box."""

_STATIC = Template(
    """<style>
[data-jp-theme-light='false'] .hpo-figure {filter: invert(0.93) hue-rotate(180deg)}
.jp-OutputArea:has(.hpo-panel) > :has(.hpo-static),
.jp-OutputArea:has(.hpo-static) > * > .jupyter-widgets:not(:has(*)) {display: none}
</style>
<div class='hpo-static'>{{ content | safe }}</div>"""
)
_IDLE_SECONDS = 1.0

_MAX_ROWS = 60
_LOCK = threading.RLock()


@contextmanager
def in_turn() -> Generator[None]:
    """Handle one message of the page at a time; a kernel receives them in several threads."""
    with _LOCK:
        yield


def escape_mathjax(text: str) -> str:
    r"""Escape text for a `Label` or a description, in which JupyterLab typesets `$...$`.

    Example:
        >>> print(escape_mathjax("$lr$"))
        \$lr\$
    """
    # JupyterLab sets MathJax's `processEscapes`: `\$` and `\\` stand for the characters alone.
    return re.sub(r"([\\$])", r"\\\1", text)


class Page(AnyWidget):
    """Name the sliders and the figure in a box of class `PANEL`, and move the keyboard's focus.

    Attributes:
        figure: what the figure shows, for those who cannot see it.
        ratio: dots of the screen for each pixel of the page.
    """

    _esm = Path(__file__).with_name("page.js")
    _css = Path(__file__).with_name("page.css")

    figure = Unicode("figure").tag(sync=True)
    ratio = Float(1.0).tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self.add_class("hpo-page")

    def focus_on(self, selector: str) -> None:
        """Put the focus on the first element that a CSS selector finds, once it is there."""
        self.send({"focus": selector})

    def copy(self, text: str) -> None:
        """Put a text on the clipboard of the browser."""
        self.send({"copy": text})

    def download(self, name: str, text: str) -> None:
        """Let the browser save a text as a file.

        Args:
            name: of the file.
            text: its content.
        """
        self.send({"download": name, "text": text})


class Displayed:
    """Show a widget, and below it what a page without its kernel shows instead."""

    _handle: Any = None
    _timer: threading.Timer | None = None

    def static_html(self) -> str:
        """Return what stands for the widget now, as HTML."""
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        if not is_watched():
            # IPython goes on to `_repr_mimebundle_`.
            raise NotImplementedError

        widget: Any = self
        display(widget._repr_mimebundle_(), raw=True)
        self._handle = display(self._static_output(), raw=True, display_id=True)

    def _static_output(self) -> dict[str, str]:
        html = _STATIC.render(content=self.static_html())
        return {"text/html": html, "text/plain": ""}

    def keep_last(self) -> None:
        """Renew what a page without the kernel shows, once nothing has changed for a second."""
        if self._handle is None:
            return
        if self._timer is not None:
            self._timer.cancel()

        self._timer = threading.Timer(_IDLE_SECONDS, self._renew)
        self._timer.daemon = True
        self._timer.start()

    def _renew(self) -> None:
        with in_turn():
            self._handle.update(self._static_output(), raw=True)


def show_frame(
    frame: pd.DataFrame,
    digits: int = 3,
    *,
    index: bool = True,
) -> None:
    """Display a table whose names and values may come from anybody: all text is escaped.

    Args:
        frame: the table; of more than 60 rows the middle is left out.
        digits: significant digits of floating-point numbers.
        index: whether the names of the rows are shown.
    """
    options = _table_options(digits, index=index)
    html = frame_html(frame, digits, index=index)
    text = frame.to_string(**options)
    display({"text/plain": text, "text/html": html}, raw=True)


def frame_html(
    frame: pd.DataFrame,
    digits: int = 3,
    *,
    index: bool = True,
) -> str:
    """Return a table as HTML in which all text is escaped; the arguments are `show_frame`'s."""
    options = _table_options(digits, index=index)
    return frame.to_html(classes=NO_MATHJAX, escape=True, border=0, **options)


def _table_options(digits: int, *, index: bool) -> dict[str, Any]:
    return {
        "index": index,
        "na_rep": "",
        "max_rows": _MAX_ROWS,
        "float_format": partial(format_number, digits=digits),
    }


def show_widget(make: Callable[..., Any], *arguments: Any) -> None:
    """Display a widget; where it has too little to show, print why.

    Args:
        make: its class, such as `SurrogateExplorer`.
        *arguments: those of the class.
    """
    try:
        widget = make(*arguments)
    except ValueError as error:
        print(f"{make.__name__} is not shown: {error}")
    else:
        display(widget)
