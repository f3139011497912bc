"""Two replicas of each role and a converter as processes, on one PostgreSQL and a mosquitto of its own, behind nginx.

Every process has the role `api` as well, as the pods of the chart have: `/readyz` says when it is there. nginx sends people to the two
that are meant for them.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.gateway.broker_files.broker_folder import write_folder
from edgefleet_server.gateway.broker_files.model import BrokerSite, OutsideBroker
from edgefleet_server.settings import load_settings
from tests.broker.outside_brokers import mosquitto_of
from tests.deploy.proxy_files import Front, Upstream, certificate, nginx, running
from tests.load.rig import Rig
from tests.support.forked_servers import ForkedServer
from tests.support.ports import kept_port
from tests.support.postgres import own_server
from tests.support.servers import ServerProcess, init_server

ROLES: Final = {
    "api-1": "api",
    "api-2": "api",
    "gateway-1": "api,gateway",
    "gateway-2": "api,gateway",
    "engine-1": "api,engine",
    "engine-2": "api,engine",
    "converter-1": "api,converter",
}
READY_S: Final = 180.0
STOP_S: Final = 60.0
SETTINGS: Final = """engine_tick_s = 0.5
broker = "mqtts://127.0.0.1:{broker}"
broker_folder = "{files}"
behind_proxy = true
"""


@dataclass
class Component:
    """One process and its ports. data: its folder, with the keys and blobs of all."""

    name: str
    data: Path
    url: str
    api_port: int
    device_port: int
    process: ForkedServer | None = None

    def start(self) -> None:
        """Start it."""
        flags = ["--data", str(self.data), "--instance", self.name, "--roles", ROLES[self.name], "--db", self.url]
        ports = ["--port", str(self.api_port), "--device-port", str(self.device_port)]
        self.process = ForkedServer([*flags, *ports], self.log)

    @property
    def log(self) -> Path:
        """Its log."""
        return self.data.parent / f"{self.name}.log"

    def wait(self) -> None:
        """Wait until it is ready. Raises RuntimeError when it ended instead, TimeoutError."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.log.read_text('utf-8')[-3000:]}")
            try:
                if httpx.get(f"http://127.0.0.1:{self.api_port}/readyz", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"{self.name} is not ready: {self.log.read_text('utf-8')[-3000:]}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(STOP_S)


class Broker:
    """mosquitto on its own, from the files that `broker-files` writes. Runs while its block does, and can be restarted."""

    def __init__(self, files: Path, port: int) -> None:
        self._files, self._port = files, port
        self._running = ExitStack()

    def __enter__(self) -> Broker:
        self._running.enter_context(mosquitto_of(self._files, self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def restart(self) -> None:
        """Stop it, so that all connections are lost, and start it again."""
        self._running.close()
        self._running.enter_context(mosquitto_of(self._files, self._port))


@dataclass(frozen=True)
class Site:
    """All of it. rig: the database and the fleet, seen from outside; url: of nginx."""

    rig: Rig
    url: str
    components: dict[str, Component]
    broker: Broker

    def client(self) -> httpx.Client:
        """Return a client of the API behind nginx, whose certificate is not looked at."""
        token = {"authorization": f"Bearer {self.rig.server.token}"}
        return httpx.Client(base_url=self.url, headers=token, timeout=10, verify=False)

    def logs(self) -> str:
        """Return the lines of all logs that tell of trouble, the newest of each process."""
        found = []
        for one in self.components.values():
            lines = [line for line in one.log.read_text("utf-8", "replace").splitlines() if " ERROR " in line]
            found += [f"{one.name}: {line[:300]}" for line in lines[-5:]]
        return "\n".join(found)


@contextmanager
def replica_site(folder: Path) -> Iterator[Site]:
    """Run everything until the block ends."""
    with own_server() as postgres, ExitStack() as stack:
        url = postgres.new_database()
        first = folder / "first"
        os.environ["EDGEFLEET_SERVER_DATABASE_URL"] = url
        stack.callback(os.environ.pop, "EDGEFLEET_SERVER_DATABASE_URL", None)
        token = init_server(first)
        broker_port = kept_port()
        with (first / "server.toml").open("a", encoding="utf-8") as settings:
            settings.write(SETTINGS.format(broker=broker_port, files=folder / "broker"))
        files = _broker_files(first, folder / "broker", url, broker_port)
        components = {name: _component(name, folder, first, url) for name in ROLES}
        front = Front(kept_port(), kept_port(), kept_port())
        people = certificate(folder)
        ups = [
            Upstream(one.api_port, one.device_port, broker_port, first / "keys" / "device-ca.crt", *people)
            for one in (components["api-1"], components["api-2"])
        ]
        broker = stack.enter_context(Broker(files, broker_port))
        for one in components.values():
            stack.callback(_stopped, one)
            one.start()
        for one in components.values():
            one.wait()
        api = components["api-1"]
        assert api.process is not None
        server = ServerProcess(api.process, api.data, {"api_url": f"http://127.0.0.1:{api.api_port}"}, token)
        site = Site(Rig(server, postgres, url, folder), f"https://127.0.0.1:{front.people}", components, broker)
        balancer = folder / "nginx"
        balancer.mkdir()
        stack.enter_context(
            running(nginx(ups[0], front, balancer, ups[1]), (front.people, front.devices), folder / "nginx.log")
        )
        yield site


def _component(name: str, folder: Path, first: Path, url: str) -> Component:
    data = folder / name
    data.mkdir(mode=0o700)
    for shared in ("keys", "blobs"):
        (data / shared).symlink_to(first / shared)
    shutil.copy(first / "server.toml", data)
    return Component(name, data, url, kept_port(), kept_port())


def _broker_files(first: Path, folder: Path, url: str, port: int) -> Path:
    parts = build_parts(load_settings(first, database_url=url), SystemClock())
    try:
        accounts = tuple(f"srv-{name}" for name, roles in ROLES.items() if "gateway" in roles)
        site = BrokerSite(parts.settings.tenant, accounts, str(folder), port)
        write_folder(
            OutsideBroker.MOSQUITTO, site, folder, ("localhost", "127.0.0.1"), parts.signing, SystemClock().now()
        )
    finally:
        parts.db.dispose()
    return folder


def _stopped(one: Component) -> None:
    if one.process is not None and one.process.poll() is None:
        one.end(signal.SIGKILL)
