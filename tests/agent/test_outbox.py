"""The outbox keeps what the server has not confirmed, within its bytes; windows add up without loss."""

import itertools
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.connection.outbox import MEMORY_BYTES, SPILL_S, Joins, Kind, Outbox, Waiting
from edgefleet_agent.reporting.window import (
    Sums,
    begins_s,
    first_window_s,
    interval_s,
    merge_payloads,
    merge_windows,
    pack_payloads,
)
from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, pack, unpack
from edgefleet_protocol.messages import Telemetry, Window, decode, encode
from edgefleet_protocol.sketch import LatencySketch

JOINS = Joins(merge_payloads, pack_payloads, begins_s)


def payload(seq: int, n: int = 1, boot: str = "b", t0: int | None = None) -> bytes:
    """Return a telemetry message with one window of `n` inferences."""
    at = 100 * seq if t0 is None else t0
    window = Window(t0=at, length_s=100, model="digits", lane="active", sha256="a" * 64, version="1", n=n)
    return encode(Telemetry(device="d", boot_id=boot, seq=seq, ts=seq, windows=[window]))


def outbox(path: Path, cap: int = 1 << 20) -> Outbox:
    """Return an outbox on a file."""
    return Outbox(path / "q" / "q.db", cap, JOINS)


def file_of(path: Path) -> Path:
    """Return the outbox's file."""
    return path / "q" / "q.db"


def on_disk(path: Path) -> int:
    """Return how many messages the file holds now."""
    with sqlite3.connect(file_of(path)) as db:
        return int(db.execute("SELECT COUNT(*) FROM message").fetchone()[0])


def windows_in(waiting: list[Waiting]) -> list[Window]:
    """Return the telemetry windows of messages."""
    return [w for m in waiting if m.kind is Kind.TELEMETRY for w in decode(Telemetry, m.payload).windows]


