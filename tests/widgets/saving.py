"""Wait for what JupyterLab writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ATTEMPTS = 600


def save(page: Any, notebook: Path, text: str) -> None:
    """Save the notebook of a page, until its file holds a text."""
    page.keyboard.press("Control+s")
    # `wait_for_function` does not wait for promises.
    for _ in range(_ATTEMPTS):
        if text in notebook.read_text():
            return
        page.wait_for_timeout(100)
    message = f"{notebook} was not saved with {text!r}"
    raise AssertionError(message)
