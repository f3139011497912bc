"""What a broker is to the rest of the server, and the choice between the kinds.

* `mosquitto`: a supervised child with generated configuration; speaks MQTT 5.
* `embedded`: amqtt behind our gate in a child process; speaks MQTT 3.1.1; for trials, tests and up to about 100 devices.
* `external`: somebody else's broker under `mqtts://HOST[:PORT]`; no child.

Limits are the same for both kinds, so that what passes on one passes on the other. Source: ADR 0006.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.signing.trust import RefusedCertificates

MAX_PACKET_BYTES = 300_000  # four 32 KiB leaves and their head fit with room; no packet costs more memory
MAX_KEEPALIVE_S = 3_900  # what devices may ask for; a metered one sends telemetry each hour and no ping (ADR 0045)
MAX_QUEUED_MESSAGES = 1_000  # per client that is away
MAX_QUEUED_BYTES = 16 * 1024 * 1024  # per client
SESSION_EXPIRY_S = 7 * 86_400
MEMORY_BASE_BYTES = 512 * 1024 * 1024  # queues of clients that are slow or away
MEMORY_DEVICE_BYTES = 256 * 1024  # its session, its retained document, state and presence, and what waits for it
MEMORY_LEAST_DEVICES = 1_000

MIN_MOSQUITTO = (2, 0, 18)
FIRST_WITHOUT_ACL_FILE = (3, 0, 0)  # mosquitto 3.0 removes `acl_file`, which the generated configuration needs
DEFAULT_MQTTS_PORT = 8883
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where packages put it; not on an ordinary user's PATH

CHECK_ACCOUNTS = ("srv-check-a", "srv-check-b")
"""Server accounts of `edgectl server check broker`. Every access file lets them in, so that a check never takes a server's own session."""

MqttVersion = Literal["5", "3.1.1"]
Version = tuple[int, int, int]


class BrokerKind(StrEnum):
    """The three kinds; stored in `run/server.json`, so never renamed."""

    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"
    EXTERNAL = "external"

    @property
    def mqtt(self) -> MqttVersion:
        """Return the protocol version its clients speak."""
        return "3.1.1" if self is BrokerKind.EMBEDDED else "5"


TRUSTED_NAME = "trusted-cas.pem"


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """What a broker needs to run.

    `ca_file` holds the device CA and nothing else: every certificate that it signed is let in. While the CA is rotated `refused` brings the
    two that are trusted, which are written to `run_dir`. `servers` are the certificate names
    (`srv-…`) of the server processes; mosquitto's access file needs each by name, the embedded broker goes by the prefix.
    Port 0 means any free port. For `external` only host, port and `ca_file` are read. `memory_bytes`: what mosquitto may have on its
    heap, 0 = no limit. `refused`: certificates that are not let in;
    None: nothing was ever revoked, and mosquitto gets no revocation list. `also_ports`: further ports with the very same rules, while the
    server moves.
    """

    kind: BrokerKind
    tenant: str
    ca_file: Path
    cert_file: Path
    key_file: Path
    run_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    servers: tuple[str, ...] = ("srv-main",)
    memory_bytes: int = 0
    refused: RefusedCertificates | None = None
    also_ports: tuple[int, ...] = ()

    @property
    def trusted_file(self) -> Path:
        """The CAs that the broker trusts."""
        return self.run_dir / TRUSTED_NAME if self.refused is not None and self.refused.cas else self.ca_file

    def trusted(self) -> bytes:
        """Return the CAs that the broker trusts, PEM."""
        return self.refused.cas if self.refused is not None and self.refused.cas else self.ca_file.read_bytes()


@dataclass(frozen=True, slots=True)
class BrokerEndpoint:
    """Where clients connect: always TLS with a client certificate; `ca_file` verifies the broker."""

    kind: BrokerKind
    host: str
    port: int
    mqtt: MqttVersion
    ca_file: Path


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """The kind to run and a sentence that says why. `host` and `port` are set for `external` only."""

    kind: BrokerKind
    reason: str
    host: str = ""
    port: int = 0


def memory_for(devices: int) -> int:
    """Return how many bytes a broker may have on its heap for a fleet of this size, with room to grow until the next start."""
    return MEMORY_BASE_BYTES + max(devices, MEMORY_LEAST_DEVICES) * MEMORY_DEVICE_BYTES


def find_mosquitto() -> str | None:
    """Return the path of the mosquitto binary, also from the sbin folders that are not on PATH, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=":".join(_SBIN))


def mosquitto_version(binary: str) -> Version | None:
    """Return the version `binary -h` prints, or None when it prints none within 5 s. Starts a process."""
    try:
        answer = subprocess.run([binary, "-h"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", answer.stdout + answer.stderr)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def choose_broker(
    setting: str,
    find: Callable[[], str | None] = find_mosquitto,
    version_of: Callable[[str], Version | None] = mosquitto_version,
) -> BrokerChoice:
    """Return the broker that `setting` (`auto|embedded|mosquitto|mqtts://HOST[:PORT]`) means on this machine.

    May start `mosquitto -h` to read its version. Raises BrokerSettingError for an unknown setting, or for `mosquitto`
    without a usable binary.
    """
    if setting == "embedded":
        return BrokerChoice(BrokerKind.EMBEDDED, "the setting says so")
    if setting.startswith("mqtts://"):
        host, port = parse_broker_url(setting)
        return BrokerChoice(BrokerKind.EXTERNAL, f"the setting names {host}:{port}", host, port)
    if setting not in ("auto", "mosquitto"):
        raise BrokerSettingError(f"broker setting {setting!r} is not known")
    usable, finding = _look_for_mosquitto(find, version_of)
    if usable:
        why = "the setting says so, and" if setting == "mosquitto" else "preferred, and"
        return BrokerChoice(BrokerKind.MOSQUITTO, f"{why} {finding}")
    if setting == "mosquitto":
        raise BrokerSettingError(
            f"mosquitto was asked for, but {finding}",
            next_step="install mosquitto 2.0.18 or newer (2.x), or set broker to auto or embedded",
        )
    return BrokerChoice(BrokerKind.EMBEDDED, f"{finding}; good for up to about 100 devices")


def parse_broker_url(url: str) -> tuple[str, int]:
    """Return host and port of `mqtts://HOST[:PORT]`. Raises BrokerSettingError for anything else in the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_MQTTS_PORT
    except ValueError as error:
        raise BrokerSettingError(f"broker URL {url!r} cannot be read: {error}") from error
    if parts.scheme != "mqtts" or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BrokerSettingError(f"broker URL {url!r} is not mqtts://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise BrokerSettingError(
            "a broker URL must not hold a user or a password: the server proves itself by certificate"
        )
    return host, port


def _look_for_mosquitto(
    find: Callable[[], str | None], version_of: Callable[[str], Version | None]
) -> tuple[bool, str]:
    binary = find()
    if binary is None:
        return False, "no mosquitto binary was found"
    version = version_of(binary)
    if version is None:
        return False, f"{binary} does not tell its version"
    text = ".".join(map(str, version))
    if version < MIN_MOSQUITTO:
        return False, f"{binary} is mosquitto {text}, older than 2.0.18"
    if version >= FIRST_WITHOUT_ACL_FILE:
        return False, f"{binary} is mosquitto {text}, which no longer reads access files"
    return True, f"{binary} is mosquitto {text}"
