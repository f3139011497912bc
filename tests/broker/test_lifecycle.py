"""The broker as a child: restart on the same port, re-publication, port clashes, and no broker without its server."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker import parent_watch
from edgefleet_server.gateway.broker.errors import BrokerStartError, PortTakenError
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerEndpoint, BrokerKind
from edgefleet_server.gateway.broker.supervisor import BrokerState, BrokerSupervisor
from tests.broker.client import RefusedError, eventually
from tests.broker.conftest import Clients, Site


def _gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_killed_broker_is_restarted_on_its_port_and_can_be_filled_again(own_site: Site) -> None:
    topics = own_site.topics
    identities = [own_site.identity() for _ in range(10)]
    endpoint = own_site.supervisor.start()
    clients = Clients(own_site)
    try:
        first = [clients.connect(identity, clean=False) for identity in identities]
        pid = own_site.supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: own_site.supervisor.status().restarts, "the restart")
        assert own_site.supervisor.endpoint == endpoint
        assert own_site.supervisor.pid not in (None, pid)
        status = own_site.supervisor.status()
        assert (status.state, status.restarts, status.port) == (BrokerState.RUNNING, 1, endpoint.port)
        assert all(device.is_closed.wait(20.0) for device in first)
        server = clients.server()
        for identity in identities:
            server.publish(topics.desired(DeviceId(identity.name)), identity.name.encode(), retain=True)
        for identity in identities:
            device = clients.connect(identity, clean=False)
            assert not device.session_present
            device.subscribe((topics.desired(DeviceId(identity.name)), 1))
            device.wait_for(identity.name.encode())
    finally:
        clients.end()


def test_stop_ends_the_broker_and_start_says_why_it_cannot(own_site: Site) -> None:
    endpoint = own_site.supervisor.start()
    pid = own_site.supervisor.pid
    assert pid is not None
    own_site.supervisor.stop()
    assert _gone(pid)
    assert own_site.supervisor.status().state is BrokerState.STOPPED
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((endpoint.host, endpoint.port))
        holder.listen()
        taken = BrokerSupervisor(dataclasses.replace(own_site.config, port=endpoint.port), SystemClock())
        with pytest.raises(PortTakenError, match=str(endpoint.port)):
            taken.start()
        assert taken.pid is None


def test_restart_waits_until_the_port_is_free_again(own_site: Site) -> None:
    endpoint = own_site.supervisor.start()
    child = own_site.supervisor.pid
    assert child is not None
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: _bound(holder, endpoint), "the port is ours")
        eventually(lambda: "in use" in own_site.supervisor.status().last_error, "a failed restart")
    eventually(lambda: own_site.supervisor.status().restarts, "a restart that succeeds")
    clients = Clients(own_site)
    clients.server().disconnect()


def _bound(holder: socket.socket, endpoint: BrokerEndpoint) -> bool:
    try:
        holder.bind((endpoint.host, endpoint.port))
        holder.listen()
    except OSError:
        return False
    return True


def test_bad_key_file_is_said_in_words(own_site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "broken.key"
    broken.write_text("not a key")
    supervisor = BrokerSupervisor(dataclasses.replace(own_site.config, key_file=broken), SystemClock())
    with pytest.raises(BrokerStartError) as caught:
        supervisor.start()
    assert caught.value.next_step
    assert "Traceback" not in caught.value.message
    supervisor.stop()


_SERVER = """
import sys, time
from pathlib import Path
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerKind
from edgefleet_server.gateway.broker.supervisor import BrokerSupervisor
from edgefleet_server.clock import SystemClock
kind, ca, cert, key, run = sys.argv[1:]
config = BrokerConfig(BrokerKind(kind), "acme", Path(ca), Path(cert), Path(key), Path(run))
supervisor = BrokerSupervisor(config, SystemClock())
supervisor.start()
print(supervisor.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_broker_outlives_its_server(number: signal.Signals, own_site: Site) -> None:
    config = own_site.config
    files = [str(path) for path in (config.ca_file, config.cert_file, config.key_file, config.run_dir)]
    command = [sys.executable, "-c", _SERVER, config.kind, *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert not _gone(pid)
        server.send_signal(number)
        server.wait()
        eventually(lambda: _gone(pid), "the end of the broker")


def test_launcher_without_kernel_help_ends_the_program_with_its_parent() -> None:
    inner = (
        "import sys; from edgefleet_server.gateway.broker import parent_watch\n"
        "sys.exit(parent_watch.watch(int(sys.argv[1]), ['sleep', '600']))"
    )
    outer = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {inner!r}, str(os.getpid())])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watcher = psutil.Process(int(parent.stdout.readline()))
        (program,) = eventually(watcher.children, "the program's start")
        parent.kill()
        parent.wait()
        eventually(lambda: _gone(watcher.pid) and _gone(program.pid), "the end of both")
    assert parent_watch.watch(os.getppid(), ["true"]) == 0


def test_external_broker_has_no_child(tmp_path: Path) -> None:
    unused = tmp_path / "unused"
    config = BrokerConfig(BrokerKind.EXTERNAL, "acme", unused, unused, unused, unused, host="mqtt.example", port=8883)
    supervisor = BrokerSupervisor(config, SystemClock())
    endpoint = supervisor.start()
    assert (endpoint.host, endpoint.port, endpoint.mqtt) == ("mqtt.example", 8883, "5")
    assert supervisor.pid is None
    assert supervisor.status().state is BrokerState.EXTERNAL
    supervisor.stop()


def test_server_accounts_can_change_while_mosquitto_runs(own_site: Site) -> None:
    if own_site.kind is not BrokerKind.MOSQUITTO:
        pytest.skip("the embedded broker goes by the prefix srv-")
    own_site.supervisor.start()
    clients = Clients(own_site)
    third = own_site.authority.device("srv-third")
    identity = own_site.identity()
    topic = own_site.topics.desired(DeviceId(identity.name))
    try:
        device = clients.connect(identity)
        device.subscribe((topic, 1))
        assert clients.connect(third).publish(topic) == 0x87  # not authorised
        own_site.supervisor.set_servers(("srv-main", "srv-third"))
        eventually(lambda: clients.connect(third).publish(topic, b"now") == 0, "the new account is known")
        device.wait_for(b"now")
        with pytest.raises(RefusedError):
            clients.connect(None)
    finally:
        clients.end()
