"""What the gateway uses of the fleet."""

from typing import Protocol

from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.desired.reader import DesiredReader
from edgefleet_server.fleet.enrolment.revocation import Revocation
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.fleet.reported.receiver import ReportReceiver
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector


class GatewayFleet(Protocol):
    """Parts of the fleet."""

    @property
    def devices(self) -> DeviceSelector:
        """Which devices are live."""
        ...

    @property
    def receiver(self) -> ReportReceiver:
        """Takes what devices say."""
        ...

    @property
    def documents(self) -> DesiredReader:
        """Reads desired documents."""
        ...

    @property
    def desired(self) -> DesiredBook:
        """Says which documents were signed."""
        ...

    @property
    def hold(self) -> HoldDocument:
        """The signed hold."""
        ...

    @property
    def revocation(self) -> Revocation:
        """Says which devices were revoked."""
        ...

    @property
    def addresses(self) -> ServerAddresses:
        """What new devices are given to reach the broker."""
        ...
