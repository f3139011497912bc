"""Accuracy in the field: what labels say of a model over time, each device with one part.

1. Steps are hours for periods up to HOURS_UP_TO, else days. At most MOST_BUCKETS are read; the oldest are left out then, and it says so.
2. A device counts in each line that it belongs to; in "by group" that may be several, or the line "" of those in no group.
3. Suspect and revoked devices do not count (`crowds`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ground_truth import MAX_CLASSES
from edgefleet_protocol.ids import ModelName, ReleaseRef, parse_version
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.fleet.inventory.views import DeviceCrowds
from edgefleet_server.registry.model import BundleView, ModelView, ReleaseView
from edgefleet_server.telemetry.bundle_metrics import metric_in
from edgefleet_server.telemetry.ground_truth import concept, store
from edgefleet_server.telemetry.ground_truth.errors import BadPeriodError
from edgefleet_server.telemetry.ground_truth.intervals import share_of
from edgefleet_server.telemetry.ground_truth.truth_sums import FIGURE_PARTS, KEPT, Scale, TruthSums, added, errors_of
from edgefleet_server.telemetry.ground_truth.views import (
    AccuracyLine,
    AccuracyPoint,
    BusinessFigure,
    ClassAccuracy,
    ConceptDrift,
    FigurePoint,
    ModelAccuracy,
    PublishedAccuracy,
)

DEFAULT_PERIOD: Final = timedelta(days=30)
HOURS_UP_TO: Final = timedelta(days=4)
LONGEST: Final = timedelta(days=400)
MOST_BUCKETS: Final = 200_000
MOST_LINES: Final = 64
MOST_CLASSES: Final = 32
MOST_FIGURES: Final = 16
SITE_LABEL: Final = "site"
_log = logging.getLogger(__name__)
TOP1: Final = "top1"


class AccuracyBy(StrEnum):
    """What the lines are of. Public, never renamed."""

    ALL = "all"
    RELEASE = "release"
    GROUP = "group"
    SEGMENT = "segment"
    SITE = "site"
    PROFILE = "profile"


class Registry(Protocol):
    """What is needed of the registry."""

    def model(self, name: str) -> ModelView:
        """Return a model. Raises ModelUnknownError."""
        ...

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release. Raises ReleaseUnknownError."""
        ...

    def bundles(self, page: PageRequest, *, model: str | None = None) -> Page[BundleView]:
        """Return signed bundles of a model, newest first."""
        ...

    def member_of(self, bundle: BundleView, name: str, most_bytes: int) -> bytes | None:
        """Return a member of a signed bundle, None without one."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one device counted in one step of one segment."""

    device: str
    version: str
    segment: str
    at: datetime
    sums: TruthSums


@dataclass(slots=True)
class _Line:
    """Sums of one line, by device, and by step and device."""

    devices: dict[str, list[TruthSums]] = field(default_factory=dict)
    steps: dict[datetime, dict[str, list[TruthSums]]] = field(default_factory=dict)

    def add(self, one: Bucket) -> None:
        self.devices.setdefault(one.device, []).append(one.sums)
        self.steps.setdefault(one.at, {}).setdefault(one.device, []).append(one.sums)


