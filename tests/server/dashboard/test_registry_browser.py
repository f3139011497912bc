"""The pages of registry, audit, events and settings in a real Chromium: any width, light and dark, no broken policy, local times.

With EDGEFLEET_PICTURES=DIR it also leaves a picture of each page there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.model import NewEvent
from edgefleet_server.registry.model import Publication, SourceFile
from tests.server.dashboard.chromium import Chromium, binary
from tests.server.dashboard.fleet import LITERT, ORT, Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.shelf import stocked
from tests.server.dashboard.test_browser import CONTRASTS, TOO_WIDE
from tests.server.dashboard.test_login_pages import link_of
from tests.support.receivers import LOOPBACK

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")

SMALL_TARGETS = """
[...document.querySelectorAll('main button, main select, main summary, main input:not([type=hidden]), main .button')]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 24).map((e) => e.outerHTML.slice(0, 120))
"""
UNNAMED = """
[...document.querySelectorAll('main input:not([type=hidden]), main select, main textarea')]
  .filter((e) => !e.labels.length).map((e) => e.outerHTML.slice(0, 120))
"""
LOOKS = {"too wide": TOO_WIDE, "contrast": CONTRASTS, "unnamed": UNNAMED, "small": SMALL_TARGETS}


class Visitor:
    """An admin's browser at a server with models, a webhook that failed and a conversion under way."""

    def __init__(self, fleet: Fleet, url: str, browser: Chromium) -> None:
        self.fleet, self.url, self.browser = fleet, url, browser
        bundle = fleet.parts.registry.release(ReleaseRef.parse("digits@1.1.0")).bundles[0]
        [webhook] = fleet.parts.webhooks.webhooks()
        self.pages = {
            "models": "/models", "model": "/models/digits", "release": "/models/digits/1.1.0", "converting": "/models/digits/2.0.0",
            "compare": "/models/digits/compare?a=1.0.0&b=1.1.0", "bundles": "/bundles", "bundle": f"/bundles/{bundle.sha256}",
            "profiles": "/profiles", "profile": f"/profiles/{ORT}", "audit": "/audit", "events": "/events", "settings": "/settings",
            "tokens": "/settings/tokens", "webhooks": "/settings/webhooks", "webhook": f"/settings/webhooks/{webhook.id}",
            "delivery": f"/settings/webhooks/{webhook.id}/deliveries/1",
        }  # fmt: skip


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
    with served(fleet.house.app) as url:
        browser = Chromium(tmp_path_factory.mktemp("chromium"))
        try:
            browser.look(width=1280)
            browser.open(url + link_of(fleet, Role.ADMIN))
            browser.press("document.querySelector('form button').click()")
            yield Visitor(fleet, url, browser)
        finally:
            browser.close()
    fleet.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_pages_fit_and_can_be_read(visitor: Visitor, width: int, dark: bool) -> None:
    browser = visitor.browser
    browser.look(width=width, dark=dark)
    browser.problems.clear()
    pictures = os.environ.get("EDGEFLEET_PICTURES")
    wrong: dict[str, dict[str, object]] = {}
    for name, path in visitor.pages.items():
        browser.open(visitor.url + path)
        if pictures:
            browser.picture(Path(pictures) / f"{name}-{width}{'-dark' if dark else ''}.png")
        found = {what: told for what, script in LOOKS.items() if (told := browser.run(script))}
        if (wide := browser.run("document.documentElement.scrollWidth")) > width:
            found["wide"] = wide
        wrong |= {path: found} if found else {}
    assert wrong == {}
    assert browser.problems == []


def test_a_theme_that_was_chosen_beats_the_systems(visitor: Visitor) -> None:
    browser = visitor.browser
    browser.look(width=1280, dark=False)
    browser.open(f"{visitor.url}/preferences?theme=dark&next=/models")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 26)"
    browser.look(width=1280, dark=True)
    browser.open(f"{visitor.url}/preferences?theme=light&next=/models")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 245)"
    browser.open(f"{visitor.url}/preferences?theme=auto&next=/models")
    browser.look(width=1280, dark=False)


def test_times_are_written_in_the_browsers_zone_where_that_was_asked_for(visitor: Visitor) -> None:
    browser = visitor.browser
    browser._call("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
    browser.open(f"{visitor.url}/preferences?zone=local&next=/audit")
    shown = browser.run("document.querySelector('#audit time').textContent")
    assert browser.run("document.querySelector('#audit time').getAttribute('datetime')").startswith("2026-11-25T13:")
    assert shown.startswith("2026-11-25 18:3")
    assert browser.run("document.querySelector('#audit th').textContent") == "Time (local)"
    browser.run(
        "document.querySelector('#audit time').textContent = '2026-11-25 13:01:00'; 1"
    )  # as a live update would
    assert (
        browser.run(
            "new Promise((done) => setTimeout(() => done(document.querySelector('#audit time').textContent), 50))"
        )
        == shown
    )
    browser.open(f"{visitor.url}/preferences?zone=utc&next=/audit")
    assert browser.run("document.querySelector('#audit th').textContent") == "Time (UTC)"
    browser._call("Emulation.setTimezoneOverride", timezoneId="")
