"""Databases for server tests: a SQLite file and, where installed, a database of the run's one PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server import migrations
from edgefleet_server.db import Database
from tests.support.postgres import binaries, shared_server
from tests.support.servers import ApiHouse


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once for each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    server = shared_server()
    assert server is not None
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated database, once for each kind."""
    made = Database(database_url)
    migrations.upgrade(made)
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
