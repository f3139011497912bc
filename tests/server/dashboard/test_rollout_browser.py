"""A rollout in a real Chromium: written, started, watched, paused and rolled back by keyboard alone; and at any width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import LITERT, ORT, STAGES, Fleet, small
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
    expect(page.locator("#rollout-devices")).to_contain_text("downloading the bundle")  # by itself
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


ROOM = 740
"""Px of a desk's window of 800: what answers whether it is safe to promote leaves the rest."""
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
    assert page.evaluate(LOWEST, ["#pipeline", "#gates .gate", "#waits .acts", "#promote"]) <= ROOM
    page.locator("#waits").get_by_role("link", name="End the soak now").click()  # a link into what is folded opens it
    expect(page.locator("#promote-now")).to_be_visible()
    assert problems == []


WHY = (
    "the picture of the third camera is blurred since the lens was cleaned; the shift leader wants to see the rejected parts of the "
    "night before anything else goes out, and the quality department asked for a comparison on the parts of order 4711, which only "
    "comes at noon; until then nobody touches this; after that please call the number on the board next to the door of hall north"
)


def crowded(fleet: Fleet) -> str:
    """Return a rollout with long names, four gates, two profiles, a failure to be confirmed, two silent devices, an approval to come."""
    release, profiles = "digits@1.1.0-rc.12.build.2026", (ORT, LITERT)
    for ref in ("digits@1.0.0", release):
        fleet.release(ref, *profiles)
    site = {"site": "hall-north-second-floor"}
    devices = [fleet.device(f"inspection-cell-{n}-camera-left", profiles[n % 2], site) for n in range(40)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        device.report(Phase.COMMITTED)
    metrics = [{"name": "latency_p95_ms", "max": 50}, {"name": "inference_error_rate", "max": 0.02}, {"name": "drift"}]
    rollout = fleet.rollout(
        release=release,
        selector="site=hall-north-second-floor",
        gates={"quality": {"control": "previous", "metrics": metrics}},
        stages=[
            {"name": "canary-of-the-laboratory", "size": {"count": 19}, "soak": "10m"},
            {"name": "three-quarters-of-all-halls", "size": {"count": 19}, "soak": "1h", "approval": {"role": "admin"}},
            {"name": "half", "size": {"count": 19}, "soak": "1h"},
            {"name": "everything-else", "size": {"percent": 100}, "soak": "1h"},
        ],
    )
    offered = fleet.offered(rollout, devices)
    for device in offered:
        device.report(Phase.PROBATION)
        if device is offered[0]:
            died = "the worker died with signal 11 after 7 of 500 answers"
            device.report(Phase.ROLLED_BACK, reason=died, error_class=ErrorClass.CRASH, error_code="probation.crash")
        else:
            device.report(Phase.COMMITTED)
    for device in offered[2:4]:
        device.measure(release.partition("@")[2])
        device.connect(on=False)
    fleet.tick(seconds=4)
    return rollout


def test_the_answer_has_room_on_one_screen_in_the_worst_case(visited: tuple[Fleet, str, Browser]) -> None:
    fleet, url, made = visited
    rollout = crowded(fleet)
    page, problems = signed_in(fleet, url, made)

    def look(title: str) -> None:
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(f"{url}/rollouts/{rollout}")
        expect(page.locator("#answer .answer h2")).to_have_text(title)
        assert page.locator("#answer .verdicts li").count() == 4
        parts = ["#decide", "#pipeline", "#gates .ev", "#answer", "#waits .wait > li:first-child"]
        for part in parts:
            assert page.locator(part).first.is_visible(), part
        assert page.evaluate(LOWEST, parts) <= ROOM
        page.set_viewport_size({"width": 360, "height": 740})
        free = page.locator(".bottom").evaluate("(one) => one.getBoundingClientRect().top")
        assert page.evaluate(LOWEST, ["#answer .answer"]) <= free - 60
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

    look("Not now")
    fleet.parts.rollout.pause(rollout, "ann.of.the.quality.department", WHY)
    look("Paused")
    whole = page.locator("#answer-whole")
    whole.get_by_text("Whole reason").click()
    expect(whole).to_contain_text("the door of hall north")
    fleet.parts.rollout.promote(rollout, "ann.of.the.quality.department", WHY, None)
    fleet.tick(seconds=2)
    look("It waits for an approval")
    assert problems == []


CUT = """() => [...document.querySelectorAll('main *')].filter((one) => one.offsetParent && !one.closest('pre, svg')
  && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((one) => one.outerHTML.slice(0, 90))"""
THIN = """() => [...document.querySelectorAll('main td')].filter((one) => one.offsetParent && one.innerText.length > 8
  && one.getBoundingClientRect().width < 40).map((one) => one.innerText)"""
PAPER = 702
"""Px between the margins of A4."""


def test_a_report_fits_on_paper_as_tables_without_what_is_only_for_a_screen(
    visited: tuple[Fleet, str, Browser], story: tuple[Fleet, str, str]
) -> None:
    fleet, good, bad = story
    with served(fleet.house.own_app()) as url:
        page, problems = signed_in(fleet, url, visited[2])
        page.emulate_media(media="print")
        page.set_viewport_size({"width": PAPER, "height": 1000})
        for rollout, most in ((good, 9), (bad, 8)):
            page.goto(f"{url}/rollouts/{rollout}?report")
            assert page.evaluate(CUT) == []
            assert page.evaluate(THIN) == [], "no column is so narrow that its words stand letter below letter"
            assert page.locator("#rollout-devices thead").evaluate("(one) => getComputedStyle(one).display") == (
                "table-header-group"
            )
            for screen in ("#rollout-devices form", "#timeline", ".top", ".bottom"):
                assert not page.locator(screen).first.is_visible(), screen
            assert page.locator("#all-stages h3").first.is_visible()
            pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", prefer_css_page_size=True)))
            assert 2 <= pages <= most
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
