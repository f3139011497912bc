"""Weeks without a connection, by a fake clock: the real outbox and its drain, fed as agentd feeds them, restarted now and then.

- n: days offline. Every second day brings an orderly restart; each restart has another boot id.
- Three devices in one run: `normal` (a window of 15 min), `live` (60 s, as if the server had asked for it and was never heard
  again), and `crowded` (as `live`, with a file a tenth as large), so that hours and days must be added up.
- Held: no event lost, the sums of all windows equal to what went in, nothing dropped, file and log within their bytes at all times.
- The drain is what one device sends when it is back: over a link of 1 Mbit/s with 50 ms to the broker, of which it may take a
  fifth, 20 messages a second at most. Goal: 60 s for `normal`.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefleet_agent.connection.outbox import Joins, Kind, Outbox
from edgefleet_agent.connection.sender import OutboxSender
from edgefleet_agent.reporting.window import begins_s, merge_payloads, pack_payloads
from edgefleet_protocol.messages import Event, EventKind, Telemetry, Window, decode, encode
from edgefleet_protocol.sketch import LatencySketch
from tests.agent.test_drain import Simulated

DAY_S = 86_400
BYTES = 16 * 1024 * 1024
LINK_BYTES_S = 125_000.0
DRAIN_GOAL_S = 60.0
DEVICES = {"normal": (900, BYTES), "live": (60, BYTES), "crowded": (60, BYTES // 10)}
JOINS = Joins(merge_payloads, pack_payloads, begins_s)
Sums = Counter[tuple[str, str, str, int]]


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run each device for `n` days offline, then let it drain; return what was found."""
    results = {name: one(name, n, seed) for name in DEVICES}
    return {**results, "ok": all(result["ok"] for result in results.values())}


@dataclass
class _Told:
    """What went in, or arrived."""

    events: set[tuple[str, int]] = field(default_factory=set)
    sums: Sums = field(default_factory=Counter)
    messages: set[tuple[str, int]] = field(default_factory=set)

    def windows(self, windows: list[Window]) -> None:
        """Add up windows, bucket by bucket."""
        for window in windows:
            self.add(window, "n", 0, window.n)
            self.add(window, "errors", 0, window.errors)
            for bucket, count in LatencySketch.unpacked(window.latency).counts.items():
                self.add(window, "latency", bucket, count)
            for index, count in enumerate(window.classes):
                self.add(window, "class", index, count)

    def add(self, window: Window, what: str, index: int, count: int) -> None:
        """Add one count."""
        if count:
            self.sums[window.model, window.sha256[:2], what, index] += count


def one(name: str, days: int, seed: int) -> dict[str, Any]:
    """Return how one device did."""
    every_s, cap = DEVICES[name]
    chance = random.Random(f"{seed} {name}")
    went_in, arrived = _Told(), _Told()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.db"
        now, boot, seq, most = 0.0, 0, 0, 0
        box = Outbox(path, cap, JOINS)
        for step in range(days * DAY_S // every_s):
            now += every_s
            seq += 1
            _window(box, went_in, chance, boot, seq, now, every_s)
            if chance.random() < 10 * every_s / DAY_S:
                _event(box, went_in, boot, seq, now)
            box.spill(now)
            if step % max(1, 3_600 // every_s) == 0:
                most = max(most, _on_disk(Path(folder)))
            if chance.random() < every_s / (2 * DAY_S):
                box.close()
                most = max(most, _on_disk(Path(folder)))
                box, boot, seq = Outbox(path, cap, JOINS), boot + 1, 0
        waiting, merged, dropped = len(box), box.merged, box.dropped_by
        took_s, sent = _drain(box, arrived, now)
        box.close()
    return {
        "windows": len(went_in.messages),
        "events": len(went_in.events),
        "restarts": boot,
        "most_on_disk_bytes": most,
        "cap_bytes": cap,
        "messages_when_back": waiting,
        "merged": merged,
        "dropped": dropped,
        "drain_s": round(took_s, 1),
        "drain_messages": sent[0],
        "drain_bytes": sent[1],
        "events_lost": len(went_in.events - arrived.events),
        "sketches_exact": went_in.sums == arrived.sums,
        "ok": (
            went_in.events == arrived.events
            and went_in.sums == arrived.sums
            and not any(dropped)
            and most <= cap
            and (name != "normal" or took_s <= DRAIN_GOAL_S)
        ),
    }


def _window(box: Outbox, told: _Told, chance: random.Random, boot: int, seq: int, now: float, every_s: int) -> None:
    windows = []
    for model in ("digits", "doors", "noise")[: chance.randint(1, 3)]:
        sketch = LatencySketch({chance.randint(300, 340): chance.randint(1, 50) for _ in range(8)})
        classes = [chance.randint(0, 90) for _ in range(10)]
        digest = ("a" if now < 10 * DAY_S else "b") * 64
        windows.append(
            Window(
                t0=int(now) - every_s,
                length_s=every_s,
                model=model,
                lane="active",
                sha256=digest,
                version="1.0.0",
                n=sketch.n,
                errors=chance.randint(0, 2),
                latency=sketch.packed(),
                classes=classes,
            )
        )
    told.windows(windows)
    told.messages.add((f"boot-{boot}", seq))
    message = Telemetry(device="d-1", boot_id=f"boot-{boot}", seq=seq, ts=int(now) * 1000, windows=windows)
    box.add(Kind.TELEMETRY, f"boot-{boot}", seq, encode(message), now)


def _event(box: Outbox, told: _Told, boot: int, seq: int, now: float) -> None:
    event = Event(
        device="d-1", boot_id=f"boot-{boot}", seq=seq, ts=int(now) * 1000, kind=EventKind.PHASE, reason="x" * 80
    )
    told.events.add((event.boot_id, event.seq))
    box.add(Kind.EVENT, event.boot_id, seq, encode(event), now)


def _drain(box: Outbox, told: _Told, now: float) -> tuple[float, tuple[int, int]]:
    """Let the device send all it has; return the seconds that took, and (messages, bytes)."""
    link = Simulated(bytes_s=LINK_BYTES_S)
    link.now = now
    drain = OutboxSender(box, link, lambda kind: kind.name, link.monotonic_s, link.later, 0)

    def stored(mid: int) -> None:
        topic, data = link.sent_as[mid]
        if topic == Kind.EVENT.name:
            event = decode(Event, data)
            told.events.add((event.boot_id, event.seq))
            box.ack(Kind.EVENT, event.boot_id, [event.seq])
        else:
            message = decode(Telemetry, data)
            if (message.boot_id, message.seq) not in told.messages:  # as the server: counts once
                told.messages.add((message.boot_id, message.seq))
                told.windows(message.windows)
            box.ack(Kind.TELEMETRY, message.boot_id, [message.seq])
        drain.published(mid)
        drain.pump()

    link.published = stored
    drain.pump()
    while len(box) and link.now - now < DAY_S:
        link.run(link.now + 0.1)
        drain.pump()
    return link.now - now, (len(link.taken), drain.bytes_out)


def _on_disk(folder: Path) -> int:
    """Return the bytes of the file, its log and its index of the log."""
    return sum(file.stat().st_size for file in folder.iterdir())
