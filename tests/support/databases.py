"""Databases at the newest schema, copied from one that took all its steps: taking them anew costs 0.15 s of processor time.

One database of each kind is made for each process of a run. How the steps are taken is tested on databases that are not copies.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from tests.support.postgres import PostgresServer, shared_server


def upgrade(db: Database) -> None:
    """Bring a database to the newest schema: a file of SQLite that is not there yet becomes a copy."""
    name = db.engine.url.database if db.engine.dialect.name == "sqlite" else None
    if name is not None and not Path(name).exists():
        shutil.copyfile(_sqlite(), name)
    migrations.upgrade(db)


@contextmanager
def new(kind: str, file: Path, *, is_empty: bool = True) -> Iterator[str]:
    """Yield the URL of a database: this file of SQLite, or one of the run's PostgreSQL, on which it may have the newest schema."""
    if kind == "sqlite":
        yield f"sqlite:///{file}"
        return
    server = shared_server()
    assert server is not None
    url = server.new_database() if is_empty else server.new_database(like=postgresql(server))
    yield url
    server.drop_database(url)


@cache
def postgresql(server: PostgresServer) -> str:
    """Return the name of a database at the newest schema, for `PostgresServer.new_database` to copy. Nobody may be connected to it."""
    url = server.new_database()
    _make(url)
    return server.name_of(url)


@cache
def _sqlite() -> Path:
    folder = tempfile.mkdtemp(prefix="ef-schema-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "newest.db")
    _make(f"sqlite:///{path}")
    return path


def _make(url: str) -> None:
    made = Database(url)
    migrations.upgrade(made)
    made.dispose()
