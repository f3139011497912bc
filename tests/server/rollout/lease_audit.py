"""The auditor of limits: it sits in PostgreSQL, counts the leases itself, and finds offers that came sooner than a rate lets them.

A trigger counts the leases after each statement that takes some; `look` counts once more, when everything is committed: a transaction
does not see what another one has not committed yet. Each count is written down, so that what was breached for a moment is known at the
end, also when whoever did it was killed. It takes no figure of the engine's: offers are read from the event log, not from the minute
that the engine counts itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select, text
from sqlmodel import Session, col

from edgefleet_server.db.database import Database
from edgefleet_server.events.tables import FleetEvent

_COUNT: Final = """INSERT INTO lease_audit SELECT count(*), coalesce(max(n), 0)
  FROM (SELECT count(*) OVER (PARTITION BY site) AS n FROM download_lease) AS leases"""
_AUDITOR: Final = f"""
CREATE TABLE lease_audit (total int, most_at_site int);
CREATE FUNCTION audit_leases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  {_COUNT};
  RETURN NULL;
END $$;
CREATE TRIGGER audit_leases AFTER INSERT ON download_lease FOR EACH STATEMENT EXECUTE FUNCTION audit_leases();
"""


@dataclass(frozen=True)
class Held:
    """What rollouts are held to: downloads at once, of them at a site, and offers of a stage a minute."""

    downloads: int
    per_site: int
    per_min: int = 0

    @property
    def limits(self) -> dict[str, Any]:
        """The `limits` of a spec."""
        return {"concurrent_downloads": self.downloads, "per_site": self.per_site}

    @property
    def rate(self) -> dict[str, Any]:
        """The `rate` of a stage: the same for ever."""
        return {"start": f"{self.per_min}/min", "factor": 1, "max": f"{self.per_min}/min"}


@dataclass(frozen=True)
class Counts:
    """What was written down. looks: counts; at_limit: those at a full limit; breached: those beyond one; most: ever seen at once."""

    looks: int
    at_limit: int
    breached: int
    most: int


def install(db: Database) -> None:
    """Begin to count."""
    with db.session() as session:
        session.execute(text(_AUDITOR))


def look(db: Database) -> None:
    """Count what is committed."""
    with db.session() as session:
        session.execute(text(_COUNT))


def read(db: Database, held: Held) -> Counts:
    """Return what was counted so far."""
    with db.read() as session:
        found = session.execute(
            text(
                "SELECT count(*), count(*) FILTER (WHERE total = :total OR most_at_site = :site),"
                " count(*) FILTER (WHERE total > :total OR most_at_site > :site), coalesce(max(total), 0) FROM lease_audit"
            ),
            {"total": held.downloads, "site": held.per_site},
        ).one()
    return Counts(*(int(number) for number in found))


def too_soon(db: Database, rollout_id: str, held: Held) -> list[str]:
    """Return the offers of a rollout that came before the rate of its stages lets them."""
    with db.read() as session:
        return list(_too_soon(session, rollout_id, held))


def _too_soon(session: Session, rollout_id: str, held: Held) -> Iterator[str]:
    """By its second s, a stage at rate r has offered to at most floor(r·s/60) + 1 devices: the k-th not before second 60·(k-1)/r."""
    offers: dict[str, list[datetime]] = {}
    chosen = select(FleetEvent).where(col(FleetEvent.rollout_id) == rollout_id, col(FleetEvent.kind) == "assignment")
    for event in session.execute(chosen.order_by(col(FleetEvent.id))).scalars():
        if event.detail["to"] == "offered":
            offers.setdefault(event.detail["stage"], []).append(event.at)
    for stage, moments in offers.items():
        for place, at in enumerate(moments):
            after_s, least_s = (at - moments[0]).total_seconds(), 60 * place / held.per_min
            if after_s < least_s - 1e-6:
                yield f"offer {place + 1} of stage {stage} came {after_s:.3f} s after its first, not before {least_s:.3f} s"
