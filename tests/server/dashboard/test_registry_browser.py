"""The pages of registry, audit, events and settings in a real Chromium: for everyone, at any width; local times, a theme of one's own."""

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import expect

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.events.model import NewEvent
from edgefleet_server.registry.model import Publication, SourceFile
from tests.server.dashboard.fleet import LITERT, ORT, Fleet
from tests.server.dashboard.looking import GROUNDS, Windows
from tests.server.dashboard.serving import served
from tests.server.dashboard.shelf import stocked
from tests.support.browsers import binary, browser
from tests.support.receivers import LOOPBACK

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")

PAGES = (
    "/models/digits/2.0.0", "/bundles/{bundle}", "/settings/tokens", "/settings/webhooks", "/settings/webhooks/{webhook}",
    "/settings/webhooks/{webhook}/deliveries/1", "/models", "/models/digits", "/models/digits/1.1.0",
    "/models/digits/compare?a=1.0.0&b=1.1.0", "/bundles", "/profiles", f"/profiles/{ORT}", "/audit", "/events", "/settings",
)  # fmt: skip
"""Some `test_axe` does not see, others it sees with less on them."""


class Visitor:
    """An admin's windows at a server with models, a webhook that failed and a conversion under way."""

    def __init__(self, fleet: Fleet, windows: Windows) -> None:
        [webhook] = fleet.parts.webhooks.webhooks()
        bundle = fleet.parts.registry.release(ReleaseRef.parse("digits@1.1.0")).bundles[0]
        self.names = {"bundle": bundle.sha256, "webhook": webhook.id}
        self.windows = windows


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """A served fleet and a browser that came in by a link."""
    fleet = Fleet(tmp_path_factory.mktemp("visited") / "server", webhook_networks=LOOPBACK)
    stocked(fleet)
    source = fleet.parts.registry.put_blob_bytes(b"source")
    names = (ProfileName(ORT), ProfileName(LITERT))
    file = SourceFile("m.onnx", source, 6)
    fleet.parts.registry.publish(
        Publication(ReleaseRef.parse("digits@2.0.0"), "file", (file,), names, (), {}, {}), "ann"
    )
    job, _ = fleet.parts.conversion.claim("test")
    assert job is not None
    fleet.parts.conversion.report(job, "quantize", "int8-static: 12 of 40 samples", 35.0)
    made = fleet.parts.webhooks.create("ops", "http://127.0.0.1:9/hook", ["edgefleet.rollout.*"], "ann")
    fleet.parts.webhooks.ping(made.webhook.id)
    fleet.parts.fleet.feed.add([NewEvent("rollout", rollout="r-1", detail={"from": "running", "to": "paused"})])
    fleet.parts.fleet.sampling.set(sha256_hex(b"key"), "ann")
    for name in ("database", "keys", "broker"):
        fleet.parts.health.add(name, lambda: "it answers")
    with served(fleet.house.own_app()) as url, browser() as chromium:
        windows = Windows(fleet, url, chromium)
        yield Visitor(fleet, windows)
        windows.close()
    fleet.close()


@pytest.mark.parametrize("page", PAGES)
def test_pages_shut_nobody_out(visitor: Visitor, page: str) -> None:
    visitor.windows.look_at_the_desk(page.format(**visitor.names), f"stocked {page}", is_strict=True)


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_a_phone(visitor: Visitor, page: str) -> None:
    visitor.windows.look_at_the_phone(page.format(**visitor.names), f"stocked {page}", is_strict=True)


def test_a_theme_that_was_chosen_beats_the_systems(visitor: Visitor) -> None:
    page, url = visitor.windows.desk, visitor.windows.url
    chosen: tuple[tuple[Literal["light", "dark"], Literal["light", "dark"]], ...] = (
        ("light", "dark"),
        ("dark", "light"),
    )
    for system, theme in chosen:
        page.emulate_media(color_scheme=system)
        page.goto(f"{url}/preferences?theme={theme}&next=/models")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[theme]
    page.goto(f"{url}/preferences?theme=auto&next=/models")
    page.emulate_media(color_scheme="light")


def test_times_are_written_in_the_browsers_zone_where_that_was_asked_for(visitor: Visitor) -> None:
    desk, url = visitor.windows.desk, visitor.windows.url
    browser = desk.context.browser
    assert browser is not None
    there = browser.new_context(timezone_id="Asia/Kolkata")
    there.add_cookies(desk.context.cookies())  # type: ignore[arg-type]
    page = there.new_page()
    page.goto(f"{url}/preferences?zone=local&next=/audit", wait_until="load")
    time, head = page.locator("#audit time").first, page.locator("#audit th").first
    expect(time).to_have_text(re.compile("^2026-11-25 18:3"))
    shown = time.inner_text()
    assert str(time.get_attribute("datetime")).startswith("2026-11-25T13:")
    assert head.text_content() == "Time (local)"
    time.evaluate("(e) => e.textContent = '2026-11-25 13:01:00'")  # as a live update would
    expect(time).to_have_text(shown)
    page.goto(f"{url}/preferences?zone=utc&next=/audit")
    assert head.text_content() == "Time (UTC)"
    page.goto("about:blank")
    there.close()
