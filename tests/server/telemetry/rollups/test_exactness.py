"""Roll-ups: at every scale exactly the sum of the distinct windows, whatever order, replays and kills they came through."""

import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.rollups import rollup_writer, store
from edgefleet_server.telemetry.rollups.model import KEPT, SCALES, Dimension, Sums
from edgefleet_server.telemetry.rollups.rollup_writer import RollupWriter
from edgefleet_server.telemetry.rollups.totals import WindowTotal
from edgefleet_server.telemetry.service import TelemetryService
from tests.server.fleet.house import House

HOUR_S = 3_600
PROFILES = {"d-1": ("pi5", "north", ("edge", "test")), "d-2": ("pi5", "south", ("edge",)), "d-3": ("x86", "", ())}


class KilledError(Exception):
    """The process ends here."""


def telemetry_of(house: House) -> TelemetryService:
    """Return a service that knows of three devices what they belong to."""
    return TelemetryService(house.db, house.clock, None, lambda _devices: PROFILES)


def emptied(house: House) -> None:
    """Forget all telemetry: the tables are the same for all examples."""
    with house.db.session() as session:
        for table in ("batch", "window", "rollup", "series", "cohort"):
            session.execute(text(f"DELETE FROM telemetry_{table}"))


def windows_of(now_s: int) -> st.SearchStrategy[Window]:
    """Return windows as agents send them, of the last days and some from a clock that is ahead."""
    small = st.integers(0, 5)
    return st.builds(
        Window,
        t0=st.integers(now_s - 3 * 86_400, now_s + HOUR_S),
        length_s=st.sampled_from([60, 900, HOUR_S]),
        model=st.sampled_from(["digits", "faces"]),
        lane=st.sampled_from(["active", "candidate"]),
        sha256=st.sampled_from(["a" * 64, "b" * 64]),
        version=st.just("1.0.0"),
        n=st.integers(50, 1000),
        errors=small,
        timeouts=small,
        nonfinite=small,
        crashes=small,
        latency=st.builds(
            lambda counts: LatencySketch(counts).packed(),
            st.dictionaries(st.integers(0, 1400), st.integers(1, 9), max_size=5),
        ),
        classes=st.lists(st.integers(0, 9), max_size=4),
        worker_cpu_s=st.floats(0, 100, width=32),
        joules_per_answer=st.sampled_from([-1.0, 0.25]),
    )


def sum_of(windows: Sequence[Window]) -> Sums:
    """Return the sums by the plainest way."""
    found = WindowTotal([0] * 10, [], 0, []).sums()
    for one in windows:
        latency = LatencySketch.unpacked(one.latency)
        has_joules = one.joules_per_answer >= 0
        found += Sums(
            1, one.length_s, one.n, one.errors, one.timeouts, one.nonfinite, one.crashes, latency, tuple(one.classes),
            one.worker_cpu_s, one.joules_per_answer * one.n if has_joules else 0.0, one.n if has_joules else 0,
        )  # fmt: skip
    return found


def assert_same(found: Sums, expected: Sums) -> None:
    """Check that both count the same; seconds of CPU are kept in microseconds."""
    for name in ("windows", "seconds", "n", "errors", "timeouts", "nonfinite", "crashes", "joules_n"):
        assert getattr(found, name) == getattr(expected, name), name
    assert {k: v for k, v in found.latency.counts.items() if v} == expected.latency.counts
    assert [one for one in found.classes if one] == [one for one in expected.classes if one]
    assert found.worker_cpu_s == pytest.approx(expected.worker_cpu_s, abs=1e-4)
    assert found.joules == pytest.approx(expected.joules)


