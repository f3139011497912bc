"""Sums that are remembered: what was added meanwhile is in them, whoever added it, and nothing is read twice."""

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest

from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_server.telemetry.rollups import store
from edgefleet_server.telemetry.rollups.kept_steps import BYTES_EACH, KeptSteps, Packed, witnesses
from edgefleet_server.telemetry.rollups.model import Dimension
from edgefleet_server.telemetry.rollups.step_fold import ALL
from edgefleet_server.telemetry.service import TelemetryService
from tests.server.fleet.house import House

DAY_S = 86_400
BELONGS = {"d-1": ("pi5", "north", ("edge",)), "d-2": ("pi5", "south", ("edge",)), "d-3": ("x86", "", ())}


class Read:
    """Two server processes on one database: one adds, the other reads by site."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.adds, self.reads = (TelemetryService(house.db, house.clock, None, lambda _: BELONGS) for _ in range(2))
        self.days = [int(house.clock.now().timestamp()) // DAY_S * DAY_S - back * DAY_S for back in (3, 2, 1)]
        self.rows: list[tuple[int, int]] = []
        self._seq = 0
        steps = store.steps

        def noted(*asked: object) -> Iterator[tuple[int, int, bytes]]:
            for number, at, sums in steps(*asked):  # type: ignore[arg-type]
                self.rows.append((number, at))
                yield number, at, sums

        monkeypatch.setattr(store, "steps", noted)

    def add(self, device: str, *days: int, n: int = 1, model: str = "m") -> None:
        """Let a device say that it answered."""
        self._seq += 1
        of: dict[str, Any] = {"model": model, "lane": "active", "sha256": "a" * 64, "version": "1"}
        windows = [Window(t0=day + 60, length_s=60, n=n, latency=[500 + n, n], classes=[n], **of) for day in days]
        now_ms = int(self.house.clock.now().timestamp()) * 1000
        self.adds.ingest([Telemetry(device=device, boot_id="b", seq=self._seq, ts=now_ms, windows=windows)])

    def by_site(self, since_s: int = 0, step_s: int = DAY_S) -> dict[tuple[int, str], int]:
        """Return requests by day and site."""
        self.rows.clear()
        since = datetime.fromtimestamp(since_s or self.days[0], UTC)
        found = self.reads.rollups.models(DAY_S, since, self.house.clock.now(), by=(Dimension.SITE,), step_s=step_s)
        assert all(sum(one.sums.latency.counts.values()) == one.sums.n == one.sums.classes[0] for one in found)
        return {(int(one.at.timestamp()), one.key[0]): one.sums.n for one in found}

    @property
    def days_of_cohorts(self) -> set[int]:
        """Of which days the last question read rows of cohorts."""
        with self.house.db.read() as session:
            of_all = {number for number, key in store.series(session) if key[5] == ALL}
        return {at for number, at in self.rows if number not in of_all}


@pytest.fixture
def read(any_house: House, monkeypatch: pytest.MonkeyPatch) -> Read:
    return Read(any_house, monkeypatch)


def test_days_that_did_not_change_are_read_once(read: Read) -> None:
    first, second, third = read.days
    read.add("d-1", *read.days)
    read.add("d-2", second, n=5)
    before = read.by_site()
    assert before == {(first, "north"): 1, (second, "north"): 1, (second, "south"): 5, (third, "north"): 1}
    assert read.days_of_cohorts == {first, second, third}
    assert read.by_site() == before
    assert read.days_of_cohorts == set()


def test_a_late_window_counts_in_its_day_at_once(read: Read) -> None:
    first, second, third = read.days
    read.add("d-1", first, second, third)
    before = read.by_site()
    read.add("d-1", second, n=7)
    assert read.by_site() == before | {(second, "north"): 8}
    assert read.days_of_cohorts == {second}
    read.add("d-3", first, n=9)  # a new cohort: the question is another one
    assert read.by_site() == before | {(second, "north"): 8, (first, ""): 9}
    read.add("d-3", third, n=4, model="other")
    assert read.by_site() == before | {(second, "north"): 8, (first, ""): 9, (third, ""): 4}


@pytest.mark.parametrize("device", ["d-1", "d-3"])
@pytest.mark.parametrize("place", [1, 2], ids=["before the witness", "before the rows"])
def test_what_is_added_while_rows_are_read_is_in_the_next_answer(
    read: Read, monkeypatch: pytest.MonkeyPatch, place: int, device: str
) -> None:
    day = read.days[0]
    read.add("d-1", day)
    steps, asked = store.steps, []

    def with_more_between(*question: object) -> Iterator[tuple[int, int, bytes]]:
        asked.append(question)
        if len(asked) == place:
            other = Thread(target=read.add, args=(device, day))
            other.start()
            other.join()
        return steps(*question)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "steps", with_more_between)
    read.by_site()
    assert len(asked) == 2
    assert sum(read.by_site().values()) == 2
    assert sum(read.by_site().values()) == 2


def test_a_part_of_a_step_is_not_taken_for_the_whole(read: Read) -> None:
    begin = read.days[2] // (2 * DAY_S) * (2 * DAY_S) - 2 * DAY_S
    read.add("d-1", begin, begin + DAY_S)
    for since, n in ((begin, 2), (begin + DAY_S, 1), (begin, 2)):
        assert read.by_site(since, 2 * DAY_S) == {(begin, "north"): n}


def test_no_more_is_kept_than_there_is_room_for() -> None:
    kept = KeptSteps(most_bytes=3 * (BYTES_EACH + 100))
    sums: list[Packed] = [(("north",), [[1] * 10, [1] * 20, 500, [3] * 30])]
    for at in range(5):
        kept.keep("question", at, b"same", sums)
        kept.keep("question", at, b"same", sums)
    assert kept.known("question", dict.fromkeys(range(5), b"same")) == dict.fromkeys((2, 3, 4), sums)
    assert kept.known("question", dict.fromkeys(range(5), b"other")) == {}
    kept.keep("question", 4, b"more", [(("north",), [[2**64], [], 0, []])])  # no bytes for it
    assert kept.known("question", {4: b"more"}) == {}


def test_a_witness_tells_rows_apart_in_whatever_order_they_come() -> None:
    rows = [(1, 0, b"a"), (2, 0, b"b"), (1, 900, b"c"), (1, 3_600, b"d")]
    found = witnesses(rows, 3_600)
    assert found == witnesses(reversed(rows), 3_600)
    assert set(found) == {0, 3_600}
    assert found[0] != witnesses([(1, 0, b"ab"), *rows[1:]], 3_600)[0] != witnesses(rows[:2], 3_600)[0]
