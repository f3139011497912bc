"""mosquitto as a supervised child: its generated files, and its start.

Both files are in the form of mosquitto 2.0 (`acl_file` is deprecated in 2.1 and gone in 3.0; `choose_broker` refuses 3.0).
What the settings must do is tested in `tests/broker`. `use_identity_as_username` makes the certificate's CN the user, and
`use_username_as_clientid` makes it the client id too, so nobody can take another's session.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
from pathlib import Path

from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX
from edgefleet_protocol.topics import ROOT, UP_LEAVES
from edgefleet_server.gateway.broker.broker_process import BrokerChild, start_child
from edgefleet_server.gateway.broker.errors import BrokerSettingError, BrokerStartError, PortTakenError
from edgefleet_server.gateway.broker.model import (
    MAX_KEEPALIVE_S,
    MAX_PACKET_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    SESSION_EXPIRY_S,
    BrokerConfig,
    find_mosquitto,
)

CONFIG_NAME = "mosquitto.conf"
ACL_NAME = "mosquitto.acl"
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
    """Write configuration and access file, each atomically and readable by this user only; return the configuration's path."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    _replace(config.run_dir / ACL_NAME, access_text(config.tenant, config.servers))
    path = config.run_dir / CONFIG_NAME
    _replace(path, configuration_text(config, port))
    return path


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
        "cafile": config.ca_file,
        "certfile": config.cert_file,
        "keyfile": config.key_file,
        "acl_file": config.run_dir / ACL_NAME,
    }
    for path in paths.values():
        if "\n" in str(path) or "\r" in str(path):
            raise BrokerSettingError(
                "a path with a line break cannot stand in mosquitto.conf", next_step="rename the folder"
            )
    lines = [
        "per_listener_settings false",
        "persistence false",  # what must survive is published again by the server (docs/protocol/topics.md)
        "allow_anonymous false",
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
        f"listener {port} {config.host}",
        f"cafile {config.ca_file.absolute()}",
        f"certfile {config.cert_file.absolute()}",
        f"keyfile {config.key_file.absolute()}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "tls_version tlsv1.2",
        "max_topic_alias 0",
    ]
    return "\n".join(lines) + "\n"


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
    if "OpenSSL Error" in line:  # also logged of every device that vanishes without a goodbye
        return "certificate" in line
    return "Error" in line or "Warning" in line


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
