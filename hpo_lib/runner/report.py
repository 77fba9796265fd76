"""Write a run as one page that loads nothing: its findings, then its executed notebooks."""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import jinja2
import nbformat
import nh3
from nbconvert.exporters.html import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from hpo_lib.exceptions import RunError
from hpo_lib.files import atomic_write_text
from hpo_lib.formatting import keep_together
from hpo_lib.runner.record import RunRecord, read_findings

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
{%- block data_widget_view -%}{%- endblock -%}
{%- block footer -%}{%- endblock -%}
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
_STYLES = {
    "background-color",
    "border-left",
    "color",
    "font-style",
    "font-weight",
    "padding-left",
    "text-align",
}

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


# Figures of the first page: the file below `figures/` and its caption.
_FIRST_FIGURES = (
    ("test_errors.png", "Test error of the default and of the tuned configuration by seed"),
    ("comparison_trials.png", "Best validation error so far of each strategy, median over seeds"),
    ("ablation.png", "From the default to the best configuration, one hyperparameter at a time"),
)


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write `report.html` from the record of a run and the files in its folder.

    The first page shows `findings.json`, as notebook 07 writes it, and the main figures.

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
    try:
        findings, no_findings = read_findings(folder), ""
    except RunError as error:
        findings, no_findings = (), str(error)

    # No other script may run and nothing be fetched, whatever a notebook prints.
    script_hash = b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["keep_together"] = keep_together
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        run=record,
        name=folder.name,
        findings=findings,
        no_findings=no_findings,
        figures=list(_first_figures(folder)),
        sections=sections,
        script=_SCRIPT,
        script_hash=script_hash,
        highlighting=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )
    path = folder / "report.html"
    atomic_write_text(path, page)
    return path


def _first_figures(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the figures of the first page that the notebooks have written."""
    for name, caption in _FIRST_FIGURES:
        path = folder / "figures" / name
        if path.is_file():
            content = b64encode(path.read_bytes()).decode()
            yield {"caption": caption, "content": content}


def _section(copy: Path) -> dict[str, str]:
    """Return the title of an executed notebook and its cells as HTML; empty if it never began."""
    if not copy.exists():
        return {"title": copy.stem, "html": ""}

    book = nbformat.read(copy, as_version=4)
    _name_figures(book)
    texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    title = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)

    html: str = _exporter().from_notebook_node(book)[0]
    # The other notebooks are sections of the page.
    html = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb"', r'href="#\1"', html)
    return {"title": title[1] if title else copy.stem, "html": html}


def _exporter() -> HTMLExporter:
    """Return the exporter of cells, without papermill's notes on an error."""
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.ERROR)  # it warns of pictures without a description
    tags = {"enabled": True, "remove_cell_tags": {"papermill-error-cell-tag"}}
    exporter = HTMLExporter(
        config=Config(
            TagRemovePreprocessor=tags,
            CoalesceStreamsPreprocessor={"enabled": True},  # one list of messages per cell
        ),
        template_name="basic",
        raw_template=_CELLS,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        log=quiet,
    )
    exporter.register_filter("sanitise", _sanitise)
    return exporter


def _sanitise(html: str) -> str:
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


def _name_figures(book: nbformat.NotebookNode) -> None:
    """Describe the pictures of each cell by the heading above it."""
    heading = ""
    for cell in book.cells:
        headings = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "code":
            cell.metadata.alt = f"figure: {heading}"
        elif headings:
            heading = headings[-1]
