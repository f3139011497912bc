"""Telemetry as the rest of the server sees it.

Rules:
- A message counts once: (device, boot, seq) is its key. A replay is acknowledged and changes nothing.
- Bad windows (a sketch that is none, a length that is none) are left out and counted; the rest of the message counts. So are windows that
  count more than a device can have done, and those are counted against the device.
- Figures of several devices are means or medians over devices: each device has one part of them, whatever it counts (`plausibility`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import msgspec
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.messages import Sample, Telemetry, Watched
from edgefleet_protocol.prediction_parts import REASON as PART_OF_LOG
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.ground_truth.truth_intake import TruthIntake
from edgefleet_server.telemetry.ground_truth.truth_sums import KEPT as TRUTH_KEPT
from edgefleet_server.telemetry.ground_truth.truth_sums import Scale
from edgefleet_server.telemetry.intake.columns import MAX_INT, moment_of, text_of
from edgefleet_server.telemetry.intake.telemetry_intake import TelemetryIntake
from edgefleet_server.telemetry.model import (
    RETENTION,
    AnswerKey,
    Figures,
    PeriodWindow,
    agreement_of,
    shown_ms,
)
from edgefleet_server.telemetry.plausibility import DeviceSums, mean_failed_share, median_latency_s
from edgefleet_server.telemetry.rollups.cohorts import DeviceCohorts, Memberships
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.rollups.rollup_writer import RollupWriter
from edgefleet_server.telemetry.rollups.store import count_rows
from edgefleet_server.telemetry.rules import watched_row
from edgefleet_server.telemetry.series import SeriesReader
from edgefleet_server.telemetry.signals import store as signal_store
from edgefleet_server.telemetry.signals.model import KEPT
from edgefleet_server.telemetry.signals.signal_intake import DriftIntake
from edgefleet_server.telemetry.tables import TelemetryCapture, TelemetryWindow
from edgefleet_server.telemetry_views import Latest, ShadowView, WindowView

KEPT_WATCHED: Final = 64
WATCHED_FOR: Final = timedelta(minutes=10)
COUNTS: Final = ("n", "errors", "timeouts", "nonfinite", "crashes")
MAX_INT32: Final = 2**31
MAX_SEALED_BYTES: Final = 128 * 1024


class PartSink(Protocol):
    """What takes parts of prediction logs; it knows the fleet, which a conversion worker does not load."""

    def take(self, session: Session, samples: Sequence[Sample], now: datetime) -> int:
        """Keep the parts that these messages carry; return how many were new."""
        ...

    @property
    def tombstones(self) -> "ErasedAnswers":
        """What knows which answers were erased."""
        ...


class ErasedAnswers(Protocol):
    """What is needed of the tombstones of erased answers."""

    def erased(self, session: Session, answers: Iterable[AnswerKey]) -> Mapping[AnswerKey, str]:
        """Return those of these answers that were erased, each with its erasure."""
        ...

    def count(self, session: Session, dropped: Iterable[tuple[str, str]]) -> None:
        """Count late records, each as (model, erasure)."""
        ...


class TelemetryService:
    """Stores and reads telemetry. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        drift: DriftIntake | None = None,
        memberships: Memberships | None = None,
        logs: PartSink | None = None,
        truths: TruthIntake | None = None,
    ) -> None:
        """Wire the parts. drift, truths: take signals and ground truth of windows, logs: parts of prediction logs; without one: nothing.

        memberships: what devices belong to.
        """
        self._db = db
        self._clock = clock
        self._adding = RollupWriter()
        self._intake = TelemetryIntake(db, clock, drift, DeviceCohorts(memberships, clock), self._adding, truths)
        self._logs = logs
        self.series = SeriesReader(db)
        self.rollups = RollupReader(db)

    @property
    def bad_windows(self) -> int:
        """How many windows said nothing, since the start."""
        return self._intake.bad_windows

    def ingest(self, messages: Sequence[Telemetry]) -> int:
        """Store messages in one transaction; return how many were new. When it returns, all may be acknowledged."""
        return self._intake.ingest(messages)

    def refused(self) -> Mapping[str, int]:
        """Return how many impossible windows each device sent since this was asked last. For the thread that ingests."""
        return self._intake.refused()

    def ingest_samples(self, samples: Sequence[Sample]) -> int:
        """Store captured records that were asked for, and parts of prediction logs; return how many were new.

        All may be acknowledged when it returns.
        """
        now = self._clock.now()
        new = 0
        with self._db.session() as session:
            parts = [sample for sample in samples if sample.reason == PART_OF_LOG]
            if parts and self._logs is not None:
                new += self._logs.take(session, parts, now)
            # after the parts: one of them may say that a record which comes with it is of an erased subject
            erased, late = self._erased(session, samples), list[tuple[str, str]]()
            for sample in (one for one in samples if one.reason != PART_OF_LOG):
                fetch = store.capture_fetch(session, text_of(sample.task, 32), lock=True)
                if fetch is None or fetch.device_id != sample.device:
                    continue  # nobody asked this device for it
                if sample.left <= 0 and fetch.done_at is None:
                    fetch.done_at = now
                row = _capture_row(sample, now)
                is_known = row is None or store.capture(session, row.device_id, row.record) is not None
                if row is not None and (erasure := erased.get(_answer_of(sample))):
                    late.append((row.model, erasure))
                elif row is not None and not is_known and fetch.received < fetch.most:
                    session.add(row)
                    session.flush()
                    fetch.received += 1
                    new += 1
            if late and self._logs is not None:
                self._logs.tombstones.count(session, late)
        return new

    def _erased(self, session: Session, samples: Sequence[Sample]) -> Mapping[AnswerKey, str]:
        if self._logs is None:
            return {}
        answers = [_answer_of(sample) for sample in samples if sample.reason != PART_OF_LOG]
        return self._logs.tombstones.erased(session, answers)

    def ingest_watched(self, messages: Sequence[Watched]) -> int:
        """Keep what watched devices show, the newest KEPT_WATCHED messages of each; return how many were taken."""
        now = self._clock.now()
        rows = [row for message in messages if (row := watched_row(message, now)) is not None]
        if not rows:
            return 0
        with self._db.session() as session:
            store.add_watched(session, rows)
            for device in sorted({row["device_id"] for row in rows}):
                store.keep_watched(session, device, KEPT_WATCHED)
        return len(rows)

    def latest(self, device_id: str) -> Latest | None:
        """Return a device's newest figures, or None when it never sent any."""
        with self._db.read() as session:
            batch = store.newest_batch(session, device_id)
            if batch is None:
                return None
            windows = [view(row) for row in store.newest_windows(session, device_id)]
            missing = store.count_missing(session, device_id)
            return Latest(batch.at, batch.received_at, batch.system, batch.queue_bytes, batch.dropped, windows, missing)

    def windows(self, device_id: str, before: int | None, limit: int) -> tuple[list[tuple[int, WindowView]], int]:
        """Return windows of a device with their keys, newest first, and how many there are."""
        with self._db.read() as session:
            rows = store.windows_page(session, device_id, before, limit)
            total = store.count_windows(session, device_id)
            return [(row.id or 0, view(row)) for row in rows], total

    def figures(self, sha256: str, since: datetime, device_id: str | None = None) -> Figures:
        """Return what one bundle's windows received since a moment say, of one device or of all."""
        with self._db.read(streams=True) as session:
            return _summed(store.windows_of_bundle(session, sha256, since, device_id))

    def recent(self, sha256: str, since: datetime, most: int) -> Figures:
        """Return what the newest windows of one bundle since a moment say, at most so many: bounded, for a page.

        Every device's newest comes before any device's second, so that a device which sends many leaves none out.
        """
        with self._db.read() as session:
            return _summed(store.newest_of_bundle(session, sha256, since, most))

    def periods(
        self, devices: Sequence[str], model: str, since: datetime, until: datetime | None = None, *, windows: int
    ) -> dict[str, list[PeriodWindow]]:
        """Return the newest windows of a model that began since a moment, and before `until`; at most `windows` of each device."""
        found: dict[str, list[PeriodWindow]] = {}
        if devices:
            with self._db.read(streams=True) as session:
                for row in store.windows_of_devices(session, devices, model, since, until, windows=windows):
                    found.setdefault(row.device_id, []).append(_period_window(row))
        return found

    def labelled(self, device: str, model: str, since: datetime, until: datetime) -> list[PeriodWindow]:
        """Return the hours of a device's answers that have labels and began in a span of time, each as a window without other figures."""
        with self._db.read() as session:
            hour = int(Scale.HOUR)
            found = list(truth_store.of_devices(session, [device], model, hour, since, until))
        return [
            PeriodWindow(device, lane, sha256, at, hour, 0, 0, 0, 0, (), (), -1.0, None, labelled, right)
            for _, lane, sha256, at, labelled, right in found
        ]

    def devices_of_lane(self, digests: Sequence[str], lane: str, since: datetime, *, limit: int) -> list[str]:
        """Return devices that sent windows of one of these bundles in a lane since a moment, in order of id, at most so many."""
        with self._db.read() as session:
            return store.devices_of_lane(session, digests, lane, since, limit=limit) if digests else []

    def prune(self, now: datetime) -> int:
        """Delete what is older than the retention; return how many windows. For the engine tick."""
        with self._db.read() as session:
            steps = count_rows(session)
        with self._db.session() as session:
            store.delete_captures_before(session, now - RETENTION)
            store.delete_watched_before(session, now - WATCHED_FOR)
            for scale, kept in KEPT.items():
                signal_store.delete_before(session, scale.seconds, now - kept)
            for step, kept in TRUTH_KEPT.items():
                truth_store.delete_before(session, int(step), now - kept)
            self._adding.prune(session, now, steps)
            return store.delete_before(session, now - RETENTION)


