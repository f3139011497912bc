"""The pages in a real Chromium: signed in by a link, complete without scripts, fresh with them, at any width and in the dark."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.login import COOKIE
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary, browser
from tests.support.visiting import Visitor

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")

TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('.stack thead') && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 120))
"""
CONTRASTS = """
(() => {
  const parse = (c) => c.match(/[0-9.]+/g).map(Number);
  const light = (c) => parse(c).slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'transparent' && !c.endsWith(', 0)')) return c;
    }
    return getComputedStyle(document.documentElement).colorScheme.includes('dark') ? 'rgb(18,18,18)' : 'rgb(255,255,255)';
  };
  const worst = {};
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) worst[e.className + ': ' + e.textContent.trim().slice(0, 30)] = ratio;
  }
  return worst;
})()
"""


class House:
    """A served fleet with a good and a bad rollout, and a visitor of its pages."""

    def __init__(self, fleet: Fleet, visitor: Visitor, ids: tuple[str, str]) -> None:
        self.fleet, self.visitor, self.url = fleet, visitor, visitor.url
        self.good, self.bad = ids
        device = fleet.parts.rollout.reader.devices(self.bad)[0].device
        self.paths = [
            "/",
            f"/rollouts/{self.good}",
            f"/rollouts/{self.bad}",
            f"/devices/{device}",
            "/devices",
            "/groups",
        ]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A served fleet and a browser that came in by a link."""
    fleet = Fleet(tmp_path_factory.mktemp("visited") / "server")
    ids = staged(fleet)
    with served(fleet.house.app) as url, browser() as chromium:
        yield House(fleet, Visitor(chromium, url, link_of(fleet, Role.VIEWER)), ids)
    fleet.close()


def path_of(page: Page) -> str:
    """Return where a page is, without its host."""
    return str(page.evaluate("location.pathname"))


def test_the_code_is_gone_and_no_script_can_read_the_cookie(house: House) -> None:
    with house.visitor.page(signed_in=False) as page:
        page.goto(house.url + link_of(house.fleet))
        page.click("form button")
        page.wait_for_url(f"{house.url}/")
        assert page.title() == "Overview · edgefleet"
        assert COOKIE not in page.evaluate("document.cookie")
        assert "code=" not in page.url


def test_no_page_breaks_its_content_policy_or_throws(house: House) -> None:
    house.visitor.said.clear()
    with house.visitor.page() as page:
        for path in (*house.paths, "/login", "/devices?q=a+in+(", "/devices/nobody"):
            page.goto(house.url + path)
            assert page.evaluate("getComputedStyle(document.querySelector('.top')).display") == "flex"
    assert [text for text in house.visitor.said if "404" not in text] == []


@pytest.mark.parametrize("width", [360, 768, 1024, 1280])
def test_nothing_is_wider_than_the_window(house: House, width: int) -> None:
    with house.visitor.page(width=width) as page:
        for path in house.paths:
            page.goto(house.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate(TOO_WIDE) == [], path


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(house: House, dark: bool) -> None:
    grounds = set()
    with house.visitor.page(dark=dark) as page:
        for path in (*house.paths, "/login"):
            page.goto(house.url + path)
            assert page.evaluate(CONTRASTS) == {}, path
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(20, 24, 26)" if dark else "rgb(247, 247, 245)"}


def test_everything_is_there_without_scripts(house: House) -> None:
    with house.visitor.page() as page:
        page.goto(house.url + "/")
        with_scripts = page.inner_text("main")
    with house.visitor.page(java_script_enabled=False) as page:
        page.goto(house.url + "/")
        assert page.locator("#pause").is_hidden()
        assert page.inner_text("main") == with_scripts


def test_the_page_brings_news_by_itself_and_keeps_what_the_reader_does(house: House) -> None:
    fleet, said = house.fleet, "the night is over"
    with house.visitor.page() as page:
        page.goto(f"{house.url}/rollouts/{house.bad}")
        page.evaluate("document.querySelector('details').open = true")
        page.focus("#rollout-devices a")
        focused = page.evaluate("document.activeElement.getAttribute('href')")
        assert said not in page.inner_text("body")
        fleet.parts.rollout.abort(house.bad, "ann", said, rollback=False)
        fleet.tick(seconds=2)
        page.wait_for_function("said => document.body.innerText.includes(said)", arg=said)
        assert page.evaluate("document.querySelector('details').open") is True
        assert page.evaluate("document.activeElement.getAttribute('href')") == focused


def test_a_browser_whose_token_is_revoked_is_led_to_the_login(house: House) -> None:
    token = house.fleet.house.token(Role.VIEWER)
    with house.visitor.page(signed_in=False) as page:
        page.goto(house.url + "/")
        page.fill("#token", token)
        page.click("form button")
        page.wait_for_url(f"{house.url}/")
        house.fleet.parts.access.revoke_token(token.split("_")[1])
        page.wait_for_url("**/login*")  # the page looks for news by itself, and is sent away
        assert path_of(page) == "/login"


def test_signing_out_by_the_button_ends_it(house: House) -> None:
    with house.visitor.page(signed_in=False) as page:
        page.goto(house.url + link_of(house.fleet))
        page.click("form button")
        page.wait_for_url(f"{house.url}/")
        house.fleet.by_id[next(iter(house.fleet.by_id))].event(Phase.IDLE, "")
        page.click(".who button")
        page.wait_for_url("**/login*")
        page.goto(house.url + "/")
        assert path_of(page) == "/login"
