"""From an event of a device to the pixel: how late open pages show it, with many viewers and a large fleet that keeps reporting.

A fleet of `--devices` in SQLite, the whole server as a process (mosquitto with mutual TLS, gateway, engine, pages), `--viewers` streams of
the overview (plain HTTP) and one real Chromium. Every 1 to 1.6 s a device with a certificate of its own publishes over MQTT that its new
version failed, with a word of its own, while other connected devices come and go, `--reports` a second. Prints one JSON object. Figures:
- browser_…_ms: from the device's publish until the browser has painted the word (goal: p95 1.2 s);
- streams_…_ms: from the publish until the word is in the stream of a viewer, over all viewers (goal: p95 1.2 s);
- ingest_…_ms: the same for as many words that another process, as another replica would, commits to the database: without the broker,
  the gateway and the way there;
- server_cores, broker_cores: what the server's process (goal: 1) and the broker used;
- asking_every_5_s_p50_ms: what a page that asks every 5 s would need on average, half of that time.

    python bench/live_pages.py [--devices 10000] [--viewers 200] [--events 30] [--reports 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import fleet_page  # noqa: E402
from tests.server.fleet.house import FACTS, KeyedDevice  # noqa: E402
from tests.server.gateway.device import MqttDevice  # noqa: E402
from tests.support.browsers import browser  # noqa: E402
from tests.support.servers import ServerProcess, server_process  # noqa: E402

from edgefleet_protocol.ids import DeviceId  # noqa: E402
from edgefleet_protocol.messages import ErrorClass, Event, EventKind, Phase, Presence  # noqa: E402
from edgefleet_server.clock import SystemClock  # noqa: E402
from edgefleet_server.composition.container import Parts, build_parts  # noqa: E402
from edgefleet_server.dashboard.core.login import COOKIE  # noqa: E402
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind  # noqa: E402
from edgefleet_server.process.init import initialise  # noqa: E402

GOALS = {"browser_p95_ms": 1200.0, "streams_p95_ms": 1200.0, "server_cores": 1.0}
TALKERS = 8
"""Connected devices besides the one that is measured."""
QUIET_S = 2.0
"""Before the first word and after the last one."""
WATCH = """
() => {
  window.seen = {};
  const painted = (word) => requestAnimationFrame(() => {
    const after = new MessageChannel();  // its turn comes when the frame is done
    after.port1.onmessage = () => { window.seen[word] ??= Date.now(); };
    after.port2.postMessage(0);
  });
  const known = new Set();
  const look = () => {
    for (const word of document.body.innerText.match(/word-\\d+/g) ?? []) {
      if (!known.has(word)) { known.add(word); painted(word); }
    }
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
}
"""


class Words:
    """When each word was said, and how long it took into each stream. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self.said: dict[str, float] = {}
        self.late: dict[str, list[float]] = {}
        self.streams = 0
        """How many streams have begun."""

    def arrived(self, word: str, known: set[str]) -> None:
        """Note a word that came in a stream for the first time."""
        at = self.said.get(word)
        if at is not None and word not in known:
            known.add(word)
            self.late.setdefault(word, []).append(time.time() - at)


async def watch(url: str, cookie: str, words: Words, stop: asyncio.Event) -> None:
    """Read one stream of the overview until `stop` is set."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /live?page=/ HTTP/1.1\r\nhost: {parts.netloc}\r\ncookie: {COOKIE}={cookie}\r\n\r\n".encode())
    await reader.readuntil(b"live parts of a page")
    words.streams += 1
    known: set[str] = set()
    while not stop.is_set():
        try:
            text = (await asyncio.wait_for(reader.read(65_536), 0.5)).decode("utf-8", "replace")
        except TimeoutError:
            continue
        if not text:
            raise ConnectionError("the server ended a stream")
        for piece in text.split("word-")[1:]:
            number = piece[: len(piece) - len(piece.lstrip("0123456789"))]
            words.arrived(f"word-{number}", known)
    writer.close()


def failure(device: str, seq: int, word: str) -> Event:
    """Return a device's word that its new version failed."""
    return Event(
        device=DeviceId(device), boot_id="b", seq=1000 + seq, ts=int(time.time() * 1000), kind=EventKind.PHASE, model="digits",
        target="digits/1.1.0/generic-x86_64-ort.bundle", phase=Phase.ROLLED_BACK, error_class=ErrorClass.NONFINITE, reason=word,
    )  # fmt: skip


def chatter(talkers: Sequence[MqttDevice], a_second: float, stop: threading.Event) -> None:
    """Let devices come and go, so many a second, until `stop` is set."""
    chance = random.Random(1)
    while not stop.wait(1 / a_second):
        one = talkers[chance.randrange(len(talkers))]
        presence = Presence(on=chance.random() < 0.5, conn_id="c", boot_id="b", ts=int(time.time() * 1000))
        one.say(one.topics.presence(one.id), presence, retain=True)


async def story(
    url: str, cookie: str, viewers: int, events: int, words: Words, ways: Sequence[Callable[[int, str], None]]
) -> None:
    """Open the streams, then let the words be said, so many on each way."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(watch(url, cookie, words, stop)) for _ in range(viewers)]
    while words.streams < viewers:
        await asyncio.sleep(0.1)
    await asyncio.sleep(QUIET_S)
    chance = random.Random(2)
    for number in range(events * len(ways)):
        word = f"word-{number}"
        await asyncio.to_thread(ways[number // events], number, word)
        await asyncio.sleep(chance.uniform(1.0, 1.6))
    await asyncio.sleep(QUIET_S)
    stop.set()
    await asyncio.gather(*tasks)


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile in whole milliseconds. values: some; a run in which nothing was seen is no measurement."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000)


def enrolled(parts: Parts, count: int) -> list[KeyedDevice]:
    """Return devices with certificates."""
    made = [KeyedDevice() for _ in range(count)]
    for device, claim in zip(made, parts.fleet.enrolment.create_claims(count=count, created_by="bench"), strict=True):
        device.enrolment = parts.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    return made


@contextmanager
def connected(server: ServerProcess, devices: Sequence[KeyedDevice], folder: Path) -> Iterator[list[MqttDevice]]:
    """Connect devices to the server's broker with their certificates until the block ends."""
    broker = server.run["broker"]
    endpoint = BrokerEndpoint(BrokerKind(broker["kind"]), broker["host"], broker["port"], "5", folder / "unused")
    folder.mkdir()
    with ExitStack() as stack:
        there = []
        for device in devices:
            there.append(MqttDevice(device, endpoint, folder))
            stack.callback(there[-1].close)
        yield there


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run."""
    data = folder / "server"
    made = initialise(data, SystemClock(), broker="mosquitto")
    parts = build_parts(made.settings, SystemClock())
    fleet_page.seed(parts, args.devices)
    devices = enrolled(parts, 1 + TALKERS)
    words, quiet = Words(), threading.Event()
    with (
        server_process(data, made.token, timeout_s=120) as server,
        connected(server, devices, folder / "devices") as (speaker, *talkers),
        browser() as chromium,
    ):

        def from_device(number: int, word: str) -> None:
            words.said[word] = time.time()
            speaker.say(speaker.topics.event(speaker.id), failure(speaker.id, number, word))

        def from_ingest(number: int, word: str) -> None:
            parts.fleet.receiver.take_events([failure(fleet_page.device_id(number), number, word)])
            words.said[word] = time.time()

        cookie = httpx.post(f"{server.url}/login", data={"token": made.token}).cookies[COOKIE]
        context = chromium.new_context()
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": server.url}])
        page = context.new_page()
        page.goto(server.url + "/", wait_until="load")
        page.evaluate(WATCH)
        meter = Meter(server.process.pid)
        threading.Thread(target=chatter, args=(talkers, args.reports, quiet), daemon=True).start()
        telling = story(server.url, cookie, args.viewers, args.events, words, (from_device, from_ingest))
        loop = threading.Thread(target=lambda: asyncio.run(telling))
        loop.start()
        while loop.is_alive():
            page.wait_for_timeout(200)
        cores = meter.cores()
        quiet.set()
        seen = page.evaluate("window.seen")
        context.close()
    parts.db.dispose()
    return figures_of(words, seen, args.events) | cores


class Meter:
    """What a server's process and its broker use of the processors."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._broker = next(one for one in self._server.children(recursive=True) if one.name() == "mosquitto")
        self._began, self._used = time.monotonic(), self._read()

    def _read(self) -> list[float]:
        return [sum(one.cpu_times()[:2]) for one in (self._server, self._broker)]

    def cores(self) -> dict[str, float]:
        """Return the cores since the start."""
        took = time.monotonic() - self._began
        server, broker = (round((now - then) / took, 2) for now, then in zip(self._read(), self._used, strict=True))
        return {"server_cores": server, "broker_cores": broker}


def figures_of(words: Words, seen: dict[str, float], events: int) -> dict[str, Any]:
    """Return what came of the words of the device, which are the first ones, and of those at the ingest."""
    found: dict[str, Any] = {"words": len(words.said)}
    found["in_the_browser"] = sum(word in seen for word in words.said)
    found["in_the_streams"] = sum(len(late) for late in words.late.values())
    for way, some in (("", list(words.said)[:events]), ("ingest_", list(words.said)[events:])):
        late = [seen[word] / 1000 - words.said[word] for word in some if word in seen]
        streams = [one for word in some for one in words.late.get(word, ())]
        for name, values in (("browser", late), ("streams", streams)):
            found |= {f"{way}{name}_p50_ms": quantile(values, 0.5), f"{way}{name}_p95_ms": quantile(values, 0.95)}
    return found | {"asking_every_5_s_p50_ms": 2500}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return the whole result: figures, goals, and whether each holds."""
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        figures = measure(Path(folder), args)
    within = {name: figures[name] <= goal for name, goal in GOALS.items()}
    whole = figures["in_the_browser"] == figures["words"] == 2 * args.events
    whole = whole and figures["in_the_streams"] == figures["words"] * args.viewers
    result = {"bench": "live_pages", **vars(args), "goals": GOALS, **figures, "within": within}
    return result | {"ok": whole and all(within.values())}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--reports", type=float, default=1.0)
    return parser.parse_args(arguments)


def main() -> int:
    """Run the benchmark and print its figures."""
    result = run(parsed())
    machine = {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()], "arch": platform.machine()}
    print(json.dumps(result | {"machine": machine}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
