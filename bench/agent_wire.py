"""Bytes that an idle agent puts on the wire a day: a real agent with mTLS through a counting proxy, windows as often as asked.

Goal: `normal` ≤ 70 KB a day, `metered` ≤ 20 KB. Prints one JSON object.

- The proxy counts bytes and pieces in both directions; each piece is one TCP segment or more, so headers are counted as at least
  40 bytes for each, and as many for its acknowledgement. What TLS and MQTT add is counted, not guessed.
- Two runs of one model without requests: windows of `--window-s`, and none. The difference is what a window costs. Pings are
  counted apart: one goes when nothing else did for `keepalive_s` (1,200 s by default, 3,900 s where `metered = "yes"`),
  so that neither profile needs any: windows are a sign of life too.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from tests.agent.field import Agent, deploy, new_site
from tests.agent.worker.models import bundle_bytes, classifier_onnx

from edgefleet_agent.composition.agent_parts import KEEPALIVE_S, METERED_KEEPALIVE_S

HEADER_BYTES = 40
GOALS = {"normal": (96, 70_000), "metered": (24, 20_000)}
DAY_S = 86_400
KEEPALIVES_S = {"normal": KEEPALIVE_S, "metered": METERED_KEEPALIVE_S}
SETTLE_S = 8.0


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


def measured(watch_s: float, **environment: str) -> dict[str, Any]:
    """Return what went over the wire within `watch_s` of an idle, connected agent with one model."""
    with tempfile.TemporaryDirectory(prefix="ef-wire-") as name:
        site = new_site(Path(name, "server"))
        proxy = Proxy(site.endpoint.host, site.endpoint.port)
        agent = Agent(site, Path(name, "device"), None, **environment)
        _through(agent, proxy.port)
        try:
            agent.start()
            deploy(site, "1.0.0", bundle_bytes(classifier_onnx()))
            agent.wait("committed", "1.0.0")
            time.sleep(SETTLE_S)
            before, pieces, began = proxy.bytes, proxy.pieces, time.monotonic()
            time.sleep(watch_s)
            spent = time.monotonic() - began
            return {"bytes": proxy.bytes - before, "pieces": proxy.pieces - pieces, "seconds": round(spent, 1)}
        finally:
            agent.stop()
            proxy.close()
            site.close()


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
    args = parser.parse_args()
    quiet = {"EDGEFLEET_AGENT_KEEPALIVE_S": "1200"}
    nothing = measured(args.watch_s, **quiet)
    windows = measured(args.watch_s, EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S=str(args.window_s), **quiet)
    pings = measured(args.watch_s, EDGEFLEET_AGENT_KEEPALIVE_S="5")
    a_window = (wire(windows) - wire(nothing)) * args.window_s
    a_ping = (wire(pings) - wire(nothing)) * 5
    days = {name: round(a_window * n) for name, (n, _) in GOALS.items()}
    pings_a_day = {name: n * max(0, math.ceil(DAY_S / n / KEEPALIVES_S[name]) - 1) for name, (n, _) in GOALS.items()}
    whole = {name: days[name] + round(a_ping * pings) for name, pings in pings_a_day.items()}
    result = {
        "name": "agent_wire",
        "machine": {"arch": platform.machine(), "python": platform.python_version()},
        "runs": {"nothing": nothing, "windows": windows, "pings": pings},
        "bytes_a_window": round(a_window),
        "bytes_a_ping": round(a_ping),
        "telemetry_bytes_a_day": days,
        "ping_bytes_a_day": {f"keepalive {s} s": round(a_ping * DAY_S / s) for s in (60, 1_200)},
        "bytes_a_day_with_pings": whole,
        "goal_bytes_a_day": {name: goal for name, (_, goal) in GOALS.items()},
        "holds": {name: whole[name] <= goal for name, (_, goal) in GOALS.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
