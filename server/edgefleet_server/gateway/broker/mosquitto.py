"""mosquitto as a supervised child: its generated files, and its start.

The files are in the form of mosquitto 2.0 (`acl_file` is deprecated in 2.1 and gone in 3.0; `choose_broker` refuses 3.0).
What the settings must do is tested in `tests/broker`. `use_identity_as_username` makes the certificate's CN the user, and
`use_username_as_clientid` makes it the client id too, so nobody can take another's session.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
from collections.abc import Collection
from pathlib import Path

from cryptography import x509

from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX
from edgefleet_protocol.topics import ROOT, UP_LEAVES
from edgefleet_server.gateway.broker.broker_process import BrokerChild, start_child
from edgefleet_server.gateway.broker.errors import (
    BrokerSettingError,
    BrokerStartError,
    PortTakenError,
    RevocationListError,
)
from edgefleet_server.gateway.broker.model import (
    CHECK_ACCOUNTS,
    MAX_KEEPALIVE_S,
    MAX_PACKET_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    SESSION_EXPIRY_S,
    BrokerConfig,
    find_mosquitto,
)
from edgefleet_server.signing.trust import RefusedCertificates

CONFIG_NAME = "mosquitto.conf"
ACL_NAME = "mosquitto.acl"
CRL_NAME = "crl.pem"
_CRL_END = b"-----END X509 CRL-----"
MAX_INFLIGHT = 20
_PORT_TRIES = 5
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def start_mosquitto(config: BrokerConfig, port: int) -> BrokerChild:
    """Write the files and start mosquitto on `port`; 0 finds a free one. Raises BrokerStartError. Blocks, writes `run_dir`."""
    binary = find_mosquitto()
    if binary is None:
        raise BrokerStartError(
            "no mosquitto binary was found", next_step="install mosquitto, or set broker to embedded"
        )
    for attempt in range(_PORT_TRIES):
        chosen = port or _free_port(config.host)
        try:
            write_files(config, chosen)
            return _start(binary, config, chosen)
        except PortTakenError:
            # only a port of our own choice may be replaced, and somebody may have taken it between the look and the start
            if port or attempt == _PORT_TRIES - 1:
                raise
        except OSError as error:
            raise BrokerStartError(f"the broker's files could not be written: {error}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def write_files(config: BrokerConfig, port: int) -> Path:
    """Write configuration, access file and revocation list, each atomically and readable by this user only.

    Returns the configuration's path. Raises RevocationListError; then nothing was changed.
    """
    config.run_dir.mkdir(parents=True, exist_ok=True)
    denied = "" if config.refused is None else deny_text(config.refused.devices)
    access = access_text(config.tenant, (*config.servers, *CHECK_ACCOUNTS)) + denied
    write_revocation_list(config)
    _replace(config.run_dir / ACL_NAME, access)
    path = config.run_dir / CONFIG_NAME
    _replace(path, configuration_text(config, port))
    return path


def write_revocation_list(config: BrokerConfig) -> None:
    """Write the list of revoked certificates once the very bytes on the disk have been read back and verified.

    A list that mosquitto cannot read makes it let everybody in, and one that has expired, nobody. Raises RevocationListError.
    """
    if config.refused is None:
        return
    path = config.run_dir / CRL_NAME
    fresh = _write_new(path, config.refused.crl.decode())
    check_revocation_list(fresh.read_bytes(), config.trusted(), config.refused)
    fresh.replace(path)
    write_trusted(config)


def write_trusted(config: BrokerConfig) -> None:
    """Write the CAs that the broker trusts, where they are not those of `ca_file`. Writes `run_dir`."""
    if config.trusted_file != config.ca_file:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        _replace(config.trusted_file, config.trusted().decode())


def check_revocation_list(pem: bytes, ca_pem: bytes, wanted: RefusedCertificates) -> None:
    """Raise RevocationListError unless this is the wanted list, whole and signed, of each CA in turn."""
    try:
        lists = [x509.load_pem_x509_crl(one + _CRL_END) for one in pem.split(_CRL_END)[:-1]]
        cas = x509.load_pem_x509_certificates(ca_pem)
        is_signed = len(lists) == len(cas) and all(
            one.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
            for one, ca in zip(lists, cas, strict=True)
        )
        is_whole = all(
            {f"{revoked.serial_number:x}" for revoked in one} == wanted.serials and one.next_update_utc is not None
            for one in lists
        )
    except (ValueError, TypeError) as error:
        raise RevocationListError(f"the new list of revoked certificates cannot be read: {error}") from error
    if not lists:
        raise RevocationListError("the new list of revoked certificates cannot be read: it is empty")
    if not is_signed:
        raise RevocationListError("the new list of revoked certificates is not signed by the device CA")
    if not is_whole:
        raise RevocationListError("the new list of revoked certificates lacks certificates that it should name")


def deny_text(devices: Collection[str]) -> str:
    """Return the part of the access file that stops revoked devices, sessions that are open too.

    Raises BrokerSettingError for a name that would break out of its line.
    """
    if strange := [name for name in devices if not _PLAIN.fullmatch(name)]:
        raise BrokerSettingError(f"{strange[0]!r} cannot stand in an access file")
    return "".join(f"\nuser {name}\ntopic deny #\n" for name in sorted(devices))


def access_text(tenant: str, servers: tuple[str, ...]) -> str:
    """Return the access file: each server account by name, every device by pattern. Same rule as `topics.may`.

    Raises BrokerSettingError for a name that would break out of its line, or a server name without `srv-`.
    """
    for name in (tenant, *servers):
        if not _PLAIN.fullmatch(name):
            raise BrokerSettingError(
                f"{name!r} cannot stand in an access file", next_step="use letters, digits, '.', '_', '-'"
            )
    if strange := [name for name in servers if not name.startswith(SERVER_ACCOUNT_PREFIX)]:
        raise BrokerSettingError(
            f"server account {strange[0]!r} does not begin with {SERVER_ACCOUNT_PREFIX}",
            next_step="rename the account",
        )
    root = f"{ROOT}/{tenant}"
    lines: list[str] = []
    for name in servers:
        lines += [f"user {name}", f"topic readwrite {root}/#", ""]
    # Each leaf by name, since mosquitto cannot say who may retain: a device can have one message retained for each leaf, no more.
    # Read and write stay separate patterns: with `readwrite` a device gets its own uplink back.
    lines += [
        *(f"pattern write {root}/d/%u/up/{leaf}" for leaf in UP_LEAVES),
        f"pattern read {root}/d/%u/dn/#",
        f"pattern read {root}/b/+",
        f"pattern read {root}/stage/+",
        f"pattern read {root}/repo/head",
        f"pattern read {root}/hold",
    ]
    return "\n".join(lines) + "\n"


def configuration_text(config: BrokerConfig, port: int) -> str:
    """Return mosquitto.conf. Raises BrokerSettingError when a path holds a line break."""
    paths = {
        "cafile": config.trusted_file,
        "certfile": config.cert_file,
        "keyfile": config.key_file,
        "acl_file": config.run_dir / ACL_NAME,
        "crlfile": config.run_dir / CRL_NAME,
    }
    for path in paths.values():
        if "\n" in str(path) or "\r" in str(path):
            raise BrokerSettingError(
                "a path with a line break cannot stand in mosquitto.conf", next_step="rename the folder"
            )
    lines = [
        "per_listener_settings false",
        "persistence false",  # what must survive is published again by the server (docs/protocol/topics.md)
        # Nobody is anonymous: each listener requires a certificate, whose CN is the user. With `false`, 2.0 checks the password of each
        # kept session at a reload, finds none, and puts it into its list of ends a second time: a use after free (ADR 0150).
        "allow_anonymous true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type information",
        "connection_messages false",
        "sys_interval 0",
        *([f"memory_limit {config.memory_bytes}"] if config.memory_bytes else []),
        f"max_packet_size {MAX_PACKET_BYTES}",
        f"max_inflight_messages {MAX_INFLIGHT}",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_keepalive {MAX_KEEPALIVE_S}",
        f"persistent_client_expiration {SESSION_EXPIRY_S // 86_400}d",
        "set_tcp_nodelay true",
        *_user_line(),
        f"acl_file {paths['acl_file'].absolute()}",
    ]
    for one in (port, *config.also_ports):
        lines += _listener_lines(config, one)
    return "\n".join(lines) + "\n"


def _listener_lines(config: BrokerConfig, port: int) -> list[str]:
    return [
        f"listener {port} {config.host}",
        f"cafile {config.trusted_file.absolute()}",
        f"certfile {config.cert_file.absolute()}",
        f"keyfile {config.key_file.absolute()}",
        *([f"crlfile {(config.run_dir / CRL_NAME).absolute()}"] if config.refused is not None else []),
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "tls_version tlsv1.2",
        "max_topic_alias 0",
    ]


def _user_line() -> list[str]:
    # started by root, mosquitto would become user `mosquitto`, who can read neither the key nor, at reload, the access file
    return [f"user {pwd.getpwuid(0).pw_name}"] if os.geteuid() == 0 else []


def _start(binary: str, config: BrokerConfig, port: int) -> BrokerChild:
    def ready_port(line: str) -> int | None:
        if "Address already in use" in line:
            raise PortTakenError(f"port {port} of {config.host} is in use")
        return port if line.endswith(" running") else None

    launcher = [sys.executable, "-m", "edgefleet_server.gateway.broker.parent_watch", str(os.getpid())]
    command = [*launcher, binary, "-c", str((config.run_dir / CONFIG_NAME).absolute())]
    return start_child(command, ready_port, is_notable=_is_notable)


def _is_notable(line: str) -> bool:
    if (
        "OpenSSL Error" in line
    ):  # also logged of every device that vanishes without a goodbye, and of every try of a revoked one
        return "certificate" in line and "certificate verify failed" not in line
    if "does not contain '%c' or '%u'" in line:  # said of the same patterns at each reload
        return False
    return "Error" in line or "Warning" in line


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _replace(path: Path, text: str) -> None:
    _write_new(path, text).replace(path)


def _write_new(path: Path, text: str) -> Path:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return fresh
