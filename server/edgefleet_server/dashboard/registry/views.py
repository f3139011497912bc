"""What the pages of models, releases and bundles show, read from the services.

What a page needs of a conversion's report is taken out of it once: a report is a blob, and a blob never changes.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_protocol.manifest import Manifest
from edgefleet_server.conversion.reports import load_report
from edgefleet_server.dashboard.registry.candidate_views import SearchView, accuracy_text, searches_of
from edgefleet_server.dashboard.registry.lineage import LineageLine, lineage_lines
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.inventory.device_list import DeviceLister, DeviceQuery
from edgefleet_server.fleet.inventory.views import DeviceView, FleetReader
from edgefleet_server.registry.model import BundleView, JobView, ModelView, ReleaseState, ReleaseView, SourceView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.status.reader import RolloutReader, RolloutView
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.teams.views import TeamRequestView
from edgefleet_server.signing.trust import TargetView
from edgefleet_server.telemetry.bundle_metrics import BundleLine, bundle_line, metric_in
from edgefleet_server.telemetry.release_comparison import Comparisons, ProfilePair
from edgefleet_terms.feature_importance import NOT_ASKED, Importance, read_importance
from edgefleet_terms.parent_verdict import NOT_COMPARED, ParentComparison, read_comparison

PAGE_ROWS: Final = 50
SHOWN_ROLLOUTS: Final = 10
SHOWN_DEVICES: Final = 20
KEPT_FACTS: Final = 256
OPEN_JOBS: Final = ("queued", "running")


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One version of a model. running: devices on which it is active; share: of all devices that run the model, 0 to 1.

    smallest, largest: bytes of its models over the profiles, None without a bundle. accuracy: as `accuracy_text` writes it.
    """

    release: ReleaseView
    running: int
    share: float
    smallest: float | None
    largest: float | None
    refused: Sequence[JobView]
    open_jobs: Sequence[JobView]
    accuracy: str = ""


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model with its newest version, None when it has none: one with a bundle, where there is one.

    failed: the version that was published last, where nothing of it was signed and another one is shown.
    """

    model: ModelView
    newest: VersionLine | None
    running: Sequence[tuple[str, int]]
    devices: int
    failed: VersionLine | None = None


@dataclass(frozen=True, slots=True)
class ModelsPage:
    """The list of models. withdrawn: why releases were withdrawn, by release; live: how many models devices run, of all."""

    lines: Sequence[ModelLine]
    total: int
    next_cursor: str | None
    withdrawn: Mapping[str, str]
    live: int = 0


@dataclass(frozen=True, slots=True)
class ModelPage:
    """One model. elsewhere: versions that devices run and that this list does not show, with how many devices."""

    model: ModelView
    versions: Sequence[VersionLine]
    total: int
    next_cursor: str | None
    devices: int
    elsewhere: Sequence[tuple[str, int]]
    rollouts: Sequence[RolloutView]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What a conversion's report says of the source, of how it was judged and what was tried; texts are empty where it says nothing."""

    format: str
    imported: Sequence[tuple[str, str]]
    kept_from: str
    judged_on: str
    judging_samples: int
    calibration_samples: int
    operators: Sequence[tuple[str, int]]
    open_dimensions: Sequence[tuple[str, str]]
    searches: Sequence[SearchView]
    importance: Importance = NOT_ASKED
    comparison: ParentComparison = NOT_COMPARED


@dataclass(frozen=True, slots=True)
class ReleasePage:
    """One release: what it was made of, what was made of it, and where it runs. states: devices by how they stand with it.

    other: the version to compare it with, "" without one: the newest older one that has a bundle, else the newest. last_brought: the
    newest rollout that brought it to a device, None where none did; seen_on: the most devices that reported figures of a bundle of it.
    """

    line: VersionLine
    source: SourceView
    facts: ReportFacts | None
    searches: Sequence[SearchView]
    importance: Importance
    comparison: ParentComparison
    manifest: Manifest | None
    bundles: Sequence[BundleLine]
    other: str
    states: Sequence[tuple[str, int]]
    devices: Sequence[DeviceView]
    rollouts: Sequence[RolloutView]
    has_report: bool
    lineage: Sequence[LineageLine]
    last_brought: RolloutView | None
    seen_on: int
    team: TeamRequestView | None
    """What waits for the team of the model."""


@dataclass(frozen=True, slots=True)
class CompareVerdict:
    """All profiles together. pairs: those that both versions have; figures: how many were compared."""

    pairs: int
    figures: int
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class ComparePage:
    """Two versions. versions: all that can be chosen, newest first; before, after are None until both are chosen."""

    model: ModelView
    versions: Sequence[str]
    before: VersionLine | None
    after: VersionLine | None
    pairs: Sequence[ProfilePair]

    @property
    def verdict(self) -> CompareVerdict:
        """What the page begins with."""
        whole = [one for one in self.pairs if not one.missing]
        return CompareVerdict(
            len(whole),
            sum(len(one.changes) for one in whole),
            sum(one.better for one in whole),
            sum(one.worse for one in whole),
        )


