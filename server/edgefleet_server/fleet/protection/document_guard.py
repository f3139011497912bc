"""Asks, in the transaction that writes documents, whether each change of a protected device's document has a warrant."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.desired import ModelDesired
from edgefleet_server.fleet.errors import ProtectedDeviceError
from edgefleet_server.fleet.protection import store
from edgefleet_server.fleet.protection.model import PersonWarrant, Refused, Warrant
from edgefleet_server.fleet.protection.rules import refusal

_NAMED: Final = 3
_HAS_RULES: Final = "fleet_has_protection_rules"


def remember_rules(session: Session, *, has_rules: bool) -> None:
    """Note what was read together with something else once devices were locked: whether there is any rule, in this transaction."""
    session.info[_HAS_RULES] = has_rules


class DocumentGuard:
    """What is known of the rules that some devices are under. For one transaction, in one thread."""

    def __init__(self, session: Session, now: datetime) -> None:
        """Ask in this transaction, at this time."""
        self._session = session
        self._now = now
        self._rules: dict[str, tuple[str, ...]] = {}
        self._broken: dict[str, frozenset[str]] = {}

    def look_at(self, ids: Collection[str], *, note: bool = True) -> None:
        """Read the rules that these devices are under. note: first put under them who matches.

        Devices that are to be written are locked before: a rule that is made meanwhile locks them too, so it is seen here.
        """
        if ids and self._session.info.get(_HAS_RULES, True) and store.rules(self._session, self._now):
            if note:
                store.note_members(self._session, self._now, ids)
            self._rules |= store.rules_of(self._session, self._now, ids)

    def protected(self) -> Mapping[str, tuple[str, ...]]:
        """Return the rules of the devices looked at that are under any."""
        return self._rules

    def refused(
        self, device: str, before: Mapping[str, ModelDesired], after: Mapping[str, ModelDesired], warrant: Warrant
    ) -> Refused | None:
        """Return why a device's document may not change so, None when it may. The device was looked at."""
        rules = self._rules.get(device, ())
        reason = refusal(before, after, warrant, rules, self._set_aside(warrant)) if rules else ""
        return Refused(device, rules, reason) if reason else None

    def _set_aside(self, warrant: Warrant) -> frozenset[str]:
        if not isinstance(warrant, PersonWarrant):
            return frozenset()
        if warrant.principal not in self._broken:
            found = store.broken(self._session, self._now, warrant.principal)
            self._broken[warrant.principal] = frozenset(one.rule for one in found)
        return self._broken[warrant.principal]


def protected_error(refused: Collection[Refused]) -> ProtectedDeviceError:
    """Return the error that names the rules, the devices and what to do."""
    ids = sorted(one.device for one in refused)
    rules = sorted({name for one in refused for name in one.rules})
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    reason = next(iter(refused)).reason
    which = f"rule {rules[0]}" if len(rules) == 1 else f"rules {', '.join(rules)}"
    return ProtectedDeviceError(
        f"the protection {which} refuses this for {', '.join(ids[:_NAMED])}{more}: {reason}",
        next_step="make a rollout whose first stage has `approval: {role: approver}`, or leave these devices out; "
        f"in an emergency an admin can set the rule aside: `edgectl protection break-glass {rules[0]} --reason WHY`",
    )
