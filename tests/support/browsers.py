"""A real browser through Playwright: Debian's Chromium, no download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def binary() -> str | None:
    """Return the browser's path, None when there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser(**options: Any) -> Iterator[Browser]:
    """Yield a headless browser until the block ends."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=binary(), args=list(FLAGS), **options)
        try:
            yield made
        finally:
            made.close()
