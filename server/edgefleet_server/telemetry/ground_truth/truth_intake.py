"""Takes the ground truth of telemetry windows: checks that a device can have counted it, and adds it up exactly by device and time.

Rules:
1. It counts only for a signed bundle that this server has, and not for measurements.
2. What no device can have counted is refused with its window, and counted against the device: more labels than a device gets in the time.
   Labels of answers that lie in the future or before all that is kept are left out: a caller or a clock may have been wrong.
3. A part is added to the step of the hour in which its answers were given, and to that of the day: each scale is exact by itself.
4. One device fills at most DAILY_STEPS new steps a UTC day; what it sends beyond that is not counted.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol import ground_truth
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import Window
from edgefleet_server.telemetry.ground_truth import store
from edgefleet_server.telemetry.ground_truth.truth_sums import KEPT, Scale, TruthSums, added, odd_sums, sums_of
from edgefleet_server.telemetry.plausibility import SLACK_S
from edgefleet_server.telemetry.signals.references import BundleReferences, KnownBundle

MAX_BYTES: Final = 32 * 1024
MAX_LABELS_PER_S: Final = 1_000
"""More than people, or the machine at the end of a line, ever know."""
AHEAD: Final = timedelta(hours=1)
DAILY_STEPS: Final = 20_000
NOT_SERVING: Final = "measure"
_log = logging.getLogger(__name__)


class ImpossibleTruthError(ValueError):
    """No device can have counted this."""


@dataclass(frozen=True, slots=True)
class CountedTruth:
    """What one window says: by segment and moment of the answers."""

    device: str
    sha256: str
    lane: str
    model: str
    version: str
    parts: Sequence[tuple[str, datetime, TruthSums]]


class TruthIntake:
    """Checks ground truth and adds it up. For the thread that ingests."""

    def __init__(self, references: BundleReferences) -> None:
        """Wire the bundles."""
        self._references = references
        self._day: date | None = None
        self._steps: Counter[str] = Counter()
        self.left_out = 0
        """Windows whose ground truth was not counted: of no bundle of ours, or more than a device's share of a day."""

    def bundles(self, windows: Sequence[Window]) -> dict[str, KnownBundle]:
        """Return the bundles of windows that have ground truth. Call it outside of the transaction: it may read the blob store."""
        digests = sorted({one.sha256 for one in windows if one.truth})
        if not digests:
            return {}
        try:
            return self._references.of(digests)
        except EdgefleetError as error:
            _log.warning("ground truth is left out: %s", error.message)
            return {}

    def read(
        self, device: str, window: Window, t0: datetime, bundles: dict[str, KnownBundle], now: datetime
    ) -> CountedTruth | None:
        """Return the ground truth of a window, None when it has none that counts. Raises ImpossibleTruthError."""
        if len(window.truth) > MAX_BYTES:
            raise ImpossibleTruthError("too long")
        try:
            truth = ground_truth.unpack(window.truth)
        except ValueError as error:
            raise ImpossibleTruthError(str(error)) from error
        _check(window, truth)
        known = bundles.get(window.sha256)
        if known is None or window.lane == NOT_SERVING or len(window.lane) > 16:
            self.left_out += known is None
            return None
        today = now.astimezone(UTC).date()
        if today != self._day:
            self._day = today
            self._steps.clear()
        if self._steps[device] >= DAILY_STEPS:
            self.left_out += 1
            return None
        oldest = now - KEPT[Scale.DAY]
        parts = [(one.segment, _moment(one.hour), sums_of(one, truth.unit)) for one in truth.parts]
        parts = [one for one in parts if oldest <= one[1] <= now + AHEAD]
        if truth.unmatched or truth.repeated:
            parts.append(("", min(max(t0, oldest), now), odd_sums(truth)))
        view = known.view
        return CountedTruth(device, window.sha256, window.lane, str(view.ref.model), str(view.ref.version), parts)

    def add(self, session: Session, counted: Sequence[CountedTruth], now: datetime) -> None:
        """Add ground truth to its steps, in the caller's transaction."""
        parts: dict[store.Key, list[TruthSums]] = {}
        for one in counted:
            for segment, at, sums in one.parts:
                for scale, kept in KEPT.items():
                    if at > now - kept:
                        key = one.device, one.sha256, one.lane, segment, int(scale), scale.begin(at)
                        parts.setdefault(key, []).append(sums)
        keys = sorted(parts)
        named = {one.sha256: (one.model, one.version) for one in counted}
        for new in store.make_buckets(session, keys, named):
            self._steps[new[0]] += 1
        known = store.locked_buckets(session, keys)
        store.set_buckets(session, {key: added([sums, *parts[key]]) for key, sums in known.items()})


def _check(window: Window, truth: ground_truth.Truth) -> None:
    most = (window.length_s + SLACK_S) * MAX_LABELS_PER_S
    labels = sum(one.n + one.numbers.n + sum(figure.n for figure in one.figures.values()) for one in truth.parts)
    if labels + truth.unmatched + truth.repeated > most:
        raise ImpossibleTruthError("more labels than a device gets")


def _moment(hour: int) -> datetime:
    """Return the beginning of an hour; a far one is the last that a calendar has."""
    return datetime.fromtimestamp(min(hour, 2_000_000) * 3_600, UTC)
