"""The policies of releases: set, removed, and held to wherever a release would go to a device. Thread-safe; calls block."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.errors import ForbiddenError
from edgefleet_server.access.model import PersonKind, Principal
from edgefleet_server.db.database import Database
from edgefleet_server.governance.errors import (
    BadPolicyError,
    NoPolicyChangeError,
    OtherPolicyChangeError,
    PolicyNotMetError,
    PolicyUnknownError,
)
from edgefleet_server.governance.release_policies import rules, store
from edgefleet_server.governance.release_policies.model import (
    PolicyChange,
    PolicyCheck,
    ReleaseFacts,
    ReleasePolicy,
)
from edgefleet_terms.release_rules import mistakes_in

FactsOf = Callable[[ReleaseRef], ReleaseFacts]
MAX_POLICIES: Final = 100
WAIT: Final = timedelta(hours=24)
"""So long after it was asked for, what weakens a policy begins without a second person."""
TRIAL: Final = timedelta(hours=1)
"""So long who made a policy may weaken it at once: nothing else hung on it yet."""


class PolicyBook:
    """The policies of one database. facts: what there is to know of a release; it raises for one that there is not."""

    def __init__(self, db: Database, clock: Clock, facts: FactsOf) -> None:
        """Wire the parts."""
        self._db, self._clock, self._facts = db, clock, facts

    def policies(self) -> list[ReleasePolicy]:
        """Return all policies that hold now, by name."""
        now = self._clock.now()
        with self._db.read() as session:
            return [now_so for one in store.policies(session) if (now_so := rules.in_force(one, now)) is not None]

    def policy(self, name: str) -> ReleasePolicy:
        """Return a policy. Raises PolicyUnknownError."""
        with self._db.read() as session:
            return self._known(session, name)

    def set(
        self, name: str, models: Sequence[str], require: Sequence[str], since: datetime | None, by: Principal
    ) -> tuple[ReleasePolicy, bool]:
        """Set a policy; return it, and whether it is new. since: None = as before, of a new one from now on. Raises BadPolicyError.

        What weakens one waits: it is the policy's `change` then. What is in force already takes back what waits.
        """
        wrong = [one.what for one in mistakes_in(name, models, require)]
        if wrong:
            raise BadPolicyError("; ".join(wrong[:5]))
        now = self._clock.now()
        with self._db.session() as session:
            before = self._held(session, name)
            if before is None and len(self.policies()) >= MAX_POLICIES:
                raise BadPolicyError(f"there are {MAX_POLICIES} policies already")
            made_at, made_by = (now, by.name[:80]) if before is None else (before.created_at, before.created_by)
            begin = since or (now if before is None else before.since)
            made = ReleasePolicy(name, list(models), list(require), begin, made_at, made_by, now, by.name[:80])
            if before is not None and rules.weakens(before, made) and not self._is_on_trial(before, by):
                change = PolicyChange(False, made.models, made.require, begin, now, by.name[:80], now + WAIT)
                made = self._asked(before, change)
            store.put(session, made)
        return made, before is None

    def end(self, name: str, by: Principal) -> ReleasePolicy | None:
        """Ask for the end of a policy; return it with the time, None when it is gone at once. Raises PolicyUnknownError."""
        now = self._clock.now()
        with self._db.session() as session:
            before = self._known(session, name, lock=True)
            if self._is_on_trial(before, by):
                store.remove(session, name)
                return None
            change = PolicyChange(True, before.models, before.require, before.since, now, by.name[:80], now + WAIT)
            made = self._asked(before, change)
            store.put(session, made)
        return made

    def keep(self, name: str) -> ReleasePolicy:
        """Take back what would weaken a policy. Raises PolicyUnknownError."""
        with self._db.session() as session:
            made = replace(self._known(session, name, lock=True), change=None)
            store.put(session, made)
        return made

    def approve(self, name: str, asked_at: datetime, by: Principal) -> ReleasePolicy | None:
        """Let what weakens a policy begin now, as a second person; return it, None when that ended it.

        asked_at: of the change that was seen. Raises PolicyUnknownError, NoPolicyChangeError, OtherPolicyChangeError, ForbiddenError for
        who asked for it, and for who is no person.
        """
        now = self._clock.now()
        with self._db.session() as session:
            before = self._known(session, name, lock=True)
            if before.change is None:
                raise NoPolicyChangeError(f"nothing weakens the policy {name}")
            if not by.person or by.kind is not PersonKind.PERSON or by.name[:80] == before.change.asked_by:
                raise ForbiddenError(
                    f"{before.change.asked_by} asked to weaken the policy {name}, and another person has to approve that",
                    next_step=f"let a second admin, a person, do it, or wait until {before.change.begins_at:%Y-%m-%d %H:%M} UTC",
                )
            if before.change.asked_at != asked_at:
                asked = f"{before.change.asked_by} has asked for something else at {before.change.asked_at.isoformat()}"
                raise OtherPolicyChangeError(f"{asked}, so the policy {name} stays as it is")
            if before.change.ends:
                store.remove(session, name)
                return None
            made = replace(rules.changed(before, before.change), changed_at=now)
            store.put(session, made)
        return made

    def _known(self, session: Session, name: str, *, lock: bool = False) -> ReleasePolicy:
        found = self._held(session, name, lock=lock)
        if found is None:
            raise PolicyUnknownError(
                f"there is no release policy {name[:63]!r}", next_step="`edgectl policy list` shows all"
            )
        return found

    def _held(self, session: Session, name: str, *, lock: bool = True) -> ReleasePolicy | None:
        """Return a policy as it holds now, None for one that has ended or never was."""
        found = store.find(session, name, lock=lock)
        return None if found is None else rules.in_force(found, self._clock.now())

    def _is_on_trial(self, policy: ReleasePolicy, by: Principal) -> bool:
        return policy.created_by == by.name[:80] and self._clock.now() - policy.created_at < TRIAL

    def _asked(self, before: ReleasePolicy, change: PolicyChange) -> ReleasePolicy:
        """Return a policy with a change that waits; the same one, asked for again, begins no later."""
        waits = before.change
        if waits is not None and (waits.ends, waits.models, waits.require, waits.since) == (
            change.ends, change.models, change.require, change.since,
        ):  # fmt: skip
            return before
        return replace(before, change=change)

    def check(self, ref: ReleaseRef) -> PolicyCheck:
        """Return how a release stands. Raises what `facts` raises."""
        policies = self.policies()
        facts = self._facts(ref)
        findings = rules.lacking(policies, facts)
        names = [one.name for one in policies if rules.holds_for(one, facts)]
        return PolicyCheck(str(ref), not findings, names, findings)

    def keep_to(self, ref: ReleaseRef) -> None:
        """Raise PolicyNotMetError for a release that may not be deployed; without any policy nothing is read of it."""
        if not self.policies():
            return
        found = self.check(ref).findings
        if found:
            message, next_step = rules.refusal(str(ref), found)
            raise PolicyNotMetError(message, next_step=next_step, errors=[asdict(one) for one in found])
