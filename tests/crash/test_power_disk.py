"""What a disk keeps when its power is cut: the rule behind `./dev soak power-cuts`, which is too slow for CI."""

import random
import struct
from pathlib import Path

import pytest

from tests.crash import power_disk
from tests.crash.power_disk import FLUSH, FUA, MAGIC, SECTOR


class Always(random.Random):
    """Draws that keep a given share of what was not flushed."""

    def __init__(self, keeps: float) -> None:
        super().__init__(1)
        self.keeps = keeps

    def choice(self, _options: object) -> float:  # type: ignore[override]
        return self.keeps


def log_of(*parts: tuple[int, int, bytes]) -> bytes:
    """Return a log of (flags, sector, data)."""
    log = struct.pack("<QQQL", MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")
    for flags, sector, data in parts:
        log += struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data
    return log


def sector(letter: str) -> bytes:
    return letter.encode() * SECTOR


STORY = log_of((0, 0, sector("a")), (FLUSH, 0, b""), (0, 1, sector("b")), (FUA, 2, sector("c")), (0, 0, sector("d")))


@pytest.mark.parametrize(("keeps", "left", "lost"), [(0.0, "a-c-", 2), (1.0, "dbc-", 0)])
def test_what_was_flushed_or_written_through_stays_and_the_rest_may_be_lost(
    tmp_path: Path, keeps: float, left: str, lost: int
) -> None:
    base, log, image = (tmp_path / name for name in ("base", "log", "image"))
    base.write_bytes(sector("-") * 4)
    # half an entry at the end: the machine was killed while it was written
    log.write_bytes(STORY + struct.pack("<QQQQ", 3, 1, 0, 0).ljust(SECTOR, b"\0") + b"torn")
    assert power_disk.cut(base, log, image, Always(keeps)) == (2, lost)
    assert image.read_bytes()[::SECTOR].decode() == left


@pytest.mark.parametrize(("part", "left"), [(0.2, "a---"), (0.0, "----"), (0.8, "abc-")])
def test_the_power_may_be_cut_at_each_write(tmp_path: Path, part: float, left: str) -> None:
    base, log, image = (tmp_path / name for name in ("base", "log", "image"))
    base.write_bytes(sector("-") * 4)
    log.write_bytes(STORY)
    power_disk.cut(base, log, image, Always(1.0), part)
    assert image.read_bytes()[::SECTOR].decode() == left


def test_a_run_that_wrote_nothing_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    base, log, image = (tmp_path / name for name in ("base", "log", "image"))
    base.write_bytes(sector("-"))
    log.write_bytes(b"")
    assert power_disk.cut(base, log, image, random.Random(1)) == (0, 0)
    assert image.read_bytes() == base.read_bytes()


def test_a_log_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no log of writes"):
        power_disk.writes(sector("x"))
