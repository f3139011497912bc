"""Databases for server tests: a SQLite file and, where installed, a database of the run's one PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefleet_server.db.database import Database
from tests.support import databases
from tests.support.postgres import binaries
from tests.support.servers import ApiHouse

KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is new, once for each kind; on PostgreSQL it has the newest schema already."""
    with new_database(request.param, tmp_path, is_empty=False) as url:
        yield url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a table, once for each kind."""
    with new_database(request.param, tmp_path, is_empty=True) as url:
        yield url


@contextmanager
def new_database(kind: str, folder: Path, *, is_empty: bool) -> Iterator[str]:
    """Yield the URL of a database of a kind; skips a test where PostgreSQL is not installed."""
    if kind != "sqlite" and binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with databases.new(kind, folder / "test.db", is_empty=is_empty) as url:
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated database, once for each kind."""
    made = Database(database_url)
    databases.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ApiHouse]:
    """All services and the API app on SQLite."""
    made = ApiHouse(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def any_house(tmp_path: Path, database_url: str) -> Iterator[ApiHouse]:
    """All services and the API app, once for each kind of database."""
    made = ApiHouse(tmp_path / "server", database_url)
    yield made
    made.close()
