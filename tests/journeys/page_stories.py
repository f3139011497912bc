"""Questions that operators ask the pages, at a live server with real agents: each answered in few acts, by words that can be seen.

    ./dev soak page-stories          # every story in every way, again and again; JSON with acts and seconds

The agents install, fail and go back by themselves. What takes hours on a device (a day of latency, two hours of a drifting signal) they
are said to have sent: the messages are given to the server's own intake.
"""

from __future__ import annotations

import datetime as dt
import html
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import msgspec
from playwright.sync_api import Browser, expect

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.house.page_pictures import OTHERS, Walk, kind_of, places
from tests.journeys.fleet import ALL, PROVING, Fleet, Rolling, bundle, enrolled, nan_bundle, show_nan
from tests.journeys.page_reader import WAYS, Reader
from tests.journeys.road import Road
from tests.server.fleet.house import PROFILE
from tests.server.telemetry import drifting, sending_fleet
from tests.support.browsers import browser

SITES: Final = ("berlin", "lyon", "osaka")
STEPS: Final = 96
"""Quarters of an hour of a day."""
FOUR: Final = 4
PUMPS: Final = FOUR * len(SITES)
"""Devices that only send what they see: what drifts at a site is told from chance where several devices say it."""
FIRST: Final = 2
HELD: Final = {"name": "canary", "size": {"count": FIRST}, "soak": "10m"}
ALIKE: Final = 3
FOLD: Final = 800
"""Height of the screen on which a question must be answered."""
LOWEST = """(places) => Math.max(...places.flatMap((one) => [...document.querySelectorAll(one)])
  .map((one) => Math.ceil(one.getBoundingClientRect().bottom)))"""


