"""Events as a story: what is folded into one line, what each line says, and that no event is lost."""

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.story.event_fold import folded, happening_of, threads
from edgefleet_server.dashboard.story.event_ids import MAX_CHARS, MOST_IDS, packed, unpacked
from edgefleet_server.dashboard.story.model import Happening, Story, Tone
from edgefleet_server.events.types import DEVICE, SERVER
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.test_pages import part_of, text_of

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def at(seconds: float, kind: str, device: str = "", **more: Any) -> Happening:
    return Happening(NOON + timedelta(seconds=seconds), kind, device, **more)


def texts(*happened: Happening) -> list[tuple[str, str, str]]:
    """Return the lines of a story, the newest first: tone, what, why."""
    return [(one.tone.value, one.text, one.why) for one in folded(happened).lines]


def install(n: int, seconds: float, to: str = "healthy", **more: str) -> Happening:
    said = {"release": "ocr@1.0.0", "rollout": "r-1", "stage": "canary", "to": to} | more
    return at(seconds, "assignment", f"cam{n}", **said)


def test_installs_of_a_stage_are_one_line() -> None:
    events = [install(n, n / 2, "offered") for n in range(8)] + [install(n, 1 + n / 2) for n in range(8)]
    events.append(at(2, "phase", "cam0", release="ocr@1.0.0", to="committed"))
    events = [replace(one, event=n) for n, one in enumerate(events, start=40)]
    assert texts(*events) == [("ok", "8 devices installed ocr@1.0.0 in 4 s", "Stage canary.")]
    (line,) = folded(events).lines
    assert line.events == 17
    assert line.address == "/events?ids=40-16"
    assert [one.href for one in line.what] == ["", "", "/rollouts/r-1", ""]


def test_what_a_device_says_of_its_own_failure_is_told_with_its_stage() -> None:
    said = {"release": "ocr@1.0.0", "model": "ocr", "to": "rolled_back", "reason": "31 of 240 answers were not finite"}
    own = [at(4, kind, "cam0", **said) for kind in ("rollback", "quarantined")]
    (line,) = folded([install(0, 1, "offered"), *own]).lines
    assert (line.text, line.events) == ("ocr@1.0.0 failed on cam0", 3)
    assert {one.text for one in folded(own).lines} == {"cam0 went back by itself", "ocr had trouble on cam0"}, (
        "no rollout of today"
    )
    late = at(9, "crash", "cam0", release="ocr@1.0.0", model="ocr")
    assert len(folded([install(0, 1), late]).lines) == 2, "a crash is no part of an install"


def test_a_line_of_a_stage_says_who_failed_and_who_is_silent() -> None:
    reason = "31 of 240 answers were not finite"
    events = [install(0, 1), install(1, 2, "rolled_back", reason=reason), install(2, 3, "offered")]
    assert texts(*events) == [
        ("warn", "cam0 installed ocr@1.0.0", f"Stage canary, 1 failed, 1 did not take it yet. {reason}.")
    ]
    assert texts(*events[1:]) == [
        ("bad", "ocr@1.0.0 failed on cam1", f"Stage canary, 1 did not take it yet. {reason}.")
    ]
    assert texts(install(0, 1, "verifying")) == [("run", "cam0 installs ocr@1.0.0", "Stage canary.")]


@pytest.mark.parametrize(
    ("happened", "tone", "what", "why"),
    [
        ([at(0, "rollout", to="validating", by="ann"), at(1, "rollout", to="running", by="ann")], "run",
         "ann started the rollout of ocr@2", ""),
        ([at(0, "rollout", to="rolling_back", reason="1 of 4 failed"), at(9, "rollout", to="rolled_back")], "bad",
         "ocr@2 was rolled back automatically", "1 of 4 failed."),
        ([at(0, "rollout", to="rolling_back", by="ann")], "bad", "ocr@2 is going back by ann", ""),
        ([at(0, "rollout", to="paused", by="ann", reason="lunch")], "warn", "ocr@2 was paused by ann", "Lunch."),
        ([at(0, "rollout", to="running", before="paused", by="ann")], "run", "ann resumed the rollout of ocr@2", ""),
        ([at(0, "rollout", to="cancelled", by="ann")], "off", "ocr@2 was aborted by ann", ""),
        ([at(0, "rollout", to="finished")], "ok", "ocr@2 is rolled out", ""),
    ],
)  # fmt: skip
def test_turns_of_a_rollout(happened: list[Happening], tone: str, what: str, why: str) -> None:
    named = [replace(one, rollout="r-2", release="ocr@2") for one in happened]
    assert texts(*named) == [(tone, what, why)]


