"""Telemetry: counted once, summed exactly, forgotten in time."""

import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.model import RETENTION
from tests.server.fleet.house import House

SHA = "a" * 64


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def window(n: int = 0, *, latencies_s: tuple[float, ...] = (), model: str = "digits", **fields: object) -> Window:
    """Return a window."""
    sketch = LatencySketch()
    for value in latencies_s:
        sketch.add(value)
    return Window(
        t0=1_764_000_000,
        length_s=60,
        model=model,
        lane="active",
        sha256=SHA,
        version="1.0.0",
        n=n,
        latency=sketch.packed(),
        **fields,  # type: ignore[arg-type]
    )


def batch(*windows: Window, seq: int = 1, device: str = "d-abc", boot: str = "b", **fields: object) -> Telemetry:
    """Return a message."""
    return Telemetry(device=device, boot_id=boot, seq=seq, ts=1_764_000_000_000, windows=list(windows), **fields)  # type: ignore[arg-type]


def test_a_replay_counts_once(house: House) -> None:
    message = batch(window(5), window(7, model="faces"))
    assert house.telemetry.ingest([message, message]) == 1
    assert house.telemetry.ingest([message, batch(window(1), seq=2)]) == 1
    assert house.telemetry.windows("d-abc", None, 10)[1] == 3
    assert house.telemetry.ingest([batch(window(1), boot="after reboot")]) == 1
    assert house.telemetry.ingest([]) == 0


def test_latest_is_the_newest_window_of_each_model(house: House) -> None:
    assert house.telemetry.latest("d-abc") is None
    house.telemetry.ingest([batch(window(1), window(2, model="faces"))])
    house.clock.turn(minutes=15)
    figures = SystemFigures(cpu_ratio=0.5, agent_rss_bytes=30_000_000)
    house.telemetry.ingest([batch(window(3), seq=2, system=figures, queue_bytes=9, dropped=1)])
    latest = house.telemetry.latest("d-abc")
    assert latest is not None
    assert [(one.model, one.n) for one in latest.windows] == [("digits", 3), ("faces", 2)]
    assert latest.system == {"cpu_ratio": 0.5, "agent_rss_bytes": 30_000_000}
    assert (latest.queue_bytes, latest.dropped, latest.received_at) == (9, 1, house.clock.now())


def test_numbers_that_never_came_are_counted_without_those_that_were_joined(house: House) -> None:
    house.telemetry.ingest([batch(window(1), seq=seq) for seq in (3, 4, 9)])
    house.telemetry.ingest([batch(window(1), seq=14, joined=2), batch(window(1), seq=1, boot="other")])
    latest = house.telemetry.latest("d-abc")
    assert latest is not None
    assert latest.missing == 4 + 2  # 5 to 8, and two of 10 to 13
    house.telemetry.ingest([batch(window(1), seq=seq) for seq in range(1, 15)])
    latest = house.telemetry.latest("d-abc")
    assert latest is not None
    assert latest.missing == 0


def test_figures_are_means_and_medians_over_devices(house: House) -> None:
    house.telemetry.ingest(
        [
            batch(window(3, latencies_s=(0.001, 0.001, 0.001), errors=1), device="d-one"),
            batch(window(1, latencies_s=(0.1,), crashes=2), device="d-two"),
        ]
    )
    since = house.clock.now() - dt.timedelta(hours=1)
    figures = house.telemetry.figures(SHA, since)
    assert (figures.devices, figures.windows, figures.n, figures.errors, figures.crashes) == (2, 2, 4, 1, 2)
    assert figures.latency_p50_ms == figures.latency_p99_ms == pytest.approx((1.0 + 100.0) / 2, rel=0.01)
    assert figures.failed_share == pytest.approx((1 / 3 + 0) / 2)
    assert figures.crashed_devices == 1
    assert house.telemetry.figures(SHA, since, "d-two").n == 1
    assert house.telemetry.figures("b" * 64, since).latency_p50_ms is None
    assert house.telemetry.figures(SHA, house.clock.now() + dt.timedelta(seconds=1)).windows == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"latency": [-1, 2]},
        {"latency": [1399, 1, 1, 1, 1]},
        {"latency": [3, -5_000]},
        {"n": -1},
        {"errors": 2**63},
        {"classes": [0] * 5000},
    ],
)
def test_a_bad_window_is_left_out_and_the_rest_counts(house: House, bad: dict[str, object]) -> None:
    fields = {"t0": 1, "length_s": 60, "model": "digits", "lane": "a", "sha256": SHA, "version": "1", **bad}
    house.telemetry.ingest([batch(Window(**fields), window(5))])  # type: ignore[arg-type]
    assert [view.n for _, view in house.telemetry.windows("d-abc", None, 10)[0]] == [5]
    assert house.telemetry.bad_windows == 1


def test_a_device_with_a_wrong_clock_is_stored_with_ours(house: House) -> None:
    fields = {"length_s": 60, "model": "digits", "lane": "a", "sha256": SHA, "version": "1"}
    house.telemetry.ingest([batch(Window(t0=-5, **fields)), batch(Window(t0=10**15, **fields), seq=2)])  # type: ignore[arg-type]
    assert {view.t0 for _, view in house.telemetry.windows("d-abc", None, 10)[0]} == {house.clock.now()}


def test_old_windows_are_forgotten(house: House) -> None:
    house.telemetry.ingest([batch(window(1))])
    house.clock.turn(days=20)
    house.telemetry.ingest([batch(window(2), seq=2)])
    assert house.telemetry.prune(house.clock.now()) == 0
    house.clock.turn(seconds=RETENTION.total_seconds() - 10 * 86_400)
    assert house.telemetry.prune(house.clock.now()) == 1
    assert [view.n for _, view in house.telemetry.windows("d-abc", None, 10)[0]] == [2]


def test_more_messages_than_one_statement_takes(house: House) -> None:
    assert house.telemetry.ingest([batch(window(1), seq=i) for i in range(2500)]) == 2500
    assert house.telemetry.windows("d-abc", None, 1)[1] == 2500


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), max_size=30))
def test_each_seq_counts_once_in_any_order(house: House, seqs: list[int]) -> None:
    before = house.telemetry.windows("d-abc", None, 1)[1]
    for seq in seqs:
        house.telemetry.ingest([batch(window(1), seq=seq, boot=f"b{before}")])
    assert house.telemetry.windows("d-abc", None, 1)[1] - before == len(set(seqs))


def test_devices_of_a_lane_are_those_that_sent_it_of_these_bundles_since_then(house: House) -> None:
    def beside(device: str, seq: int, *, sha: str = SHA, lane: str = "candidate") -> Telemetry:
        made = Window(
            t0=1_764_000_000, length_s=60, model="digits", lane=lane, sha256=sha, version="1.1.0", n=1, latency=[]
        )
        return batch(made, device=device, seq=seq)

    house.telemetry.ingest([beside("d-old", 1)])
    house.clock.turn(minutes=1)
    since = house.clock.now()
    house.telemetry.ingest([beside("d-b", 1), beside("d-b", 2), beside("d-a", 1), beside("d-other", 1, sha="b" * 64)])
    house.telemetry.ingest([beside("d-serving", 1, lane="active")])
    found = house.telemetry.devices_of_lane([SHA], "candidate", since, limit=9)
    assert found == ["d-a", "d-b"]
    assert house.telemetry.devices_of_lane([SHA], "candidate", since, limit=1) == ["d-a"]
    assert house.telemetry.devices_of_lane([], "candidate", since, limit=9) == []
