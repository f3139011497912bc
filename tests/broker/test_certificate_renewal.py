"""The certificate of a broker that runs is issued again: what it shows from then on."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.broker.client import eventually
from tests.broker.conftest import Site
from tests.broker.pki import Authority


@pytest.mark.broker
@pytest.mark.parametrize("kind", [BrokerKind.MOSQUITTO, BrokerKind.EMBEDDED])
def test_a_broker_shows_its_new_certificate_with_the_next_list_and_stays_where_it_is(
    tmp_path: Path, kind: BrokerKind
) -> None:
    if kind is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto binary")
    site = Site(Authority(tmp_path / "pki"), tmp_path, kind)
    at = site.supervisor.start()

    def shown() -> int:
        try:
            return x509.load_pem_x509_certificate(ssl.get_server_certificate((at.host, at.port)).encode()).serial_number
        except OSError:  # it is started again
            return 0

    try:
        before, pid = shown(), site.supervisor.pid
        assert before
        assert site.supervisor.refuse(site.authority.refused([]))
        assert (shown(), site.supervisor.pid) == (before, pid), "nothing is new: nobody is disconnected"
        new = site.authority.server()
        site.config.cert_file.write_bytes(new.cert_file.read_bytes())
        site.config.key_file.write_bytes(new.key_file.read_bytes())
        wanted = x509.load_pem_x509_certificate(new.cert_file.read_bytes()).serial_number
        assert wanted != before
        assert site.supervisor.refuse(site.authority.refused([]))
        eventually(lambda: shown() == wanted, "the new certificate")
        assert site.supervisor.endpoint == at
    finally:
        site.supervisor.stop()
