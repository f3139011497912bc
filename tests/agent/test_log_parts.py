"""The kept prediction log on the device: numbered without repeats, chained, bounded, and honest about what is missing."""

import shutil
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from edgefleet_agent.captures import log_parts
from edgefleet_agent.captures.log_parts import PART_BYTES, RESERVED_LEAST, LogParts
from edgefleet_agent.core import durable
from edgefleet_agent.worker.control.protocol import Entry
from edgefleet_protocol.prediction_parts import (
    FULL,
    LOST,
    STOPPED,
    Gap,
    Head,
    Part,
    Release,
    decode_head,
    erase,
    hash_of,
    sampled,
    unexplained,
    unpack_part,
)

RELEASE = Release("1.0.0", "a" * 64, "active")
ROOM = 1 << 20


def entries(n: int, subject: bytes = b"") -> list[Entry]:
    """Return answers."""
    return [Entry(1_000 + i, f"t{i}", "ok", 250, subject, i, b"body") for i in range(n)]


def begun(folder: Path) -> LogParts:
    """Return the log as a start of the agent finds it."""
    return LogParts(folder, "d-1", "digits")


def add(parts: LogParts, n: int, *, lost: int = 0, room: int = ROOM, subject: bytes = b"") -> None:
    """Keep n answers."""
    parts.add(entries(n, subject), RELEASE, b"", "", lost=lost, free_bytes=room)


def kept(parts: LogParts) -> list[tuple[Head, Part]]:
    """Return the parts that wait; each follows the one before, and accounts for each of its numbers."""
    found = [unpack_part(parts.read(number)) for number in parts.waiting()]
    heads = [decode_head(part.head) for part in found]
    for head, part in zip(heads, found, strict=True):
        assert [*unexplained(head, sorted([r.seq for r in part.rows] + [e.seq for e in part.erased]))] == []
    for (one, part), after in pairwise(zip(heads, found, strict=True)) if len(found) > 1 else ():
        assert (after[0].first, after[0].before) == (one.last + 1, hash_of(part))
    return list(zip(heads, found, strict=True))


def refuses(*_: object) -> None:
    """Fail as a disk that takes nothing does."""
    raise OSError("no space left on device")


def numbers(parts: LogParts) -> list[int]:
    """Return the numbers of all rows."""
    return [row.seq for _, part in kept(parts) for row in part.rows]


