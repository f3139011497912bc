"""Live pages: what changed comes by itself, once a second at most, to everyone who looks, each with the key of its own session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from edgefleet_server.access.grants.grant_scope import Scope as GrantScope
from edgefleet_server.access.model import Grant, Role
from edgefleet_server.dashboard.core.login import COOKIE
from edgefleet_server.dashboard.core.render import LIVE_PARTS_KEY
from edgefleet_server.dashboard.live.page_stream import as_swap
from tests.server.dashboard.fleet import ORT, STAGES, Device, Fleet
from tests.server.dashboard.live_elements import live_elements
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import code_of, link_of

PAGE = """<!doctype html><body><p id="asof" data-live>now</p><section id="a" data-live><h2>A</h2><br><div><img src="x">
<svg><rect x="0"/></svg><b>1 &lt; 2</b></div></section><section id="still">old</section><div data-live>no id</div></body>"""


def test_live_elements_are_whole_and_the_rest_is_left() -> None:
    parts = live_elements(PAGE)
    assert list(parts) == ["asof", "a"]
    assert parts["a"].startswith('<section id="a" data-live><h2>A</h2>')
    assert parts["a"].endswith("<b>1 &lt; 2</b></div></section>")
    assert as_swap({"asof": parts["asof"]}) == '<p id="asof" data-live hx-swap-oob="innerMorph">now</p>'


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Device, str]]:
    """A served fleet with one device."""
    fleet = Fleet(tmp_path_factory.mktemp("live") / "server")
    device = fleet.device("camera")
    with served(fleet.house.own_app()) as url:
        yield fleet, device, url
    fleet.close()


@contextmanager
def looking(fleet: Fleet, url: str, page: str, *roles: Role) -> Iterator[tuple[httpx.Client, Iterator[str]]]:
    """Yield a signed-in browser and the messages of one live page."""
    with _looking(url, page, {"code": code_of(link_of(fleet, *roles)), "next": "/"}) as found:
        yield found


@contextmanager
def _looking(url: str, page: str, login: dict[str, str]) -> Iterator[tuple[httpx.Client, Iterator[str]]]:
    with httpx.Client(base_url=url, timeout=14) as browser:  # a heartbeat comes after 15 s
        browser.post("/login", data=login)
        with browser.stream("GET", "/live", params={"page": page}) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield browser, _messages(answer)


def _messages(answer: httpx.Response) -> Iterator[str]:
    lines: list[str] = []
    for line in answer.iter_lines():
        if line.startswith("data: "):
            lines.append(line[6:])
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def until(messages: Iterator[str], text: str) -> str:
    """Return the first message with a text in it."""
    return next(one for one in messages if text in one)


def test_a_change_comes_to_everyone_within_a_moment(live: tuple[Fleet, Device, str]) -> None:
    fleet, device, url = live
    with looking(fleet, url, "/") as (_one, first), looking(fleet, url, "/") as (_two, second):
        next(first), next(second)
        device.connect(on=False)
        assert 'hx-swap-oob="innerMorph"' in until(first, "offline</span>")
        until(second, "offline</span>")
    device.connect()


def test_a_stream_brings_each_live_element_as_it_is_in_the_page(live: tuple[Fleet, Device, str]) -> None:
    fleet, device, url = live
    with looking(fleet, url, f"/devices/{device.id}", Role.OPERATOR) as (browser, messages):
        elements = live_elements(browser.get(f"/devices/{device.id}").text)
        assert len(elements) > 3
        assert next(messages) == as_swap(elements)


def test_each_page_keeps_its_live_elements_as_they_are_rendered(live: tuple[Fleet, Device, str]) -> None:
    fleet, device, _url = live
    fleet.release("digits@1.0.0", ORT)
    fleet.device("lab", labels={"site": "lab"})
    rollout = fleet.rollout(release="digits@1.0.0", selector=f"id={device.id}", stages=STAGES)
    stages = [{"name": "trial", "mode": "shadow", "size": {"percent": 100}, "soak": "1h"}, STAGES[-1]]
    trial = fleet.rollout(release="digits@1.0.0", selector="site=lab", stages=stages)
    fleet.parts.fleet.groups.create("lab", "site=lab", "ann")
    kept: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.clear()
        await fleet.house.app({**scope, LIVE_PARTS_KEY: kept}, receive, send)

    browser = TestClient(app, base_url="http://fleet.test", follow_redirects=False)
    browser.post("/login", data={"token": fleet.house.token(Role.ADMIN, Role.OPERATOR)})
    for page in (
        "/", "/devices", f"/devices/{device.id}", f"/devices/{device.id}/predictions", "/groups", "/groups/lab", "/enrolment",
        "/models", "/models/digits", "/models/digits/1.0.0", "/rollouts", f"/rollouts/{rollout}", "/experiments",
        f"/experiments/{trial}", "/alerts", "/alerts/rules", "/alerts/silences", "/settings/contacts",
        "/events", "/bundles", "/profiles", f"/profiles/{ORT}", "/audit", "/settings",
        "/settings/webhooks",
    ):  # fmt: skip
        elements = live_elements(browser.get(page).text)
        assert len(elements) > 1, page
        assert kept == elements, page


def test_each_viewer_has_the_key_of_its_own_session(live: tuple[Fleet, Device, str]) -> None:
    fleet, _device, url = live
    with (
        looking(fleet, url, "/", Role.OPERATOR) as (one, first),
        looking(fleet, url, "/", Role.OPERATOR) as (two, second),
    ):
        keys = [_key(browser.get("/").text) for browser in (one, two)]
        assert keys[0] != keys[1]
        texts = [next(first), next(second)]
        assert keys[1] not in texts[0]
        assert keys[0] not in texts[1]


def test_no_viewer_has_the_buttons_of_anothers_grants(live: tuple[Fleet, Device, str]) -> None:
    fleet, _device, url = live
    fleet.device("scoped", labels={"line": "line-a"})
    for group in ("line-a", "line-b"):
        fleet.parts.fleet.groups.create(group, f"line={group}", "test")
    fleet.release("lines@1.0.0", ORT)
    rollout = fleet.rollout(release="lines@1.0.0", selector="group=line-a", stages=STAGES)
    looks = []
    for name, group in (("ann", "line-a"), ("bob", "line-b"), ("cem", "line-a")):
        grant = Grant(Role.OPERATOR, GrantScope(groups=frozenset({group})))
        made = fleet.parts.access.create_token(name, [], by="test", scoped=[grant])
        looks.append(_looking(url, f"/rollouts/{rollout}", {"token": made.token}))
    with looks[0] as (_ann, first), looks[1] as (_bob, second), looks[2] as (_cem, third):
        shown = ['data-operation="pause_rollout"' in next(one) for one in (first, second, third)]
        assert shown == [True, False, True]


def test_a_maker_gets_no_button_to_approve_from_a_page_that_is_shared(live: tuple[Fleet, Device, str]) -> None:
    """Two people with the same rights look at one page: one made the rollout, the other may approve it."""
    fleet, _device, url = live
    fleet.device("asked", labels={"line": "asked"})
    fleet.release("asked@1.0.0", ORT)
    stages = [{"name": "all", "size": {"percent": 100}, "approval": {"role": "approver"}}]
    rollout = fleet.rollout(release="asked@1.0.0", selector="line=asked", stages=stages)  # ann's
    roles = [Role.OPERATOR, Role.APPROVER]
    tokens = [fleet.parts.access.create_token(name, roles, by="test").token for name in ("ann", "eve")]
    looks = [_looking(url, f"/rollouts/{rollout}", {"token": token}) for token in tokens]
    with looks[0] as (_ann, first), looks[1] as (_eve, second):
        texts = [next(first), next(second)]
    assert ['data-operation="approve_rollout"' in text for text in texts] == [False, True]
    assert ['data-operation="deny_rollout"' in text for text in texts] == [True, True]
    assert "<!--" not in "".join(texts)


def test_a_viewer_leaves_when_its_rights_change(live: tuple[Fleet, Device, str]) -> None:
    """Its page is made for all who look with the same rights: they would get what it has from now on."""
    fleet, device, url = live
    made = fleet.parts.access.create_token("dora", [Role.OPERATOR], by="test")
    with _looking(url, f"/devices/{device.id}", {"token": made.token}) as (_dora, messages):
        next(messages)
        fleet.parts.access.people.grant("dora", Grant(Role.VIEWER))
        list(messages)  # it ends before a heartbeat


def test_nobody_looks_without_a_session_or_at_what_is_no_page(live: tuple[Fleet, Device, str]) -> None:
    fleet, _device, url = live
    assert httpx.get(f"{url}/live", params={"page": "/"}).status_code == 401
    assert httpx.get(f"{url}/live", params={"page": "/"}, cookies={COOKIE: "x.y"}).status_code == 401
    with looking(fleet, url, "https://example.org/") as (_browser, messages):
        assert 'id="' in next(messages)  # the overview instead


def test_a_stream_ends_with_its_session(live: tuple[Fleet, Device, str]) -> None:
    fleet, device, url = live
    with looking(fleet, url, f"/devices/{device.id}") as (browser, messages):
        next(messages)
        browser.post("/logout", data={"form_key": _key(browser.get("/").text)})
        assert list(messages) is not None  # it ends by itself


def _key(text: str) -> str:
    return text.split('name="form_key" value="')[1].split('"', maxsplit=1)[0]
