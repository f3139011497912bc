"""Devices that are revoked while they are connected: does the session end, and is the certificate refused, within 60 s?

One of the n is one device with a persistent session, a will and retained messages, revoked on each kind of broker.
`./dev soak revocation`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from tests.broker.client import Client, LinkOptions, RefusedError, eventually
from tests.broker.pki import Identity
from tests.server.fleet.house import House, KeyedDevice
from tests.server.gateway.conftest import Site
from tests.server.signing.test_signing_process import apart_of

LIMIT_S = 60.0
TOPICS = Topics(TenantId("acme"))


@dataclass(frozen=True)
class Ended:
    """How long after its revocation a device's session had ended and its certificate was refused, and what the broker kept of it."""

    session_s: float
    refused_s: float
    retained: int


def identity_of(device: KeyedDevice, folder: Path, cert: str = "", number: int = 0) -> Identity:
    """Write an enrolled device's key and certificate into files. cert: another one than that of its enrolment."""
    name = str(device.id)
    identity = Identity(name, folder / f"{name}-{number}.crt", folder / f"{name}-{number}.key")
    identity.cert_file.write_text(cert or device.enrolment.cert)
    identity.key_file.write_bytes(device.key_pem())
    return identity


def is_let_in(endpoint: BrokerEndpoint, identity: Identity) -> bool:
    """Connect and leave."""
    try:
        Client(endpoint, identity).connect().cut()
    except RefusedError:
        return False
    return True


def revoke_connected(site: Site, folder: Path) -> Ended:
    """Revoke a device that is connected and leaves all sorts of things behind."""
    device = site.house.device()
    identity, me = identity_of(device, folder), DeviceId(device.id)
    will = (TOPICS.presence(me), b"will of a revoked device", 1, True)
    client = Client(site.endpoint, identity, LinkOptions(clean=False, will=will)).connect()
    try:
        client.subscribe((TOPICS.desired(me), 1))
        client.publish(TOPICS.state(me), b"\x90", retain=True)
        begun = time.monotonic()
        site.house.fleet.revocation.revoke(me)
        assert client.is_closed.wait(LIMIT_S), f"the session of {me} is open after {LIMIT_S:.0f} s"
        session_s = time.monotonic() - begun
        eventually(lambda: not is_let_in(site.endpoint, identity), "the certificate is refused", LIMIT_S)
        refused_s = time.monotonic() - begun
        eventually(lambda: site.house.fleet.reader.device(me).cut_off_at, "the device is cut off", LIMIT_S)
    finally:
        client.cut()
    return Ended(session_s, refused_s, len(retained_of(site, me, folder)))


def retained_of(site: Site, device: DeviceId, folder: Path) -> list[str]:
    """Return the topics that the broker still retains for a device and of it, as a server sees them."""
    me = site.house.signing.brief_identity("srv-look")
    identity = Identity("srv-look", folder / "look.crt", folder / "look.key")
    identity.cert_file.write_bytes(me.cert)
    identity.key_file.write_bytes(me.key)
    client = Client(site.endpoint, identity).connect()
    try:
        fence = TOPICS.heartbeat("srv-look")
        client.subscribe((f"{TOPICS.prefix}/d/{device}/#", 1), (fence, 1))
        client.publish(fence, b"fence")
        client.wait_for(b"fence")  # it comes after whatever is retained
        return [message.topic for message in client.messages if message.payload and message.topic != fence]
    finally:
        client.cut()


def revoke_some(site: Site, n: int, folder: Path) -> dict[str, Any]:
    """Revoke n devices of a site that knows the account `srv-look`, one after the other."""
    neighbour = Client(site.endpoint, identity_of(site.house.device(), folder)).connect()
    try:
        ended = [revoke_connected(site, folder) for _ in range(n)]
        is_undisturbed = not neighbour.is_closed.is_set()
    finally:
        neighbour.cut()
    in_time = sum(one.session_s <= LIMIT_S and one.refused_s <= LIMIT_S and not one.retained for one in ended)
    waits = sorted(max(one.session_s, one.refused_s) for one in ended)
    return {
        "ok": in_time == n and is_undisturbed,
        "devices": n,
        "cut_off_in_time": in_time,
        "median_s": round(waits[n // 2], 2),
        "slowest_s": round(waits[-1], 2),
        "retained_left": sum(one.retained for one in ended),
        "neighbour_undisturbed": is_undisturbed,
    }


def run(kind: BrokerKind, n: int, folder: Path) -> dict[str, Any]:
    """Revoke n devices on a broker of this kind."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        site = site_of(kind, folder, stack)
        stack.callback(site.close)
        return revoke_some(site, n, folder)


def site_of(kind: BrokerKind, folder: Path, stack: ExitStack) -> Site:
    """Start a site that has no key: the certificates, the canary and the lists are a signing process's."""

    def prepare(house: House) -> None:
        stack.enter_context(apart_of(house, folder))
        assert not (house.folder / "keys" / "device-ca.pem").exists()

    return Site(folder, kind, servers=("srv-main", "srv-look"), prepare=prepare)


def main(n: int, _seed: int) -> Mapping[str, Any]:
    """Revoke n devices on each kind of broker that this machine has."""
    kinds = [BrokerKind.EMBEDDED, *([BrokerKind.MOSQUITTO] if find_mosquitto() else [])]
    with tempfile.TemporaryDirectory() as folder:
        results = {str(kind): run(kind, n, Path(folder) / kind) for kind in kinds}
    return {"ok": all(result["ok"] for result in results.values()), **results}
