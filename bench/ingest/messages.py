"""Telemetry as agents send it: the short form of real windows, thousands of messages in seconds."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgefleet_agent.reporting.window import Sums
from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.short_form import shortened
from edgefleet_protocol.sketch import LatencySketch

INTERVAL_S = 900
ANSWERS = 900
CLASSES = 4
MODELS = 4
SHAPES = 64
_ENCODE = msgspec.msgpack.Encoder().encode


class _Worker:
    cpu_s = 0.0


def window_shapes(digests: Sequence[str] = (), **more: Any) -> list[Window]:
    """Return windows of MODELS models, each of ANSWERS answers, as an agent closes them.

    digests: of the models' bundles, else some that no bundle has. more: fields of all of them.
    """
    digests = digests or [f"{model:064x}" for model in range(MODELS)]
    draw = random.Random(1)
    found = []
    for number in range(SHAPES):
        sketch = LatencySketch()
        for _ in range(ANSWERS):
            sketch.add(0.005 * draw.lognormvariate(0.0, 0.1))
        model = number % MODELS
        sums = Sums(digests[model], "1.0.0")
        classes = [draw.randint(100, 300) for _ in range(CLASSES)]
        stats = Stats(
            n=ANSWERS,
            errors=draw.randint(0, 2),
            latency=sketch.packed(),
            classes=classes,
            rss_bytes=90_000_000,
            cpu_s=4.5,
        )
        sums.add(stats, _Worker())
        found.append(msgspec.structs.replace(sums.closed(f"model-{model}", "active", 0, INTERVAL_S), **more))
    return found


def messages(device: str, boot: str, count: int, windows: int, shapes: list[Window]) -> Iterator[bytes]:
    """Yield messages of a device that was away: each of the windows of its models, interval after interval until now."""
    short = [shortened(one) for one in shapes]
    system = SystemFigures(
        cpu_ratio=0.25, agent_rss_bytes=30_000_000, memory_available_bytes=2_000_000_000, load_1m=0.5
    )
    intervals = max(1, windows // MODELS)
    now = int(time.time())
    start = now - count * intervals * INTERVAL_S - hash(device) % INTERVAL_S
    for seq in range(1, count + 1):
        end = start + seq * intervals * INTERVAL_S
        base = shortened(Telemetry(device=device, boot_id=boot, seq=seq, ts=end * 1000, windows=[], system=system))
        base[5] = [
            [end - (intervals - number // MODELS) * INTERVAL_S, *short[(seq * windows + number) % len(short)][1:]]
            for number in range(windows)
        ]
        yield _ENCODE(base)
