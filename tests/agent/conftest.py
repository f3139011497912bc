"""One server side and one agent per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from tests.agent.child import ChildDriver
from tests.agent.field import Agent, new_site
from tests.server.fleet.house import House
from tests.server.gateway.conftest import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server side on mosquitto, or on the embedded broker where there is none."""
    made = new_site(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def agent(site: Site, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled agent, not started yet."""
    state = tmp_path / "device"
    state.mkdir()
    made = Agent(site, state)
    yield made
    made.stop()


@pytest.fixture
def driver(tmp_path: Path) -> ChildDriver:
    """A house with one device, and its state folder."""
    house = House(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "data", SystemClock(), tenant="acme")
    device = house.device()
    return ChildDriver(house, tmp_path / "device", device.id)
