"""One server and one broker a module."""

from collections.abc import Iterator

import pytest

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.journeys.road import Road


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Road]:
    """A running server; on mosquitto where there is one, unless the module says `BROKER`. It converts where the module `CONVERTS`."""
    broker = getattr(request.module, "BROKER", "mosquitto" if find_mosquitto() is not None else "embedded")
    made = Road(tmp_path_factory.mktemp("road"), broker, converts=getattr(request.module, "CONVERTS", False))
    yield made
    made.close()
