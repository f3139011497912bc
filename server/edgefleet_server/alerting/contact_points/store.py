"""The SQL of contact points. Every function works in the caller's session and never commits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select
from sqlmodel import Session, col

from edgefleet_server.alerting.contact_points.errors import ContactUnknownError
from edgefleet_server.alerting.contact_points.tables import AlertContact, AlertContactSecret
from edgefleet_server.encryption.model import SealedColumn, SealedValue
from edgefleet_server.encryption.service import Sealer

SEALED: Final = SealedColumn("URL of a contact point", "alert_contact_secret", "url", ("contact_id",), "set_at")


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


def url_of(session: Session, contact_id: str) -> SealedValue | None:
    """Return the sealed URL of a contact point, None when it was removed."""
    row = session.get(AlertContactSecret, contact_id)
    return None if row is None else SealedValue(SEALED.place(contact_id), row.url)


def set_url(session: Session, sealer: Sealer, contact_id: str, url: str, now: datetime) -> None:
    """Seal a URL, and put it in the place of the one before."""
    sealed = sealer.seal(SEALED.place(contact_id), url)
    session.merge(AlertContactSecret(contact_id=contact_id, url=sealed, set_at=now))


def remove(session: Session, contact_id: str) -> None:
    """Delete a contact point and its secret. Raises ContactUnknownError."""
    known(session, contact_id)
    session.execute(delete(AlertContactSecret).where(col(AlertContactSecret.contact_id) == contact_id))
    session.execute(delete(AlertContact).where(col(AlertContact.id) == contact_id))
