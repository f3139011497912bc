"""Events: in words, filtered, and followed in order without doubles."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from edgefleet_cli.core.api.fleet import Event
from edgefleet_cli.core.errors import BadAnswerError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.core.transport.request import PAGE_SIZE
from edgefleet_cli.core.transport.sse import events_of
from edgefleet_cli.fleet.follow import Follower, event_line
from edgefleet_cli.fleet.render import what
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Asked, SteppedClock, Stub, event, page, problem, told
from tests.cli.terminal import Terminal

_GET = "GET /events"
_STREAM = "GET /events/stream"


class _Feed(Stub):
    """A stub that holds events as the server does: `seen` in the list of the last ones, `settled` for who follows.

    `away`: how many of the next requests are answered with 503.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.seen: set[int] = set()
        self.settled = 0
        self.away = 0

    def answer(self, asked: Asked) -> Any:
        self.asked.append(asked)
        if self.away:
            self.away -= 1
            return problem(503, "server.database_unavailable", "away")
        if asked.what == _GET:
            limit = int(asked.query["limit"])
            return page([event(number) for number in sorted(self.seen, reverse=True)[:limit]])
        after_id = int(asked.query["after_id"])
        return told([event(number) for number in sorted(self.seen) if after_id < number <= self.settled])


def _followed(
    fleet: Stub, feed: _Feed, steps: dict[int, Callable[[], None]], *, wait_s: float, limit: int = 50
) -> list[int]:
    """Return the ids that follow from `feed`; `steps` happen at their second."""
    fleet.answer = feed.answer  # type: ignore[method-assign]

    def at_sleep(now_s: float) -> None:
        for second in [second for second in steps if second <= now_s]:
            steps.pop(second)()

    with ApiClient(fleet.url, "edg_test") as api:
        follower = Follower(api, lambda _: None, SteppedClock(at_sleep), {})
        return [entry.value.id for entry in follower.follow(limit=limit, wait_s=wait_s)]


def _put(feed: _Feed, *numbers: int, settled: int | None = None) -> None:
    feed.seen |= set(numbers)
    feed.settled = max(numbers) if settled is None else settled