def test_parts_follow_each_other_over_an_orderly_restart(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    add(parts, 3)
    assert parts.close()
    add(parts, 2)
    parts.close(is_orderly=True)
    again = begun(tmp_path)
    add(again, 1)
    again.close(is_orderly=True)
    assert numbers(again) == [1, 2, 3, 4, 5, 6]
    assert again.lost == 0
    assert len({head.log for head, _ in kept(again)}) == 1
    again.remove(1)
    assert begun(tmp_path).waiting() == [2, 3]


def test_a_kill_takes_no_row_repeats_no_number_and_leaves_a_gap(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    add(parts, 3)  # and then nothing more: SIGKILL
    again = begun(tmp_path)
    add(again, 2)
    again.close()
    found = numbers(again)
    assert found[:3] == [1, 2, 3]
    assert len(set(found)) == 5
    (head, _), _ = kept(again)
    assert [(gap.first, gap.reason) for gap in head.gaps] == [(4, STOPPED)]


@pytest.mark.parametrize("keep", range(0, 220, 7))
def test_a_power_cut_leaves_what_was_written_whole_and_says_that_more_may_be_missing(tmp_path: Path, keep: int) -> None:
    parts = begun(tmp_path)
    add(parts, 1)
    parts.close()
    for _ in range(3):
        add(parts, 1)
    path = tmp_path / "open"
    path.write_bytes(path.read_bytes()[:keep])
    again = begun(tmp_path)
    add(again, 1)
    again.close()
    found = numbers(again)
    assert found == sorted(set(found))
    last = again.status()["seq"]
    gaps = [gap for head, _ in kept(again) for gap in head.gaps]
    assert {gap.reason for gap in gaps} == {STOPPED}
    assert len(found) + sum(gap.last - gap.first + 1 for gap in gaps) == last
    assert found[-1] > 4, "a number that was given before is never given again"


def test_a_cut_while_a_part_is_closed_neither_loses_nor_doubles_it(tmp_path: Path) -> None:
    parts = begun(tmp_path / "a")
    add(parts, 3)
    before = tmp_path / "b"
    shutil.copytree(tmp_path / "a", before)
    parts.close()
    shutil.copy(tmp_path / "a" / "00000001.part", before)  # the part is there, the state does not know of it
    again = begun(before)
    assert numbers(again) == [1, 2, 3]
    late = tmp_path / "c"  # the state knows, the open file is still there
    shutil.copytree(tmp_path / "a", late)
    shutil.copy(before.parent / "b" / "00000001.part", late / "00000001.part")
    add(parts, 1)
    shutil.copy(tmp_path / "a" / "open", late / "open")
    assert numbers(begun(late)) == [1, 2, 3, 4]


def test_without_room_new_answers_are_left_out_and_the_gap_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = begun(tmp_path)
    add(parts, 2)
    add(parts, 5, room=10)
    add(parts, 5, room=10)
    assert parts.lost == 10
    add(parts, 1, lost=3)
    parts.close()
    ((head, part),) = kept(parts)
    assert [row.seq for row in part.rows] == [1, 2, 16]
    assert head.gaps == [Gap(3, 12, FULL), Gap(13, 15, LOST)]
    assert "gap in the prediction log" in caplog.text
    add(parts, 4, room=10)  # nothing but a gap: it is sent too
    parts.close()
    assert kept(parts)[-1][0].gaps == [Gap(17, 20, FULL)]


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    parts = begun(tmp_path / "file" / "digits")
    add(parts, 5)
    assert not parts.close()
    assert parts.lost == 5


def test_what_is_sampled_is_no_choice_of_the_device(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    parts.ratio = 0.1
    for _ in range(50):
        add(parts, 20)
    parts.close()
    ((head, part),) = kept(parts)
    seqs = [row.seq for row in part.rows]
    assert seqs == [*sampled(head.log, 1, 1_000, 0.1)]
    assert 98 < len(seqs) < 102
    assert [*unexplained(head, seqs[1:])] == seqs[:1], "a row that was left out by hand"


def test_erased_rows_leave_their_hash_and_the_chain(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    add(parts, 2, subject=b"s")
    add(parts, 2)
    before = parts.status()["head"]
    parts.erase({b"s": 2_000}, 9_000)
    ((head, part),) = kept(parts)
    assert before == ""
    assert hash_of(part).hex() == parts.status()["head"]
    assert ([row.seq for row in part.rows], [one.seq for one in part.erased]) == ([3, 4], [1, 2])
    assert head.last == 4
    assert erase(part, {b"s": 2_000}, 9_000) is part
    assert not (tmp_path / "open").exists()


def test_a_damaged_part_keeps_no_other_from_being_erased(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    for _ in range(2):
        add(parts, 1, subject=b"s" * 16)
        parts.close()
    (tmp_path / "00000001.part").write_bytes(b"damaged")
    assert len(parts.erase({b"s" * 16: 2_000}, 9_000)) == 1
    assert unpack_part(parts.read(2)).rows == []


def test_a_part_that_the_state_does_not_know_of_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = begun(tmp_path)
    add(parts, 2)
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_record", refuses)
        assert not parts.close()
        assert parts.waiting() == []
        assert not list(tmp_path.glob("*.part")), "a start would take it for the whole part"
    add(parts, 1)
    assert parts.close()
    assert numbers(parts) == [1, 2, 3]
    shutil.copy(tmp_path / "00000001.part", tmp_path / "00000002.part")
    torn = (tmp_path / "00000002.part").read_bytes()[:20]
    (tmp_path / "00000002.part").write_bytes(torn)
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_file", refuses)
        assert begun(tmp_path).waiting() == [1]


def test_a_state_that_is_there_and_not_synced_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = begun(tmp_path)
    add(parts, 2)

    def writes_and_fails(path: Path, record: msgspec.Struct) -> None:
        durable.write_record(path, record)
        raise OSError("not synced")

    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_record", writes_and_fails)
        assert parts.close()
    add(parts, 1)
    parts.close(is_orderly=True)
    assert numbers(begun(tmp_path)) == [1, 2, 3]


def test_a_state_that_cannot_be_read_begins_a_new_log_and_keeps_what_waits(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    for n in (1, 2):
        add(parts, n)
        parts.close()
    before = [parts.read(number) for number in parts.waiting()]
    (tmp_path / "state").write_bytes(b"torn")
    add(begun(tmp_path), 3)
    parts = begun(tmp_path)
    assert [parts.read(number) for number in (1, 2)] == before
    (head, part), *more = [
        (decode_head(one.head), one) for one in map(unpack_part, map(parts.read, parts.waiting()[2:]))
    ]
    assert (head.part, head.before, [row.seq for row in part.rows], more) == (1, b"", [1, 2, 3], [])
    parts.remove(3)
    assert parts.waiting() == [1, 2]


def test_a_worker_that_died_adds_no_gap_of_its_own_where_nothing_can_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = begun(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_record", refuses)
        add(parts, 0, lost=401)
    add(parts, 1)
    parts.close()
    ((head, _),) = kept(parts)
    assert head.gaps == [Gap(1, 401, LOST)]


def test_each_kill_leaves_a_gap_also_before_the_first_answer_is_heard_of(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    parts.begin()  # a worker numbers answers: SIGKILL
    parts = begun(tmp_path)
    parts.begin()
    parts = begun(tmp_path)
    assert [gap.reason for head, _ in kept(parts) for gap in head.gaps] == [STOPPED, STOPPED]
    for _ in range(500):
        add(parts, 1)
    last = parts.status()["seq"]
    again = begun(tmp_path)
    assert again.status()["seq"] >= last + RESERVED_LEAST  # type: ignore[operator]


def test_what_is_open_fits_into_a_part_while_none_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = begun(tmp_path)
    answers = [msgspec.structs.replace(one, body=b"x" * 20_000) for one in entries(1)]
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_file", refuses)
        for _ in range(100):
            parts.add(answers, RELEASE, b"", "", lost=0, free_bytes=16 << 20)
        assert not parts.close()
    assert parts.size_bytes <= 4 * PART_BYTES
    assert parts.close()
    ((head, part),) = kept(parts)
    assert (len(part.rows), head.gaps) == (13, [Gap(14, 100, FULL)])


@pytest.mark.parametrize("tail", [b"EFL1\0\0", b"EFL1" + struct.pack(">II", 1, zlib.crc32(b"\1")) + b"\1"])
def test_what_comes_behind_a_tail_that_cannot_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    add(begun(tmp_path), 3)
    path = tmp_path / "open"
    path.write_bytes(path.read_bytes() + tail)
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "write_file", refuses)
        again = begun(tmp_path)
        add(again, 2)
    assert again.close()
    assert len(numbers(again)) == 5
