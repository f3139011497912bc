"""The pages of the audit trail and of events: paged, filtered, exported, and whether the chain holds."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text as sql

from edgefleet_server.access.errors import BrokenTrailError
from edgefleet_server.access.model import Role
from edgefleet_server.events.model import NewEvent
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_pages import part_of
from tests.server.dashboard.test_settings_pages import page


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server with 120 audit rows of two actors, and some events."""
    fleet = Fleet(tmp_path_factory.mktemp("busy") / "server")
    for number in range(120):
        actor, action = ("ann (a1)", "create_group") if number % 3 else ("ben (b1)", "delete_group")
        fleet.parts.access.record(actor, action, f"/api/v1/groups/g{number}", 201 if number % 3 else 409, f"r{number}")
        fleet.house.clock.turn(minutes=1)
    fleet.parts.access.record("=cmd() (x1)", "create_group", "/api/v1/groups", 201, "r-bad")
    for number in range(60):
        fleet.parts.fleet.feed.add([NewEvent("enrolled", f"cam-{number:02d}")])
    fleet.parts.fleet.feed.add(
        [NewEvent("rollout", rollout="r-1", detail={"from": "running", "to": "paused", "reason": "too hot"})]
    )
    yield fleet
    fleet.close()


def test_the_audit_trail_is_paged_by_key_and_filtered(busy: Fleet) -> None:
    browser = busy.browser(Role.ADMIN)
    first = page(browser, "/audit?actor=ann")
    assert "80 entries" in part_of(first, "audit")
    assert "ben" not in part_of(first, "audit")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = page(browser, html.unescape(following[1]))
    seen = [re.findall(r"/api/v1/groups/g(\d+)<", text) for text in (first, second)]
    assert [len(one) for one in seen] == [50, 30]
    assert not set(seen[0]) & set(seen[1])
    refused = part_of(page(browser, "/audit?action=delete_group&object=/api/v1/groups/g9"), "audit")
    assert "409 refused" in refused
    assert "create_group" not in refused
    between = page(browser, "/audit?since=2026-11-25T12:10&until=2026-11-25T12:20")
    assert "10 entries" in part_of(between, "audit")


def test_a_filter_that_matches_nothing_and_a_time_that_is_none_say_so(busy: Fleet) -> None:
    browser = busy.browser(Role.ADMIN)
    assert "No matching entries" in page(browser, "/audit?actor=nobody")
    wrong = page(browser, "/audit?since=yesterday")
    assert "&#39;yesterday&#39; is not a valid time" in wrong
    assert 'aria-invalid="true"' in wrong
    assert "Nothing" not in part_of(wrong, "audit")
    assert "is not a valid time" in page(browser, "/events?since=soon")


def test_the_audit_trail_can_be_taken_along_whole_or_filtered(busy: Fleet) -> None:
    browser = busy.browser(Role.ADMIN)
    answer = browser.get("/audit/export?form=csv&actor=ben")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit-2026-11-25.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 40
    assert rows[0]["actor"] == "ben (b1)"
    assert rows[0]["at"].endswith("Z")
    lines = [json.loads(line) for line in browser.get("/audit/export?form=json&action=create_group").text.splitlines()]
    assert {one["action"] for one in lines} == {"create_group"}
    assert len(lines) == 81


def test_the_audit_page_says_whether_the_chain_holds_and_shows_the_newest_head(busy: Fleet) -> None:
    chain, browser = busy.parts.access.chain, busy.browser(Role.AUDITOR)
    assert "No head yet" in page(browser, "/audit")
    head = chain.make_head()
    chain.read_again()
    assert head is not None
    shown = page(browser, "/audit")
    assert "Chain holds" in shown
    assert head.root[:16] in shown
    actor = chain.entries(2, 1)[0].record().actor
    for named in ("mallory", actor):
        with busy.parts.db.session() as session:
            session.execute(sql("UPDATE audit SET actor = :actor WHERE n = 3"), {"actor": named})
        with suppress(BrokenTrailError):
            chain.read_again()
        assert ("Chain broken at entry 3" in page(browser, "/audit")) is (named == "mallory")


def test_no_cell_of_the_export_is_a_formula(busy: Fleet) -> None:
    rows = list(
        csv.DictReader(io.StringIO(busy.browser(Role.ADMIN).get("/audit/export?form=csv&object=/api/v1/groups").text))
    )
    assert [one["actor"] for one in rows if "cmd" in one["actor"]] == ["'=cmd() (x1)"]


def test_the_api_filters_the_same_way_and_the_page_shows_how(busy: Fleet) -> None:
    client = busy.house.client(Role.ADMIN)
    params = {"actor": "ann", "action": "create_group", "object": "/api/v1/groups/g1", "since": "2026-11-25T12:05:00Z"}
    found = client.get("/api/v1/audit", params=params).json()
    assert found["total"] == len(found["items"]) > 3
    assert {one["actor"] for one in found["items"]} == {"ann (a1)"}
    assert client.get("/api/v1/audit", params={"since": "2026-11-25T12:05:00"}).status_code == 422  # no time zone
    text = html.unescape(page(busy.browser(Role.ADMIN), "/audit?actor=ann&since=2026-11-25"))
    assert "/api/v1/audit?actor=ann&since=2026-11-25T00%3A00%3A00Z" in text


def test_a_percent_sign_is_a_letter_of_a_filter(busy: Fleet) -> None:
    client = busy.house.client(Role.ADMIN)
    assert client.get("/api/v1/audit", params={"actor": "a%"}).json()["total"] == 0


def test_events_are_paged_and_filtered(busy: Fleet) -> None:
    browser = busy.browser(Role.VIEWER)
    first = page(browser, "/events?kind=enrolled")
    assert "60 events" in part_of(first, "feed")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = part_of(page(browser, html.unescape(following[1])), "feed")
    assert "cam-09" in second
    assert "cam-59" not in second
    told = part_of(page(browser, "/events?rollout=r-1"), "feed")
    assert "1 event" in told
    assert "running → paused too hot" in told
    assert "cam-07" in part_of(page(browser, "/events?device=cam-07"), "feed")
    assert "No matching events" in page(browser, "/events?device=nobody")
