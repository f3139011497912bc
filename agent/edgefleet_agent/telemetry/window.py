"""Telemetry windows: pure sums. Everything in a window adds up, so windows merge without loss (`agent.md` §5.6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from edgefleet_protocol.comparison import merge_shadows
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.messages import Telemetry, Window, decode, encode
from edgefleet_protocol.sketch import LatencySketch

INTERVALS_S: Mapping[str, int] = {"normal": 900, "live": 60, "metered": 3_600}
MAX_CLASSES = 256
MAX_WINDOWS = 64


@dataclass(slots=True)
class Sums:
    """Running figures of one model and lane since the window began. `classes`: counts by class index."""

    sha256: str
    version: str
    n: int = 0
    errors: int = 0
    timeouts: int = 0
    nonfinite: int = 0
    crashes: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)
    classes: dict[int, int] = field(default_factory=dict)
    rss_bytes: int = -1
    cpu_s: float = 0.0

    def closed(self, model: str, lane: str, t0: int, length_s: int) -> Window:
        """Return the window. t0: unix seconds."""
        highest = max((c for c in self.classes if 0 <= c < MAX_CLASSES), default=-1)
        return Window(
            t0=t0,
            length_s=length_s,
            model=model,
            lane=lane,
            sha256=self.sha256,
            version=self.version,
            n=self.n,
            errors=self.errors,
            timeouts=self.timeouts,
            nonfinite=self.nonfinite,
            crashes=self.crashes,
            latency=self.latency.packed(),
            classes=[self.classes.get(i, 0) for i in range(highest + 1)],
            worker_rss_bytes=self.rss_bytes,
            worker_cpu_s=self.cpu_s,
        )


def interval_s(profile: str, until_s: int, now_s: int, override_s: int) -> int:
    """Return the window length: the override, else the profile's while it is in force, else `normal`."""
    if override_s > 0:
        return override_s
    in_force = until_s == 0 or now_s < until_s
    return INTERVALS_S.get(profile, INTERVALS_S["normal"]) if in_force else INTERVALS_S["normal"]


def merge_windows(older: list[Window], newer: list[Window]) -> list[Window]:
    """Return windows that stand for both lists: same model, lane and digest added up over the joined time."""
    merged: dict[tuple[str, str, str], Window] = {}
    for window in [*older, *newer]:
        key = (window.model, window.lane, window.sha256)
        known = merged.get(key)
        merged[key] = window if known is None else _sum(known, window)
    return list(merged.values())


def merge_payloads(older: bytes, newer: bytes) -> bytes | None:
    """Return one telemetry payload for two, under the newer one's seq; None when they are not of one boot or not readable."""
    try:
        first, second = decode(Telemetry, older), decode(Telemetry, newer)
    except BadMessageError:
        return None
    if first.boot_id != second.boot_id:
        return None
    windows = merge_windows(first.windows, second.windows)
    return encode(msgspec.structs.replace(second, windows=windows)) if len(windows) <= MAX_WINDOWS else None


def _sum(a: Window, b: Window) -> Window:
    latency = LatencySketch.merged([LatencySketch.unpacked(a.latency), LatencySketch.unpacked(b.latency)])
    size = max(len(a.classes), len(b.classes))
    classes = [
        (a.classes[i] if i < len(a.classes) else 0) + (b.classes[i] if i < len(b.classes) else 0) for i in range(size)
    ]
    t0 = min(a.t0, b.t0)
    return msgspec.structs.replace(
        b,
        t0=t0,
        length_s=max(a.t0 + a.length_s, b.t0 + b.length_s) - t0,
        n=a.n + b.n,
        errors=a.errors + b.errors,
        timeouts=a.timeouts + b.timeouts,
        nonfinite=a.nonfinite + b.nonfinite,
        crashes=a.crashes + b.crashes,
        latency=latency.packed(),
        classes=classes,
        worker_cpu_s=a.worker_cpu_s + b.worker_cpu_s,
        worker_rss_bytes=max(a.worker_rss_bytes, b.worker_rss_bytes),
        shadow=b.shadow if a.shadow is None else a.shadow if b.shadow is None else merge_shadows([a.shadow, b.shadow]),
        joules_per_answer=_joules(a, b),
    )


def _joules(a: Window, b: Window) -> float:
    """Return the mean over the answers of both; -1 where neither is known."""
    known = [one for one in (a, b) if one.joules_per_answer >= 0 and one.n > 0]
    n = sum(one.n for one in known)
    return sum(one.joules_per_answer * one.n for one in known) / n if n else -1.0
