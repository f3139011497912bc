"""Rotations of the device CA as people see them: start, undo, finish, and how many devices have followed.

Thread-safe; calls block; writes join the caller's transaction. What a transaction decides is carried out by `step`, which may be repeated
after a power cut: it changes the key folder first, then tells devices, by a hold that is signed again.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.server_places import ServerPlace
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.ca_rotation import rules, store
from edgefleet_server.fleet.ca_rotation.model import UNDER_WAY, CaFollowers, CaRotation, CaRotationState
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.errors import (
    BadCaRotationError,
    CaRotationUnderWayError,
    CaRotationUnfinishedError,
    CaRotationUnknownError,
)
from edgefleet_server.fleet.moves.service import MoveBook
from edgefleet_server.fleet.store import newest_ca_rotation
from edgefleet_server.fleet.tables import FleetCaRotation
from edgefleet_server.signing.authority import CLOCK_SLACK
from edgefleet_server.signing.keys.trusted_cas import fingerprint_of
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import AuthorityView

END_SPREAD_S: Final = 300
RETURN_WITHIN: Final = timedelta(minutes=10)
"""So long after a start of the server the devices that were online before it count as online."""
_LOOK: Final = "see `edgectl key device-ca status`"


@dataclass(frozen=True, slots=True)
class _Cas:
    """The CAs of the key folder by fingerprint, PEM."""

    by_sha256: dict[str, bytes]
    current: str
    following: str


class CaRotationBook:
    """Starts, undoes and ends rotations."""

    def __init__(
        self, db: Database, signing: SigningService, hold: HoldDocument, moves: MoveBook, clock: Clock
    ) -> None:
        """Wire the parts."""
        self._db, self._signing, self._hold, self._moves, self._clock = db, signing, hold, moves, clock

    def cas(self) -> list[AuthorityView]:
        """Return the CAs, the one in use first."""
        return self._signing.cas.views()

    def rotations(self) -> list[CaRotation]:
        """Return the rotations that were started last, the newest first."""
        with self._db.read() as session:
            return [self._view(session, row) for row in store.last(session)]

    def start(self, *, spread_s: int, reason: str, by: str) -> CaRotation:
        """Make the next CA and announce both; again: announce again what is started, and make a CA that was lost.

        Raises CaRotationUnderWayError, BadCaRotationError, BadMoveError, RequestWaitingError, KeysMissingError.
        """
        with self._db.session() as session:
            self._signing.cas.take_turn()  # two that start at once would destroy each other's key
            before = row = newest_ca_rotation(session, lock=True)
            if row is not None and row.state != CaRotationState.STARTED and not self._has_ended(row):
                raise CaRotationUnderWayError(f"a rotation of the device CA is {row.state}", next_step=_LOOK)
            if self._moves.places():
                raise CaRotationUnderWayError(
                    "a move of the server is under way", next_step="end it first: `edgectl server move finish`"
                )
            places, cas, now = self._places(), self._cas(), self._clock.now()
            if row is None or row.state != CaRotationState.STARTED:
                new = fingerprint_of(self._signing.cas.make_next())
                row = FleetCaRotation(
                    id=secrets.token_hex(8),
                    state=CaRotationState.STARTED,
                    old_ca=cas.current,
                    new_ca=new,
                    started_at=now if before is None else max(now, before.started_at + timedelta(microseconds=1)),
                    started_by=by[:120],
                    reason=reason,
                    renew_from_s=_renew_from_s(now),
                )
                store.add(session, row)
            elif cas.following != row.new_ca:  # the key folder was restored from a copy of before
                row.new_ca, row.renew_from_s = fingerprint_of(self._signing.cas.make_next()), _renew_from_s(now)
            row.spread_s = spread_s
            try:
                return self._announce(session, row, CaRotationState.STARTED, spread_s, places)
            except EdgefleetError:
                if cas.following != row.new_ca:  # made here: no row will name it, and the broker would trust it
                    self._signing.cas.drop_next()
                raise

    def undo(self) -> CaRotation:
        """Call devices back to the CA of before. Raises CaRotationUnknownError, BadCaRotationError, RequestWaitingError."""
        with self._db.session() as session:
            self._signing.cas.take_turn()  # before the row is locked, as all do
            row = self._row(session)
            if row.state not in UNDER_WAY:
                raise BadCaRotationError(f"the rotation is {row.state}, so there is nothing to undo", next_step=_LOOK)
            if row.state == CaRotationState.STARTED:
                row.renew_from_s = _renew_from_s(self._clock.now())
            return self._announce(session, row, CaRotationState.UNDOING, row.spread_s, self._places())

    def finish(self, *, leave_behind: int, reason: str) -> CaRotation:
        """Let one CA be left, when all devices that are online but so many hold a certificate of it.

        Raises CaRotationUnknownError, BadCaRotationError, CaRotationUnfinishedError, RequestWaitingError.
        """
        with self._db.session() as session:
            self._signing.cas.take_turn()
            row = self._row(session)
            state = CaRotationState(row.state)
            is_again = state not in UNDER_WAY
            if is_again and self._is_in_force(row):
                raise BadCaRotationError(f"the rotation is {state}, so there is nothing to finish", next_step=_LOOK)
            if not is_again:
                self._check_followed(session, row, leave_behind, reason)
                row.left_behind, row.left_reason = leave_behind, reason
            row.ended_at = row.ended_at or self._clock.now()
            return self._announce(session, row, rules.end_of(state), END_SPREAD_S, self._places())

    def step(self) -> bool:
        """Carry out what was decided: keys, then devices; return whether there was something to do. For the engine tick.

        Raises KeysMissingError.
        """
        with self._db.read() as session:
            row = newest_ca_rotation(session)
            if row is None or not self._is_due(row):
                return False
        with self._db.session() as session:
            self._signing.cas.take_turn()
            row = self._row(session)
            if row.state not in UNDER_WAY and not self._are_keys_settled(row):
                if row.state == CaRotationState.FINISHED:
                    self._signing.cas.promote(row.new_ca)
                else:
                    self._signing.cas.drop_next()
                return True
            if row.told == row.number or not self._is_in_force(row):
                return False
            if self._signing.renew_own():  # devices that trust the new CA alone would meet a certificate of another one
                return True
            row.told = row.number
            self._hold.sign_again()
            session.flush()
            return True

    # ---- parts

    def _is_due(self, row: FleetCaRotation) -> bool:
        is_ending = row.state not in UNDER_WAY and not self._are_keys_settled(row)
        return is_ending or (row.told != row.number and self._is_in_force(row))

    def _cas(self) -> _Cas:
        pems = [self._signing.cas.current(), self._signing.cas.following()]
        found = [(fingerprint_of(pem), pem) for pem in pems if pem is not None]
        return _Cas(dict(found), found[0][0], found[1][0] if len(found) > 1 else "")

    def _check_followed(self, session: Session, row: FleetCaRotation, leave_behind: int, reason: str) -> None:
        if not self._is_in_force(row):
            raise CaRotationUnfinishedError("the announcement of the CAs is not signed yet", next_step=_LOOK)
        if leave_behind and not reason.strip():
            raise BadCaRotationError("devices are left behind without a reason", next_step="say why: --reason TEXT")
        found = self._followers(session, row)
        if short := rules.missing(found, leave_behind):
            names = ", ".join(one.device for one in found.behind[:5])
            raise CaRotationUnfinishedError(
                f"{found.online - found.online_followed} of {found.online} devices that are online have not followed ({names})",
                next_step=f"wait for them, or leave them behind: --leave-behind {short + leave_behind} --reason TEXT",
            )

    def _places(self) -> Sequence[ServerPlace]:
        """Return what is announced of the server's places, or where it is. Raises BadMoveError where devices could not find it again."""
        known = self._signing.places.announced()
        return known.places if known is not None else [self._moves.here()]

    def _announce(
        self,
        session: Session,
        row: FleetCaRotation,
        state: CaRotationState,
        spread_s: int,
        places: Sequence[ServerPlace],
    ) -> CaRotation:
        cas = self._cas()
        missing = {row.old_ca, row.new_ca} - cas.by_sha256.keys()
        if missing and (state in UNDER_WAY or rules.stays(state, row.old_ca, row.new_ca) in missing):
            raise BadCaRotationError(
                f"the device CA {min(missing)[:16]} of this rotation is not in the key folder",
                next_step="restore the key folder from its newest backup; `edgectl key device-ca start` makes a lost next CA again",
            )
        old, new = (cas.by_sha256.get(one, b"") for one in (row.old_ca, row.new_ca))
        trusted = rules.trusted(state, old, new)
        row.number, _ = self._signing.places.announce(places, trusted, spread_s=spread_s, renew_from_s=row.renew_from_s)
        row.state = state
        session.flush()
        return self._view(session, row)

    def _row(self, session: Session) -> FleetCaRotation:
        row = newest_ca_rotation(session, lock=True)
        if row is None:
            raise CaRotationUnknownError(
                "the device CA was never rotated", next_step="begin with `edgectl key device-ca start`"
            )
        return row

    def _is_in_force(self, row: FleetCaRotation) -> bool:
        found = self._signing.places.announced()
        return found is not None and found.number >= row.number > 0

    def _are_keys_settled(self, row: FleetCaRotation) -> bool:
        cas, state = self._cas(), CaRotationState(row.state)
        if state in UNDER_WAY:
            return (cas.current, cas.following) == (row.old_ca, row.new_ca)
        return (cas.current, cas.following) == (rules.stays(state, row.old_ca, row.new_ca), "")

    def _has_ended(self, row: FleetCaRotation) -> bool:
        return row.state not in UNDER_WAY and self._are_keys_settled(row)

    def _followers(self, session: Session, row: FleetCaRotation) -> CaFollowers:
        return store.followers(session, row.number, _has_followed(row), self._clock.now() - RETURN_WITHIN)

    def _view(self, session: Session, row: FleetCaRotation) -> CaRotation:
        state, in_force = CaRotationState(row.state), self._is_in_force(row)
        followers = self._followers(session, row)
        request = "" if in_force else self._signing.places.waiting()
        is_newest = newest_ca_rotation(session) is row
        settled = not is_newest or (in_force and self._are_keys_settled(row))
        return CaRotation(
            state=state,
            old_ca=row.old_ca,
            new_ca=row.new_ca,
            number=row.number,
            in_force=in_force,
            settled=settled,
            signing_request=request,
            followers=followers,
            reason=row.reason,
            started_at=row.started_at,
            started_by=row.started_by,
            ended_at=row.ended_at,
            left_behind=row.left_behind,
            left_reason=row.left_reason,
            next=rules.next_step(state, followers, in_force=in_force, settled=settled, request=request),
        )


def _has_followed(row: FleetCaRotation) -> ColumnElement[bool]:
    is_new = store.holds(row.new_ca)
    return is_new if rules.stays(CaRotationState(row.state), "", "new") else ~is_new


def _renew_from_s(now: datetime) -> int:
    """Return when certificates of the next CA begin, unix seconds. The first second counts as before: some device may renew twice."""
    return int((now - CLOCK_SLACK).timestamp()) + 1
