"""The outbox keeps what the server has not confirmed, within its bytes; windows add up without loss."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.link.outbox import Kind, Outbox
from edgefleet_agent.serving import ModelServing, _Lanes
from edgefleet_agent.telemetry.window import Sums, interval_s, merge_payloads, merge_windows
from edgefleet_agent.worker.protocol import Stats
from edgefleet_protocol.messages import Telemetry, Window, decode, encode
from edgefleet_protocol.sketch import LatencySketch


def payload(seq: int, n: int = 1, boot: str = "b") -> bytes:
    """Return a telemetry message with one window of `n` inferences."""
    window = Window(t0=100 * seq, length_s=100, model="digits", lane="active", sha256="a" * 64, version="1", n=n)
    return encode(Telemetry(device="d", boot_id=boot, seq=seq, ts=seq, windows=[window]))


def outbox(path: Path, cap: int = 1 << 20) -> Outbox:
    """Return an outbox on a file."""
    return Outbox(path / "q" / "q.db", cap, merge_payloads)


def test_a_message_leaves_only_when_the_server_stored_it(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    box.add(Kind.EVENT, "b", 1, b"event")
    first = box.due(0.0, 10)
    assert [(w.kind, w.seq) for w in first] == [(Kind.EVENT, 1), (Kind.TELEMETRY, 1)]
    for waiting in first:
        box.sent(waiting.id, 0.0)
    assert box.due(1.0, 10) == []
    assert [w.seq for w in box.due(21.0, 10)] == [1, 1]
    box.close()
    box = outbox(tmp_path)
    assert len(box) == 2
    assert box.ack(Kind.EVENT, "other boot", [1]) == 0
    assert box.ack(Kind.EVENT, "b", [1]) == 1
    assert box.ack(Kind.TELEMETRY, "b", [1, 2]) == 1
    assert (len(box), box.bytes) == (0, 0)


def test_the_same_message_is_kept_once(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"event")
    size = box.bytes
    box.add(Kind.EVENT, "b", 1, b"event")
    assert (len(box), box.bytes) == (1, size)


def test_over_its_cap_telemetry_is_merged_and_events_stay(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=2_000)
    box.add(Kind.EVENT, "b", 1, b"e" * 200)
    for seq in range(1, 41):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq))
    assert box.bytes <= 2_000
    waiting = box.due(0.0, 100)
    assert waiting[0].kind is Kind.EVENT
    windows = [w for m in waiting[1:] for w in decode(Telemetry, m.payload).windows]
    assert sum(w.n for w in windows) == 40
    assert box.dropped == 0


def test_what_cannot_be_merged_is_dropped_and_counted_oldest_first(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=1_000)
    for seq in range(1, 21):
        box.add(Kind.TELEMETRY, f"boot {seq}", seq, payload(seq, boot=f"boot {seq}"))
    left = [w.seq for w in box.due(0.0, 100)]
    assert left == list(range(21 - len(left), 21))
    assert box.dropped == 20 - len(left)


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "q.db").write_bytes(b"not a database at all" * 100)
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"event")
    assert (len(box), box.dropped) == (1, 1)


def test_a_file_that_cannot_be_opened_now_loses_nothing_and_stops_nothing(tmp_path: Path) -> None:
    file, away = tmp_path / "q" / "q.db", tmp_path / "away.db"
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"before")
    box.close()
    file.rename(away)
    file.mkdir()
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 2, b"meanwhile")
    assert (len(box), box.dropped) == (1, 0)
    box.close()
    file.rmdir()
    away.rename(file)
    assert [waiting.payload for waiting in outbox(tmp_path).due(0.0, 10)] == [b"before"]


windows = st.builds(
    Window,
    t0=st.integers(0, 10_000),
    length_s=st.integers(1, 900),
    model=st.sampled_from(["digits", "other"]),
    lane=st.just("active"),
    sha256=st.sampled_from(["a" * 64, "b" * 64]),
    version=st.just("1"),
    n=st.integers(0, 1_000),
    errors=st.integers(0, 10),
    latency=st.lists(st.floats(1e-6, 10), max_size=20).map(
        lambda values: LatencySketch.packed(_sketch(values)),
    ),
    classes=st.lists(st.integers(0, 9), max_size=10),
)


def _sketch(values: list[float]) -> LatencySketch:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(st.lists(windows, max_size=8), st.lists(windows, max_size=8))
def test_merging_windows_loses_nothing(older: list[Window], newer: list[Window]) -> None:
    merged = merge_windows(older, newer)
    both = [*older, *newer]
    assert sum(w.n for w in merged) == sum(w.n for w in both)
    assert sum(w.errors for w in merged) == sum(w.errors for w in both)
    assert sum(sum(w.classes) for w in merged) == sum(sum(w.classes) for w in both)
    assert sum(sum(w.latency[1:]) for w in merged) == sum(sum(w.latency[1:]) for w in both)
    assert len(merged) == len({(w.model, w.lane, w.sha256) for w in both})


def test_the_window_length_follows_the_document_while_it_is_in_force() -> None:
    assert interval_s("normal", 0, 100, 0) == 900
    assert interval_s("live", 200, 100, 0) == 60
    assert interval_s("live", 50, 100, 0) == 900
    assert interval_s("metered", 0, 100, 0) == 3_600
    assert interval_s("metered", 0, 100, 5) == 5


def test_classes_are_counted_by_index() -> None:
    sums = Sums("a" * 64, "1", n=3, classes={2: 2, 0: 1, 999: 4})
    assert sums.closed("digits", "active", 0, 60).classes == [1, 0, 2]


def test_the_cpu_time_of_a_window_is_what_was_used_in_it() -> None:
    worker = cast("Any", SimpleNamespace(model="digits", ref=SimpleNamespace(sha256="a" * 64), cpu_s=0.0))
    lanes = _Lanes(active=worker)
    used = []
    for cpu_s in (5.0, 7.5):  # the worker tells the time of its whole life
        lanes.sums = Sums("a" * 64, "1")
        ModelServing._add_stats(worker, lanes, Stats(latency=LatencySketch().packed(), cpu_s=cpu_s))
        used.append(lanes.sums.cpu_s)
    assert used == [5.0, 2.5]