def test_devices_that_disappear_together_are_one_line_for_a_site() -> None:
    away = [at(n, "offline", f"dock{n}", name=f"dock-gate-{n}", site="Osaka", is_event=False) for n in range(3)]
    later = at(400, "offline", "dock9", site="Osaka")
    other = at(1, "offline", "gate1", site="Lyon")
    assert texts(*away, later, other) == [
        ("off", "dock9 went offline", ""),
        ("off", "3 devices in Osaka went offline within 2 s", "Still away: dock-gate-0, dock-gate-1, dock-gate-2."),
        ("off", "gate1 went offline", ""),
    ]
    assert folded(away).events == 0


def test_small_kinds() -> None:
    assert texts(at(0, "enrolled", "a"), at(5, "enrolled", "b"), at(6, "approved", "b", by="ann")) == [
        ("muted", "2 devices enrolled", "a, b, approved by ann.")
    ]
    assert texts(at(0, "rollout", release="ocr@2", rollout="r-1", to="regressed", before="finished")) == [
        ("bad", "ocr@2 got worse after it was rolled out", "")
    ]
    assert texts(at(0, "alert", title="ocr is slow", to="firing")) == [("warn", "ocr is slow fires", "")]
    grows = [
        at(0, "alert", title="Device offline: cam1", about="device_offline hall", to="firing"),
        at(60, "alert", title="Device offline: 2 in hall", about="device_offline hall", to="firing"),
        at(300, "alert", title="[ended] Device offline: 2 in hall", about="device_offline hall", to="resolved"),
    ]
    assert texts(*grows) == [("ok", "Device offline: 2 in hall fired and ended after 5 min", "")]
    assert texts(at(0, "alert", title="ocr is slow", to="firing"), at(300, "alert", title="ocr is slow", to="resolved")) == [
        ("ok", "ocr is slow fired and ended after 5 min", "")
    ]  # fmt: skip
    assert texts(at(0, "published", release="ocr@2.3.0", by="ann")) == [("muted", "ann published ocr@2.3.0", "")]
    assert texts(at(0, "drift", "a", model="ocr"), at(1, "drift", "b", model="ocr")) == [
        ("warn", "ocr drifts on 2 devices", "a, b.")
    ]
    assert texts(at(0, "boot", "a")) == [("muted", "a restarted", "")]


def test_a_gap_ends_a_line_and_the_newest_is_first() -> None:
    lines = folded([at(0, "boot", "a"), at(300, "boot", "b"), at(2000, "boot", "a")]).lines
    assert [(one.text, one.events) for one in lines] == [("a restarted", 1), ("2 devices restarted", 2)]


KINDS = [*DEVICE, *SERVER, "rollout", "stage", "assignment", "confirmation", "release", "alert", "published", "offline"]
HAPPENINGS = st.builds(
    Happening,
    at=st.integers(0, 5000).map(lambda n: NOON + timedelta(seconds=n)),
    kind=st.sampled_from(KINDS),
    device=st.sampled_from(["", "a", "b"]),
    site=st.sampled_from(["", "Osaka"]),
    model=st.sampled_from(["", "ocr"]),
    release=st.sampled_from(["", "ocr@1", "ocr@2"]),
    rollout=st.sampled_from(["", "r-1"]),
    stage=st.sampled_from(["", "canary"]),
    to=st.sampled_from(["", "healthy", "failed", "running", "rolling_back", "firing", "offered", "committed"]),
    by=st.sampled_from(["", "ann"]),
    reason=st.sampled_from(["", "it was slow"]),
)