def test_a_message_leaves_only_when_the_server_stored_it(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    box.add(Kind.EVENT, "b", 1, b"event")
    first = box.due(0.0, 10)
    assert [(w.kind, w.seq) for w in first] == [(Kind.EVENT, 1), (Kind.TELEMETRY, 1)]
    assert box.awaits_since_s(99.0) == 99.0
    for waiting in first:
        box.sent(waiting, 0.0)
    assert box.awaits_since_s(99.0) < 99.0
    assert box.due(1.0, 10) == []
    assert [w.seq for w in box.due(21.0, 10)] == [1, 1]
    box.close()
    box = outbox(tmp_path)
    assert len(box) == 2
    assert box.ack(Kind.EVENT, "other boot", [1]) == 0
    assert box.ack(Kind.EVENT, "b", [1]) == 1
    assert box.ack(Kind.TELEMETRY, "b", [1, 2]) == 1
    assert (len(box), box.size_bytes, box.awaits_since_s(99.0)) == (0, 0, 99.0)


def test_the_same_message_is_kept_once(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"event")
    size = box.size_bytes
    box.add(Kind.EVENT, "b", 1, b"event")
    assert (len(box), box.size_bytes) == (1, size)


def test_telemetry_that_is_confirmed_soon_never_touches_the_disk(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.TELEMETRY, "b", 1, payload(1), 0.0)
    box.add(Kind.TELEMETRY, "b", 2, payload(2), 900.0)
    box.spill(SPILL_S - 1)
    assert on_disk(tmp_path) == 0
    assert box.ack(Kind.TELEMETRY, "b", [2]) == 1
    box.spill(SPILL_S)
    assert on_disk(tmp_path) == 1
    assert [w.seq for w in box.due(SPILL_S, 10)] == [1]


def test_what_was_sent_from_memory_is_not_sent_again_because_it_was_written(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.TELEMETRY, "b", 1, payload(1), 0.0)
    box.sent(box.due(0.0, 1)[0], 0.0)
    box.spill(SPILL_S)
    box.add(Kind.TELEMETRY, "b", 2, payload(2), SPILL_S)
    box.close()
    box = outbox(tmp_path)
    assert not box.pack(), "a message that the server may have counted was joined with another one"
    assert box.ack(Kind.TELEMETRY, "b", [1, 2]) == 2


def test_an_event_is_on_the_disk_at_once(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"event")
    assert on_disk(tmp_path) == 1


def test_over_its_cap_telemetry_is_added_up_by_the_hour_and_events_stay(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=128 * 1024)
    box.add(Kind.EVENT, "b", 1, b"e" * 200)
    for seq in range(1, 1_201):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq, t0=60 * seq), float(seq))
        box.spill(seq + SPILL_S)
    assert file_of(tmp_path).stat().st_size <= 128 * 1024
    waiting = box.due(1e9, 10_000)
    assert waiting[0].kind is Kind.EVENT
    windows = windows_in(waiting)
    assert sum(w.n for w in windows) == 1_200
    assert all((w.t0 + w.length_s - 100) // 3_600 == w.t0 // 3_600 for w in windows), "hours were mixed too early"
    assert (box.dropped, box.dropped_by) == (0, [0, 0, 0])
    assert box.merged == 1_200 - len(waiting) + 1


def test_hours_become_days_before_anything_is_dropped(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=64 * 1024)
    hours = 24 * 20
    for seq in range(1, hours + 1):
        box.add(Kind.TELEMETRY, f"boot {seq // 7}", seq, payload(seq, boot=f"boot {seq // 7}", t0=3_600 * seq), 0.0)
        box.spill(SPILL_S)
    windows = windows_in(box.due(1e9, 10_000))
    assert sum(w.n for w in windows) == hours
    assert box.dropped == 0
    assert max(w.length_s for w in windows) <= 86_400


def test_what_cannot_be_merged_is_dropped_and_counted_by_class_oldest_first(tmp_path: Path) -> None:
    box = outbox(tmp_path, cap=64 * 1024)
    for seq in range(1, 101):
        box.add(Kind.EVENT, "b", seq, bytes([seq]) * 1_000)
    left = [w.seq for w in box.due(0.0, 1_000)]
    assert left == list(range(101 - len(left), 101))
    assert box.dropped_by == [100 - len(left), 0, 0]
    assert box.dropped == 100 - len(left)


def test_a_backlog_is_packed_with_its_windows_as_they_are(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    for seq in range(1, 65):
        box.add(Kind.TELEMETRY, "b", seq, payload(seq), 0.0)
    box.spill(SPILL_S)
    before = windows_in(box.due(SPILL_S, 100))
    assert box.pack()
    packed = box.due(SPILL_S, 100)
    assert [w.seq for w in packed] == [64]
    assert windows_in(packed) == before
    assert box.merged == 0


def test_samples_wait_in_memory_only_and_are_refused_when_it_is_full(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    taken = [box.add(Kind.SAMPLE, "b", seq, b"s" * 60_000) for seq in range(1, 7)]
    assert taken == [True] * 4 + [False] * 2
    box.spill(1e9)
    assert on_disk(tmp_path) == 0
    box.add(Kind.TELEMETRY, "b", 1, payload(1))
    assert [w.kind for w in box.due(0.0, 3)] == [Kind.TELEMETRY, Kind.SAMPLE, Kind.SAMPLE]


def test_a_full_disk_loses_no_event(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    with sqlite3.connect(file_of(tmp_path), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # stands for a disk that takes nothing: every write fails
        box._db.execute("PRAGMA busy_timeout = 1")
        box.add(Kind.EVENT, "b", 1, b"event")
        box.add(Kind.TELEMETRY, "b", 1, payload(1), 0.0)
        box.spill(SPILL_S)
        assert [w.payload for w in box.due(0.0, 1)] == [b"event"]
        other.execute("ROLLBACK")
    box.spill(SPILL_S)
    assert on_disk(tmp_path) == 2
    assert box.dropped == 0


def test_memory_is_bounded_when_the_disk_takes_nothing(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    with sqlite3.connect(file_of(tmp_path), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        box._db.execute("PRAGMA busy_timeout = 0")
        for seq in range(1, 400):
            box.add(Kind.TELEMETRY, "b", seq, b"t" * 1_000)
        box.add(Kind.EVENT, "b", 1, b"e" * 1_000)
        assert box.size_bytes <= MEMORY_BYTES
        assert box.due(0.0, 1)[0].kind is Kind.EVENT
        other.execute("ROLLBACK")


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir()
    with sqlite3.connect(file_of(tmp_path)) as db:
        db.execute(
            "CREATE TABLE message (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, boot_id TEXT NOT NULL,"
            " seq INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE (boot_id, kind, seq))"
        )
        db.execute("INSERT INTO message (kind, boot_id, seq, payload) VALUES (1, 'b', 1, ?)", (payload(1),))
    box = outbox(tmp_path)
    assert [w.seq for w in box.due(0.0, 10)] == [1]


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


SIGNALS = st.lists(st.integers(0, 500), min_size=4, max_size=4)


def _with_signals(window: Window, *bins: int) -> Window:
    """Return a window with one signal of four bins; its basis is that of its digest."""
    n = sum(bins)
    sums = SignalSums(tuple(bins), missing=bins[0], beyond=bins[1], total=7 * n, squares=64 * n)
    return msgspec.structs.replace(window, basis=window.sha256[:8].encode(), signals=pack([sums]), signals_s=900)


plain_windows = st.builds(
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
windows = plain_windows | st.builds(lambda window, bins: _with_signals(window, *bins), plain_windows, SIGNALS)


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
    assert sum(LatencySketch.unpacked(w.latency).n for w in merged) == sum(
        LatencySketch.unpacked(w.latency).n for w in both
    )
    assert len(merged) == len({(w.model, w.lane, w.sha256) for w in both})
    assert sum(w.signals_s for w in merged) == sum(w.signals_s for w in both)
    assert _signals(merged) == _signals(both)


def _signals(windows: list[Window]) -> dict[bytes, list[SignalSums]]:
    found: dict[bytes, list[list[SignalSums]]] = {}
    for one in windows:
        if one.signals:
            found.setdefault(one.basis + one.model.encode(), []).append(unpack(one.signals))
    return {basis: merged_windows(parts) for basis, parts in found.items()}


def test_signals_of_other_bins_are_not_added() -> None:
    older = Window(t0=0, length_s=900, model="m", lane="active", sha256="a" * 64, version="1", n=6)
    newer = msgspec.structs.replace(older, t0=900)
    old = _with_signals(older, 1, 2, 3, 0)
    new = msgspec.structs.replace(_with_signals(newer, 5, 5, 5, 5), basis=b"learned!")
    [kept] = merge_windows([old], [new])
    assert (kept.n, kept.basis, kept.signals, kept.signals_s) == (12, b"learned!", new.signals, 900)
    [kept] = merge_windows([old], [newer])
    assert (kept.basis, kept.signals, kept.signals_s) == (old.basis, old.signals, 900)
    [kept] = merge_windows([old], [msgspec.structs.replace(old, t0=900, signals=b"\1broken")])
    assert (kept.signals, kept.signals_s) == (b"\1broken", 900)


def test_the_window_length_follows_the_document_while_it_is_in_force() -> None:
    assert interval_s("normal", 0, 100, 0) == 900
    assert interval_s("live", 200, 100, 0) == 60
    assert interval_s("live", 50, 100, 0) == 900
    assert interval_s("metered", 0, 100, 0) == 3_600
    assert interval_s("metered", 0, 100, 5) == 5
    assert interval_s("normal", 0, 100, 0, is_metered=True) == 3_600
    assert interval_s("live", 200, 100, 0, is_metered=True) == 60
    assert interval_s("live", 50, 100, 0, is_metered=True) == 3_600


def test_what_is_not_confirmed_goes_again_less_and_less_often(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(Kind.EVENT, "b", 1, b"event")
    at, sent = 0.0, []
    while at < 4 * 3_600:
        for waiting in box.due(at, 1):
            box.sent(waiting, at)
            sent.append(at)
        at += 10.0
    assert sent[:5] == [0.0, 20.0, 60.0, 140.0, 300.0]
    assert max(later - earlier for earlier, later in itertools.pairwise(sent)) <= 3_600.0
    box.resend_all()
    assert [w.seq for w in box.due(at, 1)] == [1]


@given(st.text(min_size=1))
def test_the_first_window_is_the_devices_own_part_of_the_interval(device: str) -> None:
    assert 225 <= first_window_s(device, 900) <= 900
    assert first_window_s(device, 900) == first_window_s(device, 900)


def test_first_windows_of_a_fleet_spread_evenly() -> None:
    lengths = sorted(first_window_s(f"d-{i}", 900) for i in range(1_000))
    assert all(abs(length - (225 + 675 * (i + 0.5) / 1_000)) < 40 for i, length in enumerate(lengths))


def test_classes_are_counted_by_index() -> None:
    sums = Sums("a" * 64, "1", n=3, classes={2: 2, 0: 1, 999: 4})
    assert sums.closed("digits", "active", 0, 60).classes == [1, 0, 2]


def test_the_cpu_time_of_a_window_is_what_was_used_in_it() -> None:
    worker = SimpleNamespace(cpu_s=0.0)
    used = []
    for cpu_s in (5.0, 7.5):  # the worker tells the time of its whole life
        sums = Sums("a" * 64, "1")
        sums.add(Stats(latency=LatencySketch().packed(), cpu_s=cpu_s), worker)
        used.append(sums.cpu_s)
    assert used == [5.0, 2.5]
