"""Signals of windows: checked, added up exactly at three scales, bounded by device and day, forgotten by age."""

import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from sqlmodel import col

from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, unpack
from edgefleet_server.telemetry.signals import signal_intake as intake
from edgefleet_server.telemetry.signals.model import KEPT, Scale
from edgefleet_server.telemetry.signals.tables import DriftBucket
from tests.server.fleet.house import PROFILE, House
from tests.server.telemetry.drifting import bundle_bytes, counted, message, reference, window

MADE = reference(1000, classes=(600, 400))
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


@pytest.fixture
def sha256(house: House) -> str:
    """Return the digest of a bundle with a reference."""
    ref = house.release("pump@1.0.0", bundles={PROFILE: bundle_bytes("pump", "1.0.0", PROFILE, MADE)})
    return str(house.registry.release(ref).bundles[0].sha256)


def rows(house: House) -> list[DriftBucket]:
    """Return all steps, the short scales first."""
    with house.db.read() as session:
        order = (col(DriftBucket.scale_s), col(DriftBucket.at), col(DriftBucket.device_id))
        return list(session.execute(select(DriftBucket).order_by(*order)).scalars())


def sums_of(row: DriftBucket) -> list[SignalSums]:
    """Return the signals of a step."""
    return unpack(row.signals)


def test_windows_add_up_exactly_at_each_scale(house: House, sha256: str) -> None:
    start = house.clock.now() - dt.timedelta(hours=2)
    parts = [counted(MADE, 50 + k, k) for k in range(30)]
    for k, sums in enumerate(parts):
        told = message("d-one", k, window(MADE, sha256, sums, start + k * 5 * MINUTE, length_s=300))
        assert house.telemetry.ingest([told, told]) == 1
        assert house.telemetry.ingest([told]) == 0
    found = rows(house)
    by_scale = {scale: [one for one in found if one.scale_s == scale.seconds] for scale in Scale}
    assert [len(by_scale[scale]) for scale in Scale] == [30, 3, 1]
    for steps in by_scale.values():
        assert merged_windows([sums_of(one) for one in steps]) == merged_windows(parts)
        assert sum(one.covered_s for one in steps) == 30 * 300
    assert sums_of(by_scale[Scale.HOUR][0]) == merged_windows(parts[:12])


def test_what_covers_an_hour_is_in_no_step_of_five_minutes(house: House, sha256: str) -> None:
    start = house.clock.now() - dt.timedelta(minutes=75)
    hour = window(MADE, sha256, counted(MADE, 90, 1), start + 60 * MINUTE, length_s=900, covered_s=3600)
    week = window(MADE, sha256, counted(MADE, 90, 2), start + 60 * MINUTE, length_s=900, covered_s=7 * 86_400)
    house.telemetry.ingest([message("d-one", 1, hour), message("d-two", 1, week)])
    assert [(one.device_id, one.scale_s) for one in rows(house)] == [
        ("d-one", 3600),
        ("d-two", 86_400),
        ("d-one", 86_400),
    ]
    assert rows(house)[0].at == Scale.HOUR.begin(start + 75 * MINUTE - 30 * MINUTE)


def test_windows_of_one_batch_and_step_are_added_before_they_are_stored(house: House, sha256: str) -> None:
    at = house.clock.now() - 4 * MINUTE
    parts = [counted(MADE, 20, k) for k in range(3)]
    house.telemetry.ingest(
        [message("d-one", k, window(MADE, sha256, sums, at, length_s=60)) for k, sums in enumerate(parts)]
    )
    assert [sums_of(one) for one in rows(house)] == [merged_windows(parts)] * 3


@pytest.mark.parametrize(
    "lie",
    [
        {"signals": b"\x02rubbish"},
        {"signals": b"\x01\xff"},
        {"signals_s": 0},
        {"signals_s": -5},
        {"signals_s": 1},  # so many answers in a second
        {"basis": b"short"},
        {"signals": b"\x01" + b"\x00" * (intake.MAX_BYTES + 1)},
    ],
    ids=lambda lie: f"{next(iter(lie))}={str(next(iter(lie.values())))[:12]}",
)
def test_what_no_device_can_have_counted_is_refused_with_its_window(
    house: House, sha256: str, lie: dict[str, Any]
) -> None:
    at = house.clock.now() - 10 * MINUTE
    many = [SignalSums((10_000_000,) + (0,) * 9, squares=10_000_000 * 64)] * 4 + [SignalSums((0,) * 10)]
    good = window(MADE, sha256, many, at)
    bad = msgspec.structs.replace(good, **lie)
    house.telemetry.ingest([message("d-liar", 1, bad, msgspec.structs.replace(good, model="other"))])
    assert house.telemetry.refused() == {"d-liar": 1}
    assert [one.model for _, one in house.telemetry.windows("d-liar", None, 9)[0]] == ["other"]


