"""Retraining, wired on one database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.composition.alarm_container import Alarm, Watched
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.conversion.reports import comparison_of
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.retraining.launchers.launch_sender import LaunchSender
from edgefleet_server.retraining.launchers.pushed_launcher import PushedLauncher
from edgefleet_server.retraining.lifecycle.alert_causes import AlertCauses
from edgefleet_server.retraining.lifecycle.engine import RetrainingEngine, Surroundings
from edgefleet_server.retraining.lifecycle.rollout_maker import RolloutMaker
from edgefleet_server.retraining.model import Launcher, LauncherKind, RunCause, TriggerOn
from edgefleet_server.retraining.run_maker import RunMaker
from edgefleet_server.retraining.runner_leases import LeaseBook
from edgefleet_server.retraining.service import RetrainingService
from edgefleet_server.retraining.trigger_book import TriggerBook
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.settings import ServerSettings
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.webhook.rules import source_of

_LOOKED_AT: Final = 50


@dataclass(frozen=True, slots=True)
class Retraining:
    """Everything about retraining. All are thread-safe; calls block."""

    triggers: TriggerBook
    runs: RetrainingService
    leases: LeaseBook
    maker: RunMaker
    engine: RetrainingEngine
    launchers: Mapping[LauncherKind, Launcher]


class RunningReleases:
    """Knows which release of a model is trained further, and where it runs."""

    def __init__(self, fleet: Fleet, registry: RegistryService) -> None:
        """Wire the parts."""
        self._fleet = fleet
        self._registry = registry

    def parent_of(self, model: str) -> str:
        """Return the release that most devices run, else the newest one that is signed; "" where there is none."""
        running = self._fleet.devices.versions("", model)
        if running:
            return f"{model}@{max(sorted(running), key=lambda version: running[version])}"
        newest = self._registry.releases(PageRequest(_LOOKED_AT, None), model).items
        return next((str(one.ref) for one in newest if one.bundles and one.withdrawn is None), "")

    def running(self, release: str, limit: int) -> Sequence[str]:
        """Return devices that run a release, by id."""
        if not release:
            return ()
        found = self._fleet.reader.release_devices(ReleaseRef.parse(release))
        return [one.device for one in found if one.active][:limit]


@dataclass(frozen=True, slots=True)
class Sources:
    """What retraining works with. launchers: of the kinds that are called."""

    watched: Watched
    alarm: Alarm
    rollout: RolloutService
    sealer: Sealer
    launchers: Mapping[LauncherKind, Launcher]


def build_retraining(db: Database, sources: Sources, clock: Clock, shared: Clock) -> Retraining:
    """Wire retraining. Touches nothing. shared: the clock that all processes of the database go by."""
    fleet, registry, alarm = sources.watched.fleet, sources.watched.registry, sources.alarm
    running = RunningReleases(fleet, registry)
    maker = RunMaker(db, fleet.feed, running, shared)
    triggers = TriggerBook(db, registry, maker, sources.sealer, sources.launchers)
    leases = LeaseBook(db, maker, registry)
    captures = CaptureService(db, clock, fleet.reader, fleet.sampling, fleet.desired)
    causes = AlertCauses(alarm.alerts, lambda: alarm.verdicts.known()[0], sources.watched.objectives.asked)
    rollouts = RolloutMaker(
        maker, registry, partial(comparison_of, registry), sources.rollout, sources.watched.access.people.acting_for
    )
    around = Surroundings(causes, captures, running, rollouts, sources.launchers)
    engine = RetrainingEngine(db, maker, triggers, leases, around)

    def drift_of(model: str) -> RunCause | None:
        found = causes.find(TriggerOn.DRIFT, model, "", shared.now())
        return None if found is None else found[0]

    triggers.look_at(drift_of)
    return Retraining(triggers, RetrainingService(db, maker, captures), leases, maker, engine, sources.launchers)


def pushed_launchers(
    poster: HttpPoster, own: Clock, shared: Clock, settings: ServerSettings
) -> Mapping[LauncherKind, Launcher]:
    """Return what starts trainings elsewhere: one for all kinds but the runner. own: this machine's clock, which signatures go by."""
    sender = LaunchSender(poster, own, source_of(settings.tenant), settings.webhook_timeout_s)
    made = PushedLauncher(sender, shared, lambda: settings.dashboard_address)
    return {kind: made for kind in LauncherKind if kind is not LauncherKind.RUNNER}
