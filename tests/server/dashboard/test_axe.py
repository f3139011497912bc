"""Every page for everyone: no violation of WCAG 2.2 AA that axe-core finds, in light and dark; nothing in the console; whole at 360 px.

Screenshots of all pages lie in `build/screenshots` afterwards, for whoever wants to look at them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary, browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(binary() is None, reason="Chromium is not installed")]

SHOTS = ROOT / "build" / "screenshots"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"},
}
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('pre, thead, svg, .u-wrap, .hidden, .skip') && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 160))
"""


class House:
    """A served fleet with a story, a browser, and the addresses of every kind of page."""

    def __init__(self, fleet: Fleet, url: str, chromium: Browser) -> None:
        self.fleet, self.url, self.chromium = fleet, url, chromium
        good, bad = staged(fleet)
        device = fleet.parts.rollout.reader.devices(bad)[0].device
        fleet.house.client(Role.ADMIN).post("/api/v1/groups", json={"name": "berlin", "selector": "site=hall"})
        self.paths = [
            "/", "/devices", "/devices?selector=status%3Doffline", f"/devices/{device}", "/groups", "/groups/berlin", "/enrolment",
            "/models", "/models/digits", "/models/digits/1.1.0", "/models/digits/compare?a=1.0.0&b=1.1.0",
            "/rollouts", "/rollouts/new", "/rollouts/new?release=digits@1.1.0&step=devices&who=all",
            "/rollouts/new?release=digits@1.1.0&who=all&step=how", "/rollouts/new?release=digits@1.1.0&who=all&step=review",
            f"/rollouts/{good}", f"/rollouts/{bad}", "/experiments", "/alerts", "/events", "/bundles", "/profiles",
            "/profiles/generic-x86_64-ort", "/audit", "/settings", "/devices/nobody", "/find?q=cam",
        ]  # fmt: skip

    def context(self, look: str, **more: Any) -> BrowserContext:
        """Return a window of the browser that is signed in."""
        context = self.chromium.new_context(**LOOKS[look], **more)
        page = context.new_page()
        page.goto(self.url + link_of(self.fleet, Role.ADMIN))
        page.click("form button")
        page.close()
        return context


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for all tests of this file."""
    fleet = Fleet(tmp_path_factory.mktemp("axe") / "server")
    with served(fleet.house.app) as url, browser() as chromium:
        yield House(fleet, url, chromium)
    fleet.close()


def listening(page: Page) -> list[str]:
    """Return the list into which the page's console and its faults are written from now on."""
    said: list[str] = []
    page.on("console", lambda one: said.append(f"{page.url}: {one.text}") if one.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
    return said


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_shuts_anybody_out(house: House, look: str) -> None:
    context = house.context(look)
    page = context.new_page()
    said = listening(page)
    found: dict[str, list[str]] = {}
    for path in house.paths:
        page.goto(house.url + path, wait_until="load")
        page.evaluate(AXE)
        result = page.evaluate(f"axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}})")
        wrong = [
            f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
            for one in result["violations"]
            for node in one["nodes"][:3]
        ]
        if wrong:
            found[path] = wrong
        SHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(r|cam\d|late)-[a-z0-9]{8,}", r"\1", path)).strip("-") or "overview"
        page.screenshot(path=SHOTS / f"{look}-{name[:60]}.png", full_page=True)
    page.goto("about:blank")  # ends its stream: a context with an open one may be slow to close
    context.close()
    assert found == {}
    assert [one for one in said if "404" not in one] == []


def test_nothing_is_wider_than_a_phone(house: House) -> None:
    context = house.context("phone")
    page = context.new_page()
    for path in house.paths:
        page.goto(house.url + path, wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert page.evaluate(TOO_WIDE) == [], path
    page.goto("about:blank")  # ends its stream: a context with an open one may be slow to close
    context.close()


def test_every_page_is_there_without_scripts(house: House) -> None:
    context = house.context("light", java_script_enabled=False)
    page = context.new_page()
    for path in house.paths:
        answer = page.goto(house.url + path)
        assert answer is not None
        assert answer.status in {200, 404}, path
        assert page.locator("h1").count() == 1, path
        assert len(page.inner_text("main")) > 40, path
    page.goto("about:blank")  # ends its stream: a context with an open one may be slow to close
    context.close()
