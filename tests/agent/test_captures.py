"""What is kept on the device: bounded, fair to rare cases, gone after its days."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.captures.prediction_log import (
    FILES,
    Block,
    PredictionLog,
    Row,
    log_files,
    pack_block,
    read_predictions,
)
from edgefleet_agent.captures.store import DAY_MS, CaptureRecord, CaptureStore, parse_name


def record(number: int, reason: str = "random", label: int = 0, taken_ms: int | None = None) -> CaptureRecord:
    """Return a record of about a kilobyte."""
    return CaptureRecord(
        record=f"{number:016x}",
        model="digits.v2",
        version="1.0.0",
        sha256="a" * 64,
        reason=reason,
        label=label,
        trace_id=f"t{number}",
        taken_ms=number if taken_ms is None else taken_ms,
        seen=1,
        key="k" * 16,
        sealed=bytes(1_000),
    )


def store(folder: Path, cap: int = 1 << 20, days: int = 7, daily: int = 0) -> CaptureStore:
    """Return a store."""
    return CaptureStore(folder / "capture", cap, days, daily, 0.0)


def test_records_outlive_a_restart_and_are_chosen_by_model_and_reason(tmp_path: Path) -> None:
    box = store(tmp_path)
    for number in range(1, 6):
        assert box.add(record(number, "flag" if number % 2 else "low_confidence", label=-1), 0.0)
    again = store(tmp_path)
    assert (len(again), again.size_bytes) == (5, box.size_bytes)
    chosen = again.select("digits.v2", "flag", 2)
    assert [entry.taken_ms for entry in chosen] == [3, 5]
    assert again.select("other") == []
    found = again.read(chosen[0].name)
    assert found is not None
    assert (found.record, found.label) == (f"{3:016x}", -1)


def test_a_common_case_never_crowds_out_a_rare_one(tmp_path: Path) -> None:
    box = store(tmp_path, cap=20_000)
    assert box.add(record(1, "low_confidence", label=7), 0.0)
    for number in range(2, 100):
        assert box.add(record(number, "random", label=1), 0.0)
    assert box.size_bytes <= 20_000
    assert box.evicted > 0
    assert [entry.label for entry in box.select(reason="low_confidence")] == [7]
    assert box.select(reason="random")[-1].taken_ms == 99


def test_the_day_has_its_bytes_and_a_record_its_days(tmp_path: Path) -> None:
    box = store(tmp_path, days=2, daily=8_000)
    taken = [box.add(record(number), 0.0) for number in range(1, 10)]
    assert taken.count(True) == 1  # a quarter of a day's bytes at the start
    assert box.refused == 8
    assert box.add(record(20), 86_400.0)
    box.expire(2 * DAY_MS + 10)
    assert [entry.taken_ms for entry in box.select()] == [20]
    box.clear()
    assert list((tmp_path / "capture").iterdir()) == []


def test_a_torn_record_is_removed_and_not_told(tmp_path: Path) -> None:
    box = store(tmp_path)
    box.add(record(1), 0.0)
    name = box.select()[0].name
    path = tmp_path / "capture" / name
    path.write_bytes(path.read_bytes()[:-5])
    assert box.read(name) is None
    assert (len(box), path.exists()) == (0, False)


def test_other_files_in_the_folder_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "capture").mkdir()
    for name in (
        "a.cap",
        "1.x.random.0..cap",
        "x.00.random.0.m.cap",
        "1.00.random.zero.m.cap",
        "1.00.random.0.a/b.cap",
    ):
        assert parse_name(name, 1) is None
    (tmp_path / "capture" / "a.cap").write_bytes(b"x")
    assert len(store(tmp_path)) == 0


def block(n: int, t0_ms: int = 1_000, model: str = "digits") -> bytes:
    """Return a block of n answers."""
    rows = [Row(i, f"t{t0_ms}-{i}", 250, 3, 0.9) for i in range(n)]
    return pack_block(Block(1, model, "1.0.0", "a" * 64, "active", t0_ms, rows))


def test_the_log_is_bounded_and_drops_its_oldest_file(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "p", 40_000, 0, 0.0)
    for number in range(1, 500):
        log.add(block(10, number * 1_000), 10, 0.0)
        log.flush()
    size = sum(path.stat().st_size for path in log_files(tmp_path / "p"))
    assert size <= 40_000 + 10_000  # the newest file is begun before the oldest goes
    assert len(log_files(tmp_path / "p")) <= FILES
    told = list(read_predictions(tmp_path / "p"))
    assert told[-1].at_ms == 499_009
    assert told == sorted(told, key=lambda one: one.at_ms)


def test_what_the_day_has_no_bytes_for_is_said(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "p", 1 << 20, 4 * 400, 0.0)
    taken = sum(not log.add(block(5), 5, 0.0) for _ in range(40))
    assert taken == 40  # none asks to be flushed at once
    log.add(block(5, 2_000), 5, 86_400.0)
    log.flush()
    told = list(read_predictions(tmp_path / "p"))
    assert told[-5].missing > 0
    assert len(told) + told[-5].missing == 205


@given(st.data())
def test_a_damaged_log_gives_its_whole_blocks(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = PredictionLog(folder, 1 << 20, 0, 0.0)
        for number in range(5):
            log.add(block(3, number * 1_000), 3, 0.0)
        log.flush()
        path = log_files(folder)[0]
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 0xFF
        path.write_bytes(bytes(content))
        assert len(list(read_predictions(folder))) >= 12
        path.write_bytes(bytes(content[:at]))
        assert len(list(read_predictions(folder))) % 3 == 0


def test_the_log_is_asked_for_one_model_or_one_trace(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "p", 1 << 20, 0, 0.0)
    log.add(block(3, 1_000), 3, 0.0)
    log.add(block(3, 2_000, "other"), 3, 0.0)
    log.flush()
    assert {p.model for p in read_predictions(tmp_path / "p", model="other")} == {"other"}
    assert [p.at_ms for p in read_predictions(tmp_path / "p", trace_id="t2000-1")] == [2_001]
    assert list(read_predictions(tmp_path / "none")) == []
