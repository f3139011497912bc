"""Files for a broker that the server does not run: a real mosquitto is started from them, alone and as the bridged broker of a site."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.gateway.broker_files.broker_folder import write_folder
from edgefleet_server.gateway.broker_files.model import CERT_NAME, CRL_NAME, Bridge, BrokerSite, OutsideBroker
from edgefleet_server.gateway.broker_files.mosquitto_files import mosquitto_files
from tests.broker.client import Client, RefusedError, eventually
from tests.broker.outside_brokers import ACCOUNTS, free_port, identity_in, mosquitto_of, write_mosquitto
from tests.broker.pki import Identity
from tests.server.fleet.house import House

TOPICS = Topics(TenantId("acme"))
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Return the services of a server with its keys."""
    folder = tmp_path_factory.mktemp("house")
    return House(f"sqlite:///{folder / 'b.db'}", folder, SystemClock())


def test_files_are_kept_while_they_are_good(house: House, tmp_path: Path) -> None:
    first = write_mosquitto(house.signing, tmp_path, 8883)
    cert, crl = (tmp_path / CERT_NAME).read_bytes(), (tmp_path / CRL_NAME).read_bytes()
    again = write_mosquitto(house.signing, tmp_path, 8883)
    assert again.files == first.files
    assert again.certificate_ends == first.certificate_ends
    assert (tmp_path / CERT_NAME).read_bytes() == cert
    assert (tmp_path / CRL_NAME).read_bytes() != crl, "the list is issued each time"
    site = BrokerSite("acme", ACCOUNTS, "/mosquitto/config", 8883)
    write_folder(OutsideBroker.MOSQUITTO, site, tmp_path, ["mqtt.example"], house.signing, SystemClock().now())
    assert (tmp_path / CERT_NAME).read_bytes() != cert, "another name needs another certificate"
    assert "cafile /mosquitto/config/trusted-cas.pem" in (tmp_path / "mosquitto.conf").read_text().splitlines()


@pytest.mark.parametrize("account", ["main", "srv-a\nuser x"])
def test_an_account_that_could_be_a_device_is_refused(account: str) -> None:
    with pytest.raises(BrokerSettingError):
        mosquitto_files(BrokerSite("acme", (account,), "/x", 8883))


@pytest.mark.broker
@needs_mosquitto
def test_mosquitto_of_its_own_goes_by_a_new_list_of_revoked_certificates(house: House, tmp_path: Path) -> None:
    port = free_port()
    write_mosquitto(house.signing, tmp_path, port)
    gone = identity_in(tmp_path, house.signing.outside.for_account("d-gone"))
    stays = identity_in(tmp_path, house.signing.outside.for_account("d-stays"))
    config = BrokerConfig(
        BrokerKind.EXTERNAL, "acme", house.signing.ca_file, tmp_path, tmp_path, tmp_path, host="127.0.0.1", port=port
    )
    supervisor = BrokerSupervisor(config, SystemClock())
    with mosquitto_of(tmp_path, port) as endpoint:
        Client(endpoint, gone).connect().cut()
        house.signing.outside.revoke(["d-gone"])
        assert supervisor.refuse(house.signing.refused_certificates("main")[0])
        eventually(lambda: not _is_let_in(endpoint, gone), "the revoked certificate is refused")
        assert _is_let_in(endpoint, stays)


def _is_let_in(endpoint: BrokerEndpoint, identity: Identity) -> bool:
    try:
        Client(endpoint, identity).connect().cut()
    except RefusedError:
        return False
    return True


@pytest.mark.broker
@needs_mosquitto
def test_the_broker_of_a_site_passes_on_both_ways_and_nothing_comes_back(house: House, tmp_path: Path) -> None:
    centre, hall = tmp_path / "centre", tmp_path / "hall"
    ports = free_port(), free_port()
    write_mosquitto(house.signing, centre, ports[0])
    write_mosquitto(house.signing, hall, ports[1], Bridge("srv-site-hall", "127.0.0.1", ports[0]))
    me = DeviceId("d-hall-1")
    server_is, device_is = (identity_in(tmp_path, house.signing.brief_identity(name)) for name in ("srv-main", str(me)))
    with mosquitto_of(centre, ports[0]) as at_centre, mosquitto_of(hall, ports[1]) as at_hall:
        server = Client(at_centre, server_is).connect()
        server.subscribe(*TOPICS.server_filters())
        server.publish(TOPICS.desired(me), b"document", retain=True)
        device = Client(at_hall, device_is).connect()
        device.subscribe(*TOPICS.device_subscriptions(me))
        device.wait_for(b"document", TOPICS.desired(me))
        device.publish(TOPICS.event(me), b"event")
        device.publish(TOPICS.state(me), b"state", retain=True)
        server.wait_for(b"state")
        server.publish(TOPICS.hold(), b"hold", retain=True)
        server.publish(TOPICS.dn_blk(me), b"block", 0)
        device.wait_for(b"hold")
        device.wait_for(b"block")
        device.publish(TOPICS.desired(me), b"forged")
        device.publish(TOPICS.event(me), b"fence")
        server.wait_for(b"fence")
        assert server.payloads() == [b"event", b"state", b"fence"], "each once"
        assert sorted(device.payloads()) == [b"block", b"document", b"hold"]
        server.cut()
        device.cut()
