"""An identity that somebody signed in with once, without an issuer."""

from datetime import UTC, datetime

from edgefleet_server.access.identities.tables import IdentityRow
from edgefleet_server.db.database import Database


def add_identity(db: Database, own: str, person: str = "") -> None:
    """Add an identity, linked to a person by id, or waiting."""
    at = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    row = IdentityRow(
        id=own, issuer="https://id.example", subject=own, provider="corp", name="dora", email="dora@example.com",
        person_id=person, is_linked=bool(person), token_id="", first_seen_at=at, last_seen_at=at,
    )  # fmt: skip
    with db.session() as session:
        session.add(row)
