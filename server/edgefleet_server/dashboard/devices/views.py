"""What the page of one device shows, read from the services."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.device_figures import SYSTEM_FIGURES, figure_name, figure_text
from edgefleet_protocol.labels import PIN_LABEL
from edgefleet_server.dashboard.core.rows import DeviceLine, EventLine, device_line, event_line
from edgefleet_server.dashboard.timelines.views import TimelineView, TimelineViews
from edgefleet_server.db.keyset import encode_cursor
from edgefleet_server.events.log import EventLog
from edgefleet_server.fleet.desired.model import TaskState, TaskView
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.errors import TaskResultMissingError
from edgefleet_server.fleet.inventory.views import STATUS_REASONS, DeviceView, FleetReader, release_of
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.status.explanation import DeviceExplanation, ModelExplanation, explain
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.drift.views import DriftWord
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.model import PredictionsView
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.timelines.model import Scope
from edgefleet_server.telemetry_views import Latest

PAGE_EVENTS: Final = 20

LOG_LINES: Final = 60

SHOWN_TASKS: Final = 10

MOST_RELEASES: Final = 30


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """A release that a device can go back to without a download: its other slot holds it."""

    model: str
    release: str


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


def rollback_targets(device: DeviceView) -> list[RollbackTarget]:
    """Return what the other slots hold that is not what is wanted."""
    wanted = {one.model: one.release for one in device.desired.models}
    found = [(one.model, release_of(one.previous_target)) for one in device.models if one.previous_target]
    return [RollbackTarget(model, release) for model, release in found if release and release != wanted.get(model)]


def _of_running(words: Sequence[DriftWord], device: DeviceView) -> list[DriftWord]:
    """Return what a device says of the versions that it runs: those before them are history."""
    running = {one.release for one in device.models}
    return [one for one in words if not one.version or f"{one.model}@{one.version}" in running]


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One device. differences: in words, why it does not run what it should. pinned: why no rollout touches it, None = they do."""

    device: DeviceView
    line: DeviceLine
    differences: Sequence[str]
    telemetry: Latest | None
    timeline: TimelineView
    tasks: Sequence[TaskView]
    log: Log | None
    rollback_targets: Sequence[RollbackTarget]
    pinned: str | None
    releases: Sequence[str]
    profiles: Sequence[str]
    events: Sequence[EventLine]
    older: str
    drifting: Sequence[DriftWord] = ()

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
        self._clock = clock

    def device(self, device_id: str, span: str, before: int | None, *, may_act: bool) -> DevicePage:
        """Return one device; what only an operator may see or choose is left out for others. Raises DeviceUnknownError."""
        device = self._devices.device(device_id)
        now = self._clock.now()
        tasks = self._tasks.tasks(device_id)
        events, more = self._events(device_id, before)
        return DevicePage(
            device=device,
            line=device_line(device),
            differences=differences(explain(device, {}, now)),
            telemetry=self._telemetry.latest(device_id),
            timeline=self._timelines.view(Scope.DEVICE, device_id, span),
            tasks=tasks[:SHOWN_TASKS],
            log=self._log(device_id, tasks) if may_act else None,
            rollback_targets=rollback_targets(device),
            pinned=(device.labels[PIN_LABEL] or "manual") if PIN_LABEL in device.labels else None,
            releases=self._releases(device) if may_act else (),
            profiles=sorted(one.name for one in self._registry.profiles()) if may_act else (),
            events=events,
            older=more,
            drifting=_of_running(self._drift.of_device(device_id), device),
        )

    def predictions(self, device_id: str) -> PredictionsView:
        """Return what a watched device answered last. Raises DeviceUnknownError."""
        return self._watching.look(device_id, 0, "")

    def _events(self, device_id: str, before: int | None) -> tuple[list[EventLine], str]:
        found = self._feed.newest(limit=PAGE_EVENTS + 1, device_id=device_id, before=before)
        shown = found[:PAGE_EVENTS]
        return [event_line(one) for one in shown], encode_cursor(str(shown[-1].id)) if len(found) > PAGE_EVENTS else ""

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
