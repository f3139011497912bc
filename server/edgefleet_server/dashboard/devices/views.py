"""What the page of one device shows, read from the services."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, ReleaseRef, parse_target_path
from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.alerting.active_alerts.service import ActiveAlerts
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.dashboard.core.rows import DeviceLine, device_line
from edgefleet_server.dashboard.devices.chart_worth import SHOWN, by_worth
from edgefleet_server.dashboard.devices.health_panel import FRESH, HealthPanel, answering, health_panel
from edgefleet_server.dashboard.devices.history_strips import KINDS, Strip, strips
from edgefleet_server.dashboard.devices.peer_dots import PeerDots, peer_dots
from edgefleet_server.dashboard.devices.remedies import Remedies, remedies
from edgefleet_server.dashboard.devices.slot_pairs import SlotPair, slot_pairs
from edgefleet_server.dashboard.story.event_fold import folded, happening_of
from edgefleet_server.dashboard.story.model import Happening, Story
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.dashboard.timelines.views import TimelineView, TimelineViews
from edgefleet_server.db.keyset import encode_cursor
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventView
from edgefleet_server.fleet.desired.model import TaskState, TaskView
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.errors import TaskResultMissingError
from edgefleet_server.fleet.inventory.views import STATUS_REASONS, DeviceView, FleetReader
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.presence.history import PresenceHistory
from edgefleet_server.fleet.presence.model import Absence, absence_words
from edgefleet_server.registry.errors import ModelUnknownError
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.status.explanation import DeviceExplanation, ModelExplanation, explain
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.drift.views import DriftWord
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.latency.views import LatencyExplanation
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.model import PredictionsView
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.timelines.model import Scope
from edgefleet_server.telemetry_views import Latest, WindowView
from edgefleet_terms.device_figures import SYSTEM_FIGURES, figure_name, figure_text
from edgefleet_terms.planned_runs import run_texts
from edgefleet_terms.reserved_labels import PIN_LABEL, SITE_LABEL

PAGE_EVENTS: Final = 60

LOG_LINES: Final = 60

SHOWN_TASKS: Final = 10

MOST_RELEASES: Final = 30

PAST_EVENTS: Final = 400
"""Reports that strips are made of."""

PLACE_LABELS: Final = (SITE_LABEL, "place")
MOST_COMPARED: Final = 3
RISE_SPAN: Final = timedelta(days=1)
PEER_SPAN: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Log:
    """The end of the newest log that the device sent."""

    task: TaskView
    text: str
    lines: int


def differences(answer: DeviceExplanation) -> list[str]:
    """Return why a device does not run what it should, one sentence a model; nothing when it does."""
    return [f"{_apart(one)}: {one.why}." for one in answer.items if not one.is_settled and (one.wanted or one.running)]


def _apart(one: ModelExplanation) -> str:
    """Return what is wanted of a model and what runs."""
    if one.wanted is None:
        return f"{one.running} is running, but no version of {one.model} is desired here"
    if one.wanted == one.running:
        return one.wanted
    return f"{one.wanted} is desired, {one.running or 'no version'} is running"


def _of_running(words: Sequence[DriftWord], device: DeviceView) -> list[DriftWord]:
    """Return what a device says of the versions that it runs: those before them are history."""
    running = {one.release for one in device.models}
    return [one for one in words if not one.version or f"{one.model}@{one.version}" in running]


def _absence(device: DeviceView, site: str, one: Absence) -> Happening:
    """Return an absence as what happened when it ended."""
    away = "offline" if one.is_heard else "unknown"
    return Happening(
        one.until,
        "absence",
        device.id,
        device.display_name,
        site,
        to=away,
        title=absence_words(one),
        is_event=False,
        times=one.times,
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """What is asked why a device is as it is: its alerts, why its latency rose, and when it was there. readings: keeps what takes long.

    rules_of: returns the protection rules of devices that are under any.
    """

    alerts: ActiveAlerts
    latency: LatencyExplainer
    presence: PresenceHistory
    readings: Readings
    rules_of: Callable[[Collection[str]], Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One device. differences: in words, why it does not run what it should. pinned: why no rollout touches it, None = they do.

    strips: what happened from `since` until `until`; answers: what it shows to those who watch it, None where nobody does.
    protections: the protection rules that it is under.
    """

    device: DeviceView
    line: DeviceLine
    differences: Sequence[str]
    health: HealthPanel
    remedies: Remedies
    alerts: Sequence[AlertView]
    peers: Sequence[PeerDots]
    slots: Sequence[SlotPair]
    strips: Sequence[Strip]
    since: datetime
    until: datetime
    telemetry: Latest | None
    timeline: TimelineView
    tasks: Sequence[TaskView]
    log: Log | None
    answers: PredictionsView | None
    pinned: str | None
    releases: Sequence[str]
    profiles: Sequence[str]
    story: Story
    older: str
    drifting: Sequence[DriftWord] = ()
    protections: Sequence[str] = ()

    @property
    def place(self) -> str:
        """Where it stands, as its labels say; "" where they do not."""
        return ", ".join(value for key in PLACE_LABELS if (value := self.device.labels.get(key)))

    @property
    def schedules(self) -> Mapping[str, str]:
        """By model how its schedule stands, as the device says."""
        return run_texts(self.device.facts)

    @property
    def runs(self) -> Sequence[str]:
        """The releases that run on it."""
        return [one.running for one in self.line.models if one.running]

    @property
    def last_message(self) -> datetime | None:
        """When it sent anything last: its state, its presence or figures."""
        known = (self.device.last_seen, None if self.telemetry is None else self.telemetry.received_at)
        return max((at for at in known if at is not None), default=None)

    @property
    def figures(self) -> list[tuple[str, str]]:
        """Names and texts of the newest figures of the device itself, as `edgectl device show` has them."""
        found = {} if self.telemetry is None else self.telemetry.system
        every = [*SYSTEM_FIGURES, *sorted(found.keys() - SYSTEM_FIGURES.keys())]
        return [(figure_name(key), figure_text(key, found[key])) for key in every if key in found]

    @property
    def shown_charts(self) -> int:
        """How many charts are not folded."""
        return SHOWN

    @property
    def status_reason(self) -> str:
        """What its status rests on."""
        return STATUS_REASONS[self.device.status]


