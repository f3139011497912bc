"""How a page is looked at in a real browser: with axe-core, at every width, in light and dark, with an ear at its console."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Error, Page

from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_login_pages import link_of

SHOTS = ROOT / "build" / "screenshots"
WIDTHS = (360, 768, 1024, 1280)
"""The first one is a phone's, the last one that of a desk."""
GROUNDS: dict[Literal["light", "dark"], str] = {"light": "rgb(247, 248, 249)", "dark": "rgb(12, 14, 17)"}
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('.stack thead, .subnav') && e.getBoundingClientRect().right > innerWidth + 1)
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
_SMALL_TARGETS = """
[...document.querySelectorAll('main button, main select, main summary, main input:not([type=hidden]), main .button')]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 24).map((e) => e.outerHTML.slice(0, 120))
"""
_UNNAMED = """
[...document.querySelectorAll('main input:not([type=hidden]), main select, main textarea')]
  .filter((e) => !e.labels.length).map((e) => e.outerHTML.slice(0, 120))
"""
STRICT = {"too wide": TOO_WIDE, "contrast": CONTRASTS, "unnamed": _UNNAMED, "small": _SMALL_TARGETS}
"""What pages are held to beyond axe-core, which leaves out large text, and targets with room around them."""
LOST = """
[...document.querySelectorAll('a[href*="#"]')]
  .filter((a) => a.pathname === location.pathname && a.hash.length > 1)
  .filter((a) => a.getAttribute('href')[0] === '#' || a.search === location.search)
  .filter((a) => !document.getElementById(decodeURIComponent(a.hash.slice(1)))).map((a) => a.outerHTML.slice(0, 120))
"""
"""Links to a part of their page that is not there."""
TWICE = "[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, n, all) => all.indexOf(id) < n)"
TOO_SMALL = """
[...document.querySelectorAll('main :is(a, button, summary, select, input:not([type=hidden]))')]
  .filter((e) => e.checkVisibility() && !e.closest('svg, .map, .hidden, .vh, .styleguide, .sg'))
  .map((e) => [e, e.getBoundingClientRect()]).filter(([, box]) => box.width && box.height < 23.5)
  .map(([e, box]) => `${Math.round(box.height)} px: ${e.outerHTML.slice(0, 120)}`)
"""
"""Targets that a finger does not hit well; those of pictures have a list next to them."""
FINGERS = {"lost": LOST, "twice": TWICE, "too small": TOO_SMALL}
_STICKING_OUT = """
[...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('pre, thead, svg, .subnav, .u-wrap, .hidden, .skip') && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 160))
"""


class Windows:
    """Three windows of a browser that are signed in at a fleet: at a desk, on a phone, and without scripts."""

    def __init__(self, fleet: Fleet, url: str, chromium: Browser, role: Role = Role.ADMIN) -> None:
        self.url = url
        self.desk, self.phone, self.plain = (
            _signed_in(chromium, url + link_of(fleet, role), **options)
            for options in (
                {"viewport": {"width": WIDTHS[-1], "height": 900}},
                {"viewport": {"width": WIDTHS[0], "height": 740}},
                {"java_script_enabled": False},
            )
        )

    def close(self) -> None:
        """Close the windows, after their streams: a context with an open one may be slow to close."""
        for page in (self.desk, self.phone, self.plain):
            page.goto("about:blank")
            page.context.close()

    def look_at_the_desk(self, path: str, shot: str, *, is_strict: bool = False) -> None:
        """Fail where a page shuts somebody out, in light or dark, or its console complains. Leaves pictures named after `shot`.

        is_strict: STRICT holds, too.
        """
        with in_peace(self.desk):
            self.desk.goto(self.url + path, wait_until="load")
            self.look_at_what_the_desk_shows(shot, is_strict=is_strict)

    def look_at_what_the_desk_shows(self, shot: str, *, is_strict: bool = False) -> None:
        """Do the same with the page that stands there: one that no address leads to."""
        page = self.desk
        for look, ground in GROUNDS.items():
            page.emulate_media(color_scheme=look)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
            strict = _found_by(page, STRICT) if is_strict else {}
            assert strict == {}, f"{look}: {strict}"
            found = violations(page)
            assert found == [], f"{look}: {found}"
            _shoot(page, look, shot)
        page.emulate_media(color_scheme="light")

    def look_at_the_phone(self, path: str, shot: str, *, is_strict: bool = False) -> None:
        """Fail where a page shuts somebody out on a phone, or something does not fit one of WIDTHS, or its console complains."""
        with in_peace(self.phone):
            self.phone.goto(self.url + path, wait_until="load")
            self.look_at_what_the_phone_shows(shot, is_strict=is_strict)

    def look_at_what_the_phone_shows(self, shot: str, *, is_strict: bool = False) -> None:
        """Do the same with the page that stands there: one that no address leads to."""
        page = self.phone
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[0]
        wrong = _found_by(page, {"sticks out": _STICKING_OUT, **FINGERS, **(STRICT if is_strict else {})})
        assert wrong == {}, wrong
        found = violations(page)
        assert found == [], found
        _shoot(page, "phone", shot)
        for width in WIDTHS[1:]:
            page.set_viewport_size({"width": width, "height": 740})
            wide = _sticking_out(page)
            assert wide == [], f"{width}: {wide}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size({"width": WIDTHS[0], "height": 740})

    def look_without_scripts(self, path: str) -> None:
        """Fail where a page is not there when scripts do not run."""
        answer = self.plain.goto(self.url + path)
        assert answer is not None
        assert answer.status in {200, 404}
        assert self.plain.locator("h1").count() == 1
        assert len(self.plain.inner_text("main")) > 40


@contextmanager
def in_peace(page: Page) -> Iterator[None]:
    """Fail if the console of a page complains, or a script of it fails, before the block ends. A device that is not there is none."""
    said: list[str] = []

    def listen(one: ConsoleMessage) -> None:
        if one.type in {"error", "warning"} and not ("404" in one.text and page.url.endswith("/devices/nobody")):
            said.append(one.text)

    def fail(error: Error) -> None:
        said.append(str(error))

    page.on("console", listen)
    page.on("pageerror", fail)
    yield
    page.remove_listener("console", listen)
    page.remove_listener("pageerror", fail)
    assert said == []


def _found_by(page: Page, scripts: Mapping[str, str]) -> dict[str, Any]:
    """Return what scripts find on a page as it is shown now, by name; those that find nothing are left out."""
    return {name: found for name, script in scripts.items() if (found := page.evaluate(script))}


def _signed_in(chromium: Browser, link: str, **options: Any) -> Page:
    page = chromium.new_context(**options).new_page()
    page.goto(link)
    page.click("form button")
    return page


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page as it is shown now."""
    page.evaluate(_AXE)
    options = {"runOnly": _RULES, "resultTypes": ["violations"], "preload": False}
    result = page.evaluate(f"axe.run(document, {json.dumps(options)})")
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for one in result["violations"]
        for node in one["nodes"][:3]
    ]


def _sticking_out(page: Page) -> list[str]:
    """Return what is wider than the window; some parts follow a moment after it changed."""
    for _ in range(100):
        found: list[str] = page.evaluate(_STICKING_OUT)
        if not found:
            break
        page.wait_for_timeout(50)
    return found


def _shoot(page: Page, look: str, shot: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", shot).strip("-") or "overview"
    page.screenshot(path=SHOTS / f"{look}-{name[:60]}.png", full_page=True)
