"""Stores telemetry messages, each once, in one transaction with all that is added up from them (ADR 0104).

- (device, boot, seq) is a message's key. A replay is acknowledged and changes nothing.
- Bad windows are left out and counted; the rest of the message counts. So are windows that count more than a device can have done, and
  those are counted against the device.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_server.db.bulk import insert_tuples, insert_unless_there, is_postgresql
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.ground_truth.truth_intake import CountedTruth, ImpossibleTruthError, TruthIntake
from edgefleet_server.telemetry.intake.columns import (
    BATCH,
    MAX_JOULES,
    WINDOW,
    Moments,
    batch_row,
    moment_of,
    seq_of,
    text_of,
    window_row,
)
from edgefleet_server.telemetry.intake.window_check import BadWindowError, ImpossibleWindowError, checked, p95_ms
from edgefleet_server.telemetry.rollups.cohorts import NOWHERE, DeviceCohorts
from edgefleet_server.telemetry.rollups.model import Cohort
from edgefleet_server.telemetry.rollups.rollup_writer import Counted, RollupWriter
from edgefleet_server.telemetry.rollups.step_fold import place_of
from edgefleet_server.telemetry.rollups.totals import MICRO, WindowTotal
from edgefleet_server.telemetry.signals.model import CountedSignals
from edgefleet_server.telemetry.signals.references import KnownBundle
from edgefleet_server.telemetry.signals.signal_intake import DriftIntake, ImpossibleSignalsError
from edgefleet_server.telemetry.tables import TelemetryBatch, TelemetryWindow

MAX_CPU_S: Final = 1e9
Key = tuple[str, str, int]
"""Device, boot, number of a message."""
Bundle = tuple[str, str, str, str]
"""Model, version, digest, lane."""


class TelemetryIntake:
    """Stores messages. For the thread that ingests."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        drift: DriftIntake | None,
        cohorts: DeviceCohorts,
        rollups: RollupWriter,
        truths: TruthIntake | None = None,
    ) -> None:
        """Wire the parts. drift, truths: take the signals and the ground truth of windows; without them they are left out."""
        self._db = db
        self._clock = clock
        self._drift = drift
        self._cohorts = cohorts
        self._rollups = rollups
        self._truths = truths
        self._refused: Counter[str] = Counter()
        self.bad_windows = 0

    def ingest(self, messages: Sequence[Telemetry]) -> int:
        """Store messages in one transaction; return how many were new. When it returns, all may be acknowledged."""
        by_key = {(m.device, text_of(m.boot_id, 64), seq_of(m)): m for m in messages}
        if not by_key:
            return 0
        signalled = [one for message in messages for one in message.windows if one.signals]
        bundles = self._drift.bundles(signalled) if self._drift is not None and signalled else {}
        labelled = [one for message in messages for one in message.windows if one.truth]
        if self._truths is not None and labelled:
            bundles = bundles | self._truths.bundles(labelled)
        cohorts = self._cohorts.of(sorted({message.device for message in messages}))
        now = self._clock.now()
        with self._db.session() as session:
            part = _Part(Moments(now, is_postgresql=is_postgresql(session)), Counted(now), now)
            rows = [batch_row(message, key[1], part.moments) for key, message in by_key.items()]
            new = insert_unless_there(session, TelemetryBatch.__table__, BATCH, rows)  # type: ignore[attr-defined]
            for is_new, message in zip(new, by_key.values(), strict=True):
                if is_new:
                    self._take(part, message, bundles, cohorts.get(message.device, NOWHERE))
            insert_tuples(session, TelemetryWindow.__table__, WINDOW, part.windows)  # type: ignore[attr-defined]
            self._rollups.add(session, part.counted, now)
            if part.signals and self._drift is not None:
                self._drift.add(session, part.signals, now)
            if part.truths and self._truths is not None:
                self._truths.add(session, part.truths, now)
        return sum(new)

    def refused(self) -> Mapping[str, int]:
        """Return how many impossible windows each device sent since this was asked last."""
        if not self._refused:
            return {}
        found, self._refused = self._refused, Counter()
        return found

    def _take(self, part: "_Part", message: Telemetry, known: dict[str, KnownBundle], cohort: Cohort) -> None:
        device, now_s, oldest_s = message.device, part.counted.now_s, part.counted.oldest_minute_s
        collected, longest_s = part.counted.of(cohort), 0
        for window in message.windows:
            try:
                first, counts, total = checked(window)
                signals = self._signals(device, window, known, part.now) if window.signals else None
                truth = self._truth(device, window, known, part.now) if window.truth else None
            except BadWindowError:
                self.bad_windows += 1
                continue
            except (ImpossibleWindowError, ImpossibleSignalsError, ImpossibleTruthError):
                self._refused[device] += 1
                continue
            named = (window.model, window.version, window.sha256, window.lane)
            bundle = part.bundles.get(named)
            if bundle is None:
                bundle = part.bundles[named] = _clean(named)
            part.windows.append(window_row(device, bundle, window, p95_ms(first, counts, total), part.moments))
            if signals is not None:
                part.signals.append(signals)
            if truth is not None:
                part.truths.append(truth)
            places = collected.get(bundle)
            if places is None:
                places = collected.setdefault(self._rollups.bundle_of(device, bundle, part.now), {})
            length_s = window.length_s
            longest_s = max(longest_s, length_s)
            place = place_of(window.t0, length_s, now_s, oldest_s)
            if place in places:
                places[place].append(_total(window, first, counts))
            else:
                places[place] = [_total(window, first, counts)]
        system = part.counted.system[cohort]
        system.setdefault(place_of(message.ts // 1000, longest_s, now_s, oldest_s), []).append(message.system)

    def _signals(
        self, device: str, window: Window, bundles: dict[str, KnownBundle], now: datetime
    ) -> CountedSignals | None:
        if self._drift is None:
            return None
        return self._drift.read(device, window, moment_of(window.t0, now), bundles, now)

    def _truth(
        self, device: str, window: Window, bundles: dict[str, KnownBundle], now: datetime
    ) -> CountedTruth | None:
        if self._truths is None:
            return None
        return self._truths.read(device, window, moment_of(window.t0, now), bundles, now)


class _Part:
    """What is collected in one transaction."""

    def __init__(self, moments: Moments, counted: Counted, now: datetime) -> None:
        self.moments = moments
        self.counted = counted
        self.now = now
        self.windows: list[tuple[Any, ...]] = []
        self.signals: list[CountedSignals] = []
        self.truths: list[CountedTruth] = []
        self.bundles: dict[Bundle, Bundle] = {}


def _clean(named: Bundle) -> Bundle:
    model, version, sha256, lane = named
    return text_of(model, 63), text_of(version, 63), text_of(sha256, 64), text_of(lane, 16)


def _total(window: Window, first: int, counts: list[int]) -> WindowTotal:
    cpu_s, joules, n = window.worker_cpu_s, window.joules_per_answer, window.n
    cpu_us = int(cpu_s * MICRO + 0.5) if 0 < cpu_s < MAX_CPU_S else 0
    length_s, errors, timeouts, nonfinite = window.length_s, window.errors, window.timeouts, window.nonfinite
    if 0 <= joules < MAX_JOULES:
        counted = (1, length_s, n, errors, timeouts, nonfinite, window.crashes, cpu_us, round(joules * n * MICRO), n)
    else:
        counted = (1, length_s, n, errors, timeouts, nonfinite, window.crashes, cpu_us, 0, 0)
    return WindowTotal(counted, window.classes, first, counts)