class DevicePages:
    """Builds pages. Thread-safe; calls block."""

    def __init__(  # noqa: PLR0913, PLR0917  # what a page of a device shows comes from as many services
        self,
        devices: FleetReader,
        feed: EventLog,
        tasks: TaskBook,
        telemetry: TelemetryService,
        watching: LivePredictions,
        registry: RegistryService,
        drift: DriftService,
        timelines: TimelineViews,
        sources: Sources,
        clock: Clock,
    ) -> None:
        """Wire the services."""
        self._drift = drift
        self._timelines = timelines
        self._devices = devices
        self._feed = feed
        self._tasks = tasks
        self._telemetry = telemetry
        self._watching = watching
        self._registry = registry
        self._sources = sources
        self._clock = clock

    def device(self, device_id: str, asked: Asked, before: int | None, *, may_act: bool) -> DevicePage:
        """Return one device; what only an operator may see or choose is left out for others. Raises DeviceUnknownError, BadSpanError."""
        device = self._devices.device(device_id)
        now = self._clock.now()
        latest = self._telemetry.latest(device_id)
        timeline = self._timelines.view(Scope.DEVICE, device_id, asked)
        timeline = replace(timeline, charts=by_worth(timeline.charts))
        since, until = timeline.since, timeline.until
        alerts = self._sources.alerts.of_device(device_id, since)
        open_alerts = [one for one in alerts if one.state is not AlertState.RESOLVED]
        rises, peers = self._compared(device, latest, now)
        health = health_panel(device, open_alerts, latest, now, rises)
        explanation = explain(device, {}, now)
        tasks = self._tasks.tasks(device_id)
        story, more = self._story(device, before)
        return DevicePage(
            device=device,
            line=device_line(device),
            differences=differences(explanation),
            health=health,
            remedies=remedies(device, explanation, open_alerts, rises, is_hot=any(one.is_heat for one in health.rows)),
            alerts=open_alerts,
            peers=peers,
            slots=slot_pairs(device, self._size),
            strips=strips(
                device,
                self._past(device_id),
                alerts,
                self._sources.presence.device(device_id, since, until),
                since,
                until,
                rises,
            ),
            since=since,
            until=until,
            telemetry=latest,
            timeline=timeline,
            tasks=tasks[:SHOWN_TASKS],
            log=self._log(device_id, tasks) if may_act else None,
            answers=self._watching.shown(device_id),
            pinned=(device.labels[PIN_LABEL] or "manual") if PIN_LABEL in device.labels else None,
            releases=self._releases(device) if may_act else (),
            profiles=sorted(one.name for one in self._registry.profiles()) if may_act else (),
            story=story,
            older=more,
            drifting=_of_running(self._drift.of_device(device_id), device),
            protections=self._sources.rules_of([device_id]).get(device_id, ()),
        )

    def predictions(self, device_id: str) -> PredictionsView:
        """Return what a watched device answered last. Raises DeviceUnknownError."""
        return self._watching.look(device_id, 0, "")

    def _compared(
        self, device: DeviceView, latest: Latest | None, now: datetime
    ) -> tuple[list[LatencyExplanation], list[PeerDots]]:
        """Return why its latency rose and how it compares, of each model that answered lately; as old as `Readings` keeps it."""
        if latest is None or now - latest.received_at > FRESH or device.status is DeviceStatus.REVOKED:
            return [], []
        found = [self._compared_of(device.id, one, now) for one in answering(latest, now)[:MOST_COMPARED]]
        return [rise for rise, _ in found if rise is not None], [dots for _, dots in found if dots is not None]

    def _compared_of(
        self, device_id: str, one: WindowView, now: datetime
    ) -> tuple[LatencyExplanation | None, PeerDots | None]:
        def read() -> tuple[LatencyExplanation | None, PeerDots | None]:
            others = self._telemetry.series.peers(device_id, one.model, [one.sha256], now - PEER_SPAN, now)
            return self._rise(device_id, one.model, now), peer_dots(one.model, one.latency_p95_ms, others)

        return self._sources.readings.of("devices", (device_id, one.model, one.sha256), read)

    def _rise(self, device_id: str, model: str, now: datetime) -> LatencyExplanation | None:
        """Return why the latency of a model rose; None where the model is not known here: a device may answer with what it likes."""
        try:
            return self._sources.latency.explain(ModelName(model), now - RISE_SPAN, now, device_id)
        except ModelUnknownError:
            return None

    def _past(self, device_id: str) -> list[EventView]:
        return self._feed.newest(limit=PAST_EVENTS, device_id=device_id, kinds=KINDS)

    def _size(self, target: str) -> int | None:
        """Return the size of a bundle by its path; None where it is none of ours."""
        try:
            model, version, profile = parse_target_path(target)
        except EdgefleetError:
            return None
        bundle = self._registry.bundle_for(ReleaseRef(model, version), profile)
        return None if bundle is None else bundle.length

    def _story(self, device: DeviceView, before: int | None) -> tuple[Story, str]:
        """Return what happened before an event, and the cursor of what happened before that."""
        found = self._feed.newest(limit=PAGE_EVENTS + 1, device_id=device.id, before=before)
        shown, site = found[:PAGE_EVENTS], device.labels.get(SITE_LABEL, "")
        more = encode_cursor(str(shown[-1].id)) if len(found) > PAGE_EVENTS else ""
        begin = shown[-1].received_at if more else device.enrolled_at
        end = self._clock.now() if before is None or not shown else shown[0].received_at
        away = (_absence(device, site, one) for one in self._sources.presence.absences(device.id, begin, end))
        return folded(chain((happening_of(one, site) for one in shown), away)), more

    def _log(self, device_id: str, tasks: Sequence[TaskView]) -> Log | None:
        newest = next((one for one in tasks if one.kind == "logs" and one.state is TaskState.DONE), None)
        if newest is None or not newest.result_bytes:
            return None
        try:
            _type, data = self._tasks.result(device_id, newest.id)
        except TaskResultMissingError:  # results are kept for some days, tasks for longer
            return None
        lines = data.decode("utf-8", "replace").splitlines()
        return Log(newest, "\n".join(lines[-LOG_LINES:]), len(lines))

    def _releases(self, device: DeviceView) -> list[str]:
        """Return the releases that have a bundle for the device's profile, newest first."""
        bundles = self._registry.newest_bundles(device.profile, MOST_RELEASES)
        return list(dict.fromkeys(str(one.ref) for one in bundles))