@given(st.lists(HAPPENINGS, max_size=12))
def test_every_happening_is_in_exactly_one_line(happened: list[Happening]) -> None:
    assert sorted(id(one) for thread in threads(happened) for one in thread.happenings) == sorted(map(id, happened))
    story = folded(happened)
    assert story.events == sum(one.events for one in story.lines) == len(happened)
    assert all(one.text.strip() and "  " not in one.text for one in story.lines)
    assert [one.at for one in story.lines] == sorted((one.at for one in story.lines), reverse=True)
    cut = folded(happened, most=2)
    assert (len(cut.lines), cut.events) == (min(2, len(story.lines)), story.events)
    assert len(cut.lines) + cut.more == len(story.lines)


def test_the_numbers_in_words() -> None:
    assert Story((), 1).counts == "1 event in 0 lines"
    assert Story((), 1200, more=1, is_cut=True).counts == "the newest 1\N{NARROW NO-BREAK SPACE}200 events in 1 line"


@given(st.sets(st.integers(1, 2**63 - 1), min_size=1, max_size=40) | st.sets(st.integers(1, 60), min_size=1))
def test_ids_in_an_address_come_out_as_they_went_in(ids: set[int]) -> None:
    assert unpacked(packed(ids)) == sorted(ids)


def test_ids_of_all_events_of_a_story_are_short_enough_for_an_address() -> None:
    every_other = range(10**15, 10**15 + 2 * MOST_IDS, 2)
    assert unpacked(packed(every_other)) == list(every_other)
    assert len(packed(every_other)) < MAX_CHARS
    assert packed([131, 120, *range(121, 128)]) == "120-7.4"


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.", "1-0", "1.1", "a", "1-1000", "9" * 5000, "1-", "01", "1_0", str(2**63)]
)
def test_what_is_no_list_of_ids_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        unpacked(text)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(Path(tmp_path_factory.mktemp("story")))
    staged(fleet)
    yield fleet
    fleet.close()


def test_what_a_real_fleet_wrote_down_is_a_story(fleet: Fleet) -> None:
    events, total = fleet.parts.fleet.feed.page(limit=1000)
    story = folded(happening_of(one) for one in events)
    assert story.events == total
    assert len(story.lines) < 12
    said = [(one.tone, one.text) for one in story.lines]
    assert said[0] == (Tone.BAD, "digits@1.2.0 is going back automatically")
    installed = r"\d devices installed digits@1\.1\.0 in \d+ (s|min)"  # chance draws the devices of a stage
    assert [text for tone, text in said if tone is Tone.OK and re.fullmatch(installed, text)], said
    assert (Tone.OK, "9 devices installed digits@1.0.0 in 27 s") in said
    assert (Tone.MUTED, "10 devices enrolled") in said
    assert story.lines[1].text.startswith("digits@1.2.0 failed on cam")


def counts_with_links(page: str) -> list[tuple[int, str]]:
    """Return how many events each line of a story says that it has, and where that leads."""
    found = re.findall(r'<a href="([^"]+)">([\d\N{NARROW NO-BREAK SPACE}]+) events</a>', page)
    return [(int(n.replace("\N{NARROW NO-BREAK SPACE}", "")), html.unescape(address)) for address, n in found]


@pytest.mark.parametrize("path", ["/", "/events", "device"])
def test_the_link_behind_a_count_shows_just_as_many_events(fleet: Fleet, path: str) -> None:
    browser = fleet.browser(Role.VIEWER)
    device = next(iter(fleet.by_id))
    links = counts_with_links(browser.get(path.replace("device", f"/devices/{device}")).text)
    assert len(links) > 1
    for n, address in links:
        feed = part_of(browser.get(address).text, "feed")
        assert feed.startswith(f"Every event {n} event"), address


def test_a_link_that_was_cut_off_says_so_and_shows_everything(fleet: Fleet) -> None:
    page = fleet.browser(Role.VIEWER).get("/events?ids=12-").text
    assert "'12-' are no ids of events: follow the link of a story again. Showing everything." in html.unescape(
        text_of(page)
    )
