"""One process at a time brings a database to a newer schema: another one waits, and then finds it done. Source: ADR 0158.

PostgreSQL: an advisory lock of the session, which ends with it. SQLite: `flock` of the folder of its file, since a step there is a
transaction of its own, and closing another handle of the file itself would end SQLite's own locks.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_server.db.database import Database

_KEY = 0x65_66_6D_69_67
"""One number for "a migration runs" among PostgreSQL's advisory locks."""


@contextmanager
def schema_lock(db: Database, connection: Connection, waits: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a database during the block. connection: the one that takes the steps; waits: called before a wait."""
    if db.is_sqlite:
        file = db.engine.url.database
        with _folder_lock(Path(file).parent if file and file != ":memory:" else None, waits):
            yield
        return
    own = {"key": _KEY}
    has_it = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), own)
    connection.commit()
    if not has_it:
        waits()
        connection.execute(text("SELECT pg_advisory_lock(:key)"), own)
        connection.commit()
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # it ends with the connection as well
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), own)
            connection.commit()


@contextmanager
def _folder_lock(folder: Path | None, waits: Callable[[], None]) -> Iterator[None]:
    if folder is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
