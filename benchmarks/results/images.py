"""Draws the report's figures as SVG files, in Debian's Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 860, 420


@contextmanager
def drawing() -> Iterator[Drawing]:
    """Open a browser page that draws plotly figures.

    Raises:
        SystemExit: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("the figures need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Its sandbox wants user namespaces, which containers mostly lack; only our own figures are opened.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<html><body></body></html>")
        page.add_script_tag(content=get_plotlyjs())
        yield Drawing(page)
        browser.close()


class Drawing:
    """Turns plotly figures into SVG."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def write(self, figure: Any, file: Path) -> None:
        """Write one figure to `file`."""
        url: str = self._page.evaluate(
            "async ([figure, width, height]) => Plotly.toImage(figure, {format: 'svg', width, height})",
            [json.loads(figure.to_json()), WIDTH, HEIGHT],
        )
        from urllib.parse import unquote

        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(unquote(url.partition(",")[2]) + "\n", encoding="utf-8")
