"""Counts tries of passwords: of a client in memory, before anything else is done for it, and of a name in the database.

Names are counted alike whether or not somebody has them, so a refusal does not say that. The count of a name survives a restart and is the
same in all processes. Thread-safe; calls block.
"""

import threading
from collections import OrderedDict
from datetime import timedelta
from typing import Final

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.accounts import store
from edgefleet_server.access.accounts.guess_limits import OF_CLIENT, OF_NAME
from edgefleet_server.access.accounts.tables import GuessRow
from edgefleet_server.db.database import Database
from edgefleet_server.web.attempt_limits import TooManyLoginsError
from edgefleet_server.web.connection_budget import counted_address

MAX_CLIENTS: Final = 4096


class GuessBook:
    """Keeps the counts."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take_client(self, address: str) -> None:
        """Count a try of a client. Raises TooManyLoginsError."""
        key, now_s = counted_address(address), self._clock.monotonic_s()
        with self._lock:
            level, at_s = self._clients.pop(key, (0.0, now_s))
            level = OF_CLIENT.level(level, now_s - at_s)
            wait_s = OF_CLIENT.wait_s(level)
            self._clients[key] = (level if wait_s else level + 1, now_s)
            while len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        if wait_s:
            raise _too_many("too many tries to sign in came from this address", wait_s)

    def take_name(self, name: str) -> bool:
        """Count a try of a name; return whether it was the last one for now. Raises TooManyLoginsError."""
        now, key = self._clock.now(), _key(name)
        with self._db.session() as session:
            row = store.find_guesses(session, key) or self._add(session, key)
            level = OF_NAME.level(row.level, (now - row.at).total_seconds())
            wait_s = OF_NAME.wait_s(level)
            if wait_s:
                raise _too_many("too many passwords were tried for this name", wait_s)
            row.level, row.at = level + 1, now
            session.add(row)
            session.flush()
            return OF_NAME.wait_s(row.level) > 0

    def forget_name(self, name: str) -> None:
        """Count from zero again: the password was right. Joins the caller's transaction."""
        with self._db.session() as session:
            store.forget_guesses(session, _key(name))

    def _add(self, session: Session, key: str) -> GuessRow:
        now = self._clock.now()
        store.make_room_for_guesses(session, now - timedelta(seconds=OF_NAME.life_s))
        row = GuessRow(key=key, level=0.0, at=now)
        try:
            with session.begin_nested():
                session.add(row)
                session.flush()
        except IntegrityError:  # another process just added it
            found = store.find_guesses(session, key)
            assert found is not None
            return found
        return row


def _key(name: str) -> str:
    return sha256_hex(b"sign-in\0" + name.encode("utf-8", "surrogatepass"))


def _too_many(what: str, wait_s: int) -> TooManyLoginsError:
    return TooManyLoginsError(
        what, next_step=f"try again in {wait_s} s, or sign in with a token or a login link", retry_after_s=wait_s
    )
