"""Moves of the server as people see them: plan, start, undo, finish, and how many devices have followed.

Thread-safe; calls block; writes join the caller's transaction. `step` tells devices once an announcement is signed: the hold is signed
again, which every device verifies, and with it what the repository announces.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import msgspec
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.server_places import ServerPlace
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.fleet.errors import (
    BadMoveError,
    MoveUnderWayError,
    MoveUnfinishedError,
    MoveUnknownError,
    PlaceUnreachableError,
)
from edgefleet_server.fleet.moves import reach, rules, store
from edgefleet_server.fleet.moves.model import UNDER_WAY, MovePlace, MoveState, ServerMove
from edgefleet_server.fleet.store import newest_ca_rotation
from edgefleet_server.fleet.tables import FleetMove
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService

Answers = Callable[[str, int, bytes], str]
_ENDS: Final = {
    MoveState.STARTED: MoveState.FINISHED,
    MoveState.FINISHED: MoveState.FINISHED,
    MoveState.UNDOING: MoveState.UNDONE,
    MoveState.UNDONE: MoveState.UNDONE,
}


class MoveBook:
    """Plans, starts, undoes and ends moves."""

    def __init__(
        self,
        db: Database,
        signing: SigningService,
        hold: HoldDocument,
        addresses: ServerAddresses,
        settings: ServerSettings,
        clock: Clock,
        why_not: Answers = reach.why_not,
    ) -> None:
        """Wire the parts. why_not: says why nothing answers at a host and port, "" when something does."""
        self._db, self._signing, self._hold = db, signing, hold
        self._addresses, self._settings, self._clock, self._why_not = addresses, settings, clock, why_not

    def move(self) -> ServerMove:
        """Return the move that was planned last. Raises MoveUnknownError."""
        with self._db.read() as session:
            return self._view(session, self._row(session))

    def moves(self) -> list[ServerMove]:
        """Return the moves that were planned last, the newest first."""
        with self._db.read() as session:
            return [self._view(session, row) for row in store.last(session)]

    def plan(self, wanted: rules.Wanted, by: str) -> ServerMove:
        """Plan a move. Nobody is told. Raises BadMoveError, MoveUnderWayError."""
        before = self.here()
        try:
            after = rules.moved(before, replace(wanted, has_broker=not self._settings.broker.startswith("mqtts://")))
        except ValueError as error:
            raise BadMoveError(
                str(error), next_step="give a host name or an address; ports go into --device-port and --broker-port"
            ) from error
        if after == before:
            raise BadMoveError(
                f"the server is at {before.url} with its broker at {before.host}:{before.port} already",
                next_step="name what changes: --host, --device-port, --broker-host, --broker-port",
            )
        self._check_ports(before, after)
        with self._db.session() as session:
            known = store.newest(session, lock=True)
            if known is not None and rules.is_open(MoveState(known.state), in_force=self._is_in_force(known)):
                raise MoveUnderWayError(
                    f"a move to {known.after['url']} is {known.state}",
                    next_step="end it first: `edgectl server move finish` or `edgectl server move undo`",
                )
            if (rotation := newest_ca_rotation(session)) is not None and rotation.ended_at is None:
                raise MoveUnderWayError(
                    f"a rotation of the device CA is {rotation.state}",
                    next_step="end it first: `edgectl key device-ca finish` or `edgectl key device-ca undo`",
                )
            row = FleetMove(
                id=secrets.token_hex(8),
                state=MoveState.PLANNED,
                before=msgspec.to_builtins(before),
                after=msgspec.to_builtins(after),
                planned_at=self._clock.now(),
                planned_by=by[:120],
            )
            store.add(session, row)
            return self._view(session, row)

    def start(self, *, ahead: bool, spread_s: int) -> ServerMove:
        """Announce the new place, the old one behind it; once more: where it rests it is tried at once. ahead: also if nothing answers.

        Raises MoveUnknownError, BadMoveError, PlaceUnreachableError, RequestWaitingError.
        """
        with self._db.read() as session:
            known = self._row(session)
            self._want(known, MoveState.PLANNED, again=MoveState.STARTED)
            asked, after = known.id, _place(known.after)
        if not ahead:
            self._check_reach(after)  # takes seconds, in which nothing else could be written
        with self._db.session() as session:
            row = self._row(session, lock=True)
            self._want(row, MoveState.PLANNED, again=MoveState.STARTED)
            if row.id != asked:
                raise MoveUnderWayError("another move was planned meanwhile", next_step=_LOOK)
            row.started_at = row.started_at or self._clock.now()
            return self._announce(session, row, MoveState.STARTED, spread_s)

    def undo(self, *, spread_s: int) -> ServerMove:
        """Call devices back to the old place; a plan is dropped. Raises MoveUnknownError, BadMoveError, RequestWaitingError."""
        with self._db.session() as session:
            row = self._row(session, lock=True)
            if row.state == MoveState.PLANNED:
                row.state, row.ended_at = MoveState.DROPPED, self._clock.now()
                session.flush()
                return self._view(session, row)
            self._want(row, MoveState.STARTED, again=MoveState.UNDOING)
            return self._announce(session, row, MoveState.UNDOING, spread_s)

    def finish(self, *, leave_behind: int, spread_s: int) -> ServerMove:
        """Announce only the place that stays, when all devices but so many use it.

        Raises MoveUnknownError, BadMoveError, MoveUnfinishedError, RequestWaitingError.
        """
        with self._db.session() as session:
            row = self._row(session, lock=True)
            state = MoveState(row.state)
            end = _ENDS.get(state)
            is_again = state not in UNDER_WAY
            if end is None or (is_again and self._is_in_force(row)):
                raise BadMoveError(f"the move is {state}, so there is nothing to finish", next_step=_LOOK)
            if not is_again:
                self._check_followed(session, row, leave_behind)
            row.ended_at = row.ended_at or self._clock.now()
            row.left_behind = leave_behind
            return self._announce(session, row, end, spread_s)

    def step(self) -> bool:
        """Tell devices of an announcement that came into force; return whether there was one. For the engine tick."""
        with self._db.read() as session:
            known = store.newest(session)
            if known is None or known.told == known.number or not self._is_in_force(known):
                return False
        with self._db.session() as session:
            row = self._row(session, lock=True)
            if row.told == row.number:
                return False
            row.told = row.number
            self._hold.sign_again()
            session.flush()
            return True

    def places(self) -> list[ServerPlace]:
        """Return the places that this server must serve while a move is under way, none otherwise."""
        with self._db.read() as session:
            row = store.newest(session)
            if row is None or not rules.is_open(MoveState(row.state), in_force=self._is_in_force(row)):
                return []
            return [_place(row.after), _place(row.before)]

    def here(self) -> ServerPlace:
        """Return where this server is by its settings. Raises BadMoveError where devices could not find it again."""
        broker = self._addresses.broker
        if broker is None:
            raise BadMoveError(
                "this process does not know where the broker is", next_step="ask a server that runs the gateway"
            )
        is_own = not self._settings.broker.startswith("mqtts://")
        if self._settings.device_port == 0 or (is_own and self._settings.broker_port == 0):
            raise BadMoveError(
                "the server takes any free port at each start, so devices could not find it again",
                next_step="set device_port and broker_port in server.toml and restart the server first",
            )
        return ServerPlace(self._addresses.device_url, broker.host, broker.port, "5" if broker.mqtt == "5" else "3.1.1")

    # ---- parts

    def _check_ports(self, before: ServerPlace, after: ServerPlace) -> None:
        """The server listens at both places from its next start; one port for two things would keep it from starting."""
        device = {rules.host_and_port(one.url)[1] for one in (before, after)}
        is_own = not self._settings.broker.startswith("mqtts://")
        broker = {before.port, after.port} if is_own else set()
        twice = (device & broker) | ((device | broker) & {self._settings.api_port})
        if twice:
            raise BadMoveError(
                f"this server needs port {min(twice)} for something else", next_step="name a port that is free"
            )

    def _check_reach(self, place: ServerPlace) -> None:
        ca = self._signing.ca_pem()
        url = rules.host_and_port(place.url)
        for host, port in (url, (place.host, place.port)):
            if why := self._why_not(host, port, ca):
                raise PlaceUnreachableError(
                    f"the new place cannot be reached from here: {why}",
                    next_step="restart the server so that it listens there, check DNS and firewall; where it is not there yet, as before a "
                    "move to another machine: `edgectl server move start --ahead`",
                )

    def _check_followed(self, session: Session, row: FleetMove, leave_behind: int) -> None:
        if not self._is_in_force(row):
            raise MoveUnfinishedError("the announcement of the move is not signed yet", next_step=_LOOK)
        found = store.followers(session, row.number)
        if short := rules.missing(found, leave_behind):
            raise MoveUnfinishedError(
                f"{found.devices - found.followed} of {found.devices} devices have not followed ({', '.join(found.behind[:5])})",
                next_step=f"wait for them, or leave them behind: --leave-behind {short + leave_behind}; they would need a visit",
            )
        stays = _place(row.before if row.state == MoveState.UNDOING else row.after)
        if self.here() != stays:
            raise MoveUnfinishedError(
                f"the settings of this server name {self._addresses.device_url}, and {stays.url} stays",
                next_step=f"let server.toml say {stays.url} and {stays.host}:{stays.port}, restart the server, then finish",
            )

    def _announce(self, session: Session, row: FleetMove, state: MoveState, spread_s: int) -> ServerMove:
        places = rules.announced_places(state, _place(row.before), _place(row.after))
        row.number, _ = self._signing.places.announce(places, [self._signing.ca_pem()], spread_s=spread_s)
        row.state = state
        session.flush()
        return self._view(session, row)

    def _row(self, session: Session, *, lock: bool = False) -> FleetMove:
        row = store.newest(session, lock=lock)
        if row is None:
            raise MoveUnknownError(
                "this server was never moved", next_step="plan a move: `edgectl server move plan --host NAME`"
            )
        return row

    def _want(self, row: FleetMove, state: MoveState, *, again: MoveState) -> None:
        if row.state in {state, again}:
            return
        raise BadMoveError(f"the move is {row.state}", next_step=_LOOK)

    def _is_in_force(self, row: FleetMove) -> bool:
        if row.number == 0:
            return row.state in {MoveState.PLANNED, MoveState.DROPPED}
        found = self._signing.places.announced()
        return found is not None and found.number >= row.number

    def _view(self, session: Session, row: FleetMove) -> ServerMove:
        state, in_force = MoveState(row.state), self._is_in_force(row)
        followers = store.followers(session, row.number or _NEVER)
        request = "" if in_force else self._signing.places.waiting()
        stays = row.before if state is MoveState.UNDOING else row.after
        broker = self._addresses.broker
        is_at_home = broker is not None and (self._addresses.device_url, broker.host, broker.port) == (
            stays["url"],
            stays["host"],
            stays["port"],
        )
        return ServerMove(
            state=state,
            before=_shown(row.before),
            after=_shown(row.after),
            number=row.number,
            in_force=bool(row.number) and in_force,
            signing_request=request,
            followers=followers,
            planned_at=row.planned_at,
            planned_by=row.planned_by,
            started_at=row.started_at,
            ended_at=row.ended_at,
            next=rules.next_step(state, followers, in_force=in_force, request=request, is_at_home=is_at_home),
        )


_NEVER: Final = 2**62
"""Higher than each number of an announcement."""
_LOOK: Final = "see `edgectl server move status`"


def _place(plain: dict[str, object]) -> ServerPlace:
    return msgspec.convert(plain, ServerPlace)


def _shown(plain: dict[str, object]) -> MovePlace:
    one = _place(plain)
    return MovePlace(one.url, one.host, one.port, one.mqtt)
