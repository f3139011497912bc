"""One running broker of each kind for the whole suite; fresh device ids in every test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.ids import TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.gateway.mqtt import LinkHandlers, LinkIdentity, MqttLink
from tests.broker.client import Client, LinkOptions
from tests.broker.pki import Authority, Identity

TENANT = TenantId("acme")
_numbers = itertools.count(1)


class Site:
    """A broker of one kind, the CA that its clients are from, and makers of clients."""

    def __init__(self, authority: Authority, folder: Path, kind: BrokerKind) -> None:
        self.kind = kind
        self.authority = authority
        self.folder = folder
        self.topics = Topics(TENANT)
        server = authority.server()
        self.config = BrokerConfig(
            kind=kind,
            tenant=TENANT,
            ca_file=authority.ca_file,
            cert_file=server.cert_file,
            key_file=server.key_file,
            run_dir=folder / "broker",
            servers=("srv-main", "srv-second"),
            refused=authority.refused([]),
        )
        self.supervisor = BrokerSupervisor(self.config, SystemClock())

    @property
    def endpoint(self) -> BrokerEndpoint:
        """Return where it serves."""
        return self.supervisor.endpoint

    def link(self, server: str, handlers: LinkHandlers) -> MqttLink:
        """Return a server's own connection, not started yet. server: one of the config's."""
        me = self.authority.device(server, file_name=f"{server}-{next(_numbers)}")
        identity = LinkIdentity(server, me.cert_file, me.key_file)
        filters, heartbeat = self.topics.server_filters(), self.topics.heartbeat(server)
        return MqttLink(self.endpoint, identity, filters, heartbeat, handlers, SystemClock())

    def identity(self, prefix: str = "d-") -> Identity:
        """Issue a certificate for a device that no other test knows."""
        return self.authority.device(f"{prefix}{next(_numbers):05d}")


class TestIssuer:
    """Issues what the contract needs from the CA of the tests (satisfies `Issuer`)."""

    __test__ = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._made: dict[str, Identity] = {}

    def account(self, name: str) -> Identity:
        """Issue a client certificate."""
        self._made[name] = self._site.authority.device(name)
        return self._made[name]

    def expired(self, name: str) -> Identity:
        """Issue one that has ended."""
        return self._site.authority.device(name, is_expired=True)

    def listener(self, name: str) -> Identity:
        """Issue one for servers."""
        return self._site.authority.server(name)

    def stranger(self, name: str) -> Identity:
        """Issue one of another CA."""
        return Authority(self._site.folder / "rogue").device(name)

    def revoke(self, name: str) -> str:
        """Hand the broker a list with it."""
        took = self._site.supervisor.refuse(self._site.authority.refused([self._made[name]]))
        return "" if took else "no broker runs"


class Clients:
    """Makes clients of a site and ends them after the test."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._made: list[Client] = []
        self._server_identity = site.authority.device("srv-main", file_name=f"srv-main-{next(_numbers)}")

    def connect(self, identity: Identity | None, *, client_id: str | None = None, **options: Any) -> Client:
        """Connect as `identity`. Raises RefusedError."""
        client = Client(self.site.endpoint, identity, LinkOptions(**options), client_id=client_id)
        self._made.append(client)
        return client.connect()

    def server(self, **options: Any) -> Client:
        """Connect as the server."""
        return self.connect(self._server_identity, **options)

    def end(self) -> None:
        """Cut all of them."""
        for client in self._made:
            client.cut()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the device CA of the suite."""
    return Authority(tmp_path_factory.mktemp("pki"))


def _kinds() -> list[Any]:
    no_binary = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
    return [
        pytest.param(BrokerKind.EMBEDDED, id="embedded"),
        pytest.param(BrokerKind.MOSQUITTO, id="mosquitto", marks=[pytest.mark.broker, no_binary]),
    ]


@pytest.fixture(scope="session", params=_kinds())
def kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Return each kind of broker in turn."""
    return BrokerKind(request.param)


@pytest.fixture(scope="session")
def site(kind: BrokerKind, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a running broker, shared by the tests of this kind."""
    running = Site(authority, tmp_path_factory.mktemp(f"site-{kind}"), kind)
    running.supervisor.start()
    yield running
    running.supervisor.stop()


@pytest.fixture
def clients(site: Site) -> Iterator[Clients]:
    """Return a maker of clients of the shared broker."""
    maker = Clients(site)
    yield maker
    maker.end()


@pytest.fixture
def own_site(kind: BrokerKind, authority: Authority, tmp_path: Path) -> Iterator[Site]:
    """Return a broker of the test's own, not started yet."""
    fresh = Site(authority, tmp_path, kind)
    yield fresh
    fresh.supervisor.stop()