def view(row: TelemetryWindow) -> WindowView:
    """Return a stored window with its quantiles."""
    sketch = LatencySketch.unpacked(msgspec.msgpack.decode(row.latency, type=list[int]))
    return WindowView(
        model=row.model,
        lane=row.lane,
        version=row.version,
        sha256=row.sha256,
        t0=row.t0,
        length_s=row.length_s,
        received_at=row.received_at,
        n=row.n,
        errors=row.errors,
        timeouts=row.timeouts,
        nonfinite=row.nonfinite,
        crashes=row.crashes,
        latency_p50_ms=shown_ms(sketch.quantile_s(0.5)),
        latency_p95_ms=shown_ms(sketch.quantile_s(0.95)),
        latency_p99_ms=shown_ms(sketch.quantile_s(0.99)),
        classes=msgspec.msgpack.decode(row.classes, type=list[int]),
        worker_rss_bytes=row.worker_rss_bytes,
        worker_cpu_s=row.worker_cpu_s,
        joules_per_answer=row.joules_per_answer if row.joules_per_answer >= 0 else None,
        shadow=None if row.shadow is None else shadow_view(msgspec.msgpack.decode(row.shadow, type=ShadowFigures)),
    )


def shadow_view(figures: ShadowFigures) -> ShadowView:
    """Return a comparison with its ratios and quantiles, rounded to what they are good for."""
    exact = agreement_of(figures)
    primary = LatencySketch.unpacked(figures.primary_latency)
    rounded = {
        "agreement": None if exact.agreement is None else round(exact.agreement, 4),
        "delta_p50": None if exact.delta_p50 is None else float(f"{exact.delta_p50:.3g}"),
        "delta_p95": None if exact.delta_p95 is None else float(f"{exact.delta_p95:.3g}"),
        "overlap": None if exact.overlap is None else round(exact.overlap, 3),
        "active_p50_ms": shown_ms(primary.quantile_s(0.5)),
        "active_p95_ms": shown_ms(primary.quantile_s(0.95)),
    }
    return ShadowView(**{**asdict(exact), **rounded}, kept=figures.kept)