class World:
    """Three devices at three sites of which all stories are told, and what happened to them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.failed = fleet.devices[0].name
        self.rollout: Rolling | None = None
        for model in ("gate", "eye", "lens"):
            fleet.publish(f"{model}@1.0.0", bundle(model, "1.0.0"))
            fleet.road.edgectl("deploy", f"{model}@1.0.0", "--to", fleet.selector)
        fleet.publish("gate@1.1.0", bundle("gate", "1.1.0"))
        fleet.publish("lens@1.1.0", nan_bundle("lens", "1.1.0"))
        self._drift()
        self._slow_down()
        for model in ("lens", "gate"):
            fleet.prove(f"{model}@1.0.0")
        self._fail()

    def _fail(self) -> None:
        """Let a release fail on each device, and go back."""
        rollout = self.fleet.roll("lens@1.1.0", ALL)
        for device in self.fleet.devices:
            device.told("lens", release="lens@1.1.0", serving=True)
        for device in self.fleet.devices:  # all have it by now: once two have failed, the third is taken back
            show_nan(device, "lens", 40)
        rollout.ends("rolled_back")

    def _slow_down(self) -> None:
        """Let a model have answered for a day, slower since its device throttles."""

        def say(step: int, _device: str, said: dict[str, Any]) -> None:
            if step >= 60:
                said.update(ms=45.0, throttled_ratio=0.5, temperature_celsius=85.0)

        begin = int(time.time()) - STEPS * sending_fleet.WINDOW_S
        messages = [
            _of_model(sending_fleet.message(step, one.name, begin + step * sending_fleet.WINDOW_S, say), "eye")
            for step in range(STEPS)
            for one in self.fleet.devices
        ]
        self.fleet.road.house.telemetry.ingest(messages)

    def _drift(self) -> None:
        """Let the temperature that a model sees have moved at one site."""
        made = drifting.reference(20_000)
        data = drifting.bundle_bytes("pump", "1.0.0", PROFILE, made)
        self.fleet.publish("pump@1.0.0", data)
        start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
        house = self.fleet.road.house
        for number in range(PUMPS):
            site = SITES[number // FOUR]
            device = house.device(
                labels={"site": site}, profile=PROFILE, name_prefix=f"pump-{number}", created_by="test"
            )
            moved = {"temperature": 1.0} if site == "lyon" else {}
            for hour in range(2):
                sums = drifting.counted(made, 150, number * 1000 + hour, shift=moved)
                at = start + dt.timedelta(hours=hour, minutes=45)
                window = drifting.window(
                    made, sha256_hex(data), sums, at, length_s=900, covered_s=3600, classes=(90, 60)
                )
                house.telemetry.ingest([drifting.message(device.id, hour + 1, window)])

    def held(self) -> Rolling:
        """Return a rollout whose first devices soak; a new one where the last has ended."""
        if self.rollout is not None and self.rollout.shown()["state"] in ("running", "paused"):
            return self.rollout
        if self.rollout is not None:
            self.rollout.until(lambda shown: shown["state"] in ("rolled_back", "cancelled"))
        self.rollout = self.fleet.roll("gate@1.1.0", HELD, ALL)
        self.rollout.until(lambda shown: shown["counts"]["exposed"] == FIRST)
        for name in [name for name, one in self.rollout.devices().items() if one["exposed_at"]]:
            device = self.fleet.named(name)
            device.told("gate", release="gate@1.1.0", serving=True)
            for _ in range(PROVING):
                assert device.ask_four("gate").is_success
            self.rollout.stands(name, state="healthy")
        return self.rollout


def _of_model(message: Any, model: str) -> Any:
    windows = [msgspec.structs.replace(one, model=model) for one in message.windows]
    return msgspec.structs.replace(message, windows=windows)


@dataclass(frozen=True, slots=True)
class Told:
    """How a story went."""

    story: str
    way: str
    acts: int
    seconds: float


Story = Callable[[Reader, World], float]


def why_a_device_failed(reader: Reader, world: World) -> float:
    """Why did this device fail?"""
    page = reader.begin()
    main = page.locator("main").get_by_role("link", name=world.failed, exact=True).first
    reader.go(main, "Control+k", *world.failed, "Enter")
    return reader.answered(page.locator("#health"), "lens was rolled back", "not finite")


def why_latency_rose(reader: Reader, world: World) -> float:
    """Why did latency rise?"""
    page = reader.begin()
    reader.go(page.locator("#versions").get_by_role("link", name="eye", exact=True), "Control+k", *"eye", "Enter")
    expect(page).to_have_title("eye · edgefleet")
    reader.go(page.get_by_role("link", name="Why did latency rise?"))
    return reader.answered(page.locator("#answer"), "it rose", "Most likely: throttled clock", "p95 before")


def whether_it_is_safe_to_promote(reader: Reader, world: World) -> float:
    """Is it safe to promote?"""
    rollout = world.held()
    page = reader.begin()
    reader.go(
        page.locator("#rollouts").locator(f"a[href='/rollouts/{rollout.id}']").first, "Control+k", *rollout.id, "Enter"
    )
    took = reader.answered(
        page.locator("#answer .answer"), "Not yet", "The soak ends at", "2 of 2 devices have it", "none failed"
    )
    if WAYS[reader.way]["viewport"]["height"] == FOLD:
        assert page.evaluate("scrollY") == 0
        lowest = page.evaluate(
            LOWEST, ["#pipeline", "#gates .gate", "#answer .answer", "#answer .wait .acts", "#decide"]
        )
        assert lowest <= FOLD, "one must scroll"
    return took


def back_now(reader: Reader, world: World) -> float:
    """Roll back now."""
    rollout = world.held()
    page = reader.begin()
    link = page.locator("#rollouts").get_by_role("link", name="Roll back gate@1.1.0")
    reader.go(link, "Control+k", *"roll back gate", "Enter")
    expect(page).to_have_url(f"{reader.url}/rollouts/{rollout.id}#roll-back-now")
    reader.go(page.locator("form[data-operation=abort_rollout]").get_by_role("button", name="Roll back").first)
    took = reader.answered(page.locator(".said"), "Rolling back")
    reader.answered(page.locator("#head"), "gate@1.1.0 was stopped")
    return took


def which_sites_drift(reader: Reader, _world: World) -> float:
    """Which sites drift?"""
    page = reader.begin()
    bar = "Main, on phones" if reader.way == "touch" else "Main"
    observe = page.get_by_role("navigation", name=bar, exact=True).get_by_role("link", name="Observe")
    if reader.way == "keys":
        reader.go(observe, "g", "i")
    else:
        reader.go(observe)
        reader.go(page.get_by_role("navigation", name="Observe").get_by_role("link", name="Drift"))
    reader.answered(page.get_by_role("heading", level=1), "at site lyon")
    return reader.answered(page.locator("#sites"), "lyon", "temperature", "4 of 4 devices")


def steered_without_scripts(reader: Reader, world: World) -> None:
    """Pause, resume and promote a rollout; what follows takes it back."""
    rollout = world.held()
    page = reader.begin(f"/rollouts/{rollout.id}")
    page.locator("form[data-operation=pause_rollout]").get_by_role("button", name="Pause", exact=True).click()
    reader.answered(page.locator(".said"), "Paused")
    page.locator("form[data-operation=resume_rollout]").get_by_role("button", name="Resume", exact=True).click()
    reader.answered(page.locator(".said"), "Resumed.")
    page.locator("#promote > summary").click()
    page.locator("#promote").get_by_label("Reason").fill("it was looked at")
    page.locator("#promote").get_by_role("button", name="Promote", exact=True).click()
    reader.answered(page.locator(".said"), "Stage promoted.")
    rollout.until(lambda shown: shown["stages"][0]["state"] == "passed")


def focus_kept(reader: Reader, world: World) -> None:
    """Stand on something of a live part while it is swapped, and go on from there."""
    rollout = world.held()
    page = reader.begin(f"/rollouts/{rollout.id}")
    expect(page.locator("#pause")).to_have_text("Live")
    back = page.locator("#roll-back > summary")
    reader.go(back)  # opens it
    inside = page.locator("#roll-back-now form").get_by_role("button", name="Roll back", exact=True)
    inside.focus()
    rollout.act("pause")
    expect(page.locator("#head")).to_contain_text("Paused")
    expect(page.locator("#decide")).to_contain_text("Resume")
    expect(inside).to_be_focused()
    rollout.act("resume")
    expect(page.locator("#decide form[data-operation=pause_rollout]")).to_be_visible()
    expect(inside).to_be_focused()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.getElementById('roll-back').contains(document.activeElement)")


def lost_links(reader: Reader) -> list[str]:
    """Follow the links of the pages that the navigation leads to, and of what they lead to; return those that lead nowhere.

    Of links that differ in their query alone, ALIKE are followed; a part of a page has to be on it.
    """
    pages: dict[str, tuple[int, str]] = {}
    links: dict[str, str] = {}
    alike: Counter[str] = Counter()

    def shown(path: str) -> tuple[int, str]:
        if path not in pages:
            answer = reader.context.request.get(reader.url + path)
            is_page = answer.headers.get("content-type", "").startswith("text/html")
            pages[path] = (answer.status, answer.text() if is_page else "")
        return pages[path]

    walk = Walk(begin=[one for one in places() if one not in OTHERS])
    for _name, path in walk:
        text = shown(path)[1]
        walk.follow(text)
        for link in re.findall(r'href="([^"]+)"', text):
            links.setdefault(html.unescape(urljoin(path, link)), path)
    lost = []
    for link, place in links.items():
        path, _, part = link.partition("#")
        if not path.startswith("/") or path.startswith(("/static", "/preferences", "/help/")):
            continue
        bare = path.partition("?")[0]
        alike[kind_of(path) or bare] += path not in pages
        if path not in pages and alike[kind_of(path) or bare] > ALIKE:
            continue
        status, text = shown(path)
        if status >= 400 or (part and text and f'id="{html.escape(part)}"' not in text):
            lost.append(f"{status} {link} on {place}")
    assert len(links) > ALIKE * ALIKE
    return lost


STORIES: Final[Mapping[str, tuple[Story, int, int]]] = {
    "why a device failed": (why_a_device_failed, 2, 20),
    "why latency rose": (why_latency_rose, 3, 24),
    "whether it is safe to promote": (whether_it_is_safe_to_promote, 1, 17),
    "roll back now": (back_now, 2, 19),
    "which sites drift": (which_sites_drift, 2, 2),
}
"""Each story with the most clicks or touches that it takes, and the most presses of keys."""


def tell(story: str, reader: Reader, world: World) -> Told:
    """Go through a story; raise AssertionError where it is not answered, takes too many acts, or something went wrong on its way."""
    steps, clicks, presses = STORIES[story]
    reader.wrong.clear()
    took = steps(reader, world)
    acts = reader.acts
    reader.shot(story.replace(" ", "-"))
    assert reader.wrong == []
    assert acts <= (presses if reader.way == "keys" else clicks), f"{story}, {reader.way}: {acts} acts"
    return Told(story, reader.way, acts, round(took, 3))


def made_on(road: Road) -> World:
    """Return a world on a server that has no devices yet."""
    return World(Fleet(road, [enrolled(road, f"s{n}", {"site": site}) for n, site in enumerate(SITES)]))


@contextmanager
def lived(folder: Path) -> Iterator[World]:
    """Yield a world on a server of its own."""
    road = Road(folder, "mosquitto" if find_mosquitto() is not None else "embedded")
    try:
        yield made_on(road)
    finally:
        road.close()


def readers(road: Road, chromium: Browser) -> dict[str, Reader]:
    """Return one window for each way."""
    return {way: Reader(road, chromium, way) for way in WAYS}


def main(n: int, seed: int) -> dict[str, Any]:
    """Tell n stories, each in every way in turn."""
    told, wrong = list[Told](), list[str]()
    with (
        tempfile.TemporaryDirectory(prefix="ef-stories-") as folder,
        lived(Path(folder)) as world,
        browser() as chromium,
    ):
        windows = readers(world.fleet.road, chromium)
        pairs = [(story, way) for story in STORIES for way in WAYS]
        for number in range(n):
            story, way = pairs[(number + seed) % len(pairs)]
            try:
                told.append(tell(story, windows[way], world))
            except AssertionError as error:
                wrong.append(f"{story}, {way}: {error}")
        for one in windows.values():
            one.close()
    return {"ok": not wrong, "wrong": wrong, "stories": summary(told)}


def summary(told: list[Told]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by story and way: acts, and the median and the longest of the seconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for story, way in {(one.story, one.way): None for one in told}:
        those = [one for one in told if (one.story, one.way) == (story, way)]
        took = [one.seconds for one in those]
        found.setdefault(story, {})[way] = {
            "acts": max(one.acts for one in those),
            "told": len(those),
            "s_median": round(statistics.median(took), 2),
            "s_longest": round(max(took), 2),
        }
    return found
