"""Bytes that an idle agent puts on the wire a day: a real agent with mTLS through a counting proxy, windows as often as asked.

Goal: `normal` ≤ 70 KB a day, `metered` ≤ 20 KB, also of a busy model with 16 input signals. Prints one JSON object.

- The proxy counts bytes and pieces in both directions; each piece is one TCP segment or more, so headers are counted as at least
  40 bytes for each, and as many for its acknowledgement. What TLS and MQTT add is counted, not guessed.
- Two runs of one model without requests: windows of `--window-s`, and none. The difference is what a window costs. Pings are
  counted apart: one goes when nothing else did for `keepalive_s` (1,200 s by default, 3,900 s where `metered = "yes"`),
  so that neither profile needs any: windows are a sign of life too.
- A third run answers ANSWERS requests a window, and tells its signals with each. What they take is known to the byte (the payload of
  the same windows without them), so a day is that of windows without signals, and of as many signals as the profile tells: over
  SIGNALS_S of seconds, counted as those of that many answers.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.agent.field import Agent, deploy, new_site
from tests.agent.worker.models import bundle_bytes, classifier_onnx, reference_bytes, table_onnx
from tests.server.gateway.conftest import Site

from edgefleet_agent.client import Model
from edgefleet_agent.composition.agent_parts import KEEPALIVE_S, METERED_KEEPALIVE_S
from edgefleet_agent.reporting.window import SIGNALS_S
from edgefleet_protocol.drift.histogram import merged_windows, pack, unpack
from edgefleet_protocol.drift.reference import MEMBER
from edgefleet_protocol.messages import Telemetry, Window, encode_short

HEADER_BYTES = 40
GOALS = {"normal": (96, 70_000), "metered": (24, 20_000)}
DAY_S = 86_400
KEEPALIVES_S = {"normal": KEEPALIVE_S, "metered": METERED_KEEPALIVE_S}
SETTLE_S = 8.0
ANSWERS = 900
FEATURES, CLASSES = 16, 10


class Proxy:
    """Passes bytes between one agent and the broker, and counts them."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes = 0
        self.pieces = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                self.bytes += len(data)
                self.pieces += 1
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


def measured(watch_s: float, environment: Mapping[str, str], busy_s: float = 0.0) -> dict[str, Any]:
    """Return what went over the wire within `watch_s` of a connected agent with one model. busy_s: with ANSWERS answers in so long."""
    data = _busy_bundle() if busy_s else bundle_bytes(classifier_onnx())
    with tempfile.TemporaryDirectory(prefix="ef-wire-") as name:
        site = new_site(Path(name, "server"))
        proxy = Proxy(site.endpoint.host, site.endpoint.port)
        agent = Agent(site, Path(name, "device"), None, **environment)
        _through(agent, proxy.port)
        try:
            agent.start()
            deploy(site, "1.0.0", data)
            agent.wait("committed", "1.0.0")
            stop = threading.Event()
            if busy_s:
                threading.Thread(target=_ask, args=(agent, busy_s / ANSWERS, stop), daemon=True).start()
            time.sleep(SETTLE_S)
            seen = _windows_of(site)
            before, pieces, began = proxy.bytes, proxy.pieces, time.monotonic()
            time.sleep(watch_s)
            spent = time.monotonic() - began
            found = {"bytes": proxy.bytes - before, "pieces": proxy.pieces - pieces, "seconds": round(spent, 1)}
            stop.set()
            return {**found, "windows": list(seen)}
        finally:
            agent.stop()
            proxy.close()
            site.close()


def _busy_bundle() -> bytes:
    """Return a bundle of a classifier of 16 columns with a reference of 10,000 samples."""
    model = table_onnx(FEATURES, CLASSES)
    x = np.random.default_rng(1).normal(size=(10_000, FEATURES)).astype(np.float32)
    labels = "".join(f"class {i}\n" for i in range(CLASSES)).encode()
    return bundle_bytes(model, extra={"labels.txt": labels, MEMBER: reference_bytes(model, x)})


def _ask(agent: Agent, pause_s: float, stop: threading.Event) -> None:
    """Ask for one answer after another, at a steady pace, over one connection; what drifts a little, as real inputs do."""
    draw = np.random.default_rng(2)
    client = Model("digits", url=agent.status()["infer_url"])
    due = time.monotonic()
    while not stop.is_set():
        client.predict(draw.normal(0.1, 1.1, size=(1, FEATURES)).astype(np.float32))
        due += pause_s
        time.sleep(max(0.0, due - time.monotonic()))


