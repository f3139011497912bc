"""Telemetry windows: pure sums. Everything in a window adds up, so windows merge without loss (docs/operate/bandwidth.md)."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.comparison import merge_shadows
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, pack, unpack
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.messages import Telemetry, Window, decode, encode_short
from edgefleet_protocol.short_form import single
from edgefleet_protocol.sketch import LatencySketch

INTERVALS_S: Mapping[str, int] = {"normal": 900, "live": 60, "metered": 3_600}
SIGNALS_S: Mapping[str, int] = {"normal": 3_600, "live": 0, "metered": 21_600}
"""How much time signals in one window cover: they are most of its bytes."""
LEAST_TOLD = 20
"""Signals of fewer answers wait for more: a sum over one answer is its input (docs/operate/privacy.md)."""
MAX_CLASSES = 256
MAX_WINDOWS = 64
MAX_PAYLOAD_BYTES = 32 * 1024
"""Of one telemetry message."""

log = logging.getLogger(__name__)


class Cpu(Protocol):
    """A worker's CPU seconds as it reported them last."""

    cpu_s: float


@dataclass(slots=True)
class SignalTotals:
    """Signals of one model and lane since they were told last. seconds: of the windows before this one that they cover.

    is_last: no window of this version follows.
    """

    basis: bytes = b""
    sums: list[SignalSums] = field(default_factory=list)
    seconds: int = 0
    is_last: bool = False

    def add(self, basis: bytes, packed: bytes) -> None:
        """Add what a worker counted; what was counted by other bins before is gone then. Raises ValueError for what nobody counted."""
        fresh = unpack(packed)
        if basis != self.basis:
            self.basis, self.sums, self.seconds = basis, [], 0
        self.sums = merged_windows([self.sums, fresh]) if self.sums else fresh

    def told(self, length_s: int, every_s: int) -> dict[str, Any]:
        """Return the fields of a window of length_s, none of them before every_s or for few answers; what is told is gone."""
        self.seconds += length_s
        most = max((one.n + one.missing for one in self.sums), default=0)
        if (self.seconds < every_s - length_s // 2 and not self.is_last) or 0 < most < LEAST_TOLD:
            return {}
        seconds, self.seconds = self.seconds, 0
        sums, self.sums = self.sums, []
        return {"basis": self.basis, "signals": pack(sums), "signals_s": seconds} if sums else {}


@dataclass(slots=True)
class Sums:
    """Running figures of one model and lane since the window began. `classes`: counts by class index.

    signals: since they were told last, which may be some windows ago.
    """

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
    signals: SignalTotals = field(default_factory=SignalTotals)

    def following(self, sha256: str, version: str) -> "Sums":
        """Return the sums of the next window of a version."""
        return Sums(sha256, version, signals=self.signals) if sha256 == self.sha256 else Sums(sha256, version)

    def add(self, stats: Stats, worker: Cpu) -> None:
        """Add what a worker reported since its last report. A bad latency sketch is logged and left out."""
        self.n += stats.n
        self.errors += stats.errors
        self.timeouts += stats.timeouts
        self.nonfinite += stats.nonfinite
        try:
            self.latency.merge(LatencySketch.unpacked(stats.latency))
        except ValueError:
            log.warning("worker sent a bad latency sketch", extra={"sha256": self.sha256})
        if stats.signals:
            try:
                self.signals.add(stats.basis, stats.signals)
            except ValueError:
                log.warning("worker sent bad signals", extra={"sha256": self.sha256})
        for index, count in enumerate(stats.classes):
            self.classes[index] = self.classes.get(index, 0) + count
        self.rss_bytes = stats.rss_bytes
        self.cpu_s += stats.cpu_s - worker.cpu_s
        worker.cpu_s = stats.cpu_s

    def closed(self, model: str, lane: str, t0: int, length_s: int, signals_every_s: int = 0) -> Window:
        """Return the window. t0: unix seconds. signals_every_s: signals come along once they cover so much time."""
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
            worker_cpu_s=single(self.cpu_s),
            **self.signals.told(length_s, signals_every_s),
        )


def signals_every_s(interval: int) -> int:
    """Return how much time signals cover where windows last `interval`."""
    return SIGNALS_S["live" if interval <= 60 else "normal" if interval <= 900 else "metered"]


def interval_s(profile: str, until_s: int, now_s: int, override_s: int, *, is_metered: bool = False) -> int:
    """Return the window length: the override, else the profile's while it is in force, else `normal`.

    is_metered: the device itself knows that its bytes cost money: then `normal` becomes `metered`. `live` stays what it is:
    it was asked for, and for some minutes only.
    """
    if override_s > 0:
        return override_s
    in_force = until_s == 0 or now_s < until_s
    chosen = profile if in_force and profile in INTERVALS_S else "normal"
    return INTERVALS_S["metered" if is_metered and chosen == "normal" else chosen]


