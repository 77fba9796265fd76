"""The report of a run folder that somebody sent: its notebooks may hold any HTML."""

from __future__ import annotations

from base64 import b64decode
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from hpo_lib.assessment.finding import Finding, Findings, Status
from hpo_lib.runner.record import NotebookRun, RunRecord
from hpo_lib.runner.report import write_report

MARKUP = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>")
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(3)'><script>alert(4)</script></svg>"
LEAVING = f"""
<meta http-equiv="refresh" content="0; url=https://example.org/left">
<base href="https://example.org/"><link rel="stylesheet" href="https://example.org/x.css">
<script>alert(5)</script><style>body {{display: none}}</style>
<img src="https://example.org/x.png" srcset="//example.org/y.png" onerror="alert(6)">
<body onload="alert(7)"><iframe src="javascript:alert(8)"></iframe>
<form action="https://example.org/"><input name="q" autofocus onfocus="alert(9)"></form>
<a href="javascript:alert(10)">one</a> <a href=" JaVaScRiPt:alert(11)">two</a>
<a href="data:text/html,<script>alert(12)</script>">three</a>
<blockquote cite="javascript:alert(13)">quoted</blockquote>
<div id="all-code" style="position: fixed; inset: 0; background: url(//example.org/z)">over</div>
<math><mtext><table><mglyph><style><img src=x onerror=alert(14)></style></mglyph></table></mtext>
</math>
{SVG}<svg><style><a id="</style><img src=x onerror=alert(15)>"></a></style></svg>
</div></div></section></main>"""


def hostile_report(folder: Path) -> str:
    markdown = nbformat.v4.new_markdown_cell
    code = nbformat.v4.new_code_cell
    display = nbformat.v4.new_output
    table = pd.DataFrame({"error": [0.25]}, ["good row"]).to_html()
    good = [
        display("display_data", {"text/html": table}),
        display("display_data", {"image/png": PIXEL}),
        display("display_data", {"image/svg+xml": SVG}),
        display("stream", name="stdout", text="<b>plain text</b>"),
    ]
    bad = [
        display("display_data", {"text/html": LEAVING}),
        display("display_data", {"text/markdown": LEAVING}),
        display("display_data", {"text/latex": LEAVING}),
        display("display_data", {"image/png": f'x" onerror="alert(16)">{LEAVING}'}),
        display("display_data", {"application/javascript": "alert(17)"}),
        display("display_data", {"text/html": "<!-- never closed <textarea><plaintext>"}),
    ]
    tags = {"tags": ['x" onclick="alert(18)']}
    raw = nbformat.v4.new_raw_cell(LEAVING, metadata={"raw_mimetype": "text/html"})
    cells = [
        markdown(f"# Title {LEAVING}"),
        markdown(f"[four](javascript:alert(19))\n\n{LEAVING}"),
    ]
    cells += [raw, code("x = 1  # </pre><script>", outputs=bad, metadata=tags)]
    cells += [markdown("## After\n\nSee [two](02_two.ipynb).\n\n| a | b |\n|--|--:|\n| 1 | 2 |")]
    cells += [code("def good():\n    return 1", outputs=good)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01_one.ipynb")
    return written_report(folder)


def written_report(folder: Path) -> str:
    run = NotebookRun("ok", started="now", seconds=1.0, parameters={MARKUP[0]: MARKUP[1]})
    record = RunRecord(
        profile=MARKUP[0],
        notebooks={"01_one": run},
        versions={MARKUP[0]: MARKUP[1]},
        device={"processor": MARKUP[0], "cores": 1, "gpus": [MARKUP[1]]},
        git=None,
        started="2026-01-01T00:00:00",
        status="ok",
        seconds=1.0,
    )
    path = write_report(folder, record)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    return hostile_report(tmp_path_factory.mktemp("hostile"))


def test_nothing_in_the_report_acts_loads_or_leaves_it(hostile):
    page = BeautifulSoup(hostile, "html.parser")
    assert len(page.find_all("script")) == 1
    assert len(page.find_all("meta")) == 3
    assert len(page.find_all("style")) == 1
    assert not page.find_all(["base", "body", "form", "iframe", "input", "link", "math"])[1:]
    for tag in page.find_all():
        assert_harmless(tag)


def assert_harmless(tag: Tag) -> None:
    assert [name for name in tag.attrs if name.startswith("on")] == []
    assert not set(tag.attrs) & {"action", "background", "cite", "data", "srcdoc", "srcset"}
    assert str(tag.get("src", "data:image/")).startswith("data:image/")
    assert str(tag.get("href", "#")).startswith(("#", "http"))
    assert not {"position", "url", "inset"} & set(str(tag.get("style", "")).split(":"))


def test_what_a_notebook_shows_stays_in_the_report(hostile):
    page = BeautifulSoup(hostile, "html.parser")
    after = page.find(id="After")
    assert after is not None
    assert "good row" in [cell.get_text() for cell in after.find_all_next("th")]
    assert after.find_next("a", href="#02_two")
    assert after.find_next("td", style=True)["style"].replace(" ", "") == "text-align:right"
    kinds = [str(image["src"]).split(";")[0] for image in after.find_all_next("img")]
    assert kinds == ["data:image/png", "data:image/svg+xml"]
    assert [word.get_text() for word in after.find_all_next("span", class_="k")] == [
        *("def", "return")
    ]
    assert "<b>plain text</b>" in after.find_parent("section").get_text()


def first_page(folder: Path) -> Tag:
    return BeautifulSoup(hostile_report(folder), "html.parser").find(class_="first")


def test_the_first_page_says_what_was_found_and_escapes_it(tmp_path):
    found = [
        Finding("Was it worth it?", Status.PASS, f"Yes. {MARKUP[0]}"),
        Finding("At an edge?", Status.CANT_SAY, "Perhaps."),
    ]
    Findings(found).save(tmp_path / "findings.json")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "test_errors.png").write_bytes(b64decode(PIXEL))
    page = first_page(tmp_path)
    assert [item.get_text() for item in page.find_all(class_="verdict")] == ["PASS", "CAN'T SAY"]
    assert MARKUP[0] in page.find(class_="findings").get_text()
    assert [image["src"][:15] for image in page.find_all("img")] == ["data:image/png;"]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "notebook 07 writes them"), ("[1]", "must hold findings")]
)
def test_the_first_page_says_why_there_are_no_findings(content, words, tmp_path):
    if content is not None:
        (tmp_path / "findings.json").write_text(content)
    assert words in first_page(tmp_path).find(id="findings").get_text()


