"""Groups: selectors with a name. They are made, counted, guarded and removed.

Rules:
1. A group's selector may not use `group`: membership never recurses.
2. A group that something unfinished names stays as it is: guards say who needs it, and `pin` keeps it while such a thing is made.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.errors import BadGrantError
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store as group_store
from edgefleet_server.fleet.errors import (
    BadGroupNameError,
    BadSelectorError,
    GroupExistsError,
    GroupInUseError,
    GroupUnknownError,
)
from edgefleet_server.fleet.model import DeviceStatus, Group
from edgefleet_server.fleet.protection.rules import unsteady_keys
from edgefleet_server.fleet.selectors import device_selector, grammar, sql
from edgefleet_server.fleet.tables import FleetGroup

Guard = Callable[[str], str | None]
"""A group's name -> why it must stay, or None."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class GroupBook:
    """Makes, lists and removes groups."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._guards: list[Guard] = []

    def add_guard(self, guard: Guard) -> None:
        """Ask `guard` before a group is removed, in the transaction that removes it."""
        self._guards.append(guard)

    def create(self, name: str, selector: str, by: str) -> Group:
        """Make a group. Raises BadGroupNameError, BadSelectorError, GroupExistsError."""
        if not _NAME.fullmatch(name):
            raise BadGroupNameError(
                f"{name[:80]!r} cannot be the name of a group",
                next_step="use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit",
            )
        parsed = _plain_selector(name, selector)
        row = FleetGroup(name=name, selector=str(parsed), created_at=self._clock.now(), created_by=by[:80])
        with self._db.session() as session:
            if not group_store.add_group(session, row):
                raise GroupExistsError(
                    f"the group {name!r} already exists", next_step=f"see it with `edgectl group show {name}`"
                )
            return _counted(session, [row])[0]

    def change(self, name: str, selector: str) -> Group:
        """Give a group another selector. Raises GroupUnknownError, BadSelectorError, GroupInUseError."""
        parsed = _plain_selector(name, selector)
        with self._db.session() as session:
            row = _known(session, name, lock=True)
            if row.selector != str(parsed):
                self._check_free(name)
                row.selector = str(parsed)
                session.add(row)
                session.flush()
            return _counted(session, [row])[0]

    def get(self, name: str) -> Group:
        """Return a group. Raises GroupUnknownError."""
        with self._db.read() as session:
            return _counted(session, [_known(session, name)])[0]

    def editable(self, name: str, *, lock: bool = False) -> tuple[str, str]:
        """Return what writes can change of a group, with its name; `lock` holds it until the transaction ends. Raises GroupUnknownError."""
        with self._db.session() if lock else self._db.read() as session:
            row = _known(session, name, lock=lock)
            return row.name, row.selector

    def members_selector(self, name: str) -> str:
        """Return the selector of a group's live devices. Raises GroupUnknownError."""
        with self._db.read() as session:
            return f"{grammar.GROUP}={_known(session, name).name},status!={DeviceStatus.REVOKED}"

    def page(self, after: str | None, limit: int, *, is_down: bool = False) -> tuple[list[Group], int]:
        """Return up to `limit` groups after a name (is_down: before it), and how many there are."""
        with self._db.read() as session:
            rows, total = group_store.groups_page(session, after, limit, is_down=is_down)
            return _counted(session, rows), total

    def delete(self, name: str) -> None:
        """Remove a group. Raises GroupUnknownError, GroupInUseError."""
        with self._db.session() as session:
            row = _known(session, name, lock=True)
            self._check_free(name)
            session.delete(row)

    def _check_free(self, name: str) -> None:
        """Raise GroupInUseError when something unfinished names the group; in the transaction that holds its row."""
        for guard in self._guards:
            reason = guard(name)
            if reason is not None:
                raise GroupInUseError(
                    f"the group {name!r} is needed: {reason}", next_step="wait until that has ended, or end it"
                )

    def pin_scope(self, names: Collection[str]) -> None:
        """Keep the groups that a grant names until the caller's transaction ends. Raises BadGrantError.

        A device must not come into somebody's scope by what it says of itself.
        """
        with self._db.session() as session:
            group_store.share_groups(session, frozenset(names))
            known = {row.name: row for row in group_store.groups(session)}
            for name in names:
                if name not in known:
                    raise BadGrantError(
                        f"there is no group {name!r}", next_step="`edgectl group list` shows all groups"
                    )
                if keys := unsteady_keys([grammar.parse_selector(known[name].selector)]):
                    raise BadGrantError(
                        f"the group {name!r} asks for {keys[0]}: devices would come into the scope without a person",
                        next_step="name a group of labels, profile and id only",
                    )

    def pin(self, selector: str) -> None:
        """Keep the groups that a selector names until the caller's transaction ends. Raises BadSelectorError.

        Who stores a selector pins it first: a removal at the same time then waits, and its guards see what was stored.
        """
        names = grammar.parse_selector(selector).groups()
        if not names:
            return
        with self._db.session() as session:
            there = group_store.share_groups(session, names)
            if there != names:
                device_selector.check_known(names, {row.name: row for row in group_store.groups(session)})


def _plain_selector(name: str, selector: str) -> grammar.Selector:
    """Return a group's selector. Raises BadSelectorError, also when it asks for a group itself."""
    parsed = grammar.parse_selector(selector)
    if parsed.asks_for_groups():
        raise BadSelectorError(
            f"the selector of the group {name!r} asks for a group itself; groups cannot be made of groups",
            next_step="write the other group's selector in its place: `edgectl group show NAME` prints it",
        )
    return parsed


def _known(session: Session, name: str, *, lock: bool = False) -> FleetGroup:
    row = group_store.group(session, name, lock=lock)
    if row is None:
        raise GroupUnknownError(f"there is no group {name[:80]!r}", next_step="`edgectl group list` shows all groups")
    return row


def _counted(session: Session, rows: Sequence[FleetGroup]) -> list[Group]:
    """Return groups with the number of their live devices: one query a group, which reads only its members."""
    found = []
    for row in rows:
        inside = sql.matching(grammar.parse_selector(row.selector), {})
        devices = group_store.count_devices(session, inside, sql.is_live())
        found.append(Group(row.name, row.selector, devices, row.created_at, row.created_by))
    return found
