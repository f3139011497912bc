"""Drift of a model as the server says it: real windows of devices at sites, of profiles; what happens, and the nearest harmless thing."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from edgefleet_protocol.drift.reference import Reference
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.telemetry.drift import device_words
from edgefleet_server.telemetry.drift.errors import (
    BadPeriodError,
    NoBaselineError,
    NothingCountedError,
    SignalUnknownError,
)
from edgefleet_server.telemetry.drift.views import ModelDrift, SignalDrift
from edgefleet_server.telemetry.signals.model import Scale
from tests.server.fleet.house import PROFILE, House
from tests.server.telemetry.drifting import bundle_bytes, counted, message, reference, window

MADE = reference(20_000)
PUMP = ModelName("pump")
OTHER = "generic-x86_64-litert"
PROFILES = (PROFILE, OTHER)
HOUR = dt.timedelta(hours=1)
Shift = Callable[[int], Mapping[str, float]]
SITES = ("berlin", "lyon", "osaka")


class Pumps:
    """Twelve devices, four at each site, every other of another profile, that run one release and report once an hour."""

    def __init__(self, house: House, made: Reference | None = MADE, devices: int = 12) -> None:
        self.house = house
        self.made = made or MADE
        bundles = {profile: bundle_bytes("pump", "1.0.0", profile, made) for profile in PROFILES}
        self.ref = house.release("pump@1.0.0", bundles=bundles)
        self.digests = {str(one.profile): str(one.sha256) for one in house.registry.release(self.ref).bundles}
        self.devices = [house.device(labels={"site": SITES[k // 4]}).id for k in range(devices)]
        for k, device in enumerate(self.devices):
            if k % 2:
                house.fleet.edits.update(device, {}, OTHER)
        self.seq = 0

    def report(
        self,
        shift: Shift = lambda _: {},
        *,
        hours: int = 2,
        n: int = 150,
        seed: int = 1,
        classes: Callable[[int], tuple[int, ...]] = lambda _: (90, 60),
        **fields: Any,
    ) -> None:
        """Let each device report so many hours up to now. shift: of its signals, in sigma."""
        start = self.house.clock.now() - hours * HOUR
        for k, device in enumerate(self.devices):
            for hour in range(hours):
                sums = counted(self.made, n, (seed * 100 + k) * 1000 + hour, shift=shift(k))
                told = window(
                    self.made,
                    self.digests[PROFILES[k % 2]],
                    sums,
                    start + hour * HOUR + dt.timedelta(minutes=45),
                    length_s=900,
                    covered_s=3600,
                    classes=classes(k),
                    **fields,
                )
                self.seq += 1
                self.house.telemetry.ingest([message(device, self.seq, told)])

    def say(self, k: int, signal: str, *, kind: EventKind = EventKind.DRIFT, **more: Any) -> None:
        """Let a device say that a signal drifts."""
        self.seq += 1
        now_s = int(self.house.clock.now().timestamp())
        detail = {
            "signal": signal,
            "kind": "numeric",
            "scale": "1h",
            "psi": 0.4,
            "shift_z": 0.7,
            "since": now_s,
            **more,
        }
        event = Event(
            device=self.devices[k], boot_id="b", seq=self.seq, ts=now_s * 1000, kind=kind, model="pump", detail=detail
        )
        self.house.fleet.receiver.take_events([event])

    def drift(self, **asked: Any) -> ModelDrift:
        """Return what is said of the model."""
        self.house.drift.forget("pump")
        return self.house.drift.of_model(PUMP, **asked)

    def signal(self, name: str) -> SignalDrift:
        """Return what is said of a signal."""
        return next(one for one in self.drift().signals if one.name == name)


@pytest.fixture
def pumps(house: House) -> Pumps:
    """Return devices of a release with a reference."""
    return Pumps(house)


def test_the_whole_way_on_each_database(any_house: House) -> None:
    pumps = Pumps(any_house)
    pumps.report(lambda k: {"temperature": 1.0} if 4 <= k < 8 else {})
    found = pumps.drift()
    assert (found.state, found.kind, found.release, found.scale) == ("drift", "data", "pump@1.0.0", "1h")
    assert found.said == (
        "The inputs have drifted, the answers have not: temperature, "
        f"{found.signals[0].shift:.2g} σ higher at site lyon (4 of 12 devices)."
    )
    assert (found.devices, found.judged, found.learned, found.is_old) == (12, 12, 0, False)
    assert found.until == any_house.clock.now(), "an hour that is not over yet does not end in the future"
    assert [(one.version, one.devices) for one in found.versions] == [("1.0.0", 12)]
    first = found.signals[0]
    assert (first.name, first.where, first.place, first.moved, first.devices) == ("temperature", "site", "lyon", 4, 12)
    assert first.mean_before == 20.0
    assert first.mean_after == pytest.approx(22.0, abs=0.3)
    assert sum(first.before) == pytest.approx(1, abs=0.001)
    assert len(first.bins) == len(first.before) == len(first.after) == 11
    assert first.history[-1] is not None
    assert first.history[0] is None
    detail = any_house.drift.of_signal(PUMP, "temperature")
    by_name = {(one.where, one.name): one for one in detail.cohorts}
    assert set(by_name) == {("all", ""), *(("site", site) for site in SITES), *(("profile", one) for one in PROFILES)}
    assert by_name["site", "lyon"].psi > 0.5
    assert by_name["site", "osaka"].psi < 0.05
    assert [one.moved for one in detail.devices] == [True] * 4 + [False] * 8


CASES: Mapping[str, tuple[Shift, str, str, int]] = {
    "everywhere": (lambda _: {"pressure": -0.5}, "all", "", 12),
    "one-profile": (lambda k: {"pressure": -1.0} if k % 2 else {}, "profile", OTHER, 6),
    "one-sensor": (lambda k: {"pressure": -1.5} if k == 7 else {}, "device", "", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sensor_one_profile_and_all_are_told_apart(pumps: Pumps, case: str) -> None:
    shift, where, place, moved = CASES[case]
    pumps.report(shift)
    found = pumps.signal("pressure")
    assert (found.state, found.where, found.moved) == ("drift", where, moved)
    assert found.place == (place or (pumps.devices[7] if moved == 1 else ""))
    assert pumps.drift().kind == "data"
    assert [one.state for one in pumps.drift().signals[1:]] == ["same"] * 5


def test_nothing_drifts_where_all_is_well(pumps: Pumps) -> None:
    pumps.report(hours=3)
    found = pumps.drift()
    assert (found.state, found.kind) == ("same", "none")
    assert found.said == "Inputs and answers are as in the reference on 12 devices."
    assert {one.name for one in found.signals} == {
        "temperature",
        "pressure",
        "current",
        "score",
        "confidence",
        "classes",
    }
    assert {one.state for one in found.signals} == {"same"}
    assert found.words == []


def test_more_traffic_at_one_site_is_no_drift(pumps: Pumps) -> None:
    pumps.report(n=120)
    pumps.devices = pumps.devices[4:5]
    pumps.report(n=5000, seed=9)
    assert pumps.drift().state == "same"


def test_answers_that_move_are_prediction_drift_and_both_is_both(pumps: Pumps) -> None:
    pumps.report(lambda _: {"score": 0.8})
    assert pumps.drift().kind == "prediction"
    pumps.report(lambda _: {"temperature": 0.9, "score": 0.9}, seed=2)
    assert pumps.drift().kind == "both"


def test_classes_come_from_the_windows_and_confidence_from_its_bins(pumps: Pumps) -> None:
    pumps.report(lambda _: {"confidence": 0.6}, classes=lambda _: (30, 120))
    found = {one.name: one for one in pumps.drift().signals}
    assert (found["classes"].state, found["classes"].where) == ("drift", "all")
    assert found["classes"].after[:2] == pytest.approx([0.2, 0.8])
    assert found["classes"].bins == ["class 0", "class 1", "others", "missing"]
    assert found["confidence"].state == "drift"
    assert found["confidence"].shift is None
    assert pumps.drift().kind == "prediction"


def test_a_release_without_a_reference_says_so_and_shows_what_devices_say(house: House) -> None:
    pumps = Pumps(house, None)
    assert pumps.drift().state == "no_reference"
    pumps.report(basis=b"learned1")
    pumps.say(3, "temperature")
    pumps.say(4, "pressure")
    pumps.say(4, "pressure", kind=EventKind.DRIFT_OVER)
    found = pumps.drift()
    assert (found.state, found.learned, found.signals) == ("no_reference", 12, [])
    assert found.said.endswith("judged on each device alone: 1 of them report drift.")
    assert [(one.device, one.signal, one.psi, one.shift) for one in found.words] == [
        (pumps.devices[3], "temperature", 0.4, 0.7)
    ]
    assert [one.model for one in house.drift.of_device(pumps.devices[3])] == ["pump"]
    assert house.drift.of_device(pumps.devices[4]) == []


def test_of_a_single_device_its_own_word_counts_when_its_figures_agree(house: House) -> None:
    pumps = Pumps(house, devices=1)
    pumps.report(lambda _: {"temperature": 1.0})
    assert pumps.signal("temperature").state == "same"
    pumps.say(0, "temperature")
    pumps.say(0, "pressure")
    found = pumps.signal("temperature")
    assert (found.state, found.where) == ("drift", "device")
    assert found.said.endswith(f"higher on its one device, {pumps.devices[0]}.")
    assert pumps.signal("pressure").state == "same"


def test_a_device_alone_is_judged_by_its_own_hours_before(house: House) -> None:
    pumps = Pumps(house, devices=1)
    pumps.report(hours=30)
    house.clock.turn(hours=1)
    pumps.report(lambda _: {"temperature": 1.0}, hours=1, n=300, seed=2)
    found = pumps.signal("temperature")
    assert (found.state, found.where, found.moved) == ("drift", "device", 1)
    assert pumps.signal("pressure").state == "same"


def test_a_word_that_is_no_sense_breaks_nothing(pumps: Pumps) -> None:
    pumps.report()
    pumps.say(0, "temperature", psi="much", shift_z=None, since=-1, scale=[1])
    assert pumps.drift().words[0].psi == 0.0


def test_a_device_that_says_it_without_end_hides_nothing_that_others_say(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_words, "MOST_EVENTS", 8)
    pumps = Pumps(house, None)
    pumps.say(3, "temperature")
    pumps.say(4, "pressure")
    pumps.say(4, "pressure", kind=EventKind.DRIFT_OVER)
    for loud in (5, 6):
        for n in range(20):
            pumps.say(loud, f"s{n % 2}")
    words = device_words.DeviceWords(house.fleet.feed, house.clock).open(model="pump")
    assert {(one.device, one.signal) for one in words} == {
        (pumps.devices[3], "temperature"), *((pumps.devices[loud], f"s{n}") for loud in (5, 6) for n in range(2)),
    }  # fmt: skip


def test_a_suspect_device_is_left_out(pumps: Pumps) -> None:
    pumps.report(lambda k: {"pressure": -1.5} if k == 7 else {})
    with pumps.house.db.session():
        pumps.house.fleet.suspicion.mark(pumps.devices[7], "lied")
    assert pumps.signal("pressure").state == "same"
    assert pumps.drift().judged == 11


def test_what_a_person_chose_as_normal_is_judged_by(any_house: House) -> None:
    pumps = Pumps(any_house)
    pumps.report(lambda _: {"temperature": 1.0}, hours=4)
    assert pumps.signal("temperature").state == "drift"
    baselines, now = any_house.drift.baselines, any_house.clock.now()
    with pytest.raises(NoBaselineError):
        baselines.get(pumps.ref)
    made, is_new = baselines.set(pumps.ref, now - 6 * HOUR, None, "ann")
    assert (made.devices, made.set_by, is_new) == (12, "ann", True)
    assert made.answers == 12 * 4 * 150
    found = pumps.drift()
    assert (found.state, found.reference.source, found.reference.set_by) == ("same", "baseline", "ann")
    any_house.clock.turn(hours=5)
    pumps.report(seed=3)
    back = pumps.signal("temperature")
    assert (back.state, back.where) == ("drift", "all")
    assert back.shift == pytest.approx(-1.0, abs=0.1)
    assert back.mean_before == pytest.approx(22.0, abs=0.2)
    assert baselines.set(pumps.ref, any_house.clock.now() - 3 * HOUR, any_house.clock.now(), "bob")[1] is False
    assert pumps.signal("temperature").state == "same"
    baselines.clear(pumps.ref)
    assert pumps.drift().reference.source == "reference"
    with pytest.raises(NoBaselineError):
        baselines.clear(pumps.ref)


def test_a_period_without_answers_is_no_normal(pumps: Pumps) -> None:
    baselines, now = pumps.house.drift.baselines, pumps.house.clock.now()
    with pytest.raises(NothingCountedError):
        baselines.set(pumps.ref, now - HOUR, None, "ann")
    for since, until in ((now, now - HOUR), (now - 900 * 24 * HOUR, None), (now + HOUR, None)):
        with pytest.raises(BadPeriodError):
            baselines.set(pumps.ref, since, until, "ann")


def test_without_figures_it_says_so_and_old_figures_are_called_old(pumps: Pumps) -> None:
    found = pumps.drift()
    assert (found.state, found.since, found.signals) == ("no_data", None, [])
    pumps.report()
    assert pumps.drift().is_old is False
    pumps.house.clock.turn(hours=9)
    assert pumps.drift().is_old is True
    assert pumps.drift(scale=Scale.DAY).scale == "1d"
    assert pumps.drift(scale=Scale.MINUTES).state == "no_data"
    with pytest.raises(SignalUnknownError):
        pumps.house.drift.of_signal(PUMP, "humidity")


def test_the_version_that_most_devices_report_is_shown_unless_another_is_asked_for(pumps: Pumps) -> None:
    pumps.report()
    new = pumps.house.release("pump@2.0.0", bundles={PROFILE: bundle_bytes("pump", "2.0.0", PROFILE, MADE)})
    digest = str(pumps.house.registry.release(new).bundles[0].sha256)
    sums = counted(MADE, 300, 5, shift={"current": 2.0})
    told = window(MADE, digest, sums, pumps.house.clock.now() - HOUR, length_s=3600, version="2.0.0")
    pumps.house.telemetry.ingest([message(pumps.devices[0], 10_000, told)])
    assert pumps.drift().version == "1.0.0"
    assert [(one.version, one.devices) for one in pumps.drift().versions] == [("1.0.0", 12), ("2.0.0", 1)]
    assert pumps.drift(version="2.0.0").release == "pump@2.0.0"
    pumps.house.registry.aliases.set(PUMP, "canary", ReleaseRef.parse("pump@2.0.0").version, "ann")
    assert pumps.drift(version="canary").version == "2.0.0"


def test_the_first_figures_are_seen_at_once(house: House) -> None:
    pumps = Pumps(house)
    assert house.drift.of_model(PUMP).state == "no_data"
    pumps.report()
    assert house.drift.of_model(PUMP).state == "same"