def _windows_of(site: Site) -> list[Window]:
    """Return a list into which the windows go that the server stores from now on."""
    seen: list[Window] = []
    telemetry, store = site.house.telemetry, site.house.telemetry.ingest

    def ingest(messages: Sequence[Telemetry]) -> int:
        seen.extend(window for message in messages for window in message.windows)
        return store(messages)

    telemetry.ingest = ingest  # type: ignore[method-assign]  # a look at what passes
    return seen


def busy_day(run: dict[str, Any], a_window: float) -> dict[str, Any]:
    """Return what a busy model costs a day by profile. a_window: bytes on the wire of its windows, signals among them."""
    told = [window for window in run["windows"] if window.signals]
    signals = sum(_signal_bytes(window, window.signals) for window in told) / len(run["windows"])
    plain, days, sizes = a_window - signals, {}, {}
    for name, (n, _) in GOALS.items():
        parts = [unpack(window.signals) for window in told]
        most = max(1, SIGNALS_S[name] * n // DAY_S)
        whole = merged_windows((parts * most)[:most])
        sizes[name] = _signal_bytes(told[0], pack(whole))
        days[name] = round(n * plain + DAY_S / SIGNALS_S[name] * sizes[name])
    payload = statistics.median(len(encode_short(window)) for window in told)
    return {
        "answers_a_window": round(statistics.mean(window.n for window in run["windows"])),
        "signals": len(unpack(told[0].signals)),
        "bytes_a_window": round(plain),
        "payload_of_a_window_with_signals": round(payload),
        "signal_bytes": sizes,
        "bytes_a_day": days,
    }


def _signal_bytes(window: Window, signals: bytes) -> int:
    """Return how many bytes signals add to a window."""
    full = msgspec.structs.replace(window, signals=signals)
    bare = msgspec.structs.replace(window, basis=b"", signals=b"", signals_s=0)
    return len(encode_short(full)) - len(encode_short(bare))


def _through(agent: Agent, port: int) -> None:
    """Let the agent reach its broker through the proxy."""
    from edgefleet_agent.core.durable import encode_record, read_record, write_file
    from edgefleet_agent.identity.store import RECORD_FILE, Identity

    path = agent.state / "identity" / RECORD_FILE
    identity = read_record(Identity, path)
    assert identity is not None
    write_file(path, encode_record(msgspec.structs.replace(identity, broker_port=port)))


def wire(run: dict[str, Any]) -> float:
    """Return bytes a second with headers."""
    return float((run["bytes"] + 2 * HEADER_BYTES * run["pieces"]) / run["seconds"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watch-s", type=float, default=60.0)
    parser.add_argument("--window-s", type=int, default=2)
    parser.add_argument("--busy-s", type=int, default=4, help="length of the windows with 900 answers each")
    args = parser.parse_args()
    quiet = {"EDGEFLEET_AGENT_KEEPALIVE_S": "1200"}
    nothing = measured(args.watch_s, quiet)
    windows = measured(args.watch_s, {"EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": str(args.window_s), **quiet})
    pings = measured(args.watch_s, {"EDGEFLEET_AGENT_KEEPALIVE_S": "5"})
    busy = measured(args.watch_s, {"EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": str(args.busy_s), **quiet}, args.busy_s)
    day = busy_day(busy, (wire(busy) - wire(nothing)) * busy["seconds"] / max(1, len(busy["windows"])))
    for run in (nothing, windows, pings, busy):
        run["windows"] = len(run["windows"])
    a_window = (wire(windows) - wire(nothing)) * args.window_s
    a_ping = (wire(pings) - wire(nothing)) * 5
    days = {name: round(a_window * n) for name, (n, _) in GOALS.items()}
    pings_a_day = {name: n * max(0, math.ceil(DAY_S / n / KEEPALIVES_S[name]) - 1) for name, (n, _) in GOALS.items()}
    whole = {name: days[name] + round(a_ping * pings) for name, pings in pings_a_day.items()}
    result = {
        "name": "agent_wire",
        "machine": {"arch": platform.machine(), "python": platform.python_version()},
        "runs": {"nothing": nothing, "windows": windows, "pings": pings, "busy": busy},
        "bytes_a_window": round(a_window),
        "bytes_a_ping": round(a_ping),
        "telemetry_bytes_a_day": days,
        "ping_bytes_a_day": {f"keepalive {s} s": round(a_ping * DAY_S / s) for s in (60, 1_200)},
        "bytes_a_day_with_pings": whole,
        "goal_bytes_a_day": {name: goal for name, (_, goal) in GOALS.items()},
        "busy": day,
        "holds": {name: max(whole[name], day["bytes_a_day"][name]) <= goal for name, (_, goal) in GOALS.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
