"""The device CA is rotated while every host runs: begun at the first, followed at any, ended at the last (ADR 0133, ADR 0160)."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.clock import SystemClock
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ServerProcess

SETTLED_S = 90.0


@dataclass(frozen=True)
class Enrolled:
    """What the answer to an enrolment says that tokens need, and the certificate (PEM)."""

    device_id: str
    server_id: str
    cert: str


@dataclass(frozen=True)
class Host:
    """A running server, and clients of its API and of its device listener, whose certificate is looked at by `shows`."""

    server: ServerProcess
    api: httpx.Client
    devices: httpx.Client

    def ca(self) -> bytes:
        """Return the device CA that the host gives to anybody, PEM."""
        return self.devices.get("/device/v1/ca").raise_for_status().content

    def shows(self, ca: bytes) -> bool:
        """Return whether a client that trusts one CA alone takes the host's listener for the server."""
        context = ssl.create_default_context(cadata=ca.decode())
        context.check_hostname = False
        url = urlsplit(str(self.devices.base_url))
        with socket.create_connection((str(url.hostname), int(url.port or 0)), 30) as plain:
            try:
                context.wrap_socket(plain).close()
            except ssl.SSLCertVerificationError:
                return False
        return True

    def rotation(self) -> dict[str, Any]:
        """Return the newest rotation as this host sees it."""
        found: dict[str, Any] = self.api.get("/api/v1/ca-rotations").raise_for_status().json()["items"][0]
        return found


@contextmanager
def host_of(server: ServerProcess) -> Iterator[Host]:
    """Open the clients of a server, and close them."""
    blind = httpx.Client(base_url=str(server.run["device_url"]), verify=False, timeout=60)
    with server.client() as api, blind:
        yield Host(server, api, blind)


def enrol(at: Host, token: str) -> KeyedDevice:
    """Enrol a device with a claim token."""
    device = KeyedDevice()
    body = {"token": token, "csr": device.csr().decode(), "facts": FACTS}
    made = at.devices.post("/device/v1/enroll", json=body).raise_for_status().json()
    device.enrolment = Enrolled(made["device_id"], made["server_id"], made["cert"])
    return device


def renewed(at: Host, device: KeyedDevice, place: int) -> str:
    """Renew the certificate of a device that knows an announcement; return it, PEM."""
    csr = KeyedDevice().csr()
    token = device.token(SystemClock().now(), csr=sha256_hex(csr))
    body = {"csr": csr.decode(), "place": place}
    answer = at.devices.post("/device/v1/renew", json=body, headers={"authorization": f"Bearer {token}"})
    return str(answer.raise_for_status().json()["cert"])


def rotation_problems(hosts: Sequence[Host]) -> list[str]:
    """Go through the rotation; return what was not as it should be."""
    first, last = hosts[0], hosts[-1]
    old, found = first.ca(), []
    made_before = _claim(first)
    early = enrol(last, _claim(first))
    begun = first.api.post("/api/v1/ca-rotations", json={"spread_s": 0, "reason": "story"}).raise_for_status().json()
    new = (first.server.data / "keys" / "device-ca-next.crt").read_bytes()
    if not _eventually(lambda: all(_is_same(one, begun) for one in hosts)):
        found.append(f"not every host sees the start: {[one.rotation() for one in hosts]}")
    for at, token, when in ((last, made_before, "before"), (first, _claim(last), "after")):
        if not _is_of(enrol(at, token).enrolment.cert, old):
            found.append(f"who knows one CA only gets a certificate of another one (token of {when} the start)")
    for at in hosts:
        if not _is_of(renewed(at, early, 0), old) or not _is_of(renewed(at, early, begun["number"]), new):
            found.append("a device is not given the CA that it knows")
        if not at.shows(old) or at.shows(new):
            found.append("a listener shows the new CA before the end")
    return found + _ended(hosts, old, new, early)


def _ended(hosts: Sequence[Host], old: bytes, new: bytes, early: KeyedDevice) -> list[str]:
    """End the rotation at the last host: no host issues or shows the old CA after it, and its key is nowhere."""
    first, last = hosts[0], hosts[-1]
    last.api.post("/api/v1/ca-rotations:finish", json={}).raise_for_status()
    found = [] if _is_of(renewed(first, early, 0), new) else ["a host issues of the CA that goes, after the end"]
    if not _eventually(lambda: all(one.rotation()["settled"] and one.ca() == new for one in hosts)):
        found.append(f"the end is not settled at every host: {[one.rotation() for one in hosts]}")
    if not _eventually(lambda: all(one.shows(new) for one in hosts)):
        found.append(f"listeners with a certificate of the new CA: {[one.shows(new) for one in hosts]}")
    if any(one.shows(old) for one in hosts):
        found.append("a listener can still be taken for the server by the old CA")
    for at in hosts:
        if not _is_of(enrol(at, _claim(at)).enrolment.cert, new):
            found.append("a host issues of the old CA")
        left = {path.name for path in (at.server.data / "keys").iterdir()} & {
            "device-ca-next.crt",
            "device-ca-next.pem",
        }
        if left:
            found.append(f"{sorted(left)} lie in a key folder after the end")
    again = first.api.post("/api/v1/ca-rotations:undo")
    return found if again.status_code >= 400 else [*found, "an ended rotation can be undone"]


def _claim(at: Host) -> str:
    return str(at.api.post("/api/v1/enrollments", json={}).raise_for_status().json()["tokens"][0]["token"])


def _is_same(at: Host, begun: dict[str, Any]) -> bool:
    now = at.rotation()
    return bool(now["settled"]) and (now["state"], now["new_ca"]) == ("started", begun["new_ca"])


def _is_of(cert: str, ca: bytes) -> bool:
    return x509.load_pem_x509_certificate(cert.encode()).issuer == x509.load_pem_x509_certificate(ca).subject


def _eventually(fact: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SETTLED_S
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