def read(telemetry: TelemetryService, scale: int, now: dt.datetime, **asked: object) -> dict[tuple[str, ...], Sums]:
    """Return the sums of all steps of a scale by key."""
    since = now - dt.timedelta(days=8)
    found: dict[tuple[str, ...], Sums] = {}
    for step in telemetry.rollups.models(scale, since, now + dt.timedelta(days=1), **asked):  # type: ignore[arg-type]
        found[step.key] = found[step.key] + step.sums if step.key in found else step.sums
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_scale_is_the_sum_of_the_distinct_windows(any_house: House, data: st.DataObject) -> None:
    house = any_house
    emptied(house)
    now = house.clock.now()
    now_s = int(now.timestamp())
    messages = [
        Telemetry(
            device=data.draw(st.sampled_from(sorted(PROFILES))), boot_id="b", seq=seq, ts=now_s * 1000,
            windows=data.draw(st.lists(windows_of(now_s), max_size=4)), system=SystemFigures(cpu_ratio=0.5),
        )
        for seq in range(data.draw(st.integers(1, 8)))
    ]  # fmt: skip
    deliveries = data.draw(st.lists(st.lists(st.sampled_from(messages), min_size=1, max_size=5), max_size=6))
    telemetry = telemetry_of(house)
    for at, batch in enumerate([*deliveries, messages]):
        is_killed = data.draw(st.booleans())
        if is_killed:  # just before the commit; then the process goes on, or another begins
            _ingest_and_die(house, telemetry, batch)
            telemetry = data.draw(st.sampled_from([telemetry, telemetry_of(house)]))
        if not is_killed or at == len(deliveries):
            telemetry.ingest(batch)
        for scale in SCALES:  # what is remembered of it must not be told after the next
            read(telemetry, scale, now, by=(Dimension.GROUP,))
            read(telemetry, scale, now, where={Dimension.SITE: ["north"]})
    sent = [(one.device, window) for one in messages for window in one.windows]
    for scale in SCALES:
        mine = [(d, w) for d, w in sent if _is_kept(w, scale, now_s)]
        by_model = read(telemetry, scale, now, by=(Dimension.MODEL, Dimension.LANE))
        keys = {(w.model, w.lane) for _, w in mine}
        assert set(by_model) == keys
        for key in keys:
            assert_same(by_model[key], sum_of([w for _, w in mine if (w.model, w.lane) == key]))
        by_group = read(telemetry, scale, now, by=(Dimension.GROUP,))
        for group in ("edge", "test", ""):
            inside = [w for d, w in mine if group in (PROFILES[d][2] or ("",))]
            assert ((group,) in by_group) == bool(inside)
            if inside:
                assert_same(by_group[group,], sum_of(inside))
        if scale != SCALES[0]:
            span = now - dt.timedelta(days=8), now + dt.timedelta(days=1)
            served = telemetry.rollups.served(scale, *span, by=(Dimension.GROUP,))
            expected = {key: (one.windows, one.seconds, one.n) for key, one in by_group.items()}
            assert {key: (one.windows, one.seconds, one.n) for key, one in served.items()} == expected
        at_site = read(telemetry, scale, now, where={Dimension.SITE: ["north"]})
        inside = [w for d, w in mine if d == "d-1"]
        assert bool(at_site) == bool(inside)
        if inside:
            assert_same(at_site[()], sum_of(inside))
    totals = telemetry.rollups.totals(by=(Dimension.SHA256,))
    for digest in {w.sha256 for _, w in sent}:
        assert_same(totals[digest,], sum_of([w for _, w in sent if w.sha256 == digest]))
    system = telemetry.rollups.system(86_400, now - dt.timedelta(days=2), now + dt.timedelta(days=2))
    assert sum(step.sums.messages for step in system) == len(messages)


def _ingest_and_die(house: House, telemetry: TelemetryService, batch: Sequence[Telemetry]) -> None:
    try:
        with house.db.session():
            telemetry.ingest(batch)
            raise KilledError
    except KilledError:
        pass


def _is_kept(window: Window, scale: int, now_s: int) -> bool:
    return min(window.t0, now_s) // scale * scale >= now_s - KEPT[scale].total_seconds()


COUNTS = st.lists(st.integers(0, 2**40), max_size=6)
TOTALS = st.builds(
    WindowTotal, st.lists(st.integers(0, 9), min_size=10, max_size=10), COUNTS, st.integers(0, 9), COUNTS
)


@given(TOTALS, TOTALS)
def test_two_totals_are_added_as_many_are(one: WindowTotal, other: WindowTotal) -> None:
    nothing = WindowTotal([0] * 10, [], 0, [])
    assert WindowTotal.summed([one, other]).packed() == WindowTotal.summed([one, nothing, other]).packed()


