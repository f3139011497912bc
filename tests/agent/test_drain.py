"""What waits goes out by class, at a pace that leaves the link to others, within the day's bytes."""

import heapq
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.connection.budget import DAY_S, MESSAGES_S, OVERHEAD_BYTES, Bucket, daily, fresh_pace
from edgefleet_agent.connection.metered import decide, default_interface
from edgefleet_agent.connection.outbox import RESEND_AFTER_S, Kind, Outbox
from edgefleet_agent.connection.sender import ON_THE_WAY, PACK_FROM, NextLive, OutboxSender, Sources
from edgefleet_protocol.messages import Telemetry, decode
from tests.agent.test_outbox import JOINS, payload


class Simulated:
    """A link, a loop and a clock: messages take `bytes_s` and a round trip; what is due runs in order."""

    def __init__(self, bytes_s: float = 1e6, round_trip_s: float = 0.05) -> None:
        self.now = 0.0
        self.bytes_s = bytes_s
        self.round_trip_s = round_trip_s
        self.taken: list[tuple[float, str, bytes]] = []
        self.sent_as: dict[int, tuple[str, bytes]] = {}
        self.busy: list[float] = []
        self.qos: list[int] = []
        self.room = 16
        self.published: Callable[[int], None] = lambda _mid: None
        self._mids = itertools.count(1)
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def monotonic_s(self) -> float:
        """Return the time."""
        return self.now

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run a callback later."""
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), callback))

    def publish(self, topic: str, data: bytes, qos: int) -> int | None:
        """Take a message."""
        if self.room <= 0 and qos:
            return None
        mid = next(self._mids)
        self.room -= qos
        self.qos.append(qos)
        self.sent_as[mid] = (topic, data)
        self.taken.append((self.now, topic, data))
        took_s = self.round_trip_s + (len(data) + OVERHEAD_BYTES) / self.bytes_s
        if topic != Kind.EVENT.name:
            self.busy.append(took_s)
        self.later(took_s, lambda: self._arrived(mid, qos))
        return mid

    def _arrived(self, mid: int, qos: int) -> None:
        self.room += qos
        self.published(mid)

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._due and self._due[0][0] <= until_s:
            self.now, _, callback = heapq.heappop(self._due)
            callback()
        self.now = until_s


def drained(
    path: Path, link: Simulated, daily_bytes: int = 0, live: NextLive | None = None
) -> tuple[Outbox, OutboxSender]:
    """Return an outbox and its drain over a simulated link, whose server stores and confirms what arrives."""
    box = Outbox(path / "q.db", 16 << 20, JOINS)
    drain = OutboxSender(
        box,
        link,
        lambda kind: kind.name,
        link.monotonic_s,
        link.later,
        daily_bytes,
        Sources(live_topic="LIVE", next_live=live),
    )

    def published(mid: int) -> None:
        topic, data = link.sent_as[mid]
        if topic == Kind.TELEMETRY.name:
            box.ack(Kind.TELEMETRY, "b", [decode(Telemetry, data).seq])
        else:
            box.ack(Kind[topic], "b", [int.from_bytes(data[-2:], "big")])
        drain.published(mid)
        drain.pump()

    link.published = published
    return box, drain


def test_events_go_first_and_samples_last(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    box.add(Kind.SAMPLE, "b", 1, b"sample\0\1")
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    box.add(Kind.EVENT, "b", 1, b"event\0\1")
    drain.pump()
    link.run(5.0)
    assert [topic for _, topic, _ in link.taken] == ["EVENT", "TELEMETRY", "SAMPLE"]


def test_a_window_alone_goes_without_a_puback_and_again_with_one_when_the_server_says_nothing(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    for seq in (1, 2, 3):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq), link.now)
        drain.pump()
        link.run(900.0 * seq)
    assert link.qos == [1, 0, 0], "the first of a connection has one"
    assert len(box) == 0
    link.published = drain.published  # the server does not hear of it
    box.add(Kind.TELEMETRY, "b", 4, payload(4), link.now)
    for _ in range(14):
        drain.pump()
        link.run(link.now + 5.0)
    assert link.qos[3:] == [0, 1, 1]
    assert link.taken[4][0] - link.taken[3][0] >= RESEND_AFTER_S
    drain.relinked()
    drain.pump()
    assert link.qos[6:] == [1]


def test_a_backlog_goes_with_pubacks(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    for seq in range(1, 6):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    drain.pump()
    link.run(100.0)
    assert link.qos[:4] == [1, 1, 1, 1]
    assert len(box) == 0


@pytest.mark.parametrize("bytes_s", [2_000, 50_000, 1e7])
def test_a_backlog_takes_a_fifth_of_the_link_at_most(tmp_path: Path, bytes_s: float) -> None:
    link = Simulated(bytes_s=bytes_s)
    box, drain = drained(tmp_path, link)
    for seq in range(1, 20):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    drain.pump()
    link.run(100.0)
    span_s = link.taken[-1][0] - link.taken[0][0]
    assert len(link.taken) == 19
    assert sum(link.busy[:-1]) <= 0.2 * span_s + 1e-6


def test_no_more_telemetry_is_on_its_way_than_the_server_keeps_up_with(tmp_path: Path) -> None:
    link = Simulated(bytes_s=1e9, round_trip_s=0.0001)
    box, drain = drained(tmp_path, link)

    def taken_by_the_broker(mid: int) -> None:
        drain.published(mid)
        drain.pump()

    link.published = taken_by_the_broker  # the server stores nothing yet
    for seq in range(1, PACK_FROM + 1):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    drain.pump()
    link.run(15.0)
    assert len(link.taken) == ON_THE_WAY
    assert box.ack(Kind.TELEMETRY, "b", [1, 2]) == 2
    drain.pump()
    link.run(16.0)
    assert len(link.taken) == ON_THE_WAY + 2
    box.add(Kind.EVENT, "b", 1, b"event\0\1")
    drain.pump()
    assert link.taken[-1][1] == "EVENT", "events wait for no telemetry"
    link.run(18.0)
    assert len(link.taken) == ON_THE_WAY + 3
    while link.now < 60.0:
        link.run(link.now + 2.0)
        drain.pump()
    sent = {decode(Telemetry, data).seq for _, topic, data in link.taken if topic == "TELEMETRY"}
    assert sent == set(range(1, PACK_FROM + 1)), "what has no answer for long may be lost, and holds nothing up"


def test_no_more_than_twenty_messages_a_second_go_out(tmp_path: Path) -> None:
    link = Simulated(bytes_s=1e9, round_trip_s=0.0001)
    box, drain = drained(tmp_path, link)
    for seq in range(1, 301):
        box.add(Kind.EVENT, "b", seq, b"e" + seq.to_bytes(2, "big"))
    drain.pump()
    link.run(30.0)
    times = [at for at, _, _ in link.taken]
    assert len(times) == 300
    for first, last in zip(times, times[int(2 * MESSAGES_S) :], strict=False):
        assert last - first >= 0.99  # twenty that were saved up, then twenty a second


def test_a_month_of_windows_goes_in_few_messages(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    for seq in range(1, 2_881):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq, t0=900 * seq))
    box.spill(1e9)
    drain.pump()
    link.run(60.0)
    windows = [w for _, _, data in link.taken for w in decode(Telemetry, data).windows]
    assert len(windows) == 2_880
    assert len(link.taken) == 2_880 // 64
    assert [w.t0 for w in windows] == [900 * seq for seq in range(1, 2_881)]


def test_a_used_up_budget_holds_telemetry_back_and_no_event(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link, daily_bytes=8_000)
    for seq in range(1, 20):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    drain.pump()
    for _ in range(100):
        link.run(link.now + 5.0)
        drain.pump()
    early = len(link.taken)
    assert early < 8
    assert drain.budget_left_bytes is not None
    assert drain.budget_left_bytes <= 50
    box.add(Kind.EVENT, "b", 1, b"event\0\1")
    drain.pump()
    assert link.taken[-1][1] == "EVENT"
    while link.now < DAY_S / 2:
        link.run(link.now + 60.0)
        drain.pump()
    sent = sum(len(data) + OVERHEAD_BYTES for _, _, data in link.taken)
    assert early + 1 < len(link.taken)
    assert sent <= 2_000 + 8_000 / 2 + 1_000


def test_a_metered_link_carries_no_samples(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    drain.is_metered = True
    box.add(Kind.SAMPLE, "b", 1, b"sample\0\1")
    drain.pump()
    link.run(5.0)
    assert link.taken == []
    drain.is_metered = False
    drain.pump()
    assert [topic for _, topic, _ in link.taken] == ["SAMPLE"]


def test_a_lost_puback_does_not_stop_the_drain(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    link.published = lambda _mid: None
    for seq in (1, 2):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    drain.pump()
    link.run(19.0)
    drain.pump()
    assert len(link.taken) == 1
    link.run(21.0)
    drain.pump()
    link.run(200.0)
    drain.pump()
    assert len(link.taken) == 2


def test_what_the_link_does_not_take_is_offered_again(tmp_path: Path) -> None:
    link = Simulated()
    box, drain = drained(tmp_path, link)
    link.room = 2  # kept free for state and metadata
    box.add(Kind.EVENT, "b", 1, b"event\0\1")
    drain.pump()
    assert link.taken == []
    link.room = 16
    drain.pump()
    assert len(link.taken) == 1


@given(st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 5_000)), max_size=30), st.integers(1, 10**7))
def test_a_bucket_never_gives_more_than_its_rate_and_its_burst(steps: list[tuple[float, float]], budget: int) -> None:
    bucket = daily(budget, 0.0)
    assert bucket is not None
    now = spent = 0.0
    for wait_s, tokens in steps:
        now += wait_s
        bucket = bucket.now(now)
        if bucket.wait_s(tokens) == 0.0:
            bucket = bucket.less(tokens)
            spent += tokens
        assert spent <= budget / 4 + budget * now / DAY_S + tokens + 1e-6
        assert bucket.level <= budget


def test_waiting_as_long_as_a_bucket_says_is_enough() -> None:
    bucket = Bucket(rate=0.1, burst=10.0, level=-3.0, at_s=0.0)
    assert bucket.now(bucket.wait_s(1.0)).wait_s(1.0) == 0.0
    assert bucket.now(bucket.wait_s()).wait_s() == 0.0
    assert daily(0, 0.0) is None


def test_silence_is_four_times_what_the_message_took() -> None:
    pace = fresh_pace(0.0).handed(0.0, bulk=True)
    assert pace.bulk_wait_s(100.0) == float("inf")
    pace = pace.arrived(2.0)
    assert pace.bulk_wait_s(2.0) == pytest.approx(8.0)
    assert pace.lost(3.0).bulk_wait_s(3.0) == 0.0


ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0
eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
"""


@pytest.mark.parametrize(
    ("setting", "said", "interface", "metered"),
    [
        ("yes", "no", "eth0", True),
        ("no", "yes", "wwan0", False),
        ("auto", "yes (guessed)\n", "eth0", True),
        ("auto", "no\n", "wwan0", False),
        ("auto", "", "wwan0", True),
        ("auto", "unknown\n", "ppp0", True),
        ("auto", "", "eth0", False),
        ("auto", "", "", False),
    ],
)
def test_a_link_is_metered_by_setting_then_manager_then_route(
    setting: str, said: str, interface: str, metered: bool
) -> None:
    assert decide(setting, said, interface) is metered


def test_the_default_route_with_the_lowest_metric_counts() -> None:
    assert default_interface(ROUTES) == "eth0"
    assert default_interface("\n".join(line for line in ROUTES.splitlines() if not line.startswith("eth0"))) == "wwan0"
    assert default_interface("") == ""
