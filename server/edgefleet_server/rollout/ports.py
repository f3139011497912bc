"""What rollouts use of the fleet (devices, what they report and should run, the hold, groups, the event log), and of objectives."""

from collections.abc import Callable
from typing import Protocol

from edgefleet_server.events.log import EventLog
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.inventory.groups import GroupBook
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.fleet.protection.service import ProtectionBook
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.fleet.reported.suspicion import Suspicion
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector


class BudgetOf(Protocol):
    """An objective's error budget."""

    @property
    def model(self) -> str:
        """Of which model the objective is."""
        ...

    @property
    def left(self) -> float | None:
        """The part that is left, None without events."""
        ...


Budgets = Callable[[str], BudgetOf]
"""The error budget of an objective, by its name. Raises an error when there is none."""


class RolloutFleet(Protocol):
    """Parts of the fleet."""

    @property
    def devices(self) -> DeviceSelector:
        """Which devices a selector matches."""
        ...

    @property
    def offers(self) -> ReportedStateReader:
        """What many devices report and should run."""
        ...

    @property
    def desired(self) -> DesiredBook:
        """Writes desired documents."""
        ...

    @property
    def protection(self) -> ProtectionBook:
        """Which devices take releases only by an approved rollout."""
        ...

    @property
    def tasks(self) -> TaskBook:
        """What devices are asked to do once."""
        ...

    @property
    def hold(self) -> HoldDocument:
        """Writes the signed hold."""
        ...

    @property
    def groups(self) -> GroupBook:
        """Named selectors."""
        ...

    @property
    def suspicion(self) -> Suspicion:
        """Which devices are suspect."""
        ...

    @property
    def feed(self) -> EventLog:
        """Where events are stored."""
        ...

    @property
    def reader(self) -> FleetReader:
        """Devices as people see them."""
        ...
