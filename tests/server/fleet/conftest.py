"""One server a test: on SQLite, or (`any_house`) on each kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fleet.house import House, TurnedClock


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server on SQLite with its clock stopped."""
    yield from _house_at(f"sqlite:///{tmp_path / 'a.db'}", tmp_path)


@pytest.fixture
def any_house(database_url: str, tmp_path: Path) -> Iterator[House]:
    """A server on each kind of database."""
    yield from _house_at(database_url, tmp_path)


def _house_at(url: str, folder: Path) -> Iterator[House]:
    made = House(url, folder / "a", TurnedClock())
    yield made
    made.db.dispose()
