"""A small fleet on real services, and a browser at its pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.dashboard.fleet import Fleet, staged


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server without devices."""
    made = Fleet(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture(scope="module")
def empty_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server without devices for all tests of a file that ask for it; they turn no clock."""
    made = Fleet(tmp_path_factory.mktemp("fleet") / "server")
    yield made
    made.close()


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str, str]]:
    """A fleet after a good and a bad rollout, and the ids of both; tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("story") / "server")
    yield (fleet, *staged(fleet))
    fleet.close()
