"""A run as one page: its executed notebooks in a single HTML file that loads nothing."""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import nh3
from nbconvert.exporters.html import HTMLExporter
from pygments.formatters import HtmlFormatter

from hpo_lib.files import atomic_write_text

_WIDGET = "application/vnd.jupyter.widget-view+json"

# Each cell is sanitised by itself: what one leaves open does not swallow those after it.
_CELLS = """
{%- extends 'basic/index.html.j2' -%}
{%- block any_cell -%}{{ super() | sanitise }}{%- endblock -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock -%}
{%- block stream_stderr -%}
<details class="messages"><summary>messages</summary>{{ super() }}</details>
{%- endblock -%}
{%- block data_javascript -%}{%- endblock -%}
"""

_TAGS = nh3.ALLOWED_TAGS - {"area", "map"} | {"g", "path", "rect", "svg", "tfoot"}
_WITH_CONTENT = {"iframe", "noscript", "script", "style", "template", "textarea", "title"}
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_ATTRIBUTES = {
    **nh3.ALLOWED_ATTRIBUTES,
    **{heading: {"id"} for heading in _HEADINGS},
    "*": {"aria-label", "class", "role", "style", "title"},
    "details": {"open"},
    "path": {"d", "fill", "stroke"},
    "rect": {"fill", "height", "width", "x", "y"},
    "svg": {"fill", "height", "width"},
}
_STYLES = {"background-color", "color", "font-style", "font-weight", "text-align"}

_SCRIPT = """
const codes = document.querySelectorAll('details.code');
const button = document.getElementById('all-code');
button.addEventListener('click', () => {
  const open = button.getAttribute('aria-pressed') !== 'true';
  codes.forEach(code => { code.open = open; });
  button.setAttribute('aria-pressed', open);
  button.textContent = open ? 'Hide all code' : 'Show all code';
});
"""


def write_report(folder: Path, record: dict[str, Any]) -> Path:
    """Write `report.html` from the record of a run and the notebooks in its folder."""
    sections = [
        {"name": name, **_section(folder / f"{name}.ipynb"), **entry}
        for name, entry in record["notebooks"].items()
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        run=record,
        name=folder.name,
        sections=sections,
        script=_SCRIPT,
        # No other script may run and nothing be fetched, whatever a notebook prints.
        script_hash=b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        highlighting=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )
    atomic_write_text(folder / "report.html", page)
    return folder / "report.html"


def _section(copy: Path) -> dict[str, str]:
    """The title of an executed notebook and its cells as HTML; empty when it never began."""
    if not copy.exists():
        return {"title": copy.stem, "html": ""}
    book = _prepared(nbformat.read(copy, as_version=4))
    texts = (cell.source for cell in book.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.ERROR)  # it warns of pictures without a description
    exporter = HTMLExporter(
        template_name="basic",
        raw_template=_CELLS,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        log=quiet,
    )
    exporter.register_filter("sanitise", sanitise)
    html: str = exporter.from_notebook_node(book)[0]
    html = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb"', r'href="#\1"', html)
    return {"title": heading[1] if heading else copy.stem, "html": html}


def sanitise(html: str) -> str:
    """Return the HTML without what acts, loads, leaves the page or lies over it.

    Text, tables, code, links to the web and to anchors, and pictures in `data:` addresses stay.
    """
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_WITH_CONTENT,
        attributes=_ATTRIBUTES,
        attribute_filter=_allowed_address,
        url_schemes={"data", "http", "https", "mailto"},
        filter_style_properties=_STYLES,
    )


def _allowed_address(_: str, attribute: str, value: str) -> str | None:
    """Return the value of an attribute, None for an address that may not stand there."""
    if attribute == "src":
        return value if value.startswith("data:image/") else None
    if attribute == "href":
        return None if value.strip().lower().startswith("data:") else value
    return None if attribute == "cite" else value


def _prepared(book: Any) -> Any:
    """Drop what needs a kernel and papermill's notes on an error; name pictures by headings."""
    book.metadata.pop("widgets", None)
    marked = "papermill-error-cell-tag"
    book.cells = [cell for cell in book.cells if marked not in cell.metadata.get("tags", [])]
    heading = ""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if _WIDGET not in out.get("data", {})]
            cell.metadata.alt = f"figure: {heading}"
        elif found := re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE):
            heading = found[-1]
    return book