def plain_report(folder: Path) -> str:
    """Write the report of a run with findings, three figures, messages and a wide table."""
    for name, height in (("test_errors", 4), ("comparison_trials", 3), ("ablation", 2)):
        path = folder / "figures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure = plt.figure(figsize=(6, height))
        figure.savefig(path)
    sentence = "By 5.7 % (p = 0.19; gain of 0.1 ± 0.04)."
    found = Findings([Finding("Was it worth it?", Status.PASS, sentence)])
    found.save(folder / "findings.json")

    stream = partial(nbformat.v4.new_output, "stream")
    wide = pd.DataFrame([range(40)], columns=[f"column_{i}" for i in range(40)]).to_html()
    outputs = [
        stream(name="stderr", text="[1/2] half\n"),
        stream(name="stderr", text="[2/2] whole\n"),
        stream(name="stdout", text="a conclusion " * 40),
        nbformat.v4.new_output("display_data", {"text/html": wide}),
        nbformat.v4.new_output("display_data", {"text/html": found.to_html()}),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# One\n\n" + "words " * 3000),
        nbformat.v4.new_code_cell("x = 1  # " + "long " * 60, outputs=outputs),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01_one.ipynb")
    return written_report(folder)


def test_messages_that_follow_each_other_are_one(tmp_path):
    page = BeautifulSoup(plain_report(tmp_path), "html.parser")
    (messages,) = page.find_all("details", class_="messages")
    assert "[1/2] half\n[2/2] whole" in messages.get_text()


def test_a_number_and_its_unit_stay_on_one_line(tmp_path):
    page = plain_report(tmp_path)
    sentence = "By 5.7\N{NBSP}% (p\N{NBSP}=\N{NBSP}0.19; gain of 0.1\N{NBSP}±\N{NBSP}0.04)."
    assert page.count(sentence) == 2  # on the first page, and where the notebook shows it


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1366, 390])
def test_the_report_fits_the_window(page, tmp_path, width):
    plain_report(tmp_path)
    page.set_viewport_size({"width": width, "height": 768})
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#all-code").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width

    # No hole among the figures: the first one has a row of its own, or each of them.
    boxes = [figure.bounding_box() for figure in page.locator(".figures figure").all()]
    tops = [round(box["y"]) for box in boxes]
    assert len(set(tops)) == (2 if width == 1366 else 3)
    assert tops == sorted(tops)
    assert tops[0] < tops[1]

    # The navigation stays in sight, and text wraps.
    page.evaluate("window.scrollTo(0, 3000)")
    assert page.evaluate("window.scrollY") > 2000
    assert page.locator(".navigation").bounding_box()["y"] == 0
    text = page.get_by_text("a conclusion").first
    assert text.evaluate("e => e.scrollWidth <= e.clientWidth")


@pytest.mark.browser
@pytest.mark.slow
def test_the_report_runs_nothing_and_stays_where_it_is(page, tmp_path):
    hostile_report(tmp_path)
    dialogs, requested = [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requested.append(request.url))
    address = (tmp_path / "report.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for text in ("one", "two", "three", "four"):
        for link in page.locator("main").get_by_text(text, exact=True).all():
            link.click(timeout=2000)
    page.wait_for_timeout(500)
    assert dialogs == []
    assert page.url.split("#")[0] == address
    assert [url for url in requested if not url.startswith("data:")] == [address]
    page.locator("#all-code").click()
    assert page.locator("#all-code").get_attribute("aria-pressed") == "true"
