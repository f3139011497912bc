"""Devices whose signals move: a bundle with a reference, and windows counted by its bins from seeded values."""

import datetime as dt
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgefleet_protocol.bundle import write_bundle
from edgefleet_protocol.drift.histogram import EXTREME_PARTS, Z_PARTS, SignalSums, pack
from edgefleet_protocol.drift.reference import (
    MEMBER,
    Confidence,
    Reference,
    Signal,
    SignalKind,
    basis_of,
    write_reference,
)
from edgefleet_protocol.ids import ModelName, ProfileName, Version
from edgefleet_protocol.messages import Telemetry, Window
from tests.support.samples import MANIFEST

Z_EDGES = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]
"""Inner deciles of a normal distribution."""
NAMES = ("temperature", "pressure", "current")
MEANS = {"temperature": 20.0, "pressure": 1000.0, "current": 3.0}
STDS = {"temperature": 2.0, "pressure": 10.0, "current": 0.5}


def reference(
    n: int = 100_000, *, classes: Sequence[int] = (60_000, 40_000), with_confidence: bool = True
) -> Reference:
    """Return the reference of three normal inputs, one output and the confidence."""
    features = [_signal(name, SignalKind.NUMERIC, n) for name in NAMES]
    outputs = [_signal("score", SignalKind.OUTPUT, n)]
    edges = [round(0.1 * i, 1) for i in range(1, 10)]
    counts = [0, 0, 0, 0, 0, n // 10, n // 10, n // 10, n // 5, n // 2]
    sure = Confidence(edges=edges, counts=counts) if with_confidence else Confidence()
    return Reference(n=n, features=features, outputs=outputs, classes=list(classes), confidence=sure)


def _signal(name: str, kind: SignalKind, n: int) -> Signal:
    mean, std = MEANS.get(name, 0.0), STDS.get(name, 1.0)
    return Signal(
        name=name,
        kind=kind,
        mean=mean,
        std=std,
        low=mean - 4 * std,
        high=mean + 4 * std,
        edges=[round(mean + std * edge, 6) for edge in Z_EDGES],
        counts=[n // 10] * 10,
    )


def bundle_bytes(
    model: str, version: str, profile: str, made: Reference | None, salt: str = "", *, size: int = 100
) -> bytes:
    """Return a real bundle with a reference, or without one."""
    manifest = msgspec.structs.replace(
        MANIFEST, model=ModelName(model), version=Version(version), profile=ProfileName(profile), members={}
    )
    members = {"model.onnx": (model + version + profile + salt).encode() * size, "golden.npz": b"golden"}
    if made is not None:
        members[MEMBER] = write_reference(made)
    return write_bundle(members, manifest)


def counted(
    made: Reference,
    n: int,
    seed: int,
    *,
    shift: Mapping[str, float] | None = None,
    spread: float = 0.0,
    missing: Mapping[str, int] | None = None,
) -> list[SignalSums]:
    """Return what a device counts in n answers. shift: of signals in sigma; spread: of the device's own mean, in sigma."""
    found = []
    for number, signal in enumerate(made.signals):
        draw = random.Random(f"{seed}/{number}")
        gone = (missing or {}).get(signal.name, 0)
        if signal.kind == SignalKind.CONFIDENCE:
            bins = [0] * signal.bins
            for _ in range(n):
                bins[_drawn(draw, signal.counts, (shift or {}).get("confidence", 0.0))] += 1
            found.append(SignalSums(tuple(bins), total=0, squares=n * Z_PARTS))
            continue
        own = random.Random(f"{seed // 1000}/{number}").gauss(0, spread) if spread else 0.0
        zs = [draw.gauss((shift or {}).get(signal.name, 0.0) + own, 1.0) for _ in range(n - gone)]
        found.append(_sums(zs, gone))
    return found


def _drawn(draw: random.Random, counts: Sequence[int], lower: float) -> int:
    at = draw.choices(range(len(counts)), counts)[0]
    return max(0, at - 2) if draw.random() < lower else at


def _sums(zs: Sequence[float], missing: int) -> SignalSums:
    bins = [0] * (len(Z_EDGES) + 1)
    for z in zs:
        bins[bisect_right(Z_EDGES, z)] += 1
    parts = [round(z * Z_PARTS) for z in zs]
    return SignalSums(
        tuple(bins),
        missing=missing,
        beyond=sum(abs(z) > 4 for z in zs),
        total=sum(parts),
        squares=sum(round(z * z * Z_PARTS) for z in zs),
        low=round(min(zs, default=0) * EXTREME_PARTS),
        high=round(max(zs, default=0) * EXTREME_PARTS),
    )


def window(
    made: Reference,
    sha256: str,
    sums: Sequence[SignalSums],
    t0: dt.datetime,
    *,
    length_s: int = 300,
    covered_s: int | None = None,
    model: str = "pump",
    version: str = "1.0.0",
    lane: str = "active",
    classes: Sequence[int] = (),
    basis: bytes | None = None,
) -> Window:
    """Return a window that carries signals."""
    n = max((one.n + one.missing for one in sums), default=0)
    return Window(
        t0=int(t0.timestamp()),
        length_s=length_s,
        model=model,
        lane=lane,
        sha256=sha256,
        version=version,
        n=n,
        latency=[],
        classes=list(classes),
        basis=basis_of(made) if basis is None else basis,
        signals=pack(sums),
        signals_s=length_s if covered_s is None else covered_s,
    )


def message(device: str, seq: int, *windows: Window) -> Telemetry:
    """Return a message of a device."""
    return Telemetry(device=device, boot_id="b", seq=seq, ts=windows[0].t0 * 1000, windows=list(windows))


Shift = Callable[[str], Mapping[str, float]]
"""How much each signal of a device moved, in sigma."""
