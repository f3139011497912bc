"""Drift as an alert: by the real detector of a device, and by the server's own judgement of what real devices counted."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgefleet_protocol.drift.detector import DAY_OF_BLOCKS
from tests.agent.test_drift import Device as DriftingDevice
from tests.server.alerting.test_rules import fires, is_calm
from tests.server.alerting.watched_fleet import WatchedFleet
from tests.server.fleet.house import House
from tests.server.telemetry.drifting import bundle_bytes
from tests.server.telemetry.test_drift import Pumps


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server")
    yield made
    made.house.close()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> DriftingDevice:
    """The watcher of a device that learned for a day how the signals of `digits` vary."""
    made = DriftingDevice(tmp_path_factory.mktemp("detector"))
    made.blocks(DAY_OF_BLOCKS + 12)
    return made


def as_house(fleet: WatchedFleet) -> House:
    """Return the services as tests of drift use them."""
    made, parts = House.__new__(House), fleet.house.parts
    made.db, made.clock, made.folder = parts.db, fleet.house.clock, fleet.house.settings.data_dir
    made.fleet, made.registry, made.telemetry, made.drift = parts.fleet, parts.registry, parts.telemetry, parts.drift
    made.signing = parts.signing
    return made


def publish(fleet: WatchedFleet, model: str) -> None:
    """Publish a release of a model."""
    as_house(fleet).release(f"{model}@1.0.0", bundles={"generic-x86_64-ort": bundle_bytes(model, "1.0.0", "p", None)})


def test_what_a_real_detector_says_is_an_alert_until_it_is_over(fleet: WatchedFleet, detector: DriftingDevice) -> None:
    publish(fleet, "digits")
    device, other = fleet.device(labels={"site": "lyon"}), fleet.device()
    detector.blocks(3)
    device.says(drift=detector.watcher.facts())
    fleet.run(minutes=1)
    is_calm(fleet, "drift")  # independent values of the same distribution, block after block
    detector.shift = 0.8
    detector.blocks(2)
    device.says(drift=detector.watcher.facts())
    fleet.run(minutes=1)
    fires(fleet, "drift", f"model:digits@{device.id}")
    is_calm(fleet, "drift_spread")
    alert = fleet.open()["drift", f"model:digits@{device.id}"]
    assert (alert.summary, alert.labels["site"]) == ("x.1 drifts", "lyon")
    fleet.house.parts.fleet.suspicion.mark(device.id, "a failure that nobody else sees")
    fleet.run(minutes=1)
    is_calm(fleet, "drift")
    fleet.house.parts.fleet.suspicion.clear(device.id, "ann")
    other.says()
    fleet.run(minutes=1)
    fires(fleet, "drift", f"model:digits@{device.id}")
    detector.shift = 0.0
    detector.blocks(60)
    device.says(drift=detector.watcher.facts())
    fleet.run(minutes=1)
    is_calm(fleet, "drift")


def test_one_lying_device_is_an_alert_about_itself_whatever_it_says(fleet: WatchedFleet) -> None:
    publish(fleet, "digits")
    liar = fleet.device()
    for _ in range(5):
        fleet.device()
    names = {f"m{n}": ["a"] for n in range(60)}
    said = {"digits": ["x" * 900, 7, *[f"s{n}" for n in range(99)]], "": [], **names, "broken": 3}
    liar.says(drift=said)
    fleet.run(minutes=11)
    fires(fleet, "drift", f"model:digits@{liar.id}")
    is_calm(fleet, "drift_spread")
    (alert,) = (one for key, one in fleet.open().items() if key[0] == "drift")
    assert len(alert.summary) < 300
    liar.says(drift=["digits"])
    fleet.run(minutes=1)
    is_calm(fleet, "drift")


def test_a_site_that_drifts_is_one_alert_and_quiets_its_devices(fleet: WatchedFleet) -> None:
    pumps = Pumps(as_house(fleet))
    pumps.report()
    fleet.run(minutes=11)
    is_calm(fleet, "drift_spread")
    fleet.house.clock.turn(hours=2)
    pumps.report(lambda k: {"temperature": 1.0} if 4 <= k < 8 else {}, seed=2)
    fleet.run(minutes=11)
    fires(fleet, "drift_spread", "model:pump")
    alert = fleet.open()["drift_spread", "model:pump"]
    assert alert.summary == "temperature drifts on 4 of 12 (33 %) devices: site lyon"
    assert (alert.labels, sorted(alert.devices)) == (
        {"model": "pump", "version": "1.0.0", "site": "lyon"},
        sorted(pumps.devices[4:8]),
    )
    quiet = {("drift", f"model:pump@{one}"): "pump drifts" for one in pumps.devices[4:8]}
    assert fleet.quiet() == quiet
    said: Mapping[str, list[str]] = {"pump": ["temperature"]}
    told = fleet.known(pumps.devices[5])
    told.says(drift=said)
    fleet.run(minutes=1)
    assert fleet.quiet() == quiet
    fleet.house.clock.turn(hours=2)
    pumps.report(seed=3)
    told.says()
    fleet.run(minutes=11)
    is_calm(fleet, "drift_spread")


def test_a_model_that_cannot_be_judged_keeps_its_alert_and_lets_others_be_judged(
    fleet: WatchedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pumps = Pumps(as_house(fleet))
    pumps.report(lambda k: {"pressure": -1.5} if k == 7 else {})
    publish(fleet, "axle")
    fleet.run(minutes=2)
    fires(fleet, "drift", f"model:pump@{pumps.devices[7]}")
    judged: list[str] = []

    def broken(_self: object, model: str, *_wanted: object) -> None:
        judged.append(model)
        raise ZeroDivisionError

    monkeypatch.setattr(type(fleet.house.parts.drift), "_judged", broken)
    fleet.run(minutes=12)
    assert set(judged) == {"axle", "pump"}
    fires(fleet, "drift", f"model:pump@{pumps.devices[7]}")


def test_one_bad_sensor_among_many_is_an_alert_about_that_device(fleet: WatchedFleet) -> None:
    pumps = Pumps(as_house(fleet))
    pumps.report(lambda k: {"pressure": -1.5} if k == 7 else {})
    fleet.run(minutes=11)
    fires(fleet, "drift", f"model:pump@{pumps.devices[7]}")
    is_calm(fleet, "drift_spread")


def test_two_bad_sensors_are_an_alert_about_each_of_the_two_devices(fleet: WatchedFleet) -> None:
    pumps = Pumps(as_house(fleet))
    pumps.report(lambda k: {"pressure": -1.5} if k in (2, 7) else {})
    fleet.run(minutes=11)
    assert [one for one in fleet.firing() if one[0] == "drift"] == sorted(
        ("drift", f"model:pump@{pumps.devices[k]}") for k in (2, 7)
    )
    is_calm(fleet, "drift_spread")


def test_many_devices_that_say_the_same_are_one_alert_and_that_say_other_things_are_none(fleet: WatchedFleet) -> None:
    publish(fleet, "digits")
    devices = [fleet.device() for _ in range(4)]
    for n, one in enumerate(devices):
        one.says(drift={"digits": [f"x.{n}"]})
    fleet.run(minutes=1)
    is_calm(fleet, "drift_spread")
    for one in devices[:3]:
        one.says(drift={"digits": ["x.1", "x.2"]})
    fleet.run(minutes=1)
    fires(fleet, "drift_spread", "model:digits")
    assert len(fleet.quiet()) == 3
