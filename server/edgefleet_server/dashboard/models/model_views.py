"""What the page of one model shows, read from the services: what costs most is read again only after some seconds.

A page that is looked at is made again every second; its table and its head are always of now.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, parse_model_name
from edgefleet_server.dashboard.core.filters import moment
from edgefleet_server.dashboard.core.readings import Readings, Value
from edgefleet_server.dashboard.models.model_status import (
    OPEN_ROLLOUTS,
    RiseStanding,
    RolloutStanding,
    Standing,
    VersionStanding,
    standing_of,
    version_state,
)
from edgefleet_server.dashboard.models.version_bars import PlaceBars, by_profile, by_site, colours_of
from edgefleet_server.dashboard.models.version_charts import MOST_VERSIONS, ModelCharts, model_charts, order_of
from edgefleet_server.dashboard.models.version_totals import AnswerTotals, by_model, by_version
from edgefleet_server.dashboard.registry.candidate_views import SearchView
from edgefleet_server.dashboard.registry.lineage import OriginFacts, OriginStep, origin_steps
from edgefleet_server.dashboard.registry.views import (
    ModelPage,
    RegistryViews,
    ReleasePage,
    VersionLine,
)
from edgefleet_server.dashboard.timelines.explanations import Explanations
from edgefleet_server.dashboard.timelines.time_range import DAY, Asked
from edgefleet_server.dashboard.timelines.views import TimelineView, TimelineViews
from edgefleet_server.fleet.inventory.fleet_counts import VersionPlace, VersionPlaces
from edgefleet_server.objectives.model import SloView
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.drift.views import ModelDrift
from edgefleet_server.telemetry.latency.views import LatencyExplanation
from edgefleet_server.telemetry.release_comparison import Change
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope

MOST_CHANGES: Final = 8
_FIGURES: Final = ("metric", "observed_latency_p95_ms", "error_rate", "model_bytes", "observed_memory_bytes")
"""Those of the short comparison, in its order."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version in the table. colour: 1 for the newest that runs or ran, 0 for none; p95_ms: of all answers of the span."""

    line: VersionLine
    kind: str
    state: str
    colour: int
    accuracy: str
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class ShortCompare:
    """Two versions in some figures: each with the profile that it is of."""

    before: str
    after: str
    changes: Sequence[tuple[str, Change]]


@dataclass(frozen=True, slots=True)
class ModelOverview:
    """The page. rows: versions with a bundle or in conversion, the newest first; refused: those of which nothing was signed.

    answers: of all versions over the span, without a latency. card: the newest version with a bundle, None without; search: what was tried
    for the profile that most devices have.
    latency: why it rose in the span, or that it did not.
    """

    page: ModelPage
    standing: Standing
    timeline: TimelineView
    charts: ModelCharts
    sites: PlaceBars
    profiles: PlaceBars
    devices: int
    rows: Sequence[VersionRow]
    refused: Sequence[VersionLine]
    answers: AnswerTotals
    card: ReleasePage | None
    search: SearchView | None
    origin: Sequence[OriginStep]
    compare: ShortCompare | None
    latency: LatencyExplanation


@dataclass(frozen=True, slots=True)
class ModelSources:
    """What the page is read from."""

    views: RegistryViews
    timelines: TimelineViews
    places: VersionPlaces
    objectives: ObjectiveBook
    drift: DriftService
    explanations: Explanations
    rollups: RollupReader
    readings: Readings
    clock: Clock


class ModelViews:
    """Builds the page. Thread-safe; calls block."""

    def __init__(self, sources: ModelSources) -> None:
        """Wire the parts."""
        self._of = sources

    def overview(self, name: str, after: str | None, asked: Asked, by: LinesBy | None) -> ModelOverview:
        """Return the page. Raises ModelUnknownError, BadIdError."""
        of, model = self._of, parse_model_name(name)
        page = of.views.model(name, after)
        timeline = of.timelines.view(Scope.MODEL, name, asked, by)
        places = of.places.of_model(name)
        objectives = self._kept(("objectives", name), lambda: of.objectives.slos(name))
        is_by_version = timeline.by == LinesBy.VERSION.value
        published = [str(one.release.ref.version) for one in page.versions]
        live = {one.version for one in places}
        order = order_of(published, sorted(live), _seen(timeline) if is_by_version else ())[:MOST_VERSIONS]
        drift = {one: found for one in order if (found := self._drift(model, one)) is not None} if is_by_version else {}
        charts = model_charts(timeline.charts, order if is_by_version else (), drift)
        latency = of.explanations.of(model, timeline.since, timeline.until)
        standing = _standing(page, places, objectives, latency)
        shown = next((one for one in page.versions if one.release.bundles), None)
        card = None if shown is None else self._release(name, str(shown.release.ref.version))
        totals = self._totals(name, timeline)
        colours = colours_of(order)
        return ModelOverview(
            page=page,
            standing=standing,
            timeline=timeline,
            charts=charts,
            sites=by_site(name, places, order),
            profiles=by_profile(name, places, order),
            devices=sum(one.devices for one in places),
            rows=[_row(one, places, standing, totals, colours) for one in page.versions if _is_shown(one)],
            refused=[one for one in page.versions if not _is_shown(one)],
            answers=_all_of(totals.values()),
            card=card,
            search=None if card is None else _search(card, places),
            origin=() if card is None else _origin(card, standing),
            compare=self._compare(name),
            latency=latency,
        )

    def _kept(self, key: Hashable, read: Callable[[], Value]) -> Value:
        return self._of.readings.of("models", key, read)

    def _drift(self, model: ModelName, version: str) -> ModelDrift | None:
        try:
            return self._kept(("drift", model, version), lambda: self._of.drift.of_model(model, version))
        except EdgefleetError:  # of a version that is deleted meanwhile
            return None

    def _totals(self, model: str, shown: TimelineView) -> Mapping[str, AnswerTotals]:
        asked = (model, shown.since, shown.until)
        return self._kept(("totals", *asked), lambda: by_version(self._of.rollups, *asked))

    def latencies(self) -> Mapping[str, AnswerTotals]:
        """Return what each model answered in the last day."""
        now = self._of.clock.now()
        return self._kept("models", lambda: by_model(self._of.rollups, now - DAY, now))

    def _release(self, name: str, version: str) -> ReleasePage:
        return self._kept(("release", name, version), lambda: self._of.views.release(name, version))

    def _compare(self, name: str) -> ShortCompare | None:
        before, after = self._kept(("pair", name), lambda: self._of.views.pair_of(name))
        if not before or not after:
            return None
        found = self._kept(("compare", name, before, after), lambda: self._of.views.compare(name, before, after))
        rows = [
            (pair.profile, change)
            for figure in _FIGURES
            for pair in found.pairs
            for change in pair.changes
            if change.figure == figure
        ]
        return ShortCompare(before, after, rows[:MOST_CHANGES])


