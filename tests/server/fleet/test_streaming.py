"""The stream of events, over real HTTP: resume, filters, bounds, and one question to the database for all viewers."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from httpx_sse import EventSource

from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.events import stream
from edgefleet_server.events.model import NewEvent
from edgefleet_server.events.routes import form_of
from edgefleet_server.events.stream import Form
from edgefleet_server.events.types import all_types, is_chosen, is_pattern, type_of
from tests.support.servers import ApiHouse


class Streams:
    """A house behind a real listener."""

    def __init__(self, house: ApiHouse) -> None:
        self.house = house
        config = uvicorn.Config(
            create_app(house.parts),
            host="127.0.0.1",
            port=0,
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        token = house.token(Role.VIEWER)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", headers={"authorization": f"Bearer {token}"}, timeout=60,
            limits=httpx.Limits(max_connections=None),
        )  # fmt: skip

    def stop(self) -> None:
        """End the streams and the listener."""
        self.house.parts.fleet.stream.close()
        self.server.should_exit = True
        self.thread.join(20)
        self.http.close()

    def happen(self, *rollouts: str, to: str = "paused") -> list[int]:
        """Let a rollout event happen for each name, each in a transaction of its own."""
        detail = {"from": "running", "to": to}
        return [
            self.house.parts.fleet.feed.add([NewEvent("rollout", rollout=one, detail=detail)])[0] for one in rollouts
        ]

    @contextmanager
    def open(self, last: int | None = None, **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream; yields an iterator over its events."""
        headers = {} if last is None else {"last-event-id": str(last)}
        with self.http.stream("GET", "/events/stream", params=params, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            events = EventSource(answer).iter_sse()
            assert next(events).retry == 2000  # from here on the hub feeds it
            yield (json.loads(one.data) for one in events if one.data)


@pytest.fixture
def streams(tmp_path: Path, database_url: str) -> Iterator[Streams]:
    """A house with a listener, on each kind of database."""
    house = ApiHouse(tmp_path / "server", database_url, SystemClock())
    made = Streams(house)
    yield made
    made.stop()
    house.close()


def take(events: Iterator[dict[str, Any]], count: int) -> list[int]:
    return [next(events)["id"] for _ in range(count)]


def test_a_stream_begins_now_and_tells_what_is_new_as_the_list_does(streams: Streams) -> None:
    streams.happen("r-0")
    with streams.open() as events:
        [number] = streams.happen("r-1")
        told = next(events)
    assert told["id"] == number
    assert told == streams.http.get("/events", params={"limit": 1}).json()["items"][0]
    assert told["type"] == "edgefleet.rollout.paused"


def test_who_comes_back_misses_nothing_and_sees_nothing_twice(streams: Streams) -> None:
    numbers = streams.happen(*["r-1"] * 5)
    with streams.open(numbers[1]) as events:
        assert take(events, 3) == numbers[2:]
        more = streams.happen("r-1", "r-1")
        assert take(events, 2) == more
    late = streams.happen("r-1")
    with streams.open(more[0]) as events:
        assert take(events, 2) == [more[1], *late]


def test_the_same_feed_comes_as_a_json_object_a_line(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.2)
    numbers = streams.happen(*["r-1"] * 5)
    headers = {"accept": "application/x-ndjson", "accept-encoding": "gzip", "last-event-id": str(numbers[1])}
    with streams.http.stream("GET", "/events/stream", headers=headers) as answer:
        assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
        assert "content-encoding" not in answer.headers  # packed, it would be held back
        assert answer.headers["vary"] == "Accept"
        lines = answer.iter_lines()
        told = [json.loads(next(lines)) for _ in range(3)]
        assert told == streams.http.get("/events", params={"after_id": numbers[1], "limit": 3}).json()["items"]
        assert next(lines) == ""  # nothing happens
        [newest] = streams.happen("r-1")
        assert json.loads(next(line for line in lines if line))["id"] == newest


def test_who_resumes_lines_misses_nothing(streams: Streams) -> None:
    numbers = streams.happen(*["r-1"] * 4)
    for after in range(4):
        by_header: tuple[dict[str, str], dict[str, float]] = ({"last-event-id": str(numbers[after])}, {})
        by_query: tuple[dict[str, str], dict[str, float]] = ({}, {"after_id": numbers[after]})
        for headers, params in (by_header, by_query):
            text = streams.http.get(
                "/events/stream",
                params={"max_s": 0.3, **params},
                headers={"accept": "application/x-ndjson", **headers},
            ).text
            assert [json.loads(line)["id"] for line in text.splitlines() if line] == numbers[after + 1 :]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.SSE),
        ("*/*", Form.SSE),
        ("application/json", Form.SSE),
        ("text/event-stream", Form.SSE),
        ("Application/X-NDJSON; charset=utf-8", Form.NDJSON),
        ("application/x-ndjson, */*;q=0.5", Form.NDJSON),
        ("application/x-ndjson;q=0.4, text/event-stream;q=0.5", Form.SSE),
        ("application/x-ndjson;q=0", Form.SSE),
        ("application/x-ndjson;q=none", Form.NDJSON),
        (",;,", Form.SSE),
    ],
)
def test_the_form_of_a_stream(accept: str, form: Form) -> None:
    assert form_of(accept) is form