def test_devices_that_change_their_cohort_count_where_they_were(any_house: House) -> None:
    house = any_house
    belongs: dict[str, tuple[str, str, tuple[str, ...]]] = {"d-1": ("pi5", "north", ("edge",))}
    telemetry = TelemetryService(house.db, house.clock, None, lambda _devices: belongs)
    now_s = int(house.clock.now().timestamp())
    window = Window(t0=now_s - 60, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=3)
    telemetry.ingest([Telemetry(device="d-1", boot_id="b", seq=1, ts=now_s * 1000, windows=[window])])
    belongs["d-1"] = ("pi5", "south", ("edge", "hall"))
    house.clock.turn(seconds=61)
    telemetry.ingest([Telemetry(device="d-1", boot_id="b", seq=2, ts=now_s * 1000, windows=[window])])
    now = house.clock.now()
    assert {key: sums.n for key, sums in read(telemetry, 900, now, by=(Dimension.SITE,)).items()} == {
        ("north",): 3,
        ("south",): 3,
    }
    assert {key: sums.n for key, sums in read(telemetry, 900, now, by=(Dimension.GROUP,)).items()} == {
        ("edge",): 6,
        ("hall",): 3,
    }
    assert read(telemetry, 900, now)[()].n == 6


def test_old_steps_go_by_scale_and_the_totals_stay(any_house: House) -> None:
    house = any_house
    telemetry = telemetry_of(house)
    now_s = int(house.clock.now().timestamp())
    window = Window(t0=now_s - 60, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=3)
    telemetry.ingest([Telemetry(device="d-1", boot_id="b", seq=1, ts=now_s * 1000, windows=[window])])
    then = house.clock.now()
    for scale in SCALES:
        house.clock.time = then + KEPT[scale] + dt.timedelta(seconds=2 * scale)
        telemetry.prune(house.clock.now())
        assert not telemetry.rollups.models(scale, then - dt.timedelta(days=2), then)
        coarser = [one for one in SCALES if one > scale]
        assert all(telemetry.rollups.models(one, then - dt.timedelta(days=2), then) for one in coarser)
    assert telemetry.rollups.totals()[()].n == 3


def test_a_device_that_names_too_many_models_counts_under_one_name(any_house: House) -> None:
    house = any_house
    telemetry = telemetry_of(house)
    now_s = int(house.clock.now().timestamp())
    windows = [
        Window(t0=now_s - 60, length_s=60, model=f"m-{at}", lane="active", sha256="a" * 64, version="1", n=1)
        for at in range(150)
    ]
    telemetry.ingest([Telemetry(device="d-1", boot_id="b", seq=1, ts=now_s * 1000, windows=windows)])
    found = telemetry.rollups.totals(by=(Dimension.MODEL,))
    assert len(found) == 101
    assert found["(other)",].n == 50
    assert telemetry.rollups.totals()[()].windows == 150


def test_counts_that_grow_without_end_stay_storable(any_house: House) -> None:
    house = any_house
    telemetry = telemetry_of(house)
    now_s = int(house.clock.now().timestamp())
    most = (400 * 86_400) * 100_000
    window = Window(
        t0=now_s - 60, length_s=400 * 86_400, model="m", lane="active", sha256="a" * 64, version="1", n=most, timeouts=most,
        latency=[500, most], classes=[2**62 - 1], joules_per_answer=9e8,
    )  # fmt: skip
    for seq in range(3):
        telemetry.ingest([Telemetry(device="d-1", boot_id="b", seq=seq, ts=now_s * 1000, windows=[window])])
    found = telemetry.rollups.totals()[()]
    assert found.n == 3 * most
    assert found.classes == (2**62,)
    assert msgspec.msgpack.encode(found.latency.counts)