def _seen(timeline: TimelineView) -> list[str]:
    return [
        name
        for one in timeline.charts
        if one.is_of_versions
        for name in one.names
        if not name.startswith(("no ", "others"))
    ]


def _is_shown(line: VersionLine) -> bool:
    return bool(line.release.bundles or line.open_jobs or line.running)


def _standing(
    page: ModelPage, places: Sequence[VersionPlace], objectives: Sequence[SloView], latency: LatencyExplanation
) -> Standing:
    known = {str(one.release.ref.version): one for one in page.versions}
    elsewhere = [one.version for one in places if one.version not in known]
    versions = [_version(name, known.get(name), places) for name in [*known, *dict.fromkeys(elsewhere)]]
    rollouts = [RolloutStanding(one.id, one.version, one.state) for one in page.rollouts if one.state in OPEN_ROLLOUTS]
    states = [(one.title, one.state.value) for one in objectives]
    rise = latency.rise
    rose = None if rise is None or rise.is_over else RiseStanding(rise.before_ms, rise.after_ms, rise.since)
    return standing_of(versions, rollouts, states, rose)


def _version(name: str, line: VersionLine | None, places: Sequence[VersionPlace]) -> VersionStanding:
    mine = [one for one in places if one.version == name]
    return VersionStanding(
        version=name,
        devices=sum(one.devices for one in mine),
        silent=sum(one.silent for one in mine),
        has_bundle=line is not None and bool(line.release.bundles),
        is_converting=line is not None and bool(line.open_jobs),
        is_withdrawn=line is not None and line.release.withdrawn is not None,
    )


def _row(
    line: VersionLine,
    places: Sequence[VersionPlace],
    standing: Standing,
    totals: Mapping[str, AnswerTotals],
    colours: Mapping[str, int],
) -> VersionRow:
    version = str(line.release.ref.version)
    rollouts = [] if standing.rollout is None else [standing.rollout]
    own = replace(_version(version, line, places), devices=line.running)  # places are of some seconds ago
    kind, state = version_state(own, rollouts)
    answers = totals.get(version)
    return VersionRow(
        line, kind, state, colours.get(version, 0), line.accuracy, None if answers is None else answers.p95_ms
    )


def _all_of(totals: Iterable[AnswerTotals]) -> AnswerTotals:
    every = list(totals)
    return AnswerTotals(
        sum(one.n for one in every), sum(one.failed for one in every), sum(one.nonfinite for one in every), p95_ms=None
    )


def _search(card: ReleasePage, places: Sequence[VersionPlace]) -> SearchView | None:
    """Return the search for the profile that most devices have."""
    devices: dict[str, int] = {}
    for one in places:
        devices[one.profile] = devices.get(one.profile, 0) + one.devices
    return max(card.searches, key=lambda one: devices.get(one.profile, 0), default=None)


def _origin(card: ReleasePage, standing: Standing) -> list[OriginStep]:
    release, bundles = card.line.release, card.line.release.bundles
    tried = [one for search in card.searches for one in search.lines if one.number]
    rollout = standing.rollout
    doing = next(
        (
            words
            for row in [rollout]
            if row and row.version == str(release.ref.version)
            for words in [standing.words.partition(" ")[2]]
        ),
        "",
    )
    signed_at: datetime | None = max((one.signed_at for one in bundles), default=None)
    facts = OriginFacts(
        model=str(release.ref.model),
        version=str(release.ref.version),
        files=[(one.path, one.length) for one in card.source.files],
        source_sha256=str(release.source_sha256),
        lineage=release.lineage,
        data=card.source.data,
        samples=0 if card.facts is None else card.facts.judging_samples,
        tried=len(tried),
        passed=sum(one.verdict == "passed" for one in tried),
        profiles=[str(one.profile) for one in bundles],
        refused=len(card.line.refused),
        bundle=str(bundles[0].sha256) if len(bundles) == 1 else "",
        signed="" if signed_at is None else f"{moment(signed_at)[:16]} UTC",
        devices=card.line.running,
        doing=doing or ("run it now" if card.line.running else "not in use"),
    )
    return origin_steps(facts)
