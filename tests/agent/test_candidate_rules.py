"""What becomes of a candidate: the decision by table, memory, failures, and suspension with hysteresis."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.candidate import rules, sensors
from edgefleet_agent.candidate.pressure import BATTERY, MEMORY, THERMAL, Pressure, PressureLimits, Readings, weighed
from edgefleet_agent.candidate.rules import CandidateRecord, Facts
from edgefleet_agent.install.records import CandidateRequest, ModelRecord, SlotRef, Wanted
from edgefleet_protocol.messages import ErrorClass, Phase


def wanted(sha256: str = "new", **fields: Any) -> Wanted:
    given = {"gen": 7, **fields}
    return Wanted(model="m", target=f"m/{sha256}/p.bundle", sha256=sha256, length=10, leaves="l", **given)


def wish(mode: str = "shadow", **fields: Any) -> CandidateRequest:
    return CandidateRequest(wanted=wanted(**fields), mode=mode, share_pct=10)


ACTIVE = SlotRef(slot="A", target="m/old/p.bundle", sha256="old", version="old", proven=True)
SERVES = ModelRecord(model="m", phase=Phase.COMMITTED, active=ACTIVE)
MINE = CandidateRecord(model="m")
CALM = Facts(wanted("old"), held=False, in_slot=True, fits="live")


def facts(**changes: Any) -> Facts:
    return Facts(**{**{name: getattr(CALM, name) for name in Facts.__slots__}, **changes})


@pytest.mark.parametrize(
    ("wish_", "record", "facts_", "expected"),
    [
        (None, SERVES, CALM, "End"),
        (wish(), None, CALM, "candidate.no_active"),
        (wish(), ModelRecord(model="m"), CALM, "candidate.no_active"),
        (wish(sha256="old"), SERVES, CALM, "candidate.is_active"),
        (wish(), msgspec.structs.replace(SERVES, phase=Phase.DOWNLOADING), CALM, "candidate.install"),
        (wish(), SERVES, facts(wanted_active=wanted("newer")), "candidate.install"),
        (wish(), msgspec.structs.replace(SERVES, phase=Phase.PROBATION), CALM, "candidate.trial"),
        (wish(), SERVES, facts(held=True), "install.held"),
        (wish(), SERVES, facts(in_slot=False), "Bring"),
        (wish(), SERVES, facts(in_slot=False, early_until_s=1_764_072_000), "install.spread"),
        (wish(), SERVES, facts(early_until_s=1_764_072_000), "Run"),
        (wish("measure"), SERVES, facts(in_slot=False, early_until_s=1_764_072_000), "install.spread"),
        (wish(), SERVES, facts(in_slot=False, pressure=("memory",)), "Bring"),
        (wish(), SERVES, facts(pressure=("thermal",)), "candidate.thermal"),
        (wish(), SERVES, facts(retry_waits=True), "candidate.retry"),
        (wish(), SERVES, CALM, "Run"),
        (wish("split"), SERVES, CALM, "Run"),
        (wish("split"), SERVES, facts(fits="sequential"), "candidate.memory"),
        (wish(), SERVES, facts(fits="none"), "candidate.memory"),
        (wish(), SERVES, facts(fits="sequential"), "Record"),
        (wish(), SERVES, facts(fits="sequential", is_recorded=True), "Replay"),
        (wish(), SERVES, facts(fits="sequential", is_resting=True), "candidate.rest"),
    ],
)
def test_the_decision(wish_: CandidateRequest | None, record: ModelRecord | None, facts_: Facts, expected: str) -> None:
    step = rules.decide(wish_, MINE, record, facts_)
    assert expected in {type(step).__name__, getattr(step, "code", "")}


def test_it_is_brought_into_the_slot_that_does_not_serve() -> None:
    assert rules.decide(wish(), MINE, SERVES, facts(in_slot=False)) == rules.Bring("B")


def test_a_fault_of_its_own_is_final_until_a_newer_document_or_another_attempt() -> None:
    after = rules.failed(MINE, wanted(), ErrorClass.GOLDEN, "candidate.golden", "wrong answers")
    step = rules.decide(wish(), after, SERVES, CALM)
    assert step == rules.Stay("failed", "candidate.golden", "wrong answers")
    assert rules.decide(wish(gen=8), after, SERVES, CALM) == rules.Run()
    assert rules.decide(wish(attempt=2), after, SERVES, CALM) == rules.Run()
    assert rules.decide(wish(sha256="other"), after, SERVES, CALM) == rules.Run()
    moment = rules.failed(MINE, wanted(), ErrorClass.MEMORY, "candidate.memory", "no room")
    assert rules.decide(wish(), moment, SERVES, CALM) == rules.Run()


def test_starts_are_counted_for_one_bundle_and_bounded() -> None:
    record = MINE
    for _ in range(rules.MAX_STARTS):
        assert not rules.is_worn_out(record, wanted())
        record = rules.started(record, wanted(), "B")
    assert rules.is_worn_out(record, wanted())
    assert not rules.is_worn_out(record, wanted("other"))
    assert rules.started(record, wanted("other"), "B").starts == 1


@pytest.mark.parametrize(
    ("available", "mode", "expected"),
    [
        (200, "auto", "live"),
        (160, "auto", "live"),
        (159, "auto", "sequential"),
        (110, "auto", "sequential"),
        (109, "auto", "none"),
        (-1, "auto", "live"),
        (10, "live", "live"),
        (1000, "sequential", "sequential"),
    ],
)
def test_what_memory_allows(available: int, mode: str, expected: str) -> None:
    assert rules.memory_fit(100, available, 10, 50, mode=mode) == expected


LIMITS = PressureLimits(memory_available_bytes=100, resume_s=60.0)


@pytest.mark.parametrize(
    ("reading", "shadow", "expected"),
    [
        (Readings(), True, ()),
        (Readings(memory_stall_pct=10.0), True, (MEMORY,)),
        (Readings(memory_stall_pct=10.0), False, (MEMORY,)),
        (Readings(memory_stall_pct=9.9), True, ()),
        (Readings(memory_available_bytes=99), False, (MEMORY,)),
        (Readings(memory_available_bytes=100), True, ()),
        (Readings(temperature_celsius=80.0), True, (THERMAL,)),
        (Readings(temperature_celsius=80.0), False, ()),
        (Readings(battery_pct=29.0, is_discharging=True), True, (BATTERY,)),
        (Readings(battery_pct=29.0, is_discharging=False), True, ()),
        (Readings(battery_pct=30.0, is_discharging=True), True, ()),
        (Readings(memory_stall_pct=50.0, temperature_celsius=99.0), True, (MEMORY, THERMAL)),
    ],
)
def test_when_a_candidate_is_suspended(reading: Readings, shadow: bool, expected: tuple[str, ...]) -> None:
    assert weighed(Pressure(), reading, LIMITS, now_s=0.0, shadow=shadow).reasons == expected


def test_a_limit_of_0_suspends_for_nothing() -> None:
    off = PressureLimits(memory_stall_pct=0, memory_available_bytes=0, temperature_celsius=0, battery_pct=0)
    worst = Readings(100.0, 0, 120.0, 0.0, is_discharging=True)
    assert weighed(Pressure(), worst, off, now_s=0.0, shadow=True) == Pressure()


def test_it_resumes_only_after_a_minute_well_below_the_limit() -> None:
    hot = weighed(Pressure(), Readings(temperature_celsius=81.0), LIMITS, now_s=0.0, shadow=True)
    near = weighed(hot, Readings(temperature_celsius=77.0), LIMITS, now_s=100.0, shadow=True)
    assert near == Pressure((THERMAL,), None)
    cool = weighed(near, Readings(temperature_celsius=74.0), LIMITS, now_s=200.0, shadow=True)
    assert cool == Pressure((THERMAL,), 200.0)
    assert weighed(cool, Readings(temperature_celsius=74.0), LIMITS, now_s=259.0, shadow=True).reasons == (THERMAL,)
    broken = weighed(cool, Readings(temperature_celsius=76.0), LIMITS, now_s=230.0, shadow=True)
    again = weighed(broken, Readings(temperature_celsius=70.0), LIMITS, now_s=240.0, shadow=True)
    assert weighed(again, Readings(), LIMITS, now_s=299.0, shadow=True).reasons == (THERMAL,)
    assert weighed(again, Readings(), LIMITS, now_s=300.0, shadow=True) == Pressure()


looks = st.lists(
    st.builds(
        Readings,
        memory_stall_pct=st.none() | st.floats(0, 100),
        memory_available_bytes=st.none() | st.integers(0, 300),
        temperature_celsius=st.none() | st.floats(20, 110),
        battery_pct=st.none() | st.floats(0, 100),
        is_discharging=st.booleans(),
    ),
    max_size=30,
)


@given(looks, st.booleans())
def test_it_never_swings_faster_than_the_time_to_resume(readings_: list[Readings], shadow: bool) -> None:
    """A look each 10 s: from suspended to running takes a whole minute of good readings, from running to suspended one."""
    state, good = Pressure(), 0
    for index, reading in enumerate(readings_):
        before, state = state, weighed(state, reading, LIMITS, now_s=index * 10.0, shadow=shadow)
        is_bad = bool(weighed(Pressure(), reading, LIMITS, now_s=0.0, shadow=shadow).reasons)
        assert not is_bad or state.reasons
        if before.reasons and not state.reasons:
            assert good >= 6
        good = good + 1 if state.reasons and state.good_since_s is not None else 0


def test_readings_come_from_proc_and_sys(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert sensors.read(tmp_path / "none", tmp_path / "none") == Readings()
    put(
        "proc/pressure/memory",
        "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
    )
    put("sys/class/thermal/thermal_zone0/temp", "41000\n")
    put("sys/class/thermal/thermal_zone1/temp", "82500\n")
    put("sys/class/power_supply/BAT0/type", "Battery\n")
    put("sys/class/power_supply/BAT0/capacity", "24\n")
    put("sys/class/power_supply/BAT0/status", "Discharging\n")
    put("sys/class/power_supply/mouse/type", "Battery\n")
    put("sys/class/power_supply/mouse/scope", "Device\n")
    put("sys/class/power_supply/mouse/capacity", "3\n")
    put("sys/class/power_supply/AC/type", "Mains\n")
    assert sensors.read(tmp_path / "proc", tmp_path / "sys") == Readings(12.5, None, 82.5, 24.0, is_discharging=True)
    put("proc/pressure/memory", "some avg10=x\n")
    assert sensors.read(tmp_path / "proc", tmp_path / "sys").memory_stall_pct is None
