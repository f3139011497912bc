"""What a device shows to who watches it: only while it is watched, little, the quiet models too, and never against its owner's will."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.captures.live_view import EVERY_S, LINES, LONGEST_S, LiveView, chosen, left_s
from edgefleet_agent.connection.budget import OVERHEAD_BYTES
from edgefleet_agent.connection.outbox import Kind
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.protocol import SetWatch
from edgefleet_protocol.messages import PredictionLine, Watched, WatchState, decode
from tests.agent.test_drain import Simulated, drained
from tests.agent.test_outbox import payload
from tests.server.fleet.house import START, TurnedClock

NOW_S = int(START.timestamp())


def line(number: int, model: str = "digits", lane: str = "active") -> PredictionLine:
    """Return an answer."""
    return PredictionLine(
        model=model, version="1", lane=lane, trace_id=f"t{number}", at=number, latency_us=1, labels=["a"], scores=[0.5]
    )


class Watching:
    """A device's part on a clock that is turned; what is due runs when it is."""

    def __init__(self, **settings: Any) -> None:
        self.clock = TurnedClock()
        self.due: list[tuple[float, Any, Any]] = []
        loop = SimpleNamespace(call_later=self._later)
        self.told: list[int] = []
        self.live = LiveView(
            cast("Any", loop),
            self.clock,
            AgentSettings(**settings),
            "d-1",
            "b",
            lambda rules: self.told.append(rules.lines),
            lambda: None,
        )

    def _later(self, delay_s: float, callback: Any) -> Any:
        timer = SimpleNamespace(is_off=False)
        timer.cancel = lambda: setattr(timer, "is_off", True)
        self.due.append((self.clock.monotonic_s() + delay_s, callback, timer))
        return timer

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.turn(seconds=seconds)
        for entry in sorted(self.due, key=lambda one: one[0]):
            if entry[0] <= self.clock.monotonic_s() and entry in self.due:
                self.due.remove(entry)
                if not entry[2].is_off:
                    entry[1]()

    def wish(self, until_s: int) -> None:
        """Follow a document."""
        self.live.follow(cast("Any", SimpleNamespace(predictions_until_s=until_s)))

    def message(self, *, is_metered: bool = False) -> Watched | None:
        """Return what would go now."""
        data = self.live.next_message(is_metered=is_metered)
        return None if data is None else decode(Watched, data)


@given(st.integers(0, 2**40), st.floats(0, 2**40))
def test_a_watch_ends_whatever_the_clock_says(until_s: int, now_s: float) -> None:
    left = left_s(until_s, now_s)
    assert 0.0 <= left <= LONGEST_S
    assert (left > 0) == (until_s > now_s)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from("abc"), st.sampled_from(["active", "candidate"]))),
    st.integers(1, 8),
)
def test_the_newest_of_each_model_and_lane_are_shown_first(rows: list[tuple[int, str, str]], most: int) -> None:
    lines = [line(at, model, lane) for at, model, lane in rows]
    shown = chosen(lines, most)
    assert len(shown) == min(most, len(lines))
    assert [one.at for one in shown] == sorted(one.at for one in shown)
    newest = {key: max(one.at for one in lines if (one.model, one.lane) == key) for key in {(m, n) for _, m, n in rows}}
    for (model, lane), at in sorted(newest.items(), key=lambda item: -item[1])[:most]:
        if len(newest) <= most:
            assert any((one.model, one.lane, one.at) == (model, lane, at) for one in shown)


def test_nothing_is_told_before_somebody_watches_and_after_the_end() -> None:
    device = Watching()
    device.live.hear([line(1)], 1)
    assert device.message() is None
    device.wish(NOW_S + 60)
    assert device.told == [LINES]
    first = device.message()
    assert first is not None
    assert (first.state, first.lines, first.seen) == ("on", [], 0), "that it is watched is said at once"
    assert device.message() is None
    device.turn(EVERY_S)
    device.live.hear([line(2), line(3)], 40)
    told = device.message()
    assert told is not None
    assert ([one.trace_id for one in told.lines], told.seen, told.seq) == (["t2", "t3"], 40, 2)
    device.turn(60)
    assert device.told == [LINES, 0], "workers are told that it is over"
    device.live.hear([line(4)], 1)
    assert device.message() is None
    assert not device.live.is_watched


