"""Small samples of the load soaks: server, PostgreSQL, mosquitto, devices over TLS. What is lost is judged, never how fast."""

import pytest

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.house.soak import in_ci
from tests.load import broker_kill
from tests.support.postgres import binaries

pytestmark = [
    pytest.mark.slow, pytest.mark.broker, pytest.mark.postgres,
    pytest.mark.skipif(find_mosquitto() is None or binaries() is None, reason="needs mosquitto and PostgreSQL"),
]  # fmt: skip


def test_a_fleet_comes_back_after_its_broker_was_killed() -> None:
    told = broker_kill.main(in_ci("broker-kill"), 1)
    assert told["reconnects"] >= told["devices"]
