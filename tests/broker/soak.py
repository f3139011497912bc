"""Links break at random while messages flow both ways: none may be lost, no device may be left deaf.

One of the n is one break: a reset, a DISCONNECT, or a half-open link that the device replaces. Every message has a number; at
the end each device holds all that was acknowledged to the server, and the server all that was acknowledged to a device.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.broker.client import PATIENCE_S, Client, LinkOptions, RefusedError, eventually
from tests.broker.conftest import Site
from tests.broker.pki import Authority, Identity

DEVICES = 12
MESSAGES_PER_BREAK = 14


class _Device:
    """One device over all its links."""

    def __init__(self, site: Site, identity: Identity) -> None:
        self._site = site
        self._identity = identity
        self.id = DeviceId(identity.name)
        self.topic_down = site.topics.desired(self.id)
        self.topic_up = site.topics.event(self.id)
        self.got: set[bytes] = set()
        self.sent_down: set[bytes] = set()
        self.sent_up: set[bytes] = set()
        self._unsure: dict[int, bytes] = {}
        self.refusals = 0
        self.client = self._connect()
        self.client.subscribe((self.topic_down, 1))

    def _connect(self) -> Client:
        for _ in range(5):
            try:
                return Client(self._site.endpoint, self._identity, LinkOptions(clean=False)).connect()
            except RefusedError:
                self.refusals += 1
        raise RefusedError(f"{self.id} was refused 5 times in a row")

    def send_up(self, payload: bytes) -> None:
        """Publish; it counts as sent once it is acknowledged, on this link or, sent again, on a later one."""
        self._unsure[self.client.send(self.topic_up, payload)] = payload
        self._settle()

    def _settle(self) -> None:
        for mid in [mid for mid in self._unsure if mid in self.client.acks]:
            self.sent_up.add(self._unsure.pop(mid))

    def break_link(self, how: str) -> None:
        """End the link, and come back."""
        self._settle()
        if how == "cut":
            self.client.cut()
        elif how == "disconnect":
            self.client.disconnect()
        else:
            self.client.freeze()
        self.collect()
        older, self.client = self.client, self._connect()
        older.cut()  # paho looks at sockets with select(), which takes numbers below 1,024 only: leave none behind
        again, self._unsure = list(self._unsure.values()), {}
        for payload in again:
            self.send_up(payload)

    def collect(self) -> None:
        """Note what this link brought."""
        self.got |= {*self.client.payloads()}

    def has_all(self) -> bool:
        """Say whether everything has come, in both directions as far as this side knows."""
        self.collect()
        self._settle()
        return self.sent_down <= self.got and not self._unsure

    def end(self) -> None:
        """Close the socket."""
        self.client.cut()


def run(kind: BrokerKind, n: int, seed: int, folder: Path) -> dict[str, Any]:
    """Break links n times on a broker of this kind; return what was sent and what is missing."""
    site = Site(Authority(folder / "pki"), folder, kind)
    site.supervisor.start()
    chance = random.Random(seed)
    server = Client(site.endpoint, site.authority.device("srv-main")).connect()
    server.subscribe(*site.topics.server_filters())
    devices = [_Device(site, site.identity()) for _ in range(DEVICES)]
    process = psutil.Process(site.supervisor.pid)
    rss_start = process.memory_info().rss
    breaks = {"cut": 0, "disconnect": 0, "half open": 0}
    try:
        for turn in range(n):
            for number in range(MESSAGES_PER_BREAK):
                payload = b"%d/%d" % (turn, number)
                device = chance.choice(devices)
                if number % 2:
                    device.send_up(payload)
                else:
                    server.send(device.topic_down, payload)
                    device.sent_down.add(payload)
            how = chance.choice([*breaks])
            breaks[how] += 1
            chance.choice(devices).break_link(how)
        stuck = [device.id for device in devices if not _settled(device)]
        sent_up = set().union(*(device.sent_up for device in devices))
        eventually(lambda: len({*server.payloads()}) >= len(sent_up), "the last uplinks")
        missing_up = sent_up - {*server.payloads()}
        missing_down = sum(len(device.sent_down - device.got) for device in devices)
        return {
            "ok": not stuck and not missing_up and not missing_down,
            "breaks": breaks,
            "down": sum(len(device.sent_down) for device in devices),
            "down_lost": missing_down,
            "up": len(sent_up),
            "up_lost": len(missing_up),
            "stuck": len(stuck),
            "refusals": sum(device.refusals for device in devices),
            "rss_growth_bytes": process.memory_info().rss - rss_start,
        }
    finally:
        for device in devices:
            device.end()
        server.cut()
        site.supervisor.stop()


def _settled(device: _Device) -> bool:
    try:
        eventually(device.has_all, "all messages of a device", PATIENCE_S)
    except AssertionError:
        return False
    return True


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Soak each kind that this machine has, with n breaks each."""
    kinds = [BrokerKind.EMBEDDED, *([BrokerKind.MOSQUITTO] if find_mosquitto() else [])]
    with tempfile.TemporaryDirectory() as folder:
        results = {str(kind): run(kind, n, seed, Path(folder) / kind) for kind in kinds}
    return {"ok": all(result["ok"] for result in results.values()), **results}
