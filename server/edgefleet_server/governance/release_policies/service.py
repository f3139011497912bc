"""The policies of releases: set, removed, and held to wherever a release would go to a device. Thread-safe; calls block."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.governance.errors import BadPolicyError, PolicyNotMetError, PolicyUnknownError
from edgefleet_server.governance.release_policies import rules, store
from edgefleet_server.governance.release_policies.model import PolicyCheck, ReleaseFacts, ReleasePolicy

FactsOf = Callable[[ReleaseRef], ReleaseFacts]
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_POLICIES: Final = 100


class PolicyBook:
    """The policies of one database. facts: what there is to know of a release; it raises for one that there is not."""

    def __init__(self, db: Database, clock: Clock, facts: FactsOf) -> None:
        """Wire the parts."""
        self._db, self._clock, self._facts = db, clock, facts

    def policies(self) -> list[ReleasePolicy]:
        """Return all policies by name."""
        with self._db.read() as session:
            return store.policies(session)

    def policy(self, name: str) -> ReleasePolicy:
        """Return a policy. Raises PolicyUnknownError."""
        with self._db.read() as session:
            found = store.find(session, name)
        if found is None:
            raise PolicyUnknownError(
                f"there is no release policy {name[:63]!r}", next_step="`edgectl policy list` shows all"
            )
        return found

    def set(
        self, name: str, models: Sequence[str], require: Sequence[str], since: datetime | None, by: str
    ) -> tuple[ReleasePolicy, bool]:
        """Set a policy; return it, and whether it is new. since: None = as before, of a new one from now on. Raises BadPolicyError."""
        wrong = rules.mistakes_in(models, require)
        if not _NAME.fullmatch(name):
            wrong.insert(0, f"{name[:80]!r} is no name: small letters, digits, dots and dashes")
        if wrong:
            raise BadPolicyError("; ".join(wrong[:5]))
        now = self._clock.now()
        with self._db.session() as session:
            before = store.find(session, name)
            if before is None and len(store.policies(session)) >= MAX_POLICIES:
                raise BadPolicyError(f"there are {MAX_POLICIES} policies already")
            made_at, made_by = (now, by) if before is None else (before.created_at, before.created_by)
            begin = since or (now if before is None else before.since)
            made = ReleasePolicy(name, list(models), list(require), begin, made_at, made_by[:80], now, by[:80])
            store.put(session, made)
        return made, before is None

    def delete(self, name: str) -> None:
        """Remove a policy. Raises PolicyUnknownError."""
        with self._db.session() as session:
            store.remove(session, name)

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
