"""Files for a broker that the server does not run: a real mosquitto is started from them, alone and as the bridged broker of a site."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.gateway.broker_files.broker_folder import WrittenFolder, write_folder
from edgefleet_server.gateway.broker_files.model import CA_NAME, CERT_NAME, CRL_NAME, Bridge, BrokerSite, OutsideBroker
from edgefleet_server.gateway.broker_files.mosquitto_files import mosquitto_files
from edgefleet_server.signing.client_identities import BriefIdentity
from tests.broker.client import Client, RefusedError, eventually
from tests.broker.pki import Identity
from tests.server.fleet.house import House

TOPICS = Topics(TenantId("acme"))
ACCOUNTS = ("srv-main", "srv-site-hall")
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Return the services of a server with its keys."""
    folder = tmp_path_factory.mktemp("house")
    return House(f"sqlite:///{folder / 'b.db'}", folder, SystemClock())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(house: House, folder: Path, port: int, bridge: Bridge | None = None) -> WrittenFolder:
    site = BrokerSite("acme", ACCOUNTS, str(folder), port, bridge=bridge)
    hosts = ["localhost", "127.0.0.1"]
    return write_folder(OutsideBroker.MOSQUITTO, site, folder, hosts, house.signing, SystemClock().now())


def _identity(folder: Path, brief: BriefIdentity) -> Identity:
    identity = Identity(brief.name, folder / f"{brief.name}.crt", folder / f"{brief.name}.key")
    identity.cert_file.write_bytes(brief.cert)
    identity.key_file.write_bytes(brief.key)
    return identity


@contextmanager
def _running(folder: Path, port: int) -> Iterator[BrokerEndpoint]:
    """Run the start script of a folder, which looks at its files all the time."""
    binary = find_mosquitto()
    assert binary is not None
    env = {"PATH": f"{os.environ['PATH']}:{Path(binary).parent}", "LOOK_S": "0.1"}
    script = ["sh", str(folder / "run-mosquitto.sh")]
    with subprocess.Popen(script, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _listens(port), "mosquitto listens")
            yield BrokerEndpoint(BrokerKind.EXTERNAL, "127.0.0.1", port, "5", folder / CA_NAME)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    eventually(lambda: not _listens(port), "mosquitto ends with its script")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_files_are_kept_while_they_are_good(house: House, tmp_path: Path) -> None:
    first = _write(house, tmp_path, 8883)
    cert, crl = (tmp_path / CERT_NAME).read_bytes(), (tmp_path / CRL_NAME).read_bytes()
    again = _write(house, tmp_path, 8883)
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
    port = _free_port()
    _write(house, tmp_path, port)
    gone = _identity(tmp_path, house.signing.outside.for_account("d-gone"))
    stays = _identity(tmp_path, house.signing.outside.for_account("d-stays"))
    config = BrokerConfig(
        BrokerKind.EXTERNAL, "acme", house.signing.ca_file, tmp_path, tmp_path, tmp_path, host="127.0.0.1", port=port
    )
    supervisor = BrokerSupervisor(config, SystemClock())
    with _running(tmp_path, port) as endpoint:
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
    ports = _free_port(), _free_port()
    _write(house, centre, ports[0])
    _write(house, hall, ports[1], Bridge("srv-site-hall", "127.0.0.1", ports[0]))
    me = DeviceId("d-hall-1")
    server_is, device_is = (_identity(tmp_path, house.signing.brief_identity(name)) for name in ("srv-main", str(me)))
    with _running(centre, ports[0]) as at_centre, _running(hall, ports[1]) as at_hall:
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
