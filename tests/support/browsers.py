"""A real browser through Playwright: Debian's Chromium, no download.

Its headless shell, where that is installed, is the same engine without the windows of a browser around it: for the pages of `test_axe` it
took 45 s of processor time where the whole browser took 58.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

expect.set_options(timeout=60_000)  # of what certainly comes; Playwright's own 5 s are short on a machine that is busy


def binary() -> str | None:
    """Return the path of the browser that shows pages, None when there is none."""
    return shutil.which("chromium-headless-shell") or whole()


def whole() -> str | None:
    """Return the path of the browser with its windows, None when there is none."""
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


@contextmanager
def window() -> Iterator[BrowserContext]:
    """Yield a browser as people have it: one window of tabs, of which one is shown and the others know that they are not.

    A browser that Playwright starts itself tells every page that it is shown.
    """
    program = whole()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="ef-window-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [program, "--headless", *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with sync_playwright() as playwright:
                made = playwright.chromium.connect_over_cdp(_address(Path(folder), process), no_defaults=True)
                yield made.contexts[0]
                made.close()
        finally:
            process.terminate()
            process.wait(20)


def _address(folder: Path, process: subprocess.Popen[bytes], within_s: float = 30) -> str:
    """Return where a browser listens, as it writes it into its folder."""
    file, until = folder / "DevToolsActivePort", time.monotonic() + within_s
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and "\n" in (told := file.read_text()):
            return f"http://127.0.0.1:{told.splitlines()[0]}"
        time.sleep(0.05)
    raise TimeoutError("the browser does not say where it listens")
