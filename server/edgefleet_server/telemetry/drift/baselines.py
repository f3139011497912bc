"""Periods that people chose as normal for a release: judged by them instead of the bundle's reference, until they are cleared.

What devices counted in the period is kept with the same weight for each device, so that one busy or lying device does not decide what
is normal for all. Bins that devices learned themselves mean something on one device only and are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.drift.histogram import SignalSums, pack, unpack
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.telemetry.drift import period
from edgefleet_server.telemetry.drift.cluster_test import mean_shares
from edgefleet_server.telemetry.drift.errors import BadPeriodError, NoBaselineError, NothingCountedError
from edgefleet_server.telemetry.drift.model import Member
from edgefleet_server.telemetry.drift.specs import specs_of
from edgefleet_server.telemetry.drift.views import DriftBaselineView
from edgefleet_server.telemetry.signals import store
from edgefleet_server.telemetry.signals.model import KEPT, Scale
from edgefleet_server.telemetry.signals.references import BundleReferences, KnownBundle
from edgefleet_server.telemetry.signals.tables import DriftBaseline

MIN_ANSWERS: Final = 1_000
"""Of all devices in the period: fewer are no normal."""
MOST_DEVICES: Final = 400
FINE: Final = timedelta(days=2)
"""Up to so long a period is read in hours, a longer one in days."""
Members = Callable[[Sequence[str]], Mapping[str, Member]]


class Releases(Protocol):
    """What is needed of the registry."""

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release."""
        ...


class Baselines:
    """Chooses, reads and clears them. Thread-safe; calls block."""

    def __init__(
        self, db: Database, clock: Clock, registry: Releases, references: BundleReferences, members: Members
    ) -> None:
        """Wire the parts. members: returns those of these devices that count."""
        self._db = db
        self._clock = clock
        self._registry = registry
        self._references = references
        self._members = members

    def rows(self, model: str, version: str) -> dict[str, DriftBaseline]:
        """Return what was chosen for a release, by basis. Joins the caller's transaction."""
        with self._db.read() as session:
            return {row.basis: row for row in store.baselines(session, model, version)}

    def get(self, ref: ReleaseRef) -> DriftBaselineView:
        """Return what was chosen for a release. Raises NoBaselineError, ReleaseUnknownError."""
        release = self._registry.release(ref).ref
        rows = list(self.rows(release.model, release.version).values())
        if not rows:
            raise NoBaselineError(
                f"{release} is judged by the references of its bundles: no period was chosen as normal"
            )
        return _view(release, rows)

    def set(self, ref: ReleaseRef, since: datetime, until: datetime | None, by: str) -> tuple[DriftBaselineView, bool]:
        """Choose what devices counted since a moment as normal; return it, and whether there was none before.

        Raises ReleaseUnknownError, BadPeriodError, NothingCountedError.
        """
        release = self._registry.release(ref)
        now = self._clock.now()
        end = min(until or now, now)
        if not since < end or since < now - KEPT[Scale.DAY]:
            raise BadPeriodError(
                f"from {since:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} is no period of the past two years",
                next_step="give a beginning before the end, such as `--since 7d`",
            )
        known = [self._references.known(bundle) for bundle in release.bundles]
        by_basis: dict[str, list[KnownBundle]] = {}
        for one in known:
            if one.reference is not None:
                by_basis.setdefault(one.basis, []).append(one)
        with self._db.session() as session:
            rows = [
                row
                for basis, bundles in sorted(by_basis.items())
                if (row := self._row(release.ref, basis, bundles, since, end, by)) is not None
            ]
            if not rows:
                raise NothingCountedError(
                    f"fewer than {MIN_ANSWERS} answers of {release.ref} were counted from {since:%Y-%m-%d %H:%M} on",
                    next_step="choose a longer period; signals come once an hour from devices on the normal profile",
                )
            old = store.replace_baselines(session, release.ref.model, release.ref.version, rows)
        return self.get(release.ref), not old

    def clear(self, ref: ReleaseRef) -> None:
        """Judge a release by the references of its bundles again. Raises NoBaselineError, ReleaseUnknownError."""
        release = self._registry.release(ref).ref
        with self._db.session() as session:
            if not store.replace_baselines(session, release.model, release.version, []):
                raise NoBaselineError(f"no period was chosen as normal for {release}")

    def _row(
        self, ref: ReleaseRef, basis: str, bundles: Sequence[KnownBundle], since: datetime, until: datetime, by: str
    ) -> dict[str, object] | None:
        reference = bundles[0].reference
        assert reference is not None
        scale = Scale.HOUR if until - since <= FINE else Scale.DAY
        first = scale.begin(since)
        digests = [str(one.view.sha256) for one in bundles]
        with self._db.read(streams=True) as session:
            named = store.counted_devices(session, digests, scale.seconds, first, 100_000)
            devices = period.drawn({device for _, own, device in named if own == basis}, MOST_DEVICES)
            wanted = period.Wanted(digests, basis, scale, self._members(devices))
            sums = period.counted(session, wanted, first, until)
            answered = period.classes(session, wanted, reference, since, until)
        specs = specs_of(reference)
        heard = period.heard_of(specs, wanted.members, sums, answered)
        mixed = [
            _mixed([one.sums for one in signal if one.n], spec.bins) for spec, signal in zip(specs, heard, strict=True)
        ]
        if max((one.n + one.missing for one in mixed), default=0) < MIN_ANSWERS:
            return None
        return {
            "model": ref.model,
            "version": ref.version,
            "basis": basis,
            "since": since,
            "until": until,
            "devices": len(sums),
            "signals": pack(mixed),
            "set_at": self._clock.now(),
            "set_by": by[:120],
        }


def _mixed(sums: Sequence[SignalSums], bins: int) -> SignalSums:
    """Return counts of as many answers as there were, in the shares of the mean device."""
    if not sums:
        return SignalSums((0,) * max(1, bins))
    n = sum(one.n + one.missing for one in sums)
    shares = mean_shares([[count / (one.n + one.missing) for count in (*one.bins, one.missing)] for one in sums])
    counts = [round(share * n) for share in shares]
    whole = sum(counts[:-1])
    with_values = [one for one in sums if one.n] or list(sums)
    mean = sum(one.total / max(1, one.n) for one in with_values) / len(with_values)
    squares = sum(one.squares / max(1, one.n) for one in with_values) / len(with_values)
    return SignalSums(
        tuple(counts[:-1]),
        missing=counts[-1],
        total=round(mean * whole),
        squares=max(0, round(squares * whole)),
        low=min(one.low for one in with_values),
        high=max(one.high for one in with_values),
    )


def _view(ref: ReleaseRef, rows: Sequence[DriftBaseline]) -> DriftBaselineView:
    first = rows[0]
    answers = sum(max((one.n + one.missing for one in unpack(row.signals)), default=0) for row in rows)
    return DriftBaselineView(
        release=str(ref),
        since=first.since,
        until=first.until,
        devices=sum(row.devices for row in rows),
        answers=answers,
        set_at=first.set_at,
        set_by=first.set_by,
    )
