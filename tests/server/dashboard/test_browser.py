"""The pages in a real Chromium: signed in by a link, complete without scripts, fresh with them, at any width and in the dark."""

from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.login import COOKIE
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.looking import CONTRASTS, GROUNDS, TOO_WIDE, WIDTHS, in_peace
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary, browser

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")


class Visitor:
    """A page of a browser that came in by a link, at a fleet with a good and a bad rollout."""

    def __init__(self, fleet: Fleet, url: str, chromium: Browser) -> None:
        self.fleet, self.url, self.chromium = fleet, url, chromium
        self.good, self.bad = staged(fleet)
        device = fleet.parts.rollout.reader.devices(self.bad)[0].device
        self.paths = [
            "/",
            f"/rollouts/{self.good}",
            f"/rollouts/{self.bad}",
            f"/devices/{device}",
            "/devices",
            "/groups",
        ]
        self.page = self.enter()
        assert self.page.url == f"{url}/"

    def enter(self) -> Page:
        """Return a page of a window of its own that a fresh link has signed in."""
        page = self.chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(self.url + link_of(self.fleet, Role.VIEWER))
        page.click("form button")
        return page


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """A served fleet and a browser that came in by a link."""
    fleet = Fleet(tmp_path_factory.mktemp("visited") / "server")
    with served(fleet.house.own_app()) as url, browser() as chromium:
        visitor = Visitor(fleet, url, chromium)
        yield visitor
        visitor.page.goto("about:blank")  # ends its stream: a context with an open one may be slow to close
    fleet.close()


def test_the_code_is_gone_and_no_script_can_read_the_cookie(visitor: Visitor) -> None:
    visitor.page.goto(visitor.url + "/")
    assert visitor.page.title() == "Overview · edgefleet"
    assert COOKIE not in visitor.page.evaluate("document.cookie")
    assert "code=" not in visitor.page.url


def test_no_page_breaks_its_content_policy_or_throws(visitor: Visitor) -> None:
    for path in (*visitor.paths, "/login", "/devices?q=a+in+(", "/devices/nobody"):
        with in_peace(visitor.page):
            visitor.page.goto(visitor.url + path, wait_until="load")
            assert visitor.page.evaluate("getComputedStyle(document.querySelector('.top > .wrap')).display") == "flex"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(visitor: Visitor, width: int) -> None:
    page = visitor.page
    page.set_viewport_size({"width": width, "height": 900})
    for path in visitor.paths:
        page.goto(visitor.url + path, wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(TOO_WIDE) == [], path
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize(("look", "ground"), GROUNDS.items())
def test_text_can_be_read_in_light_and_dark(visitor: Visitor, look: Literal["light", "dark"], ground: str) -> None:
    page = visitor.page
    page.emulate_media(color_scheme=look)
    for path in (*visitor.paths, "/login"):
        page.goto(visitor.url + path, wait_until="load")
        assert page.evaluate(CONTRASTS) == {}, path
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    page.emulate_media(color_scheme="light")


def test_everything_is_there_without_scripts(visitor: Visitor) -> None:
    visitor.page.goto(visitor.url + "/", wait_until="load")
    plain = visitor.chromium.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    plain.add_cookies(visitor.page.context.cookies())  # type: ignore[arg-type]
    page = plain.new_page()
    page.goto(visitor.url + "/")
    assert page.locator("#pause").is_hidden()
    assert page.inner_text("main") == visitor.page.inner_text("main")
    plain.close()


def test_the_page_brings_news_by_itself_and_keeps_what_the_reader_does(visitor: Visitor) -> None:
    page, fleet, said = visitor.page, visitor.fleet, "the night is over"
    page.goto(f"{visitor.url}/rollouts/{visitor.bad}")
    page.evaluate("document.querySelector('details').open = true")
    page.focus("#rollout-devices a >> nth=0")
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    assert said not in page.inner_text("body")
    fleet.parts.rollout.abort(visitor.bad, "ann", said, rollback=False)
    fleet.tick(seconds=2)
    expect(page.locator("body")).to_contain_text(said, use_inner_text=True, timeout=60_000)
    assert page.evaluate("document.querySelector('details').open") is True
    assert page.evaluate("document.activeElement.getAttribute('href')") == focused


def test_a_browser_whose_token_is_revoked_is_led_to_the_login(visitor: Visitor) -> None:
    token = visitor.fleet.house.token(Role.VIEWER)
    page = visitor.chromium.new_page()
    page.goto(visitor.url + "/")
    page.fill("#token", token)
    page.press("#token", "Enter")
    page.wait_for_url(visitor.url + "/")
    visitor.fleet.parts.access.revoke_token(token.split("_")[1])
    page.wait_for_url("**/login", timeout=60_000)  # the page looks for news by itself, and is sent away
    page.context.close()


def test_signing_out_by_the_button_ends_it(visitor: Visitor) -> None:
    page = visitor.enter()
    visitor.fleet.by_id[next(iter(visitor.fleet.by_id))].event(Phase.IDLE, "")
    page.click(".menu summary")
    page.click(".who button")
    page.wait_for_url("**/login")
    page.goto(visitor.url + "/")
    assert page.url == f"{visitor.url}/login"
    page.context.close()


def test_the_api_describes_itself_with_nothing_from_elsewhere(visitor: Visitor) -> None:
    page = visitor.chromium.new_page()
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if route.request.url.startswith(visitor.url):
            route.continue_()
        else:
            route.abort()

    page.route("**/*", answer)
    with in_peace(page):
        page.goto(f"{visitor.url}/docs")
        page.locator("#operations-tag-rollout").click()
        operation = page.locator("[id$='-create_rollout']")
        operation.locator("button.opblock-summary-control").click()
        expect(operation.get_by_role("button", name="Try it out")).to_be_visible()
    assert [url for url in asked if not url.startswith(visitor.url)] == []
    assert f"{visitor.url}/openapi.json" in asked
    page.close()
