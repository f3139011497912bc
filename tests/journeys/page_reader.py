"""Somebody at the pages in a real Chromium, in one of four ways: by mouse, by keyboard alone, on a phone by touch, and without scripts.

Each act is counted (a click, a touch, the press of a key) and timed from the first act to the answer. What the console says, what does
not load, a page wider than its window, a target too small for a finger and a focus that cannot be seen are kept in `wrong`.
"""

from __future__ import annotations

import time
from typing import Any, Final

from playwright.sync_api import Browser, Locator, Page, Request, Response, expect

from tests.house.tree import ROOT
from tests.journeys.road import Road
from tests.support.device_python import PATIENCE

SHOTS: Final = ROOT / "build" / "screenshots"
WAIT_MS: Final = 60_000 * PATIENCE
MAX_TABS: Final = 200
LEAST_TARGET: Final = 24
DESK: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 800}}
WAYS: Final[dict[str, dict[str, Any]]] = {
    "mouse": DESK,
    "keys": DESK,
    "touch": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "plain": {**DESK, "java_script_enabled": False},
}
"""The ways, with what their windows are like."""
_IS_FOCUSED = "(one) => document.activeElement === one"
_FOCUS_IS_SEEN = """(one) => {
  const box = one.getBoundingClientRect(), look = getComputedStyle(one);
  const ring = (look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) > 0) || look.boxShadow !== 'none';
  const over = document.elementFromPoint(Math.max(0, box.left) + Math.min(box.width, 8) / 2, box.top + box.height / 2);
  return ring && box.bottom > 0 && box.top < innerHeight && over !== null && (one.contains(over) || over.contains(one));
}"""


class Reader:
    """One signed-in window, used in one way."""

    def __init__(self, road: Road, chromium: Browser, way: str) -> None:
        self.way = way
        self.url = road.server.url
        self.acts = 0
        self.wrong: list[str] = []
        self._began: float | None = None
        self.context = chromium.new_context(**WAYS[way])
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda one: self._hear(one.text) if one.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self._hear(str(error)))
        self.page.on("response", self._look_at)
        self.page.on("requestfailed", self._miss)
        with road.server.client() as client:
            path = client.post("/api/v1/login-links").json()["url_path"]
        self.page.goto(self.url + path)
        self.page.get_by_role("button").first.click()
        expect(self.page).to_have_title("Overview · edgefleet")

    def close(self) -> None:
        """Close the window, after its stream: a context with an open one may be slow to close."""
        self.page.goto("about:blank")
        self.context.close()

    def begin(self, path: str = "/") -> Page:
        """Open the page on which a story begins; nothing has been done yet."""
        self.page.goto(self.url + path, wait_until="load")
        self.acts, self._began = 0, None
        self._measure()
        return self.page

    def go(self, what: Locator, *keys: str) -> None:
        """Act on something that can be pressed. keys: what is typed for it where there are only keys; else Tab and Enter do it."""
        self._began = self._began or time.monotonic()
        if self.way == "keys":
            self._type(*keys) if keys else self._press(what)
            return
        self.acts += 1
        if self.way == "touch":
            what.scroll_into_view_if_needed()
            box = what.bounding_box()
            if box is None or min(box["width"], box["height"]) < LEAST_TARGET:
                self._hear(f"{what} is too small for a finger: {box}")
            what.tap()
        else:
            what.click()

    def write(self, what: Locator, text: str) -> None:
        """Write into a field: its letters are not counted, going there is."""
        if self.way != "keys":
            self.acts += 1
            what.fill(text)
            return
        self._tab_to(what)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def answered(self, what: Locator, *words: str) -> float:
        """Wait until an answer is shown with all of its words; return the seconds since the first act."""
        expect(what).to_be_visible()
        for one in words:
            expect(what).to_contain_text(one)
        took = time.monotonic() - (self._began or time.monotonic())
        self._measure()
        return took

    def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"story-{name}-{self.way}.png", full_page=True)

    def _type(self, *keys: str) -> None:
        for key in keys:
            self.acts += 1
            if key == "Enter" and self.page.evaluate("document.activeElement?.id") == "find":
                # the list answers to all that was typed, as somebody waits who looks at it
                typed = self.page.locator("#find").input_value()
                expect(self.page.locator("#found .hits")).to_have_attribute("data-q", typed)
            self.page.keyboard.press(key)

    def _press(self, what: Locator) -> None:
        self._tab_to(what)
        self.acts += 1
        self.page.keyboard.press("Enter")

    def _tab_to(self, what: Locator) -> None:
        wanted = what.element_handle()
        for _ in range(MAX_TABS):
            if self.page.evaluate(_IS_FOCUSED, wanted):
                if not self.page.evaluate(_FOCUS_IS_SEEN, wanted):
                    self._hear(f"the focus is not seen on {what}")
                return
            self.acts += 1
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {what}")

    def _measure(self) -> None:
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            self._hear(f"{self.page.url} is {wide} px wider than its window")

    def _hear(self, text: str) -> None:
        self.wrong.append(text)

    def _look_at(self, answer: Response) -> None:
        if answer.status >= 400:
            self._hear(f"{answer.status} {answer.url}")

    def _miss(self, request: Request) -> None:
        # a stream ends with its page, and so does what a form asks while somebody types who goes on at once
        is_left = request.resource_type == "fetch" and request.failure == "net::ERR_ABORTED"
        if "/live?" not in request.url and not is_left:
            self._hear(f"{request.failure} {request.url}")
