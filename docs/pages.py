"""Make pages of the site: the README, one for each section of the guide, and the reference.

MkDocs calls this, so that no text is written twice (`hooks` and `extensions` in mkdocs.yml).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {"index.md": readme.replace("](docs/", "](")}
    for path, text in {**pages, **guide_pages(), **reference_pages()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point the links to sections of the guide at their pages."""
    return re.sub(r"\]\((\.\./)?GUIDE\.md#([\w-]+)\)", r"](\1guide/\2.md)", markdown).replace(
        "](GUIDE.md)", "](guide/install.md)"
    )


def guide_pages() -> dict[str, str]:
    """Return one page per section, named as in the links to it."""
    guide = (ROOT / "docs" / "GUIDE.md").read_text(encoding="utf-8")
    pages: dict[str, str] = {}
    for section in re.split(r"^## ", guide, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        name = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        # A page lies one folder deeper than the guide, beside the other sections.
        text = re.sub(r"\]\((?!http|#)", "](../", section)
        pages[f"guide/{name}.md"] = "# " + re.sub(r"\]\(#([\w-]+)\)", r"](\1.md)", text)
    return pages


def reference_pages() -> dict[str, str]:
    """Return one page per package, with the public names that it defines."""
    names: dict[str, list[str]] = defaultdict(list)
    for package in ("", "plots"):
        folder = ROOT / "hpo_lib" / package
        stub = (folder / "__init__.pyi").read_text(encoding="utf-8")
        for module, name in re.findall(r"^from \.([\w.]+) import (\w+)", stub, re.MULTILINE):
            page = package or module.partition(".")[0]
            names[page].append(".".join(filter(None, ("hpo_lib", package, module, name))))

    return {
        f"reference/{page}.md": "\n\n".join([f"# {page}", *(f"::: {name}" for name in found)])
        for page, found in names.items()
    }


class ExamplesAsCode(Extension):
    """Shows what stands below "Example:" as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section, whose plural alone is read as code."""
        if obj.docstring is not None:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.MULTILINE)
