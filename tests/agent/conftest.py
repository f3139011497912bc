"""One server side and one agent per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.agent.field import Agent
from tests.server.gateway.conftest import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server side on mosquitto, or on the embedded broker where there is none."""
    kind = BrokerKind.MOSQUITTO if find_mosquitto() is not None else BrokerKind.EMBEDDED
    folder = tmp_path / "server"
    folder.mkdir()
    made = Site(folder, kind)
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