def merge_windows(older: list[Window], newer: list[Window]) -> list[Window]:
    """Return windows that stand for both lists: same model, lane and digest added up over the joined time.

    Raises ValueError where their ground truth is too much for one window.
    """
    merged: dict[tuple[str, str, str], Window] = {}
    for window in [*older, *newer]:
        key = (window.model, window.lane, window.sha256)
        known = merged.get(key)
        merged[key] = window if known is None else _sum(known, window)
    return list(merged.values())


def first_window_s(device: str, interval: int) -> float:
    """Return how long the first window after a start lasts: a device's own part of the interval, at least a quarter of it.

    Power that returns to a whole site starts all its devices in one moment; they must not speak in one moment ever after.
    """
    return interval * (0.25 + 0.75 * own_part(device))


def own_part(device: str) -> float:
    """Return a number from 0 to 1 that is the device's own."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") / 2**64


def begins_s(payload: bytes) -> int:
    """Return when a telemetry payload begins, unix seconds; 0 when it holds no window or is not readable."""
    try:
        windows = decode(Telemetry, payload).windows
    except BadMessageError:
        return 0
    return min((window.t0 for window in windows), default=0)


def merge_payloads(older: bytes, newer: bytes) -> bytes | None:
    """Return one telemetry payload whose windows are the sums of both, under the newer one's name; None when that cannot be."""
    return _joined(older, newer, merge_windows)


def pack_payloads(older: bytes, newer: bytes) -> bytes | None:
    """Return one telemetry payload with the windows of both as they are, under the newer one's name; None when it is too big."""
    return _joined(older, newer, lambda first, second: [*first, *second])


def _joined(older: bytes, newer: bytes, join: Callable[[list[Window], list[Window]], list[Window]]) -> bytes | None:
    try:
        first, second = decode(Telemetry, older), decode(Telemetry, newer)
    except BadMessageError:
        return None
    try:
        windows = join(first.windows, second.windows)
    except ValueError:
        return None
    if len(windows) > MAX_WINDOWS:
        return None
    joined = first.joined + second.joined + 1
    payload = encode_short(msgspec.structs.replace(second, windows=windows, joined=joined))
    return payload if len(payload) <= MAX_PAYLOAD_BYTES else None


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
        worker_cpu_s=single(a.worker_cpu_s + b.worker_cpu_s),
        worker_rss_bytes=max(a.worker_rss_bytes, b.worker_rss_bytes),
        shadow=b.shadow if a.shadow is None else a.shadow if b.shadow is None else merge_shadows([a.shadow, b.shadow]),
        joules_per_answer=_joules(a, b),
        **_signals(a, b),
        truth=_truth(a, b),
    )


def _signals(a: Window, b: Window) -> dict[str, Any]:
    """Return the signals of both, a being the older; of the newer alone where they are counted by other bins, or cannot be read."""
    if not a.signals or not b.signals:
        chosen = b if b.signals else a
    else:
        chosen = b
        if a.basis == b.basis:
            try:
                signals = pack(merged_windows([unpack(a.signals), unpack(b.signals)]))
            except ValueError:
                log.warning("signals of two windows cannot be added", extra={"model": b.model, "sha256": b.sha256})
            else:
                return {"basis": b.basis, "signals": signals, "signals_s": a.signals_s + b.signals_s}
    return {"basis": chosen.basis, "signals": chosen.signals, "signals_s": chosen.signals_s}


def _truth(a: Window, b: Window) -> bytes:
    """Return the ground truth of both, a being the older; of the newer alone where they cannot be read.

    Raises ValueError where both are too much for one window.
    """
    if not a.truth or not b.truth:
        return b.truth or a.truth
    from edgefleet_protocol import ground_truth  # a device without labels does not carry it

    try:
        both = ground_truth.merged(ground_truth.unpack(a.truth), ground_truth.unpack(b.truth))
    except ValueError:
        log.warning("ground truth of two windows cannot be added", extra={"model": b.model, "sha256": b.sha256})
        return b.truth
    packed = ground_truth.pack(both)
    ground_truth.unpack(packed)
    return packed


def _joules(a: Window, b: Window) -> float:
    """Return the mean over the answers of both; -1 where neither is known."""
    known = [one for one in (a, b) if one.joules_per_answer >= 0 and one.n > 0]
    n = sum(one.n for one in known)
    return sum(one.joules_per_answer * one.n for one in known) / n if n else -1.0
