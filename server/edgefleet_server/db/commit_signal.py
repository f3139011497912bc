"""Listeners that are called after a commit. Documents, the hold and reports all tell others of it.

The session is not yet free when they are called: a listener must only hand things on, never use the database.
"""

from collections.abc import Callable

from sqlalchemy import event
from sqlmodel import Session

CommitListener = Callable[[], None]


class CommitSignal:
    """Calls its listeners once after each commit of a transaction that rang it; a rollback is silent. Thread-safe."""

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: list[CommitListener] = []
        self._key = f"fleet_bell_{id(self)}"

    def subscribe(self, listener: CommitListener) -> Callable[[], None]:
        """Call `listener` in the committing thread; return how to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def ring(self, session: Session) -> None:
        """Call the listeners once this transaction is committed."""
        if session.info.setdefault(self._key, False):
            return
        session.info[self._key] = True
        event.listen(session, "after_commit", self._call, once=True)

    def _call(self, _session: Session) -> None:
        for listener in list(self._listeners):
            listener()