def _period_window(row: Any) -> PeriodWindow:
    return PeriodWindow(
        device=row.device_id,
        lane=row.lane,
        sha256=row.sha256,
        t0=row.t0,
        length_s=row.length_s,
        n=row.n,
        errors=row.errors,
        timeouts=row.timeouts,
        nonfinite=row.nonfinite,
        latency=msgspec.msgpack.decode(row.latency, type=list[int]),
        classes=msgspec.msgpack.decode(row.classes, type=list[int]),
        joules_per_answer=row.joules_per_answer,
        shadow=None if row.shadow is None else msgspec.msgpack.decode(row.shadow, type=ShadowFigures),
    )


def _summed(rows: Iterable[TelemetryWindow]) -> Figures:
    devices: dict[str, DeviceSums] = {}
    windows = 0
    for row in rows:
        windows += 1
        sums = devices.setdefault(row.device_id, DeviceSums())
        for name in COUNTS:
            setattr(sums, name, getattr(sums, name) + getattr(row, name))
        sums.latency.merge(LatencySketch.unpacked(msgspec.msgpack.decode(row.latency, type=list[int])))
    every = devices.values()
    return Figures(
        devices=len(devices),
        windows=windows,
        **{name: sum(getattr(one, name) for one in every) for name in COUNTS},
        latency_p50_ms=shown_ms(median_latency_s(every, 0.5)),
        latency_p95_ms=shown_ms(median_latency_s(every, 0.95)),
        latency_p99_ms=shown_ms(median_latency_s(every, 0.99)),
        failed_share=mean_failed_share(every),
        crashed_devices=sum(one.crashes > 0 for one in every),
    )


def _answer_of(sample: Sample) -> AnswerKey:
    return AnswerKey(text_of(sample.model, 63), sample.device, text_of(sample.trace_id, 64))


def _capture_row(sample: Sample, now: datetime) -> TelemetryCapture | None:
    """Return the row of one record; None when the message carries none, or one that no device makes."""
    if not sample.record or not 0 < len(sample.sealed) <= MAX_SEALED_BYTES or not -1 <= sample.label < MAX_INT32:
        return None
    return TelemetryCapture(
        device_id=sample.device,
        record=text_of(sample.record, 32),
        fetch_id=text_of(sample.task, 32),
        model=text_of(sample.model, 63),
        sha256=text_of(sample.sha256, 64),
        reason=text_of(sample.reason, 32),
        label=sample.label,
        trace_id=text_of(sample.trace_id, 64),
        taken_at=moment_of(sample.taken // 1000, now),
        received_at=now,
        seen=max(1, min(sample.seen, MAX_INT)),
        key_id=text_of(sample.key, 16),
        size_bytes=len(sample.sealed),
        sealed=sample.sealed,
    )
