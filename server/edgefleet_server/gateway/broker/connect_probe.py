"""Whether a broker lets a certificate in: one TLS connection and one MQTT CONNECT with a clean session, which ends at once.

A clean session of the same name ends the one that is open, with all that waits for it [MQTT-3.1.4-2, MQTT-3.1.2-6]. So the server
also evicts a revoked device: it connects in its name, with a certificate of its own making.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Final

from edgefleet_server.gateway.broker.connect_gate import Connect
from edgefleet_server.gateway.broker.model import BrokerEndpoint
from edgefleet_server.signing.client_identities import BriefIdentity

LIMIT_S: Final = 5.0
KEEPALIVE_S: Final = 30
"""mosquitto refuses 0 where `max_keepalive` is set."""
_CONNACK: Final = 0x20
_DISCONNECT: Final = b"\xe0\x00"


class Admission(StrEnum):
    """What a broker did. UNKNOWN: it cannot be reached, or ended the connection without a word."""

    LET_IN = "let in"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def try_connect(endpoint: BrokerEndpoint, identity: BriefIdentity) -> Admission:
    """Connect and leave. Blocks up to 5 s for each step. Raises OSError when this side cannot make its files.

    Refused is only what the broker refuses in words: a TLS alert, or a CONNACK. One that is out of file descriptors ends connections
    too, and must not be taken for one that goes by its list.
    """
    context = _context(endpoint, identity)
    try:
        plain = socket.create_connection((endpoint.host, endpoint.port), LIMIT_S)
    except OSError:
        return Admission.UNKNOWN
    with contextlib.closing(plain):
        try:
            with context.wrap_socket(plain, server_hostname=endpoint.host) as link:
                return _admission(link, identity.name)
        except ssl.SSLError as error:
            return Admission.REFUSED if "alert" in str(error).lower() else Admission.UNKNOWN
        except OSError:
            return Admission.UNKNOWN


def _admission(link: ssl.SSLSocket, name: str) -> Admission:
    with contextlib.suppress(
        OSError
    ):  # in TLS 1.3 a refused client learns it when it reads, and may be unable to write before
        link.sendall(Connect(name, clean_session=True, keepalive_s=0).packet(KEEPALIVE_S))
    answer = link.recv(4)
    if len(answer) != 4 or answer[0] != _CONNACK:
        return Admission.UNKNOWN
    if answer[3] != 0:
        return Admission.REFUSED
    with contextlib.suppress(OSError):
        link.sendall(_DISCONNECT)
    return Admission.LET_IN


def _context(endpoint: BrokerEndpoint, identity: BriefIdentity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(endpoint.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory(prefix="edgefleet-") as folder:  # 0700; OpenSSL reads from files only
        file = Path(folder) / "client.pem"
        file.write_bytes(identity.key + identity.cert)
        context.load_cert_chain(file)
    return context
