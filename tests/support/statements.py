"""What a database is sent, for tests that count it or wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from edgefleet_server.db.database import Database


@contextmanager
def heard(db: Database) -> Iterator[list[str]]:
    """Yield a list that grows by each statement, of readers and of writers, until the block ends."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement)

    for engine in db.engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        for engine in db.engines:
            event.remove(engine, "before_cursor_execute", note)
