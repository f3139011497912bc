"""An identity that somebody signed in with once, without an issuer; a rollout that has ended."""

from datetime import UTC, datetime

from edgefleet_server.access.identities.tables import IdentityRow
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.store.tables import Rollout


def add_identity(db: Database, own: str, person: str = "") -> None:
    """Add an identity, linked to a person by id, or waiting."""
    at = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    row = IdentityRow(
        id=own, issuer="https://id.example", subject=own, provider="corp", name="dora", email="dora@example.com",
        person_id=person, is_linked=bool(person), token_id="", first_seen_at=at, last_seen_at=at,
    )  # fmt: skip
    with db.session() as session:
        session.add(row)


def rollout_row(name: str, makers: list[str], by: str) -> Rollout:
    """Return a rollout that has ended."""
    at = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    return Rollout(
        id=name, model="m", version="1", selector="", spec={}, salt="", state="succeeded", created_at=at, created_by=by, makers=makers
    )  # fmt: skip