def test_events_that_come_while_a_viewer_catches_up_arrive_once_and_in_order(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAGE", 7)
    first = streams.happen(*["r-1"] * 30)
    with ThreadPoolExecutor(1) as pool, streams.open(0) as events:
        later = pool.submit(streams.happen, *["r-1"] * 40)
        ids = take(events, 70)
        assert ids == [*first, *later.result()]


def test_filters_choose_by_rollout_device_kind_and_type(streams: Streams) -> None:
    feed = streams.house.parts.fleet.feed
    [paused] = streams.happen("r-1")
    [finished] = streams.happen("r-2", to="finished")
    [enrolled] = feed.add([NewEvent("enrolled", "d-1")])
    everything = [paused, finished, enrolled]
    for params, wanted in (
        ({"rollout": "r-2"}, [finished]),
        ({"device": "d-1"}, [enrolled]),
        ({"kind": "rollout"}, [paused, finished]),
        ({"type": "edgefleet.rollout.completed"}, [finished]),
        ({"type": "edgefleet.rollout.*"}, [paused, finished]),
        ({"type": "edgefleet.device.enrolled,edgefleet.rollout.paused"}, [paused, enrolled]),
        ({"type": "*"}, everything),
    ):
        with streams.open(0, max_s=0.5, **params) as events:
            assert [one["id"] for one in events] == wanted, params
    with streams.open(rollout="r-2") as events:  # the same for what is new
        streams.happen("r-1")
        [wanted_one] = streams.happen("r-2")
        assert take(events, 1) == [wanted_one]


def test_a_viewer_that_is_too_slow_loses_its_buffer_but_no_event(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_WAITING", 3)
    with streams.open() as events:
        numbers = streams.happen(*["r-1"] * 2)
        with streams.house.parts.db.session():  # one commit, more than the buffer holds
            numbers += streams.happen(*["r-1"] * 50)
        assert take(events, 52) == numbers


def test_many_viewers_cost_one_question(streams: Streams) -> None:
    hub = streams.house.parts.fleet.stream
    count = 40
    with ThreadPoolExecutor(count) as pool:
        ready = threading.Barrier(count + 1)

        def look() -> list[int]:
            with streams.open() as events:
                ready.wait(60)
                return take(events, 10)

        looking = [pool.submit(look) for _ in range(count)]
        ready.wait(60)
        before = hub.polls
        with streams.house.parts.db.session():
            numbers = streams.happen(*["r-1"] * 10)
        assert [one.result() for one in looking] == [numbers] * count
        assert hub.polls - before < count / 2  # one each second, whoever looks


def test_the_hub_rests_while_nobody_looks(streams: Streams) -> None:
    hub = streams.house.parts.fleet.stream
    with streams.open(max_s=0.1) as events:
        assert list(events) == []
    deadline = time.monotonic() + 30
    while hub.viewers or hub._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with streams.open() as events:
        numbers = streams.happen("r-1")
        assert take(events, 1) == numbers


def test_silence_is_broken_by_comments(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    with streams.http.stream("GET", "/events/stream", params={"max_s": 0.5}) as answer:
        lines = list(answer.iter_lines())
    assert lines.count(": still here") >= 3
    assert not any(line.startswith("data:") for line in lines)


def test_what_cannot_be_streamed_is_refused_as_a_problem(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(headers: dict[str, str] | None = None, **params: Any) -> tuple[int, str]:
        answer = streams.http.get("/events/stream", params={"max_s": 0, **params}, headers=headers)
        return answer.status_code, "" if answer.status_code == 200 else answer.json()["code"]

    assert ask() == (200, "")
    assert ask(type="edgefleet.Rollout") == (422, "fleet.bad_stream")
    assert ask({"last-event-id": "abc"}) == (422, "fleet.bad_stream")
    assert ask(max_s=1e9) == (422, "request.invalid")
    monkeypatch.setattr(stream, "MAX_VIEWERS", 0)
    assert ask() == (503, "fleet.stream_unavailable")
    assert httpx.get(f"{streams.http.base_url}events/stream").status_code == 401


def test_closing_ends_every_stream(streams: Streams) -> None:
    with streams.open() as events:
        streams.house.parts.fleet.stream.close()
        assert list(events) == []


@pytest.mark.parametrize(
    ("kind", "device", "detail", "wanted"),
    [
        ("rollout", "", {"from": "paused", "to": "running"}, "edgefleet.rollout.resumed"),
        ("rollout", "", {"from": "validating", "to": "running"}, "edgefleet.rollout.started"),
        ("rollout", "", {"from": "running", "to": "something_new"}, "edgefleet.rollout.changed"),
        ("stage", "", {"to": "passed"}, "edgefleet.rollout.stage.completed"),
        ("assignment", "d-1", {"to": "failed"}, "edgefleet.device.update.failed"),
        ("crash", "d-1", {}, "edgefleet.device.crash"),
        ("maintenance", "", {}, "edgefleet.server.maintenance"),
    ],
)
def test_the_type_of_an_event(kind: str, device: str, detail: dict[str, str], wanted: str) -> None:
    assert type_of(kind, device, detail) == wanted


def test_patterns_choose_whole_names() -> None:
    assert is_chosen("edgefleet.rollout.stage.completed", ["edgefleet.rollout.*"])
    assert not is_chosen("edgefleet.rollouts.x", ["edgefleet.rollout.*"])
    assert not is_chosen("edgefleet.rollout.paused", ["edgefleet.rollout"])
    assert is_chosen("anything", [])
    assert all(is_pattern(one) for one in [*all_types(), "*", "edgefleet.*"])
    assert not any(
        is_pattern(one) for one in ["", "rollout", "edgefleet.*.x", "edgefleet..x", "edgefleet.Rollout", "**"]
    )


def test_every_state_of_the_machines_has_a_type() -> None:
    from edgefleet_protocol.messages import AssignmentState, EventKind
    from edgefleet_server.events.types import DEVICE, ROLLOUT, STAGE, UPDATE
    from edgefleet_server.rollout.model import RolloutState, StageState

    assert set(ROLLOUT) == {state.value for state in RolloutState} - {"draft"}
    assert set(STAGE) == {state.value for state in StageState} - {"pending"}
    assert set(UPDATE) == {state.value for state in AssignmentState}
    assert {kind.value for kind in EventKind} <= set(DEVICE)