class AccuracyService:
    """Reads ground truth. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        registry: Registry,
        crowds: Callable[[Sequence[str]], Mapping[str, DeviceCrowds]],
        drift: Callable[[ModelName, str], ConceptDrift],
    ) -> None:
        """Wire the parts. crowds: what devices have in common, of those that count. drift: whether answers of a version became worse."""
        self._db = db
        self._clock = clock
        self._registry = registry
        self._crowds = crowds
        self._drift = drift

    def of_model(
        self,
        name: ModelName,
        *,
        version: str = "",
        by: AccuracyBy = AccuracyBy.RELEASE,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ModelAccuracy:
        """Return the ground truth of a model in a period, of one version or of all. Raises ModelUnknownError, BadPeriodError."""
        self._registry.model(name)
        if version:
            version = str(self._registry.release(ReleaseRef(name, parse_version(version))).ref.version)
        begin, end, scale = self._period(since, until)
        mine, is_cut = self._buckets(name, version, scale, begin, end)
        crowds = self._crowds(sorted({one.device for one in mine}))
        counted = [one for one in mine if one.device in crowds]
        lines = _lines(counted, by, crowds)
        whole = added(one.sums for one in counted)
        bundles = self._bundles(name, version, counted)
        return ModelAccuracy(
            model=name,
            version=version,
            by=by.value,
            since=begin,
            until=end,
            step_s=int(scale),
            is_cut=is_cut,
            lines=[_line(key, line) for key, line in lines],
            classes=_classes(whole, self._labels(bundles)),
            figures=_figures(counted),
            unmatched=whole.unmatched,
            late=whole.late,
            repeated=whole.repeated,
            published=published(bundles),
            concept=self._drift(name, version),
        )

    def _buckets(
        self, name: str, version: str, scale: Scale, since: datetime, until: datetime
    ) -> tuple[list[Bucket], bool]:
        """Return what devices counted of real answers in a span of time, and whether there is more than is read at once."""
        with self._db.read(streams=True) as session:
            steps = store.steps(session, name, version, int(scale), since, until, MOST_BUCKETS + 1)
            found = [Bucket(*one) for one in steps]
        return found[:MOST_BUCKETS], len(found) > MOST_BUCKETS

    def hourly(self, name: str, since: datetime, until: datetime) -> list[tuple[datetime, int, int]]:
        """Return (hour, right answers, labelled answers) of active versions on all devices that count, oldest first."""
        with self._db.read() as session:
            devices = store.devices_of(session, name, since, until)
        counting = self._crowds(devices)
        with self._db.read() as session:
            return store.hourly(session, name, since, until, list(counting)) if counting else []

    def concept(self, name: ModelName, version: str, inputs_drift: bool) -> ConceptDrift:
        """Return whether answers of a version became worse. inputs_drift: whether those of it have drifted."""
        now = self._clock.now()
        mine, _ = self._buckets(name, version, Scale.DAY, now - concept.LOOK_BACK, now + timedelta(days=1))
        counting = self._crowds(sorted({one.device for one in mine}))
        days = concept.days_of((one.device, one.at, one.sums) for one in mine if one.device in counting)
        return concept.judge(days, published(self._bundles(name, version, ())), now, lambda: inputs_drift)

    def _period(self, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime, Scale]:
        """Return beginning and end in whole steps, and their scale. Raises BadPeriodError."""
        now = self._clock.now()
        end = min(until or now, now)
        begin = since or end - DEFAULT_PERIOD
        if begin >= end:
            raise BadPeriodError("the period ends before it begins", next_step="choose `since` before `until`")
        begin = max(begin, end - LONGEST)
        is_short = end - begin <= HOURS_UP_TO and begin > now - KEPT[Scale.HOUR]
        scale = Scale.HOUR if is_short else Scale.DAY
        last = scale.begin(end - timedelta(microseconds=1)) + timedelta(seconds=int(scale))
        return scale.begin(begin), min(last, now), scale

    def _bundles(self, name: str, version: str, counted: Iterable[Bucket]) -> list[BundleView]:
        """Return the bundles of a version; without one, of the version that most labels are of, else the newest."""
        found = self._registry.bundles(PageRequest(200), model=name).items
        if not version:
            labels: dict[str, int] = {}
            for one in counted:
                labels[one.version] = labels.get(one.version, 0) + one.sums.labelled + one.sums.n
            version = max(labels, key=lambda one: (labels[one], one)) if labels else ""
            version = version or (str(found[0].ref.version) if found else "")
        return [one for one in found if str(one.ref.version) == version]

    def _labels(self, bundles: Sequence[BundleView]) -> list[str]:
        try:
            data = self._registry.member_of(bundles[0], "labels.txt", 1 << 20) if bundles else None
        except EdgefleetError as error:  # classes are shown by number then
            _log.warning("the labels of %s cannot be read: %s", bundles[0].target, error.message)
            data = None
        return [] if data is None else [one.strip() for one in data.decode("utf-8", "replace").splitlines()]


def _lines(counted: Sequence[Bucket], by: AccuracyBy, crowds: Mapping[str, DeviceCrowds]) -> list[tuple[str, _Line]]:
    """Return the lines with the most labels, in order of name."""
    found: dict[str, _Line] = {}
    for one in counted:
        for key in _keys(one, by, crowds[one.device]):
            found.setdefault(key, _Line()).add(one)
    labels = {key: _labels(line.devices) for key, line in found.items()}
    most = sorted((key for key in labels if labels[key]), key=lambda key: -labels[key])
    return [(key, found[key]) for key in sorted(most[:MOST_LINES])]


def _keys(one: Bucket, by: AccuracyBy, crowd: DeviceCrowds) -> Sequence[str]:
    match by:
        case AccuracyBy.RELEASE:
            return (one.version,)
        case AccuracyBy.SEGMENT:
            return (one.segment,)
        case AccuracyBy.GROUP:
            return crowd.groups or ("",)
        case AccuracyBy.SITE:
            return (crowd.labels.get(SITE_LABEL, ""),)
        case AccuracyBy.PROFILE:
            return (crowd.profile,)
        case _:
            return ("",)


def _line(key: str, line: _Line) -> AccuracyLine:
    share, errors = share_of(_counts(line.devices)), errors_of(line.devices.values())
    every = [one for some in line.devices.values() for one in some]
    return AccuracyLine(
        name=key,
        labelled=sum(one.labelled for one in every),
        right=sum(one.correct for one in every),
        devices=_labelled(line.devices),
        accuracy=None if share is None else share.value,
        low=None if share is None else share.low,
        high=None if share is None else share.high,
        numbers=sum(one.n for one in every),
        error=None if errors is None else errors.size,
        bias=None if errors is None else errors.bias,
        rmse=None if errors is None else errors.rmse,
        points=[_point(at, devices) for at, devices in sorted(line.steps.items()) if _labels(devices)],
    )


def _point(at: datetime, devices: Mapping[str, Sequence[TruthSums]]) -> AccuracyPoint:
    share, errors = share_of(_counts(devices)), errors_of(devices.values())
    return AccuracyPoint(
        at=at,
        labelled=_labels(devices),
        devices=_labelled(devices),
        accuracy=None if share is None else share.value,
        low=None if share is None else share.low,
        high=None if share is None else share.high,
        error=None if errors is None else errors.size,
    )


def _labels(devices: Mapping[str, Sequence[TruthSums]]) -> int:
    return sum(one.labelled + one.n for some in devices.values() for one in some)


def _labelled(devices: Mapping[str, Sequence[TruthSums]]) -> int:
    """Return how many devices have labels."""
    return sum(any(one.labelled or one.n for one in some) for some in devices.values())


def _counts(devices: Mapping[str, Sequence[TruthSums]]) -> list[tuple[int, int]]:
    return [(sum(one.labelled for one in some), sum(one.correct for one in some)) for some in devices.values()]


def _classes(whole: TruthSums, labels: Sequence[str]) -> list[ClassAccuracy]:
    """Return the classes with the most labels, by their number."""

    def named(index: int) -> str:
        if index == MAX_CLASSES:
            return "(others)"
        return labels[index] if index < len(labels) else str(index)

    indices = {one for pair in whole.cells for one in pair}
    found = []
    for index in indices:
        wrong = {answered: n for (label, answered), n in whole.cells.items() if label == index and answered != index}
        most = max(wrong, key=lambda one: (wrong[one], -one)) if wrong else None
        found.append(
            ClassAccuracy(
                label=named(index),
                labelled=sum(n for (label, _), n in whole.cells.items() if label == index),
                answered=sum(n for (_, answered), n in whole.cells.items() if answered == index),
                right=whole.right(index),
                mistaken_for=None if most is None else named(most),
                mistakes=0 if most is None else wrong[most],
            )
        )
    return sorted(found, key=lambda one: (-one.labelled, one.label))[:MOST_CLASSES]


def _figures(counted: Sequence[Bucket]) -> list[BusinessFigure]:
    found: dict[str, dict[datetime, list[tuple[str, int, int]]]] = {}
    for one in counted:
        for name, (n, total) in one.sums.figures.items():
            found.setdefault(name, {}).setdefault(one.at, []).append((one.device, n, total))
    figures = []
    for name in sorted(found)[:MOST_FIGURES]:
        every = [one for some in found[name].values() for one in some]
        figures.append(
            BusinessFigure(
                name=name,
                total=sum(total for _, _, total in every) / FIGURE_PARTS,
                reports=sum(n for _, n, _ in every),
                devices=len({device for device, _, _ in every}),
                points=[
                    FigurePoint(at, sum(total for _, _, total in some) / FIGURE_PARTS, sum(n for _, n, _ in some))
                    for at, some in sorted(found[name].items())
                ],
            )
        )
    return figures


def published(bundles: Sequence[BundleView]) -> PublishedAccuracy | None:
    """Return the accuracy at publish, None where no bundle's was measured as a share of right answers."""
    found = [one for one in map(_published, bundles) if one is not None]
    if not found:
        return None
    return PublishedAccuracy(TOP1, sum(value for value, _ in found) / len(found), min(n for _, n in found))


def _published(bundle: BundleView) -> tuple[float, int] | None:
    metric = metric_in(bundle.report)
    if metric is None or metric.name != TOP1 or not metric.is_measured or not metric.n:
        return None
    return (metric.value, metric.n) if 0 <= metric.value <= 1 else None
