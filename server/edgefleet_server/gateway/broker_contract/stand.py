"""What checks work with: certificates of their own, clients, and the list of what they leave behind."""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import Protocol

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.gateway.broker.model import CHECK_ACCOUNTS, BrokerEndpoint
from edgefleet_server.gateway.broker_contract.errors import ClientRefusedError, UnmetError
from edgefleet_server.gateway.broker_contract.link_client import LinkClient, LinkOptions, eventually
from edgefleet_server.gateway.mqtt import LinkIdentity

DEVICE_PREFIX = "check-"
CLEAN_TRIES, CLEAN_PAUSE_S = 5, 1.0
PLAIN = LinkOptions()
KEPT = LinkOptions(clean=False)


class Issuer(Protocol):
    """Who makes certificates for a check. Each call may write files."""

    def account(self, name: str) -> LinkIdentity:
        """Return a client certificate of the device CA for a device or a server account."""
        ...

    def expired(self, name: str) -> LinkIdentity:
        """Return one that has ended."""
        ...

    def listener(self, name: str) -> LinkIdentity:
        """Return a certificate of the device CA that is good for servers only."""
        ...

    def stranger(self, name: str) -> LinkIdentity:
        """Return a client certificate of another CA."""
        ...

    def revoke(self, name: str) -> str:
        """Revoke what `account` made for a name, so that the broker hears of it as it would of a device; return "" or why it cannot."""
        ...


class Stand:
    """One run of checks against one broker: makes clients, and removes what they left."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        issuer: Issuer,
        tenant: TenantId,
        run_name: str,
        *,
        patience_s: float = 10.0,
        server_ca: Path | None = None,
    ) -> None:
        """Wire the parts. run_name: in the ids of its devices. server_ca: verifies the broker, if not the endpoint's."""
        self.endpoint = endpoint
        self.issuer = issuer
        self.topics = Topics(tenant)
        self.patience_s = patience_s
        self._run_name = run_name
        self.server_ca = server_ca or endpoint.ca_file
        self._numbers = itertools.count(1)
        self._clients: list[LinkClient] = []
        self._devices: list[LinkIdentity] = []
        self._kept: dict[str, LinkIdentity] = {}
        self._stages: list[str] = []
        self._accounts: dict[str, LinkIdentity] = {}

    # --- certificates and clients ---

    def name(self) -> str:
        """Return an id that no device has."""
        return f"{DEVICE_PREFIX}{self._run_name}-{next(self._numbers)}"

    def device(self) -> LinkIdentity:
        """Return the certificate of a device that no other check knows."""
        identity = self.issuer.account(self.name())
        self._devices.append(identity)
        return identity

    def stage(self) -> str:
        """Return a topic that every device may read, and none of a real rollout."""
        topic = f"{self.topics.prefix}/stage/{self.name()}"
        self._stages.append(topic)
        return topic

    def client(
        self, identity: LinkIdentity | None, options: LinkOptions = PLAIN, *, client_id: str | None = None
    ) -> LinkClient:
        """Connect. Raises ClientRefusedError."""
        made = LinkClient(
            self.endpoint,
            identity,
            options,
            client_id=client_id,
            ca_file=self.server_ca,
            patience_s=self.patience_s,
        )
        self._clients.append(made)
        if not options.clean and identity is not None:
            self._kept[identity.name] = identity
        return made.connect()

    def server(self, options: LinkOptions = PLAIN, *, second: bool = False) -> LinkClient:
        """Connect as a server account. second: as the other one, so that two are there at once."""
        name = CHECK_ACCOUNTS[1 if second else 0]
        if name not in self._accounts:
            self._accounts[name] = self.issuer.account(name)
        return self.client(self._accounts[name], options)

    def wait(self, fact: object, what: str) -> None:
        """Wait until a function returns something true. Raises UnmetError."""
        assert callable(fact)
        eventually(fact, what, self.patience_s)

    def fence(self, server: LinkClient, device: LinkClient, topic: str, text: bytes = b"fence") -> None:
        """Send a device a message that it may have; all that was sent before has arrived when it is here."""
        server.publish(topic, text)
        device.wait_for(text)

    # --- the end ---

    def close(self) -> None:
        """Cut all connections of the check that is over; what it left behind stays for `leftovers` or `clean`."""
        for client in self._clients:
            client.cut()
        self._clients.clear()

    def clean(self) -> None:
        """Delete all that was retained and every session. Blocks for a few seconds. Raises ClientRefusedError, UnmetError."""
        for _ in range(CLEAN_TRIES):
            with contextlib.suppress(ClientRefusedError):  # one that is just being started again
                self._clean()
                return
            time.sleep(CLEAN_PAUSE_S)
        self._clean()

    def _clean(self) -> None:
        self.close()
        for topic in self._retained():
            self.server().publish(topic, b"", 1, True)
            self.close()
        for identity in self._kept.values():
            with contextlib.suppress(ClientRefusedError):  # one that was revoked
                self.client(identity).disconnect()
        self.close()

    def leftovers(self) -> list[str]:
        """Return what is still retained, and devices whose session is still there."""
        found = self._retained()
        self.close()
        for name, identity in list(self._kept.items()):
            with contextlib.suppress(ClientRefusedError):
                back = self.client(identity, KEPT)
                if back.session_present:
                    found.append(f"session of {name}")
                back.disconnect()
                self.client(identity).disconnect()
        self.close()
        return found

    def _retained(self) -> list[str]:
        server = self.server(second=True)
        own = self.topics.heartbeat(CHECK_ACCOUNTS[1])
        filters = [f"{self.topics.prefix}/d/{one.name}/#" for one in self._devices] + self._stages
        for at in range(0, len(filters), 8):  # AWS takes no more in one SUBSCRIBE
            server.subscribe(*((one, 1) for one in filters[at : at + 8]))
        server.subscribe((own, 1))
        server.publish(own, b"fence")
        with contextlib.suppress(UnmetError):
            server.wait_for(b"fence")
        server.disconnect()
        return sorted({one.topic for one in server.messages if one.payload and one.topic != own})


def device_of(identity: LinkIdentity) -> DeviceId:
    """Return the id of a device by its certificate."""
    return DeviceId(identity.name)
