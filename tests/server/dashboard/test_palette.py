"""The search box of all pages as a palette: pages, parts of them and actions by any of their words, for who may do it, by keyboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.navigation import ACTIONS, NAVIGATION, PARTS, Place
from tests.server.dashboard.fleet import ORT, STAGES, Fleet
from tests.server.dashboard.looking import Windows, in_peace
from tests.server.dashboard.serving import served
from tests.support.browsers import binary, browser

PLACES = (*NAVIGATION, *PARTS, *ACTIONS)


def offers(fleet: Fleet, text: str, *roles: Role) -> list[str]:
    """Return the names under the box while somebody with these roles types a text."""
    answer = fleet.browser(*roles).get("/find/list", params={"q": text})
    assert answer.status_code == 200
    return [" ".join(one.split()) for one in re.findall(r'<span class="kind">\w+</span> (.*?) <span', answer.text)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("rollout", "Rollouts"),
        ("new rol", "New rollout"),
        ("rollout new", "New rollout"),
        ("publ", "Publish a model"),
        ("upload", "Publish a model"),
        ("undo", "Undo a release"),
        ("roll back", "Undo a release"),
        ("token", "Tokens"),
        ("WEBHOOK", "Webhooks"),
        ("keys", "Signing keys"),
        ("enroll device", "Enrol a device"),
        ("dark", "Dark colours"),
        ("theme dark", "Dark colours"),
        ("utc", "Times in UTC"),
    ],
)
def test_an_action_is_found_by_any_of_its_words(empty_fleet: Fleet, text: str, first: str) -> None:
    found = offers(empty_fleet, text, Role.ADMIN)
    assert first in found[:2], found


def test_nobody_is_offered_what_he_may_not_open(empty_fleet: Fleet) -> None:
    assert "Audit" in offers(empty_fleet, "audit", Role.ADMIN)
    assert offers(empty_fleet, "audit", Role.OPERATOR) == []
    assert "New rollout" not in offers(empty_fleet, "new rollout", Role.VIEWER)
    assert offers(empty_fleet, "publish", Role.OPERATOR) == []
    assert "Publish a model" in offers(empty_fleet, "publish", Role.PUBLISHER)


@pytest.mark.parametrize("place", PLACES, ids=[one.path for one in PLACES])
def test_every_place_opens_for_who_is_offered_it(empty_fleet: Fleet, place: Place) -> None:
    window = empty_fleet.browser(place.role)
    answer = window.get(place.path)
    if place.path.startswith("/preferences"):
        answer = window.get(answer.headers["location"])
    assert answer.status_code == 200, answer.text
    part = place.path.partition("#")[2]
    assert not part or f'id="{part}"' in answer.text


def test_without_a_text_it_says_what_can_be_done(empty_fleet: Fleet) -> None:
    assert offers(empty_fleet, " ", Role.ADMIN) == [one.label for one in ACTIONS]
    assert "Publish a model" in empty_fleet.browser(Role.PUBLISHER).get("/find").text


def test_what_is_called_so_comes_before_what_may_be_meant(fleet: Fleet) -> None:
    fleet.device("keyboard")
    found = offers(fleet, "key", Role.ADMIN)
    thing = next(n for n, name in enumerate(found) if name.startswith("keyboard"))
    assert "Signing keys" in found[:thing]
    fleet.device("lock")
    assert offers(fleet, "lock", Role.ADMIN)[0].startswith(
        "lock"
    )  # and not "Times in UTC", which has a clock among its words


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_the_palette_by_keyboard_alone(fleet: Fleet) -> None:
    fleet.device("cam1")
    with served(fleet.house.own_app()) as url, browser() as chromium:
        windows = Windows(fleet, url, chromium)
        page = windows.desk
        with in_peace(page):
            page.goto(url + "/devices", wait_until="load")
            _goes_there_and_away(page)
            page.keyboard.press("/")
            page.keyboard.type("new rol")
            expect(page.locator("#found .hits")).to_have_attribute("data-q", "new rol")
            page.keyboard.press("Enter")
            page.wait_for_url("**/rollouts/new")
            page.keyboard.press("Control+k")
            page.keyboard.type("cam1")
            expect(page.locator("#found .hits")).to_have_attribute("data-q", "cam1")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            page.wait_for_url("**/devices/cam1-*")
            _makes_it_dark(page)
        windows.close()


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_what_can_be_done_on_a_page_is_found_from_the_keyboard(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    with served(fleet.house.own_app()) as url, browser() as chromium:
        windows = Windows(fleet, url, chromium)
        page = windows.desk
        with in_peace(page):
            page.goto(f"{url}/rollouts/{rollout}", wait_until="load")
            page.keyboard.press("Control+k")
            page.keyboard.type("pause")
            expect(page.locator("#found .here a").first).to_contain_text("Pause")
            page.keyboard.press("Enter")
            page.wait_for_load_state("load")
            expect(page.locator(".toast")).to_contain_text("Paused")
            page.keyboard.press("Control+k")
            page.keyboard.type("undo")
            expect(page.locator("#found .here a").first).to_contain_text("Undo")
            page.keyboard.press("Enter")
            expect(page.locator(".toast")).to_contain_text("Undone.")
            page.locator(".toast [data-dismiss]").click()
            expect(page.locator(".toast")).to_have_count(0)
            _knows_the_keys(page)
        windows.close()


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_what_is_typed_before_the_page_has_begun_is_found(fleet: Fleet) -> None:
    fleet.device("cam1")
    with served(fleet.house.own_app()) as url, browser() as chromium:
        windows = Windows(fleet, url, chromium)
        page = windows.desk
        page.add_init_script("const soon = setTimeout; window.setTimeout = (done, ms) => soon(done, ms || 1000);")
        with in_peace(page):
            page.goto(url + "/devices", wait_until="load")
            page.keyboard.press("/")
            page.keyboard.type("cam1")
            expect(page.locator("#found .hits")).to_have_attribute("data-q", "cam1")
        windows.close()


def _knows_the_keys(page: Page) -> None:
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(sheet).to_contain_text("Hardware profiles")
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/models")


def _goes_there_and_away(page: Page) -> None:
    page.locator("main a").first.focus()
    before = page.evaluate("document.activeElement.href")
    page.keyboard.press("Control+k")
    expect(page.locator("#found .hits a").first).to_have_text(re.compile("New rollout"))
    page.keyboard.press("ArrowUp")
    expect(page.locator("#found a").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#found a")).to_have_count(0)
    expect(page.locator("#find")).to_be_focused()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.href") == before


def _makes_it_dark(page: Page) -> None:
    here = page.url
    page.keyboard.press("/")
    page.keyboard.type("theme dark")
    expect(page.locator("#found .hits")).to_have_attribute("data-q", "theme dark")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.url == here
