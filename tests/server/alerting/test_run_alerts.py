"""Planned runs that were missed or failed are an alert about the model, for a day; what a suspect device says, or of no model, is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.messages import Event, EventKind
from tests.server.alerting.test_drift_alerts import publish
from tests.server.alerting.test_rules import fires, is_calm
from tests.server.alerting.watched_fleet import WatchedDevice, WatchedFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server")
    yield made
    made.house.close()


def says(device: WatchedDevice, kind: EventKind, model: str = "demand") -> None:
    device.seq += 1
    event = Event(device=device.id, boot_id="b1", seq=device.seq, ts=0, kind=kind, model=model, code=f"run.{kind}")
    device.fleet.house.parts.fleet.receiver.take_events([event])


def test_missed_and_failed_runs_are_one_alert_of_the_model_for_a_day(fleet: WatchedFleet) -> None:
    publish(fleet, "demand")
    devices = [fleet.device(name=f"till {n}") for n in range(3)]
    says(devices[0], EventKind.RUN_LATE)
    says(devices[0], EventKind.RUN_MISSED, "made-up")
    fleet.run(minutes=1)
    is_calm(fleet, "runs_missed")
    for _ in range(2):
        says(devices[0], EventKind.RUN_MISSED)
    says(devices[1], EventKind.RUN_FAILED)
    fleet.run(minutes=1)
    fires(fleet, "runs_missed", "model:demand")
    alert = fleet.open()["runs_missed", "model:demand"]
    assert alert.summary == "1 device missed planned runs, 1 device had a run fail"
    assert alert.devices == sorted(one.id for one in devices[:2])
    fleet.house.parts.fleet.suspicion.mark(devices[0].id, "a failure that nobody else sees")
    fleet.run(minutes=1)
    assert fleet.open()["runs_missed", "model:demand"].summary == "1 device had a run fail"
    fleet.house.clock.turn(hours=24)
    fleet.run(minutes=1)
    is_calm(fleet, "runs_missed")
