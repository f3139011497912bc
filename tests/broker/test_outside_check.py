"""`edgectl server check broker` as the page shows it, on a mosquitto that the server does not run."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import find_mosquitto
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError
from edgefleet_server.process.external_broker.contract_run import check
from tests.broker.outside_brokers import free_port, mosquitto_of, write_mosquitto
from tests.house.tree import ROOT
from tests.server.fleet.house import House

PAGE = "docs/operate/brokers.md"
SOME = ["certificate-needed", "subscribe-foreign", "revoked", "retained", "clean-up"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Return the services of a server with its keys, which does not run."""
    folder = tmp_path_factory.mktemp("house")
    return House(f"sqlite:///{folder / 'b.db'}", folder, SystemClock(), tenant="acme")


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_a_broker_is_checked_and_nothing_stays_behind(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "edgectl server check broker mqtts://" in (ROOT / PAGE).read_text()
    port = free_port()
    write_mosquitto(house.signing, tmp_path, port)
    with mosquitto_of(tmp_path, port):
        assert check(house.settings, Namespace(url=f"mqtts://127.0.0.1:{port}", ca=None, only=SOME))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["check"] for one in lines[:-1]] == SOME
    assert [one["outcome"] for one in lines[:-1]] == ["ok", "ok", "not run", "ok", "ok"]
    assert lines[-1] == {"fit": True, "missing": []}
    revoked = house.signing.refused_certificates("main")[0].serials
    assert len(revoked) > 5, "the certificates of the check end with it"


def test_what_cannot_be_checked_is_said(house: House) -> None:
    with pytest.raises(BrokerSettingError, match="no check is named"):
        check(house.settings, Namespace(url="mqtts://127.0.0.1:1", ca=None, only=["rubbish"]))
    with pytest.raises(ClientRefusedError):
        check(house.settings, Namespace(url=f"mqtts://127.0.0.1:{free_port()}", ca=None, only=SOME))
