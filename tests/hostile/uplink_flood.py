"""One device floods the uplink of a real gateway: how much the database and the process grow, and how long the others wait.

The server's side (services, broker, gateway) is real and runs here. The flood comes from a process of its own with the device's own
certificate: events of 30 KB, as fast as the broker takes them. Before and meanwhile another device switches, again and again: a document
is signed for it, reaches it over MQTT, and its report is stored. That is a switch without the install. `main(n, seed)` floods for n
seconds; what it prints is in MB and seconds.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.messages import Event, EventKind, State, encode
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from tests.broker.client import eventually
from tests.server.fleet.house import PROFILE, KeyedDevice
from tests.server.gateway.conftest import Site
from tests.server.gateway.device import MqttDevice

EVENT_BYTES: Final = 30_000
LEAST_SWITCHES: Final = 5
REPEAT_S: Final = 2.0
AHEAD: Final = 500
"""Events that the flood is ahead of what the broker has acknowledged."""
MOST_DATABASE_MB: Final = 64.0
MOST_RSS_MB: Final = 128.0
MOST_SWITCH_S: Final = 1.0
_MB: Final = 1e6


@dataclass(frozen=True)
class Flood:
    """What the flooding process needs to be the device."""

    id: str
    cert: str
    ca: str
    tenant: str
    key: bytes
    endpoint: BrokerEndpoint
    folder: Path
    seconds: float


def big_event(device: str, seq: int, size: int = EVENT_BYTES) -> bytes:
    """Return an event of about `size` bytes."""
    return encode(Event(device=device, boot_id="flood", seq=seq, ts=1, kind=EventKind.BOOT, reason="x" * size))


class _Stolen(KeyedDevice):
    """The identity of a device in another process."""

    def __init__(self, what: Flood) -> None:
        self.enrolment: Any = _Enrolment(what.id, what.cert, what.ca, what.tenant)
        self._pem = what.key

    def key_pem(self) -> bytes:
        return self._pem


@dataclass(frozen=True)
class _Enrolment:
    device_id: str
    cert: str
    ca: str
    tenant: str


def pour(what: Flood) -> None:
    """Publish big events for so many seconds; the entry of the flooding process."""
    there = MqttDevice(_Stolen(what), what.endpoint, what.folder)
    topic, until, sent = there.topics.event(there.id), time.monotonic() + what.seconds, 0
    while time.monotonic() < until:
        sent += 1
        info = there.client.publish(topic, big_event(there.id, sent), qos=1)
        if sent % AHEAD == 0:
            info.wait_for_publish(10)
    there.close()


class Switcher:
    """A device that takes documents and reports them, timed."""

    def __init__(self, site: Site) -> None:
        """Enrol and connect it."""
        self._site = site
        keyed = site.house.device()
        self.id = keyed.id
        self._device = site.connect(keyed)
        self._refs = [site.house.release(f"m@{version}", bundles={PROFILE: b"x" * 100}) for version in ("1", "2")]
        self._device.desired.get(timeout=30)
        self._seq, self._gen = 0, 1

    def switch_s(self) -> float:
        """Give the device the other release; return the seconds until its report of it is stored."""
        fleet = self._site.house.fleet
        began = time.perf_counter()
        fleet.deployer.deploy(self._refs[self._gen % 2], device=self.id)
        self._device.desired.get(timeout=30)
        self._gen += 1
        asked_at = 0.0
        while fleet.reader.device(self.id).reported_gen < self._gen:
            if time.perf_counter() - asked_at > REPEAT_S:  # the report may have been dropped
                asked_at = time.perf_counter()
                self._seq += 1
                state = State(device=self.id, gen=self._gen, boot_id="b", seq=self._seq, ts=1, models=[])
                self._device.say(self._device.topics.state(self.id), state)
            time.sleep(0.005)
        return time.perf_counter() - began


def main(n: int, _seed: int) -> Mapping[str, Any]:
    """Flood for n seconds and report."""
    kind = BrokerKind.MOSQUITTO if find_mosquitto() is not None else BrokerKind.EMBEDDED
    with tempfile.TemporaryDirectory(prefix="edgefleet-flood-") as folder:
        site = Site(Path(folder), kind)
        try:
            return {"broker": kind.value, **flooded(site, n)}
        finally:
            site.close()


def flooded(site: Site, seconds: float) -> dict[str, Any]:
    """Flood a site; return what it did to the database, to this process and to another device."""
    evil, other = site.house.device(), Switcher(site)
    before = [other.switch_s() for _ in range(LEAST_SWITCHES)]
    during: list[float] = []
    mb, rss = _database_mb(site), _rss_mb()
    most_rss = rss
    came = site.gateway.counters()["messages_in"]
    one = evil.enrolment
    what = Flood(evil.id, one.cert, one.ca, one.tenant, evil.key_pem(), site.endpoint, site.folder, seconds)
    process = multiprocessing.get_context("spawn").Process(target=pour, args=(what,))
    process.start()
    try:
        eventually(lambda: site.gateway.counters()["messages_in"] > came + 20, "the flood", patience_s=60)
        while process.is_alive() or len(during) < LEAST_SWITCHES:
            during.append(other.switch_s())
            most_rss = max(most_rss, _rss_mb())
    finally:
        process.join(60)
    named = eventually(lambda: limited_event(site, evil.id), "the event that names the device", patience_s=30)
    database_mb, rss_mb = _database_mb(site) - mb, most_rss - rss
    switch_s = statistics.median(during)
    return {
        "database_mb": round(database_mb, 1),
        "rss_mb": round(rss_mb, 1),
        "switch_before_s": round(statistics.median(before), 3),
        "switch_during_s": round(switch_s, 3),
        "switch_during_most_s": round(max(during), 3),
        "switches": len(during),
        "counters": {name: n for name, n in site.gateway.counters().items() if n},
        "event": named,
        "ok": database_mb <= MOST_DATABASE_MB and rss_mb <= MOST_RSS_MB and switch_s <= MOST_SWITCH_S,
    }


def limited_event(site: Site, device: str) -> dict[str, Any]:
    """Return the detail of the event that says what was dropped of a device, empty when there is none yet."""
    found, _ = site.house.fleet.feed.page(device_id=device, kinds=["limited"], limit=9)
    assert len(found) <= 1, "one row a device and day"
    return dict(found[0].detail) if found else {}


def _database_mb(site: Site) -> float:
    return sum(one.stat().st_size for one in site.folder.glob("server.db*")) / _MB


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / _MB
