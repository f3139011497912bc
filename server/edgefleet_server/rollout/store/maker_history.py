"""Whose rollouts are whose when two people turn out to be one: what the first made counts as made by the second, too."""

from sqlmodel import col, select

from edgefleet_server.access.model import Owner
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.store import rollouts
from edgefleet_server.rollout.store.tables import Rollout


class MakerHistory:
    """Passes makings on. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def take_over(self, was: Owner, now: Owner) -> None:
        """Make a person a maker of every rollout that another one made or moved on. Joins the caller's transaction."""
        with self._db.session() as session:
            found = session.exec(select(col(Rollout.id), col(Rollout.makers), col(Rollout.created_by))).all()
            for rollout_id, makers, created_by in found:
                if now.id not in makers and (was.id in makers or created_by == was.name):
                    row = rollouts.rollout(session, rollout_id, lock=True)
                    row.makers = [*row.makers, now.id]
                    session.add(row)