@dataclass(frozen=True, slots=True)
class BundlePage:
    """One bundle from the inside. manifest: None with `trouble` saying why; target: how TUF names it, None when it does not."""

    bundle: BundleView
    manifest: Manifest | None
    trouble: str
    target: TargetView | None


class RegistryViews:
    """Reads what the pages show. Thread-safe; calls block."""

    def __init__(
        self,
        registry: RegistryService,
        signing: SigningService,
        devices: FleetReader,
        lists: DeviceLister,
        rollouts: RolloutReader,
        comparisons: Comparisons,
    ) -> None:
        """Wire the services."""
        self._registry = registry
        self._signing = signing
        self._devices = devices
        self._lists = lists
        self._rollouts = rollouts
        self._comparisons = comparisons
        self._lock = threading.Lock()
        self._facts: OrderedDict[str, ReportFacts] = OrderedDict()

    def models(self, after: str | None) -> ModelsPage:
        """Return one page of models by name, those that devices run first."""
        found = self._registry.models(PageRequest(PAGE_ROWS, after))
        counts = self._devices.running()
        latest = self._registry.releases_of([ReleaseRef.parse(one.latest) for one in found.items if one.latest])
        last_of = {str(one.ref.model): one for one in latest.values()}
        lines = []
        for model in found.items:
            running = counts.get(model.name, {})
            newest, failed = self._newest(last_of.get(model.name), running)
            most_first = sorted(running.items(), key=lambda one: (-one[1], one[0]))
            lines.append(ModelLine(model, newest, most_first, sum(running.values()), failed))
        lines.sort(key=lambda one: -one.devices)  # what is live first
        return ModelsPage(lines, found.total, found.next_cursor, self._registry.withdrawn(), len(counts))

    def model(self, name: str, after: str | None) -> ModelPage:
        """Return one model with a page of its versions, newest first. Raises ModelUnknownError, BadIdError."""
        parsed = parse_model_name(name)
        model = self._registry.model(parsed)
        releases = self._registry.releases(PageRequest(PAGE_ROWS, after), parsed)
        running = self._devices.running().get(name, {})
        shown = {str(one.ref.version) for one in releases.items}
        rollouts, _total = self._rollouts.page(PageRequest(SHOWN_ROLLOUTS), model=name)
        return ModelPage(
            model=model,
            versions=[self._line(one, running) for one in releases.items],
            total=releases.total,
            next_cursor=releases.next_cursor,
            devices=sum(running.values()),
            elsewhere=sorted((version, n) for version, n in running.items() if version not in shown),
            rollouts=rollouts[:SHOWN_ROLLOUTS],
        )

    def release(self, name: str, version: str) -> ReleasePage:
        """Return one release. Raises ReleaseUnknownError, BadIdError."""
        registry = self._registry
        release = registry.release(ReleaseRef.parse(f"{name}@{version}"))
        states: dict[str, int] = {}
        for one in self._devices.summary().models:
            if (one.model, one.version) == (name, version):
                states[one.state] = states.get(one.state, 0) + one.devices
        devices = self._lists.page(DeviceQuery(f"model.{name}={version}", limit=SHOWN_DEVICES)).devices
        rollouts, _count = self._rollouts.page(PageRequest(PAGE_ROWS), model=name)
        mine = [one for one in rollouts if one.version == version]
        reports = [job.report for job in release.jobs if job.report]
        bundles = self._comparisons.lines(release.bundles)
        told = [facts for digest in reports if (facts := self._report_facts(digest)) is not None]
        return ReleasePage(
            line=self._line(release, self._devices.running().get(name, {})),
            source=registry.source_of(release.ref),
            facts=told[0] if told else None,
            searches=sorted((search for facts in told for search in facts.searches), key=lambda one: one.profile),
            importance=next((one.importance for one in told if one.importance is not NOT_ASKED), NOT_ASKED),
            comparison=next((one.comparison for one in told if one.comparison is not NOT_COMPARED), NOT_COMPARED),
            manifest=next(
                (found for one in release.bundles if (found := registry.readable_manifest(one)[0]) is not None), None
            ),
            bundles=bundles,
            other=self._other(name, version),
            states=sorted(states.items()),
            devices=devices,
            rollouts=mine[:SHOWN_ROLLOUTS],
            has_report=bool(reports),
            lineage=lineage_lines(release.lineage),
            last_brought=next((one for one in mine if one.counts.exposed), None),
            seen_on=max((one.observed.devices for one in bundles if one.observed is not None), default=0),
            team=self._team_request(release),
        )

    def _team_request(self, release: ReleaseView) -> TeamRequestView | None:
        is_asked = release.withdrawn is not None or release.state is ReleaseState.UNSIGNED
        return self._signing.teams.waiting(release.ref.model) if is_asked else None

    def compare(self, name: str, before: str, after: str) -> ComparePage:
        """Return two versions side by side; with one of them empty, what can be chosen. Raises ModelUnknownError, ReleaseUnknownError."""
        model = self._registry.model(parse_model_name(name))
        versions = self._versions(name)
        if not before or not after:
            return ComparePage(model, versions, None, None, ())
        a, b = (self._registry.release(ReleaseRef.parse(f"{name}@{one}")) for one in (before, after))
        running = self._devices.running().get(name, {})
        pairs = self._comparisons.pairs(a, b)
        return ComparePage(model, versions, self._line(a, running), self._line(b, running), pairs)

    def pair_of(self, name: str) -> tuple[str, str]:
        """Return the two versions that matter, the older one first: the newest with a bundle, and of the others what most devices run.

        Where no other runs, the one before the newest; empty where there are fewer than two. Raises InvalidNameError.
        """
        page = self._registry.releases(PageRequest(PAGE_ROWS, None), parse_model_name(name))
        usable = [str(one.ref.version) for one in page.items if one.bundles and one.withdrawn is None]
        if not usable:
            return ("", "")
        running = self._devices.running().get(name, {})
        known = {str(one.ref.version) for one in page.items if one.bundles}
        others = [one for one in running if one != usable[0] and one in known]
        before = max(others, key=lambda one: running[one], default=usable[1] if len(usable) > 1 else "")
        return (before, usable[0]) if before else ("", "")

    def bundle(self, sha256: str) -> BundlePage:
        """Return one bundle by its digest. Raises BundleUnknownError, BadDigestError."""
        bundle = self._registry.bundle(parse_sha256(sha256))
        manifest, trouble = self._registry.readable_manifest(bundle)
        return BundlePage(bundle, manifest, trouble, self._signing.target(bundle.target))

    def _newest(
        self, last: ReleaseView | None, running: Mapping[str, int]
    ) -> tuple[VersionLine | None, VersionLine | None]:
        """Return the version that a model is shown by, and the one that failed since. last: what was published last."""
        if last is None:
            return None, None
        if last.bundles or last.state in {ReleaseState.CONVERTING, ReleaseState.UNSIGNED}:
            return self._line(last, running), None
        page = self._registry.releases(PageRequest(PAGE_ROWS, None), last.ref.model)
        usable = next((one for one in page.items if one.bundles), None)
        if usable is None:
            return self._line(last, running), None
        return self._line(usable, running), self._line(last, running)

    def _versions(self, name: str) -> list[str]:
        releases = self._registry.releases(PageRequest(PAGE_ROWS, None), parse_model_name(name))
        return [str(one.ref.version) for one in releases.items]

    def _other(self, name: str, version: str) -> str:
        page = self._registry.releases(PageRequest(PAGE_ROWS, None), parse_model_name(name))
        usable = [str(one.ref.version) for one in page.items if one.bundles or str(one.ref.version) == version]
        here = usable.index(version) if version in usable else len(usable)
        return next(iter([*usable[here + 1 :], *usable[:here]]), "")

    def _line(self, release: ReleaseView, running: Mapping[str, int]) -> VersionLine:
        version = str(release.ref.version)
        sizes = [line.bytes for one in release.bundles if (line := bundle_line(one, None, None)).bytes is not None]
        total = sum(running.values())
        return VersionLine(
            release=release,
            running=running.get(version, 0),
            share=running.get(version, 0) / total if total else 0.0,
            smallest=min(sizes, default=None),
            largest=max(sizes, default=None),
            refused=[job for job in release.jobs if job.state in ("refused", "failed", "cancelled")],
            open_jobs=[job for job in release.jobs if job.state in OPEN_JOBS],
            accuracy=accuracy_text([metric_in(one.report) for one in release.bundles]),
        )

    def _report_facts(self, digest: str) -> ReportFacts | None:
        with self._lock:
            known = self._facts.get(digest)
        if known is not None:
            return known
        try:
            made = facts_of(load_report(self._registry, digest) or {})
        except EdgefleetError:
            return None
        with self._lock:
            self._facts[digest] = made
            while len(self._facts) > KEPT_FACTS:
                self._facts.popitem(last=False)
        return made


def facts_of(report: Mapping[str, Any]) -> ReportFacts:
    """Return what a report says, which a child process wrote: anything of another kind than it should be is left out."""
    source, data = _mapping(report.get("source")), _mapping(report.get("data"))
    operators = _mapping(source.get("operators"))
    imported = _mapping(source.get("imported"))
    return ReportFacts(
        format=_text(source.get("format")),
        imported=[(str(key), _text(value)) for key, value in imported.items() if _text(value)],
        kept_from=_text(report.get("kept_from")),
        judged_on=_text(data.get("judged_on")),
        judging_samples=_count(data.get("judging_samples")),
        calibration_samples=_count(data.get("calibration_samples")),
        operators=sorted((str(key), _count(n)) for key, n in operators.items()),
        open_dimensions=[(str(key), _text(value)) for key, value in _mapping(data.get("open_dimensions")).items()],
        searches=list(searches_of(report)),
        importance=read_importance(report.get("importance")),
        comparison=read_comparison(report.get("comparison")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items() if isinstance(inner, str | int | float))[:500]
    if isinstance(value, list):
        return ", ".join(str(one) for one in value if isinstance(one, str | int | float))[:500]
    return str(value)[:500] if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
