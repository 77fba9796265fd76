"""Write a run as one page: its executed notebooks in a single HTML file that loads nothing."""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from pathlib import Path

import jinja2
import nbformat
from nbconvert.exporters.html import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from hpo_lib.files import atomic_write_text
from hpo_lib.runner.record import RunRecord

_CELLS = """
{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock -%}
{%- block stream_stderr -%}
<details class="messages"><summary>messages</summary>{{ super() }}</details>
{%- endblock -%}
{%- block data_javascript -%}{%- endblock -%}
{%- block data_widget_view -%}{%- endblock -%}
{%- block footer -%}{%- endblock -%}
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


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write `report.html` from the record of a run and the notebooks in its folder.

    Args:
        folder: the folder of the run.
        record: its record, as `run.json` holds it.

    Returns:
        The path of the report.
    """
    sections = [
        {"name": name, **vars(run), **_section(folder / f"{name}.ipynb")}
        for name, run in record.notebooks.items()
    ]
    # No other script may run and nothing be fetched, whatever a notebook prints.
    script_hash = b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        run=record,
        name=folder.name,
        sections=sections,
        script=_SCRIPT,
        script_hash=script_hash,
        highlighting=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )
    path = folder / "report.html"
    atomic_write_text(path, page)
    return path


def _section(copy: Path) -> dict[str, str]:
    """Return the title of an executed notebook and its cells as HTML; empty if it never began."""
    if not copy.exists():
        return {"title": copy.stem, "html": ""}

    book = nbformat.read(copy, as_version=4)
    _name_figures(book)
    texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    title = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)

    html: str = _exporter().from_notebook_node(book)[0]
    # What is not in the page is not shown; the other notebooks are.
    html = re.sub(r'\bsrc="(?!data:)', 'data-src="', html)
    html = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb"', r'href="#\1"', html)
    return {"title": title[1] if title else copy.stem, "html": html}


def _exporter() -> HTMLExporter:
    """Return the exporter of cells, without papermill's notes on an error."""
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.ERROR)  # it warns of pictures without a description
    tags = {"enabled": True, "remove_cell_tags": {"papermill-error-cell-tag"}}
    return HTMLExporter(
        config=Config(TagRemovePreprocessor=tags),
        template_name="basic",
        raw_template=_CELLS,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        log=quiet,
    )


def _name_figures(book: nbformat.NotebookNode) -> None:
    """Describe the pictures of each cell by the heading above it."""
    heading = ""
    for cell in book.cells:
        headings = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "code":
            cell.metadata.alt = f"figure: {heading}"
        elif headings:
            heading = headings[-1]
