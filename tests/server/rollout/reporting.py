"""How simulated devices report: what the server heard already, and has nothing to store of, is handed in for all devices at once."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import update
from sqlmodel import col

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import State
from edgefleet_server.fleet.tables import FleetDevice
from tests.server.fleet.house import House


class Reporter(Protocol):
    """A device as the server hears of it."""

    @property
    def id(self) -> DeviceId:
        """Return its id."""

    def news(self) -> State:
        """Return the next report; the very last one where nothing but its number would differ."""

    def take_desired(self, envelope: bytes) -> None:
        """Take a document."""


class Reports:
    """Hands in reports, and devices the documents that answer them."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._known: dict[DeviceId, tuple[State, int]] = {}
        """The last report that was answered with nothing, and the gen of the document that the server had then."""
        self._unchanged: list[DeviceId] = []

    def hand_in(self, device: Reporter, gen: int | None = None) -> None:
        """Hand in one report; a document that the server answers with is taken.

        gen: of the document that the server has. When nothing changed since the last report at that gen, the report would change
        nothing but when the device was heard of, which waits for `hear`.
        """
        state, (said, at_gen) = device.news(), self._known.pop(device.id, (None, None))
        if gen is not None and state is said and gen == at_gen:
            self._unchanged.append(device.id)
        elif (answer := self._house.fleet.receiver.take_state(device.id, state)) is not None:
            device.take_desired(answer.envelope)
            return
        if gen is not None:
            self._known[device.id] = (state, gen)

    def hear(self) -> None:
        """Let the server hear of the devices that had nothing new."""
        if self._unchanged:
            unchanged = update(FleetDevice).where(col(FleetDevice.id).in_(self._unchanged))
            with self._house.db.session() as session:
                session.execute(unchanged.values(last_seen=self._house.clock.now()))
            self._unchanged.clear()
