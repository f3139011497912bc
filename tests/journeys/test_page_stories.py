"""What people do with the pages, in a real Chromium, at a live server with real agents: find a failure, roll out, compare.

Fifty devices are approved in `test_approval`.

Clicks are counted where a story promises few of them. Nothing may appear in the browser's console. Each story leaves pictures in
`build/screenshots`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.agent.field import eventually
from tests.house.tree import ROOT
from tests.journeys.fleet import ALL, Fleet, bundle, enrolled, nan_bundle, show_nan
from tests.journeys.road import PATIENCE_S, Road
from tests.support.browsers import binary, browser
from tests.support.device_python import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(binary() is None, reason="Chromium is not installed"),
]
SHOTS = ROOT / "build" / "screenshots"
WAIT_MS = 60_000 * PATIENCE
MAX_TABS = 200


class Desk:
    """One signed-in browser window; `said` is what its console and its policy complained about."""

    def __init__(self, road: Road, page: Page) -> None:
        self.road, self.page = road, page
        self.url = road.server.url
        self.clicks = 0
        self.said: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda one: self.said.append(one.text) if one.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        with road.server.client() as client:
            path = client.post("/api/v1/login-links").json()["url_path"]
        page.goto(self.url + path)
        page.get_by_role("button").first.click()
        expect(page).to_have_title("Overview · edgefleet")

    def open(self, path: str) -> None:
        """Go to a page by its address."""
        self.page.goto(self.url + path)

    def click(self, what: Locator) -> None:
        """Click, and count."""
        self.clicks += 1
        what.click()

    def tab_to(self, what: Locator) -> None:
        """Press Tab until something has the focus."""
        wanted = what.element_handle()
        for _ in range(MAX_TABS):
            if self.page.evaluate("(one) => document.activeElement === one", wanted):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {what}")

    def press(self, what: Locator, key: str = "Enter") -> None:
        """Go to something by the keyboard alone, and press a key there."""
        self.tab_to(what)
        self.page.keyboard.press(key)

    def write(self, what: Locator, text: str) -> None:
        """Go to a field by the keyboard alone, and write into it."""
        self.tab_to(what)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"story-{name}.png", full_page=True)


@pytest.fixture(scope="module")
def fleet(road: Road) -> Fleet:
    """Three devices for all stories; each story has a model of its own."""
    return Fleet(road, [enrolled(road, f"s{number}") for number in range(3)])


@pytest.fixture
def desk(road: Road) -> Iterator[Desk]:
    """A browser window of its own for each story; at its end the console must be empty."""
    with browser() as chromium:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        made = Desk(road, context.new_page())
        yield made
        made.page.goto("about:blank")  # ends its stream: a context with an open one may be slow to close
        context.close()
    assert made.said == []


def test_why_a_device_failed_is_found_in_two_clicks(fleet: Fleet, desk: Desk) -> None:
    fleet.base("lens")
    fleet.publish("lens@1.1.0", nan_bundle("lens", "1.1.0"))
    rollout = fleet.roll("lens@1.1.0", ALL)
    failing = fleet.devices[0]
    for device in fleet.devices:
        device.told("lens", release="lens@1.1.0", serving=True)
        show_nan(device, "lens", 40)
    rollout.ends("rolled_back")
    desk.open("/")
    desk.clicks = 0
    link = desk.page.locator("main").get_by_role("link", name=failing.name, exact=True).first
    desk.click(link)
    reason = desk.page.get_by_text("not finite").first
    expect(reason).to_be_visible()
    assert desk.clicks <= 2
    desk.shot("why-a-device-failed")


def test_a_rollout_is_created_watched_paused_and_rolled_back(fleet: Fleet, desk: Desk) -> None:
    base = fleet.base("mouse")
    fleet.publish("mouse@1.1.0", bundle("mouse", "1.1.0"))
    desk.open("/rollouts/new")
    page = desk.page
    page.get_by_role("link", name="mouse@1.1.0").click()
    page.get_by_role("textbox", name="Selector").fill(fleet.selector)
    page.get_by_role("button", name="Next: strategy").click()
    page.locator("input[name=strategy][value=canary]").check()
    page.get_by_role("button", name="Next: review").click()
    for device in fleet.devices:
        expect(page.locator("#plan")).to_contain_text(device.name)
    desk.shot("rollout-review")
    page.get_by_role("button", name="Start rollout").click()
    page.wait_for_url("**/rollouts/r-*")
    first = next(iter(_exposed(desk, fleet)))
    first.told("mouse", release="mouse@1.1.0", serving=True)
    expect(page.locator("main")).to_contain_text(
        "verifying", timeout=WAIT_MS
    )  # it came by itself: nobody loaded the page again
    desk.shot("rollout-watched")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("status").first).to_contain_text("Paused")
    expect(page.locator("#head")).to_contain_text("Paused")
    desk.clicks = 0
    desk.click(page.locator("#decide summary").filter(has_text="Roll back"))
    desk.click(page.locator("form[data-operation=abort_rollout]").get_by_role("button", name="Roll back").first)
    assert desk.clicks <= 2
    expect(page.locator("#head")).to_contain_text("olled back", timeout=WAIT_MS)
    desk.shot("rollout-rolled-back")
    fleet.run(base)


def test_the_same_by_keyboard_alone(fleet: Fleet, desk: Desk) -> None:
    base = fleet.base("keys")
    fleet.publish("keys@1.1.0", bundle("keys", "1.1.0"))
    desk.open("/")
    page = desk.page
    desk.press(page.get_by_role("link", name="Deliver", exact=True).first)
    desk.press(page.locator("main").get_by_role("link", name="New rollout").first)
    desk.write(page.get_by_role("combobox", name="Release"), "keys@1.1.0")
    desk.press(page.get_by_role("button", name="Next: devices"))
    desk.write(page.get_by_role("textbox", name="Selector"), fleet.selector)
    desk.press(page.get_by_role("button", name="Next: strategy"))
    desk.press(page.get_by_role("button", name="Next: review"))
    desk.press(page.get_by_role("button", name="Start rollout"))
    page.wait_for_url("**/rollouts/r-*")
    first = next(iter(_exposed(desk, fleet)))
    first.told("keys", release="keys@1.1.0", serving=True)
    desk.press(page.get_by_role("button", name="Pause", exact=True))
    expect(page.get_by_role("status").first).to_contain_text("Paused")
    desk.press(page.locator("#decide summary").filter(has_text="Roll back").first)
    desk.press(page.locator("form[data-operation=abort_rollout]").get_by_role("button", name="Roll back").first)
    expect(page.locator("#head")).to_contain_text("olled back", timeout=WAIT_MS)
    fleet.run(base)


def test_two_versions_are_compared(fleet: Fleet, desk: Desk) -> None:
    fleet.base("pair")
    fleet.publish("pair@1.1.0", bundle("pair", "1.1.0", pad=4096))
    fleet.road.edgectl("deploy", "pair@1.1.0", "--to", fleet.selector)
    fleet.prove("pair@1.1.0")
    desk.open("/models")
    page = desk.page
    page.locator("main").get_by_role("link", name="pair", exact=True).first.click()
    page.locator("main").get_by_role("link", name="comparison").first.click()
    page.wait_for_url("**/compare?**")
    text = page.inner_text("main")
    assert "1.0.0" in text
    assert "1.1.0" in text
    assert "generic-x86_64-ort" in text
    desk.shot("two-versions-compared")


def _exposed(desk: Desk, fleet: Fleet) -> Iterator[Any]:
    """Yield the devices of the rollout on the page that have been offered its release, waiting for the first."""
    rollout = desk.page.url.rsplit("/", 1)[1].partition("?")[0]
    assert eventually(lambda: fleet.road.edgectl("rollout", "devices", rollout)["items"], PATIENCE_S, 0.2)
    for one in fleet.road.edgectl("rollout", "devices", rollout)["items"]:
        yield fleet.named(one["device"])
