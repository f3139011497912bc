"""A rollout in a real Chromium: written, started, watched, paused and rolled back by keyboard alone; and at any width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import STAGES, Fleet, small
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
if binary() is not None:
    from playwright.sync_api import Browser, Page, expect

    from tests.support.browsers import browser as chromium

MAX_TABS = 120
FOCUSED = """() => {
  const e = document.activeElement;
  return [e.tagName.toLowerCase(), e.name || '', (e.innerText || e.value || '').trim()];
}"""


@pytest.fixture
def visited(fleet: Fleet, tmp_path: Path) -> Iterator[tuple[Fleet, str, Browser]]:
    """A served fleet and a browser."""
    with served(fleet.house.own_app()) as url, chromium() as made:
        yield fleet, url, made


def signed_in(
    fleet: Fleet, url: str, made: Browser, *, width: int = 1280, dark: bool = False
) -> tuple[Page, list[str]]:
    """Return a page of an operator, and what its console complains about."""
    context = made.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page, problems = context.new_page(), list[str]()
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url + link_of(fleet, Role.OPERATOR))
    page.click("form button")
    return page, problems


def tab_to(page: Page, tag: str, named: str) -> None:
    """Press the tabulator until a field of this name, or something with this text, has the focus."""
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        found, name, text = page.evaluate(FOCUSED)
        if found == tag and named in (name, text):
            return
    raise AssertionError(f"no {tag} {named!r} comes by tabulator on {page.url}")


def press(page: Page, tag: str, named: str) -> None:
    """Tab to something and press Enter; a link or a button leads to another page."""
    tab_to(page, tag, named)
    if tag == "summary":
        page.keyboard.press("Enter")
        return
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_a_rollout_by_keyboard_alone(visited: tuple[Fleet, str, Browser]) -> None:
    fleet, url, made = visited
    devices = small(fleet)
    page, problems = signed_in(fleet, url, made)
    page.goto(f"{url}/rollouts")
    press(page, "a", "New rollout")
    tab_to(page, "input", "release")
    page.keyboard.type("digits@1.1.0")
    press(page, "button", "Next: devices")
    tab_to(page, "input", "selector")
    page.keyboard.type("site=hall")
    expect(page.locator("#matching")).to_contain_text("4 devices match now")  # counted while it was written
    assert "selector=site%3Dhall" in page.url
    press(page, "button", "Next: strategy")
    expect(page.locator("#plan")).to_contain_text("canary")
    press(page, "button", "Next: review")
    press(page, "button", "Start rollout")
    page.wait_for_url("**/rollouts/r-*")
    expect(page.locator(".said")).to_contain_text("Rollout started.")
    rollout = page.url.rpartition("/")[2]

    fleet.tick()
    first = fleet.offered(rollout, devices)[0]
    press(page, "summary", "…")
    tab_to(page, "input", "body.reason")
    page.keyboard.type("something is odd")
    first.report(Phase.DOWNLOADING)
    fleet.tick(seconds=2)
    expect(page.locator("#rollout-devices")).to_contain_text("downloading the bundle", timeout=15_000)  # by itself
    assert page.evaluate(FOCUSED) == ["input", "body.reason", "something is odd"], "news take nobody's words away"
    press(page, "button", "Pause")
    expect(page.locator("#head")).to_contain_text("Paused by test: something is odd")
    page.goto(page.url)
    press(page, "summary", "Roll back")
    press(page, "button", "Roll back")
    expect(page.locator(".said")).to_contain_text("Rolling back")
    expect(page.locator("#head")).to_contain_text("was stopped by test; devices go back")
    assert problems == []


def test_a_rollout_is_paused_and_rolled_back_without_scripts(visited: tuple[Fleet, str, Browser]) -> None:
    fleet, url, made = visited
    small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    page = made.new_context(java_script_enabled=False).new_page()
    page.goto(url + link_of(fleet, Role.OPERATOR))
    page.click("form button")
    page.goto(f"{url}/rollouts/{rollout}")
    pause = page.locator("form[data-operation=pause_rollout]")
    pause.get_by_label("Pause with a reason").click()
    pause.get_by_text("As a command").click()
    expect(pause.locator("code").first).to_have_text(f"edgectl rollout pause {rollout}")
    assert pause.get_by_role("button", name="Copy").count() == 0, "only a script can copy"
    pause.get_by_label("Reason (optional)").fill("something is odd")
    pause.get_by_role("button", name="Pause").click()
    expect(page.locator(".said")).to_contain_text("Paused")
    expect(page.locator("#head")).to_contain_text("Paused by test: something is odd")

    back = page.locator("#roll-back")
    back.locator("summary").first.click()  # the first of two clicks, for it costs nothing
    back.get_by_role("button", name="Roll back").click()
    expect(page.locator(".said")).to_contain_text("Rolling back")
    expect(page.locator("#head")).to_contain_text("was stopped by test; devices go back")
    page.context.close()


LOWEST = """(ids) => Math.max(...ids.flatMap((id) => [...document.querySelectorAll(id)])
  .map((one) => Math.ceil(one.getBoundingClientRect().bottom)))"""


def test_whether_it_is_safe_to_promote_is_answered_on_one_screen(visited: tuple[Fleet, str, Browser]) -> None:
    fleet, url, made = visited
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[{**STAGES[0], "soak": "10m"}, *STAGES[1:]])
    first, second = fleet.offered(rollout, devices)
    for device in (first, second):
        device.report(Phase.PROBATION)
        device.report(Phase.COMMITTED)
        device.measure()
    fleet.tick(minutes=2)
    second.connect(on=False)
    page, problems = signed_in(fleet, url, made)
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{url}/rollouts/{rollout}")
    for shown in ("#gates .plot", "#gates .gauge", "#answer .answer", "#pipeline .pipe"):
        expect(page.locator(shown).first).to_be_visible()
    assert page.evaluate(LOWEST, ["#pipeline", "#gates .gate", "#answer .wait .acts", "#promote"]) <= 800
    page.locator("#answer").get_by_role("link", name="End the soak now").click()  # a link into what is folded opens it
    expect(page.locator("#promote-now")).to_be_visible()
    assert problems == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_the_pages_fit_and_complain_of_nothing(visited: tuple[Fleet, str, Browser], width: int, dark: bool) -> None:
    fleet, url, made = visited
    small(fleet)
    shadow = {"name": "beside", "size": {"count": 2}, "mode": "shadow", "soak": "1h"}
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[shadow, STAGES[-1]])
    page, problems = signed_in(fleet, url, made, width=width, dark=dark)
    new = "/rollouts/new?release=digits@1.1.0&who=all"
    for path in (
        *("/rollouts", f"/rollouts/{rollout}", f"/experiments/{rollout}", "/experiments", "/alerts"),
        *("/rollouts/undo?name=digits", "/rollouts/new", f"{new}&step=devices", f"{new}&step=how&edit=ab&latency=10"),
        *(f"{new}&step=review", "/rollouts/new?yaml=release: digits@1.1.0"),
    ):
        page.goto(url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.locator("h1").count() == 1, path
    assert problems == []
