"""Clocks that are wrong: 1970, ten years ahead, set right in the middle. Nothing expired is accepted, nobody is locked out."""

import datetime as dt
import itertools
from pathlib import Path

import msgspec
import pytest

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install import machine
from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_agent.verifier.errors import MetadataError
from edgefleet_agent.verifier.floor import BUILD_TIME, Floor, FloorFile, with_time
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import Phase
from edgefleet_protocol.verify import ExpiredError
from tests.agent.child import ChildDriver
from tests.agent.records import GOOD, LIMITS, NOW, serving
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE, House, TurnedClock

EPOCH = dt.datetime(1970, 1, 1, 0, 0, 30, tzinfo=dt.UTC)
SIGNED_AT = BUILD_TIME + dt.timedelta(days=30)


class Device:
    """The install child's verification on one state folder, by any clock. The server's clock stands at SIGNED_AT."""

    def __init__(self, folder: Path) -> None:
        self.server = TurnedClock(SIGNED_AT)
        house = House(f"sqlite:///{folder / 'server.db'}", folder / "data", self.server, tenant="acme")
        device = house.device()
        self.driver = ChildDriver(house, folder / "device", device.id)
        self._versions = itertools.count(1)

    def wish(self) -> bytes:
        """Publish and deploy a new version; return the signed document."""
        version = f"1.{next(self._versions)}.0"
        ref = self.driver.house.release(
            f"digits@{version}", bundles={PROFILE: bundle_bytes(classifier_onnx(), version=version)}
        )
        self.driver.house.fleet.deployer.deploy(ref, selector="")
        document = self.driver.house.fleet.documents.of_device(self.driver.device)
        assert document is not None
        return bytes(document.envelope)

    def verify(self, raw: bytes, at: dt.datetime) -> int:
        """Verify a document by a clock and return its gen. Raises EdgefleetError."""
        task = Task(kind="desired", state_dir=str(self.driver.state), device=self.driver.device)

        def source(name: str, _max_bytes: int) -> bytes | None:
            return self.driver.meta(name)

        return Documents(task, source, TurnedClock(at)).desired(raw).gen

    def floor(self) -> Floor:
        """Return the floor on the disk."""
        return read_record(Floor, self.driver.state / "floor.a") or Floor()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device and its server."""
    return Device(tmp_path)


def test_a_device_without_a_clock_installs_what_is_fresh(device: Device) -> None:
    assert device.verify(device.wish(), EPOCH) > 0
    # time is trusted no further than anything proved it
    assert device.floor().trusted_s == int(BUILD_TIME.timestamp())
    assert device.verify(device.wish(), SIGNED_AT) > 0
    assert device.floor().trusted_s == int(SIGNED_AT.timestamp())


def test_at_1970_what_expired_before_the_build_is_refused(device: Device) -> None:
    device.server.time = BUILD_TIME - dt.timedelta(days=60)
    with pytest.raises(EdgefleetError) as refused:
        device.verify(device.wish(), EPOCH)
    assert _is_expired(refused.value)


def test_at_1970_what_expired_by_the_remembered_time_is_refused(device: Device) -> None:
    raw = device.wish()
    device.verify(raw, SIGNED_AT)
    month_later = SIGNED_AT + dt.timedelta(days=30)
    remembered = with_time(device.floor(), month_later)
    # the floor of a device that lived on for a month elsewhere, met with the old repository at 1970
    _write_floor(device, msgspec.structs.replace(remembered, versions={}, gen=0))
    with pytest.raises(EdgefleetError) as refused:
        device.verify(raw, EPOCH)
    assert _is_expired(refused.value)


def test_ten_years_ahead_refuses_and_is_forgotten(device: Device) -> None:
    raw = device.wish()
    before = device.floor()
    with pytest.raises(EdgefleetError) as refused:
        device.verify(raw, SIGNED_AT.replace(year=SIGNED_AT.year + 10))
    assert _is_expired(refused.value)
    assert device.floor() == before
    assert device.verify(raw, SIGNED_AT) > 0


def test_a_clock_ten_years_ahead_moves_no_trusted_time(device: Device) -> None:
    later = SIGNED_AT.replace(year=SIGNED_AT.year + 10)
    device.verify(device.wish(), SIGNED_AT)
    assert with_time(device.floor(), later) == device.floor()


@pytest.mark.parametrize("phase", [Phase.PROBATION, Phase.FAILED])
@pytest.mark.parametrize("leap_days", [-3650, -2, 2, 3650])
def test_a_trial_is_neither_cut_short_nor_made_endless_by_a_clock(leap_days: int, phase: Phase) -> None:
    began_s = NOW - leap_days * 86_400
    record = serving(phase=phase)
    seen = msgspec.structs.replace(record.seen, since_s=began_s)
    record = msgspec.structs.replace(record, phase_since_s=began_s, seen=seen, crashes_s=[began_s])
    record = machine.recovered(record, now_s=NOW)
    assert isinstance(trial.judge(record, GOOD, LIMITS, now_s=NOW + 59), trial.KeepWatching)
    assert isinstance(trial.judge(record, GOOD, LIMITS, now_s=NOW + 60), trial.Commit)
    assert all(at <= NOW for at in record.crashes_s)


def _write_floor(device: Device, floor: Floor) -> None:
    FloorFile(device.driver.state).save(floor)


def _is_expired(error: EdgefleetError) -> bool:
    return isinstance(error, ExpiredError) or (
        isinstance(error, MetadataError) and error.instance_code == "tuf.expired"
    )
