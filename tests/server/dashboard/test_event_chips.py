"""The page of events: a story with chips of what it has, and the list of every event."""

from datetime import UTC, datetime

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.audit.event_chips import (
    SEVERITIES,
    kind_chips,
    known_devices,
    only,
    severity_chips,
    severity_of,
)
from edgefleet_server.dashboard.audit.events import EventQuery
from edgefleet_server.dashboard.story.model import Piece, Story, StoryLine, Tone
from edgefleet_server.events.model import EventView, NewEvent
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_pages import part_of, text_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def line(tone: Tone, events: int = 1) -> StoryLine:
    return StoryLine(NOW, tone, "ok", [Piece("it")], "", events, "")


def event(kind: str, device: str = "", name: str = "") -> EventView:
    return EventView(1, device, NOW, NOW, kind, kind, "", None, {}, name)


STORY = Story([line(Tone.BAD, 4), line(Tone.OK), line(Tone.BAD), line(Tone.MUTED)], 7)


def test_each_line_is_of_one_severity() -> None:
    tones = [tone for several in SEVERITIES.values() for tone in several]
    assert sorted(tones) == sorted(Tone)
    assert [severity_of(one) for one in STORY.lines] == ["bad", "ok", "bad", "other"]


def test_a_chip_leads_to_its_lines_and_back() -> None:
    bad, good, other = severity_chips(STORY, "bad", {"view": "story", "severity": "bad", "kind": "x"})
    assert (bad.words, bad.count, bad.is_on, bad.address) == ("went wrong", 2, True, "/events?view=story&kind=x")
    assert good.address == "/events?view=story&kind=x&severity=ok"
    assert other.count == 1
    assert only(STORY, "bad").events == 5
    assert only(STORY, "") is STORY


def test_kinds_are_counted_the_most_frequent_first() -> None:
    found = kind_chips([event("phase"), event("boot"), event("phase")], "drift", {})
    assert [(one.words, one.count, one.is_on) for one in found] == [
        ("phase", 2, False),
        ("boot", 1, False),
        ("drift", 0, True),
    ]


def test_devices_of_the_newest_events_can_be_picked() -> None:
    events = [event("boot", "d-2", "press"), event("boot"), event("boot", "d-1"), event("boot", "d-2", "press")]
    assert known_devices(events, 5) == [("d-2", "press"), ("d-1", "")]
    assert known_devices(events, 1) == [("d-2", "press")]


@pytest.mark.parametrize(
    ("query", "is_story"),
    [
        (EventQuery(), True), (EventQuery(severity="bad"), True), (EventQuery(rollout="r-1"), False), (EventQuery(view="all"), False),
        (EventQuery(device="d-1", view="story"), True),
    ],
)  # fmt: skip
def test_a_line_of_the_story_leads_to_the_list_of_its_events(query: EventQuery, is_story: bool) -> None:
    assert query.is_story is is_story


def test_the_page_tells_the_story_and_lists_every_event(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    assert "No events yet" in text_of(browser.get("/events").text)
    feed = empty_fleet.parts.fleet.feed
    feed.add([NewEvent("enrolled", f"cam-{n:02d}") for n in range(30)])
    feed.add([NewEvent("rollout", rollout="r-1", detail={"from": "running", "to": "paused", "reason": "too hot"})])
    html = browser.get("/events").text
    assert "31 events in 2 lines" in text_of(html)
    told = part_of(html, "feed")
    assert "30 devices enrolled" in told
    assert "r-1 was paused automatically Too hot." in told
    assert "needs a look 1" in text_of(html)
    assert "enrolled 30" in text_of(html)
    paused = part_of(browser.get("/events?severity=warn").text, "feed")
    assert "was paused" in paused
    assert "enrolled" not in paused
    assert "30 devices enrolled" in part_of(browser.get("/events?kind=enrolled&view=story").text, "feed")
    for view in ("story", "all"):
        later = browser.get(f"/events?kind=rollout&since=2999-01-01&view={view}").text
        assert "enrolled 30" not in text_of(later)
    every = part_of(browser.get("/events?view=all").text, "feed")
    assert every.count("cam-") == 30
    assert "No matching events" in text_of(browser.get("/events?severity=bad").text)