def test_what_is_there_comes_first_then_what_is_new_each_once(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    _put(feed, 1, 2, 3)
    steps = {1: lambda: _put(feed, 4), 3: lambda: _put(feed, 5, 6)}
    assert _followed(fleet, feed, steps, wait_s=5) == [1, 2, 3, 4, 5, 6]


def test_following_begins_with_the_last_ones_only(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    _put(feed, *range(1, 100))
    assert _followed(fleet, feed, {1: lambda: _put(feed, 100)}, wait_s=3, limit=2) == [98, 99, 100]


def test_an_empty_feed_is_followed_from_its_first_event(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    assert _followed(fleet, feed, {2: lambda: _put(feed, 1)}, wait_s=4) == [1]


def test_an_event_that_is_committed_late_is_not_missed(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    _put(feed, 1, 2, 4, settled=2)
    steps = {2: lambda: _put(feed, 5, settled=2), 4: lambda: _put(feed, 3, settled=5)}
    assert _followed(fleet, feed, steps, wait_s=6) == [1, 2, 4, 3, 5]


def test_many_events_at_once_are_read_in_one_stream(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    many = list(range(1, 2 * PAGE_SIZE + 5))
    assert _followed(fleet, feed, {1: lambda: _put(feed, *many)}, wait_s=1.5) == many


def test_a_restart_of_the_server_loses_and_doubles_nothing(fleet: Stub) -> None:
    feed = _Feed(fleet.url)
    _put(feed, 1)

    def go_away() -> None:
        feed.away = 3
        _put(feed, 2, 3)

    assert _followed(fleet, feed, {2: go_away}, wait_s=20) == [1, 2, 3]


def test_a_first_request_that_fails_is_an_error(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, problem(503, "server.database_unavailable", "away"))
    ran = edgectl("events", "-f")
    assert (ran.code, ran.out) == (1, "")
    ran.told()


def test_filters_go_to_the_server(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, page([event(1)]))
    fleet.says(_STREAM, told([]))
    flags = ("--rollout", "r-7f3a9c", "--kind", "stage", "--device", "d-1", "--since", "2026-01-03T12:00:00Z")
    assert edgectl("events", *flags).code == 0
    ran = edgectl("events", "-f", *flags, "--timeout", "1200ms")
    assert ran.code == 8
    wanted = {"rollout": "r-7f3a9c", "kind": "stage", "device": "d-1", "since": "2026-01-03T12:00:00+00:00"}
    queries = fleet.queries(_GET)
    assert len(queries) == 2
    assert all(wanted.items() <= query.items() for query in queries)
    streamed = fleet.queries(_STREAM)
    assert streamed
    assert all({**query, "since": wanted["since"]}.items() >= wanted.items() for query in streamed)
    assert all("since" not in query for query in streamed)


def test_following_since_a_time_tells_nothing_older(edgectl: Edgectl, fleet: Stub) -> None:
    old, new = event(2000), event(2001, received_at="2026-01-03T13:00:05+00:00")
    fleet.says(_GET, page([]), page([old]))
    fleet.says(_STREAM, told([event(1999), old, new]), told([]))
    ran = edgectl("events", "-f", "--since", "2026-01-03T13:00:00Z", "--timeout", "1200ms", "-o", "name")
    assert ran.out.split() == ["2001"], "with nothing since then, the stream began with the first event of all"
    assert fleet.queries(_STREAM)[0]["after_id"] == "1000"


def test_following_since_a_time_begins_with_all_that_came_since(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, page([event(number) for number in range(80, 0, -1)]))
    fleet.says(_STREAM, told([]))
    since = ("--since", "2026-01-03T12:00:00Z")
    ran = edgectl("events", "-f", *since, "--timeout", "300ms", "-o", "name")
    assert len(ran.out.split()) == 80
    edgectl("events", "-f", *since, "--limit", "5", "--timeout", "300ms", "-o", "name")
    assert [one["limit"] for one in fleet.queries(_GET)] == [str(PAGE_SIZE), "5"]


def test_a_type_since_a_time_is_asked_of_the_stream_from_before_it(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, page([event(9), event(8)]))
    fleet.says(_STREAM, told([event(9)]), told([]))
    flags = ("--type", "edgefleet.rollout.*", "--since", "2026-01-03T12:00:00Z", "--timeout", "1200ms", "-o", "name")
    assert edgectl("events", "-f", *flags).out.split() == ["9"]
    assert fleet.queries(_STREAM)[0]["after_id"] == "7"


@pytest.mark.parametrize("form", ["table", "wide", "json", "csv", "name", "yaml"])
def test_each_format_is_a_stream(edgectl: Edgectl, fleet: Stub, form: str) -> None:
    fleet.says(_GET, page([event(2), event(1)]))
    fleet.says(_STREAM, told([event(1), event(2), event(3)]), told([]))
    ran = edgectl("events", "-f", "--timeout", "1200ms", "-o", form)
    assert ran.code == 8
    if form == "json":
        assert [json.loads(line) for line in ran.out.splitlines()] == [event(1), event(2), event(3)]
    elif form == "name":
        assert ran.out.split() == ["1", "2", "3"]
    else:
        places = [ran.out.index(f"reason {number}") for number in (1, 2, 3)]
        assert places == sorted(places)
    if form == "csv":
        assert len(ran.out.splitlines()) == 4


def test_a_type_is_asked_of_the_stream_and_only_with_it(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, page([event(2), event(1)]))
    fleet.says(_STREAM, told([event(3)]), told([]))
    ran = edgectl("events", "-f", "--type", "edgefleet.rollout.*", "--timeout", "1200ms", "-o", "name")
    assert ran.out.split() == ["3"]
    assert fleet.queries(_STREAM)[0]["type"] == "edgefleet.rollout.*"
    assert fleet.queries(_STREAM)[0]["after_id"] == "2"
    assert edgectl("events", "--type", "edgefleet.rollout.*").code == 2


def _streamed(text: str, media_type: str = "text/event-stream; charset=utf-8") -> list[dict[str, Any]]:
    return list(events_of(httpx.Response(200, headers={"content-type": media_type}, text=text)))


def test_an_event_that_breaks_off_is_none_and_what_is_no_object_is_refused() -> None:
    assert _streamed('id: 1\ndata: {"id": 1}\n\n: hello\n\ndata: {"id": 2}') == [{"id": 1}]
    assert _streamed('data:{"a":\ndata: 1}\n\n\n') == [{"a": 1}]
    with pytest.raises(BadAnswerError) as raised:
        _streamed("data: [1]\n\n")
    assert raised.value.why == "expected a JSON object, got '[1]'"


def test_a_page_in_the_place_of_a_stream_is_refused() -> None:
    with pytest.raises(BadAnswerError) as raised:
        _streamed("<html>\n\n", "text/html")
    assert raised.value.why == "expected text/event-stream, got 'text/html'"


def test_ctrl_c_exits_130(fleet: Stub) -> None:
    fleet.says(_GET, page([event(1)]))
    fleet.says(_STREAM, told([]))
    command = [sys.executable, "-m", "edgefleet_cli.main", "events", "-f", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == event(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_followed_event_is_folded_below_its_words_on_a_terminal(fleet: Stub) -> None:
    fleet.says(_GET, page([event(1)]))
    fleet.says(_STREAM, told([]))
    terminal = Terminal(fleet, "events", "-f", "--timeout", "1100ms")
    assert terminal.end() == 8
    lines = terminal.shown.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[0].startswith("2026-01-03 12:00:01")
    assert lines[1].startswith(" " * 21)


def test_a_reader_that_goes_away_ends_the_following(fleet: Stub) -> None:
    fleet.says(_GET, page([event(1)]))
    fleet.says(_STREAM, told([event(2)]), told([event(3)]), told([event(4)]), told([event(5)]))
    command = [sys.executable, "-m", "edgefleet_cli.main", "events", "-f", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


def _changed(kind: str, **detail: Any) -> dict[str, Any]:
    return event(1, kind=kind, detail=detail)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            _changed(
                "stage",
                **{"from": "soaking"},
                to="passed",
                reason="4 of 4",
                actor="engine",
                stage="canary",
                stratum="p",
            ),
            "canary/p soaking → passed by engine: 4 of 4",
        ),
        (
            _changed("rollout", **{"from": "running"}, to="paused", reason="odd", actor="ana"),
            "running → paused by ana: odd",
        ),
        (_changed("rollout", **{"from": None}, to="running", reason="", actor="ana"), "→ running by ana"),
        (
            _changed(
                "assignment", **{"from": "verifying"}, to="failed", error_class="nonfinite", reason="3 of 20", stage=0
            ),
            "0 verifying → failed: nonfinite: 3 of 20",
        ),
        (_changed("install", target="digits/1.1.0/p", phase="committed"), "digits@1.1.0 committed"),
        (_changed("presence", reason="gone"), "gone"),
        (
            _changed("rollout", **{"from": "finished"}, to="regressed", reason="3 of 20", actor="engine"),
            "finished → regressed (regressed after it had finished) by engine: 3 of 20",
        ),
        (_changed("rollout"), "-"),
        ({"id": 1, "kind": "stage"}, "-"),
    ],
)
def test_an_event_in_words(entry: dict[str, Any], told: str) -> None:
    assert what(struct_of(entry, Event)) == told


def test_no_text_of_a_device_steers_the_terminal() -> None:
    evil = event(1, device="\x1b[2J", detail={"reason": "a\nb\x1b]0;x"})
    assert not {"\x1b", "\n"} & set(event_line(struct_of(evil, Event)))


def test_a_table_of_events_fits(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(_GET, page([event(2), event(1)]))
    ran = edgectl("events")
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert edgectl("events", "-o", "json").json == page([event(2), event(1)])


def test_a_device_goes_by_its_name_and_then_by_its_id(edgectl: Edgectl, fleet: Stub) -> None:
    entry = event(1, device="d-1", display_name="Roof 3", kind="assignment")
    assert "  Roof 3 (d-1)" in event_line(struct_of(entry, Event))
    fleet.says(_GET, page([entry]))
    head, row = edgectl("events").out.splitlines()[:2]
    assert head.split()[:4] == ["AT", "KIND", "NAME", "DEVICE"]
    assert "Roof 3  d-1" in row


def test_a_rollout_that_was_cancelled_is_shown_as_aborted() -> None:
    detail = {"from": "running", "to": "cancelled", "reason": "aborted by ann", "actor": "ann"}
    assert what(struct_of(event(1, kind="rollout", detail=detail), Event)).startswith("running → aborted by ann")
    assert "cancelled" in what(struct_of(event(1, kind="assignment", detail=detail), Event))
