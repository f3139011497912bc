"""Rollouts found by a part of their names, the newest first."""

from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlmodel import col

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.rollout.preparation.membership import selectors_in, touched_by
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.store.rollouts import active, rollout
from edgefleet_server.rollout.store.tables import Rollout


@dataclass(frozen=True, slots=True)
class FoundRollout:
    """A rollout that was found."""

    id: str
    release: str
    state: str


class RolloutFinder:
    """Finds rollouts. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def naming(self, ref: ReleaseRef) -> list[str]:
        """Return the ids of all rollouts, whatever became of them, that are of a release or go back to it, the newest first."""
        goes_back = col(Rollout.spec)["rollback_to"].as_string() == str(ref)
        query = select(col(Rollout.id)).where(
            col(Rollout.model) == ref.model, or_(col(Rollout.version) == ref.version, goes_back)
        )
        with self._db.read() as session:
            return list(session.scalars(query.order_by(col(Rollout.created_at).desc(), col(Rollout.id))))

    def touched(self, rollout_id: str) -> Touched:
        """Return what acts on a rollout touch. Raises RolloutUnknownError."""
        with self._db.read() as session:
            return touched_by(stored_spec(rollout(session, rollout_id).spec))

    def uses_group(self, group: str) -> str | None:
        """Return why a group must stay as it is, None when the selector of no open rollout names it."""
        with self._db.read() as session:
            for row in active(session):
                if any(group in parse_selector(one).groups() for one in selectors_in(stored_spec(row.spec))):
                    return f"rollout {row.id} of {row.model}@{row.version} is {row.state} and names it"
        return None

    def rollouts(self, text: str, limit: int) -> list[FoundRollout]:
        """Return up to `limit` rollouts that have a text (lower case) in their id, name or release."""
        release = col(Rollout.model) + "@" + col(Rollout.version)
        named = (
            func.lower(one).contains(text, autoescape=True) for one in (col(Rollout.id), col(Rollout.name), release)
        )
        statement = select(col(Rollout.id), release, col(Rollout.state)).where(or_(*named))
        newest = statement.order_by(col(Rollout.created_at).desc(), col(Rollout.id)).limit(limit)
        with self._db.read() as session:
            return [FoundRollout(*row) for row in session.execute(newest)]
