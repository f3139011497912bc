"""Brokers that no server of ours runs, started from the files that `edgectl server broker-files` writes: mosquitto, and RabbitMQ."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.model import CHECK_ACCOUNTS, BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker_files.broker_folder import WrittenFolder, write_folder
from edgefleet_server.gateway.broker_files.model import CA_NAME, Bridge, BrokerSite, OutsideBroker
from edgefleet_server.signing.client_identities import BriefIdentity
from edgefleet_server.signing.service import SigningService
from tests.broker.client import eventually
from tests.broker.pki import Identity

ACCOUNTS = ("srv-main", "srv-site-hall", *CHECK_ACCOUNTS)
HOSTS = ("localhost", "127.0.0.1")
RABBITMQ_START_S = 120.0
_RABBITMQ = "/usr/lib/rabbitmq/lib"


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_mosquitto(signing: SigningService, folder: Path, port: int, bridge: Bridge | None = None) -> WrittenFolder:
    """Write the folder of a mosquitto."""
    site = BrokerSite("acme", ACCOUNTS, str(folder), port, bridge=bridge)
    return write_folder(OutsideBroker.MOSQUITTO, site, folder, HOSTS, signing, SystemClock().now())


def identity_in(folder: Path, brief: BriefIdentity) -> Identity:
    """Write a certificate and its key into files."""
    identity = Identity(brief.name, folder / f"{brief.name}.crt", folder / f"{brief.name}.key")
    identity.cert_file.write_bytes(brief.cert)
    identity.key_file.write_bytes(brief.key)
    return identity


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def mosquitto_of(folder: Path, port: int) -> Iterator[BrokerEndpoint]:
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


def find_rabbitmq() -> str | None:
    """Return RabbitMQ's own start script, None where it is not installed."""
    found = sorted(Path(_RABBITMQ).glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(found[-1]) if found and shutil.which("erl") else None


@contextmanager
def rabbitmq_of(signing: SigningService, folder: Path, port: int) -> Iterator[BrokerEndpoint]:
    """Write the folder of a RabbitMQ and run it, with its access rules next to it; nothing of it is left, its port mapper neither."""
    script = find_rabbitmq()
    assert script is not None
    state, ports = folder.parent / "rabbitmq-state", [free_port() for _ in range(2)]
    state.mkdir()
    rules_command = [sys.executable, "-m", "edgefleet_server.process.external_broker.access_service"]
    rules_command += ["--tenant", "acme", "--port", "0"]
    with subprocess.Popen(rules_command, stdout=subprocess.PIPE, text=True) as rules:
        assert rules.stdout is not None
        rules_port = rules.stdout.readline().split()[-1]
        site = BrokerSite("acme", ACCOUNTS, str(folder), port, access_url=f"http://127.0.0.1:{rules_port}")
        write_folder(OutsideBroker.RABBITMQ, site, folder, HOSTS, signing, SystemClock().now())
        env = _rabbitmq_environment(folder, state, ports)
        with (state / "out.log").open("wb") as log:
            process = subprocess.Popen([script], env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually(lambda: _listens(port), "RabbitMQ listens", RABBITMQ_START_S)
            yield BrokerEndpoint(BrokerKind.EXTERNAL, "127.0.0.1", port, "5", folder / CA_NAME)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
            rules.terminate()
            mapper = next(iter(sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))), None)
            subprocess.run([str(mapper or "epmd"), "-kill"], env=env, capture_output=True, check=False)
    eventually(lambda: not _listens(ports[1]), "the port mapper ends")


def _rabbitmq_environment(folder: Path, state: Path, ports: list[int]) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(state),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(state / "mnesia"),
        "RABBITMQ_LOG_BASE": str(state / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(state / "pid"),
        "RABBITMQ_NODENAME": f"check{ports[0]}@localhost",
        "RABBITMQ_DIST_PORT": str(ports[0]),
        "RABBITMQ_CONF_ENV_FILE": str(state / "none"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(ports[1]),
    }
