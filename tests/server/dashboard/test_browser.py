"""The pages in a real Chromium: signed in by a link, complete without scripts, fresh with them, at any width and in the dark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.login import COOKIE
from tests.server.dashboard.chromium import Chromium, binary
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")

UNTIL_TEXT = """
new Promise((done) => {
  const look = () => document.body.innerText.includes(%s) && done(performance.now());
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
  look();
})
"""
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


class Visitor:
    """A browser that is signed in at a fleet with a good and a bad rollout."""

    def __init__(self, fleet: Fleet, url: str, browser: Chromium, ids: tuple[str, str]) -> None:
        self.fleet, self.url, self.browser = fleet, url, browser
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
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """A served fleet and a browser that came in by a link."""
    fleet = Fleet(tmp_path_factory.mktemp("visited") / "server")
    ids = staged(fleet)
    with served(fleet.house.app) as url:
        browser = Chromium(tmp_path_factory.mktemp("chromium"))
        try:
            browser.look(width=1280)
            browser.open(url + link_of(fleet, Role.VIEWER))
            browser.press("document.querySelector('form button').click()")
            assert browser.run("location.pathname + location.search") == "/"
            yield Visitor(fleet, url, browser, ids)
        finally:
            browser.close()
    fleet.close()


def test_the_code_is_gone_and_no_script_can_read_the_cookie(visitor: Visitor) -> None:
    visitor.browser.open(visitor.url + "/")
    assert visitor.browser.run("document.title") == "Overview · edgefleet"
    assert COOKIE not in visitor.browser.run("document.cookie")
    assert "code=" not in visitor.browser.run("location.href")


def test_no_page_breaks_its_content_policy_or_throws(visitor: Visitor) -> None:
    browser = visitor.browser
    for path in (*visitor.paths, "/login", "/devices?q=a+in+(", "/devices/nobody"):
        browser.open(visitor.url + path)
        assert browser.run("getComputedStyle(document.querySelector('.top')).display") == "flex"
    assert [text for text in browser.problems if "404" not in text] == []


@pytest.mark.parametrize("width", [360, 768, 1024, 1280])
def test_nothing_is_wider_than_the_window(visitor: Visitor, width: int) -> None:
    visitor.browser.look(width=width)
    for path in visitor.paths:
        visitor.browser.open(visitor.url + path)
        assert visitor.browser.run("document.documentElement.scrollWidth") <= width, path
        assert visitor.browser.run(TOO_WIDE) == [], path
    visitor.browser.look(width=1280)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(visitor: Visitor, dark: bool) -> None:
    visitor.browser.look(width=1280, dark=dark)
    grounds = set()
    for path in (*visitor.paths, "/login"):
        visitor.browser.open(visitor.url + path)
        assert visitor.browser.run(CONTRASTS) == {}, path
        grounds.add(visitor.browser.run("getComputedStyle(document.body).backgroundColor"))
    visitor.browser.look(width=1280)
    assert grounds == {"rgb(20, 24, 26)" if dark else "rgb(247, 247, 245)"}


def test_everything_is_there_without_scripts(visitor: Visitor) -> None:
    browser = visitor.browser
    browser.open(visitor.url + "/")
    with_scripts = browser.run("document.querySelector('main').innerText")
    browser.look(width=1280, scripts=False)
    browser.open(visitor.url + "/")
    assert browser.run("document.getElementById('pause').hidden") is True
    assert browser.run("document.querySelector('main').innerText") == with_scripts
    browser.look(width=1280)


def test_the_page_brings_news_by_itself_and_keeps_what_the_reader_does(visitor: Visitor) -> None:
    browser, fleet = visitor.browser, visitor.fleet
    browser.open(f"{visitor.url}/rollouts/{visitor.bad}")
    browser.run(
        "document.querySelector('details').open = true; document.querySelector('#rollout-devices a').focus(); 1"
    )
    focused = browser.run("document.activeElement.getAttribute('href')")
    said = json.dumps("the night is over")
    assert not browser.run(f"document.body.innerText.includes({said})")
    fleet.parts.rollout.abort(visitor.bad, "ann", "the night is over", rollback=False)
    fleet.tick(seconds=2)
    browser.run(UNTIL_TEXT % said)
    assert browser.run("document.querySelector('details').open") is True
    assert browser.run("document.activeElement.getAttribute('href')") == focused


def test_a_browser_whose_token_is_revoked_is_led_to_the_login(visitor: Visitor, tmp_path: Path) -> None:
    token = visitor.fleet.house.token(Role.VIEWER)
    browser = Chromium(tmp_path / "other")
    try:
        browser.open(visitor.url + "/")
        browser.run(f"document.getElementById('token').value = {json.dumps(token)}; 1")
        browser.press("document.querySelector('form button').click()")
        assert browser.run("location.pathname") == "/"
        visitor.fleet.parts.access.revoke_token(token.split("_")[1])
        browser.press("1")  # the page looks for news by itself, and is sent away
        assert browser.run("location.pathname") == "/login"
    finally:
        browser.close()


def test_signing_out_by_the_button_ends_it(visitor: Visitor, tmp_path: Path) -> None:
    browser = Chromium(tmp_path / "third")
    try:
        browser.open(visitor.url + link_of(visitor.fleet))
        browser.press("document.querySelector('form button').click()")
        visitor.fleet.by_id[next(iter(visitor.fleet.by_id))].event(Phase.IDLE, "")
        browser.press("document.querySelector('.who button').click()")
        assert browser.run("location.pathname") == "/login"
        browser.open(visitor.url + "/")
        assert browser.run("location.pathname") == "/login"
    finally:
        browser.close()
