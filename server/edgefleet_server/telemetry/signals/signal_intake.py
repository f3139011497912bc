"""Takes the signals of telemetry windows: checks that a device can have counted them, and adds them up exactly by device and time.

Rules:
1. Signals count only for a signed bundle that this server has. By the bundle's own basis they must have the reference's signals and bins.
2. A signal counts no more answers than a device gives in the seconds that it covers. What no device can have counted is refused with
   its window, and counted against the device.
3. One window is added to a step of each scale that is no shorter than what it covers (`model.CountedSignals.steps`): steps are sums of
   windows, never of other steps, so each scale is exact by itself.
4. One device fills at most DAILY_STEPS new steps and DAILY_BYTES of signals a UTC day; what it sends beyond that is not counted.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, pack, unpack
from edgefleet_protocol.drift.reference import BASIS_BYTES, MAX_BINS, MAX_SIGNALS
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import Window
from edgefleet_server.telemetry.plausibility import MAX_ANSWERS_PER_S, MAX_LENGTH_S, SLACK_S
from edgefleet_server.telemetry.signals import store
from edgefleet_server.telemetry.signals.model import CountedSignals
from edgefleet_server.telemetry.signals.references import BundleReferences, KnownBundle

MAX_BYTES: Final = 64 * 1024
"""Of one window: 256 signals of some twenty bins each have half of it."""
MAX_BASES: Final = 4
"""Of one device and bundle in a day: it learns a baseline once, and again when a person asks for it."""
DAILY_STEPS: Final = 10_000
"""A month of hours that were kept offline, of thirteen models."""
DAILY_BYTES: Final = 16 * 1024 * 1024
AHEAD: Final = timedelta(hours=1)
"""So far a device's clock may be ahead; what it says of later is counted as now."""
NOT_SERVING: Final = "measure"
"""The lane of golden inputs in a measurement: nobody asked for those answers."""
_log = logging.getLogger(__name__)


class ImpossibleSignalsError(ValueError):
    """No device can have counted these signals."""


class DriftIntake:
    """Checks signals and adds them up. For the thread that ingests."""

    def __init__(self, references: BundleReferences) -> None:
        """Wire the references."""
        self._references = references
        self._day: date | None = None
        self._steps: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._bases: dict[tuple[str, str], set[bytes]] = {}
        self.left_out = 0
        """Windows whose signals were not counted: of no bundle of ours, or more than a device's share of a day."""

    def bundles(self, windows: Sequence[Window]) -> dict[str, KnownBundle]:
        """Return the bundles of windows that have signals. Call it outside of the transaction: it may read the blob store."""
        digests = sorted({one.sha256 for one in windows if one.signals_s and one.signals})
        if not digests:
            return {}
        try:
            return self._references.of(digests)
        except EdgefleetError as error:
            _log.warning("signals are left out: %s", error.message)
            return {}

    def read(
        self, device: str, window: Window, t0: datetime, bundles: dict[str, KnownBundle], now: datetime
    ) -> CountedSignals | None:
        """Return the signals of a window, None when it has none that count. Raises ImpossibleSignalsError."""
        if not window.signals:
            return None
        most = self._check_outline(window)
        sums = _unpacked(window.signals)
        known = bundles.get(window.sha256)
        if known is None or window.lane == NOT_SERVING:
            self.left_out += known is None
            return None
        _check_counts(sums, most)
        basis = window.basis.hex()
        if known.reference is not None and basis == known.basis:
            widths = [one.bins for one in known.reference.signals]
            if [len(one.bins) for one in sums] != widths:
                raise ImpossibleSignalsError("other signals than the reference of its bundle has")
        if not self._may_count(device, window, now):
            self.left_out += 1
            return None
        until = min(t0 + timedelta(seconds=window.length_s), now + AHEAD)
        return CountedSignals(device, window.sha256, basis, until, window.signals_s, sums, window.signals)

    def add(self, session: Session, counted: Sequence[CountedSignals], now: datetime) -> None:
        """Add signals to their steps, in the caller's transaction."""
        parts: dict[store.Key, list[CountedSignals]] = {}
        for one in counted:
            for scale, at in one.steps(now):
                parts.setdefault((one.device, one.sha256, one.basis, scale.seconds, at), []).append(one)
        keys = sorted(parts)
        for key in store.make_buckets(session, keys):
            self._steps[key[0]] += 1
        changed: dict[store.Key, tuple[int, bytes]] = {}
        for key, (seconds, signals) in store.locked_buckets(session, keys).items():
            windows = [one.sums for one in parts[key]]
            covered_s = seconds + sum(one.covered_s for one in parts[key])
            if not signals and len(windows) == 1:
                changed[key] = covered_s, parts[key][0].packed
                continue
            try:
                sums = merged_windows([unpack(signals), *windows] if signals else windows)
            except ValueError:  # one basis and other bins: this device has counted by another's name
                self.left_out += len(windows)
                continue
            changed[key] = covered_s, pack(sums)
        store.set_buckets(session, changed)

    def _check_outline(self, window: Window) -> int:
        """Return how many answers what the signals cover can hold. Raises ImpossibleSignalsError."""
        if not 0 < window.signals_s <= MAX_LENGTH_S:
            raise ImpossibleSignalsError("signals of no time")
        if len(window.basis) != BASIS_BYTES or len(window.signals) > MAX_BYTES:
            raise ImpossibleSignalsError("signals without a basis, or too many")
        return (window.signals_s + SLACK_S) * MAX_ANSWERS_PER_S

    def _may_count(self, device: str, window: Window, now: datetime) -> bool:
        today = now.astimezone(UTC).date()
        if today != self._day:
            self._day = today
            self._steps.clear()
            self._bytes.clear()
            self._bases.clear()
        bases = self._bases.setdefault((device, window.sha256), set())
        bases.add(window.basis) if len(bases) < MAX_BASES else None
        if window.basis not in bases or self._steps[device] >= DAILY_STEPS:
            return False
        self._bytes[device] += len(window.signals)
        return self._bytes[device] <= DAILY_BYTES


def _unpacked(data: bytes) -> list[SignalSums]:
    try:
        return unpack(data)
    except ValueError as error:
        raise ImpossibleSignalsError(str(error)) from error


def _check_counts(sums: Sequence[SignalSums], most: int) -> None:
    if not 0 < len(sums) <= MAX_SIGNALS:
        raise ImpossibleSignalsError("no signals, or too many")
    for one in sums:
        if len(one.bins) > MAX_BINS or one.n + one.missing > most:
            raise ImpossibleSignalsError("more bins or answers than a device can have")
