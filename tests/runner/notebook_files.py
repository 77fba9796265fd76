"""Small notebooks to be read and run."""

from __future__ import annotations

from pathlib import Path

import nbformat

from hpo_lib.runner.notebooks import Notebook, read_notebook

PARAMETERS = """\
run_folder: str = "work"  # where files go
data: str = "digits"  # the source
n_trials: int = 20  # trials
lr: float = 0.1  # learning rate
verbose: bool = False  # more lines
seeds: list[int] = [0, 1]  # seeds
rates: list = [0.1]  # learning rates
limit: float | None = None  # seconds
free = 3  # without a type"""

COLLECTIONS = """\
names: list[str] = []
options: dict = {}
counts: dict[str, int] = {}"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook with a title, a parameters cell and code cells (markdown if it begins with #)."""
    book = nbformat.v4.new_notebook()
    book.cells.append(nbformat.v4.new_markdown_cell(f"# Do {path.stem}"))
    if parameters is not None:
        tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        book.cells.append(tagged)
    for cell in cells:
        make = nbformat.v4.new_markdown_cell if cell[0] == "#" else nbformat.v4.new_code_cell
        book.cells.append(make(cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def a_notebook(name: str = "01_one", parameters: str = PARAMETERS) -> Notebook:
    return read_notebook(write_notebook(Path(f"{name}.ipynb"), parameters=parameters))
