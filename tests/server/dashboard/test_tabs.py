"""Twenty tabs of live pages in one window of a real Chromium: a browser has six connections to a server, and each tab wants one.

Before hidden tabs gave their stream up, the seventh could not load. Source: HTML standard, "Page visibility".
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, Page, expect
from starlette.types import Receive, Scope, Send

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.login import COOKIE
from tests.server.dashboard.fleet import Device, Fleet
from tests.server.dashboard.serving import served
from tests.support.browsers import whole, window

pytestmark = pytest.mark.skipif(whole() is None, reason="Chromium is not installed")
TABS = 20
LOAD_MS = 60_000
"""What does not come for want of a connection never comes: the bound is only for busy machines."""
FRESH_MS = 60_000


class Counted:
    """The app, and how many of its streams are open."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.streams = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        is_stream = scope["type"] == "http" and scope["path"] == "/live"
        self.streams += is_stream
        try:
            await self.app(scope, receive, send)
        finally:
            self.streams -= is_stream


class Desk:
    """A served fleet with one device, and a window that an operator is signed in with."""

    def __init__(self, fleet: Fleet, app: Counted, url: str, context: BrowserContext) -> None:
        self.app, self.url, self.context = app, url, context
        self.camera: Device = fleet.device("camera")
        self.problems: list[str] = []
        context.on(
            "console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None
        )
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        paths = ("/", "/devices", "/rollouts", f"/devices/{self.camera.id}")
        self.paths = [f"{path}?tab={n}" for n, path in zip(range(TABS), itertools.cycle(paths), strict=False)]
        browser = context.browser
        assert browser is not None
        self.protocol = browser.new_browser_cdp_session()

    def tab(self, path: str, *, background: bool) -> Page:
        """Open a tab as a click with Shift+Ctrl or with Ctrl does: in front, or behind the one that is shown. Waits for nothing."""
        with self.context.expect_page(timeout=LOAD_MS) as opened:
            self.protocol.send("Target.createTarget", {"url": self.url + path, "background": background})
        return opened.value

    def shows(self, tab: Page, *, is_online: bool) -> None:
        """Wait until the overview, or the device's page, says so: only the tab's stream can bring that."""
        if "/devices/" in tab.url:
            said = expect(tab.locator("main .head .title").first)
            (said.not_to_contain_text if is_online else said.to_contain_text)("Offline", timeout=FRESH_MS)
        else:
            count = tab.locator("#map .keys li", has_text="offline").locator("b")
            expect(count).to_have_text("0" if is_online else "1", timeout=FRESH_MS)

    def one_stream_is_left(self) -> bool:
        """Wait until all tabs but one have let theirs go; say whether that came to be."""
        until = time.monotonic() + FRESH_MS / 1000
        while self.app.streams != 1 and time.monotonic() < until:
            time.sleep(0.05)
        return self.app.streams == 1


@pytest.fixture
def desk(fleet: Fleet) -> Iterator[Desk]:
    """Serve an empty fleet to a window."""
    cookie = fleet.browser(Role.OPERATOR).cookies[COOKIE]
    app = Counted(fleet.house.own_app())
    with served(app) as url, window() as context:
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
        yield Desk(fleet, app, url, context)


def test_twenty_tabs_are_all_usable(desk: Desk) -> None:
    tabs = [desk.tab(path, background=n >= TABS // 2) for n, path in enumerate(desk.paths)]
    for tab in tabs:
        tab.wait_for_selector("#live", timeout=LOAD_MS)
    overview, last = tabs[0], tabs[-1]
    last.bring_to_front()
    assert [tab.evaluate("document.hidden") for tab in tabs].count(False) == 1
    desk.camera.connect(on=False)
    desk.shows(last, is_online=False)
    overview.bring_to_front()
    desk.shows(overview, is_online=False)
    desk.camera.connect(on=True)
    desk.shows(overview, is_online=True)
    last.bring_to_front()
    desk.shows(last, is_online=True)
    assert desk.one_stream_is_left()
    assert desk.problems == []
