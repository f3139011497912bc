"""One hostile device: whatever it says, what the others say is stored, and every page of the API still answers."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Ack, Event, EventKind, State, Telemetry, Window, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.access.model import Role
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.gateway.device_ledger import DeviceLedger
from edgefleet_server.gateway.inbound import Inbound
from edgefleet_server.gateway.outbound import Signed
from edgefleet_server.gateway.payload_check import storable
from edgefleet_server.gateway.service import limits_of
from tests.server.conftest import database_url  # noqa: F401  # a fixture
from tests.server.fleet.apps import Operators
from tests.server.fleet.conftest import any_house  # noqa: F401  # a fixture
from tests.server.fleet.house import House, KeyedDevice

NAN, INF = float("nan"), float("inf")


class Acks:
    """The outbound side, noting what was acknowledged."""

    def __init__(self) -> None:
        self.of: dict[str, list[Ack]] = {}

    def send_desired(self, documents: Sequence[Signed], *, again: bool = False) -> None:
        """Nothing waits for documents here."""

    def send_ack(self, device: DeviceId, ack: Ack) -> None:
        """Note it."""
        self.of.setdefault(device, []).append(ack)


class Ingest:
    """A server with two devices and its inbound side; messages of one `take` share their batch."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.good, self.evil = house.device(), house.device()
        self.topics = Topics(house.settings.tenant)  # type: ignore[arg-type]
        self.acks = Acks()
        self.traffic = TrafficLedger(house.db, house.clock, house.registry, house.fleet.memberships.of)
        self.inbound = Inbound(
            self.topics.tenant,
            house.fleet.devices.live_among,
            house.fleet.receiver,
            house.telemetry,
            self.acks,
            DeviceLedger(limits_of(house.settings), house.clock),
            self.traffic,
            house.settings.uplink_queue_bytes,
        )

    def take(self, *messages: tuple[str, bytes]) -> None:
        """Store messages as one batch."""
        for topic, payload in messages:
            self.inbound.put(topic, payload)
        self.inbound.start()
        self.inbound.stop()

    def good_messages(self) -> list[tuple[str, bytes]]:
        """Return an event and telemetry of the honest device."""
        event = Event(device=self.good.id, boot_id="b", seq=7, ts=1, kind=EventKind.BOOT)
        window = Window(t0=1_764_000_000, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=5)
        telemetry = Telemetry(device=self.good.id, boot_id="b", seq=8, ts=1, windows=[window])
        return [
            (self.topics.event(self.good.id), encode(event)),
            (self.topics.telemetry(self.good.id), encode(telemetry)),
        ]

    def check_good(self) -> None:
        """The honest device's messages are stored and acknowledged."""
        acked = self.acks.of[self.good.id]
        assert ([seq for ack in acked for seq in ack.events], [s for ack in acked for s in ack.telemetry]) == ([7], [8])
        assert self.house.telemetry.windows(self.good.id, None, 10)[1] == 1


@pytest.fixture
def ingest(any_house: House) -> Ingest:  # noqa: F811
    """On each kind of database."""
    return Ingest(any_house)


def event_of(device: KeyedDevice, **fields: Any) -> bytes:
    """Return an event with any values at all."""
    row = {"boot": "x", "seq": 1, "gen": 0, "reason": "", "detail": {}, **fields}
    return msgspec.msgpack.encode(
        [
            1,
            device.id,
            row["boot"],
            row["seq"],
            0,
            "boot",
            "",
            "",
            "",
            row["gen"],
            0,
            None,
            None,
            "",
            row["reason"],
            row["detail"],
        ]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 2**63},
        {"seq": 2**64 - 1},
        {"gen": 2**64 - 1},
        {"detail": {"a": b"\xff"}},
        {"detail": {"a": NAN, "b": [INF]}},
        {"detail": {"a": {1: 2}}},
        {"detail": {"a": msgspec.msgpack.Ext(5, b"x")}},
        {"detail": {"n": 2**64 - 1}},
        {"boot": "n\0b", "reason": "r\0r", "detail": {"k\0": "v\0"}},
        {"reason": "x" * 250_000},
    ],
    ids=lambda fields: "-".join(fields) if isinstance(fields, dict) else None,
)
def test_no_event_harms_its_neighbours_or_the_pages(ingest: Ingest, fields: dict[str, Any]) -> None:
    topic = ingest.topics.event(ingest.evil.id)
    ingest.take((topic, event_of(ingest.evil, **fields)), *ingest.good_messages())
    ingest.check_good()
    client = Operators(ingest.house).as_role(Role.VIEWER)
    for page in ("/events", f"/devices/{ingest.evil.id}/events", f"/devices/{ingest.evil.id}"):
        assert client.get(page).status_code == 200, page


@pytest.mark.parametrize("seq", [2**63, 2**64 - 1])
@pytest.mark.parametrize("facts", [{}, {"a": NAN, "b\0": "\0"}, {"a": b"\xff"}], ids=["none", "odd", "bytes"])
def test_no_state_harms_its_neighbours(ingest: Ingest, seq: int, facts: dict[str, Any]) -> None:
    state = msgspec.msgpack.encode([1, ingest.evil.id, 0, "x", seq, 0, [["m\0", "idle"]], "1", 0, "", "", facts])
    small = msgspec.msgpack.encode([1, ingest.evil.id, 0, "y", 1, 0, [["m\0", "idle"]], "1", 0, "", "", facts])
    topic = ingest.topics.state(ingest.evil.id)
    ingest.take((topic, small), (topic, state), *ingest.good_messages())
    ingest.check_good()
    assert Operators(ingest.house).as_role(Role.VIEWER).get(f"/devices/{ingest.evil.id}").status_code == 200


@pytest.mark.parametrize(
    "window",
    [{"worker_cpu_s": NAN}, {"worker_cpu_s": INF}, {"model": "m\0", "version": "\0"}, {"n": 2**64 - 1}],
    ids=["nan", "inf", "nul", "huge"],
)
def test_no_telemetry_harms_its_neighbours_or_the_pages(ingest: Ingest, window: dict[str, Any]) -> None:
    plain = {"t0": 2**40, "length_s": 60, "model": "m", "lane": "active", "sha256": "a" * 64, "version": "1", **window}
    row = msgspec.to_builtins(Window(**plain))
    figures = [NAN, 2**64 - 1, 1, 1, 1, INF]
    payload = msgspec.msgpack.encode([1, ingest.evil.id, "x\0", 1, 0, [row], figures])
    ingest.take((ingest.topics.telemetry(ingest.evil.id), payload), *ingest.good_messages())
    ingest.check_good()
    client = Operators(ingest.house).as_role(Role.VIEWER)
    for page in (f"/devices/{ingest.evil.id}", f"/devices/{ingest.evil.id}/telemetry"):
        assert client.get(page).status_code == 200, page


def test_an_honest_report_passes_unchanged() -> None:
    state = State(
        device="d-abc", gen=1, boot_id="b", seq=1, ts=1, models=[], facts={"free": 1, "t": 1.5, "l": ["a", None]}
    )
    assert storable(state) == state