def test_by_the_basis_of_the_bundle_only_its_signals_count(house: House, sha256: str) -> None:
    at = house.clock.now() - 10 * MINUTE
    few = counted(MADE, 30, 1)[:2]
    house.telemetry.ingest([message("d-liar", 1, window(MADE, sha256, few, at))])
    assert house.telemetry.refused() == {"d-liar": 1}
    learned = window(MADE, sha256, few, at, basis=b"learned!")
    house.telemetry.ingest([message("d-new", 1, learned)])
    assert {(one.device_id, one.basis) for one in rows(house)} == {("d-new", b"learned!".hex())}


def test_signals_of_no_bundle_of_ours_are_left_out_and_the_window_counts(house: House, sha256: str) -> None:
    at = house.clock.now() - 10 * MINUTE
    house.telemetry.ingest([message("d-one", 1, window(MADE, "f" * 64, counted(MADE, 30, 1), at))])
    house.telemetry.ingest([message("d-one", 2, window(MADE, sha256, counted(MADE, 30, 1), at, lane="measure"))])
    assert rows(house) == []
    assert house.telemetry.windows("d-one", None, 9)[1] == 2
    assert house.telemetry.refused() == {}


def test_a_device_fills_no_more_than_its_share(house: House, sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "DAILY_STEPS", 9)
    start = house.clock.now() - dt.timedelta(days=6)
    for k in range(20):
        told = window(MADE, sha256, counted(MADE, 5, k), start + k * dt.timedelta(hours=5))
        house.telemetry.ingest([message("d-full", k, told)])
        house.telemetry.ingest([message(f"d-{k}", k, told)])
    full = [one for one in rows(house) if one.device_id == "d-full"]
    assert 9 <= len(full) <= 11
    assert len({one.device_id for one in rows(house)}) == 21, "nobody else is kept out"
    assert house.telemetry.windows("d-full", None, 1)[1] == 20
    house.clock.turn(days=1)
    house.telemetry.ingest([message("d-full", 99, window(MADE, sha256, counted(MADE, 5, 1), house.clock.now()))])
    assert len([one for one in rows(house) if one.device_id == "d-full"]) > len(full)


def test_a_device_does_not_name_one_basis_after_another(house: House, sha256: str) -> None:
    at = house.clock.now() - 10 * MINUTE
    sums = counted(MADE, 5, 1)
    for k in range(9):
        told = window(MADE, sha256, sums, at, basis=k.to_bytes(8, "big"))
        house.telemetry.ingest([message("d-liar", k, told)])
    assert len({one.basis for one in rows(house)}) == intake.MAX_BASES


def test_steps_are_forgotten_by_age(house: House, sha256: str) -> None:
    start = house.clock.now()
    house.telemetry.ingest([message("d-one", 1, window(MADE, sha256, counted(MADE, 9, 1), start))])
    left = []
    for scale in Scale:
        for age in (KEPT[scale] - dt.timedelta(days=1), KEPT[scale] + dt.timedelta(days=2)):
            house.telemetry.prune(start + age)
            left.append(len(rows(house)))
    assert left == [3, 2, 2, 1, 1, 0]


def test_what_is_older_than_a_scale_keeps_counts_only_in_longer_ones(house: House, sha256: str) -> None:
    old = window(MADE, sha256, counted(MADE, 9, 1), house.clock.now() - dt.timedelta(days=10))
    ahead = window(MADE, sha256, counted(MADE, 9, 1), house.clock.now() + dt.timedelta(days=900))
    house.telemetry.ingest([message("d-late", 1, old), message("d-wrong", 1, ahead)])
    assert sorted(one.scale_s for one in rows(house) if one.device_id == "d-late") == [3600, 86_400]
    assert {one.at <= house.clock.now() + dt.timedelta(hours=1) for one in rows(house)} == {True}