def test_a_renewed_watch_goes_on_and_a_document_without_one_ends_it() -> None:
    device = Watching()
    device.wish(NOW_S + 60)
    device.turn(40)
    device.wish(NOW_S + 100)
    device.turn(40)
    assert device.live.is_watched
    assert device.told == [LINES]
    device.wish(0)
    assert device.told == [LINES, 0]
    device.wish(NOW_S + 10)
    assert not device.live.is_watched, "a document from before"


def test_messages_keep_their_distance() -> None:
    device = Watching()
    device.wish(NOW_S + LONGEST_S)
    sent = 0
    for _ in range(100):
        device.live.hear([line(1)], 1)
        sent += device.message() is not None
        device.turn(0.1)
    assert sent == 5


def test_a_watched_day_stays_within_its_bytes() -> None:
    device = Watching(watch_daily_bytes=40_000)
    used = 0
    for _ in range(2_000):
        device.wish(int(device.clock.now().timestamp()) + 60)
        device.live.hear([line(i) for i in range(LINES)], LINES)
        data = device.live.next_message(is_metered=False)
        used += 0 if data is None else len(data) + OVERHEAD_BYTES
        device.turn(EVERY_S)
    assert 5_000 < used <= 10_000 + 40_000 * 2_000 * EVERY_S / 86_400 + 2_000


@pytest.mark.parametrize("case", ["off", "metered"])
def test_who_does_not_show_anything_says_so_once(case: str) -> None:
    device = Watching(watch_predictions=case != "off")
    device.wish(NOW_S + 60)
    for _ in range(3):
        device.live.hear([line(1)], 1)
        told = device.message(is_metered=case == "metered")
        device.turn(EVERY_S)
        if told is not None:
            assert (told.state, told.lines) == (case, [])
            case_told = WatchState(told.state)
    assert case_told == case
    assert device.told == ([] if case == "off" else [LINES])
    worker = SimpleNamespace(sent=[])
    worker.send = worker.sent.append
    device.live.on_ready(cast("Any", worker))
    assert worker.sent == ([] if case == "off" else [SetWatch(LINES)])


def test_what_is_shown_goes_last_one_at_a_time_and_is_confirmed_by_nobody(tmp_path: Path) -> None:
    link = Simulated(bytes_s=50_000)
    shown = iter([b"live\0\1", b"live\0\2"])
    box, drain = drained(tmp_path, link, live=lambda *, is_metered: next(shown, None))
    published = link.published

    def confirmed(mid: int) -> None:
        if link.sent_as[mid][0] == "LIVE":
            drain.published(mid)
            drain.pump()
        else:
            published(mid)

    link.published = confirmed
    box.add(Kind.SAMPLE, "b", 1, b"sample\0\1")
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    drain.pump()
    link.run(10.0)
    drain.pump()
    link.run(20.0)
    assert [topic for _, topic, _ in link.taken] == ["TELEMETRY", "SAMPLE", "LIVE", "LIVE"]
    assert len(box) == 0
    at = [when for when, topic, _ in link.taken if topic == "LIVE"]
    assert at[1] > at[0]


def test_what_is_shown_costs_its_own_budget_alone_and_goes_when_that_of_telemetry_is_used_up(tmp_path: Path) -> None:
    link = Simulated()
    shown = iter([b"live" * 100, b"live" * 100])
    box, drain = drained(tmp_path, link, daily_bytes=8_000, live=lambda *, is_metered: next(shown, None))
    whole = drain.budget_left_bytes
    published = link.published
    link.published = lambda mid: drain.published(mid) if link.sent_as[mid][0] == "LIVE" else published(mid)
    drain.pump()
    link.run(1.0)
    assert [topic for _, topic, _ in link.taken] == ["LIVE"]
    assert whole is not None
    assert drain.budget_left_bytes is not None
    assert drain.budget_left_bytes >= whole, "telemetry did not pay for it"
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    drain._budget = replace(drain._budget, level=-1.0) if drain._budget is not None else None
    drain.pump()
    link.run(2.0)
    assert [topic for _, topic, _ in link.taken] == ["LIVE", "LIVE"]


def test_what_cannot_go_is_forgotten(tmp_path: Path) -> None:
    link = Simulated()
    link.room = 0
    asked: list[bool] = []

    def source(*, is_metered: bool) -> bytes | None:
        asked.append(is_metered)
        return b"x"

    _, drain = drained(tmp_path, link, live=source)
    drain.is_metered = True
    drain.pump()
    assert (asked, link.taken) == ([], []), "without a connection nothing is even asked for"
    link.room = 16
    drain.pump()
    assert asked == [True]
