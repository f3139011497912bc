"""One server side and one agent per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.desired import Ref
from edgefleet_server.clock import SystemClock
from tests.agent.child import ChildDriver
from tests.agent.field import Agent, Proven, move_broker, new_site, proven
from tests.server.fleet.house import House
from tests.server.gateway.conftest import Site


@pytest.fixture(scope="session")
def proven_device(tmp_path_factory: pytest.TempPathFactory) -> Proven:
    """What tests copy that begin with a version which is proven: made once."""
    return proven(tmp_path_factory.mktemp("proven"))


@pytest.fixture
def first(proven_device: Proven, tmp_path: Path) -> Ref:
    """The version digits 1.0.0, which site and agent of this test have proven already."""
    proven_device.copied_to(tmp_path)
    return proven_device.first


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A server side on mosquitto, or on the embedded broker where there is none."""
    if "first" in request.fixturenames:
        request.getfixturevalue("first")
    made = new_site(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def agent(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled agent, not started yet."""
    state = tmp_path / "device"
    state.mkdir(exist_ok=True)
    is_proven = "first" in request.fixturenames
    made = Agent(site, state, request.getfixturevalue("proven_device").device if is_proven else None)
    if is_proven:
        move_broker(state, site.endpoint.port)
    yield made
    made.stop()


@pytest.fixture
def driver(tmp_path: Path) -> ChildDriver:
    """A house with one device, and its state folder."""
    house = House(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "data", SystemClock(), tenant="acme")
    device = house.device()
    return ChildDriver(house, tmp_path / "device", device.id)
