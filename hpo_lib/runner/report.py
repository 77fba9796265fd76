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
from nbconvert.exporters.html import HTMLExporter
from pygments.formatters import HtmlFormatter

from hpo_lib.files import atomic_write_text

_WIDGET = "application/vnd.jupyter.widget-view+json"

_CELLS = """
{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock -%}
{%- block stream_stderr -%}
<details class="messages"><summary>messages</summary>{{ super() }}</details>
{%- endblock -%}
{%- block data_javascript -%}{%- endblock -%}
"""

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
    html: str = exporter.from_notebook_node(book)[0]
    # What is not in the page is not shown; the other notebooks are.
    html = re.sub(r'\bsrc="(?!data:)', 'data-src="', html)
    html = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb"', r'href="#\1"', html)
    return {"title": heading[1] if heading else copy.stem, "html": html}


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
