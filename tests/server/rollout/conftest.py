"""A world of simulated devices, on SQLite or (`any_world`) on each kind of database. Every rollout in it is audited at the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.rollout.fleet_sim import World, make_world
from tests.server.rollout.fleet_sim_audit import audit


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world on SQLite."""
    yield from _audited(make_world(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a"))


@pytest.fixture
def any_world(database_url: str, tmp_path: Path) -> Iterator[World]:
    """A world on each kind of database."""
    yield from _audited(make_world(database_url, tmp_path / "a"))


def _audited(made: World) -> Iterator[World]:
    try:
        yield made
        problems = {one.id: audit(made.house.db, one.id) for one in made.service.reader.rollouts(limit=100)}
        assert not any(problems.values()), problems
    finally:
        made.house.db.dispose()
