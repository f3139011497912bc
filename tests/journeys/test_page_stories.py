"""What people do with the pages, in a real Chromium, at a live server with real agents: ask, roll out, compare.

Fifty devices are approved in `test_approval`. Questions and the ways of asking them are in `page_stories`; `./dev soak page-stories`
prints how long each took. Nothing may appear in the browser's console. Each story leaves pictures in `build/screenshots`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.agent.field import eventually
from tests.journeys.fleet import Fleet, bundle
from tests.journeys.page_reader import WAIT_MS, WAYS, Reader
from tests.journeys.page_stories import (
    STORIES,
    World,
    focus_kept,
    lost_links,
    made_on,
    readers,
    steered_without_scripts,
    tell,
)
from tests.journeys.road import PATIENCE_S, Road
from tests.support.browsers import binary, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(binary() is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def world(road: Road) -> World:
    """Three devices for all stories, and what happened to them; a story that rolls out has a model of its own."""
    return made_on(road)


@pytest.fixture(scope="module")
def fleet(world: World) -> Fleet:
    """The three devices."""
    return world.fleet


@pytest.fixture(scope="module")
def windows(world: World) -> Iterator[dict[str, Reader]]:
    """A window for each way."""
    with browser() as chromium:
        made = readers(world.fleet.road, chromium)
        yield made
        for one in made.values():
            one.close()


@pytest.fixture
def desk(windows: dict[str, Reader]) -> Iterator[Reader]:
    """The window of a mouse; at the end of a story nothing may be wrong."""
    windows["mouse"].wrong.clear()
    yield windows["mouse"]
    assert windows["mouse"].wrong == []


@pytest.fixture
def keys(windows: dict[str, Reader]) -> Iterator[Reader]:
    """The window of somebody who has only a keyboard."""
    windows["keys"].wrong.clear()
    yield windows["keys"]
    assert windows["keys"].wrong == []


def test_the_focus_stays_where_it_is_when_news_come(world: World, keys: Reader) -> None:
    focus_kept(keys, world)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", STORIES)
def test_a_question_is_answered_in_few_acts(world: World, windows: dict[str, Reader], story: str, way: str) -> None:
    if (story, way) == ("roll back now", "plain"):
        windows[way].wrong.clear()
        steered_without_scripts(windows[way], world)
        assert windows[way].wrong == []
    print(tell(story, windows[way], world))


def test_no_link_leads_nowhere(windows: dict[str, Reader]) -> None:
    assert lost_links(windows["mouse"]) == []


def test_a_rollout_is_created_watched_paused_and_rolled_back(fleet: Fleet, desk: Reader) -> None:
    base = fleet.base("mouse")
    fleet.publish("mouse@1.1.0", bundle("mouse", "1.1.0"))
    page = desk.begin("/rollouts/new")
    page.get_by_role("link", name="mouse@1.1.0").click()
    page.get_by_role("combobox", name="Selector").fill(fleet.selector)
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
    page.locator("#decide summary").filter(has_text="Roll back").click()
    page.locator("form[data-operation=abort_rollout]").get_by_role("button", name="Roll back").first.click()
    expect(page.locator("#head")).to_contain_text("olled back", timeout=WAIT_MS)
    desk.shot("rollout-rolled-back")
    fleet.run(base)


def test_the_same_by_keyboard_alone(fleet: Fleet, keys: Reader) -> None:
    base = fleet.base("keys")
    fleet.publish("keys@1.1.0", bundle("keys", "1.1.0"))
    page = keys.begin()
    keys.go(page.get_by_role("link", name="Deliver", exact=True).first)
    keys.go(page.locator("main").get_by_role("link", name="New rollout").first)
    keys.write(page.get_by_role("combobox", name="Release"), "keys@1.1.0")
    keys.go(page.get_by_role("button", name="Next: devices"))
    keys.write(page.get_by_role("combobox", name="Selector"), fleet.selector)
    keys.go(page.get_by_role("button", name="Next: strategy"))
    keys.go(page.get_by_role("button", name="Next: review"))
    keys.go(page.get_by_role("button", name="Start rollout"))
    page.wait_for_url("**/rollouts/r-*")
    first = next(iter(_exposed(keys, fleet)))
    first.told("keys", release="keys@1.1.0", serving=True)
    keys.go(page.get_by_role("button", name="Pause", exact=True))
    expect(page.get_by_role("status").first).to_contain_text("Paused")
    keys.go(page.locator("#decide summary").filter(has_text="Roll back").first)
    keys.go(page.locator("form[data-operation=abort_rollout]").get_by_role("button", name="Roll back").first)
    expect(page.locator("#head")).to_contain_text("olled back", timeout=WAIT_MS)
    fleet.run(base)


def test_two_versions_are_compared(fleet: Fleet, desk: Reader) -> None:
    one = fleet.first(1)
    one.base("pair")
    one.publish("pair@1.1.0", bundle("pair", "1.1.0", pad=4096))
    one.road.edgectl("deploy", "pair@1.1.0", "--to", one.selector)
    one.prove("pair@1.1.0")
    page = desk.begin("/models")
    page.locator("main").get_by_role("link", name="pair", exact=True).first.click()
    page.locator("main").get_by_role("link", name="comparison").first.click()
    page.wait_for_url("**/compare?**")
    text = page.inner_text("main")
    assert "1.0.0" in text
    assert "1.1.0" in text
    assert "generic-x86_64-ort" in text
    desk.shot("two-versions-compared")


def _exposed(desk: Reader, fleet: Fleet) -> Iterator[Any]:
    """Yield the devices of the rollout on the page that have been offered its release, waiting for the first."""
    rollout = desk.page.url.rsplit("/", 1)[1].partition("?")[0]
    assert eventually(lambda: fleet.road.edgectl("rollout", "devices", rollout)["items"], PATIENCE_S, 0.2)
    for one in fleet.road.edgectl("rollout", "devices", rollout)["items"]:
        yield fleet.named(one["device"])
