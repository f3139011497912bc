"""A whole server side without HTTP: services, a real broker of each kind, the gateway."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.gateway.cut_off import CutOff
from edgefleet_server.gateway.service import Gateway
from tests.broker.client import eventually
from tests.server.fleet.house import House, KeyedDevice
from tests.server.gateway.device import MqttDevice


class Site:
    """The running parts."""

    def __init__(
        self,
        folder: Path,
        kind: BrokerKind,
        *,
        servers: tuple[str, ...] = ("srv-main",),
        also_ports: tuple[int, ...] = (),
        port: int = 0,
        prepare: Callable[[House], object] = lambda _house: None,
        **settings: Any,
    ) -> None:
        """Start them. prepare: what is done with the server before anything uses its keys; port: of a broker that it starts (EXTERNAL)."""
        self.folder = folder
        url = f"sqlite:///{folder / 'server.db'}"
        self.house = House(url, folder / "data", SystemClock(), tenant="acme", **settings)
        prepare(self.house)
        signing = self.house.signing
        config = BrokerConfig(
            kind=kind,
            tenant="acme",
            ca_file=signing.ca_file,
            cert_file=signing.server_cert_file,
            key_file=signing.server_key_file,
            run_dir=folder / "broker",
            port=port,
            servers=servers,
            refused=signing.refused_certificates("main")[0],
            also_ports=also_ports,
        )
        self.broker = BrokerSupervisor(config, SystemClock())
        self.endpoint = self.broker.start()
        house = self.house
        self.traffic = TrafficLedger(house.db, house.clock, house.registry, house.fleet.memberships.of)
        self.gateway = Gateway(
            *(house.settings, self.endpoint, house.fleet, house.telemetry, house.registry, house.signing, house.clock),
            self.traffic,
        )
        self.gateway.start()
        self.cut_off = CutOff(
            self.broker,
            house.fleet,
            signing,
            self.gateway.forget_devices,
            house.clock,
            "main",
        )
        self.cut_off.start()
        eventually(lambda: self.gateway.counters()["connects"], "the gateway's connection")
        self.devices: list[MqttDevice] = []

    def connect(self, device: KeyedDevice) -> MqttDevice:
        """Connect an enrolled device."""
        connected = MqttDevice(device, self.endpoint, self.folder)
        self.devices.append(connected)
        return connected

    def close(self) -> None:
        """Stop everything."""
        for device in self.devices:
            device.close()
        self.cut_off.stop()
        self.gateway.stop()
        self.broker.stop()
        self.house.db.dispose()


KINDS = [
    pytest.param(BrokerKind.MOSQUITTO, marks=pytest.mark.broker, id="mosquitto"),
    pytest.param(BrokerKind.EMBEDDED, id="embedded"),
]


@pytest.fixture(params=KINDS)
def site(request: Any, tmp_path: Path) -> Iterator[Site]:
    """One site for a test."""
    if request.param is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    made = Site(tmp_path, request.param)
    yield made
    made.close()
