"""Rollouts found by a part of their names, the newest first."""

from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlmodel import col

from edgefleet_server.db.database import Database
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