def _of_devices(house: House, names: Sequence[str], seq: int, **fields: object) -> list[Telemetry]:
    """Return a message of each device with one window."""
    now_s = int(house.clock.now().timestamp())
    plain = {
        "t0": now_s - 60,
        "length_s": 60,
        "model": "m",
        "lane": "active",
        "sha256": "a" * 64,
        "version": "1",
        "n": 1,
    }
    window = Window(**{**plain, **fields})  # type: ignore[arg-type]
    return [Telemetry(device=one, boot_id="b", seq=seq, ts=now_s * 1000, windows=[window]) for one in names]


def test_groups_stay_after_a_restart_with_as_many_as_there_may_be(
    any_house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = any_house
    monkeypatch.setattr(rollup_writer, "MOST_COHORTS", 3)
    names = [f"d-{at}" for at in range(7)]
    belongs = {one: ("pi5", f"site-{one}", (f"group-{one}",)) for one in names}
    for seq in range(3):  # each time a new process
        telemetry = TelemetryService(house.db, house.clock, None, lambda _devices: belongs)
        for one in names:
            telemetry.ingest(_of_devices(house, [one], seq))
    with house.db.read() as session:
        stored = [(row.site, tuple(row.groups)) for row in store.cohorts(session)]
    whole = [(site, groups) for _, site, groups in (belongs[one] for one in names)]
    # three with all, three without groups, the rest without a site: the same ones again after a restart
    assert stored == [*whole[:3], *((site, ()) for site, _ in whole[3:6]), ("", ())]
    by_site = telemetry.rollups.totals(by=(Dimension.SITE,))
    assert {key: sums.n for key, sums in by_site.items()} == {(site,): 3 for site, _ in [*whole[:6], ("", ())]}
    assert [vars(one)["stored"] for one in caplog.records] == [3, 7, 7], "each process says it once a day"


def test_what_there_is_no_room_for_goes_from_the_finest_scale_first(any_house: House) -> None:
    house = any_house
    telemetry = telemetry_of(house)
    for seq in range(4):
        telemetry.ingest(_of_devices(house, ["d-1"], seq))
        house.clock.turn(minutes=15)
    now = house.clock.now()
    with house.db.session() as session:
        there = store.count_rows(session)
        gone = RollupWriter(most_rows=there - 5).prune(session, now, there)
        assert gone >= 5
        assert store.count_rows(session) == there - gone
    assert len(telemetry.rollups.models(60, now - dt.timedelta(days=1), now)) < 4
    assert len(telemetry.rollups.models(900, now - dt.timedelta(days=1), now)) == 4
    assert telemetry.rollups.totals()[()].n == 4


def test_a_device_beyond_its_new_names_is_said_once_a_day(any_house: House, caplog: pytest.LogCaptureFixture) -> None:
    house = any_house
    writer, now = RollupWriter(), house.clock.now()
    for day in range(2):
        for at in range(120):
            writer.bundle_of("d-1", (f"m-{at}", f"{day}", "a" * 64, "active"), now + dt.timedelta(days=day))
        writer.bundle_of("d-2", ("m", f"{day}", "a" * 64, "active"), now + dt.timedelta(days=day))
    assert [vars(one)["device"] for one in caplog.records] == ["d-1", "d-1"]


def test_what_cannot_be_counts_in_no_figure_of_devices(any_house: House) -> None:
    house = any_house
    telemetry, now = telemetry_of(house), house.clock.now()
    names = ("cpu_ratio", "temperature_celsius", "disk_free_bytes", "net_rx_bytes", "throttled_ratio")
    plain, odd = (1.0, 60.0, 2**30, 900, 0.0), (7.0, 1e18, 2**61, 2**61, 1.5)
    for seq, figures in enumerate((plain, odd)):
        system = SystemFigures(**dict(zip(names, figures, strict=True)))  # type: ignore[arg-type]
        message = Telemetry(
            device="d-1", boot_id="b", seq=seq, ts=int(now.timestamp()) * 1000, windows=[], system=system
        )
        telemetry.ingest([message])
    (step,) = telemetry.rollups.system(900, now - dt.timedelta(hours=1), now + dt.timedelta(hours=1))
    assert step.sums.messages == 2
    assert {name: (one.n, one.total, one.most) for name, one in step.sums.figures.items()} == {
        name: (1, float(value), float(value)) for name, value in zip(names, plain, strict=True)
    }
