"""The reference of a bundle: the signals of a model when all is well, as histograms that add up (`reference.msgpack`).

1. A signal is one number, or one of a few values, a sample: a column of a table, a figure of an image, a regression output, the confidence.
2. The bins of a signal never change while its bundle is served, so histograms of all devices and times add up exactly. `basis` names
   them: what was counted by other bins is never added.
3. A value equal to an edge falls into the bin above. A categorical signal has a bin a value and a last one for all others.
4. `z` of a value is (value - mean) / std: the unit in which sums, least and greatest values travel.
"""

from __future__ import annotations

import hashlib
import math
from enum import StrEnum
from typing import Any, Final

import msgspec

from edgefleet_protocol.errors import EdgefleetError

MAX_SIGNALS: Final = 256
MAX_BINS: Final = 64
BASIS_BYTES: Final = 8
MEMBER: Final = "reference.msgpack"


class SignalKind(StrEnum):
    """Where a signal comes from, and with that what a drift of it means. Public, never renamed."""

    NUMERIC = "numeric"
    """A number of an input: data drift."""
    CATEGORICAL = "categorical"
    """One of a few values of an input: data drift."""
    IMAGE = "image"
    """A figure of a picture (brightness, contrast, blur, a channel's mean): data drift."""
    OUTPUT = "output"
    """A number that the model answers: prediction drift."""
    CONFIDENCE = "confidence"
    """The winning class's probability: prediction drift."""
    CLASSES = "classes"
    """The answered classes: prediction drift. Counted by class, not by bins."""


class BadReferenceError(EdgefleetError):
    """A reference.msgpack is not one."""

    code = "bundle.bad_reference"


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signal in the reference. mean, std: of all samples, in the signal's unit; low, high: the least and the greatest seen.

    edges: inner edges of the bins, rising; values: of a categorical signal instead. counts: of the samples, a bin each.
    missing: samples without a usable value. hours: counts of the samples by part of the day, where their time is known:
    "0" … "5" are four hours each, UTC.
    """

    name: str
    kind: str = SignalKind.NUMERIC
    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0
    edges: list[float] = []
    values: list[float] = []
    counts: list[int] = []
    missing: int = 0
    hours: dict[str, list[int]] = {}

    @property
    def bins(self) -> int:
        """Return how many bins it has."""
        return len(self.values) + 1 if self.kind == SignalKind.CATEGORICAL else len(self.edges) + 1


class Confidence(msgspec.Struct, frozen=True):
    """Winning probabilities of the samples."""

    edges: list[float] = []
    counts: list[int] = []


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All signals of a model. n: samples; classes: the source model's answers by class, empty where it answers no classes.

    source: what the samples were, "reference", "calibration" or "learned" (by the device itself).
    """

    n: int
    v: int = 1
    features: list[Signal] = []
    outputs: list[Signal] = []
    classes: list[int] = []
    confidence: Confidence = msgspec.field(default_factory=Confidence)
    source: str = "reference"

    @property
    def signals(self) -> list[Signal]:
        """Return what is counted by bins, in the order in which it travels: inputs, outputs, confidence."""
        certain = (
            [
                Signal(
                    name="confidence",
                    kind=SignalKind.CONFIDENCE,
                    edges=self.confidence.edges,
                    counts=self.confidence.counts,
                )
            ]
            if any(self.confidence.counts)
            else []
        )
        return [*self.features, *self.outputs, *certain]


def read_reference(data: bytes) -> Reference:
    """Return the reference of a bundle's member. Raises BadReferenceError."""
    try:
        reference = msgspec.msgpack.decode(data, type=Reference)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadReferenceError(
            f"the drift reference is not readable: {error}", next_step="publish the model again"
        ) from error
    signals = reference.signals
    if len(signals) > MAX_SIGNALS:
        raise BadReferenceError(f"the drift reference has {len(signals)} signals, at most {MAX_SIGNALS} are counted")
    for signal in signals:
        problem = _problem(signal)
        if problem:
            raise BadReferenceError(
                f"signal {signal.name!r} of the drift reference {problem}", next_step="publish the model again"
            )
    return reference


def write_reference(reference: Reference) -> bytes:
    """Return the bytes of a reference: the same for the same reference."""
    return msgspec.msgpack.encode(reference)


def basis_of(reference: Reference) -> bytes:
    """Return the name of its bins: eight bytes. Two references with the same signals and bins have the same, whatever their counts."""
    parts: list[Any] = [[one.name, one.kind, one.mean, one.std, one.edges, one.values] for one in reference.signals] + [
        len(reference.classes)
    ]
    return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()[:BASIS_BYTES]


def _problem(signal: Signal) -> str:
    if not 1 <= signal.bins <= MAX_BINS:
        return f"has {signal.bins} bins, at most {MAX_BINS} are counted"
    if len(signal.counts) != signal.bins:
        return f"has {len(signal.counts)} counts for {signal.bins} bins"
    if any(count < 0 for count in signal.counts) or signal.missing < 0:
        return "counts less than nothing"
    if any(not a < b for a, b in zip(signal.edges, signal.edges[1:], strict=False)):
        return "has edges that do not rise"
    if not all(map(math.isfinite, (signal.mean, signal.low, signal.high, *signal.edges, *signal.values))):
        return "has a number that is none"
    if not 0 <= signal.std < math.inf:
        return "has no standard deviation"
    return ""
