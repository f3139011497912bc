"""Reading which blobs the database names, all tables as they are at one moment (ADR 0159)."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import LargeBinary, Text, cast, select
from sqlalchemy.engine import Connection

from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.blob_collection.name_inventory import digests_in, roots

ROWS_AT_ONCE: Final = 1_000
TableDone = Callable[[int, int, str], None]
"""Takes how many tables are read, of how many, and the name of the next."""


def named_digests(db: Database, progress: TableDone = lambda done, total, name: None) -> frozenset[str]:
    """Return all digests that the roots hold, of one snapshot that is taken when this is called. Raises SQLAlchemyError.

    Never inside a session: it has a connection of its own, so that what others committed before the call is seen.
    """
    found: set[str] = set()
    tables = list(roots(metadata()))
    with _snapshot(db) as connection, connection.begin():
        for done, (table, columns) in enumerate(tables):
            progress(done, len(tables), table.name)
            for name in columns:
                column = table.c[name]
                value = column if isinstance(column.type, LargeBinary) else cast(column, Text)
                query = select(value).where(column.is_not(None)).execution_options(yield_per=ROWS_AT_ONCE)
                for (text,) in connection.execute(query):
                    found |= digests_in(text)
    progress(len(tables), len(tables), "")
    return frozenset(found)


def _snapshot(db: Database) -> Connection:
    connection = db.engine.connect()
    return connection if db.is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")
