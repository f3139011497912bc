"""Deployment protection rules as people and the rest of the server see them.

Thread-safe; calls block; writes join the caller's transaction.

Nothing about a rule gets weaker at once: a rule has the selector that it was made with, a device under it stays, and removing it takes
REMOVAL_DELAY. What loosens a rule is an event in the same transaction.
"""

import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.errors import (
    BadProtectionError,
    ProtectionExistsError,
    ProtectionUnknownError,
)
from edgefleet_server.fleet.protection import store
from edgefleet_server.fleet.protection.model import (
    LONGEST_BREAK,
    REMOVAL_DELAY,
    SHORTEST_REASON,
    BreakGlass,
    Covered,
    ProtectionRule,
)
from edgefleet_server.fleet.protection.rules import is_in_force, unsteady_keys
from edgefleet_server.fleet.selectors import device_selector
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.fleet.store import lock_devices
from edgefleet_server.fleet.tables import FleetBreakGlass, FleetProtectionRule

_MEMBERS: Final = "fleet_protection_members"
KIND: Final = "protection"
"""Kind of the events of rules; their `to` is one of `events.types.PROTECTION`."""
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class ProtectionBook:
    """Makes, lists, ends and sets aside rules, and says which devices are under them."""

    def __init__(self, db: Database, feed: EventLog, clock: Clock, pin: Callable[[str], None]) -> None:
        """Wire the parts. pin: keeps the groups that a selector names until the transaction ends."""
        self._db = db
        self._feed = feed
        self._clock = clock
        self._pin = pin

    # ---- rules

    def add(self, name: str, selector: str, by: str) -> ProtectionRule:
        """Protect the devices that a selector matches, now or ever. Raises BadProtectionError, BadSelectorError, ProtectionExistsError."""
        if not _NAME.fullmatch(name):
            raise BadProtectionError(
                f"{name[:80]!r} cannot be the name of a protection rule",
                next_step="use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit",
            )
        parsed = parse_selector(selector)
        now = self._clock.now()
        with self._db.session() as session:
            self._pin(str(parsed))
            groups = device_selector.asked_groups(session, parsed)
            if keys := unsteady_keys([parsed, *groups.values()]):
                raise BadProtectionError(
                    f"a protection rule cannot ask for {keys[0]}: that changes without a person",
                    next_step="use labels, groups, profile and id only",
                )
            lock_devices(session)  # a process that writes documents has ended, or sees the rule
            self._drop_ended(session, now)  # one of this name may be among them
            if store.rule(session, name, lock=True) is not None:
                raise ProtectionExistsError(
                    f"the protection rule {name!r} already exists", next_step="choose another name: rules add up"
                )
            row = FleetProtectionRule(name=name, selector=str(parsed), created_at=now, created_by=by[:120])
            session.add(row)
            session.flush()
            store.note_members(session, now)
            self._tell("added", name, by, selector=str(parsed))
            return _view(row, store.counts(session), [])

    def rules(self) -> list[ProtectionRule]:
        """Return the rules in force, in order of name."""
        now = self._clock.now()
        with self._db.read() as session:
            counts, broken = store.counts(session), store.broken(session, now)
            return [_view(row, counts, broken) for row in store.rules(session, now)]

    def rule(self, name: str, *, lock: bool = False) -> ProtectionRule:
        """Return a rule in force. Raises ProtectionUnknownError."""
        with self._db.session() if lock else self._db.read() as session:
            row = self._known(session, name, lock=lock)
            return _view(row, store.counts(session), store.broken(session, self._clock.now()))

    def end(self, name: str, by: str) -> ProtectionRule:
        """Ask to remove a rule: it ends after REMOVAL_DELAY. Again: changes nothing. Raises ProtectionUnknownError."""
        now = self._clock.now()
        with self._db.session() as session:
            row = self._known(session, name, lock=True)
            if row.ends_at is None:
                row.ends_at, row.ending_by = now + REMOVAL_DELAY, by[:120]
                session.add(row)
                self._tell("ending", name, by, ends_at=row.ends_at.isoformat(timespec="seconds"))
            return _view(row, store.counts(session), store.broken(session, now))

    def keep(self, name: str, by: str) -> ProtectionRule:
        """Keep a rule that was to be removed. Raises ProtectionUnknownError."""
        with self._db.session() as session:
            row = self._known(session, name, lock=True)
            if row.ends_at is not None:
                row.ends_at, row.ending_by = None, ""
                session.add(row)
                self._tell("kept", name, by)
            return _view(row, store.counts(session), store.broken(session, self._clock.now()))

    def end_due(self, now: datetime) -> int:
        """Let go of the rules whose time is over; return how many."""
        with self._db.session() as session:
            return self._drop_ended(session, now)

    def _drop_ended(self, session: Session, now: datetime) -> int:
        ended = store.drop_ended(session, now)
        for name in ended:
            self._tell("removed", name, "server")
        return len(ended)

    # ---- emergencies

    def break_glass(self, name: str, *, principal: str, by: str, reason: str, lasts: timedelta) -> BreakGlass:
        """Set a rule aside for one person, who may then change documents at once. Raises BadProtectionError, ProtectionUnknownError."""
        if len(reason.strip()) < SHORTEST_REASON:
            raise BadProtectionError(
                f"breaking the glass needs a reason of at least {SHORTEST_REASON} characters",
                next_step="say what happened: --reason 'cameras at gate 4 are blind, incident 231'",
            )
        if not timedelta(0) < lasts <= LONGEST_BREAK:
            raise BadProtectionError(
                f"a rule is set aside for at most {LONGEST_BREAK // timedelta(minutes=1)} minutes",
                next_step="choose a shorter time, and ask again when it is over",
            )
        now = self._clock.now()
        with self._db.session() as session:
            self._known(session, name, lock=True)
            row = FleetBreakGlass(
                id=f"bg-{secrets.token_hex(8)}", rule=name, principal=principal[:64], person=by[:120],
                reason=reason.strip(), at=now, until=now + lasts,
            )  # fmt: skip
            session.add(row)
            self._tell("break_glass", name, by, reason=row.reason, until=row.until.isoformat(timespec="seconds"))
            return _broken_view(row)

    def note_bypass(self, by: str, release: str, ids: Collection[str]) -> None:
        """Note that a person changed documents of protected devices while the glass was broken; nothing where none is protected."""
        now = self._clock.now()
        with self._db.session() as session:
            found = store.rules_of(session, now, ids) if store.rules(session, now) else {}
            for name in sorted({one for names in found.values() for one in names}):
                ids_of = sorted(device for device, names in found.items() if name in names)
                self._tell("bypassed", name, by, release=release, devices=len(ids_of), first=ids_of[0])

    # ---- who is protected

    def covered(self, selector: str) -> list[Covered]:
        """Return which rules protect live devices that a selector matches. Raises BadSelectorError."""
        with self._db.read() as session:
            now = self._clock.now()
            return store.covered(session, now, selector) if store.rules(session, now) else []

    def rules_of(self, ids: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the rules that each of these devices is under; devices under none are left out."""
        with self._db.read() as session:
            now = self._clock.now()
            return store.rules_of(session, now, ids) if store.rules(session, now) else {}

    def members(self) -> Mapping[str, tuple[str, ...]]:
        """Return the rules of every device that is under one. Read once in a transaction, which may look at many rollouts."""
        with self._db.read() as session:
            known: Mapping[str, tuple[str, ...]] | None = session.info.get(_MEMBERS)
            if known is None:
                now = self._clock.now()
                known = store.all_members(session, now) if store.rules(session, now) else {}
                session.info[_MEMBERS] = known
            return known

    def uses_group(self, group: str) -> str | None:
        """Return why a group must stay as it is, None when no rule names it."""
        with self._db.read() as session:
            for row in store.rules(session, self._clock.now()):
                parsed = parse_selector(row.selector)
                if group in parsed.groups() or parsed.asks_for_any_group():
                    return f"the protection rule {row.name} names it"
        return None

    def _known(self, session: Session, name: str, *, lock: bool = False) -> FleetProtectionRule:
        row = store.rule(session, name, lock=lock)
        if row is None or not is_in_force(row.ends_at, self._clock.now()):
            raise ProtectionUnknownError(
                f"there is no protection rule {name[:80]!r}", next_step="`edgectl protection list` shows all rules"
            )
        return row

    def _tell(self, to: str, rule: str, by: str, **more: Any) -> None:
        self._feed.add([NewEvent(KIND, detail={"to": to, "rule": rule, "by": by, **more})])


def _view(row: FleetProtectionRule, counts: Mapping[str, int], broken: Sequence[FleetBreakGlass]) -> ProtectionRule:
    return ProtectionRule(
        name=row.name,
        selector=row.selector,
        devices=counts.get(row.name, 0),
        created_at=row.created_at,
        created_by=row.created_by,
        ends_at=row.ends_at,
        ending_by=row.ending_by,
        broken=[_broken_view(one) for one in broken if one.rule == row.name],
    )


def _broken_view(row: FleetBreakGlass) -> BreakGlass:
    return BreakGlass(row.id, row.rule, row.person, row.reason, row.at, row.until)
