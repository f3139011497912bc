"""The SQL of model cards. Every function works in the caller's session and never commits."""

from sqlmodel import Session

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.model_cards.tables import ModelCardRow


def find(session: Session, ref: ReleaseRef) -> ModelCardRow | None:
    """Return what is stated of a release; None for nothing."""
    return session.get(ModelCardRow, (str(ref.model), str(ref.version)), populate_existing=True)


def put(session: Session, row: ModelCardRow) -> None:
    """Store what is stated of a release in the place of what was."""
    session.merge(row)
    session.flush()
