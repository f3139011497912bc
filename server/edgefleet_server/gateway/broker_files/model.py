"""What a broker of one's own gets: which kinds there are, what they must know, and the files. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

CA_NAME = "trusted-cas.pem"
CERT_NAME = "server.crt"
KEY_NAME = "server.key"
CRL_NAME = "crl.pem"
BRIDGE_CERT_NAME = "bridge.crt"
BRIDGE_KEY_NAME = "bridge.key"


class OutsideBroker(StrEnum):
    """The kinds that files are written for."""

    MOSQUITTO = "mosquitto"
    RABBITMQ = "rabbitmq"
    EMQX = "emqx"
    HIVEMQ = "hivemq"
    AWS_IOT = "aws-iot"


@dataclass(frozen=True, slots=True)
class Bridge:
    """The broker of a site that passes everything on to a centre. account: its certificate name there, `srv-site-…`."""

    account: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class BrokerSite:
    """What the files must say.

    servers: certificate names of the server processes, and of bridges. folder: where the broker sees the files. has_crl: whether there is a
    list of revoked certificates in it. access_url: of the service that answers RabbitMQ.
    """

    tenant: str
    servers: tuple[str, ...]
    folder: str
    port: int
    has_crl: bool = True
    bridge: Bridge | None = None
    access_url: str = "http://127.0.0.1:8884"


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """Text files by name, names of those that run, and what the operator does next."""

    texts: dict[str, str]
    runnable: frozenset[str] = frozenset()
    next_steps: tuple[str, ...] = field(default=())
