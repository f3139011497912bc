"""One server a test, on SQLite and, where its binaries are, on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fleet.house import House, TurnedClock


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server with its clock stopped."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock())
    yield made
    made.db.dispose()
