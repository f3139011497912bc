"""The SQL of contact points. Every function works in the caller's session and never commits."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlmodel import Session, col

from edgefleet_server.alerting.contact_points.errors import ContactUnknownError
from edgefleet_server.alerting.contact_points.tables import AlertContact, AlertContactSecret


def contacts(session: Session) -> Sequence[AlertContact]:
    """Return all contact points, oldest first."""
    order = (col(AlertContact.created_at), col(AlertContact.id))
    return session.execute(select(AlertContact).order_by(*order)).scalars().all()


def known(session: Session, contact_id: str) -> AlertContact:
    """Return a contact point's row. Raises ContactUnknownError."""
    row = session.get(AlertContact, contact_id)
    if row is None:
        raise ContactUnknownError(
            f"there is no contact point {contact_id[:40]!r}", next_step="`edgectl alert contact list` shows all"
        )
    return row


def url_of(session: Session, contact_id: str) -> str | None:
    """Return the URL of a contact point, None when it was removed."""
    row = session.get(AlertContactSecret, contact_id)
    return None if row is None else row.url


def set_url(session: Session, contact_id: str, url: str) -> None:
    """Put a URL in the place of the one before."""
    session.merge(AlertContactSecret(contact_id=contact_id, url=url))


def remove(session: Session, contact_id: str) -> None:
    """Delete a contact point and its secret. Raises ContactUnknownError."""
    known(session, contact_id)
    session.execute(delete(AlertContactSecret).where(col(AlertContactSecret.contact_id) == contact_id))
    session.execute(delete(AlertContact).where(col(AlertContact.id) == contact_id))
